"""Folds explicit padding."""

from __future__ import annotations

from dataclasses import replace

from tessera.compiler.graph import Graph, Node
from tessera.compiler.operators import pad_sides


def fold_padding(graph: Graph) -> Graph:
    """A Pad of zeros becomes the padding of the convolutions that read it."""
    graph = graph.copy()
    for node in list(graph.nodes):
        sides = pad_sides(graph, node) if node.op == "Pad" else None
        if sides is not None:
            for reader in graph.consumers(node.output):
                if reader.op == "Conv" and reader.attributes.get("auto_pad", "NOTSET") == "NOTSET":
                    _fold(graph, node, reader, sides)
    return graph


def _fold(graph: Graph, pad: Node, convolution: Node, sides: tuple[int, int, int, int]) -> None:
    own = convolution.attributes.get("pads", [0, 0, 0, 0])
    padded = convolution.with_attributes(pads=[one + other for one, other in zip(own, sides, strict=True)])
    graph.replace_node(convolution, replace(padded, inputs=(pad.inputs[0], *convolution.inputs[1:])))
