"""The accumulators: random tiles against Python integers, drained while the next tile accumulates."""

from __future__ import annotations

import dataclasses
from collections import deque
from random import Random

import pytest
from amaranth.sim import SimulatorContext
from block_simulation import simulate

from tessera.rtl.array import Accumulators
from tessera.rtl.array.multiplier_array import sum_bits
from tessera.rtl.config import ACCUMULATE_CYCLES, NpuConfig

TINY = NpuConfig.preset("tiny")
NARROW = dataclasses.replace(TINY, name="narrow", accumulator_bits=16)


class AccumulatorBench:
    """Makes tiles of random sums, and drains them; ``stall`` delays sums and drain."""

    def __init__(self, config: NpuConfig, tiles: list[tuple[int, int]], *, seed: int, stall: float):
        self.dut = Accumulators(config)
        self.config, self.tiles, self.stall = config, tiles, stall
        self.random = Random(seed)
        self.expected: list[list[list[int]]] = []
        self.drained: list[list[list[int]]] = []
        self.coming = deque([[0] * config.cols] * (Accumulators.SUMS_CYCLES - 1))
        self.cycle = 0
        self.last_control: list[int] = []
        self.full: list[int] = []
        self.wrapped: list[int] = []
        self.overflows: list[int] = []

    def run(self) -> None:
        simulate(self.dut, self._drain, background=(self._count, self._accumulate))
        assert self.drained == self.expected
        assert self.overflows == [cycle + Accumulators.OVERFLOW_CYCLES for cycle in self.wrapped]

    def _pause(self) -> bool:
        return self.random.random() < self.stall

    def _random_sums(self) -> list[int]:
        limit = 1 << (sum_bits(self.config) - 1)
        extreme = self.random.choice([-limit, limit - 1, None])
        return [self.random.randrange(-limit, limit) if extreme is None else extreme for _ in range(self.config.cols)]

    async def _count(self, ctx: SimulatorContext) -> None:
        was_full = False
        while True:
            full = bool(ctx.get(self.dut.drain.full))
            if full and not was_full:
                self.full.append(self.cycle)
            was_full = full
            if ctx.get(self.dut.overflow):
                self.overflows.append(self.cycle)
            await ctx.tick()
            self.cycle += 1

    async def _accumulate(self, ctx: SimulatorContext) -> None:
        dut = self.dut
        half = 1 << (self.config.accumulator_bits - 1)
        for pixels, steps in self.tiles:
            totals = [[0] * self.config.cols for _ in range(pixels)]
            while not ctx.get(dut.free) or self._pause():
                await self._send(ctx, None)
            ctx.set(dut.reserve, 1)
            for step in range(steps):
                for pixel in range(pixels):
                    sums = self._random_sums()
                    exact = [a + b for a, b in zip(totals[pixel], sums, strict=True)]
                    totals[pixel] = [(value + half) % (2 * half) - half for value in exact]
                    if totals[pixel] != exact:
                        self.wrapped.append(self.cycle)
                    last = (step, pixel) == (steps - 1, pixels - 1)
                    ctx.set(dut.valid, 1)
                    ctx.set(dut.control, {"pixel": pixel, "overwrite": step == 0, "last": last})
                    if last:
                        self.last_control.append(self.cycle)
                    await self._send(ctx, sums)
                    while self._pause():
                        await self._send(ctx, None)
                for _ in range(ACCUMULATE_CYCLES - pixels):
                    await self._send(ctx, None)
            self.expected.append(totals)
        for _ in range(dut.SUMS_CYCLES):
            await self._send(ctx, None)

    async def _send(self, ctx: SimulatorContext, sums: list[int] | None) -> None:
        """One cycle; the sums, or garbage, come ``SUMS_CYCLES`` later."""
        dut = self.dut
        if sums is None:
            ctx.set(dut.valid, 0)
            sums = self._random_sums()
        self.coming.append(sums)
        await ctx.tick()
        ctx.set(dut.reserve, 0)
        for port, value in zip(dut.sums, self.coming.popleft(), strict=True):
            ctx.set(port, value)
        ctx.set(dut.valid, 0)

    async def _drain(self, ctx: SimulatorContext) -> None:
        drain = self.dut.drain
        for pixels, _ in self.tiles:
            while not ctx.get(drain.full) or self._pause():
                await ctx.tick()
            tile = []
            for pixel in range(pixels):
                ctx.set(drain.enable, 1)
                ctx.set(drain.pixel, pixel)
                ctx.set(drain.release, pixel == pixels - 1)
                await ctx.tick()
                ctx.set(drain.enable, 0)
                ctx.set(drain.release, 0)
                for _ in range(10 * self._pause()):
                    await ctx.tick()
                tile.append([ctx.get(value) for value in drain.sums])
            self.drained.append(tile)


def random_tiles(seed: int, count: int) -> list[tuple[int, int]]:
    """Pixels and steps of tiles."""
    random = Random(seed)
    return [(random.choice([1, 2, 3, 5, 16, 64]), random.randint(1, 7)) for _ in range(count)]


@pytest.mark.parametrize(
    "config, seed, stall",
    [(TINY, 1, 0.0), (TINY, 2, 0.1), (TINY, 3, 0.5), (NARROW, 4, 0.2)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_random_tiles(config: NpuConfig, seed: int, stall: float) -> None:
    bench = AccumulatorBench(config, random_tiles(seed, 16), seed=seed, stall=stall)
    bench.run()
    assert bool(bench.wrapped) == (config is NARROW)


def test_full_latency() -> None:
    bench = AccumulatorBench(TINY, [(4, 2)] * 3 + [(1, 9)], seed=0, stall=0.0)
    bench.run()
    assert bench.full == [cycle + Accumulators.FULL_CYCLES for cycle in bench.last_control]
