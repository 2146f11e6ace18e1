"""The counters of operations against a dictionary, and the report that joins those of all sources."""

from __future__ import annotations

import gc
import random
import re
from collections import Counter, deque
from collections.abc import Callable

import pytest
from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext

from tessera.rtl.config import NpuConfig
from tessera.rtl.control.operation_counters import COUNT_BITS, OperationCounters, OperationReport
from tessera.rtl.interfaces import CONVERSION_COUNT_BITS
from tessera.rtl.isa import OPERATIONS

TINY = NpuConfig.preset("tiny")
MOST = (1 << COUNT_BITS) - 1


def simulate(dut: wiring.Component, bench: Callable) -> None:
    """Runs a bench on a component."""
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("increment_bits", [1, 8, COUNT_BITS])
def test_counters(increment_bits: int) -> None:
    """Random increments, often to the same operation in a row; large ones saturate, and clears come at any time."""
    rng = random.Random(increment_bits)
    dut = OperationCounters(counts=2, increment_bits=increment_bits)

    async def bench(ctx: SimulatorContext) -> None:
        counted: Counter[tuple[int, int]] = Counter()
        under_way: deque[tuple[int, list[int]]] = deque([(0, [0, 0])] * (dut.LATENCY - 1))
        largest = 0
        for cycle in range(3000):
            operation, selected, clear = rng.choice((3, 4, 60)), rng.choice((3, 4, 60, 61)), rng.random() < 0.003
            increments = [rng.getrandbits(increment_bits) * rng.getrandbits(1) for _ in range(2)]
            ctx.set(dut.clear, clear)
            ctx.set(dut.operation, operation)
            ctx.set(dut.selected, selected)
            for port, value in zip(dut.increments, increments, strict=True):
                ctx.set(port, value)
            values = [ctx.get(port) for port in dut.values]
            assert values == [counted[selected, index] for index in range(2)], f"cycle {cycle}"
            largest = max(largest, *values)
            await ctx.tick()
            under_way.append((operation, increments))
            earlier, amounts = under_way.popleft()
            for index, amount in enumerate(amounts):
                counted[earlier, index] = min(counted[earlier, index] + amount, MOST)
            if clear:
                counted.clear()
                under_way = deque((0, [0, 0]) for _ in under_way)
        assert (largest == MOST) == (increment_bits == COUNT_BITS)

    simulate(dut, bench)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_impossible_increments() -> None:
    message = f"increments must have from 1 to {COUNT_BITS} bits, as the counts have, not 33"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OperationCounters(counts=1, increment_bits=33)
    gc.collect()  # those that never were warn here, and not in the middle of another test


def test_report() -> None:
    """Every source counts for an operation of its own, and what two sources count for one operation adds up."""
    rng = random.Random(1)
    delay = 5
    dut = OperationReport(TINY, overflow_latency=delay)
    sources = {
        "saturations": [(op, value) for op, value in zip(dut.slice_operations, dut.slice_saturations, strict=True)],
        "not_a_number": [(dut.load_operation, dut.load_not_a_number)],
        "underflows": [(dut.load_operation, dut.load_underflows), (dut.store_operation, dut.store_underflows)],
        "overflows": [(dut.load_operation, dut.load_overflows), (dut.store_operation, dut.store_overflows)],
    }
    operations = [*dut.slice_operations, dut.load_operation, dut.store_operation, *dut.lane_operations]

    async def bench(ctx: SimulatorContext) -> None:
        counted: Counter[tuple[str, int]] = Counter()
        overflowed = [0] * OPERATIONS
        lane_operations: deque[list[int]] = deque(maxlen=delay + 1)
        for _ in range(400):
            for port in operations:
                ctx.set(port, rng.randrange(OPERATIONS))
            lane_operations.append([ctx.get(port) for port in dut.lane_operations])
            for name, ports in sources.items():
                for operation, port in ports:
                    value = rng.randrange(TINY.cols + 1 if name == "saturations" else 1 << CONVERSION_COUNT_BITS)
                    ctx.set(port, value)
                    counted[name, ctx.get(operation)] += value
            for lane, port in enumerate(dut.lane_overflows):
                overflows = len(lane_operations) > delay and rng.random() < 0.1
                ctx.set(port, overflows)
                overflowed[lane_operations[0][lane]] |= overflows << lane
            await ctx.tick()
        for _, port in [*(pair for ports in sources.values() for pair in ports)]:
            ctx.set(port, 0)
        for port in dut.lane_overflows:
            ctx.set(port, 0)
        await ctx.tick().repeat(OperationCounters.LATENCY)
        for operation in range(OPERATIONS):
            ctx.set(dut.selected, operation)
            await ctx.tick()
            for name in sources:
                assert ctx.get(getattr(dut, name)) == counted[name, operation], f"{name} of {operation}"
            assert ctx.get(dut.overflow) == overflowed[operation], operation
        assert len(set(overflowed)) > 4

    simulate(dut, bench)
