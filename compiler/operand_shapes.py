"""What ONNX's shape inference lets through: constants whose shapes do not fit what they are applied to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.graph import Graph, Node, Shape


def check_operands(graph: Graph) -> None:
    """Checks a graph as it was read from a file.

    Raises
    ------
    CompilerError
        A constant does not fit its node, or an output does not depend on any input.
    """
    for node in graph.nodes:
        for problem in _CHECKS.get(node.op, _nothing)(graph, node):
            raise CompilerError(f"network {graph.name!r}: node {node.name!r} ({node.op}): {problem}")
    computed = set(graph.inputs)
    for node in graph.nodes:
        if computed.intersection(node.inputs):
            computed.update(node.outputs)
    for name in graph.outputs:
        if name not in computed:
            raise CompilerError(
                f"network {graph.name!r}: its output {name!r} does not depend on any input; leave it out"
            )


def _nothing(graph: Graph, node: Node) -> Iterator[str]:
    yield from ()


def _shape(graph: Graph, node: Node, index: int) -> Shape | None:
    """Shape of an operand; None if it is left out."""
    name = node.inputs[index] if index < len(node.inputs) else ""
    return np.shape(graph.constants[name]) if name in graph.constants else graph.shapes.get(name)


def _convolution(graph: Graph, node: Node) -> Iterator[str]:
    source, weights, bias = (_shape(graph, node, index) for index in range(3))
    groups = node.attributes.get("group", 1)
    if source is None or weights is None or len(source) < 3 or len(weights) != len(source):
        yield f"its input has the shape {source} and its weights {weights}, but both need as many axes, at least 3"
    elif groups < 1 or weights[1] * groups != source[1] or weights[0] % groups:
        yield (
            f"weights of the shape {weights} in {groups} groups do not fit {source[1]} input channels; they need "
            "input channels / groups on their second axis, and a multiple of the groups on their first"
        )
    elif bias is not None and bias != weights[:1]:
        yield f"its bias has the shape {bias}, but must have {weights[:1]}"
    elif 0 in weights:
        yield f"its weights have the shape {weights}, but no side may be 0"


def _batch_normalization(graph: Graph, node: Node) -> Iterator[str]:
    source = _shape(graph, node, 0)
    if source is None or len(source) < 2:
        yield f"its input has the shape {source}, but needs an axis of channels"
        return
    for index in range(1, 5):
        if _shape(graph, node, index) != source[1:2]:
            yield f"its operand {node.inputs[index]!r} has the shape {_shape(graph, node, index)}, not {source[1:2]}"


def _product(graph: Graph, node: Node) -> Iterator[str]:
    """A bias must be stretched to the result, and not the other way round."""
    bias, result = _shape(graph, node, 2), graph.shapes[node.output]
    if bias is None:
        return
    aligned = (1,) * (len(result) - len(bias)) + bias
    if len(bias) > len(result) or any(side not in (1, whole) for side, whole in zip(aligned, result, strict=True)):
        yield f"its bias has the shape {bias}, which cannot be stretched to {result}"


_CHECKS: dict[str, Callable[[Graph, Node], Iterator[str]]] = {
    "Conv": _convolution,
    "BatchNormalization": _batch_normalization,
    "Gemm": _product,
}
