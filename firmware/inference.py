"""Runs quantised networks on the co-simulated NPU and compares every integer with the golden model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.compiler.integer import to_integer
from tessera.compiler.lowering import lower
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.quantized_execution import execute_quantized
from tessera.firmware.cosimulation import Inferences, Integers, Options, run_program
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import Convolution, IntegerNetwork, operation_macs
from tessera.sim.program import Program

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CompiledNetwork:
    """A quantised network with what the compiler made of it for one machine."""

    quantized: QuantizedNetwork
    integer: IntegerNetwork
    program: Program


@dataclass(frozen=True)
class NetworkResult:
    """A network's results for a batch of samples.

    Attributes
    ----------
    outputs
        The network's float outputs, computed from the RTL's integers, host operations included.
    golden_outputs
        The same from the golden model.
    bit_exact
        Whether every output integer of every sample is the golden model's.
    inferences
        Integers and measurements.
    """

    outputs: dict[str, np.ndarray]
    golden_outputs: dict[str, np.ndarray]
    bit_exact: bool
    inferences: Inferences


def compile_network(quantized: QuantizedNetwork, config: NpuConfig) -> CompiledNetwork:
    """Lowers a quantised network; raises `CompilerError` if it does not fit the machine."""
    integer = to_integer(quantized)
    return CompiledNetwork(quantized, integer, lower(integer, config))


def run_network(
    network: CompiledNetwork,
    inputs: Arrays,
    options: Options | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> NetworkResult:
    """Runs a network on samples: ``inputs`` has for each input an array (samples, *rest of its shape*).

    Raises
    ------
    CompilerError
        Inputs are missing or of the wrong shape.
    CosimError
        The simulation failed.
    """
    golden: dict[str, np.ndarray] = {}
    inferences: list[Inferences] = []

    def on_golden(integers: Integers) -> Arrays:
        golden.update(evaluate(network.integer, dict(integers)))
        return golden

    def on_rtl(integers: Integers) -> Arrays:
        inferences.append(run_program(network.program, integers, options, on_progress))
        return inferences[0].outputs

    golden_outputs = execute_quantized(network.quantized, inputs, on_golden)
    outputs = execute_quantized(network.quantized, inputs, on_rtl)
    bit_exact = all(np.array_equal(values, golden[name]) for name, values in inferences[0].outputs.items())
    return NetworkResult(outputs, golden_outputs, bit_exact, inferences[0])


def ideal_cycles(network: IntegerNetwork, config: NpuConfig) -> float:
    """Cycles of the multiplications alone, each operation at its own depths with all lanes busy."""
    convolutions = [operation for operation in network.operations if isinstance(operation, Convolution)]
    return sum(operation_cycles(network, convolution, config) for convolution in convolutions)


def operation_cycles(network: IntegerNetwork, convolution: Convolution, config: NpuConfig) -> float:
    """Cycles of the multiplications of one convolution with all lanes busy."""
    depth = network.tensors[convolution.input].depth
    return operation_macs(network, convolution) / config.macs_per_cycle(depth, convolution.weight_depth)


def accuracy(outputs: Arrays, labels: np.ndarray) -> float:
    """Share of samples whose largest score is at the label; the first output counts."""
    scores = next(iter(outputs.values()))
    return float((scores.reshape(len(scores), -1).argmax(axis=1) == labels).mean())
