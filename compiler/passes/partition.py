"""Decides where each node runs."""

from __future__ import annotations

import math
from dataclasses import replace

from tessera.compiler.errors import CompilerError
from tessera.compiler.graph import CANONICAL, STRUCTURAL, Graph, Node, Placement, is_map, map_shape
from tessera.compiler.operators import npu_problem
from tessera.compiler.passes.reshapes import RESHAPES

_ON_NPU = (*CANONICAL, *STRUCTURAL)


def partition_host(graph: Graph) -> Graph:
    """Places canonical nodes on the NPU, and the others on the host before or after it.

    Raises
    ------
    CompilerError
        A node that the NPU cannot execute lies between nodes that it executes, or nothing is left for the
        NPU.
    """
    graph = graph.copy()
    if not any(node.op in CANONICAL for node in graph.nodes):
        reasons = "; ".join(_describe(graph, node) for node in graph.nodes[:3])
        raise CompilerError(f"network {graph.name!r} has no node that the NPU can execute ({reasons})")
    after_npu: set[str] = set()
    for node in graph.nodes:
        if node.op in _ON_NPU or after_npu.intersection(node.inputs):
            after_npu.update(node.outputs)
    before_npu: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op in _ON_NPU or before_npu.intersection(node.outputs):
            before_npu.update(node.inputs)
    for node in graph.nodes:
        graph.placement[node.name] = _place(graph, node, after_npu, before_npu)
    order = list(Placement)
    graph.nodes.sort(key=lambda node: order.index(graph.placement[node.name]))
    return graph


def host_report(graph: Graph) -> list[str]:
    """A sentence for each node that runs on the host, and why."""
    return [
        f"node {node.name!r} ({node.op}) runs on the {graph.placement[node.name]} the NPU: {_reason(graph, node)}"
        for node in graph.nodes
        if graph.placement[node.name] is not Placement.NPU
    ]


def _place(graph: Graph, node: Node, after_npu: set[str], before_npu: set[str]) -> Placement:
    if node.op in _ON_NPU:
        _check_operands(graph, node)
        _check_result(graph, node)
        return Placement.NPU
    is_after = bool(after_npu.intersection(node.inputs))
    if is_after and before_npu.intersection(node.outputs):
        raise CompilerError(
            f"network {graph.name!r}: {_describe(graph, node)}, and it lies between nodes that the NPU "
            "executes, where the host cannot take it over; replace it in the network"
        )
    return Placement.HOST_BEFORE if before_npu.intersection(node.outputs) else Placement.HOST_AFTER


def _check_operands(graph: Graph, node: Node) -> None:
    for name in node.operands:
        if name in graph.shapes and not is_map(graph.shapes[name]):
            raise CompilerError(
                f"network {graph.name!r}: node {node.name!r} reads {name!r} of shape {graph.shapes[name]}, "
                "but the NPU takes maps of shape (1, C, H, W) or (1, F)"
            )


def _check_result(graph: Graph, node: Node) -> None:
    shape = graph.shapes[node.output]
    if min(shape) < 1:
        raise CompilerError(
            f"network {graph.name!r}: node {node.name!r} makes {node.output!r} of shape {shape}, which has no "
            "elements; its window is larger than its input, or its slice is empty"
        )


def _describe(graph: Graph, node: Node) -> str:
    return f"node {node.name!r} ({node.op}) cannot run on the NPU: {_reason(graph, node)}"


def _reason(graph: Graph, node: Node) -> str:
    if node.op in STRUCTURAL:
        return "it only says where values lie, and no operation computes any"
    own_problem = npu_problem(replace(graph, placement={}), node)
    problem = own_problem if node.op in RESHAPES else npu_problem(graph, node)
    is_last = graph.placement.get(node.name) is Placement.HOST_BEFORE and not graph.consumers(node.output)
    if is_last and problem is not None and own_problem is None:
        return "it prepares what the NPU is given"
    if problem is not None:
        return problem
    source = graph.shapes.get(node.inputs[0], ()) if node.inputs else ()
    if node.op == "Reshape" and is_map(source) and math.prod(map_shape(source)[1:]) > 1:
        return "flattening a map of more than one pixel costs nothing only before a fully connected layer"
    return "it only changes the shape"
