"""A post-processing slice against plain integers: arithmetic, flow control and throughput."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from ppu_bench import Banks, Bench, combine, gang_masks, post_process, to_fields

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import ChannelParameters, Depth, PostProcess, Source, lanes_of_mask
from tessera.rtl.ppu import PostProcessSlice

TINY = NpuConfig.preset("tiny")
EDGE = NpuConfig.preset("edge")
CONFIGS = {
    "tiny": TINY,
    "edge": EDGE,
    "a4": replace(TINY, lanes=1, activation_depths=(4,)),
    "a8_of_four_lanes": replace(TINY, activation_depths=(4, 8), accumulator_bits=32),
}
SMALLEST_TILE_CYCLES = 8
"""Cycles from one tile of one pixel to the next, as long as there are more."""


def random_parameters(rng: random.Random, config: NpuConfig, base_shift: int) -> list[ChannelParameters]:
    """Parameters of a block. Shifts lie from ``base_shift`` to 15 above; small multipliers make ties frequent."""
    return [
        ChannelParameters(
            bias=rng.choice((0, rng.randint(-40, 40), rng.randrange(-(1 << 30) + 1, 1 << 30))),
            multiplier=rng.choice((0, 1, 2, 3, 1 << 15, rng.randrange(1 << 16), (1 << 16) - 1)),
            shift=min(base_shift + rng.randint(0, 15), ChannelParameters.MAX_SHIFT),
        )
        for _ in range(config.cols)
    ]


def random_sum(rng: random.Random, config: NpuConfig) -> int:
    """An accumulator: small, or anything, or extreme."""
    limit = 1 << (config.accumulator_bits - 1)
    return rng.choice((rng.randint(-64, 64), rng.randrange(-limit, limit), -limit, limit - 1))


def random_clamp(rng: random.Random) -> tuple[int, int]:
    """Limits of the activation function: none, ReLU, or any."""
    lowest, highest = -(1 << 16), (1 << 16) - 1
    limits = sorted(rng.randint(lowest, highest) for _ in range(2))
    return rng.choice(((lowest, highest), (0, highest), (0, rng.randint(1, 300)), tuple(limits)))


def random_program(rng: random.Random, config: NpuConfig, blocks: list[int], **fixed: object) -> PostProcess:
    """A program on a random block; ``blocks[i]`` is the smallest shift of block i. Reads and writes other words."""
    depths = [Depth.of(bits) for bits in config.activation_depths]
    block = rng.randrange(len(blocks))
    residual_depth, output_depth = rng.choice(depths), rng.choice(depths)
    gang = rng.choice([size for size in (1, 2, 4) if size <= config.max_gang])
    height, width = rng.choice(((1, 1), (1, rng.randint(1, 9)), (rng.randint(1, 5), rng.randint(1, 5))))
    pitch = rng.randint(width, 20)
    half_space = config.activation_words // 2
    clamp_low, clamp_high = random_clamp(rng)
    values = {
        "source": rng.choice(list(Source)),
        "lanes": rng.choice(gang_masks(config, gang)),
        "tile_height": height,
        "tile_width": width,
        "parameter_block": block,
        "output_lanes": rng.randrange(1, 1 << config.lanes),
        "output_depth": output_depth,
        "output_signed": rng.randrange(2),
        "output_base": rng.randrange(half_space - height * pitch),
        "output_row_pitch": pitch,
        "output_half": rng.randrange(2),
        "clamp_low": clamp_low,
        "clamp_high": clamp_high,
        "residual": rng.randrange(2),
        "residual_lanes": rng.choice(gang_masks(config, residual_depth.digits)),
        "residual_depth": residual_depth,
        "residual_signed": rng.randrange(2),
        "residual_base": half_space + rng.randrange(half_space - height * pitch),
        "residual_row_pitch": pitch,
        "residual_half": rng.randrange(2),
        "residual_multiplier": rng.choice((1, 2, rng.randrange(1 << 16), (1 << 16) - 1)),
        "residual_shift": blocks[block],
    }
    return PostProcess(**(values | fixed))


def random_tile(rng: random.Random, config: NpuConfig, program: PostProcess) -> list[list[list[int]]]:
    """Accumulators ``[lane][pixel][channel]`` of the program's lanes."""
    pixels = program.tile_height * program.tile_width
    return [[[random_sum(rng, config) for _ in range(config.cols)] for _ in range(pixels)] for _ in range(config.lanes)]


class SliceBench(Bench):
    """A slice with all its neighbours, and the reference beside it."""

    def execute(
        self,
        config: NpuConfig,
        programs: list[PostProcess],
        parameters: list[list[ChannelParameters]],
        tiles: list[list[list[list[int]]]] | None = None,
        banks: Banks | None = None,
    ) -> int:
        """Runs the programs and checks memory, saturations and the number of ``done``; returns the cycles."""
        rng = self.rng
        dut = PostProcessSlice(config)
        banks = banks or Banks(config, rng)
        expected = banks.copy()
        tiles = tiles or [random_tile(rng, config, program) for program in programs]
        lane_tiles: list[list] = [[] for _ in range(config.lanes)]
        window_sums, saturations, pixels = [], 0, 0
        for program, tile in zip(programs, tiles, strict=True):
            count = program.tile_height * program.tile_width
            pixels += count
            if program.source == Source.LANES:
                sums = [combine(config, program.lanes, tile, pixel) for pixel in range(count)]
                for lane in lanes_of_mask(program.lanes):
                    lane_tiles[lane].append(tile[lane])
            else:
                sums = tile[0]
                window_sums += sums
            saturations += post_process(program, sums, parameters[program.parameter_block], expected)

        self.load_parameters(dut.parameter_write, config, parameters)
        self.send(dut.program, [to_fields(program) for program in programs])
        self.send(dut.window, window_sums)
        self.serve_reads(dut.residual_read, banks)
        self.receive(dut.write, lambda it: banks.write_words(it.lanes, it.address, it.halves, list(it.words)), pixels)
        left = [self.provide_tiles(dut.drain[lane], lane_tiles[lane]) for lane in range(config.lanes)]
        self.latency = dut.latency
        self.transfers = self.count(dut.program.valid & dut.program.ready)
        self.done, counted = self.count(dut.done), self.count(dut.saturations)
        cycles = self.run(dut)
        assert banks.words == expected.words
        assert sum(value for _, value in counted) == saturations
        assert len(self.done) == len(programs)
        assert not any(left), "not every tile was released"
        return cycles


@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["full_speed", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_programs(name: str, stall: float) -> None:
    """Any programs, one after another, give what the docstring of `PostProcess` says."""
    rng = random.Random(f"{name}/{stall}")
    config = CONFIGS[name]
    shifts = [rng.choice((0, 1, 4, 20, 32, 33, 47)) for _ in range(4)]
    parameters = [random_parameters(rng, config, shift) for shift in shifts]
    programs = [random_program(rng, config, shifts) for _ in range(12 if name == "edge" else 40)]
    SliceBench(rng, stall).execute(config, programs, parameters)


def test_writes_that_wait_long() -> None:
    """The next tiles come up to the last write of a tile, and wait behind it."""
    rng = random.Random(3)
    shifts = [4, 20]
    parameters = [random_parameters(rng, TINY, shift) for shift in shifts]
    programs = [random_program(rng, TINY, shifts) for _ in range(25)]
    SliceBench(rng, pauses=0.2).execute(TINY, programs, parameters)


def test_residual_alignment() -> None:
    """The residual product is aligned exactly, at every distance of the two shifts and at all depths."""
    rng = random.Random(1)
    parameters, programs = [], []
    for alignment in range(ChannelParameters.MAX_RESIDUAL_ALIGNMENT + 1):
        base = rng.randint(0, ChannelParameters.MAX_SHIFT - alignment)
        block = random_parameters(rng, TINY, base)
        parameters.append([replace(channel, shift=base + alignment) for channel in block])
        for depth, signed in ((depth, signed) for depth in Depth for signed in range(2)):
            mask = rng.choice(gang_masks(TINY, depth.digits))
            program = random_program(rng, TINY, [base], residual=1, residual_depth=depth, residual_lanes=mask,
                                     residual_signed=signed, tile_height=1, tile_width=2)  # fmt: skip
            programs.append(replace(program, parameter_block=alignment))
    SliceBench(rng).execute(TINY, programs, parameters)


def one_channel_program(width: int, **fixed: object) -> PostProcess:
    """A program on a row of window results, which writes 16 bits to all lanes."""
    shape = {"source": Source.WINDOW, "tile_width": width, "output_lanes": 15, "output_depth": Depth.A16}
    return PostProcess(**(shape | {"output_signed": 1} | fixed))


def test_ties_round_to_even() -> None:
    """Around every half: just below, exactly, and just above it, with odd and even quotients of both signs."""
    parameters, programs, tiles = [], [], []
    for block, (multiplier, shift) in enumerate(((1, 1), (1, 2), (1, 17), (1, 30), (1 << 15, 32), (1 << 15, 47))):
        one = (1 << shift) // multiplier  # the sum that becomes 1
        totals = [quotient * one + one // 2 + offset for quotient in range(-4, 5) for offset in (-1, 0, 1)]
        parameters.append([ChannelParameters(bias=0, multiplier=multiplier, shift=shift)] * TINY.cols)
        programs.append(one_channel_program(len(totals), parameter_block=block))
        tiles.append([[[total] * TINY.cols for total in totals]])
    SliceBench(random.Random(2)).execute(TINY, programs, parameters, tiles)


def test_saturation_is_counted() -> None:
    """Values beyond the depth are cut and counted; those that the clamp limits already are not."""
    edges = [1 << bits for bits in (3, 4, 5, 6, 7, 8, 15, 16)]
    values = [sign * edge + offset for edge in edges for sign in (-1, 1) for offset in (-1, 0, 1)]
    values += [sign * (1 << bits) + offset for bits in (17, 18, 38) for sign in (-1, 1) for offset in (-1, 0)]
    parameters = [[ChannelParameters(bias=0, multiplier=1, shift=0)] * TINY.cols]
    programs = [
        one_channel_program(len(values), output_depth=depth, output_signed=signed, clamp_low=low, clamp_high=high)
        for depth in Depth
        for signed in range(2)
        for low, high in ((-(1 << 16), (1 << 16) - 1), (0, 7), (-9, 20))
    ]
    tile = [[[value] * TINY.cols for value in values]]
    SliceBench(random.Random(3)).execute(TINY, programs, parameters, [tile] * len(programs))


def test_residual_reads_what_the_program_before_wrote() -> None:
    """Programs of one slice see each other's writes, although the slice works ahead."""
    rng = random.Random(5)
    parameters = [[ChannelParameters(bias=3, multiplier=1, shift=0)] * TINY.cols]
    shape = {"source": Source.WINDOW, "tile_height": 2, "tile_width": 3, "output_lanes": 15, "output_row_pitch": 3,
             "output_depth": Depth.A16, "output_signed": 1}  # fmt: skip
    chain = [PostProcess(**shape, output_base=0)] + [
        PostProcess(
            **shape,
            output_base=6 * index,
            residual=1,
            residual_lanes=15,
            residual_depth=Depth.A16,
            residual_signed=1,
            residual_base=6 * (index - 1),
            residual_row_pitch=3,
            residual_multiplier=1,
        )
        for index in range(1, 12)
    ]
    chain.append(replace(chain[-1], residual_base=chain[-1].output_base))  # in place
    SliceBench(rng, 0.3).execute(TINY, chain, parameters)


@pytest.mark.parametrize("source", list(Source), ids=lambda source: source.name)
@pytest.mark.parametrize("residual", [0, 1], ids=["plain", "residual"])
def test_one_pixel_per_cycle(source: Source, residual: int) -> None:
    """At full speed a large tile takes one cycle per pixel and a fixed number more."""
    rng = random.Random(9)
    program = random_program(rng, TINY, [8], source=source, residual=residual, tile_height=8, tile_width=8,
                             output_row_pitch=8, residual_row_pitch=8)  # fmt: skip
    bench = SliceBench(rng)
    bench.execute(TINY, [program], [random_parameters(rng, TINY, 8)])
    (transfer, _), (done, _) = bench.transfers[0], bench.done[0]
    assert done - transfer == bench.latency + 64 - 1


@pytest.mark.parametrize("source", list(Source), ids=lambda source: source.name)
def test_small_tiles_overlap(source: Source) -> None:
    """Tiles of one pixel, as those of a fully connected layer, follow closely on each other."""
    rng = random.Random(11)
    programs = [
        random_program(rng, EDGE, [8], source=source, residual=0, tile_height=1, tile_width=1) for _ in range(20)
    ]
    bench = SliceBench(rng)
    bench.execute(EDGE, programs, [random_parameters(rng, EDGE, 8)])
    starts = [cycle for cycle, _ in bench.done]
    periods = [later - earlier for earlier, later in pairwise(starts)]
    assert max(periods) <= SMALLEST_TILE_CYCLES
