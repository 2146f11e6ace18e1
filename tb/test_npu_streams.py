"""The whole NPU on random legal streams: stream model = RTL, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agreement import assert_streams_agree
from extreme_streams import ExtremeJob
from random_streams import PARTITIONS, RandomStream, assemble, random_stream

from tessera.firmware.cosimulation import Options
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Instruction, LaneProgram, Load, LoadTarget, PostProcess
from tessera.sim.cosim import Simulator
from tessera.sim.stream import StreamModel

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


def _overflowing_stream(config: NpuConfig) -> RandomStream:
    """In each lane partial programs of one tile: operation 40 brings all sums to the limit, then programs of one step
    follow each other without a pause, and the first of them, of operation ``4 * lane``, overflows with every word.
    """
    height, width = 2, config.rows
    limit, per_step = 1 << config.accumulator_bits - 1, config.rows * 15 * 127
    most_steps = config.weight_beats // config.weight_block_beats
    words = height * width * -(-most_steps * config.rows // config.word_digits)
    everything = (1 << config.lanes) - 1
    weights = {"address": words * config.word_bits // 8, "columns": config.weight_beats}
    instructions: list[Instruction] = [
        Load(lanes=everything, columns=words),
        Load(target=LoadTarget.WEIGHTS, lanes=everything, **weights),
    ]
    for lane in range(config.lanes):
        tile = {"tile_height": height, "tile_width": width}
        source = {"input_height": height, "input_width": width, "row_pitch": width, "block_pitch": height * width}
        program = LaneProgram(lanes=1 << lane, partial=1, **tile, **source)
        whole, rest = divmod((limit - 1) // per_step, most_steps)
        before = [replace(program, operation=40, channel_steps=steps) for steps in (*[most_steps] * whole, rest)]
        single = [replace(program, operation=4 * lane + number) for number in range(4)]
        instructions += [*before, *single, replace(program, operation=41, partial=0)]
        instructions.append(PostProcess(operation=42, lanes=1 << lane, output_lanes=1 << lane, **tile))
    data = b"\xff" * weights["address"] + b"\x7f" * config.weight_bank_bytes
    return assemble(config, instructions, data)


def test_overflows_belong_to_their_operation() -> None:
    """Of neighbouring words of two programs one overflows and the other does not."""
    config = NpuConfig.preset("tiny")
    stream = _overflowing_stream(config)
    assert_streams_agree(config, {"before": stream, "after a clear": stream}, NO_STALLS)
    model = StreamModel(config, len(stream.dram))
    model.write_memory(0, stream.dram)
    model.execute(stream.instructions)
    found = {operation: counts.overflow for operation, counts in enumerate(model.operation_counts) if counts.overflow}
    assert found == {4 * lane: 1 << lane for lane in range(config.lanes)}


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
