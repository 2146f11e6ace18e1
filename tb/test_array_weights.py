"""The weight loader: blocks of random programs in the right order, and one every `rows` cycles at full speed."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext
from block_simulation import simulate

from tessera.rtl.array import WeightLoader
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import LaneProgram

TINY = NpuConfig.preset("tiny")


class WeightBench:
    """Writes the bank, hands over programs, takes every block; ``stall`` delays programs and takes."""

    def __init__(self, programs: list[LaneProgram], *, seed: int, stall: float):
        self.dut = WeightLoader(TINY)
        self.programs, self.stall = programs, stall
        self.random = Random(seed)
        self.bank = np.random.default_rng(seed).integers(0, 256, TINY.weight_bank_bytes, np.uint8)
        self.blocks: list[bytes] = []
        self.takes: list[int] = []
        self.accepted: list[int] = []

    def run(self) -> None:
        simulate(self.dut, self._take, background=(self._feed,))

    def expected_blocks(self) -> list[bytes]:
        """Every program's blocks from its base on, running on from the end of the bank to its beginning."""
        blocks, size = [], TINY.weight_block_bytes
        doubled = self.bank.tobytes() * 2
        for program in self.programs:
            for step in range(program.kernel_height * program.kernel_width * program.channel_steps):
                start = (program.weight_base * TINY.beat_bytes + step * size) % len(self.bank)
                blocks.append(doubled[start : start + size])
        return blocks

    def _pause(self) -> bool:
        return self.random.random() < self.stall

    async def _feed(self, ctx: SimulatorContext) -> None:
        dut = self.dut
        ctx.set(dut.weight_write.enable, 1)
        for address, beat in enumerate(self.bank.reshape(-1, TINY.beat_bytes)):
            ctx.set(dut.weight_write.address, address)
            ctx.set(dut.weight_write.data, int.from_bytes(beat.tobytes(), "little"))
            await ctx.tick()
        ctx.set(dut.weight_write.enable, 0)
        for program in self.programs:
            while self._pause():
                await ctx.tick()
            for name in ("kernel_height", "kernel_width", "channel_steps", "weight_base"):
                ctx.set(dut.program.payload[name], getattr(program, name))
            ctx.set(dut.program.valid, 1)
            await ctx.tick().until(dut.program.ready)
            ctx.set(dut.program.valid, 0)

    async def _take(self, ctx: SimulatorContext) -> None:
        """Takes blocks, and looks at each one until the next one has replaced it."""
        dut, cycle, due = self.dut, 0, []
        while len(self.blocks) < len(self.expected_blocks()):
            take = ctx.get(dut.ready) and not self._pause()
            ctx.set(dut.take, take)
            if take:
                self.takes.append(cycle)
                due.append(cycle + dut.TAKE_CYCLES)
            if ctx.get(dut.program.valid) and ctx.get(dut.program.ready):
                self.accepted.append(cycle)
            current = b"".join(ctx.get(row).to_bytes(TINY.cols, "little") for row in dut.weights)
            if due and due[0] == cycle:
                due.pop(0)
                self.blocks.append(current)
            elif self.blocks:
                assert current == self.blocks[-1]
            await ctx.tick()
            cycle += 1


def random_programs(seed: int, count: int) -> list[LaneProgram]:
    random = Random(seed)
    return [
        LaneProgram(
            lanes=1,
            kernel_height=random.randint(1, 3),
            kernel_width=random.randint(1, 3),
            channel_steps=random.randint(1, 4),
            weight_base=random.choice([random.randrange(TINY.weight_beats), TINY.weight_beats - 1]),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed, stall", [(1, 0.0), (2, 0.1), (3, 0.8)])
def test_random_programs(seed: int, stall: float) -> None:
    bench = WeightBench(random_programs(seed, 10), seed=seed, stall=stall)
    bench.run()
    assert bench.blocks == bench.expected_blocks()


@pytest.mark.parametrize("seed", [1])
def test_full_speed(seed: int) -> None:
    """A block every ``rows`` cycles, also from program to program and for programs of one block."""
    programs = random_programs(seed, 6) + [LaneProgram(lanes=1, weight_base=address) for address in range(6)]
    bench = WeightBench(programs, seed=seed, stall=0.0)
    bench.run()
    first = bench.accepted[0] + bench.dut.start_latency
    assert bench.takes == [first + TINY.rows * block for block in range(len(bench.blocks))]
