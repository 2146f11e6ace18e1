"""From ONNX nodes that the NPU can execute to canonical nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tessera.compiler.functions import LIMITS, regions
from tessera.compiler.graph import CONVOLUTION, NO_ACTIVATION, WINDOW, Graph, Node, map_shape, unique_name
from tessera.compiler.operators import affine_of, clip_limits, explicit_padding, npu_problem, pair
from tessera.compiler.passes.reshapes import PRODUCTS, product_source

_NO_PADDING = (0, 0, 0, 0)

POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean")
"""ONNX operators that reduce windows."""


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
        if node.op in POOLS and not npu_problem(graph, node):
            graph.replace_node(node, window(node, (node.inputs[0],), **_pooling(graph, node)))
    return graph


def lower_elementwise(graph: Graph) -> Graph:
    """Limits and the sum of two maps become Window of 1 x 1."""
    graph = graph.copy()
    for node in list(graph.nodes):
        limits = clip_limits(graph, node) if node.op in LIMITS and npu_problem(graph, node) is None else None
        if limits is not None:
            source = next(name for name in node.inputs if name not in graph.constants)
            graph.replace_node(node, window(node, (source,), activation=limits))
        elif node.op == "Add" and npu_problem(graph, node) is None:
            graph.replace_node(node, window(node, node.inputs))
    return graph


def lower_subtractions(graph: Graph) -> Graph:
    """The difference of two maps becomes the sum of one and the other times -1."""
    graph = graph.copy()
    tabulated = {node.name for region in regions(graph) for node in region.nodes}
    for node in list(graph.nodes):
        is_difference = node.op == "Sub" and not any(name in graph.constants for name in node.inputs)
        if is_difference and node.name not in tabulated and npu_problem(graph, node) is None:
            first, second = node.inputs
            minus_one = graph.add_constant(f"{node.name}_sign", np.array(-1, np.float32))
            negated = unique_name(f"{node.name}_negated", [*graph.shapes, *graph.constants])
            graph.shapes[negated] = graph.shapes[second]
            name = unique_name(f"{node.name}_negation", [other.name for other in graph.nodes])
            negation = Node(name, "Mul", (second, minus_one), (negated,))
            graph.replace_node(node, negation, replace(node, op="Add", inputs=(first, negated)))
    return graph


def lower_functions(graph: Graph) -> Graph:
    """Functions of one variable that need a table become Window of 1 x 1 with a function."""
    graph = graph.copy()
    for region in list(regions(graph)):
        if all(npu_problem(graph, node) is None for node in region.nodes):
            root = region.nodes[-1]
            operand = unique_name(f"{root.output}_operand", [*graph.shapes, *graph.constants])
            graph.shapes[operand] = graph.shapes[root.output]
            made = window(root, (region.variable,), function=region.function)
            graph.replace_node(root, replace(made, outputs=(root.output, operand)))
    return graph


def lower_affine(graph: Graph) -> Graph:
    """What multiplies or adds a constant per channel, and is not folded, becomes a diagonal 1 x 1 Convolution."""
    graph = graph.copy()
    for node in list(graph.nodes):
        affine = affine_of(graph, node) if npu_problem(graph, node) is None else None
        if affine is not None:
            diagonal_convolution(graph, node, affine.source, affine.scale, affine.offset)
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


def window(node: Node, inputs: tuple[str, ...], **attributes: Any) -> Node:
    """The Window that computes the first output of a node; by default the sum of 1 x 1."""
    defaults = {
        "reduction": "sum",
        "kernel": (1, 1),
        "stride": (1, 1),
        "padding": _NO_PADDING,
        "divisor": 1,
        "repeat": (1, 1),
        "activation": NO_ACTIVATION,
    }
    return Node(node.name, WINDOW, inputs, node.outputs[:1], {**defaults, **attributes})


def _pooling(graph: Graph, node: Node) -> dict[str, Any]:
    if node.op in ("GlobalAveragePool", "ReduceMean"):
        kernel = map_shape(graph.shapes[node.inputs[0]])[1:]
        return {"kernel": kernel, "divisor": kernel[0] * kernel[1]}
    if node.op == "GlobalMaxPool":
        return {"kernel": map_shape(graph.shapes[node.inputs[0]])[1:], "reduction": "max"}
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
