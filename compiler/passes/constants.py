"""Removes what computes nothing, and computes what is known already."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tessera.compiler.float_execution import run_onnx_node
from tessera.compiler.graph import CANONICAL, Graph, Node

_IDENTITIES = ("Identity", "Dropout")


def remove_identities(graph: Graph) -> Graph:
    """Removes Identity and Dropout nodes. One between an input and an output stays, since both names must exist."""
    graph = graph.copy()
    for node in list(graph.nodes):
        current = next(item for item in graph.nodes if item.name == node.name)
        if current.op in _IDENTITIES and not any(current.outputs[1:]):
            _bypass(graph, current)
    return graph


def fold_constants(graph: Graph) -> Graph:
    """Replaces nodes whose operands are all constant, and shapes of tensors, by their value."""
    graph = graph.copy()
    for node in list(graph.nodes):
        values = _known_outputs(graph, node)
        if values is not None and not set(node.outputs).intersection(graph.outputs):
            graph.replace_node(node)
            for name, value in values.items():
                graph.constants[name] = value
                graph.shapes.pop(name, None)
    return graph


def _bypass(graph: Graph, node: Node) -> None:
    source = node.inputs[0]
    if node.output not in graph.outputs:
        graph.replace_node(node)
        graph.redirect(node.output, source)
        return
    producer = graph.producer(source)
    if producer is None or source in graph.outputs:
        return
    # The output's name must survive: let the producer compute it.
    graph.replace_node(node)
    outputs = tuple(node.output if name == source else name for name in producer.outputs)
    graph.replace_node(producer, replace(producer, outputs=outputs))
    graph.move_quantizer(source, node.output)
    graph.redirect(source, node.output)


def _known_outputs(graph: Graph, node: Node) -> dict[str, np.ndarray] | None:
    if node.op == "Shape":
        shape = graph.shapes.get(node.inputs[0])
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        return None if shape is None else {node.output: np.array(shape[start:end], dtype=np.int64)}
    if node.op in CANONICAL or any(name and name not in graph.constants for name in node.inputs):
        return None
    operands = [graph.constants.get(name) for name in node.inputs]
    results = run_onnx_node(node, graph.opset, [None] * len(operands), operands, graph.shapes)
    return {name: value[0] for name, value in results.items()}
