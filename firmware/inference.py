"""Runs quantised networks on the co-simulated NPU and compares every integer with the golden model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.integer import to_integer
from tessera.compiler.io_formats import network_formats
from tessera.compiler.lowering import lower
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.quantized_execution import HostInputs, host_after, host_before
from tessera.firmware.cosimulation import Inferences, Options, run_program
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import MemoryFormat
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import Convolution, IntegerNetwork, operation_macs
from tessera.sim.program import DramFormat, DramTensor, Program
from tessera.sim.tensor_layout import decode_floats, encode_floats

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CompiledNetwork:
    """A quantised network with what the compiler made of it for one machine.

    Attributes
    ----------
    quantized, integer
        The network.
    program
        Its instructions, data and tensors.
    formats
        What inputs and outputs are in DRAM, by name, where they are no integers.
    """

    quantized: QuantizedNetwork
    integer: IntegerNetwork
    program: Program
    formats: Mapping[str, DramFormat]


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


def compile_network(
    quantized: QuantizedNetwork, config: NpuConfig, io_format: MemoryFormat = MemoryFormat.INTEGER
) -> CompiledNetwork:
    """Lowers a quantised network.

    Parameters
    ----------
    quantized, config
        The network and the machine.
    io_format
        What the NPU's inputs and outputs are in DRAM; floating point needs scales that are powers of two.

    Raises
    ------
    CompilerError
        The network does not fit the machine, or its scales not the format.
    """
    integer = to_integer(quantized)
    formats = network_formats(quantized, config, io_format)
    return CompiledNetwork(quantized, integer, lower(integer, config, io_formats=formats), formats)


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
        Inputs are missing, of the wrong shape, or too large for their floating-point format.
    CosimError
        The simulation failed.
    """
    before = host_before(network.quantized, inputs)
    program = network.program
    golden = golden_outputs(network.integer, program.inputs, program.outputs, before)
    inferences = run_program(program, in_dram(program.inputs, before), options, on_progress)
    outputs = inferences.outputs
    return NetworkResult(
        outputs=host_after(network.quantized, outputs, before),
        golden_outputs=host_after(network.quantized, golden, before),
        bit_exact=all(np.array_equal(values, golden[name]) for name, values in outputs.items()),
        inferences=inferences,
    )


def in_dram(tensors: Mapping[str, DramTensor], before: HostInputs) -> dict[str, np.ndarray]:
    """What the host writes for each input tensor, (samples, C, H, W): integers, or the real numbers themselves; raises
    `CompilerError` if one is too large for its floating-point format."""
    inputs = dict(before.integers)
    for name, tensor in tensors.items():
        if tensor.format.is_float:
            inputs[name] = before.values[name].reshape(inputs[name].shape)
            _check_representable(name, inputs[name], tensor.format.memory_format)
    return inputs


def _check_representable(name: str, values: np.ndarray, memory_format: MemoryFormat) -> None:
    """Refuses finite numbers that the format would turn into infinity, for which the NPU would stop."""
    stored = decode_floats(encode_floats(values, memory_format), memory_format)
    lost = np.isfinite(values) & np.isinf(stored)
    if lost.any():
        raise CompilerError(
            f"input {name!r} has the value {values[lost][0]:.9g}, which is infinity in {memory_format.name.lower()}; "
            "scale the data, or use another format"
        )


def golden_outputs(
    network: IntegerNetwork,
    inputs: Mapping[str, DramTensor],
    outputs: Mapping[str, DramTensor],
    before: HostInputs,
) -> dict[str, np.ndarray]:
    """What the host must find for each output, by the golden model: integers, or the real numbers that they become."""
    values = in_dram(inputs, before)
    for name, tensor in inputs.items():
        if tensor.format.is_float:
            values[name] = tensor.format.integers(values[name], tensor.type)
    found = evaluate(network, values)
    for name, tensor in outputs.items():
        if tensor.format.is_float:
            found[name] = tensor.format.reals(found[name])
    return found


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
