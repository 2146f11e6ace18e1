"""The whole NPU on streams of segments: the same depths, memory and counts as the stream model."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import pytest
from agreement import CONTEXTS_OF_STREAMS, assert_segments_agree
from random_segments import random_segments
from test_npu_streams import FAST_MEMORY, NO_STALLS, SLOW_MEMORY, STALLS

from tessera.firmware.cosimulation import Options, verilog_file
from tessera.firmware.driver import Phase
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth
from tessera.sim.cosim import CosimDesign, Simulator, run_cosim
from tessera.sim.segments import follow
from tessera.sim.stream import StreamModel

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


def test_depths_change_while_the_stream_runs(tmp_path: Path) -> None:
    """The host writes other depths at any time, so that they change from layer to layer: every run is bit-exact, given
    the depths that were chosen, and every depth follows every other."""
    seed, runs, layers = 5, 4, 10
    streams = [random_segments(TINY, 400 + number, layers=layers) for number in range(6)]
    images = []
    for index, stream in enumerate(streams):
        images.append(tmp_path / f"{index}.bin")
        images[-1].write_bytes(stream.dram)
    result = tmp_path / "result.bin"
    arguments = {
        "images": list(map(str, images)),
        "code_addresses": [stream.code_address for stream in streams],
        "contexts": {number: context.as_dict() for number, context in CONTEXTS_OF_STREAMS.items()},
        "seed": seed,
        "runs": runs,
        "result_file": str(result),
    }
    design = CosimDesign(verilog=[verilog_file(TINY)], axi_data_bits=TINY.axi_data_bits)
    log = run_cosim(design, "npu_segment_jobs:switching", arguments=arguments).value
    model = StreamModel(TINY, max(len(stream.dram) for stream in streams))
    found, offset, pairs = result.read_bytes(), 0, set()
    for number, (stream, run) in enumerate(zip([s for s in streams for _ in range(runs)], log, strict=True)):
        depths = [Depth(depth) for _, _, depth, _ in run["selections"]]
        assert (run["phase"], len(depths)) == (Phase.DONE.value, layers - 1), f"seed {seed}, run {number}"
        model.write_memory(0, stream.dram)
        model.execute_code(stream.code_address, contexts=CONTEXTS_OF_STREAMS, decisions=follow(depths))
        expected = model.read_memory(0, len(stream.dram))
        assert found[offset : offset + len(expected)] == expected, f"seed {seed}, run {number}: {depths}"
        offset += len(expected)
        pairs |= set(pairwise(depths))
        last = {operation: depth for _, operation, depth, _ in run["selections"]}
        assert all(run["chosen"][operation] == depth for operation, depth in last.items())
    assert pairs == set(product(Depth, Depth))


@pytest.mark.slow
def test_random_segments_on_icarus() -> None:
    """The same RTL in a second simulator."""
    streams = {f"seed {seed}": random_segments(TINY, seed, layers=6, jobs=seed % 2 == 0) for seed in range(200, 206)}
    assert_segments_agree(TINY, streams, Options(simulator=Simulator.ICARUS))
