"""The window reader against plain integers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from ppu_bench import Banks, Bench, gang_masks, reduce_windows, to_fields, window_positions

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth, Reduction, Window
from tessera.rtl.ppu import WindowReader

TINY = NpuConfig.preset("tiny")
CONFIGS = {
    "tiny": TINY,
    "edge": NpuConfig.preset("edge"),
    "a4": replace(TINY, lanes=1, activation_depths=(4,)),
    "a8_of_four_lanes": replace(TINY, activation_depths=(4, 8)),
}


def random_program(rng: random.Random, config: NpuConfig, **fixed: object) -> Window:
    """A program that reads within the banks; windows may lie partly or wholly outside the input."""
    depth = Depth.of(rng.choice(config.activation_depths))
    height, width = rng.randint(1, 9), rng.randint(1, 9)
    values = {
        "lanes": rng.choice(gang_masks(config, depth.digits)),
        "depth": depth,
        "signed": rng.randrange(2),
        "reduction": rng.choice(list(Reduction)),
        "input_base": rng.randrange(config.activation_words - height * 16),
        "half": rng.randrange(2),
        "row_pitch": rng.randint(width, 16),
        "input_height": height,
        "input_width": width,
        "origin_y": rng.randint(-3, 2),
        "origin_x": rng.randint(-3, 2),
        "stride_y": rng.randint(1, 4),
        "stride_x": rng.randint(1, 4),
        "kernel_height": rng.randint(1, 4),
        "kernel_width": rng.randint(1, 4),
        "tile_height": rng.randint(1, 3),
        "tile_width": rng.randint(1, 3),
    }
    return Window(**(values | fixed))


class WindowBench(Bench):
    """A window reader with the banks and a slice as neighbours."""

    def execute(self, config: NpuConfig, programs: list[Window]) -> int:
        """Runs the programs and checks results, addresses and the number of ``done``; returns the cycles."""
        dut = WindowReader(config)
        banks = Banks(config, self.rng)
        expected = [result for program in programs for result in reduce_windows(program, banks)]
        results: list[list[int]] = []
        self.send(dut.program, [to_fields(program) for program in programs])
        self.serve_reads(dut.read, banks)
        self.receive(dut.sums, lambda sums: results.append(list(sums)), len(expected))
        done = self.count(dut.done)
        cycles = self.run(dut)
        assert results == expected
        assert len(done) == len(programs)
        return cycles


@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["full_speed", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_programs(name: str, stall: float) -> None:
    """Any programs, one after another, with stalls of the banks and of the slice."""
    rng = random.Random(f"{name}/{stall}")
    config = CONFIGS[name]
    WindowBench(rng, stall).execute(config, [random_program(rng, config) for _ in range(40)])


def test_every_mode() -> None:
    """All depths, signs, gangs, halves and reductions."""
    rng = random.Random(1)
    programs = [
        random_program(rng, TINY, depth=depth, signed=signed, lanes=mask, half=half, reduction=reduction)
        for depth in Depth
        for mask in gang_masks(TINY, depth.digits)
        for signed in range(2)
        for half in range(2)
        for reduction in Reduction
    ]
    WindowBench(rng).execute(TINY, programs)


def test_largest_windows() -> None:
    """Global pooling: the window is the whole map, up to the longest sides that the encoding has."""
    rng = random.Random(2)
    square = random_program(rng, TINY, depth=Depth.A16, lanes=15, reduction=Reduction.SUM, input_base=0, row_pitch=13,
                            input_height=12, input_width=12, origin_y=0, origin_x=0, kernel_height=12,
                            kernel_width=12, tile_height=1, tile_width=1)  # fmt: skip
    wide = replace(square, input_height=2, kernel_height=2, input_width=255, kernel_width=255, row_pitch=255)
    tall = replace(square, input_height=255, kernel_height=255, input_width=2, kernel_width=2)
    programs = [square, wide, tall]
    programs += [replace(program, reduction=Reduction.MAX) for program in programs]
    WindowBench(rng).execute(TINY, programs)


@pytest.mark.parametrize("signed, word", [(0, 0xF), (1, 0x8), (1, 0x0)], ids=["largest", "most_negative", "zero"])
def test_extreme_values(signed: int, word: int) -> None:
    """The extremes of the range reach the result unharmed; ``word`` is every digit of every activation."""
    rng = random.Random(3)
    programs = [
        random_program(rng, TINY, depth=depth, lanes=mask, signed=signed, reduction=reduction)
        for depth in Depth
        for mask in gang_masks(TINY, depth.digits)
        for reduction in Reduction
    ]
    rng.getrandbits = lambda bits: int(f"{word:x}" * (bits // 4), 16)
    WindowBench(rng).execute(TINY, programs)


def test_one_position_per_cycle() -> None:
    """At full speed neither windows nor programs have a pause between them, padding included."""
    rng = random.Random(4)
    programs = [random_program(rng, TINY) for _ in range(30)] + [
        random_program(rng, TINY, kernel_height=1, kernel_width=1, tile_height=9, tile_width=9)
    ]
    cycles = WindowBench(rng).execute(TINY, programs)
    assert cycles <= sum(map(window_positions, programs)) + WindowReader.LATENCY + 2
