"""The activation function of a post-processing slice: every operand of a table, and pixels that stall."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator
from ppu_bench import Bench, to_fields

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth, PostProcess, TableEntry
from tessera.rtl.ppu.activation import ActivationFunction, TableLookup
from tessera.sim.golden.arithmetic import look_up

TINY = NpuConfig.preset("tiny")
NO_TABLES = replace(TINY, tables=0)
Table = list[tuple[int, int]]


def random_table(rng: random.Random, signed: int) -> Table:
    """Base and slope of every segment: any, small ones (so that ties are frequent), and the extremes."""
    low, high = (-(1 << 15), (1 << 15) - 1) if signed else (0, (1 << 16) - 1)

    def number(low: int, high: int) -> int:
        return rng.choice((rng.randint(low, high), low, high, rng.randint(max(low, -9), 9) << rng.randint(0, 8)))

    return [(number(low, high), number(-(1 << 15), (1 << 15) - 1)) for _ in range(TableEntry.SEGMENTS)]


def expected(table: Table, operands: np.ndarray, depth: Depth) -> np.ndarray:
    base, slope = np.array(table, np.int64).T
    return look_up(operands, base, slope, depth.bits)


@pytest.mark.parametrize("signed", [0, 1], ids=["unsigned", "signed"])
@pytest.mark.parametrize("depth", list(Depth), ids=lambda depth: depth.name)
def test_lookup(depth: Depth, signed: int) -> None:
    """Around the ends of every segment, and random operands between, in the second of the tables."""
    rng = random.Random(f"{depth}/{signed}")
    table = random_table(rng, signed)
    ends = [segment << 8 for segment in range(-128, 128)]
    operands = [end + offset for end in ends for offset in (0, 1, 128, 255, rng.randrange(256))]
    dut = TableLookup(TINY)
    results = []

    async def bench(ctx) -> None:
        ctx.set(dut.table_write.enable, 1)
        for index, (base, slope) in enumerate(table):
            ctx.set(dut.table_write.address, TableEntry.SEGMENTS + index)
            ctx.set(dut.table_write.data, int.from_bytes(TableEntry(base, slope).encode(), "little"))
            await ctx.tick()
        ctx.set(dut.table_write.enable, 0)
        ctx.set(dut.load, (1 << TableLookup.LATENCY) - 1)
        ctx.set(dut.settings, {"table": 1, "table_index": 1, "output_depth": depth, "output_signed": signed})
        for operand in operands + [0] * TableLookup.LATENCY:
            ctx.set(dut.operand, operand)
            await ctx.tick()
            results.append(ctx.get(dut.result))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    wanted = expected(table, np.array(operands), depth)
    assert results[TableLookup.LATENCY - 1 : -1] == wanted.tolist()


def random_program(rng: random.Random, config: NpuConfig) -> PostProcess:
    low, high = sorted(rng.randint(-(1 << 15), (1 << 15) - 1) for _ in range(2))
    return PostProcess(
        output_lanes=1,
        output_depth=rng.choice(list(Depth)),
        output_signed=rng.randrange(2),
        tile_height=1,
        tile_width=rng.randint(1, 5),
        clamp_low=low,
        clamp_high=high,
        table=rng.randrange(2) if config.tables else 0,
        table_index=rng.randrange(max(config.tables, 1)),
    )


@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["full_speed", "stalls"])
@pytest.mark.parametrize("config", [TINY, NO_TABLES], ids=["tables", "no_tables"])
def test_programs_follow_each_other(config: NpuConfig, stall: float) -> None:
    """Programs with and without a table, any number of pixels; each pixel has the limits and the table of its own."""
    rng = random.Random(f"{config.tables}/{stall}")
    tables = [random_table(rng, rng.randrange(2)) for _ in range(config.tables)]
    programs = [random_program(rng, config) for _ in range(60)]
    pixels, wanted = [], []
    for program in programs:
        for pixel in range(program.tile_width):
            values = [rng.randint(-(1 << 17), (1 << 17) - 1) >> rng.randint(0, 12) for _ in range(config.cols)]
            pixels.append({"values": values, "last": pixel == program.tile_width - 1})
            clamped = np.clip(np.array(values), program.clamp_low, program.clamp_high)
            if program.table:
                bits = 16 if program.output_signed else 17  # how the unit reads a base
                table = [(_wrap(base, bits), slope) for base, slope in tables[program.table_index]]
                clamped = expected(table, clamped, program.output_depth)
            wanted.append(clamped.tolist())
    bench, dut = Bench(rng, stall), ActivationFunction(config)
    results: list[list[int]] = []

    async def load(ctx) -> None:
        for address, (base, slope) in enumerate(entry for table in tables for entry in table):
            ctx.set(dut.table_write.enable, 1)
            ctx.set(dut.table_write.address, address)
            ctx.set(dut.table_write.data, int.from_bytes(TableEntry(base, slope).encode(), "little"))
            await ctx.tick()
        ctx.set(dut.table_write.enable, 0)

    bench.setup = load
    bench.send(dut.program, [to_fields(program) for program in programs])
    bench.send(dut.rounded, pixels)
    bench.receive(dut.activated, lambda payload: results.append(list(payload)), len(pixels))
    cycles = bench.run(dut)
    assert results == wanted
    if not stall:
        assert cycles <= len(pixels) + ActivationFunction.latency(config) + 3


def _wrap(base: int, bits: int) -> int:
    """The 16 bits of a base, read as two's complement of ``bits`` bits."""
    value = base & 0xFFFF
    return value - (1 << 16) if bits == 16 and value >> 15 else value
