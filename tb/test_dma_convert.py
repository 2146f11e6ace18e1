"""The depth converter at every depth, sign and shift."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import unsigned
from amaranth.sim import Simulator
from dma_model import convert

from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.convert import VALUE_BITS, DepthConverter
from tessera.rtl.isa import Depth

LOWEST, HIGHEST = -(1 << VALUE_BITS - 2), (1 << VALUE_BITS - 1) - 1
"""Values that an activation of 16 bits can have, signed or not."""


def interesting_value(rng: random.Random, shift: int, depth: Depth) -> int:
    """A value near a tie, near a limit of the result, or any."""
    unit = 2**shift if shift > 0 else 1
    limit = rng.choice((0, 1 << depth.bits - 1, 1 << depth.bits, -(1 << depth.bits - 1)))
    at_limit = limit * unit if shift > 0 else limit >> -shift
    value = rng.choice(
        (
            rng.randint(LOWEST, HIGHEST),
            rng.randint(-16, 16),
            (2 * rng.randint(-20, 20) + 1) * unit // 2,
            at_limit + rng.randint(-2, 2),
            at_limit + unit // 2 - rng.randint(0, 2),
            rng.choice((LOWEST, HIGHEST, 0, -1)),
        )
    )
    return min(max(value, LOWEST), HIGHEST)


def random_cases(rng: random.Random, channels: int) -> list[tuple[Depth, int, int, list[int]]]:
    """Depth, sign, shift and values of every kind of conversion, in random order."""
    cases = [
        (depth, signed, shift, [interesting_value(rng, shift, depth) for _ in range(channels)])
        for depth in Depth
        for signed in range(2)
        for shift in range(-16, 16)
    ]
    rng.shuffle(cases)
    return cases


@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["free", "stalls"])
@pytest.mark.parametrize("seed", range(2))
def test_every_conversion(stall: float, seed: int) -> None:
    config = NpuConfig.preset("tiny")
    rng = random.Random(f"{stall} {seed}")
    cases = random_cases(rng, config.word_digits)
    dut = DepthConverter(config, unsigned(16))
    results: list[tuple[int, int, list[int]]] = []
    cycles = 0

    async def testbench(ctx) -> None:
        nonlocal cycles
        offered, valid = 0, False
        while len(results) < len(cases):
            valid = offered < len(cases) and (valid or rng.random() >= stall)
            ctx.set(dut.input.valid, valid)
            if valid:
                depth, signed, shift, values = cases[offered]
                payload = {"values": values, "depth": depth, "signed": signed, "shift": shift, "settings": offered}
                ctx.set(dut.input.payload, payload)
            ctx.set(dut.output.ready, ready := rng.random() >= stall)
            if ready and ctx.get(dut.output.valid):
                out = ctx.get(dut.output.payload)
                results.append((out.settings, out.depth, list(out["values"])))
            if valid and ctx.get(dut.input.ready):
                offered, valid = offered + 1, False
            await ctx.tick()
            cycles += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()
    for index, (depth, signed, shift, values) in enumerate(cases):
        expected = [convert(value, shift, depth.bits, signed) & 0xFFFF for value in values]
        assert results[index] == (index, depth, expected), (depth, signed, shift, values)
    if not stall:
        assert cycles == len(cases) + DepthConverter.LATENCY
