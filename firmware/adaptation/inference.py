"""Runs adaptive networks on the co-simulated NPU and compares every integer with the golden model, given the depths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tessera.compiler.adaptive import AdaptiveNetwork, AdaptiveProgram, evaluate_adaptive, lower_adaptive
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.quantized_execution import host_after, host_before
from tessera.firmware.adaptation.run import Inference
from tessera.firmware.adaptation.scenario import AdaptiveRun, AdaptiveScenario
from tessera.firmware.cosimulation import Options
from tessera.firmware.scenario_simulation import play_in_simulation
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import CosimError, CosimResult

Arrays = Mapping[str, np.ndarray]

PLAYER = "tessera.firmware.adaptation.scenario:play"


@dataclass(frozen=True, eq=False)
class AdaptiveResult:
    """An adaptive network's results for a batch of samples.

    Attributes
    ----------
    outputs, golden_outputs
        The network's float outputs, host operations included: from the RTL's integers, and from the golden model's.
    bit_exact
        Whether every output integer of every sample is the golden model's, given the depths that were chosen.
    run
        What came of the inferences.
    simulation
        The simulation as a whole.
    """

    outputs: dict[str, np.ndarray]
    golden_outputs: dict[str, np.ndarray]
    bit_exact: bool
    run: AdaptiveRun
    simulation: CosimResult


def compile_adaptive(quantized: QuantizedNetwork, config: NpuConfig) -> AdaptiveProgram:
    """Lowers a network that was quantised with variants; raises `CompilerError` if it was not, or does not fit."""
    return lower_adaptive(AdaptiveNetwork.of(quantized), config)


def run_adaptive(
    scenario: AdaptiveScenario,
    inputs: Arrays,
    options: Options | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> AdaptiveResult:
    """Runs a scenario on the co-simulated RTL.

    Parameters
    ----------
    scenario
        The network and how it is run; its own inputs do not count.
    inputs
        For each input of the network an array (samples, *rest of its shape*) of real numbers.
    options
        How to simulate.
    on_progress
        Is told how many inferences are done.

    Raises
    ------
    CompilerError
        Inputs are missing or of the wrong shape.
    CosimError
        The simulation failed, or an accumulator overflowed.
    """
    program = scenario.program
    quantized = program.network.quantized
    before = host_before(quantized, inputs)
    run, simulation = play_in_simulation(
        PLAYER,
        replace(scenario, inputs=before.integers),
        program.config,
        program.end_address,
        options or Options(),
        on_progress,
    )
    _check_overflows(program, run)
    found = stacked([each.outputs for each in run.inferences])
    golden = golden_outputs(program.network, before.integers, run.inferences)
    return AdaptiveResult(
        outputs=host_after(quantized, found, before),
        golden_outputs=host_after(quantized, golden, before),
        bit_exact=all(np.array_equal(values, golden[name]) for name, values in found.items()),
        run=run,
        simulation=simulation,
    )


def golden_outputs(
    network: AdaptiveNetwork, inputs: Arrays, inferences: tuple[Inference, ...]
) -> dict[str, np.ndarray]:
    """The outputs of the golden model, (samples, channels, height, width), given the depths of each inference.

    Inferences with the same depths are computed together.
    """
    by_depths: dict[tuple[int, ...], list[int]] = {}
    for index, inference in enumerate(inferences):
        by_depths.setdefault(tuple(inference.depths[layer] for layer in network.layers), []).append(index)
    found: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] * len(inferences) for name in network.stored.outputs}
    for depths, samples in by_depths.items():
        part = {name: values[samples] for name, values in inputs.items()}
        values = evaluate_adaptive(network, part, dict(zip(network.layers, depths, strict=True)))
        for name, own in found.items():
            for position, sample in enumerate(samples):
                own[sample] = values[name][position]
    return {name: np.stack(own) for name, own in found.items()}


def stacked(outputs: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The outputs of several inferences, by name, with an axis of samples in front."""
    return {name: np.stack([each[name] for each in outputs]) for name in outputs[0]}


def _check_overflows(program: AdaptiveProgram, run: AdaptiveRun) -> None:
    """Raises `CosimError` if results cannot be trusted."""
    for index, inference in enumerate(run.inferences):
        if inference.run.counts.overflow:
            raise CosimError(
                f"sample {index} of {program.name}: accumulators have overflowed, although the compiler proved that "
                "they cannot; its results are wrong"
            )
