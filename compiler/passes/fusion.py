"""Joins small operations with the operation whose post-processing does them for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tessera.compiler.graph import CANONICAL, CONVOLUTION, NO_ACTIVATION, WINDOW, Graph, Node
from tessera.compiler.operators import channel_constant, npu_problem


def fuse_bias(graph: Graph) -> Graph:
    """Adds a constant per channel that follows a Convolution to its bias."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op != "Add" or npu_problem(graph, node) is not None:
            continue
        constants = [name for name in node.inputs if name in graph.constants]
        sources = [name for name in node.inputs if name not in graph.constants]
        producer = graph.producer(sources[0]) if constants else None
        if producer is not None and _is_bare_convolution(graph, producer):
            _add_bias(graph, producer, node, channel_constant(graph, constants[0], node.output))
    return graph


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
    """Makes Relu and Clip the activation of the operation before them."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if not is_activation(node):
            continue
        node = next(item for item in graph.nodes if item.name == node.name)
        producer = graph.producer(node.inputs[0])
        if producer is not None and producer.op in CANONICAL and graph.is_private(producer.output):
            limits = tuple(float(np.clip(limit, *node.activation)) for limit in producer.activation)
            graph.replace_node(node)
            graph.replace_node(producer, replace(producer.with_attributes(activation=limits), outputs=node.outputs))
    return graph


def is_sum(node: Node) -> bool:
    """Whether a node does nothing but add two maps."""
    return _is_pointwise(node) and node.residual is not None and node.activation == NO_ACTIVATION


def is_activation(node: Node) -> bool:
    """Whether a node does nothing but limit a map."""
    return _is_pointwise(node) and node.residual is None


def _is_pointwise(node: Node) -> bool:
    """Whether each result of a node depends on the value at its own place, unchanged."""
    return node.op == WINDOW and node.attributes["kernel"] == (1, 1) and node.attributes["stride"] == (1, 1)


def _is_bare(graph: Graph, node: Node) -> bool:
    """Whether a residual operand can be added to what a node computes."""
    return (
        node.op in CANONICAL
        and node.residual is None
        and node.activation == NO_ACTIVATION
        and graph.is_private(node.output)
    )


def _is_bare_convolution(graph: Graph, node: Node) -> bool:
    return node.op == CONVOLUTION and _is_bare(graph, node)


def _add_bias(graph: Graph, producer: Node, node: Node, addend: np.ndarray | None) -> None:
    if addend is None:
        return
    source, weights, bias_name = producer.inputs
    bias = graph.constants[bias_name] + addend
    inputs = (source, weights, graph.add_constant(f"{producer.name}_fused_bias", bias.astype(np.float32)))
    graph.replace_node(node)
    graph.replace_node(producer, replace(producer, inputs=inputs, outputs=node.outputs))
