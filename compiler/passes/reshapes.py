"""Reshapes that cost nothing on the NPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tessera.compiler.graph import CANONICAL, STRUCTURAL, Graph, Node, map_shape
from tessera.compiler.operators import npu_problem

RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
PRODUCTS = ("Gemm", "MatMul")
_ELEMENTWISE = ("Relu", "Clip")


def simplify_reshapes(graph: Graph) -> Graph:
    """Writes every reshape of a tensor as a Reshape with a constant shape, behind the activations that follow it."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op in RESHAPES and node.inputs[0] in graph.shapes:
            _normalise(graph, node)
    for node in list(graph.nodes):
        if node.op in _ELEMENTWISE and npu_problem(graph, node) is None:
            _hoist(graph, node)
    return graph


def remove_reshapes(graph: Graph) -> Graph:
    """Lets canonical nodes read the operand of a reshape that leaves channels, height and width as they are."""
    graph = graph.copy()
    for index, node in enumerate(graph.nodes):
        if node.op in (*CANONICAL, *STRUCTURAL, "Concat"):
            graph.nodes[index] = replace(node, inputs=tuple(_origin(graph, name) for name in node.inputs))
    return graph


def flattened(graph: Graph, tensor: str) -> str:
    """The map whose flattening is ``tensor`` (1, F), or ``tensor`` itself if it is not the result of a reshape."""
    best = tensor
    producer = graph.producer(tensor)
    while producer is not None and producer.op == "Reshape":
        tensor = producer.inputs[0]
        shape = graph.shapes.get(tensor, ())
        if len(shape) in (2, 4) and shape[0] == 1:
            best = tensor
        producer = graph.producer(tensor)
    return best


def product_source(graph: Graph, node: Node) -> str:
    """The map that a fully connected layer reads when it is lowered.

    An input of the network is flattened by the host, because many channels of 1 x 1 suit the array better.
    """
    source = flattened(graph, node.inputs[0])
    return node.inputs[0] if source in graph.inputs else source


def _normalise(graph: Graph, node: Node) -> None:
    shape = graph.add_constant(f"{node.name}_shape", np.array(graph.shapes[node.output], dtype=np.int64))
    graph.replace_node(node, Node(node.name, "Reshape", (node.inputs[0], shape), node.outputs))


def _hoist(graph: Graph, node: Node) -> None:
    """Exchanges an activation with the reshapes before it."""
    node = next(item for item in graph.nodes if item.name == node.name)
    reshape = graph.producer(node.inputs[0])
    if reshape is None or reshape.op != "Reshape" or not graph.is_private(reshape.output):
        return
    if node.output in graph.quantizers:
        return  # it stands where it should
    source = reshape.inputs[0]
    middle = reshape.output
    graph.shapes[middle] = graph.shapes[source]
    activation = replace(node, inputs=(source, *node.inputs[1:]), outputs=(middle,))
    moved = replace(reshape, inputs=(middle, *reshape.inputs[1:]), outputs=node.outputs)
    graph.replace_node(reshape, activation)
    graph.replace_node(node, moved)
    _hoist(graph, activation)


def _origin(graph: Graph, tensor: str) -> str:
    producer = graph.producer(tensor)
    while producer is not None and producer.op == "Reshape":
        source = producer.inputs[0]
        if npu_problem(graph, producer) or map_shape(graph.shapes[source]) != map_shape(graph.shapes[tensor]):
            break
        tensor = source
        producer = graph.producer(tensor)
    return tensor
