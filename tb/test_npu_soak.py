"""Thousands of random legal programs on the RTL (``make soak``), and streams whose layers change their depth; the
default suite runs a sample elsewhere.

A program is made from its seed alone, and loads all activation banks first, so that one that fails does so by itself.
It is made smaller before it is shown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import pytest
from agreement import assert_segments_agree, stream_problems
from extreme_streams import ExtremeJob
from random_segments import random_segments
from random_streams import Job, RandomStream, random_stream
from shrink_streams import shrink

from tessera.firmware.cosimulation import Options
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import format_instruction
from tessera.sim.cosim import Simulator

pytestmark = [pytest.mark.cosim, pytest.mark.exhaustive]

BATCH = 64
"""Programs of one simulation: those whose seeds give the same quotient."""

SEGMENTS_SHARE = 0.25
"""Streams of segments, of the programs that are asked for."""

TIMEOUT_CYCLES = 2_000_000
"""Far more than any of the programs takes."""


@dataclass(frozen=True)
class Soak:
    """What runs the programs, and for which share of those that are asked for."""

    preset: str
    simulator: Simulator = Simulator.VERILATOR
    share: float = 1.0


SOAKS = {
    "tiny": Soak("tiny"),
    "edge": Soak("edge", share=0.4),
    "icarus": Soak("tiny", Simulator.ICARUS, share=0.02),
}


def random_options(seed: int, simulator: Simulator) -> Options:
    """Behaviour of the memory for all programs of a batch: how fast, how busy, and how often it stalls."""
    rng = random.Random(f"options {seed}")
    stalls = {name: rng.choice((0.1, 0.4, 0.8)) for name in ("ar", "r", "aw", "w", "b", "register")}
    memory = {
        "read_latency": rng.choice((2, 40, 150)),
        "write_latency": rng.choice((2, 40, 150)),
        "traffic_share": rng.choice((0, 0, 0.25, 0.5)),
        "traffic_random": rng.random() < 0.5,
    }
    return Options(
        simulator=simulator,
        memory=memory if rng.random() < 0.7 else {},
        stalls={"seed": rng.randrange(1, 1000), **stalls} if rng.random() < 0.5 else {},
        timeout_cycles=TIMEOUT_CYCLES,
    )


def program_of(config: NpuConfig, seed: int) -> RandomStream:
    """The program of a seed: ordinary jobs or such with extreme operands, few or many."""
    rng = random.Random(f"program {seed}")
    kind: type[Job] = rng.choice((Job, Job, Job, ExtremeJob))
    return random_stream(config, seed, jobs_per_gang=rng.choice((1, 2, 2, 4)), kind=kind, fill=True)


def shown(config: NpuConfig, stream: RandomStream, problem: str, options: Options) -> str:
    """The problem, and the smallest program that has one."""

    def fails(streams: Sequence[RandomStream]) -> list[bool]:
        return [bool(text) for text in stream_problems(config, streams, options)]

    small = shrink(stream, config, fails)
    program = "\n".join(format_instruction(item) for item in small.instructions)
    return f"{problem}\nthe smallest program with a problem, of {len(stream.instructions)} instructions:\n{program}"


@pytest.mark.parametrize("name", SOAKS)
def test_random_programs(name: str, request: pytest.FixtureRequest) -> None:
    soak = SOAKS[name]
    config = NpuConfig.preset(soak.preset)
    first = request.config.getoption("--first-seed")
    count = max(1, round(soak.share * request.config.getoption("--programs")))
    for batch, group in groupby(range(first, first + count), lambda seed: seed // BATCH):
        seeds, options = list(group), random_options(batch, soak.simulator)
        streams = [program_of(config, seed) for seed in seeds]
        for seed, stream, problem in zip(seeds, streams, stream_problems(config, streams, options), strict=True):
            repeat = f"pytest -m exhaustive tb/test_npu_soak.py -k {name} --programs 1 --first-seed {seed}"
            assert not problem, f"{repeat}\n{options}\n{shown(config, stream, problem, options)}"


@pytest.mark.parametrize("name", SOAKS)
def test_random_segments(name: str, request: pytest.FixtureRequest) -> None:
    """Streams of up to 40 layers, each of which chooses its depth anew: long ones and such of a few instructions."""
    soak = SOAKS[name]
    config = NpuConfig.preset(soak.preset)
    first = request.config.getoption("--first-seed")
    count = max(1, round(SEGMENTS_SHARE * soak.share * request.config.getoption("--programs")))
    for batch, group in groupby(range(first, first + count), lambda seed: seed // BATCH):
        streams = {}
        for seed in group:
            rng = random.Random(f"segments {seed}")
            stream = random_segments(config, seed, layers=rng.choice((4, 12, 40)), jobs=rng.random() < 0.5)
            repeat = (
                f"pytest -m exhaustive tb/test_npu_soak.py -k 'segments and {name}' --programs 1 --first-seed {seed}"
            )
            streams[f"{repeat}\n{random_options(batch, soak.simulator)}\n"] = stream
        assert_segments_agree(config, streams, random_options(batch, soak.simulator))
