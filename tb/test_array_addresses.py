"""The address generator: the words of random programs in the right order, and one every cycle at full speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from random import Random

import pytest
from amaranth.sim import SimulatorContext
from block_simulation import simulate
from lane_reference import begins_tile, lane_digit, random_program, steps_of, with_partial_programs, words_of

from tessera.rtl.array import AddressGenerator
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import DEPTHWISE_TAPS, LaneProgram, WeightDepth, fields_of

TINY = NpuConfig.preset("tiny")
ONLY_W4 = dataclasses.replace(TINY, name="only_w4", weight_depths=(4,))
ONLY_W8 = dataclasses.replace(TINY, name="only_w8", weight_depths=(8,))


def expected_words(program: LaneProgram, lane: int, *, begins: bool = True) -> Iterator[dict[str, int]]:
    """The words of a program, which begins a tile or not, in order; the address is left out where it does not
    matter."""
    digit, digit_signed = lane_digit(program, lane)
    words = list(step_words(program))
    steps = [
        (ky, kx, s)
        for ky in range(program.kernel_height)
        for kx in range(program.kernel_width)
        for s in range(program.channel_steps)
    ]
    for step, (ky, kx, s) in enumerate(steps):
        for index, (pixel, ty, column, complete) in enumerate(words):
            y = program.origin_y + ty * program.stride_y + ky * program.dilation_y
            x = program.origin_x + column + kx * program.dilation_x
            inside = 0 <= y < program.input_height and 0 <= x < program.input_width
            is_w4 = program.weight_depth == WeightDepth.W4
            block = s if is_w4 else (program.half + s) // 2
            word = {
                "padding": int(not inside),
                "pixel": pixel,
                "complete": int(complete),
                "first": int(index == 0),
                "first_step": int(begins and step == 0),
                "last": int((step, index) == (len(steps) - 1, len(words) - 1)),
                "finishes": int((step, index) == (len(steps) - 1, len(words) - 1) and not program.partial),
                "upper": 0 if is_w4 else (program.half + s) % 2,
                "pad": program.pad >> 4 * digit & 15,
                "digit_signed": int(digit_signed),
                "weight_depth": int(program.weight_depth),
                "depthwise": program.depthwise,
            }
            if inside:
                word["address"] = program.input_base + block * program.block_pitch + y * program.row_pitch + x
            yield word


def step_words(program: LaneProgram) -> Iterator[tuple[int, int, int, bool]]:
    """(output pixel, row of the tile, input column, whether the pixel is complete) of the words of a step."""
    for ty in range(program.tile_height):
        row = ty * program.tile_width
        if not program.depthwise:
            yield from ((row + tx, ty, tx * program.stride_x, True) for tx in range(program.tile_width))
            continue
        next_pixel = 0
        for column in range((program.tile_width - 1) * program.stride_x + DEPTHWISE_TAPS):
            complete = column == next_pixel * program.stride_x + DEPTHWISE_TAPS - 1
            yield row + next_pixel, ty, column, complete
            next_pixel += complete


def generate(
    config: NpuConfig, lane: int, programs: list[LaneProgram], *, seed: int, stall: float
) -> tuple[list[dict[str, int]], list[int], list[int]]:
    """The words that the generator makes of the programs, the cycles of their transfers, and those of the programs'."""
    dut = AddressGenerator(config, lane)
    random = Random(seed)
    words, cycles, accepted = [], [], []

    async def feed(ctx: SimulatorContext) -> None:
        for program in programs:
            while random.random() < stall:
                await ctx.tick()
            for field in fields_of(LaneProgram):
                ctx.set(dut.program.payload[field.name], int(getattr(program, field.name)))
            ctx.set(dut.program.valid, 1)
            await ctx.tick().until(dut.program.ready)
            ctx.set(dut.program.valid, 0)

    async def collect(ctx: SimulatorContext) -> None:
        cycle, waiting = 0, None
        total = sum(steps_of(program) * words_of(program) for program in programs)
        while len(words) < total:
            ctx.set(dut.word.ready, random.random() >= stall)
            _, _, valid, ready, payload, taken = await ctx.tick().sample(
                dut.word.valid, dut.word.ready, dut.word.payload, dut.program.valid & dut.program.ready
            )
            if waiting is not None:
                assert valid and payload == waiting, "a word changed before it was taken"
            waiting = payload if valid and not ready else None
            if valid and ready:
                words.append({name: getattr(payload, name) for name, _ in payload.shape()})
                cycles.append(cycle)
            if taken:
                accepted.append(cycle)
            cycle += 1

    simulate(dut, collect, background=(feed,))
    return words, cycles, accepted


@pytest.mark.parametrize(
    "config, lane, stall",
    [(TINY, 0, 0.5), (TINY, 1, 0.0), (TINY, 2, 0.5), (TINY, 3, 0.1), (ONLY_W4, 3, 0.3), (ONLY_W8, 1, 0.3)],
    ids=lambda value: getattr(value, "name", str(value)),
)
@pytest.mark.parametrize("seed", [1])
def test_random_programs(config: NpuConfig, lane: int, seed: int, stall: float) -> None:
    random = Random(seed)
    programs = [random_program(random, config, max_pixels=20) for _ in range(8)]
    programs = list(with_partial_programs(random, config, programs))
    words, _, _ = generate(config, lane, programs, seed=seed, stall=stall)
    expected = [
        word
        for program, begins in zip(programs, begins_tile(programs), strict=True)
        for word in expected_words(program, lane, begins=begins)
    ]
    assert [{key: word[key] for key in reference} for word, reference in zip(words, expected, strict=True)] == expected


@pytest.mark.parametrize("seed", [1])
def test_full_speed(seed: int) -> None:
    """A word every cycle, from step to step and from program to program."""
    random = Random(seed)
    candidates = [random_program(random, TINY, max_pixels=20) for _ in range(20)]
    programs = [LaneProgram(lanes=1, tile_width=4)] * 4 + [each for each in candidates if words_of(each) >= 2]
    _, cycles, accepted = generate(TINY, 0, programs, seed=seed, stall=0.0)
    start = accepted[0] + AddressGenerator.START_LATENCY
    assert cycles == list(range(start, start + len(cycles)))


def test_largest_coordinates() -> None:
    """The largest coordinates that can be encoded neither wrap nor count as inside."""
    far = LaneProgram(
        lanes=1, input_height=4095, input_width=4095, stride_y=15, stride_x=15, dilation_y=15, dilation_x=15
    )
    programs = [
        dataclasses.replace(far, origin_y=4095, tile_height=511, kernel_height=2),
        dataclasses.replace(far, origin_x=-4096, tile_width=511, kernel_width=2),
        dataclasses.replace(far, origin_x=4095, tile_width=300, kernel_width=3),
    ]
    words, _, _ = generate(TINY, 0, programs, seed=0, stall=0.0)
    expected = [word["padding"] for program in programs for word in expected_words(program, 0)]
    assert [word["padding"] for word in words] == expected
