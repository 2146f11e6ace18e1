"""Folds constants per channel, and so batch normalisation, into the convolutions before them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tessera.compiler.functions import regions
from tessera.compiler.graph import CONVOLUTION, NO_ACTIVATION, Graph, Node
from tessera.compiler.operators import Affine, affine_of, npu_problem


def fold_affine(graph: Graph) -> Graph:
    """Folds what multiplies or adds a constant per channel into the Convolution before it.

    Parts of functions that need a table stay where they are.
    """
    graph = graph.copy()
    tabulated = {node.name for region in regions(graph) for node in region.nodes}
    for node in list(graph.nodes):
        affine = affine_of(graph, node) if npu_problem(graph, node) is None else None
        producer = graph.producer(affine.source) if affine is not None else None
        if affine is None or producer is None or node.name in tabulated:
            continue
        if _can_absorb(graph, producer):
            _fold(graph, producer, node, affine)
    return graph


def _can_absorb(graph: Graph, producer: Node) -> bool:
    return (
        producer.op == CONVOLUTION
        and producer.residual is None
        and producer.activation == NO_ACTIVATION
        and producer.function is None
        and graph.is_private(producer.output)
    )


def _fold(graph: Graph, producer: Node, node: Node, affine: Affine) -> None:
    source, weights_name, bias_name = producer.inputs
    weights = graph.constants[weights_name].astype(np.float64) * affine.scale.reshape(-1, 1, 1, 1)
    bias = graph.constants[bias_name].astype(np.float64) * affine.scale + affine.offset
    inputs = (
        source,
        graph.add_constant(f"{producer.name}_folded_weights", weights.astype(np.float32)),
        graph.add_constant(f"{producer.name}_folded_bias", bias.astype(np.float32)),
    )
    graph.replace_node(node)
    graph.replace_node(producer, replace(producer, inputs=inputs, outputs=node.outputs[:1]))
