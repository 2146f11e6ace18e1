"""Instructions of an operation: loads of weights and parameters, sources of sums, and their post-processing.

An operation runs in *rounds*: the parameters (and weights) of some blocks of output channels are loaded, then
every tile of those blocks is computed. Weight banks and parameter memory are rings, so that the next round
(or the next operation's first) is loaded while this one computes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.builder import StreamBuilder
from tessera.compiler.lowering.partition import Partition, Tile, Work, Workers, choose_partition
from tessera.compiler.lowering.reduction import map_reduction
from tessera.compiler.lowering.weights import pack_parameters, pack_weights
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
from tessera.sim.golden import network as golden

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
            _WindowEmitter(builder, operation).emit()
    except IsaError as error:
        raise CompilerError(
            f"operation {operation.name!r} cannot be encoded: {error}; split the operation in the network"
        ) from None


class _OperationEmitter(ABC):
    """What convolutions and windows have in common; the subclasses make the source of the sums."""

    source: Source
    """Where the post-processing finds the sums."""

    def __init__(self, builder: StreamBuilder, operation: golden.Operation):
        self.builder = builder
        self.config = builder.config
        self.operation = operation
        self.input = builder.placement[operation.input]
        self.output = builder.placement[operation.output]
        self.gangs = builder.lanes.gangs(self.input.type.depth)
        self.blocks = -(-self.output.type.channels // self.config.cols)
        self.partition: Partition = choose_partition(self.work(), self.workers())

    @abstractmethod
    def work(self) -> Work:
        """The operation's work."""

    @abstractmethod
    def workers(self) -> Workers:
        """What may work on it."""

    @abstractmethod
    def load_weights(self, blocks: range) -> None:
        """Loads the weights of a round."""

    @abstractmethod
    def round_limit(self) -> int:
        """Blocks whose weights fit in a round."""

    @abstractmethod
    def sums(self, worker: int, block: int, tile: Tile) -> Instruction:
        """The instruction that makes the sums of a tile."""

    @abstractmethod
    def gang(self, worker: int) -> int:
        """Mask of the lanes that a worker uses."""

    def emit(self) -> None:
        """Emits all rounds."""
        parameters = pack_parameters(self.operation.post, self.config)
        address = self.builder.add_data(parameters)
        groups = self.partition.channel_groups
        limit = min(self.round_limit(), max(1, self.config.parameter_blocks // ROUND_FRACTION))
        size = min(max(groups, limit // groups * groups), self.config.parameter_blocks)
        for first in range(0, self.blocks, size):
            blocks = range(first, min(first + size, self.blocks))
            self._load_parameters(blocks, address)
            self.load_weights(blocks)
            for worker, block, tile in self._tiles(blocks):
                label = f"{self.operation.name} block {block} {tile}"
                self.builder.emit(self.sums(worker, block, tile), label, self.operation.name)
                self.builder.emit(self._post(worker, block, tile), label, self.operation.name)

    def _tiles(self, blocks: range) -> Iterator[tuple[int, int, Tile]]:
        """(worker, block, tile) of a round, in an order in which all workers advance together."""
        groups, pixel_groups = self.partition.channel_groups, self.partition.pixel_groups
        for turn in range(0, len(blocks), groups):
            for index, tile in enumerate(self.partition.tiles):
                for group, block in enumerate(blocks[turn : turn + groups]):
                    yield group * pixel_groups + index % pixel_groups, block, tile

    def _load_parameters(self, blocks: range, address: int) -> None:
        beats = self.config.parameter_block_beats
        self.first_block = blocks.start
        self.parameter_base = self.builder.parameter_ring.allocate(len(blocks))
        load = Load(
            target=LoadTarget.PARAMETERS,
            address=address + blocks.start * beats * self.config.beat_bytes,
            columns=len(blocks) * beats,
            base=self.parameter_base * beats,
        )
        self.builder.emit(load, f"{self.operation.name} parameters", self.operation.name)

    def _post(self, worker: int, block: int, tile: Tile) -> PostProcess:
        post = self.operation.post
        residual = {} if post.residual is None else self._residual_fields(post.residual, worker, block, tile)
        return PostProcess(
            slice=worker % PPU_SLICES,
            source=self.source,
            lanes=self.gang(worker) if self.source is Source.LANES else 0,
            tile_height=tile.height,
            tile_width=tile.width,
            parameter_block=self.parameter_base + block - self.first_block,
            output_lanes=self.builder.lanes.mask(self.output.type.depth),
            output_depth=Depth.of(self.output.type.depth),
            output_signed=int(self.output.type.signed),
            output_base=self.output.address(block // 2, tile.y, tile.x),
            output_row_pitch=self.output.row_pitch,
            output_half=block % 2,
            clamp_low=post.clamp_low,
            clamp_high=post.clamp_high,
            **residual,
        )

    def _residual_fields(self, name: str, worker: int, block: int, tile: Tile) -> dict[str, Any]:
        post = self.operation.post
        operand = self.builder.placement[name]
        gangs = self.builder.lanes.gangs(operand.type.depth)
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
            "origin_y": tile.y * stride_y - top,
            "origin_x": tile.x * stride_x - left,
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
        self.mapping = map_reduction(operation, builder.config)
        self.block_beats = self.mapping.steps * builder.config.weight_block_beats
        super().__init__(builder, operation)
        self.packed = pack_weights(operation, builder.config)

    def work(self) -> Work:
        words = (DEPTHWISE_TAPS, self.operation.stride[1]) if self.mapping.depthwise else (1, 1)
        return Work(self.output.type.height, self.output.type.width, self.blocks, self.mapping.steps, *words)

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

    def round_limit(self) -> int:
        per_gang = max(1, self.config.weight_beats // ROUND_FRACTION // self.block_beats)
        return per_gang * self.partition.channel_groups

    def load_weights(self, blocks: range) -> None:
        groups, pixel_groups = self.partition.channel_groups, self.partition.pixel_groups
        self.weight_base = self.builder.weight_ring.allocate(-(-len(blocks) // groups) * self.block_beats)
        for group in range(min(groups, len(blocks))):
            data = b"".join(self.packed[block] for block in blocks[group::groups])
            workers = range(group * pixel_groups, (group + 1) * pixel_groups)
            load = Load(
                target=LoadTarget.WEIGHTS,
                lanes=sum(self.gang(worker) for worker in workers),
                address=self.builder.add_data(data),
                columns=len(data) // self.config.beat_bytes,
                base=self.weight_base,
            )
            self.builder.emit(load, f"{self.operation.name} weights", self.operation.name)

    def sums(self, worker: int, block: int, tile: Tile) -> LaneProgram:
        turn = (block - self.first_block) // self.partition.channel_groups
        word, half = self.mapping.first_word(block)
        kernel_height, kernel_width = self.mapping.kernel
        dilation_y, dilation_x = self.mapping.dilation
        kernel = {"kernel_height": kernel_height, "kernel_width": kernel_width}
        return LaneProgram(
            lanes=self.gang(worker),
            weight_depth=WeightDepth.of(self.mapping.weight_depth),
            pad=self.operation.pad_value & 0xFFFF,
            input_base=self.input.address(word, 0, 0),
            block_pitch=self.input.block_pitch,
            dilation_y=dilation_y,
            dilation_x=dilation_x,
            channel_steps=self.mapping.channel_steps,
            weight_base=self.weight_base + turn * self.block_beats,
            half=half,
            depthwise=int(self.mapping.depthwise),
            **self._geometry(tile) | kernel,
        )


class _WindowEmitter(_OperationEmitter):
    """Window instructions of a pooling or element-wise operation, shared by the slices."""

    source = Source.WINDOW
    operation: golden.Window

    def work(self) -> Work:
        return Work(self.output.type.height, self.output.type.width, self.blocks, math.prod(self.operation.kernel))

    def workers(self) -> Workers:
        return Workers(
            count=PPU_SLICES,
            slices=PPU_SLICES,
            max_pixels=self.config.accumulator_pixels,
            max_side=FIELD_LIMITS["tile_side"],
            min_cycles=1,
        )

    def gang(self, worker: int) -> int:
        return self.gangs[worker % len(self.gangs)]

    def round_limit(self) -> int:
        return self.blocks

    def load_weights(self, blocks: range) -> None:
        pass

    def sums(self, worker: int, block: int, tile: Tile) -> Window:
        return Window(
            slice=worker % PPU_SLICES,
            lanes=self.gang(worker),
            reduction=Reduction.SUM if self.operation.reduction == "sum" else Reduction.MAX,
            input_base=self.input.address(block // 2, 0, 0),
            half=block % 2,
            **self._geometry(tile),
        )
