"""The executor on the RTL: requests that arrive while others run, faults, and the bits of the golden model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from executor_cases import TINY, check_outputs, network, random_scenario, request
from random_networks import random_inputs

from tessera.compiler import read_quantized
from tessera.compiler.integer import to_integer
from tessera.compiler.planning.operation_key import operation_key
from tessera.compiler.planning.profile_database import DurationSource, ProfileDatabase
from tessera.firmware.cosimulation import Options
from tessera.firmware.executor import Request, Settings, prepare
from tessera.firmware.scenarios.scenario import Corruption, Disturbance, Scenario, ScenarioResult
from tessera.firmware.scenarios.simulation import simulate_scenario
from tessera.rtl.config import NpuConfig
from tessera.sim.windows import MemoryWindow

pytestmark = pytest.mark.cosim

MODELS = Path(__file__).resolve().parent.parent / "models" / "mixed"


def kinds(result: ScenarioResult) -> set[str]:
    """What happened, in words."""
    return {event.kind for event in result.log}


@pytest.mark.parametrize("seed", range(3))
def test_random_arrivals(seed: int) -> None:
    """Under stalls, with pauses and plans of what is left."""
    scenario = random_scenario(seed)
    stalls = {"seed": seed + 1, "ar": 0.2, "r": 0.2, "aw": 0.2, "w": 0.2, "b": 0.2}
    result, _ = simulate_scenario(scenario, Options(stalls=stalls))
    done = check_outputs(scenario, result)
    assert done and "paused" in kinds(result)


def test_an_urgent_request_goes_first() -> None:
    """It pauses the plan that runs, and ends before what had come before it."""
    rng = np.random.default_rng(0)
    large = tuple(request(rng, f"large{index}", index, 4) for index in range(2))
    urgent = request(rng, "urgent", 2, arrival=1500, priority=100.0)
    networks = tuple(network(index)[1] for index in range(3))
    scenario = Scenario(TINY, networks, (*large, urgent), (), MemoryWindow(0, 1 << 18), Settings(scheduler="greedy"))
    result, _ = simulate_scenario(scenario)
    assert check_outputs(scenario, result) == ["large0", "large1", "urgent"]
    assert any(event.kind == "paused" and event.cycle > 1500 for event in result.log)
    ends = {name: found.ended for name, found in result.requests.items()}
    assert ends["urgent"] < min(ends["large0"], ends["large1"])


def test_faults_touch_only_what_they_must() -> None:
    """A bus error repeats one request, a silent memory all that ran, and overwritten code, too."""
    rng = np.random.default_rng(4)
    requests = tuple(request(rng, name, index, 2) for name, index in (("a", 0), ("b", 1), ("c", 2)))
    networks = tuple(network(index)[1] for index in range(3))
    settings = Settings(scheduler="greedy", watchdog_cycles=3000)
    scenario = Scenario(TINY, networks, requests, (), MemoryWindow(0, 1 << 18), settings)
    undisturbed, _ = simulate_scenario(scenario)
    assert check_outputs(scenario, undisturbed) == ["a", "b", "c"]
    [place] = [event.values for event in undisturbed.log if (event.kind, event.request) == ("admitted", "b")]
    [code] = [event.values["code"] for event in undisturbed.log if event.kind == "planned"][:1]
    half = undisturbed.cycles // 2
    for events, happened in (
        ((Disturbance(0, {"error_range": (place["base"], place["base"] + place["bytes"])}),), "fault"),
        ((Disturbance(half, {"read_latency": 60_000}), Disturbance(half + 4000, {"read_latency": 40})), "stopped"),
        ((Corruption(half // 4, code, bytes([0xEE]) * 60_000),), "stopped"),
    ):
        disturbed = replace(scenario, events=events)
        result, _ = simulate_scenario(disturbed)
        assert happened in kinds(result), (events[0], kinds(result))
        assert check_outputs(disturbed, result) == ["a", "b", "c"]
        if happened == "fault":
            assert [event.request for event in result.log if event.kind == "fault"] == ["b"]


def test_shipped_networks_on_edge(tmp_path: Path) -> None:
    """An urgent keyword network arrives while a residual network runs: it does not wait long."""
    config = NpuConfig.preset("edge")
    files = {"large": "digits32_resnet8_30", "urgent": "keywords_dscnn_45"}
    quantized = {name: read_quantized(MODELS / f"{file}.onnx").network for name, file in files.items()}
    golden = {name: to_integer(each) for name, each in quantized.items()}
    rng = np.random.default_rng(0)
    large, urgent = (Request(name, name, [random_inputs(rng, golden[name])]) for name in files)
    networks = tuple(prepare(name, each, config) for name, each in quantized.items())
    database = tmp_path / "profile.sqlite"
    scenario = Scenario(config, networks, (urgent,), (), MemoryWindow(0, 1 << 22), Settings(), database)
    alone, _ = simulate_scenario(scenario)
    pressing = replace(urgent, priority=100.0, arrival=9000)
    together, _ = simulate_scenario(replace(scenario, requests=(large, pressing)))
    check_outputs(replace(scenario, requests=(urgent,)), alone, golden)
    assert check_outputs(replace(scenario, requests=(large, pressing)), together, golden) == ["large", "urgent"]
    assert "paused" in kinds(together)
    assert together.requests["urgent"].latency < 2 * alone.requests["urgent"].latency
    with ProfileDatabase(database, config) as found:
        for network in networks:
            keys = [operation_key(network.mapped, name) for name in network.mapped.operations]
            known = [found.duration(key, lanes, DurationSource.MEASURED) for key in keys for lanes in (1, 2, 4)]
            assert sum(each is not None for each in known) >= len(keys)
