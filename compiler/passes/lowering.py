"""From ONNX nodes that the NPU can execute to canonical nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera.compiler.graph import CONVOLUTION, NO_ACTIVATION, WINDOW, Graph, Node, map_shape
from tessera.compiler.operators import channel_constant, clip_limits, explicit_padding, npu_problem, pair
from tessera.compiler.passes.reshapes import PRODUCTS, product_source

_NO_PADDING = (0, 0, 0, 0)


def lower_convolutions(graph: Graph) -> Graph:
    """Conv becomes Convolution."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op == "Conv" and npu_problem(graph, node) is None:
            weights = graph.constants[node.inputs[1]]
            padding = explicit_padding(graph, node, weights.shape[2:])
            bias = _operand(graph, node, 2, np.zeros(len(weights), np.float32))
            _convolution(
                graph,
                node,
                node.inputs[0],
                node.inputs[1],
                bias,
                padding,
                pair(node, "strides"),
                pair(node, "dilations"),
                node.attributes.get("group", 1),
            )
    return graph


def lower_products(graph: Graph) -> Graph:
    """Gemm and MatMul become a Convolution whose kernel is the whole map that was flattened for them."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op in PRODUCTS and npu_problem(graph, node) is None:
            matrix, bias = _product_constants(graph, node)
            source = product_source(graph, node)
            kernel = matrix.reshape(len(matrix), *map_shape(graph.shapes[source]))
            weights_name = graph.add_constant(f"{node.name}_weights", kernel)
            bias_name = graph.add_constant(f"{node.name}_bias", bias)
            _convolution(graph, node, source, weights_name, bias_name)
    return graph


def lower_windows(graph: Graph) -> Graph:
    """Pooling becomes Window."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op in ("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean") and not npu_problem(graph, node):
            graph.replace_node(node, _window(node, (node.inputs[0],), **_pooling(graph, node)))
    return graph


def lower_elementwise(graph: Graph) -> Graph:
    """Relu, Clip and Add of two maps become Window of 1 x 1."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op in ("Relu", "Clip") and npu_problem(graph, node) is None:
            limits = clip_limits(graph, node)
            graph.replace_node(node, _window(node, (node.inputs[0],), activation=limits))
        elif node.op == "Add" and npu_problem(graph, node) is None and not _has_constant(graph, node):
            graph.replace_node(node, _window(node, node.inputs))
        elif node.op == "Add" and npu_problem(graph, node) is None:
            diagonal_convolution(graph, node, *_added_constant(graph, node))
    return graph


def diagonal_convolution(graph: Graph, node: Node, source: str, scale: np.ndarray, offset: np.ndarray) -> None:
    """Replaces ``node`` by a 1 x 1 Convolution that computes ``scale[c] * source[c] + offset[c]``."""
    kernel = np.diag(scale).astype(np.float32)[:, :, np.newaxis, np.newaxis]
    weights = graph.add_constant(f"{node.name}_weights", kernel)
    bias = graph.add_constant(f"{node.name}_bias", offset.astype(np.float32))
    _convolution(graph, node, source, weights, bias)


def _convolution(
    graph: Graph,
    node: Node,
    source: str,
    weights: str,
    bias: str,
    padding: tuple[int, int, int, int] = _NO_PADDING,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> None:
    attributes = {
        "padding": padding,
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "activation": NO_ACTIVATION,
    }
    canonical = Node(node.name, CONVOLUTION, (source, weights, bias), node.outputs[:1], attributes)
    graph.replace_node(node, canonical)


def _window(node: Node, inputs: tuple[str, ...], **attributes: Any) -> Node:
    defaults = {
        "reduction": "sum",
        "kernel": (1, 1),
        "stride": (1, 1),
        "padding": _NO_PADDING,
        "divisor": 1,
        "activation": NO_ACTIVATION,
    }
    return Node(node.name, WINDOW, inputs, node.outputs[:1], {**defaults, **attributes})


def _pooling(graph: Graph, node: Node) -> dict[str, Any]:
    if node.op in ("GlobalAveragePool", "ReduceMean"):
        kernel = map_shape(graph.shapes[node.inputs[0]])[1:]
        return {"kernel": kernel, "divisor": kernel[0] * kernel[1]}
    kernel = pair(node, "kernel_shape")
    facts = {
        "kernel": kernel,
        "stride": pair(node, "strides"),
        "padding": explicit_padding(graph, node, kernel),
    }
    if node.op == "MaxPool":
        return {**facts, "reduction": "max"}
    return {**facts, "divisor": kernel[0] * kernel[1]}


def _product_constants(graph: Graph, node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (K, F) and bias (K) of a product."""
    matrix = graph.constants[node.inputs[1]].astype(np.float64)
    if not node.attributes.get("transB", 0):
        matrix = matrix.T
    matrix = matrix * node.attributes.get("alpha", 1.0)
    bias = np.zeros(len(matrix))
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = bias + graph.constants[node.inputs[2]].reshape(-1) * node.attributes.get("beta", 1.0)
    return matrix.astype(np.float32), bias.astype(np.float32)


def _operand(graph: Graph, node: Node, index: int, default: np.ndarray) -> str:
    """Name of an optional constant operand; adds ``default`` as a constant if it is omitted."""
    if len(node.inputs) > index and node.inputs[index]:
        return node.inputs[index]
    return graph.add_constant(f"{node.name}_bias", default)


def _has_constant(graph: Graph, node: Node) -> bool:
    return any(name in graph.constants for name in node.inputs)


def _added_constant(graph: Graph, node: Node) -> tuple[str, np.ndarray, np.ndarray]:
    source = next(name for name in node.inputs if name not in graph.constants)
    constant = next(name for name in node.inputs if name in graph.constants)
    offset = channel_constant(graph, constant, node.output)
    if offset is None:
        raise ValueError(f"node {node.name!r} adds no constant per channel")
    return source, np.ones_like(offset), offset
