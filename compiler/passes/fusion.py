"""Joins small operations with the operation whose post-processing does them for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tessera.compiler.graph import CANONICAL, NO_ACTIVATION, WINDOW, Graph, Node


def fuse_residual(graph: Graph) -> Graph:
    """Makes the sum of two maps the residual operand of the operation that computes one of them.

    The later of the two is taken, since the other must be complete when it ends.
    """
    graph = graph.copy()
    for node in list(graph.nodes):
        if not is_sum(node):
            continue
        node = next(item for item in graph.nodes if item.name == node.name)
        producers = [item for item in graph.nodes if item.output in node.inputs and _is_bare(graph, item)]
        if producers and node.inputs[0] != node.inputs[1]:
            producer = producers[-1]
            residual = next(name for name in node.inputs if name != producer.output)
            fused = replace(producer, inputs=(*producer.inputs, residual), outputs=node.outputs)
            # At the place of the sum both operands are known.
            graph.replace_node(producer)
            graph.replace_node(node, fused)
    return graph


def fuse_activation(graph: Graph) -> Graph:
    """Makes limits, and functions behind them, the activation of the operation before them."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if not is_activation(node):
            continue
        node = next(item for item in graph.nodes if item.name == node.name)
        producer = graph.producer(node.inputs[0])
        if producer is not None and producer.op in CANONICAL and graph.is_private(producer.output):
            if producer.function is not None:
                continue
            limits = tuple(float(np.clip(limit, *node.activation)) for limit in producer.activation)
            functions = {} if node.function is None else {"function": node.function}
            fused = producer.with_attributes(activation=limits, **functions)
            graph.replace_node(node)
            graph.replace_node(producer, replace(fused, outputs=node.outputs))
    return graph


def is_sum(node: Node) -> bool:
    """Whether a node does nothing but add two maps."""
    return _is_pointwise(node) and node.residual is not None and not _is_limited(node)


def is_activation(node: Node) -> bool:
    """Whether a node does nothing but limit a map, and compute a function of it."""
    return _is_pointwise(node) and node.residual is None


def _is_pointwise(node: Node) -> bool:
    """Whether each result of a node depends on the value at its own place, unchanged."""
    places = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0, 0, 0), "divisor": 1, "repeat": (1, 1)}
    return node.op == WINDOW and all(node.attributes[name] == value for name, value in places.items())


def _is_limited(node: Node) -> bool:
    """Whether a canonical node has an activation, so that nothing can be added behind its sums any more."""
    return node.activation != NO_ACTIVATION or node.function is not None


def _is_bare(graph: Graph, node: Node) -> bool:
    """Whether a residual operand can be added to what a node computes."""
    return node.op in CANONICAL and node.residual is None and not _is_limited(node) and graph.is_private(node.output)
