"""Executes float networks with numpy, for a batch of samples: calibration, accuracy, and the host's
operations.

Canonical nodes are computed for the whole batch at once; any other ONNX node is computed sample by sample
with ONNX's own reference implementation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.reference

from tessera.compiler.errors import CompilerError, first_line
from tessera.compiler.graph import (
    CANONICAL,
    CONCATENATION,
    CONVOLUTION,
    SELECTION,
    Graph,
    Node,
    Shape,
    canonical_output,
    map_shape,
)
from tessera.sim.golden.taps import pad_map, taps

_BATCH_NORM_OPSET = 15
"""BatchNormalization is computed as in this version: the reference implementation of earlier ones takes the statistics
of the data.
"""


def execute(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    wanted: Iterable[str] | None = None,
    *,
    dtype: type[np.floating] = np.float32,
) -> dict[str, np.ndarray]:
    """Computes tensors of a network for a batch.

    Parameters
    ----------
    graph
        The network, before or after any pass.
    inputs
        For each input an array (samples, *rest of its shape*).
    wanted
        Names of the tensors to return; default the outputs.
    dtype
        Floating-point type of the canonical nodes.

    Returns
    -------
    For each wanted tensor an array (samples, *shape*), where a first axis of 1 of its shape is left out.

    Raises
    ------
    CompilerError
        An input is missing or of the wrong shape.
    """
    wanted = tuple(graph.outputs if wanted is None else wanted)
    samples = batch_size(graph.shapes, graph.inputs, inputs)
    values = {
        name: np.asarray(inputs[name], dtype=dtype).reshape(samples, *graph.shapes[name]) for name in graph.inputs
    }
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    for index, node in enumerate(graph.nodes):
        run_node(graph, node, values, dtype)
        for name in set(node.inputs):
            if last_use[name] == index and name not in wanted:
                values.pop(name, None)
    return {name: without_unit_axis(values[name], graph.shapes[name]) for name in wanted}


def batch_size(shapes: Mapping[str, Shape], names: Sequence[str], inputs: Mapping[str, np.ndarray]) -> int:
    """Number of samples in ``inputs``; refuses inputs that are missing, or of the wrong shape or number of samples."""
    counts = {}
    for name in names:
        if name not in inputs:
            raise CompilerError(f"the input {name!r} is missing; the network needs {', '.join(names)}")
        shape = np.shape(inputs[name])
        if not shape or shape[1:] != shapes[name][1:]:
            expected = ", ".join(["samples", *map(str, shapes[name][1:])])
            raise CompilerError(f"the data for input {name!r} have the shape {shape}, but must have ({expected})")
        counts[name] = shape[0]
    if len(set(counts.values())) > 1:
        texts = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise CompilerError(f"the inputs have different numbers of samples: {texts}")
    return next(iter(counts.values()))


def without_unit_axis(value: np.ndarray, shape: Shape) -> np.ndarray:
    """``value`` (samples, *shape*) without the first axis of ``shape`` if that is 1."""
    return value.reshape(len(value), *(shape[1:] if shape[:1] == (1,) else shape))


def run_node(graph: Graph, node: Node, values: dict[str, np.ndarray], dtype: type[np.floating] = np.float32) -> None:
    """Computes one node: reads its operands from ``values`` (arrays (samples, *shape*)) and adds its outputs."""
    if node.op in CANONICAL:
        result = _run_canonical(graph, node, values, dtype)
        shape = len(result), *graph.shapes[node.output]
        if node.function is not None:
            values[node.outputs[1]] = result.reshape(shape)
            result = node.function(result)
        values[node.output] = result.reshape(shape)
    elif node.op == CONCATENATION:
        values[node.output] = np.concatenate([values[name] for name in node.inputs], axis=2)
    elif node.op == SELECTION:
        first = node.attributes["channel"]
        values[node.output] = values[node.inputs[0]][:, :, first : first + graph.shapes[node.output][1]]
    else:
        operands = [values.get(name) for name in node.inputs]
        constants = [_in_type(graph.constants.get(name), dtype) for name in node.inputs]
        values.update(run_onnx_node(node, graph.opset, operands, constants, graph.shapes))


def _in_type(constant: np.ndarray | None, dtype: type[np.floating]) -> np.ndarray | None:
    """A constant as an operator takes it beside operands of ``dtype``: float32 becomes that type, others stay."""
    return constant if constant is None or constant.dtype != np.float32 else constant.astype(dtype, copy=False)


def run_onnx_node(
    node: Node,
    opset: int,
    operands: Sequence[np.ndarray | None],
    constants: Sequence[np.ndarray | None],
    shapes: Mapping[str, Shape],
) -> dict[str, np.ndarray]:
    """Computes an ONNX node with ONNX's reference implementation.

    Parameters
    ----------
    node
        The node.
    opset
        Version of its operator.
    operands
        For each of its inputs an array (samples, *shape*), or ``None`` for a constant or an omitted operand.
    constants
        For each of its inputs its value if it is a constant.
    shapes
        Shapes that its outputs must have, by name, where they are known.

    Returns
    -------
    For each output that has a name an array (samples, *shape*). Without any operand there is one sample.

    Raises
    ------
    CompilerError
        The reference implementation does not compute the node, or gives another shape than the rest of the network was
        prepared for.
    """
    if node.op == "BatchNormalization":
        opset = max(opset, _BATCH_NORM_OPSET)
    evaluator = _reference(node, opset)
    batch = next((len(operand) for operand in operands if operand is not None), 1)
    fixed = {name: value for name, value in zip(node.inputs, constants, strict=True) if value is not None}
    varying = {name: value for name, value in zip(node.inputs, operands, strict=True) if value is not None}
    try:
        results = [
            evaluator.run(None, {**fixed, **{name: value[sample] for name, value in varying.items()}})
            for sample in range(batch)
        ]
    except Exception as error:  # another project's code: it may raise anything
        raise CompilerError(
            f"node {node.name!r} ({node.op}): ONNX's reference implementation, which computes it for the host, fails: "
            f"{first_line(error)}; write the node in another form"
        ) from None
    outputs = dict(zip(filter(None, node.outputs), map(np.stack, zip(*results, strict=True)), strict=True))
    _check_shapes(node, outputs, shapes)
    return outputs


def _check_shapes(node: Node, outputs: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> None:
    """ONNX's shape inference and its operators do not agree on every pooling with ``ceil_mode``."""
    for name, value in outputs.items():
        computed, inferred = value.shape[1:], shapes.get(name, value.shape[1:])
        if computed != inferred:
            raise CompilerError(
                f"node {node.name!r} ({node.op}): it computes {name!r} of shape {computed}, but by ONNX's shape "
                f"inference that is {inferred}; write the node in another form (pooling without ceil_mode)"
            )


def make_onnx_node(node: Node, domain: str = "") -> onnx.NodeProto:
    """The ONNX form of a node that is not canonical."""
    attributes = {
        key: onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in node.attributes.items()
    }
    return onnx.helper.make_node(node.op, node.inputs, node.outputs, name=node.name, domain=domain, **attributes)


def _reference(node: Node, opset: int) -> onnx.reference.ReferenceEvaluator:
    untyped = onnx.TypeProto()
    inputs = [onnx.helper.make_value_info(name, untyped) for name in dict.fromkeys(filter(None, node.inputs))]
    outputs = [onnx.helper.make_value_info(name, untyped) for name in filter(None, node.outputs)]
    graph = onnx.helper.make_graph([make_onnx_node(node)], node.name or "node", inputs, outputs)
    return onnx.reference.ReferenceEvaluator(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    )


def _run_canonical(graph: Graph, node: Node, values: Mapping[str, np.ndarray], dtype: type[np.floating]) -> np.ndarray:
    result = preactivation(graph, node, values[node.inputs[0]], dtype)
    if node.residual is not None:
        result = result + values[node.residual].reshape(result.shape)
    return np.clip(result, *node.activation)


def preactivation(graph: Graph, node: Node, source: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """What a canonical node computes before the residual operand and the activation: (samples, K, H, W)."""
    source = source.reshape(len(source), *map_shape(graph.shapes[node.inputs[0]])).astype(dtype, copy=False)
    if node.op == CONVOLUTION:
        weights, bias = (graph.constants[name].astype(dtype) for name in node.inputs[1:3])
        return _convolve(graph, node, source, weights) + bias.reshape(-1, 1, 1)
    return _reduce_windows(source, node, canonical_output(graph, node)[1:])


def convolution_taps(graph: Graph, node: Node, source: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each kernel position (ky, kx) of a convolution the values (groups, C / groups, samples x pixels) of its input
    (samples, C, H, W) that it meets."""
    groups, kernel = node.attributes["groups"], graph.constants[node.inputs[1]].shape[2:]
    padded = pad_map(source, node.attributes["padding"], 0).transpose(1, 0, 2, 3)
    stride, dilation = node.attributes["stride"], node.attributes["dilation"]
    for ky, kx, values in taps(padded, canonical_output(graph, node)[1:], kernel, stride, dilation):
        yield ky, kx, values.reshape(groups, source.shape[1] // groups, -1)


def _convolve(graph: Graph, node: Node, source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    output_map = canonical_output(graph, node)[1:]
    grouped = weights.reshape(node.attributes["groups"], -1, *weights.shape[1:])
    sums = np.zeros((*grouped.shape[:2], len(source) * output_map[0] * output_map[1]), weights.dtype)
    for ky, kx, values in convolution_taps(graph, node, source):
        sums += grouped[..., ky, kx] @ values
    return sums.reshape(len(weights), len(source), *output_map).transpose(1, 0, 2, 3)


def _reduce_windows(source: np.ndarray, node: Node, output_map: tuple[int, int]) -> np.ndarray:
    is_max = node.attributes["reduction"] == "max"
    neutral = -np.inf if is_max else 0
    reduce = np.maximum if is_max else np.add
    for axis, times in enumerate(node.attributes["repeat"]):
        source = np.repeat(source, times, axis=2 + axis)
    padded = pad_map(source, node.attributes["padding"], neutral)
    result = np.full((*source.shape[:2], *output_map), neutral, dtype=source.dtype)
    for _, _, values in taps(padded, output_map, node.attributes["kernel"], node.attributes["stride"]):
        reduce(result, values, out=result)
    return result / source.dtype.type(node.attributes["divisor"])
