"""The whole NPU on random legal streams: stream model = RTL, byte for byte."""

from __future__ import annotations

import pytest
from agreement import assert_streams_agree
from extreme_streams import ExtremeJob
from random_streams import PARTITIONS, random_stream

from tessera.firmware.cosimulation import Options
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator

pytestmark = pytest.mark.cosim

NO_STALLS = Options()
STALLS = Options(stalls={"seed": 7, "ar": 0.3, "r": 0.4, "aw": 0.3, "w": 0.4, "b": 0.4, "register": 0.3})
SLOW_MEMORY = Options(memory={"read_latency": 120, "bandwidth": 3.0, "traffic_share": 0.5, "traffic_random": True})
FAST_MEMORY = Options(memory={"read_latency": 2, "write_latency": 2})


def _agree(config: NpuConfig, seeds: range, options: Options) -> None:
    streams = {f"seed {seed}": random_stream(config, seed) for seed in seeds}
    assert_streams_agree(config, streams, options)


@pytest.mark.parametrize(
    ("preset", "seeds", "options"),
    [
        pytest.param("tiny", range(100), NO_STALLS, id="tiny"),
        pytest.param("tiny", range(100, 150), STALLS, id="tiny-stalls"),
        pytest.param("tiny", range(150, 200), SLOW_MEMORY, id="tiny-slow-memory"),
        pytest.param("tiny", range(200, 250), FAST_MEMORY, id="tiny-fast-memory"),
        pytest.param("edge", range(1000, 1060), NO_STALLS, id="edge"),
        pytest.param("edge", range(1060, 1090), STALLS, id="edge-stalls"),
    ],
)
def test_random_streams(preset: str, seeds: range, options: Options) -> None:
    """Random jobs side by side on random partitions of the lanes."""
    _agree(NpuConfig.preset(preset), seeds, options)


@pytest.mark.parametrize("preset", ["tiny", "edge"])
def test_every_partition(preset: str) -> None:
    """Gangs of different precision work at the same time, in every partition of the lanes."""
    config = NpuConfig.preset(preset)
    streams = {
        f"partition {partition} seed {seed}": random_stream(config, seed, partition=partition, jobs_per_gang=3)
        for partition in PARTITIONS[config.lanes]
        for seed in range(5000, 5004)
    }
    assert_streams_agree(config, streams, NO_STALLS)


@pytest.mark.parametrize(
    ("seeds", "options"),
    [pytest.param(range(300, 320), NO_STALLS, id="no-stalls"), pytest.param(range(320, 340), STALLS, id="stalls")],
)
def test_extreme_operands(seeds: range, options: Options) -> None:
    """Operands at the limits of their fields: legal, though no compiler asks for them."""
    config = NpuConfig.preset("tiny")
    streams = {f"seed {s}": random_stream(config, s, kind=ExtremeJob, fill=True) for s in seeds}
    assert_streams_agree(config, streams, options)


@pytest.mark.slow
def test_random_streams_on_icarus() -> None:
    """The same RTL in a second simulator."""
    config = NpuConfig.preset("tiny")
    streams = {
        f"partition {partition}": random_stream(config, 9000 + index, partition=partition)
        for index, partition in enumerate(PARTITIONS[config.lanes])
    }
    assert_streams_agree(config, streams, Options(simulator=Simulator.ICARUS))


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        NpuConfig(name="a4w4", rows=4, cols=4, lanes=1, activation_depths=(4,), weight_depths=(4,)),
        NpuConfig(name="a8w8", rows=4, cols=4, lanes=2, activation_depths=(8,), weight_depths=(8,)),
        NpuConfig(name="a16w8", rows=4, cols=4, lanes=4, activation_depths=(16,), weight_depths=(8,)),
        NpuConfig(name="a48w4", rows=4, cols=4, lanes=2, activation_depths=(4, 8), weight_depths=(4,)),
    ],
    ids=lambda config: config.name,
)
def test_smaller_machines(config: NpuConfig) -> None:
    """What a configuration does not ask for is not built, and the rest works."""
    _agree(config, range(30), NO_STALLS)
