"""Which instructions of a stream are certain to have finished when another one begins.

This is the memory-ordering model of the machine, followed in stream order with vector clocks. The rules:

1. A unit's instructions take effect, and complete, in their order in the stream. For other units this says nothing
   before the completion: its next instruction may begin before the last one has finished.
2. A ``Wait`` makes all later instructions of its target units begin after what it waits for, and after everything that
   is then certain to have finished.
3. A ``PostProcess`` completes after its source. Lanes hand over whole tiles, so its writes come after all reads of its
   lanes, too. A window reader hands over pixel by pixel, so its reads and the writes of its post-process go on at the
   same time: nothing orders them, and no wait could.
4. A ``Fence`` orders everything before everything after, and a ``Wait`` without targets is one for all units.
5. What an ``Advance`` counts is complete when all earlier instructions of its unit are.

A *hazard* is a pair of accesses to a common address by different units, at least one of them a write, whose
order is not certain.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    PPU_SLICES,
    TOKEN_BITS,
    Advance,
    Fence,
    Instruction,
    LaneProgram,
    PostProcess,
    Source,
    Unit,
    Wait,
    Window,
    lanes_of_mask,
    units_of_mask,
)
from tessera.sim.footprint import Access, Memory, Region, Space, footprint

Clock = np.ndarray
"""int64 array with, for each unit, a number of completed instructions."""


class OrderError(ValueError):
    """A wait or a hand-over that cannot work; the message says which and why."""


@dataclass(frozen=True)
class Hazard:
    """An access that may overtake an earlier one.

    Attributes
    ----------
    access
        The later access.
    unit, count
        The earlier instruction: the ``count``-th of that unit (from 1).
    """

    access: Access
    unit: Unit
    count: int


class StreamOrder:
    """Follows a stream, instruction by instruction.

    Parameters
    ----------
    config
        Sizes of the NPU.
    hazards
        False: accesses are not recorded, and `hazards` finds none; only counts and waits are followed, which
        is faster.

    Attributes
    ----------
    counts
        For each unit, the number of instructions handed to it so far.
    """

    def __init__(self, config: NpuConfig, *, hazards: bool = True):
        self.config = config
        self.counts: Clock = _zero()
        self._history = AccessHistory(config) if hazards else None
        self._accesses: tuple[Instruction | None, list[Access]] = None, []  # those that were asked for last
        self._known = [_zero() for _ in Unit]
        self._completions: list[list[Clock]] = [[_zero()] for _ in Unit]
        self._tiles: list[deque[int]] = [deque() for _ in range(config.lanes)]
        self._windows: list[deque[int]] = [deque() for _ in range(PPU_SLICES)]

    @classmethod
    def behind(cls, config: NpuConfig, counts: Clock, accesses: Iterable[tuple[Access, int]]) -> StreamOrder:
        """The order behind instructions of which no more is known than how many there are of each unit, and which
        accesses have taken place, at the latest, when their unit has completed a number of instructions.

        No tile and no window of theirs is left.
        """
        order = cls(config)
        order.counts = counts.copy()
        for unit in Unit:
            for count in range(1, int(counts[unit]) + 1):
                clock = _zero()
                clock[unit] = count
                order._completions[unit].append(clock)
        assert order._history is not None, "it was made with one"
        for access, count in sorted(accesses, key=lambda entry: entry[1]):
            order._history.record(access, count)
        return order

    def hazards(self, instruction: Instruction) -> list[Hazard]:
        """The hazards between an instruction, were it the next, and the earlier ones."""
        found: list[Hazard] = []
        if self._history is None:
            return found
        self._accesses = instruction, footprint(instruction, self.config)
        for access in self._accesses[1]:
            known = self._known_to(access, instruction)
            for unit, count in self._history.conflicts(access):
                if count > known[unit]:
                    found.append(Hazard(access, unit, count))
        return found

    def append(self, instruction: Instruction) -> None:
        """Takes the next instruction of the stream.

        Raises
        ------
        OrderError
            A wait for something that no earlier instruction signals, or a post-process without a source.
        """
        if isinstance(instruction, Wait):
            self._wait(instruction)
        elif isinstance(instruction, Fence):
            self._known = [self.counts.copy() for _ in Unit]
        elif isinstance(instruction, Advance):
            self._advance(instruction)
        else:
            self._take(instruction)

    def completion(self, unit: Unit, count: int) -> Clock:
        """What has completed, at least, when a unit has completed its ``count``-th instruction."""
        return self._completions[unit][count]

    def undrained(self) -> list[int]:
        """For each lane, the tiles that no post-process has taken."""
        return [len(tiles) for tiles in self._tiles]

    def unread(self) -> list[int]:
        """For each slice, the windows that no post-process has taken."""
        return [len(windows) for windows in self._windows]

    def is_unread(self, unit: Unit, count: int) -> bool:
        """Whether a unit's ``count``-th instruction is, or comes behind, a window that nothing has taken yet."""
        return any(
            unit is Unit.window(index) and bool(windows) and count >= windows[0]
            for index, windows in enumerate(self._windows)
        )

    def resolve(self, wait: Wait) -> Iterator[tuple[Unit, int]]:
        """The instructions that a wait waits for; see `awaited`."""
        return awaited(wait, self.counts.tolist())

    def _wait(self, wait: Wait) -> None:
        for unit, count in list(self.resolve(wait)):
            for target in units_of_mask(wait.targets) or Unit:
                np.maximum(self._known[target], self._completions[unit][count], out=self._known[target])

    def _advance(self, advance: Advance) -> None:
        for unit, tokens in advance.tokens().items():
            self.counts[unit] += tokens
            clock = np.maximum(self._completions[unit][-1], self._known[unit])
            clock[unit] = self.counts[unit]
            self._completions[unit] += [clock] * tokens

    def _take(self, instruction: Instruction) -> None:
        source = self._source_clock(instruction, take=True) if isinstance(instruction, PostProcess) else None
        for unit in instruction.units():
            self.counts[unit] += 1
            clock = np.maximum(self._completions[unit][-1], self._known[unit])
            if source is not None:
                np.maximum(clock, source, out=clock)
            clock[unit] = self.counts[unit]
            self._completions[unit].append(clock)
        if isinstance(instruction, LaneProgram) and not instruction.partial:
            for lane in lanes_of_mask(instruction.lanes):
                self._tiles[lane].append(int(self.counts[Unit.lane(lane)]))
        elif isinstance(instruction, Window):
            self._windows[instruction.slice].append(int(self.counts[Unit.window(instruction.slice)]))
        if self._history is not None:
            known, accesses = self._accesses
            for access in accesses if known is instruction else footprint(instruction, self.config):
                self._history.record(access, int(self.counts[access.unit]))

    def _known_to(self, access: Access, instruction: Instruction) -> Clock:
        """What has completed, at least, when an access of an instruction begins (rules 2 to 4)."""
        known = self._known[access.unit]
        writes = access.write and access.space.memory is Memory.ACTIVATIONS
        if writes and isinstance(instruction, PostProcess) and instruction.source is Source.LANES:
            return np.maximum(known, self._source_clock(instruction, take=False))
        return known

    def _source_clock(self, instruction: PostProcess, *, take: bool) -> Clock:
        """What has completed when the source of a post-process has."""
        if instruction.source is Source.WINDOW:
            sources = [(Unit.window(instruction.slice), self._windows[instruction.slice])]
        else:
            sources = [(Unit.lane(lane), self._tiles[lane]) for lane in lanes_of_mask(instruction.lanes)]
        clock = _zero()
        for unit, tiles in sources:
            if not tiles:
                raise OrderError(f"it takes a tile that {unit.name.lower()} was not asked for")
            clock = np.maximum(clock, self._completions[unit][tiles.popleft() if take else tiles[0]])
        return clock


def awaited(wait: Wait, counts: Sequence[int]) -> Iterator[tuple[Unit, int]]:
    """The instructions that a wait waits for, as (unit, count).

    Parameters
    ----------
    wait
        The wait, which is the next instruction.
    counts
        For each unit, the number of instructions handed to it before.

    Raises
    ------
    OrderError
        One of them is in the future.
    """
    for unit in units_of_mask(wait.sources):
        behind = (counts[unit] - wait.counts[unit]) % (1 << TOKEN_BITS)
        count = counts[unit] - behind
        if behind >= 1 << TOKEN_BITS - 1 or count < 0:
            raise OrderError(
                f"it waits for {wait.counts[unit]} completed instructions of {unit.name.lower()}, "
                f"which has been given {counts[unit]}"
            )
        yield unit, count


class AccessHistory:
    """For every address the last instruction of each unit that read it, and that wrote it."""

    def __init__(self, config: NpuConfig):
        self._config = config
        self._marks: dict[tuple[Space, bool], dict[Unit, np.ndarray]] = defaultdict(dict)
        self._dram: dict[tuple[Unit, bool], _ExtentHistory] = defaultdict(_ExtentHistory)

    def conflicts(self, access: Access) -> Iterator[tuple[Unit, int]]:
        """Earlier accesses that must come before this one, as (unit, count); at most one per unit and kind."""
        for write in (True, False) if access.write else (True,):
            if access.space.memory is Memory.DRAM:
                yield from self._dram_conflicts(access, write)
                continue
            for unit, marks in self._marks[access.space, write].items():
                if unit is not access.unit:
                    count = max(int(marks[index].max()) for index in _indices(access.region))
                    if count:
                        yield unit, count

    def record(self, access: Access, count: int) -> None:
        """Enters the access of a unit's ``count``-th instruction."""
        if access.space.memory is Memory.DRAM:
            self._dram[access.unit, access.write].record(access.region, count)
            return
        marks = self._marks[access.space, access.write]
        if access.unit not in marks:
            marks[access.unit] = np.zeros(access.space.size(self._config), np.int32)
        for index in _indices(access.region):
            marks[access.unit][index] = count

    def _dram_conflicts(self, access: Access, write: bool) -> Iterator[tuple[Unit, int]]:
        for (unit, kind), history in self._dram.items():
            if kind == write and unit is not access.unit:
                count = history.latest(access.region)
                if count:
                    yield unit, count


class _ExtentHistory:
    """Regions of a memory that is too large to mark its addresses."""

    def __init__(self) -> None:
        self._size = 0
        self._extents = np.zeros((2, 64), np.int64)
        self._regions: list[tuple[Region, int]] = []

    def record(self, region: Region, count: int) -> None:
        """Enters a region that the ``count``-th instruction uses; counts never fall."""
        if self._size == self._extents.shape[1]:
            self._extents = np.concatenate([self._extents, np.zeros_like(self._extents)], axis=1)
        self._extents[:, self._size] = region.base, region.stop
        self._size += 1
        self._regions.append((region, count))

    def latest(self, region: Region) -> int:
        """Count of the latest instruction whose region has an address in common with a region; 0 if there is
        none."""
        first, last = self._extents[:, : self._size]
        for index in np.flatnonzero((first < region.stop) & (region.base < last))[::-1]:
            other, count = self._regions[index]
            if _have_common_addresses(region, other):
                return count
        return 0


def _have_common_addresses(one: Region, other: Region) -> bool:
    if one.rows * one.planes == 1 and other.rows * other.planes == 1:
        return one.base < other.stop and other.base < one.stop
    starts, stops = _sorted_ranges(one)
    other_starts, other_stops = _sorted_ranges(other)
    before = np.searchsorted(starts, other_stops)  # ranges that begin before each of the others ends
    ends = np.maximum.accumulate(np.concatenate([[0], stops]))
    return bool((ends[before] > other_starts).any())


@lru_cache(maxsize=4096)
def _sorted_ranges(region: Region) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops of the contiguous ranges of a region, by rising start."""
    starts, stops = np.array(list(region.ranges()), np.int64).T
    order = np.argsort(starts)
    return starts[order], stops[order]


@lru_cache(maxsize=4096)
def _indices(region: Region) -> list[slice] | list[np.ndarray]:
    """The region as few numpy indices."""
    ranges = list(region.ranges())
    if len(ranges) <= 4:
        return [slice(start, stop) for start, stop in ranges]
    return [np.concatenate([np.arange(start, stop) for start, stop in ranges])]


def _zero() -> Clock:
    return np.zeros(len(Unit), np.int64)
