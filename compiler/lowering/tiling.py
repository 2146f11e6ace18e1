"""Decides which tensors stay on chip, and cuts the operations whose other operands pass through buffers.

A tensor is either *resident* (all of it lies in the activation banks, from its first use to its last) or *streamed* (it
lies in DRAM). An operation with streamed operands works in *bands*, boxes of its output: it loads the band's part of
each streamed operand, halo included, into a buffer, computes, and stores. Buffers are double, so that loads and stores
hide behind computing, wherever that fits. Bands are whole rows of all channels where that fits, else they
are cut in columns and channels too; an operation that mixes channels can take its input part by part of the reduction,
while the accumulators are kept.

The strategy: if all tensors fit, all are resident. Else none is at first, and those that save most DRAM
traffic per word and operation become resident one after another, as long as every operation still fits
and the estimated traffic falls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.placement import Lifetime, tensor_lifetimes
from tessera.compiler.lowering.regions import (
    Box,
    Part,
    Span,
    boxes,
    input_blocks,
    mixes_channels,
    parts,
    piece_lengths,
    pieces,
    reach,
    whole_box,
    whole_reduction,
)
from tessera.compiler.lowering.storage import Storage
from tessera.compiler.lowering.weights import block_bytes, loaded_block_bytes
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import LaneProgram, fields_of
from tessera.sim.golden.network import Convolution, IntegerNetwork, Operation, Window

_FIELDS = {field.name: field.maximum for field in fields_of(LaneProgram)}

LONGEST_SIDE = min(_FIELDS["input_height"], _FIELDS["input_width"], _FIELDS["row_pitch"])
"""Rows, and columns, of a tensor on chip that an instruction can address."""

HELD_FRACTION = 2
"""The weights of an operation stay on chip from band to band if they take at most this fraction of the bank."""

PART_FRACTION = 4
"""A reduction whose weights take more than half the bank is made in parts of at most this fraction of it, so that the
next part's weights are loaded meanwhile."""

INPUT, RESIDUAL, OUTPUT = ROLES = ("input", "residual", "output")
"""The operands of an operation."""


@dataclass(frozen=True)
class OperationTiling:
    """How an operation is cut.

    Attributes
    ----------
    bands
        Boxes of the output, in the order in which they are made.
    parts
        Parts of the reduction, whose sums are added in the accumulators.
    by_part
        Whether a streamed input is loaded part by part of the reduction, and not as a whole.
    buffers
        Words of one copy of the buffer of each streamed operand, by role.
    copies
        Copies of each buffer: 2 if the loads (or stores) of one band overlap with computing another, else 1.
    traffic
        Estimated DRAM bytes, without what all tilings share.
    """

    bands: tuple[Box, ...]
    parts: tuple[Part, ...]
    by_part: bool
    buffers: Mapping[str, int]
    copies: int
    traffic: int

    @property
    def words(self) -> int:
        """Words that the buffers need in each bank."""
        return self.copies * sum(self.buffers.values())


@dataclass(frozen=True)
class Tiling:
    """How a network is cut.

    Attributes
    ----------
    resident
        Names of the roots of storage that stay on chip.
    operations
        How each operation is cut, by its name.
    """

    resident: frozenset[str]
    operations: Mapping[str, OperationTiling]


def operands(operation: Operation) -> dict[str, str]:
    """Names of an operation's tensors by role."""
    names = {INPUT: operation.input, OUTPUT: operation.output}
    if operation.post.residual is not None:
        names[RESIDUAL] = operation.post.residual
    return names


def tilings(network: IntegerNetwork, config: NpuConfig) -> Iterator[Tiling]:
    """Tilings whose demand fits the banks at every moment, best first; the last one has no resident tensors, so that
    its buffers can always be placed.

    Raises
    ------
    CompilerError
        An operation does not fit however it is cut.
    """
    search = _Search(network, config)
    everything = search.with_resident(frozenset(search.candidates))
    if everything is not None and not search.oversize:
        yield everything
    accepted = [search.least()]
    for name in search.candidates:
        better = search.with_resident(accepted[-1].resident | {name})
        if better is not None and search.traffic(better) < search.traffic(accepted[-1]):
            accepted.append(better)
    yield from reversed(accepted)


def streamed_tiling(network: IntegerNetwork, config: NpuConfig) -> Tiling:
    """The tiling without resident tensors; raises `CompilerError` if an operation does not fit however it is cut."""
    return _Search(network, config).least()


class _Search:
    """The choice of resident tensors.

    Attributes
    ----------
    candidates
        Tensors that can be resident, those first that save most traffic per word and operation of their life.
    oversize
        Tensors that cannot, because a side is longer than an instruction can address.
    """

    def __init__(self, network: IntegerNetwork, config: NpuConfig):
        self.network, self.config = network, config
        self._root = Storage(network, config).root
        self._tilers = {operation.name: _OperationTiler(network, operation, config) for operation in network.operations}
        lifetimes = tensor_lifetimes(network, config)
        self._lives = {life.name: life for life in lifetimes if isinstance(life.name, str)}
        uses = [self._root(name) for operation in network.operations for name in operands(operation).values()]
        sides = {name: max(network.tensors[name].shape[1:]) for name in self._lives}
        self.oversize = {name for name, side in sides.items() if side > LONGEST_SIDE}

        def preference(name: str) -> tuple[float, int]:
            life = self._lives[name]
            return -uses.count(name) / (life.last - life.first + 1), -life.words

        self.candidates = sorted(self._lives.keys() - self.oversize, key=preference)

    def with_resident(self, resident: frozenset[str]) -> Tiling | None:
        """The tiling with these resident tensors, or ``None`` if an operation does not fit."""
        free = self._free(resident)
        chosen = {}
        for operation, words in zip(self.network.operations, free, strict=True):
            names = operands(operation).items()
            streamed = frozenset(role for role, name in names if self._root(name) not in resident)
            tiling = self._tilers[operation.name].choose(streamed, words)
            if tiling is None:
                return None
            chosen[operation.name] = tiling
        return Tiling(resident, chosen)

    def least(self) -> Tiling:
        """The tiling without resident tensors; raises `CompilerError` if an operation does not fit."""
        tiling = self.with_resident(frozenset())
        if tiling is None:
            for operation in self.network.operations:
                self._tilers[operation.name].refuse()
            raise AssertionError("an operation that does not fit is refused")
        return tiling

    def traffic(self, tiling: Tiling) -> int:
        """Estimated DRAM bytes of a tiling, without what all tilings share."""
        ends = (*self.network.inputs, *self.network.outputs)
        once = sum(self._bytes(name) for name in map(self._root, ends) if name in tiling.resident)
        return once + sum(each.traffic for each in tiling.operations.values())

    def _bytes(self, name: str) -> int:
        return self._lives[name].words * self.config.pixel_bytes(self.network.tensors[name].depth)

    def _free(self, resident: frozenset[str]) -> list[int]:
        """Words that the resident tensors leave to each operation; negative where they do not fit."""
        free = [self.config.activation_words] * len(self.network.operations)
        for name in resident:
            life = self._lives[name]
            for index in range(life.first, min(life.last + 1, len(free))):
                free[index] -= life.words
        return free


class _OperationTiler:
    """Tilings of one operation."""

    def __init__(self, network: IntegerNetwork, operation: Operation, config: NpuConfig):
        self.network, self.operation, self.config = network, operation, config
        self.source = network.tensors[operation.input]
        self.target = network.tensors[operation.output]
        self.box = whole_box(self.target, config)
        self.reduction = whole_reduction(operation, config)
        self.parts = weight_parts(operation, config)
        self.choose = lru_cache(maxsize=None)(self._choose)
        self._input_blocks = lru_cache(maxsize=None)(self._most_input_blocks)

    def refuse(self) -> None:
        """Raises `CompilerError` if the operation does not fit even in the smallest pieces."""
        if self.choose(frozenset(operands(self.operation)), self.config.activation_words) is not None:
            return
        part = self._finest()
        words = self._words(1, 1, 1, part, frozenset(operands(self.operation)))
        size = self.config.word_bits // 8
        listed = ", ".join(f"{operands(self.operation)[role]} {count * size}" for role, count in words.items())
        raise CompilerError(
            f"operation {self.operation.name!r}: one output pixel of {self.config.word_digits} channels needs "
            f"{sum(words.values()) * size} bytes in each lane ({listed}), but activation_bank_bytes = "
            f"{self.config.activation_bank_bytes}; use a larger activation_bank_bytes or a smaller kernel"
        )

    def _choose(self, streamed: frozenset[str], words: int) -> OperationTiling | None:
        """The tiling with the least traffic whose buffers need at most ``words``; prefers double buffers, then whole
        rows, then the whole reduction at once."""
        if words < 0:
            return None
        if not streamed:
            return OperationTiling((self.box,), self.parts, False, {}, 1, 0)
        for copies in (2, 1):
            for candidates in self._candidates(streamed, copies):
                fitting = [each for each in candidates if each.words <= words]
                if fitting:
                    return self._finish(_least_traffic(fitting))
        return None

    def _candidates(self, streamed: frozenset[str], copies: int) -> Iterator[list[_Candidate]]:
        rows, columns = piece_lengths(self.box.rows.size), piece_lengths(self.box.columns.size)
        blocks = piece_lengths(self.box.blocks.size)
        parts = self.parts
        for widths in (columns[:1], columns):
            yield list(self._evaluate(blocks, rows, widths, parts, streamed, copies, by_part=False))
        if INPUT in streamed and mixes_channels(self.operation):
            for finer in self._finer_parts():
                for widths in (columns[:1], columns):
                    yield list(self._evaluate([blocks[-1]], rows, widths, finer, streamed, copies, by_part=True))

    def _evaluate(
        self,
        blocks: list[int],
        rows: list[int],
        columns: list[int],
        parts: tuple[Part, ...],
        streamed: frozenset[str],
        copies: int,
        *,
        by_part: bool,
    ) -> Iterator[_Candidate]:
        largest = max(parts, key=lambda part: part.count)
        loaded = largest if by_part else self.reduction
        for width in columns:
            for height in rows:
                if not self._is_addressable(height, width, loaded):
                    continue
                for channels in blocks:
                    words = self._words(channels, height, width, loaded, streamed)
                    bands = self._count(channels, height, width)
                    once = bands == 1 and not by_part
                    traffic = self._traffic(channels, height, width, words, bands, parts if by_part else parts[:1])
                    yield _Candidate(channels, height, width, parts, by_part, words, 1 if once else copies, traffic)

    def _is_addressable(self, height: int, width: int, part: Part) -> bool:
        source = self._input(1, height, width, part)
        return max(source.rows.size, source.columns.size, height, width) <= LONGEST_SIDE

    def _input(self, blocks: int, height: int, width: int, part: Part) -> Box:
        """The largest box of the input that an output box of this size can need."""
        (stride_y, stride_x), ((dilation_y, dilation_x), taps) = (
            self.operation.stride,
            reach(self.operation, self.config),
        )
        rows = (height - 1) * stride_y + (part.rows.size - 1) * dilation_y + 1
        columns = (width - 1) * stride_x + (part.columns.size - 1) * dilation_x + taps
        if isinstance(self.operation, Window):
            # As many positions as a span can begin and end in.
            repeat_y, repeat_x = self.operation.repeat
            rows, columns = (rows - 2) // repeat_y + 2, (columns - 2) // repeat_x + 2
        return Box(
            Span(0, self._input_blocks(blocks, part)),
            Span(0, min(rows, self.source.height)),
            Span(0, min(columns, self.source.width)),
        )

    def _most_input_blocks(self, blocks: int, part: Part) -> int:
        """Channel blocks of the input that any ``blocks`` channel blocks of the output can need."""
        if part == self.reduction or not mixes_channels(self.operation):
            spans = pieces(self.box.blocks, blocks)
            return max(input_blocks(self.operation, span, part, self.config).size for span in spans)
        return min(part.steps.size + 1, self.config.channel_blocks(self.source.channels))

    def _words(self, blocks: int, height: int, width: int, part: Part, streamed: frozenset[str]) -> dict[str, int]:
        """Words of one copy of each buffer for bands of a size."""
        output = blocks * height * width
        words = {INPUT: self._input(blocks, height, width, part).words, RESIDUAL: output, OUTPUT: output}
        return {role: words[role] for role in ROLES if role in streamed}

    def _count(self, blocks: int, height: int, width: int) -> int:
        """Bands of a size."""
        return (
            -(-self.box.blocks.size // blocks) * -(-self.box.rows.size // height) * -(-self.box.columns.size // width)
        )

    def _traffic(
        self, blocks: int, height: int, width: int, words: Mapping[str, int], bands: int, parts: tuple[Part, ...]
    ) -> int:
        """Estimated DRAM bytes: operands, and the weights as often as they are loaded."""
        total = 0
        tensors = operands(self.operation)
        for role, count in words.items():
            size = self.config.pixel_bytes(self.network.tensors[tensors[role]].depth)
            total += bands * count * size * (len(parts) if role == INPUT else 1)
        if isinstance(self.operation, Convolution):
            channels = -(-self.box.blocks.size // blocks)
            held = weight_bytes(self.operation, self.config) // channels
            is_held = held * HELD_FRACTION <= self.config.weight_bank_bytes
            total += loaded_weight_bytes(self.operation, self.config) * (1 if is_held else bands // channels)
        return total

    def _finer_parts(self) -> Iterator[tuple[Part, ...]]:
        """Divisions of the reduction for an input that does not fit, coarse ones first."""
        whole = max(self.parts, key=lambda part: part.count)
        for steps in piece_lengths(whole.steps.size):
            yield parts(self.reduction, steps, whole.rows.size, whole.columns.size)
        for rows in piece_lengths(whole.rows.size):
            yield parts(self.reduction, 1, rows, whole.columns.size)
        for columns in piece_lengths(whole.columns.size):
            yield parts(self.reduction, 1, 1, columns)

    def _finest(self) -> Part:
        if not mixes_channels(self.operation):
            return self.reduction
        return Part(Span(0, 1), Span(0, 1), Span(0, 1))

    def _finish(self, chosen: _Candidate) -> OperationTiling:
        bands = tuple(boxes(self.box, chosen.blocks, chosen.rows, chosen.columns))
        return OperationTiling(bands, chosen.parts, chosen.by_part, chosen.buffers, chosen.copies, chosen.traffic)


@dataclass(frozen=True)
class _Candidate:
    """A size of bands: at most ``blocks`` channel blocks by ``rows`` by ``columns``; the rest as in
    `OperationTiling`."""

    blocks: int
    rows: int
    columns: int
    parts: tuple[Part, ...]
    by_part: bool
    buffers: Mapping[str, int]
    copies: int
    traffic: int

    @property
    def words(self) -> int:
        return self.copies * sum(self.buffers.values())


def _least_traffic(candidates: Iterable[_Candidate]) -> _Candidate:
    return min(candidates, key=lambda each: (each.traffic, -each.blocks, -each.columns, -each.rows))


def weight_bytes(convolution: Convolution, config: NpuConfig) -> int:
    """Bytes of all weights of a convolution as the weight banks hold them."""
    return -(-convolution.output_channels // config.cols) * block_bytes(convolution, config)


def loaded_weight_bytes(convolution: Convolution, config: NpuConfig) -> int:
    """Bytes of all weights of a convolution as they lie in DRAM."""
    return -(-convolution.output_channels // config.cols) * loaded_block_bytes(convolution, config)


def weight_parts(operation: Operation, config: NpuConfig) -> tuple[Part, ...]:
    """The parts that an operation's reduction must be made in, because of its weights or the instruction's fields.

    One if the weights of a block of ``cols`` output channels fit half the weight bank. A part is channel
    steps under the whole kernel, or one channel step under some kernel rows, or under some positions of a row.
    """
    whole = whole_reduction(operation, config)
    if not isinstance(operation, Convolution):
        return (whole,)
    if whole.count * config.weight_block_bytes * HELD_FRACTION <= config.weight_bank_bytes and _is_encodable(whole):
        return (whole,)
    room = max(1, config.weight_bank_bytes // PART_FRACTION // config.weight_block_bytes)
    columns = min(whole.columns.size, _FIELDS["kernel_width"], room)
    rows = min(whole.rows.size, _FIELDS["kernel_height"], room // columns)
    steps = min(whole.steps.size, _FIELDS["channel_steps"], room // (columns * rows))
    if columns < whole.columns.size:
        rows = steps = 1
    elif rows < whole.rows.size:
        steps = 1
    return parts(whole, steps, rows, columns)


def _is_encodable(part: Part) -> bool:
    """Whether one lane program can make the part."""
    return (
        part.rows.size <= _FIELDS["kernel_height"]
        and part.columns.size <= _FIELDS["kernel_width"]
        and part.steps.size <= _FIELDS["channel_steps"]
    )


def buffer_lifetimes(tiling: Tiling, network: IntegerNetwork) -> Iterator[Lifetime]:
    """The memory that the buffers need; their names are (operation, role)."""
    for index, operation in enumerate(network.operations):
        chosen = tiling.operations[operation.name]
        for role, words in chosen.buffers.items():
            yield Lifetime((operation.name, role), chosen.copies * words, index, index)
