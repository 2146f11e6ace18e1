"""Instructions of an operation: loads of weights and parameters, sources of sums, and their post-processing.

A *band* of an operation (all of it, if nothing passes through buffers) runs in *rounds*: the parameters (and weights)
of some blocks of output channels are loaded, then every tile of those blocks is computed. Weight banks
and parameter memory are rings, so that the next round (or the next operation's first) is loaded while this
one computes. Where the weights of a single block are too many, the sums of a tile are made in parts, each with
weights of its own, and every tile loads them again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.builder import StreamBuilder, gangs_within
from tessera.compiler.lowering.operands import BandOperands
from tessera.compiler.lowering.partition import Partition, Tile, Work, Workers, choose_partition
from tessera.compiler.lowering.reduction import map_reduction
from tessera.compiler.lowering.regions import Box
from tessera.compiler.lowering.tiling import HELD_FRACTION, INPUT, OUTPUT
from tessera.compiler.lowering.weights import pack_parameters, pack_table, pack_weights
from tessera.rtl.isa import (
    DEPTHWISE_TAPS,
    FIELD_LIMITS,
    PPU_SLICES,
    Depth,
    Instruction,
    IsaError,
    LaneProgram,
    Load,
    LoadTarget,
    PostProcess,
    Reduction,
    Source,
    WeightDepth,
    Window,
)
from tessera.sim.footprint import used_block_beats
from tessera.sim.golden import network as golden
from tessera.sim.program import OnChipTensor

ROUND_FRACTION = 4
"""A round takes at most this fraction of the weight banks and of the parameter memory where it can, so that others are
loaded meanwhile.
"""


def emit_operation(builder: StreamBuilder, operation: golden.Operation) -> None:
    """Appends the instructions of one operation to the stream; raises `CompilerError` if they cannot be encoded."""
    try:
        if isinstance(operation, golden.Convolution):
            _ConvolutionEmitter(builder, operation).emit()
        else:
            emitter = _WindowEmitter if operation.repeat == (1, 1) else _RepeatEmitter
            emitter(builder, operation).emit()
    except IsaError as error:
        raise CompilerError(
            f"operation {operation.name!r} cannot be encoded: {error}; split the operation in the network"
        ) from None


class _OperationEmitter(ABC):
    """What convolutions and windows have in common; the subclasses make the source of the sums.

    ``input``, ``output`` and ``residual`` are the operands on chip of the band that is being emitted: whole tensors, or
    the parts that are in buffers.
    """

    source: Source
    """Where the post-processing finds the sums."""

    def __init__(self, builder: StreamBuilder, operation: golden.Operation):
        self.builder = builder
        self.config = builder.config
        self.operation = operation
        self.tiling = builder.tilings[operation.name]
        self.operands = BandOperands(builder, operation)
        self.parameters = builder.add_data(pack_parameters(operation.post, self.config))
        self.blocks = self.loaded = self.parameter_blocks = range(0)
        self.table_index = 0
        self.partition: Partition

    @abstractmethod
    def step_cycles(self) -> tuple[int, int, int]:
        """Passes over a tile per block of output channels, and the cycles that one takes for the first pixel of a row
        and for each of the others."""

    @abstractmethod
    def workers(self) -> Workers:
        """What may work on it."""

    @abstractmethod
    def load_weights(self, blocks: range, part: int) -> None:
        """Loads the weights of some blocks for a part of the reduction."""

    @abstractmethod
    def round_limit(self, fraction: int) -> int:
        """Blocks whose weights take at most a fraction of the weight banks; at least one per channel group."""

    @abstractmethod
    def turn_bytes(self) -> int:
        """Bytes in DRAM of the weights of a block per channel group."""

    @abstractmethod
    def sums(self, worker: int, block: int, tile: Tile, part: int) -> Instruction:
        """The instruction that makes the sums of a tile for a part of the reduction."""

    @abstractmethod
    def gang(self, worker: int) -> int:
        """Mask of the lanes that a worker uses."""

    @abstractmethod
    def slice(self, worker: int) -> int:
        """The post-processing slice that a worker gives its tiles to."""

    def emit(self) -> None:
        """Emits the load of its table, and all bands."""
        if self.operation.post.table is not None:
            self._load_table(self.operation.post.table)
        for band in self.tiling.bands:
            self._emit_band(band)

    def _emit_band(self, band: Box) -> None:
        """Emits a band's rounds. Its operands are loaded behind the weights of its first round, which so may come while
        the operation before computes what is loaded."""
        per_word = self.config.word_digits // self.config.cols
        channels = self.operands.types[OUTPUT].channels
        blocks = range(band.blocks.start * per_word, min(band.blocks.stop * per_word, -(-channels // self.config.cols)))
        self.output = self.operands.next_output(band)
        self._divide(band, blocks)
        rounds = self._rounds(blocks)
        for turn in rounds:
            if turn != self.loaded:
                self._load_round(turn)
            if turn is rounds[0]:
                self.input, self.residual = self.operands.load(band)
            self._emit_round(turn, band)
        self.operands.store(band, self.output)

    def _divide(self, band: Box, blocks: range) -> None:
        """Divides the band's work; where its weights may be there already, as they were divided for the band before."""
        groups = None
        if blocks == self.blocks:
            groups = self.partition.pixel_groups, self.partition.channel_groups
        work = Work(band.rows.size, band.columns.size, len(blocks), *self.step_cycles(), self.builder.tile_cycles)
        self.partition = choose_partition(work, self.workers(), groups)
        self.blocks = blocks

    def _rounds(self, blocks: range) -> list[range]:
        """The blocks whose parameters (and weights) are loaded at a time: all, if they can stay for several bands."""
        groups = self.partition.channel_groups
        if len(self.tiling.bands) > 1 and len(self.tiling.parts) == 1:
            held = min(self.round_limit(HELD_FRACTION), self.builder.rings.parameters.most // HELD_FRACTION)
            if len(blocks) <= held:
                return [blocks]
        room = self.builder.rings.parameters.most
        limit = min(self.round_limit(ROUND_FRACTION), self.parameter_limit, self._overlapped_round(blocks))
        size = min(max(groups, limit // groups * groups), room)
        return [blocks[first : first + size] for first in range(0, len(blocks), size)]

    def _overlapped_round(self, blocks: range) -> int:
        """Blocks of a round if weights of ``round_bytes`` and more come while others are computed, in at least two."""
        groups, most, turn_bytes = self.partition.channel_groups, self.builder.round_bytes, self.turn_bytes()
        turns = -(-len(blocks) // groups)
        if not most or len(self.tiling.parts) > 1 or turns * turn_bytes < most:
            return turns * groups
        return min(most // turn_bytes, -(-turns // 2)) * groups

    @property
    def parameter_limit(self) -> int:
        """Blocks whose parameters are loaded at a time, if a round does not need more."""
        return max(1, self.builder.rings.parameters.most // ROUND_FRACTION)

    def _load_round(self, blocks: range) -> None:
        """Loads what a round needs; where rounds are small, the parameters of those after it, too, as one load."""
        self.loaded = blocks
        if not (blocks.start in self.parameter_blocks and blocks[-1] in self.parameter_blocks):
            at_once = max(len(blocks), self.parameter_limit if self.builder.round_bytes else 0)
            self._load_parameters(range(blocks.start, min(self.blocks.stop, blocks.start + at_once)))
        if len(self.tiling.parts) == 1:
            self.load_weights(blocks, 0)

    def _emit_round(self, blocks: range, band: Box) -> None:
        """Emits the tiles of a round, turn by turn, in an order in which all workers advance together."""
        groups, pixel_groups = self.partition.channel_groups, self.partition.pixel_groups
        tiles = [tile.moved(band.rows.start, band.columns.start) for tile in self.partition.tiles]
        for turn in range(0, len(blocks), groups):
            for first in range(0, len(tiles), pixel_groups):
                self._emit_tiles(blocks[turn : turn + groups], tiles[first : first + pixel_groups], band)

    def _emit_tiles(self, blocks: range, tiles: Sequence[Tile], band: Box) -> None:
        """Emits one tile of each worker."""
        jobs = [
            (group * self.partition.pixel_groups + index, block, tile)
            for index, tile in enumerate(tiles)
            for group, block in enumerate(blocks)
        ]
        if len(self.tiling.parts) == 1:
            for job in jobs:
                self._emit(self.sums(*job, 0), job)
                self._emit(self._post(*job), job)
            return
        for part in range(len(self.tiling.parts)):
            self.load_weights(blocks, part)
            if self.tiling.by_part:
                self.input = self.operands.load_part(band, part)
            for job in jobs:
                self._emit(self.sums(*job, part), job)
        for job in jobs:
            self._emit(self._post(*job), job)

    def _emit(self, instruction: Instruction, job: tuple[int, int, Tile]) -> None:
        _, block, tile = job
        self.builder.emit(instruction, f"{self.operation.name} block {block} {tile}", self.operation.name)

    def _load_table(self, table: np.ndarray) -> None:
        beats = self.config.table_block_beats
        self.table_index = self.builder.rings.tables.allocate(1)
        load = Load(
            target=LoadTarget.TABLES,
            address=self.builder.add_data(pack_table(table)),
            columns=beats,
            base=self.table_index * beats,
        )
        self.builder.emit(load, f"{self.operation.name} table", self.operation.name)

    def _load_parameters(self, blocks: range) -> None:
        beats = self.config.parameter_block_beats
        self.parameter_blocks = blocks
        self.parameter_base = self.builder.rings.parameters.allocate(len(blocks))
        load = Load(
            target=LoadTarget.PARAMETERS,
            address=self.parameters + blocks.start * beats * self.config.beat_bytes,
            columns=len(blocks) * beats,
            base=self.parameter_base * beats,
        )
        self.builder.emit(load, f"{self.operation.name} parameters", self.operation.name)

    def _post(self, worker: int, block: int, tile: Tile) -> PostProcess:
        post = self.operation.post
        residual = {} if self.residual is None else self._residual_fields(self.residual, worker, block, tile)
        return PostProcess(
            slice=self.slice(worker),
            source=self.source,
            lanes=self.gang(worker) if self.source is Source.LANES else 0,
            tile_height=tile.height,
            tile_width=tile.width,
            parameter_block=self.parameter_base + block - self.parameter_blocks.start,
            output_lanes=self.output.lanes,
            output_depth=Depth.of(self.output.type.depth),
            output_signed=int(self.output.type.signed),
            output_base=self.output.address(block // 2, tile.y, tile.x),
            output_row_pitch=self.output.row_pitch,
            output_half=block % 2,
            clamp_low=post.clamp_low,
            clamp_high=post.clamp_high,
            table=int(post.table is not None),
            table_index=self.table_index,
            **residual,
        )

    def _residual_fields(self, operand: OnChipTensor, worker: int, block: int, tile: Tile) -> dict[str, Any]:
        post = self.operation.post
        gangs = gangs_within(operand.lanes, operand.type.depth, self.config)
        return {
            "residual": 1,
            "residual_lanes": gangs[worker % len(gangs)],
            "residual_depth": Depth.of(operand.type.depth),
            "residual_signed": int(operand.type.signed),
            "residual_base": operand.address(block // 2, tile.y, tile.x),
            "residual_row_pitch": operand.row_pitch,
            "residual_half": block % 2,
            "residual_multiplier": post.residual_multiplier,
            "residual_shift": post.residual_shift,
        }

    def _geometry(self, tile: Tile) -> dict[str, Any]:
        """Fields that lane programs and windows share."""
        top, left, _, _ = self.operation.padding
        stride_y, stride_x = self.operation.stride
        kernel_height, kernel_width = self.operation.kernel
        return {
            "depth": Depth.of(self.input.type.depth),
            "signed": int(self.input.type.signed),
            "row_pitch": self.input.row_pitch,
            "input_height": self.input.type.height,
            "input_width": self.input.type.width,
            "origin_y": tile.y * stride_y - top - self.input.y,
            "origin_x": tile.x * stride_x - left - self.input.x,
            "stride_y": stride_y,
            "stride_x": stride_x,
            "kernel_height": kernel_height,
            "kernel_width": kernel_width,
            "tile_height": tile.height,
            "tile_width": tile.width,
        }


class _ConvolutionEmitter(_OperationEmitter):
    """Lane programs of a convolution."""

    source = Source.LANES
    operation: golden.Convolution

    def __init__(self, builder: StreamBuilder, operation: golden.Convolution):
        super().__init__(builder, operation)
        self.mapping = map_reduction(operation, self.config)
        self.packed = pack_weights(operation, self.config)
        self.addresses: dict[tuple[int, range], int] = {}
        self.gangs = builder.lanes.gangs(self.operands.types[INPUT].depth)

    def step_cycles(self) -> tuple[int, int, int]:
        steps = sum(part.count for part in self.tiling.parts)
        return (steps, DEPTHWISE_TAPS, self.operation.stride[1]) if self.mapping.depthwise else (steps, 1, 1)

    def workers(self) -> Workers:
        return Workers(
            count=len(self.gangs),
            slices=PPU_SLICES,
            max_pixels=self.config.accumulator_pixels,
            max_side=FIELD_LIMITS["tile_side"],
            min_cycles=self.config.rows,
        )

    def gang(self, worker: int) -> int:
        return self.gangs[worker]

    def slice(self, worker: int) -> int:
        gang = self.gangs[worker]
        return gangs_within((1 << self.config.lanes) - 1, self.input.type.depth, self.config).index(gang) % PPU_SLICES

    def round_limit(self, fraction: int) -> int:
        beats = max(part.count for part in self.tiling.parts) * self.config.weight_block_beats
        return max(1, self.config.weight_beats // fraction // beats) * self.partition.channel_groups

    def turn_bytes(self) -> int:
        used = used_block_beats(depthwise=self.mapping.depthwise, config=self.config) * self.config.beat_bytes
        return max(part.count for part in self.tiling.parts) * used * self.partition.channel_groups

    def load_weights(self, blocks: range, part: int) -> None:
        groups, pixel_groups = self.partition.channel_groups, self.partition.pixel_groups
        beats = -(-len(blocks) // groups) * self.tiling.parts[part].count * self.config.weight_block_beats
        self.weight_base, self.first_block = self.builder.allocate_weights(beats), blocks.start
        for group in range(min(groups, len(blocks))):
            workers = range(group * pixel_groups, (group + 1) * pixel_groups)
            loaded = blocks[group::groups]
            load = Load(
                target=LoadTarget.WEIGHTS,
                lanes=sum(self.gang(worker) for worker in workers),
                address=self._weight_data(part, loaded),
                base=self.weight_base,
                **self._weight_shape(len(loaded), self.tiling.parts[part].count),
            )
            self.builder.emit(load, f"{self.operation.name} weights", self.operation.name)

    def _weight_shape(self, blocks: int, steps: int) -> dict[str, Any]:
        """Fields for the shape of a load of weights. Those of depthwise programs are without a gap in DRAM, and spread
        over the bank, where a weight block takes more beats than they use."""
        used = used_block_beats(depthwise=self.mapping.depthwise, config=self.config)
        size = self.config.weight_block_beats
        if used == size:
            return {"columns": blocks * steps * size}
        row_pitch = used * self.config.beat_bytes
        return {
            "columns": used,
            "rows": steps,
            "row_pitch": row_pitch,
            "chip_row_pitch": size,
            "planes": blocks,
            "plane_pitch": steps * row_pitch,
            "chip_plane_pitch": steps * size,
        }

    def _weight_data(self, part: int, blocks: range) -> int:
        """DRAM address of the weights of some blocks; they are there once, however often they are loaded."""
        if (part, blocks) not in self.addresses:
            reduction = self.tiling.parts[part]
            spans = reduction.rows, reduction.columns, reduction.steps
            index = tuple(slice(span.start, span.stop) for span in spans)
            data = b"".join(self.packed[block][index].tobytes() for block in blocks)
            self.addresses[part, blocks] = self.builder.add_data(data)
        return self.addresses[part, blocks]

    def sums(self, worker: int, block: int, tile: Tile, part: int) -> LaneProgram:
        turn = (block - self.first_block) // self.partition.channel_groups
        reduction = self.tiling.parts[part]
        word, half = self.mapping.first_word(block, reduction.steps.start)
        dilation_y, dilation_x = self.mapping.dilation
        geometry = self._geometry(tile)
        geometry["origin_y"] += reduction.rows.start * dilation_y
        geometry["origin_x"] += reduction.columns.start * dilation_x
        geometry["kernel_height"], geometry["kernel_width"] = reduction.rows.size, reduction.columns.size
        return LaneProgram(
            lanes=self.gang(worker),
            weight_depth=WeightDepth.of(self.mapping.weight_depth),
            pad=self.operation.pad_value & 0xFFFF,
            input_base=self.input.address(word, self.input.y, self.input.x),
            block_pitch=self.input.block_pitch,
            dilation_y=dilation_y,
            dilation_x=dilation_x,
            channel_steps=reduction.steps.size,
            weight_base=self.weight_base + turn * reduction.count * self.config.weight_block_beats,
            half=half,
            depthwise=int(self.mapping.depthwise),
            partial=int(part + 1 < len(self.tiling.parts)),
            **geometry,
        )


class _WindowEmitter(_OperationEmitter):
    """Window instructions of a pooling or element-wise operation, shared by the slices."""

    source = Source.WINDOW
    operation: golden.Window

    def step_cycles(self) -> tuple[int, int, int]:
        return math.prod(self.operation.kernel), 1, 1

    def workers(self) -> Workers:
        return Workers(
            count=PPU_SLICES,
            slices=PPU_SLICES,
            max_pixels=self.config.accumulator_pixels,
            max_side=FIELD_LIMITS["tile_side"],
            min_cycles=1,
        )

    def gang(self, worker: int) -> int:
        gangs = gangs_within(self.input.lanes, self.input.type.depth, self.config)
        return gangs[worker % len(gangs)]

    def slice(self, worker: int) -> int:
        return worker % PPU_SLICES

    def round_limit(self, fraction: int) -> int:
        return self.builder.rings.parameters.most

    def turn_bytes(self) -> int:
        return 0

    def load_weights(self, blocks: range, part: int) -> None:
        pass

    def sums(self, worker: int, block: int, tile: Tile, part: int) -> Window:
        return Window(
            slice=self.slice(worker),
            lanes=self.gang(worker),
            reduction=Reduction.SUM if self.operation.reduction == "sum" else Reduction.MAX,
            input_base=self.input.address(block // 2, self.input.y, self.input.x),
            half=block % 2,
            **self._geometry(tile),
        )


class _RepeatEmitter(_WindowEmitter):
    """Window instructions that repeat rows and columns.

    A tile is a *run*: the copies of some pixels of a row, or some copies of one pixel. To the window reader its pixels
    are rows of a single column, which a horizontal stride of 0 reads again and again.
    """

    def _divide(self, band: Box, blocks: range) -> None:
        super()._divide(band, blocks)
        repeat = self.operation.repeat[1]
        runs = [run for tile in self.partition.tiles for run in _runs(tile, band.columns.start, repeat)]
        self.partition = replace(self.partition, tiles=tuple(runs))

    def _run(self, tile: Tile) -> tuple[int, int]:
        """Pixels of a run, and the copies of each."""
        repeat = self.operation.repeat[1]
        return max(1, tile.width // repeat), min(repeat, tile.width)

    def sums(self, worker: int, block: int, tile: Tile, part: int) -> Window:
        pixels, copies = self._run(tile)
        repeat_y, repeat_x = self.operation.repeat
        return Window(
            slice=self.slice(worker),
            lanes=self.gang(worker),
            depth=Depth.of(self.input.type.depth),
            signed=int(self.input.type.signed),
            reduction=Reduction.SUM,
            input_base=self.input.address(block // 2, tile.y // repeat_y, tile.x // repeat_x),
            half=block % 2,
            row_pitch=1,
            input_height=pixels,
            input_width=1,
            stride_y=1,
            stride_x=0,
            tile_height=pixels,
            tile_width=copies,
        )

    def _post(self, worker: int, block: int, tile: Tile) -> PostProcess:
        pixels, copies = self._run(tile)
        post = super()._post(worker, block, tile)
        pitch = copies if post.residual else post.residual_row_pitch
        return replace(post, tile_height=pixels, tile_width=copies, output_row_pitch=copies, residual_row_pitch=pitch)


def _runs(tile: Tile, origin: int, repeat: int) -> Iterator[Tile]:
    """The runs of a tile; ``origin`` is the column of the output at which its own columns begin."""
    first, last = tile.x + origin, tile.x + origin + tile.width
    inner = range(-(-first // repeat) * repeat, last // repeat * repeat)
    bounds = sorted({first, last, *((inner.start, inner.stop) if inner else ())})
    if not inner and first // repeat != (last - 1) // repeat:
        bounds = [first, inner.start, last]
    for y in range(tile.y, tile.y + tile.height):
        for start, stop in pairwise(bounds):
            yield Tile(y, start - origin, 1, stop - start)
