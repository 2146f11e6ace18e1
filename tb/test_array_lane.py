"""The lane: random programs against the reference, with stalls everywhere and at full speed."""

from __future__ import annotations

import dataclasses
import gc
from bisect import bisect_left
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext
from block_simulation import simulate
from lane_reference import (
    pixels_of,
    random_program,
    steps_of,
    tile_sums,
    tiles_of,
    with_partial_programs,
    words_of,
)

from tessera.rtl.array import Lane
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import LaneProgram, WeightDepth, fields_of
from tessera.sim.stream import StreamError, StreamModel

TINY = NpuConfig.preset("tiny")
EDGE = NpuConfig.preset("edge")
ONLY_W4 = dataclasses.replace(TINY, name="only_w4", weight_depths=(4,))
ONLY_W8 = dataclasses.replace(TINY, name="only_w8", weight_depths=(8,))
NARROW = dataclasses.replace(TINY, name="narrow", accumulator_bits=16)
ONLY_A4 = dataclasses.replace(TINY, name="only_a4", activation_depths=(4,), lanes=1, accumulator_bits=16)


class LaneBench:
    """A lane with a model of its activation bank, a writer of its weights, a source of programs and a drain.

    ``stall`` is the probability, each cycle, that the bank is not ready, a program is late, or the drain pauses.
    """

    def __init__(self, config: NpuConfig, index: int, programs: Sequence[LaneProgram], *, seed: int, stall: float):
        self.config, self.index, self.programs, self.stall = config, index, programs, stall
        self.random = Random(seed)
        values = np.random.default_rng(seed)
        self.bank = values.integers(0, 16, (config.activation_words, config.word_digits), np.uint8)
        self.weights = values.integers(0, 256, config.weight_bank_bytes, np.uint8)
        self.lane = Lane(config, index)
        self.cycle = 0
        self.accepted: list[int] = []
        self.done: list[int] = []
        self.full: list[int] = []
        self.tiles: list[np.ndarray] = []
        self.overflows: list[int] = []

    def run(self) -> None:
        """Runs all programs and compares every tile with the reference."""
        simulate(self.lane, self._main, background=(self._watch, self._serve_bank, self._feed))
        for number, (programs, tile) in enumerate(zip(tiles_of(self.programs), self.tiles, strict=True)):
            expected = tile_sums(programs, self.config, self.index, self.bank, self.weights)
            np.testing.assert_array_equal(tile, expected, err_msg=f"tile {number}: {programs}")
        assert len(self.done) == len(self.programs)

    def _pause(self) -> bool:
        return self.random.random() < self.stall

    async def _watch(self, ctx: SimulatorContext) -> None:
        lane, was_full = self.lane, 0
        taken = lane.program.ready & lane.program.valid
        while True:
            _, _, accepted, done, full, overflow = await ctx.tick().sample(
                taken, lane.done, lane.drain.full, lane.overflow
            )
            if overflow:
                self.overflows.append(self.cycle)
            if accepted:
                self.accepted.append(self.cycle)
            if done:
                self.done.append(self.cycle)
            if full and not was_full:
                self.full.append(self.cycle)
            was_full = full
            self.cycle += 1

    async def _serve_bank(self, ctx: SimulatorContext) -> None:
        lane = self.lane
        while True:
            ctx.set(lane.read.request.ready, not self._pause())
            _, _, valid, ready, address = await ctx.tick().sample(
                lane.read.request.valid, lane.read.request.ready, lane.read.request.payload
            )
            if valid and ready:
                digits = self.bank[address]
            else:
                digits = [self.random.randrange(16) for _ in range(self.config.word_digits)]
            ctx.set(lane.read.data, sum(int(digit) << 4 * i for i, digit in enumerate(digits)))

    async def _feed(self, ctx: SimulatorContext) -> None:
        port = self.lane.program
        await self._write_weights(ctx)
        for program in self.programs:
            while self._pause():
                await ctx.tick()
            for field in fields_of(LaneProgram):
                ctx.set(port.payload[field.name], int(getattr(program, field.name)))
            ctx.set(port.valid, 1)
            await ctx.tick().until(port.ready)
            ctx.set(port.valid, 0)

    async def _write_weights(self, ctx: SimulatorContext) -> None:
        port = self.lane.weight_write
        ctx.set(port.enable, 1)
        for address, beat in enumerate(self.weights.reshape(-1, self.config.beat_bytes)):
            ctx.set(port.address, address)
            ctx.set(port.data, int.from_bytes(beat.tobytes(), "little"))
            await ctx.tick()
        ctx.set(port.enable, 0)

    async def _main(self, ctx: SimulatorContext) -> None:
        for programs in tiles_of(self.programs):
            self.tiles.append(await self._drain_tile(ctx, pixels_of(programs[0])))

    async def _drain_tile(self, ctx: SimulatorContext, pixels: int) -> np.ndarray:
        """Reads a tile, pixel after pixel; a pause comes between the enable and the look at the sums."""
        drain = self.lane.drain
        while not ctx.get(drain.full):
            await ctx.tick()
        tile = np.zeros((pixels, self.config.cols), np.int64)
        for pixel in range(pixels):
            ctx.set(drain.enable, 1)
            ctx.set(drain.pixel, pixel)
            ctx.set(drain.release, pixel == pixels - 1)
            await ctx.tick()
            ctx.set(drain.release, 0)
            while self._pause():
                ctx.set(drain.enable, 0)
                ctx.set(drain.pixel, self.random.randrange(self.config.accumulator_pixels))
                await ctx.tick()
            tile[pixel] = [ctx.get(total) for total in drain.sums]
        ctx.set(drain.enable, 0)
        while self.random.random() < 0.9 * self.stall:
            await ctx.tick()
        return tile


def random_programs(seed: int, config: NpuConfig, count: int, **limits: int) -> list[LaneProgram]:
    random = Random(seed)
    return [random_program(random, config, **limits) for _ in range(count)]


@pytest.mark.parametrize(
    "config, index, stall",
    [
        (TINY, 0, 0.5),
        (TINY, 1, 0.1),
        (TINY, 2, 0.0),
        (TINY, 3, 0.5),
        (ONLY_W4, 2, 0.3),
        (ONLY_W8, 1, 0.3),
        (ONLY_A4, 0, 0.3),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
@pytest.mark.parametrize("seed", [1])
def test_random_programs(config: NpuConfig, index: int, seed: int, stall: float) -> None:
    programs = random_programs(seed, config, 12, max_pixels=24)
    programs += random_programs(seed, config, 1, max_pixels=config.accumulator_pixels, max_kernel=2)
    programs = list(with_partial_programs(Random(seed), config, programs))
    assert any(program.partial for program in programs)
    LaneBench(config, index, programs, seed=seed, stall=stall).run()


@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_short_steps_with_stalls(pixels: int) -> None:
    """A stall inside a step brings its pixels nearer to those of the next step than the accumulators allow."""
    program = LaneProgram(lanes=1, tile_width=pixels, channel_steps=30, input_width=pixels, block_pitch=pixels)
    LaneBench(TINY, 0, [program] * 2, seed=pixels, stall=0.5).run()


def test_overflow() -> None:
    """The lane says that a sum left the range of the accumulators in the programs in which the stream model does: a
    program's overflows come not later than ``overflow_latency`` after its ``done``, and after those of the one before.
    """
    config, index = NARROW, 1
    found = []
    for seed in range(40, 52):
        programs = [
            dataclasses.replace(
                program, operation=number, weight_depth=WeightDepth.W8, signed=0, weight_base=0, pad=0xFFFF
            )
            for number, program in enumerate(random_programs(seed, config, 3, max_pixels=8, max_kernel=3))
        ]
        bench = LaneBench(config, index, programs, seed=seed, stall=0.2)
        bench.bank |= 8
        bench.weights = np.random.default_rng(seed).integers(70, 128, bench.weights.shape, np.uint8)
        bench.run()
        model = StreamModel(config)
        model.activations[index], model.weights[index] = bench.bank, bench.weights
        try:
            for program in programs:
                model.compute_tile(program, index)
        except StreamError:  # the model does not let weights wrap around
            continue
        last_cycles = [done + bench.lane.overflow_latency for done in bench.done]
        overflowed = {bisect_left(last_cycles, cycle) for cycle in bench.overflows}
        expected = {number for number, counts in enumerate(model.operation_counts) if counts.overflow}
        assert overflowed == expected, f"seed {seed}"
        assert model.counts.overflow in (0, 1 << index)
        found += [number in expected for number in range(len(programs))]
    assert 2 <= sum(found) <= len(found) - 2, found


@pytest.mark.parametrize("config, index, count", [(EDGE, 1, 4), (EDGE, 2, 3)], ids=["lane1", "lane2"])
def test_edge(config: NpuConfig, index: int, count: int) -> None:
    programs = random_programs(index, config, count, max_pixels=64, max_kernel=2)
    LaneBench(config, index, programs, seed=index, stall=0.1).run()


@pytest.mark.parametrize("seed", range(2))
def test_full_speed(seed: int) -> None:
    """A step takes max(words, rows) cycles, and nothing comes between steps nor between tiles."""
    bench, max_pixels = LaneBench(TINY, 3, [], seed=seed, stall=0.0), 16

    def cycles(program: LaneProgram) -> int:
        return steps_of(program) * max(words_of(program), TINY.rows)

    def hides_drain(program: LaneProgram) -> bool:
        return cycles(program) >= max_pixels + bench.lane.finish_latency

    bench.programs = list(filter(hides_drain, random_programs(seed, TINY, 30, max_pixels=max_pixels)))
    bench.run()
    start = bench.accepted[0] + bench.lane.start_latency
    done, full = [], []
    for program in bench.programs:
        last_word = start + cycles(program) - max(words_of(program), TINY.rows) + words_of(program) - 1
        done.append(last_word + 1)
        full.append(last_word + bench.lane.finish_latency)
        start += cycles(program)
    assert bench.done == done
    assert bench.full == full


def test_partial_programs_at_full_speed() -> None:
    """Nothing comes between the programs of a tile either, and they need no accumulator memory of their own."""
    shape = {"lanes": 1, "tile_width": TINY.rows, "input_width": TINY.rows, "channel_steps": 1}
    part = LaneProgram(partial=1, **shape)
    bench = LaneBench(TINY, 0, [part] * 20 + [LaneProgram(**shape)], seed=0, stall=0.0)
    bench.run()
    start = bench.accepted[0] + bench.lane.start_latency
    assert bench.done == [start + TINY.rows * (index + 1) for index in range(21)]
    assert len(bench.full) == 1


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_tiles(steps: int) -> None:
    """Tiles of one step of `rows` pixels or fewer wait for an accumulator memory, and for nothing else."""
    program = LaneProgram(lanes=1, tile_width=TINY.rows, channel_steps=steps, input_width=TINY.rows)
    bench = LaneBench(TINY, 0, [program] * 12, seed=steps, stall=0.0)
    bench.run()
    drained = bench.lane.finish_latency - 1 + TINY.rows
    period = max(2 * steps * TINY.rows, steps * TINY.rows + drained)
    assert [later - earlier for earlier, later in zip(bench.done, bench.done[2:], strict=False)] == [period] * 10


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_no_such_lane() -> None:
    with pytest.raises(ValueError, match=r"^there is no lane 4 in configuration 'tiny'; its lanes are 0\.\.3$"):
        Lane(TINY, 4)
    gc.collect()  # the lane that never was warns here, and not in the middle of another test
