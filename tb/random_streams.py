"""Random legal instruction streams: every depth, gang partition, format and operator, without a compiler's habits.

A stream is made of independent *jobs*, one per gang of a partition of the lanes: load a random tensor, weights and
parameters, compute a tile of a random convolution, post-process it (sometimes with a residual operand), sometimes
reduce the result by a window, and store it. The jobs' instructions are interleaved at random, so gangs of different
precision work side by side; the waits are derived from the footprints.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tessera.compiler.lowering.synchronise import synchronise
from tessera.rtl.config import DIGIT_BITS, NpuConfig
from tessera.rtl.isa import (
    INSTRUCTION_BYTES,
    OPERATIONS,
    ChannelParameters,
    CountedInstruction,
    Depth,
    End,
    Instruction,
    LaneProgram,
    Load,
    LoadTarget,
    MemoryFormat,
    NanPolicy,
    PostProcess,
    Reduction,
    Source,
    Store,
    WeightDepth,
    Window,
    encode_stream,
)

PARTITIONS: dict[int, tuple[tuple[int, ...], ...]] = {
    4: ((4,), (2, 2), (2, 1, 1), (1, 1, 2), (1, 1, 1, 1)),
    2: ((2,), (1, 1)),
    1: ((1,),),
}
"""The ways to divide the lanes into gangs, by the number of lanes."""

DRAM_ALIGNMENT = 256


@dataclass(frozen=True)
class RandomStream:
    """A stream with the contents of DRAM that it needs.

    Attributes
    ----------
    instructions
        The stream with its waits and its end.
    dram
        Contents of DRAM from address 0, random data and code.
    code_address
        DRAM byte address of the first instruction.
    """

    instructions: tuple[Instruction, ...]
    dram: bytes
    code_address: int

    @property
    def operations(self) -> tuple[int, ...]:
        """The operations for which it counts, rising."""
        return tuple(sorted({each.operation for each in self.instructions if isinstance(each, CountedInstruction)}))


@dataclass
class Tensor:
    """A tensor on chip: where, and in which lanes."""

    base: int
    blocks: int
    height: int
    width: int
    depth: Depth
    signed: int
    lanes: int

    @property
    def block_pitch(self) -> int:
        return self.height * self.width


@dataclass
class Memory:
    """Bump allocation of everything that the jobs of a number of gangs use."""

    config: NpuConfig
    rng: random.Random
    gangs: int
    dram: bytearray = field(default_factory=bytearray)
    word: int = 0
    weight_beat: int = 0
    parameter_blocks: Counter = field(default_factory=Counter)

    def random_dram(self, size: int, *, alignment: int) -> int:
        """Appends random bytes; the address is a multiple of ``alignment``."""
        self.dram += bytes(-len(self.dram) % alignment)
        address = len(self.dram)
        self.dram += self.rng.randbytes(size)
        return address

    def fill(self) -> Load:
        """Loads random values into all activation banks."""
        depth = Depth.of(self.config.activation_depths[-1])
        words = self.config.activation_words
        return Load(
            target=LoadTarget.ACTIVATIONS,
            lanes=(1 << self.config.lanes) - 1,
            address=self.random_dram(words * self.config.pixel_bytes(depth.bits), alignment=self.config.beat_bytes),
            columns=words,
            memory_depth=depth,
            chip_depth=depth,
        )

    def words(self, count: int) -> int:
        """Activation words; starts again at 0 when the bank is full, so that addresses are used again."""
        self.word = 0 if self.word + count > self.config.activation_words else self.word
        base, self.word = self.word, self.word + count
        return base

    def weight_beats(self, count: int) -> int:
        """Beats of the weight banks, used in turn."""
        self.weight_beat = 0 if self.weight_beat + count > self.config.weight_beats else self.weight_beat
        base, self.weight_beat = self.weight_beat, self.weight_beat + count
        return base

    @property
    def own_parameters(self) -> bool:
        """Whether each gang has parameter blocks that no other gang loads.

        A residual operand's shift has to fit those of the block, so the block must hold what the job has loaded.
        """
        return self.config.parameter_blocks >= self.gangs

    def parameters(self, gang: int) -> int:
        """A block of the parameter memories for the gang with this index; its blocks are used in turn."""
        blocks = range(self.config.parameter_blocks)
        if self.own_parameters:
            blocks = blocks[gang :: self.gangs]
        turn = self.parameter_blocks[gang]
        self.parameter_blocks[gang] += 1
        return blocks[turn % len(blocks)]


def random_stream(
    config: NpuConfig,
    seed: int,
    *,
    partition: tuple[int, ...] | None = None,
    jobs_per_gang: int = 2,
    kind: type[Job] | None = None,
    fill: bool = False,
) -> RandomStream:
    """A random legal stream.

    Parameters
    ----------
    partition
        Sizes of the gangs, first lane first; random if not given.
    jobs_per_gang
        How many jobs each gang does, one after another.
    kind
        The class of the jobs; `Job` if not given.
    fill
        True: all activation banks are loaded first, so that the result does not depend on what was run before.
    """
    rng = random.Random(seed)
    partition = partition or rng.choice(PARTITIONS[config.lanes])
    memory = Memory(config, rng, len(partition))
    first = [memory.fill()] if fill else []
    body = [*first, *random_jobs(config, rng, memory, partition, jobs_per_gang=jobs_per_gang, kind=kind or Job)]
    return assemble(config, _with_operations(body, seed), bytes(memory.dram))


def random_jobs(
    config: NpuConfig,
    rng: random.Random,
    memory: Memory,
    partition: tuple[int, ...],
    *,
    jobs_per_gang: int,
    kind: type[Job],
) -> Iterator[Instruction]:
    """The jobs of all gangs, interleaved, without waits."""
    queues: list[list[Instruction]] = []
    lane = 0
    for index, size in enumerate(partition):
        gang = ((1 << size) - 1) << lane
        lane += size
        jobs = [kind(config, rng, memory, gang, index) for _ in range(jobs_per_gang)]
        queues.append([instruction for job in jobs for instruction in job.instructions()])
    return _interleave(queues, rng)


def assemble(config: NpuConfig, body: Sequence[Instruction], data: bytes) -> RandomStream:
    """A stream of these instructions, with the waits that they need and its end, and its code behind the data."""
    instructions = synchronise([*body, End()], config)
    data += bytes(-len(data) % DRAM_ALIGNMENT)
    code = encode_stream(instructions)
    padding = bytes(-len(code) % (8 * INSTRUCTION_BYTES))
    return RandomStream(tuple(instructions), data + code + padding, len(data))


def _with_operations(instructions: list[Instruction], seed: int) -> list[Instruction]:
    """Each instruction counts for one of a few random operations, whatever it belongs to."""
    rng = random.Random(f"operations {seed}")
    numbers = rng.sample(range(OPERATIONS), 5)
    return [
        dataclasses.replace(each, operation=rng.choice(numbers)) if isinstance(each, CountedInstruction) else each
        for each in instructions
    ]


def _interleave(queues: list[list[Instruction]], rng: random.Random) -> Iterator[Instruction]:
    """Merges the queues at random; a window and its post-process stay together, since they share a slice."""
    queues = [list(queue) for queue in queues]
    while any(queues):
        queue = rng.choice([queue for queue in queues if queue])
        yield queue.pop(0)
        while queue and isinstance(queue[0], PostProcess):
            yield queue.pop(0)


class Job:
    """One tensor, from DRAM through a convolution to DRAM, on one gang (a mask; ``index`` counts the gangs)."""

    def __init__(self, config: NpuConfig, rng: random.Random, memory: Memory, gang: int, index: int):
        self.config, self.rng, self.memory, self.gang, self.index = config, rng, memory, gang, index
        size = gang.bit_count()
        self.depths = [Depth.of(d) for d in config.activation_depths]
        own = [depth for depth in self.depths if depth.digits == size]
        self.depth = rng.choice(own) if own else None

    def instructions(self) -> Iterator[Instruction]:
        """The job's instructions in order; none if the configuration has no depth for this gang."""
        if self.depth is None:
            return
        rng = self.rng
        blocks, height, width = rng.randint(1, 3), rng.randint(1, 9), rng.randint(1, 9)
        source = self._tensor(blocks, height, width, self.depth, self.gang)
        yield self._load(source)
        program, tile = self._lane_program(source)
        parts = [self._partial_program(source, tile) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
        for part in (*parts, program):
            yield self._load_weights(part)
        parameter_block = self.memory.parameters(self.index)
        yield self._load_parameters(parameter_block)
        residual = None
        if rng.random() < 0.4 and self.memory.own_parameters:
            residual = self._operand(tile)
            yield self._load(residual)
        yield from parts
        yield program
        table = rng.randrange(self.config.tables) if self.config.tables and rng.random() < 0.3 else None
        if table is not None:
            yield self._load_table(table)
        result, post = self._post_process(tile, parameter_block, residual, table)
        yield post
        if rng.random() < 0.4:
            window, tile = self._window(result)
            yield window
            result, post = self._post_process(tile, parameter_block, None, window=window)
            yield post
        yield self._store(result)

    def _tensor(self, blocks: int, height: int, width: int, depth: Depth, lanes: int) -> Tensor:
        base = self.memory.words(blocks * height * width)
        return Tensor(base, blocks, height, width, depth, self.rng.randint(0, 1), lanes)

    def _operand(self, tile: tuple[int, int]) -> Tensor:
        """A residual operand of any depth, in any gang that can hold it."""
        depth = self.rng.choice(self.depths)
        return self._tensor(1, *tile, depth, self._any_gang(depth, (1 << self.config.lanes) - 1))

    def _any_gang(self, depth: Depth, lanes: int) -> int:
        """A random aligned gang of the depth's size within the mask of lanes."""
        size = depth.digits
        gangs = [((1 << size) - 1) << first for first in range(0, self.config.lanes, size)]
        return self.rng.choice([gang for gang in gangs if gang & lanes == gang])

    def _load(self, tensor: Tensor) -> Load:
        rng = self.rng
        values = self._values_in_dram()
        pixel_bytes = self.config.pixel_bytes(Load(**values).memory_bits)
        row_pitch = tensor.width * pixel_bytes + rng.choice((0, 1, 5))
        plane_pitch = tensor.height * row_pitch + rng.choice((0, 3))
        policies = (NanPolicy.SATURATE, NanPolicy.REPLACE, NanPolicy.STOP_OPERATION)
        if pixel_bytes <= self.config.beat_bytes and rng.random() < 0.2:
            values["column_pitch"] = rng.randint(1, pixel_bytes)
        return Load(
            target=LoadTarget.ACTIVATIONS,
            lanes=tensor.lanes,
            address=self.memory.random_dram(tensor.blocks * plane_pitch, alignment=1) if plane_pitch else 0,
            columns=tensor.width,
            rows=tensor.height,
            planes=tensor.blocks,
            row_pitch=row_pitch,
            plane_pitch=plane_pitch,
            base=tensor.base,
            chip_row_pitch=tensor.width,
            chip_plane_pitch=tensor.block_pitch,
            chip_depth=tensor.depth,
            chip_signed=tensor.signed,
            nan_policy=rng.choice(policies),
            nan_value=rng.randint(-(1 << 16), (1 << 16) - 1),
            **values,
        )

    def _values_in_dram(self) -> dict[str, int]:
        """Format, depth and sign of values in DRAM with a shift: all zeros and limits are rare."""
        rng = self.rng
        memory_format = rng.choice((MemoryFormat.INTEGER,) * 3 + self.config.memory_formats)
        shifts = {
            MemoryFormat.INTEGER: (-3, 6),
            MemoryFormat.FP16: (-18, 12),
            MemoryFormat.BF16: (-128, 127),
            MemoryFormat.FP32: (-128, 127),
        }
        return {
            "memory_format": memory_format,
            "memory_depth": rng.choice(self.depths),
            "memory_signed": rng.randint(0, 1),
            "shift": rng.randint(*shifts[memory_format]),
        }

    def _lane_program(self, source: Tensor) -> tuple[LaneProgram, tuple[int, int]]:
        rng, config = self.rng, self.config
        weight_depth = WeightDepth.of(rng.choice(config.weight_depths))
        half, depthwise = 0, 0
        if weight_depth is WeightDepth.W8:
            half, depthwise = rng.randint(0, 1), int(rng.random() < 0.3)
        most_steps = source.blocks * (2 if weight_depth is WeightDepth.W8 else 1) - half
        kernel = rng.randint(1, 3), rng.randint(1, 3)
        height = rng.randint(1, min(12, config.accumulator_pixels))
        width = rng.randint(1, min(12, config.accumulator_pixels // height))
        steps = 1 if depthwise else rng.randint(1, most_steps)
        beats = kernel[0] * kernel[1] * steps * config.weight_block_beats
        if beats > config.weight_beats:
            steps = 1
            beats = kernel[0] * kernel[1] * config.weight_block_beats
        pad_limit = 1 << (DIGIT_BITS * source.depth.digits - source.signed)
        program = LaneProgram(
            lanes=self.gang,
            depth=source.depth,
            signed=source.signed,
            weight_depth=weight_depth,
            pad=(rng.randrange(pad_limit) if rng.random() < 0.3 else 0),
            input_base=source.base,
            row_pitch=source.width,
            block_pitch=source.block_pitch,
            input_height=source.height,
            input_width=source.width,
            origin_y=rng.randint(-3, 2),
            origin_x=rng.randint(-3, 2),
            stride_y=rng.randint(1, 3),
            stride_x=rng.randint(1, 3),
            dilation_y=rng.randint(1, 3),
            dilation_x=rng.randint(1, 3),
            kernel_height=kernel[0],
            kernel_width=kernel[1],
            channel_steps=steps,
            tile_height=height,
            tile_width=width,
            weight_base=self.memory.weight_beats(beats),
            half=half,
            depthwise=depthwise,
        )
        return program, (height, width)

    def _partial_program(self, source: Tensor, tile: tuple[int, int]) -> LaneProgram:
        """A program of other weights and another kernel that makes a part of the sums of a tile."""
        program, _ = self._lane_program(source)
        return dataclasses.replace(program, partial=1, tile_height=tile[0], tile_width=tile[1])

    def _load_weights(self, program: LaneProgram) -> Load:
        steps = program.kernel_height * program.kernel_width * program.channel_steps
        beats = steps * self.config.weight_block_beats
        size = beats * self.config.beat_bytes
        return Load(
            target=LoadTarget.WEIGHTS,
            lanes=program.lanes,
            address=self.memory.random_dram(size, alignment=self.config.beat_bytes),
            columns=beats,
            base=program.weight_base,
        )

    def _channel_parameters(self) -> list[ChannelParameters]:
        rng = self.rng
        shift = rng.randint(8, 38)
        return [
            ChannelParameters(
                bias=rng.randint(-(1 << 18), 1 << 18) >> rng.randint(0, 18),
                multiplier=rng.choice((rng.randrange(1 << 15, 1 << 16), 1 << 15, rng.randrange(1 << 16))),
                shift=max(0, shift + rng.randint(-6, 6)),
            )
            for _ in range(self.config.cols)
        ]

    def _load_parameters(self, block: int) -> Load:
        parameters = self._channel_parameters()
        data = b"".join(channel.encode() for channel in parameters)
        address = self.memory.random_dram(0, alignment=self.config.beat_bytes)
        self.memory.dram += data
        self.least_shift = min(channel.shift for channel in parameters)
        self.greatest_shift = max(channel.shift for channel in parameters)
        beats = self.config.parameter_block_beats
        return Load(target=LoadTarget.PARAMETERS, address=address, columns=beats, base=block * beats)

    def _load_table(self, index: int) -> Load:
        """A table of random entries."""
        beats = self.config.table_block_beats
        address = self.memory.random_dram(beats * self.config.beat_bytes, alignment=self.config.beat_bytes)
        return Load(target=LoadTarget.TABLES, address=address, columns=beats, base=index * beats)

    def _post_process(
        self,
        tile: tuple[int, int],
        parameter_block: int,
        residual: Tensor | None,
        table: int | None = None,
        window: Window | None = None,
    ) -> tuple[Tensor, PostProcess]:
        rng = self.rng
        depth = rng.choice(self.depths)
        lanes = self._any_gang(depth, (1 << self.config.lanes) - 1)
        if rng.random() < 0.4:
            lanes = (1 << self.config.lanes) - 1
        result = self._tensor(1, *tile, depth, lanes)
        low, high = sorted(rng.randint(-(1 << depth.bits), 1 << depth.bits) for _ in range(2))
        clamp = {"clamp_low": low, "clamp_high": high} if rng.random() < 0.4 else {}
        if residual is not None:
            clamp |= {
                "residual": 1,
                "residual_lanes": residual.lanes,
                "residual_depth": residual.depth,
                "residual_signed": residual.signed,
                "residual_base": residual.base,
                "residual_row_pitch": residual.width,
                "residual_half": rng.randint(0, 1),
                "residual_multiplier": rng.randrange(1 << 16),
                "residual_shift": rng.randint(
                    max(0, self.greatest_shift - ChannelParameters.MAX_RESIDUAL_ALIGNMENT), self.least_shift
                ),
            }
        if table is not None:
            low, high = sorted(rng.randint(-(1 << 15), (1 << 15) - 1) for _ in range(2))
            if rng.random() < 0.7:
                low, high = -(1 << 15), (1 << 15) - 1
            clamp |= {"table": 1, "table_index": table, "clamp_low": low, "clamp_high": high}
        post = PostProcess(
            slice=window.slice if window else rng.randint(0, 1),
            source=Source.WINDOW if window else Source.LANES,
            lanes=0 if window else self.gang,
            tile_height=tile[0],
            tile_width=tile[1],
            parameter_block=parameter_block,
            output_lanes=lanes,
            output_depth=depth,
            output_signed=result.signed,
            output_base=result.base,
            output_row_pitch=result.width,
            output_half=rng.randint(0, 1),
            **clamp,
        )
        return result, post

    def _window(self, source: Tensor) -> tuple[Window, tuple[int, int]]:
        rng = self.rng
        kernel = rng.randint(1, source.height), rng.randint(1, source.width)
        stride = rng.randint(1, 3), rng.randint(1, 3)
        before = rng.randint(0, min(1, kernel[0] - 1)), rng.randint(0, min(1, kernel[1] - 1))
        behind = rng.randint(0, min(2, kernel[0] - 1)), rng.randint(0, min(2, kernel[1] - 1))
        padded = source.height + before[0] + behind[0], source.width + before[1] + behind[1]
        tile = tuple((size - extent) // step + 1 for size, extent, step in zip(padded, kernel, stride, strict=True))
        window = Window(
            slice=rng.randint(0, 1),
            lanes=self._any_gang(source.depth, source.lanes),
            depth=source.depth,
            signed=source.signed,
            reduction=rng.choice(list(Reduction)),
            input_base=source.base,
            half=rng.randint(0, 1),
            row_pitch=source.width,
            input_height=source.height,
            input_width=source.width,
            origin_y=-before[0],
            origin_x=-before[1],
            stride_y=stride[0],
            stride_x=stride[1],
            kernel_height=kernel[0],
            kernel_width=kernel[1],
            tile_height=tile[0],
            tile_width=tile[1],
        )
        return window, tile

    def _store(self, tensor: Tensor) -> Store:
        rng = self.rng
        values = self._values_in_dram()
        row_pitch = tensor.width * self.config.pixel_bytes(Store(**values).memory_bits) + rng.choice((0, 1, 7))
        return Store(
            lanes=self._any_gang(tensor.depth, tensor.lanes),
            address=self.memory.random_dram(tensor.height * row_pitch, alignment=1),
            columns=tensor.width,
            rows=tensor.height,
            row_pitch=row_pitch,
            base=tensor.base,
            chip_row_pitch=tensor.width,
            chip_depth=tensor.depth,
            chip_signed=tensor.signed,
            **values,
        )
