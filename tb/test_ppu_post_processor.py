"""Both slices, their window readers and the routing of the drain ports, against plain integers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from ppu_bench import Banks, Bench, combine, post_process, reduce_windows, to_fields
from test_ppu_slice import random_parameters, random_program, random_tile
from test_ppu_window import random_program as random_window

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import PPU_SLICES, PostProcess, Source, Window, lanes_of_mask
from tessera.rtl.ppu import PostProcessor

TINY = NpuConfig.preset("tiny")
SINGLE = replace(TINY, lanes=1, activation_depths=(4,))


def random_pair(rng: random.Random, config: NpuConfig, shifts: list[int], quarter: int, masks: tuple[int, ...]):
    """A program that writes to one quarter of the banks, and the window program that feeds it, if any."""
    program = random_program(rng, config, shifts, lanes=rng.choice(masks))
    size = config.activation_words // 4
    program = replace(program, output_base=quarter * size + program.output_base % (size // 2))
    if program.source == Source.LANES:
        return program, None
    window = random_window(rng, config, tile_height=program.tile_height, tile_width=program.tile_width)
    half_space = config.activation_words // 2
    return program, replace(window, input_base=half_space + window.input_base % (half_space // 2))


class PostProcessorBench(Bench):
    """The unit with all its neighbours, and the reference beside it."""

    def execute(self, config: NpuConfig, work: list[list[tuple[PostProcess, Window | None]]], parameters: list) -> int:
        """Runs each slice's work, and checks memory, saturations and the ``done`` pulses; returns the cycles."""
        dut = PostProcessor(config)
        banks = Banks(config, self.rng)
        expected = banks.copy()
        lane_tiles: list[list] = [[] for _ in range(config.lanes)]
        saturations = [0] * PPU_SLICES
        for index, pairs in enumerate(work):
            for program, window in pairs:
                if window:
                    sums = reduce_windows(window, expected)
                else:
                    tile = random_tile(self.rng, config, program)
                    sums = [combine(config, program.lanes, tile, pixel) for pixel in range(len(tile[0]))]
                    for lane in lanes_of_mask(program.lanes):
                        lane_tiles[lane].append(tile[lane])
                saturations[index] += post_process(program, sums, parameters[program.parameter_block], expected)
            self.send(dut.program[index], [to_fields(program) for program, _ in pairs])
            self.send(dut.window_program[index], [to_fields(window) for _, window in pairs if window])
            self.serve_reads(dut.residual_read[index], banks)
            self.serve_reads(dut.window_read[index], banks)
            self.receive(
                dut.write[index],
                lambda it: banks.write_words(it.lanes, it.address, it.halves, list(it.words)),
                sum(program.tile_height * program.tile_width for program, _ in pairs),
            )
        self.load_parameters(dut.parameter_write, config, parameters)
        left = [self.provide_tiles(dut.drain[lane], lane_tiles[lane]) for lane in range(config.lanes)]
        done = [self.count(port) for port in dut.done]
        window_done = [self.count(port) for port in dut.window_done]
        counted = [self.count(port) for port in dut.saturations]
        cycles = self.run(dut)
        assert banks.words == expected.words
        assert [sum(value for _, value in each) for each in counted] == saturations
        assert [len(pulses) for pulses in done] == [len(pairs) for pairs in work]
        assert [len(pulses) for pulses in window_done] == [
            sum(window is not None for _, window in pairs) for pairs in work
        ]
        assert not any(left), "not every tile was released"
        return cycles


@pytest.mark.parametrize("stall", [0.0, 0.3], ids=["full_speed", "stalls"])
@pytest.mark.parametrize("masks", [((1, 2, 3), (4, 8, 12)), ((4, 8, 12), (1, 2, 3))], ids=["straight", "crossed"])
def test_two_slices(masks: tuple[tuple[int, ...], tuple[int, ...]], stall: float) -> None:
    """Both slices work at once, each on lanes and windows of its own."""
    rng = random.Random(f"{masks}/{stall}")
    shifts = [rng.randrange(33) for _ in range(4)]
    parameters = [random_parameters(rng, TINY, shift) for shift in shifts]
    work = [
        [random_pair(rng, TINY, shifts, quarter=index, masks=masks[index]) for _ in range(15)]
        for index in range(PPU_SLICES)
    ]
    PostProcessorBench(rng, stall).execute(TINY, work, parameters)


def test_whole_gang_and_windows() -> None:
    """One slice drains all four lanes while the other is fed by its window reader."""
    rng = random.Random(1)
    shifts = [rng.randrange(33) for _ in range(4)]
    parameters = [random_parameters(rng, TINY, shift) for shift in shifts]
    pairs = [random_pair(rng, TINY, shifts, quarter=1, masks=(1,)) for _ in range(40)]
    work = [
        [random_pair(rng, TINY, shifts, quarter=0, masks=(15,)) for _ in range(15)],
        [pair for pair in pairs if pair[1]][:15],
    ]
    PostProcessorBench(rng, 0.2).execute(TINY, work, parameters)


def test_one_lane() -> None:
    """The smallest machine."""
    rng = random.Random(2)
    parameters = [random_parameters(rng, SINGLE, 5) for _ in range(2)]
    pairs = [random_pair(rng, SINGLE, [5, 5], quarter=1, masks=(1,)) for _ in range(40)]
    work = [
        [random_pair(rng, SINGLE, [5, 5], quarter=0, masks=(1,)) for _ in range(10)],
        [pair for pair in pairs if pair[1]][:10],
    ]
    PostProcessorBench(rng, 0.2).execute(SINGLE, work, parameters)
