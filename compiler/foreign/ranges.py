"""How tensors of the NPU are rounded that no quantizer of the file rounds."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tessera.compiler.graph import (
    CONCATENATION,
    CONVOLUTION,
    NO_ACTIVATION,
    SELECTION,
    Graph,
    Node,
    Placement,
    unique_name,
)
from tessera.compiler.passes.lowering import window
from tessera.compiler.quantized import BASE_DEPTH
from tessera.compiler.quantizer import Quantizer
from tessera.sim.golden.arithmetic import depth_range

Range = tuple[float, float]

_FUNCTION_SAMPLES = 4096
"""Points at which the extremes of an activation function are searched."""

_SMALLEST_RANGE = 1e-30
"""Ranges below this count as zero: their scales would not be normal float32 numbers."""


def complete_quantizers(graph: Graph, notes: list[str]) -> Graph:
    """Gives every tensor of the NPU a quantizer.

    Where values are only copied, joined or chosen it is that of the operands; parts of a concatenation that are rounded
    differently are copied. Sums and means of few enough values are multiples of a step, and exact. Any other tensor
    gets 16 bits that hold every value which it can have, whatever the input is; ``notes`` gets a sentence that names
    these.

    Parameters
    ----------
    graph
        A prepared network in which all that the NPU is given has a quantizer.
    """
    graph = graph.copy()
    widest: list[str] = []
    for node in list(graph.placed(Placement.NPU)):
        if node.op == CONCATENATION:
            graph.quantizers[node.output] = _join(graph, node, widest)
        elif node.op == SELECTION or (node.output not in graph.quantizers and _keeps_values(node)):
            graph.quantizers[node.output] = graph.quantizers[node.inputs[0]]
        elif node.output not in graph.quantizers:
            exact = exact_sum(graph, node)
            graph.quantizers[node.output] = exact or covering(*result_range(graph, node))
            if exact is None:
                widest.append(node.output)
    if widest:
        notes.append(
            f"nothing rounds {', '.join(map(repr, widest))}; on the NPU {'they have' if widest[1:] else 'it has'} "
            f"{BASE_DEPTH} bits, with a step that lets every possible value fit"
        )
    return graph


def covering(low: float, high: float) -> Quantizer:
    """The quantizer of 16 bits with the smallest step that reaches from ``low`` to ``high``."""
    least, most = depth_range(BASE_DEPTH, low < 0)
    scale = max(high / most, low / least if low < 0 else 0.0, _SMALLEST_RANGE)
    return Quantizer(float(np.nextafter(np.float32(scale), np.float32(np.inf))), least, most)


def exact_sum(graph: Graph, node: Node) -> Quantizer | None:
    """The quantizer that has all sums, or means, of a Window; ``None`` if the machine has too few bits for them."""
    if node.op == CONVOLUTION or node.function is not None or node.activation not in (NO_ACTIVATION, (0.0, math.inf)):
        return None
    source = graph.quantizers[node.inputs[0]]
    scale, times = source.scale / node.attributes["divisor"], math.prod(node.attributes["kernel"])
    low, high = min(source.low, 0) * times, max(source.high, 0) * times
    if node.residual is not None:
        other = graph.quantizers[node.residual]
        factor = round(other.scale / scale)
        if factor * scale != other.scale:
            return None
        low, high = low + factor * other.low, high + factor * other.high
    if node.activation != NO_ACTIVATION:
        low = max(low, 0)
    found = Quantizer(float(np.float32(scale)), low, high)
    return None if found.depth is None else found


def operand_range(graph: Graph, node: Node) -> Range:
    """The least and the largest value that a canonical node can compute before its function."""
    low, high = (float(limit) for limit in _with_zero(graph.quantizers[node.inputs[0]].limits))
    if node.op == CONVOLUTION:
        low, high = _convolution_range(graph, node, low, high)
    elif node.attributes["reduction"] == "sum":
        size = np.prod(node.attributes["kernel"]) / node.attributes["divisor"]
        low, high = low * size, high * size
    if node.residual is not None:
        other = graph.quantizers[node.residual].limits
        low, high = low + other[0], high + other[1]
    low, high = np.clip((low, high), *node.activation)
    return float(low), float(high)


def result_range(graph: Graph, node: Node) -> Range:
    """The least and the largest value that a canonical node can compute."""
    low, high = operand_range(graph, node)
    if node.function is None:
        return low, high
    values = node.function(np.linspace(low, high, _FUNCTION_SAMPLES))
    return float(values.min()), float(values.max())


def _with_zero(limits: Iterable[float]) -> Range:
    """A range with the zeros of a padding."""
    low, high = limits
    return min(low, 0.0), max(high, 0.0)


def _convolution_range(graph: Graph, node: Node, low: float, high: float) -> Range:
    weights, bias = (graph.constants[name].astype(np.float64) for name in node.inputs[1:3])
    positive = np.maximum(weights, 0).sum(axis=(1, 2, 3))
    negative = np.minimum(weights, 0).sum(axis=(1, 2, 3))
    least = positive * low + negative * high + bias
    most = positive * high + negative * low + bias
    return float(least.min()), float(most.max())


def _keeps_values(node: Node) -> bool:
    """Whether a canonical node chooses among the values of its operand, or limits them."""
    if node.residual is not None or node.function is not None or node.op == CONVOLUTION:
        return False
    return node.attributes["reduction"] == "max" or (
        node.attributes["kernel"] == (1, 1) and node.attributes["divisor"] == 1
    )


def _join(graph: Graph, node: Node, widest: list[str]) -> Quantizer:
    """The quantizer of a concatenation; copies the operands that have another one."""
    found = [graph.quantizers[name] for name in node.inputs]
    common = found[0]
    if len(set(found)) > 1:
        common = covering(min(each.limits[0] for each in found), max(each.limits[1] for each in found))
        widest.append(node.output)
    names = [name if graph.quantizers[name] == common else _copy(graph, node, name, common) for name in node.inputs]
    current = next(each for each in graph.nodes if each.name == node.name)
    graph.replace_node(current, Node(node.name, node.op, tuple(names), node.outputs))
    return common


def _copy(graph: Graph, reader: Node, source: str, quantizer: Quantizer) -> str:
    """A copy of a tensor with another quantizer, made before its reader."""
    name = unique_name(f"{source}_copy", [*graph.shapes, *graph.constants])
    graph.shapes[name], graph.quantizers[name] = graph.shapes[source], quantizer
    copy = Node(unique_name(name, [each.name for each in graph.nodes]), "", (), (name,))
    current = next(each for each in graph.nodes if each.name == reader.name)
    graph.replace_node(current, window(copy, (source,)), current)
    graph.placement[copy.name] = Placement.NPU
    return name
