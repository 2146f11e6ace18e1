"""Adaptive networks with the precision manager, on the models and on the RTL: every result has the golden bits."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tessera.compiler import calibrate, import_onnx, prepare, quantize
from tessera.compiler.adaptive import AdaptiveProgram
from tessera.compiler.datasets import load_split
from tessera.compiler.precision import DepthLimits, DepthRange, LayerSensitivity, SensitivityProfile
from tessera.compiler.quantized_execution import host_before
from tessera.compiler.refinements import NO_REFINEMENTS
from tessera.firmware.adaptation import Limit, Metric, Mode, Observation, PolicyName, Settings
from tessera.firmware.adaptation.adaptable import adaptable
from tessera.firmware.adaptation.hardware import Observer
from tessera.firmware.adaptation.inference import compile_adaptive, golden_outputs, run_adaptive, stacked
from tessera.firmware.adaptation.report import AdaptationReport
from tessera.firmware.adaptation.run import AdaptationTimeout
from tessera.firmware.adaptation.scenario import AdaptiveRun, AdaptiveScenario, play
from tessera.firmware.adaptation.summary import adaptive_summary
from tessera.firmware.adaptation.timeline import AdaptationTimeline
from tessera.firmware.adaptation.trace import adaptation_events
from tessera.firmware.modelled.bus import ModelBus
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator
from tessera.sim.cosim.load_profile import LoadProfile, LoadStep

TINY = NpuConfig.preset("tiny")
MODELS = Path(__file__).resolve().parent.parent / "models"
DEPTHS = TINY.activation_depths
SAMPLES = 3


@cache
def program() -> AdaptiveProgram:
    """The digits network with all depths of the machine, and made-up sensitivities that fall from layer to layer."""
    graph = prepare(import_onnx(MODELS / "digits_cnn.onnx"))
    calibration = calibrate(graph, dict.fromkeys(graph.inputs, images()[:8]))
    network = quantize(graph, calibration, max(DEPTHS), 4, refinements=NO_REFINEMENTS, adaptive=DEPTHS)
    names = [*network.npu_inputs, *(operation.name for operation in network.operations)]
    sensitivities = {
        name: LayerSensitivity({}, {depth: (16 - depth) / (2 + index) for depth in (4, 6, 8, 16)})
        for index, name in enumerate(names)
    }
    limits = DepthLimits(DepthRange(), {name: DepthRange() for name in names})
    profile = SensitivityProfile("perturbation", sensitivities, 8)
    return compile_adaptive(dataclasses.replace(network, limits=limits, sensitivity=profile), TINY)


def images() -> np.ndarray:
    return load_split("digits").test.images[:16]


def scenario(**settings: object) -> AdaptiveScenario:
    quantized = program().network.quantized
    before = host_before(quantized, dict.fromkeys(quantized.inputs, images()[:SAMPLES]))
    return AdaptiveScenario(program(), before.integers, Settings(window_cycles=256, poll_cycles=300, **settings))


def play_on_models(wanted: AdaptiveScenario) -> AdaptiveRun:
    """Plays a scenario on the models and compares every integer with the golden model, given the depths."""
    result = asyncio.run(play(wanted, ModelBus(TINY)))
    golden = golden_outputs(program().network, wanted.inputs, result.inferences)
    for name, values in stacked([each.outputs for each in result.inferences]).items():
        np.testing.assert_array_equal(values, golden[name])
    return result


def pretend(monkeypatch: pytest.MonkeyPatch, *shares: float) -> None:
    """Lets others leave these shares of the bus, at one look after the other; the last one stays."""
    seen = iter(shares)
    share = [1.0]

    async def observe(self: Observer, chosen: Mapping[str, int]) -> Observation:
        share[0] = next(seen, share[0])
        return Observation(
            await self._bus.present_cycle(), share[0], Settings().section(share[0]), {Metric.STALLS: 0.9}
        )

    async def bandwidth(self: Observer) -> Observation:
        return Observation(await self._bus.present_cycle(), share[0], Settings().section(share[0]))

    monkeypatch.setattr(Observer, "observe", observe)
    monkeypatch.setattr(Observer, "bandwidth", bandwidth)


def chosen(result: AdaptiveRun) -> list[set[int]]:
    return [set(inference.depths.values()) for inference in result.inferences]


@pytest.mark.parametrize("depth", DEPTHS)
def test_fixed_depths_on_the_models(depth):
    result = play_on_models(scenario(policy=PolicyName.FIXED, depth=depth))
    assert chosen(result) == [{depth}] * SAMPLES


def test_a_free_bus_changes_nothing():
    for policy in PolicyName:
        result = play_on_models(scenario(policy=policy))
        assert chosen(result) == [{max(DEPTHS)}] * SAMPLES
        assert {each.kind for each in result.decisions} == {"started", "finished"}


def test_bits_are_given_one_by_one_while_it_runs(monkeypatch):
    """The models take depths over at the next inference: its depths are those of the decisions until then."""
    pretend(monkeypatch, 0.1)
    result = play_on_models(scenario())
    asked = dict.fromkeys(program().network.layers, max(DEPTHS))
    for decision in result.decisions:
        if decision.kind == "started":
            assert decision.values["depths"] == asked
        asked |= dict.fromkeys(decision.layers, decision.after)
    assert len({tuple(inference.depths.items()) for inference in result.inferences}) > 1
    assert list(result.inferences[-1].depths.values()) != list(result.inferences[0].depths.values())


def test_limits_of_metrics_count(monkeypatch):
    pretend(monkeypatch, 1.0)
    result = play_on_models(scenario(limits={Metric.STALLS: Limit(0.5, 0.4)}))
    lowered = [each for each in result.decisions if each.kind == "lowered"]
    assert lowered[0].reason == "stalls at 0.9 pass their threshold of 0.5"


def test_network_mode_on_the_models(monkeypatch):
    pretend(monkeypatch, 0.1)
    result = play_on_models(scenario(mode=Mode.NETWORK, steps=8))
    assert chosen(result) == [{max(DEPTHS)}, {min(DEPTHS)}, {min(DEPTHS)}]


def test_what_a_manager_knows_of_a_program():
    """Bytes and cycles fall with the depth, and a uniform network moves what its instructions move."""
    network = adaptable(program())
    assert tuple(network.by_name) == program().network.layers
    moved = [network.moved_bytes(network.uniform(depth)) for depth in DEPTHS]
    assert moved == sorted(moved) and moved[0] < moved[-1]
    cycles = [network.lane_cycles(network.uniform(depth)) for depth in DEPTHS]
    assert cycles == sorted(cycles) and cycles[0] < cycles[-1]
    harms = [network.harm(network.uniform(depth)) for depth in DEPTHS]
    assert harms == sorted(harms, reverse=True)


def test_an_inference_that_takes_too_long_is_given_up():
    """And stopped: the NPU takes another stream then."""
    wanted = dataclasses.replace(scenario(), timeout_cycles=500)
    bus = ModelBus(TINY)
    with pytest.raises(AdaptationTimeout, match="an inference of digits_cnn has not ended by cycle"):
        asyncio.run(play(wanted, bus))
    assert asyncio.run(play(scenario(), bus)).inferences


@pytest.mark.cosim
@pytest.mark.parametrize("policy", list(PolicyName))
def test_depths_follow_the_bandwidth_on_the_rtl(policy, tmp_path):
    """A step of the load within the run; the monitor counts what the memory counts, and every choice is traced."""
    load = LoadProfile((LoadStep(6000, 0.0), LoadStep(10_000_000, 0.85, 1)), repeat=False)
    count = 12
    wanted = dataclasses.replace(
        scenario(policy=policy, steps=4, raise_after=2), load=load, warm_up=1, database=tmp_path / "profile.sqlite"
    )
    quantized = program().network.quantized
    result = run_adaptive(wanted, dict.fromkeys(quantized.inputs, images()[:count]))
    assert result.bit_exact
    run = result.run
    layers = program().network.layers
    assert len(run.selects) == len(layers) * (count + 1)
    for index, inference in enumerate((*run.warm_up, *run.inferences)):
        own = run.selects[index * len(layers) : (index + 1) * len(layers)]
        assert {event.layer: event.depth for event in own} == inference.depths
        assert all(inference.begin <= event.cycle <= inference.end for event in own)
    assert run.windows and not any(window.mismatches for window in run.windows)
    network = program().network
    assert run.warm_up[0].depths == network.uniform(max(DEPTHS))
    least = network.uniform(max(DEPTHS) if policy is PolicyName.FIXED else min(DEPTHS))
    if policy is PolicyName.SENSITIVITY:  # which does not lower what saves nothing, as the layer with a pinned output
        known = adaptable(program())
        same = [n for n in least if known.moved_bytes(least | {n: max(DEPTHS)}) == known.moved_bytes(least)]
        least = least | dict.fromkeys(same, max(DEPTHS))
    learned = {decision.layers[0]: decision.after for decision in run.decisions if decision.kind == "learned"}
    assert run.inferences[-1].depths == least | learned
    _check_pages(wanted, result)


def _check_pages(wanted: AdaptiveScenario, result: object) -> None:
    """Summary, page and trace hold what happened."""
    summary = adaptive_summary(Path("digits_cnn.onnx"), wanted, result, Simulator.VERILATOR, None)
    values = json.loads(json.dumps(summary))
    timeline = AdaptationTimeline.from_json(values["adaptation"])
    assert timeline.to_json() == AdaptationTimeline.of_run(wanted, result.run).to_json()
    assert sum(bundle["end"] - bundle["start"] for bundle in values["bundles"]) <= values["networks"][0]["cycles"] * 2
    page = AdaptationReport(timeline, values["npu"], values["networks"][0]).html()
    for layer in timeline.layers:
        assert layer in page
    events = adaptation_events(timeline)["traceEvents"]
    assert sum(event["ph"] == "C" and event["name"] == "depth" for event in events) == len(timeline.times)
    assert sum(event["ph"] == "C" and event["name"] == "section" for event in events) == len(timeline.windows)
