"""What a lane program computes, written from the docstring of `LaneProgram` with plain loops; random programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random

import numpy as np

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import DEPTHWISE_TAPS, Depth, LaneProgram, WeightDepth


def lane_digit(program: LaneProgram, lane: int) -> tuple[int, bool]:
    """The digit that a lane works on, and whether it is signed."""
    digits = Depth(program.depth).digits
    return lane % digits, bool(program.signed) and lane % digits == digits - 1


def steps_of(program: LaneProgram) -> int:
    """Steps of a program: weight blocks that it uses."""
    return program.kernel_height * program.kernel_width * program.channel_steps


def pixels_of(program: LaneProgram) -> int:
    """Output pixels of a program's tile."""
    return program.tile_height * program.tile_width


def words_of(program: LaneProgram) -> int:
    """Activation words of a step."""
    if not program.depthwise:
        return pixels_of(program)
    return program.tile_height * ((program.tile_width - 1) * program.stride_x + DEPTHWISE_TAPS)


def read_word(
    program: LaneProgram, config: NpuConfig, lane: int, bank: np.ndarray, y: int, x: int, block: int
) -> np.ndarray:
    """The digits of a word, or padding, as signed as the lane takes them."""
    digit_index, is_signed = lane_digit(program, lane)
    if 0 <= y < program.input_height and 0 <= x < program.input_width:
        word = bank[program.input_base + block * program.block_pitch + y * program.row_pitch + x].astype(np.int64)
    else:
        word = np.full(config.word_digits, program.pad >> 4 * digit_index & 15, np.int64)
    return (word ^ 8) - 8 if is_signed else word


def begins_tile(programs: Sequence[LaneProgram]) -> list[bool]:
    """For each program whether its tile begins with it: the program before was not partial."""
    return [True, *(not before.partial for before, _ in pairwise(programs))]


def tiles_of(programs: Sequence[LaneProgram]) -> list[tuple[LaneProgram, ...]]:
    """The programs of each tile: those that are partial, and the one that finishes it."""
    tiles: list[tuple[LaneProgram, ...]] = []
    for program, begins in zip(programs, begins_tile(programs), strict=True):
        tiles = [*tiles, (program,)] if begins else [*tiles[:-1], (*tiles[-1], program)]
    return tiles


def tile_sums(
    programs: Sequence[LaneProgram], config: NpuConfig, lane: int, bank: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Accumulators of a finished tile, integers [pixels][cols], wrapped to ``accumulator_bits``.

    ``programs`` are those of the tile, ``bank`` and ``weights`` as for `program_sums`.
    """
    sums = sum(program_sums(program, config, lane, bank, weights) for program in programs)
    half = 1 << (config.accumulator_bits - 1)
    return (sums + half) % (2 * half) - half


def program_sums(
    program: LaneProgram, config: NpuConfig, lane: int, bank: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """What a program adds to its tile, integers [pixels][cols].

    ``bank`` holds the lane's digits, unsigned, [words][word_digits]; ``weights`` the bytes of its weight bank.
    """
    rows, cols = config.rows, config.cols
    sums = np.zeros((program.tile_height, program.tile_width, cols), np.int64)
    step = 0
    for ky in range(program.kernel_height):
        for kx in range(program.kernel_width):
            for s in range(program.channel_steps):
                low, high = weight_block(program, config, weights, step)
                for ty in range(program.tile_height):
                    for tx in range(program.tile_width):
                        y = program.origin_y + ty * program.stride_y + ky * program.dilation_y
                        x = program.origin_x + tx * program.stride_x + kx * program.dilation_x
                        half = program.half + s
                        if program.depthwise:
                            for tap in range(DEPTHWISE_TAPS):
                                word = read_word(program, config, lane, bank, y, x + tap, 0)
                                sums[ty, tx] += word[half * rows :][:cols] * (low + 16 * high)[tap]
                        elif program.weight_depth == WeightDepth.W4:
                            word = read_word(program, config, lane, bank, y, x, s)
                            sums[ty, tx] += word[:rows] @ low + word[rows:] @ high
                        else:
                            word = read_word(program, config, lane, bank, y, x, half // 2)
                            sums[ty, tx] += word[(half % 2) * rows :][:rows] @ (low + 16 * high)
                step += 1
    return sums.reshape(-1, cols)


def weight_block(
    program: LaneProgram, config: NpuConfig, weights: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """The values of the low and of the high halves of a step's weights, [rows][cols] each."""
    start = program.weight_base * config.beat_bytes + step * config.weight_block_bytes
    block = weights[(start + np.arange(config.weight_block_bytes)) % len(weights)].reshape(config.rows, config.cols)
    low, high = (block & 15).astype(np.int64), (block >> 4).astype(np.int64)
    if program.weight_depth == WeightDepth.W4:
        low = (low ^ 8) - 8
    return low, (high ^ 8) - 8


def with_partial_programs(random: Random, config: NpuConfig, programs: Sequence[LaneProgram]) -> Iterator[LaneProgram]:
    """The programs, some of them after one or two other random ones that are partial, of the same tile."""
    for program in programs:
        shape = {"tile_height": program.tile_height, "tile_width": program.tile_width}
        for _ in range(random.choice([0, 0, 1, 2])):
            part = random_program(random, config, max_pixels=pixels_of(program), max_kernel=2)
            yield dataclasses.replace(part, partial=1, lanes=program.lanes, **shape)
        yield program


def random_program(random: Random, config: NpuConfig, *, max_pixels: int, max_kernel: int = 3) -> LaneProgram:
    """A legal program whose tile has at most ``max_pixels`` pixels and whose input lies somewhere in the bank."""
    height = random.randint(1, min(max_pixels, 12))
    width = random.randint(1, max_pixels // height)
    if random.random() < 0.2:
        height, width = random.choice([(1, 1), (1, 2), (1, max_pixels), (max_pixels, 1), (2, 1)])
    weight_depth = WeightDepth.of(random.choice(config.weight_depths))
    depthwise = int(weight_depth == WeightDepth.W8 and random.random() < 0.3)
    channel_steps = 1 if depthwise else random.randint(1, 3)
    half = random.randint(0, 1) if weight_depth == WeightDepth.W8 else 0
    blocks = channel_steps if weight_depth == WeightDepth.W4 else (half + channel_steps + 1) // 2
    input_height, input_width = random.randint(1, 12), random.randint(1, 12)
    row_pitch = input_width + random.randint(0, 3)
    block_pitch = input_height * row_pitch + random.randint(0, 5)
    return LaneProgram(
        lanes=random.randrange(16),
        depth=Depth.of(random.choice(config.activation_depths)),
        signed=random.randint(0, 1),
        weight_depth=weight_depth,
        pad=random.choice([0, random.randrange(1 << 16)]),
        input_base=random.randint(0, config.activation_words - blocks * block_pitch),
        row_pitch=row_pitch,
        block_pitch=block_pitch,
        input_height=input_height,
        input_width=input_width,
        origin_y=random.randint(-4, input_height - 1),
        origin_x=random.randint(-4, input_width - 1),
        stride_y=random.choice([1, 1, 2, 3, 15]),
        stride_x=random.choice([1, 1, 2, 3, 15]),
        dilation_y=random.choice([1, 1, 2, 15]),
        dilation_x=random.choice([1, 1, 2, 15]),
        kernel_height=random.randint(1, max_kernel),
        kernel_width=random.randint(1, max_kernel),
        channel_steps=channel_steps,
        tile_height=height,
        tile_width=width,
        weight_base=random.randrange(config.weight_beats),
        half=half,
        depthwise=depthwise,
    )
