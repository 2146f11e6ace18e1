"""Finds what the host must execute because of where it stands."""

from __future__ import annotations

from collections.abc import Iterable

import networkx

from tessera.compiler.graph import CONVOLUTION, STRUCTURAL, WINDOW, Graph, Node, Placement, is_map, map_shape
from tessera.compiler.operators import npu_problem
from tessera.compiler.passes.reshapes import PRODUCTS, RESHAPES, product_source

_WEIGHTED = ("Conv", *PRODUCTS)
"""Operators with most of a network's work, which are never left to the host."""

_NOT_LIGHT = (*_WEIGHTED, *RESHAPES, "Identity", "Dropout", "Constant")
"""Operators of the NPU that the host does not take over, and those that are no work."""


def keep_on_host(graph: Graph) -> Graph:
    """Places nodes on the host that only it can execute, and with them the light ones beyond them.

    The NPU runs once, so that nothing behind a node of the host can return to it, and nothing before one that
    runs ahead of the NPU can run on the NPU. Convolutions and fully connected layers always stay with the
    NPU; a node between two of them has no place yet, and ``partition_host`` refuses it. Where a file says how tensors
    are rounded, the NPU begins with what is rounded first.
    """
    graph = graph.copy()
    graph.placement.clear()
    flow = _flow(graph)
    weighted = [node.name for node in graph.nodes if _is_weighted(graph, node)]
    unrounded = _unrounded(graph)
    light = [node.name for node in graph.nodes if _is_light(graph, node) and node.name not in unrounded]
    on_npu = {*weighted, *light}
    host = [node.name for node in graph.nodes if node.name not in on_npu and not _is_free(graph, node)]
    before_weighted = _reached(flow.reverse(copy=False), weighted)
    behind_weighted = _reached(flow, weighted)
    behind_npu = _reached(flow, on_npu)
    heads = [name for name in host if name in before_weighted and name not in behind_weighted]
    tails = [name for name in host if name in behind_npu and name not in before_weighted]
    before = {*heads, *_reached(flow.reverse(copy=False), heads)}
    after = {*tails, *_reached(flow, tails)}
    graph.placement.update(dict.fromkeys(before, Placement.HOST_BEFORE))
    graph.placement.update(dict.fromkeys(after, Placement.HOST_AFTER))
    return graph


def _flow(graph: Graph) -> networkx.DiGraph:
    """Which node reads the result of which, by name."""
    makers = {output: node.name for node in graph.nodes for output in node.outputs if output}
    flow = networkx.DiGraph()
    flow.add_nodes_from(node.name for node in graph.nodes)
    for node in graph.nodes:
        flow.add_edges_from((makers[name], node.name) for name in _operands(graph, node) if name in makers)
    return flow


def _unrounded(graph: Graph) -> set[str]:
    """Names of the nodes that compute with the network's inputs before a file rounds these."""
    if not graph.quantizers:
        return set()
    names, tensors = set(), set(graph.inputs)
    for node in graph.nodes:
        if tensors.intersection(node.inputs) and not graph.quantizers.keys() & set(node.outputs):
            names.add(node.name)
            tensors.update(() if _is_weighted(graph, node) else node.outputs)
    return names


def _operands(graph: Graph, node: Node) -> tuple[str, ...]:
    """What a node reads when it is lowered: a fully connected layer reads over the reshapes before it."""
    if node.op in PRODUCTS and _is_weighted(graph, node):
        return (product_source(graph, node),)
    return node.inputs


def _reached(flow: networkx.DiGraph, names: Iterable[str]) -> set[str]:
    return set().union(*(networkx.descendants(flow, name) for name in names))


def _is_weighted(graph: Graph, node: Node) -> bool:
    return node.op == CONVOLUTION or (node.op in _WEIGHTED and npu_problem(graph, node) is None)


def _is_light(graph: Graph, node: Node) -> bool:
    return node.op in (WINDOW, *STRUCTURAL) or (node.op not in _NOT_LIGHT and npu_problem(graph, node) is None)


def _is_free(graph: Graph, node: Node) -> bool:
    """Whether a node is a reshape that the NPU reads over."""
    if node.op not in RESHAPES or npu_problem(graph, node) is not None:
        return False
    source, target = graph.shapes.get(node.inputs[0], ()), graph.shapes[node.output]
    return is_map(source) and is_map(target) and map_shape(source) == map_shape(target)
