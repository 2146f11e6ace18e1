"""Where activations, weights and parameters lie on chip."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tessera.compiler.lowering.storage import Storage
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import MAX_LANES
from tessera.sim.golden.network import IntegerNetwork, TensorType
from tessera.sim.program import OnChipTensor


class Ring:
    """Allocates contiguous pieces of a memory, or of a range of it, round and round: the oldest is overwritten first.

    Parameters
    ----------
    size
        Addresses of the range.
    first
        Its first address.
    most
        Addresses that the range could have had at most, if it is a share that is as small as its user needs.

    Attributes
    ----------
    size, most
        As above.
    """

    def __init__(self, size: int, first: int = 0, most: int | None = None):
        self.size = size
        self.most = size if most is None else most
        self._first = first
        self._next = 0

    def shares(self, needed: Sequence[int]) -> list[Ring]:
        """The next addresses as a ring for each of some users, as large as what it needs, but at most an equal part,
        and at least one address where there is any. They have nothing in common if there is an address for each."""
        most = max(self.size // len(needed), min(1, self.size))
        sizes = [min(each, most) for each in needed]
        if sum(sizes) > self.size:
            return [Ring(size, self.allocate(size), most) for size in sizes]
        first = self.allocate(sum(sizes))
        return [Ring(size, first + sum(sizes[:index]), most) for index, size in enumerate(sizes)]

    def allocate(self, length: int) -> int:
        """Address of a piece of ``length``, which must not exceed the size."""
        if self._next + length > self.size:
            self._next = 0
        base = self._first + self._next
        self._next += length
        return base


class LaneRings:
    """A ring in the memory of each lane, whose pieces may be at the same addresses in several lanes.

    Parameters
    ----------
    size
        Addresses of each memory.
    lanes
        Number of lanes.
    """

    def __init__(self, size: int, lanes: int):
        self.size = size
        self._next = [0] * lanes

    def allocate(self, length: int, lanes: Sequence[int]) -> int:
        """Address of a piece of ``length``, which must not exceed the size, in each of some lanes."""
        base = max(self._next[lane] for lane in lanes)
        if base + length > self.size:
            base = 0
        for lane in lanes:
            self._next[lane] = base + length
        return base


Name = Hashable
"""Name of a tensor (a string), or of a buffer: (operation, role)."""

ALL_LANES = (1 << MAX_LANES) - 1
"""Mask of all lanes that a machine can have."""


@dataclass(frozen=True)
class BankRange:
    """A range of the activation banks: its first word, and the mask of the lanes whose banks hold it."""

    base: int
    lanes: int


@dataclass(frozen=True)
class Lifetime:
    """A need of memory: ``words`` in the banks of some lanes (a mask) from step ``first`` to step ``last``, both
    included."""

    name: Name
    words: int
    first: int
    last: int
    lanes: int = ALL_LANES

    def meets(self, other: Lifetime) -> bool:
        """Whether both need memory of a bank at the same time."""
        return self.first <= other.last and other.first <= self.last and bool(self.lanes & other.lanes)


Placed = dict[Name, tuple[Lifetime, int]]
"""What has been placed, and the first word of each."""


def place(
    lifetimes: Sequence[Lifetime], size: int, fixed: Mapping[Any, int] = MappingProxyType({})
) -> dict[Name, int] | None:
    """Gives every lifetime words in a bank of ``size`` words; those alive at the same time never overlap.

    Parameters
    ----------
    lifetimes
        The lifetimes.
    size
        Words of a bank.
    fixed
        First words that are given already, by name.

    Returns
    -------
    The first word by name, or ``None`` if no placement was found.
    """
    lifetimes = sorted(lifetimes, key=lambda life: life.first)
    placed = _place_together(lifetimes, size, fixed)
    if placed is not None:
        return placed
    found: dict[Name, int] = {}
    for stretch in _stretches(lifetimes):
        placed = _place_together(stretch, size, fixed)
        if placed is None:
            return None
        found |= placed
    return found


def _place_together(lifetimes: list[Lifetime], size: int, fixed: Mapping[Any, int]) -> dict[Name, int] | None:
    """The first word of each by the first strategy that finds room for all."""
    given: Placed = {life.name: (life, fixed[life.name]) for life in lifetimes if life.name in fixed}
    free = [life for life in lifetimes if life.name not in fixed]
    for strategy in (_place_round_robin, _place_first_fit, _place_largest_first):
        placed = strategy(free, size, given)
        if placed is not None:
            return {name: base for name, (_, base) in placed.items()}
    return None


def _stretches(lifetimes: list[Lifetime]) -> Iterator[list[Lifetime]]:
    """The lifetimes, by rising first step, divided where nothing lives on: no two stretches share a step."""
    stretch: list[Lifetime] = []
    last = -1
    for life in lifetimes:
        if stretch and life.first > last:
            yield stretch
            stretch = []
        stretch.append(life)
        last = max(last, life.last)
    if stretch:
        yield stretch


def tensor_lifetimes(network: IntegerNetwork, config: NpuConfig) -> list[Lifetime]:
    """Lifetimes of all roots of storage in the order of first use. An input lives from the first operation that reads
    it."""
    storage = Storage(network, config)
    root = storage.root
    uses: dict[str, list[int]] = {root(name): [] for name in network.inputs}
    for index, operation in enumerate(network.operations):
        operands = (operation.input, operation.post.residual, operation.output)
        for name in operands:
            if name is not None:
                uses.setdefault(root(name), []).append(index)
    lifetimes = []
    for name, indices in uses.items():
        lifetimes.append(Lifetime(name, storage.words(name), min(indices, default=0), max(indices, default=0)))
    return sorted(lifetimes, key=lambda life: life.first)


def _place_round_robin(lifetimes: list[Lifetime], size: int, given: Placed) -> Placed | None:
    """In the order of time, behind the last one, so that memory is reused late and few waits are needed."""
    placed = dict(given)
    position = 0
    for life in lifetimes:
        starts = sorted(_candidates(life, placed), key=lambda start: (start < position, start))
        if life.words + position <= size:
            starts.insert(0, position)
        base = _first_free(life, starts, placed, size)
        if base is None:
            return None
        placed[life.name] = life, base
        position = base + life.words
    return placed


def _place_first_fit(lifetimes: list[Lifetime], size: int, given: Placed) -> Placed | None:
    """In the order of time, at the lowest address."""
    placed = dict(given)
    for life in lifetimes:
        base = _first_free(life, sorted(_candidates(life, placed)), placed, size)
        if base is None:
            return None
        placed[life.name] = life, base
    return placed


def _place_largest_first(lifetimes: list[Lifetime], size: int, given: Placed) -> Placed | None:
    """The largest first, at the lowest address."""
    return _place_first_fit(sorted(lifetimes, key=lambda life: -life.words), size, given)


def _candidates(life: Lifetime, placed: Placed) -> Iterator[int]:
    """The start of the memory, and the ends of the tensors alive at the same time."""
    yield 0
    for other, base in placed.values():
        if life.meets(other):
            yield base + other.words


def _first_free(life: Lifetime, starts: list[int], placed: Placed, size: int) -> int | None:
    for start in starts:
        stop = start + life.words
        if stop <= size and not any(
            life.meets(other) and base < stop and start < base + other.words for other, base in placed.values()
        ):
            return start
    return None


def on_chip(tensor: TensorType, base: int, lanes: int, config: NpuConfig) -> OnChipTensor:
    """A whole tensor from a word on, in the lanes of a mask: its rows, and its channel blocks, one behind the other."""
    blocks, pixels = config.channel_blocks(tensor.channels), tensor.width * tensor.height
    return OnChipTensor(tensor, base, tensor.width, pixels if blocks > 1 else 0, blocks * pixels, lanes)
