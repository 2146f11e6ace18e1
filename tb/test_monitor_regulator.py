"""The bandwidth regulator and the activity counters under random traffic, against what their descriptions say."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import SimulatorContext
from block_simulation import simulate

from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.monitor.activity import UNIT_COUNTS, ActivityCounters, BusStalls
from tessera.rtl.monitor.regulator import BandwidthRegulator, BurstRegulator
from tessera.rtl.traffic import OWN_IDS

TINY = NpuConfig.preset("tiny")
LONGEST = AXI_BURST_BYTES // TINY.beat_bytes - 1
"""Length of the longest burst, as AXI has it."""


@pytest.mark.parametrize("limit", [1, 100, 256, 1000])
def test_rate(limit: int) -> None:
    """In any n windows less than n times the limit and a longest burst are asked for; the limit is used up where
    there is enough to ask for; and what is offered is passed unchanged, once, and as AXI has it."""
    rng, dut, window = random.Random(limit), BurstRegulator(TINY), 50
    asked: list[int] = []
    offered = passed = 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal offered, passed
        ctx.set(dut.limit, limit)
        waiting = None
        stayed = False
        for cycle in range(6000):
            ends = cycle % window == window - 1
            ctx.set(dut.window_ends, ends)
            if cycle % window == 0:
                asked.append(0)
            if waiting is None and rng.random() < 0.8:
                waiting = {
                    "id": 1,
                    "addr": rng.getrandbits(40),
                    "len": rng.choice((0, LONGEST, rng.randint(0, LONGEST))),
                }
                ctx.set(dut.bursts.payload, waiting)
                offered += 1
            ctx.set(dut.bursts.valid, waiting is not None)
            ready = rng.random() < 0.7
            ctx.set(dut.passed.ready, ready)
            valid = ctx.get(dut.passed.valid)
            assert not (stayed and not valid), "an offer was taken back"
            assert ctx.get(dut.held) == (waiting is not None and not valid)
            assert waiting is None or ctx.get(dut.bursts.ready) == (valid and ready)
            stayed = bool(valid and not ready)
            if valid and ready:
                assert waiting is not None
                assert all(ctx.get(dut.passed.payload[name]) == value for name, value in waiting.items())
                asked[-1] += (waiting["len"] + 1) * TINY.beat_bytes
                passed += 1
                waiting = None
            await ctx.tick()

    simulate(dut, bench)
    assert offered - passed in (0, 1)
    sums = [0]
    for value in asked:
        sums.append(sums[-1] + value)
    for first in range(len(asked)):
        for last in range(first, len(asked)):
            assert sums[last + 1] - sums[first] < (last + 1 - first) * limit + AXI_BURST_BYTES, (first, last)
    assert sums[-1] > 0.8 * min(limit, window * 20) * len(asked)


def test_no_limit_and_release() -> None:
    """Without a limit nothing is held back; a release lets everything pass that a limit holds back."""
    dut = BurstRegulator(TINY)

    async def bench(ctx: SimulatorContext) -> None:
        ctx.set(dut.bursts.valid, 1)
        ctx.set(dut.bursts.payload.len, LONGEST)
        ctx.set(dut.passed.ready, 1)
        for _ in range(20):
            assert ctx.get(dut.passed.valid) and ctx.get(dut.bursts.ready) and not ctx.get(dut.held)
            await ctx.tick()
        ctx.set(dut.limit, 1)
        await ctx.tick()
        for _ in range(20):
            assert not ctx.get(dut.passed.valid) and not ctx.get(dut.bursts.ready) and ctx.get(dut.held)
            await ctx.tick()
        ctx.set(dut.release, 1)
        assert ctx.get(dut.passed.valid) and ctx.get(dut.bursts.ready) and not ctx.get(dut.held)
        await ctx.tick()
        ctx.set(dut.release, 0)
        for _ in range(AXI_BURST_BYTES):
            assert ctx.get(dut.held)
            ctx.set(dut.window_ends, 1)
            await ctx.tick()
        assert ctx.get(dut.passed.valid)

    simulate(dut, bench)


def test_masters_have_limits_of_their_own() -> None:
    dut = BandwidthRegulator(TINY)

    async def bench(ctx: SimulatorContext) -> None:
        for axi_id in range(OWN_IDS):
            ctx.set(dut.bursts[axi_id].valid, 1)
            ctx.set(dut.bursts[axi_id].payload.id, axi_id)
            ctx.set(dut.passed[axi_id].ready, 1)
        ctx.set(dut.limits[1], 1)
        await ctx.tick()
        for axi_id in range(OWN_IDS):
            assert ctx.get(dut.passed[axi_id].valid) == (axi_id != 1)
            assert ctx.get(dut.passed[axi_id].payload.id) == axi_id
        assert ctx.get(dut.held) == 0b010

    simulate(dut, bench)


def test_activity() -> None:
    """Every count is the sum of its increments since the clear, whatever the others do."""
    rng, dut = random.Random(1), ActivityCounters(TINY)

    async def bench(ctx: SimulatorContext) -> None:
        ports = {name: getattr(dut, name) for name in UNIT_COUNTS}
        ports |= {f"lane{index}": port for index, port in enumerate(dut.multiplying)}
        counts = {name: dut.counts[name] for name in UNIT_COUNTS}
        counts |= {f"lane{index}": count for index, count in enumerate(dut.counts.multiplying)}
        expected = dict.fromkeys(ports, 0)
        for _ in range(600):
            clear = rng.random() < 0.01
            ctx.set(dut.clear, clear)
            for name, port in ports.items():
                increment = rng.getrandbits(len(port)) * rng.getrandbits(1)
                ctx.set(port, increment)
                expected[name] = 0 if clear else expected[name] + increment
            await ctx.tick()
            assert {name: ctx.get(count) for name, count in counts.items()} == expected

    simulate(dut, bench)


def test_bus_stalls() -> None:
    """A stall is a cycle in which something waits, or in which data are due and none come."""
    rng, dut = random.Random(2), BusStalls(in_flight=511)

    async def bench(ctx: SimulatorContext) -> None:
        in_flight = 0
        for _ in range(2000):
            waits, asked = rng.random() < 0.1, rng.random() < 0.1
            beat = in_flight > 0 and rng.random() < 0.5
            answered = beat and rng.random() < 0.3
            for name, value in (("waits", waits), ("asked", asked), ("beat", beat), ("answered", answered)):
                ctx.set(getattr(dut, name), value)
            stalled = waits or (in_flight > 0 and not beat)
            in_flight += asked - answered
            await ctx.tick()
            assert ctx.get(dut.stalled) == stalled

    simulate(dut, bench)
