"""Executes quantised networks: the host's part in float, the NPU's part with the golden model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tessera.compiler.float_execution import batch_size, run_onnx_node, without_unit_axis
from tessera.compiler.graph import Node
from tessera.compiler.integer import to_integer
from tessera.compiler.quantized import QuantizedNetwork, QuantizedTensor
from tessera.sim.golden.evaluate import evaluate

Integers = dict[str, np.ndarray]
"""Activation integers by tensor name, each (samples, C, H, W)."""


@dataclass(frozen=True, eq=False)
class HostInputs:
    """What the host does before the NPU: the NPU's operands, and the float tensors (samples, *shape*) so far."""

    integers: Integers
    values: dict[str, np.ndarray]


def quantize_values(values: np.ndarray, tensor: QuantizedTensor) -> np.ndarray:
    """int64 integers of real values: divided by the scale in float32, rounded half to even, saturated.

    The division is in float32 because that is what a Quant node does; so other executors of the network get
    the same integers.
    """
    scaled = np.rint(np.asarray(values, np.float32) / np.float32(tensor.scale))
    return np.clip(scaled, *tensor.type.range).astype(np.int64)


def dequantize_values(integers: np.ndarray, tensor: QuantizedTensor) -> np.ndarray:
    """float32 values of integers."""
    return np.asarray(integers, np.float32) * np.float32(tensor.scale)


def host_before(network: QuantizedNetwork, inputs: Mapping[str, np.ndarray]) -> HostInputs:
    """The host's nodes before the NPU, and the quantisation of what the NPU is given.

    Parameters
    ----------
    network
        The network.
    inputs
        For each input an array (samples, *rest of its shape*).

    Raises
    ------
    CompilerError
        An input is missing or of the wrong shape.
    """
    samples = batch_size(network.shapes, network.inputs, inputs)
    values = {
        name: np.asarray(inputs[name], np.float32).reshape(samples, *network.shapes[name]) for name in network.inputs
    }
    for node in network.host_before:
        _run(network, node, values)
    integers = {}
    for name in network.npu_inputs:
        tensor = network.tensors[name]
        integers[name] = quantize_values(values[name], tensor).reshape(samples, *tensor.type.shape)
    return HostInputs(integers, values)


def host_after(
    network: QuantizedNetwork, results: Mapping[str, np.ndarray], before: HostInputs
) -> dict[str, np.ndarray]:
    """The host's nodes after the NPU.

    Parameters
    ----------
    network
        The network.
    results
        The NPU's outputs (``network.npu_outputs``), each (samples, C, H, W): integers, or the real numbers that they
        mean as a float array.
    before
        What :func:`host_before` returned for the same samples.

    Returns
    -------
    For each output of the network an array (samples, *shape*), where a first axis of 1 of its shape is left out.
    """
    values = dict(before.values)
    for name in network.npu_outputs:
        tensor = network.tensors[name]
        reals = results[name]
        if not np.issubdtype(reals.dtype, np.floating):
            reals = dequantize_values(reals, tensor)
        values[name] = reals.reshape(len(reals), *tensor.shape)
    for node in network.host_after:
        _run(network, node, values)
    return {name: without_unit_axis(values[name], network.shapes[name]) for name in network.outputs}


def execute_quantized(
    network: QuantizedNetwork,
    inputs: Mapping[str, np.ndarray],
    npu: Callable[[Integers], Mapping[str, np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
    """The network's outputs for a batch of inputs.

    Parameters
    ----------
    network
        The network.
    inputs
        For each input an array (samples, *rest of its shape*).
    npu
        Executes the NPU's part: from its inputs to its outputs; default the golden model.
    """
    if npu is None:
        integer_network = to_integer(network)

        def npu(integers: Integers) -> Mapping[str, np.ndarray]:
            return evaluate(integer_network, integers)

    before = host_before(network, inputs)
    return host_after(network, npu(before.integers), before)


def _run(network: QuantizedNetwork, node: Node, values: dict[str, np.ndarray]) -> None:
    operands = [values.get(name) for name in node.inputs]
    constants = [network.host_constants.get(name) for name in node.inputs]
    values.update(run_onnx_node(node, network.opset, operands, constants, network.shapes))
