"""The whole NPU on streams of segments: the same depths, memory and counts as the stream model."""

from __future__ import annotations

import pytest
from agreement import assert_segments_agree
from random_segments import random_segments
from test_npu_streams import FAST_MEMORY, NO_STALLS, SLOW_MEMORY, STALLS

from tessera.firmware.cosimulation import Options
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator

pytestmark = pytest.mark.cosim

TINY = NpuConfig.preset("tiny")


@pytest.mark.parametrize(
    ("seeds", "layers", "jobs", "options"),
    [
        pytest.param(range(30), 4, True, NO_STALLS, id="jobs"),
        pytest.param(range(30, 50), 4, True, STALLS, id="stalls"),
        pytest.param(range(50, 60), 12, True, SLOW_MEMORY, id="slow-memory"),
        pytest.param(range(60, 90), 12, False, FAST_MEMORY, id="control"),
        pytest.param(range(90, 120), 12, False, STALLS, id="control-stalls"),
    ],
)
def test_random_segments(seeds: range, layers: int, jobs: bool, options: Options) -> None:
    """Layers in random variants one after another, long ones and such of a few instructions."""
    streams = {f"seed {seed}": random_segments(TINY, seed, layers=layers, jobs=jobs) for seed in seeds}
    assert_segments_agree(TINY, streams, options)


@pytest.mark.slow
def test_random_segments_on_icarus() -> None:
    """The same RTL in a second simulator."""
    streams = {f"seed {seed}": random_segments(TINY, seed, layers=6, jobs=seed % 2 == 0) for seed in range(200, 206)}
    assert_segments_agree(TINY, streams, Options(simulator=Simulator.ICARUS))
