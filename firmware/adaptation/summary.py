"""The summary of a run of an adaptive network: what ``summary.json`` holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tessera.firmware.adaptation.inference import AdaptiveResult
from tessera.firmware.adaptation.run import Inference
from tessera.firmware.adaptation.scenario import AdaptiveScenario
from tessera.firmware.adaptation.timeline import AdaptationTimeline
from tessera.firmware.inference import accuracy, operation_cycles
from tessera.sim.cosim import Simulator
from tessera.sim.counts import Counts
from tessera.sim.golden.network import Convolution


def adaptive_summary(
    path: Path, scenario: AdaptiveScenario, result: AdaptiveResult, simulator: Simulator, labels: np.ndarray | None
) -> dict[str, Any]:
    """The contents of ``summary.json``: those of every run, and ``adaptation``, see `AdaptationTimeline.to_json`.

    ``bundles`` are the layers of the first inference that counts.
    """
    program, simulation = scenario.program, result.simulation
    timeline = AdaptationTimeline.of_run(scenario, result.run)
    return {
        "simulator": simulator.value,
        "npu": program.config.name,
        "cycles": simulation.cycles,
        "cycles_per_second": round(simulation.cycles_per_second),
        "networks": [_network_row(path, scenario, result, labels)],
        "bundles": _bundles(scenario, timeline, timeline.inferences[len(result.run.warm_up)]),
        "adaptation": timeline.to_json() | {"log": [str(decision) for decision in timeline.decisions]},
    }


def _network_row(
    path: Path, scenario: AdaptiveScenario, result: AdaptiveResult, labels: np.ndarray | None
) -> dict[str, Any]:
    program, inferences, counters = scenario.program, result.run.inferences, result.simulation.counters
    cycles = round(sum(each.run.cycles for each in inferences) / len(inferences))
    moved = counters.npu_read_bytes + counters.npu_write_bytes
    row = {
        "name": program.network.name,
        "file": str(path),
        "bit_exact": result.bit_exact,
        "cycles": cycles,
        "macs": program.macs,
        "mac_utilization": round(sum(_ideal(scenario, each) for each in inferences) / len(inferences) / cycles, 4),
        "dram_bytes": round(moved / (len(inferences) + len(result.run.warm_up))),
        **asdict(sum((each.run.counts for each in inferences), Counts())),
        "samples": len(inferences),
        "operations": [
            {"name": layer, "saturations": sum(each.saturations[layer] for each in inferences)}
            for layer in program.network.layers
        ],
        "target_met": _target_met(scenario, inferences),
    }
    if labels is not None:
        row |= {
            "accuracy": accuracy(result.outputs, labels),
            "golden_accuracy": accuracy(result.golden_outputs, labels),
        }
    return row


def _ideal(scenario: AdaptiveScenario, inference: Inference) -> float:
    """Cycles of an inference's multiplications alone, with all lanes busy."""
    network, config = scenario.program.network, scenario.program.config
    return sum(
        operation_cycles(network.integer(inference.depths[each.name]), each, config)
        for each in network.stored.operations
        if isinstance(each, Convolution)
    )


def _target_met(scenario: AdaptiveScenario, inferences: Sequence[Inference]) -> float | None:
    """Share of the inferences within the latency target."""
    target = scenario.settings.target_cycles
    return None if target is None else sum(each.run.cycles <= target for each in inferences) / len(inferences)


def _bundles(scenario: AdaptiveScenario, timeline: AdaptationTimeline, span: tuple[int, int]) -> list[dict[str, Any]]:
    """A bundle per layer of an inference."""
    weights = {each.name: getattr(each, "weight_depth", None) for each in scenario.program.network.quantized.operations}
    return [
        {
            "start": time.start - span[0],
            "end": time.end - span[0],
            "slots": [
                {
                    "network": timeline.network,
                    "op": time.layer,
                    "lanes": list(scenario.program.lanes),
                    "activation_bits": time.depth,
                    "weight_bits": weights.get(time.layer),
                    "cycles": time.end - time.start,
                }
            ],
        }
        for time in timeline.times
        if span[0] <= time.start < span[1]
    ]
