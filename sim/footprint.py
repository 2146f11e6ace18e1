"""What an instruction reads and writes, derived from its fields alone.

The stream checker and the compiler's synchronisation find the hazards between units from these footprints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    DEPTHWISE_TAPS,
    Instruction,
    LaneProgram,
    Load,
    LoadTarget,
    PostProcess,
    Source,
    Store,
    Unit,
    WeightDepth,
    Window,
    lanes_of_mask,
)
from tessera.sim.transfers import row_bytes

HALVES = (0, 1)


class Memory(IntEnum):
    """A kind of memory, with the unit of its addresses."""

    ACTIVATIONS = 0
    """Half of the activation bank of a lane; words."""
    WEIGHTS = 1
    """Weight bank of a lane; beats."""
    PARAMETERS = 2
    """Parameter memories, which hold the same in both slices; beats."""
    TABLES = 3
    """Table memories, which hold the same in both slices; beats."""
    DRAM = 4
    """Bytes."""
    DRAIN = 5
    """Drain port of a lane, which one slice may use at a time; a single address."""


_SHARED = {LoadTarget.PARAMETERS: Memory.PARAMETERS, LoadTarget.TABLES: Memory.TABLES}
"""Memories that do not belong to a lane, by the target of the loads that fill them."""


class Space(NamedTuple):
    """One address space: a memory, and the lane and half it belongs to (0 where there are none)."""

    memory: Memory
    lane: int = 0
    half: int = 0

    def size(self, config: NpuConfig) -> int:
        """Number of addresses."""
        sizes = {
            Memory.ACTIVATIONS: config.activation_words,
            Memory.WEIGHTS: config.weight_beats,
            Memory.PARAMETERS: config.parameter_beats,
            Memory.TABLES: config.table_beats,
            Memory.DRAM: 1 << 40,
            Memory.DRAIN: 1,
        }
        return sizes[self.memory]


@dataclass(frozen=True)
class Region:
    """A 3-D block of addresses: ``base + plane * plane_pitch + row * row_pitch + column``."""

    base: int
    columns: int
    rows: int = 1
    row_pitch: int = 0
    planes: int = 1
    plane_pitch: int = 0

    @property
    def stop(self) -> int:
        """First address after the block."""
        return self.base + (self.planes - 1) * self.plane_pitch + (self.rows - 1) * self.row_pitch + self.columns

    @property
    def size(self) -> int:
        """Addresses from the first to the last one."""
        return self.stop - self.base

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The block as (start, stop) of contiguous addresses; neighbours are joined."""
        start = stop = self.base
        for plane in range(self.planes):
            for row in range(self.rows):
                address = self.base + plane * self.plane_pitch + row * self.row_pitch
                if address != stop:
                    yield start, stop
                    start = address
                stop = address + self.columns
        yield start, stop

    def meets(self, other: Region) -> bool:
        """Whether the two blocks have an address in common."""
        if self.base >= other.stop or other.base >= self.stop:
            return False
        theirs = list(other.ranges())
        return any(start < last and first < stop for start, stop in self.ranges() for first, last in theirs)

    def same_places(self, other: Region) -> bool:
        """Whether every element has an address of its own, and the same one in both blocks (of one plane)."""
        apart = self.rows == 1 or self.columns <= self.row_pitch == other.row_pitch
        shape = (self.base, self.columns, self.rows)
        return apart and self.planes == 1 and shape == (other.base, other.columns, other.rows)


@dataclass(frozen=True)
class Access:
    """One unit reads, or writes, a region of a space during an instruction."""

    unit: Unit
    space: Space
    region: Region
    write: bool


def footprint(instruction: Instruction, config: NpuConfig) -> list[Access]:
    """Every access of an instruction. Instructions without units (and waits) have none.

    The region of a read may be larger than what is read (skipped rows of a strided window), never smaller.
    """
    if isinstance(instruction, Load):
        return [*_dram(instruction, config), *_load(instruction)]
    if isinstance(instruction, Store):
        region = chip_region(instruction)
        reads = [(lane, half) for lane in lanes_of_mask(instruction.lanes) for half in HALVES]
        return [
            *_dram(instruction, config),
            *(Access(Unit.STORE, Space(Memory.ACTIVATIONS, lane, half), region, False) for lane, half in reads),
        ]
    if isinstance(instruction, LaneProgram):
        return list(_lane(instruction, config))
    if isinstance(instruction, Window):
        unit = Unit.window(instruction.slice)
        return list(_reads(unit, instruction.lanes, instruction.half, input_region(instruction)))
    if isinstance(instruction, PostProcess):
        return list(_post(instruction, config))
    return []


def input_region(program: LaneProgram | Window, blocks: int = 1, first_block: int = 0) -> Region | None:
    """Words under the kernel of a tile, without padding; ``None`` if the tile sees padding alone.

    Of ``blocks`` channel blocks, from ``first_block``.
    """
    dilation_y, dilation_x = (program.dilation_y, program.dilation_x) if isinstance(program, LaneProgram) else (1, 1)
    last_y = (program.tile_height - 1) * program.stride_y + (program.kernel_height - 1) * dilation_y
    last_x = (program.tile_width - 1) * program.stride_x + (program.kernel_width - 1) * dilation_x
    if isinstance(program, LaneProgram) and program.depthwise:
        last_x += DEPTHWISE_TAPS - 1
    top, bottom = max(program.origin_y, 0), min(program.origin_y + last_y, program.input_height - 1)
    left, right = max(program.origin_x, 0), min(program.origin_x + last_x, program.input_width - 1)
    if top > bottom or left > right or not blocks:
        return None
    block_pitch = program.block_pitch if isinstance(program, LaneProgram) else 0
    return Region(
        base=program.input_base + first_block * block_pitch + top * program.row_pitch + left,
        columns=right - left + 1,
        rows=bottom - top + 1,
        row_pitch=program.row_pitch,
        planes=blocks,
        plane_pitch=block_pitch,
    )


def weight_steps(program: LaneProgram) -> int:
    """Weight blocks of a lane program."""
    return program.kernel_height * program.kernel_width * program.channel_steps


def used_block_beats(*, depthwise: bool, config: NpuConfig) -> int:
    """AXI beats at the beginning of a weight block that lane programs use; the others may hold anything."""
    rows = DEPTHWISE_TAPS if depthwise else config.rows
    return -(-rows * config.cols // config.beat_bytes)


def weight_region(base: int, blocks: int, *, depthwise: bool, config: NpuConfig) -> Region:
    """What lane programs use of some weight blocks, from a beat of the weight bank on."""
    used, size = used_block_beats(depthwise=depthwise, config=config), config.weight_block_beats
    return Region(base, blocks * size) if used == size else Region(base, used, blocks, size)


def step_words(program: LaneProgram) -> int:
    """Activation words that a step of a lane program takes, one per cycle."""
    width = program.tile_width
    if program.depthwise:
        width = (program.tile_width - 1) * program.stride_x + DEPTHWISE_TAPS
    return program.tile_height * width


def chip_region(transfer: Load | Store) -> Region:
    """The addresses of a transfer on the chip."""
    return Region(
        transfer.base,
        transfer.columns,
        transfer.rows,
        transfer.chip_row_pitch,
        transfer.planes,
        transfer.chip_plane_pitch,
    )


def _dram(transfer: Load | Store, config: NpuConfig) -> Iterator[Access]:
    region = Region(
        transfer.address,
        row_bytes(transfer, config),
        transfer.rows,
        transfer.row_pitch,
        transfer.planes,
        transfer.plane_pitch,
    )
    yield Access(transfer.units()[0], Space(Memory.DRAM), region, isinstance(transfer, Store))


def _load(load: Load) -> Iterator[Access]:
    region = chip_region(load)
    if load.target in _SHARED:
        yield Access(Unit.LOAD, Space(_SHARED[load.target]), region, True)
        return
    for lane in lanes_of_mask(load.lanes):
        if load.target is LoadTarget.WEIGHTS:
            yield Access(Unit.LOAD, Space(Memory.WEIGHTS, lane), region, True)
        else:
            for half in HALVES:
                yield Access(Unit.LOAD, Space(Memory.ACTIVATIONS, lane, half), region, True)


def _lane(program: LaneProgram, config: NpuConfig) -> Iterator[Access]:
    blocks = weight_steps(program)
    weights = weight_region(program.weight_base, blocks, depthwise=bool(program.depthwise), config=config)
    for lane in lanes_of_mask(program.lanes):
        unit = Unit.lane(lane)
        yield Access(unit, Space(Memory.WEIGHTS, lane), weights, False)
        for half in HALVES:
            yield from _reads(unit, 1 << lane, half, _half_region(program, half))


def _half_region(program: LaneProgram, half: int) -> Region | None:
    """What a lane program reads of one half of the words."""
    if program.weight_depth is WeightDepth.W4:
        return input_region(program, program.channel_steps)
    halves = range(program.half, program.half + program.channel_steps)
    blocks = [position // 2 for position in halves if position % 2 == half]
    return input_region(program, len(blocks), blocks[0] if blocks else 0)


def _post(post: PostProcess, config: NpuConfig) -> Iterator[Access]:
    unit = Unit.ppu(post.slice)
    beats = config.parameter_block_beats
    yield Access(unit, Space(Memory.PARAMETERS), Region(post.parameter_block * beats, beats), False)
    if post.table:
        beats = config.table_block_beats
        yield Access(unit, Space(Memory.TABLES), Region(post.table_index * beats, beats), False)
    if post.residual:
        region = Region(post.residual_base, post.tile_width, post.tile_height, post.residual_row_pitch)
        yield from _reads(unit, post.residual_lanes, post.residual_half, region)
    if post.source is Source.LANES:
        for lane in lanes_of_mask(post.lanes):
            yield Access(unit, Space(Memory.DRAIN, lane), Region(0, 1), True)
    region = Region(post.output_base, post.tile_width, post.tile_height, post.output_row_pitch)
    for lane in lanes_of_mask(post.output_lanes):
        yield Access(unit, Space(Memory.ACTIVATIONS, lane, post.output_half), region, True)


def _reads(unit: Unit, mask: int, half: int, region: Region | None) -> Iterator[Access]:
    if region is not None:
        for lane in lanes_of_mask(mask):
            yield Access(unit, Space(Memory.ACTIVATIONS, lane, half), region, False)
