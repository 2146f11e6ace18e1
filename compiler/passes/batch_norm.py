"""Folds batch normalisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tessera.compiler.graph import CONVOLUTION, NO_ACTIVATION, Graph, Node
from tessera.compiler.operators import npu_problem
from tessera.compiler.passes.lowering import diagonal_convolution

_DEFAULT_EPSILON = 1e-5  # of the ONNX operator


def fold_batch_norm(graph: Graph) -> Graph:
    """Folds BatchNormalization into the Convolution before it; elsewhere it becomes a diagonal 1 x 1 Convolution."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op == "BatchNormalization" and npu_problem(graph, node) is None:
            scale, offset = _affine(graph, node)
            producer = graph.producer(node.inputs[0])
            if producer is not None and _can_absorb(graph, producer):
                _fold(graph, producer, node, scale, offset)
            else:
                diagonal_convolution(graph, node, node.inputs[0], scale, offset)
    return graph


def _affine(graph: Graph, node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset per channel, in float64."""
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in node.inputs[1:5])
    scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", _DEFAULT_EPSILON))
    return scale, beta - mean * scale


def _can_absorb(graph: Graph, producer: Node) -> bool:
    return (
        producer.op == CONVOLUTION
        and producer.residual is None
        and producer.activation == NO_ACTIVATION
        and graph.is_private(producer.output)
    )


def _fold(graph: Graph, producer: Node, node: Node, scale: np.ndarray, offset: np.ndarray) -> None:
    source, weights_name, bias_name = producer.inputs
    weights = graph.constants[weights_name].astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    bias = graph.constants[bias_name].astype(np.float64) * scale + offset
    inputs = (
        source,
        graph.add_constant(f"{producer.name}_folded_weights", weights.astype(np.float32)),
        graph.add_constant(f"{producer.name}_folded_bias", bias.astype(np.float32)),
    )
    graph.replace_node(node)
    graph.replace_node(producer, replace(producer, inputs=inputs, outputs=node.outputs[:1]))
