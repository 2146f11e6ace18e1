"""Sequences and channels-last tensors become maps.

A tensor of shape (1, L, F) or (1, H, W, F) whose *last* axis has the channels, as operand or result of a matrix
product, and a tensor (1, C, L) with the channels *first*, as in a 1-D convolution, both have a *twin*: the map
(1, C, H, W) of the same values, with H = 1 for sequences. Nodes are rewritten to read and write twins. Each original
is made of its twin by nodes that are removed unless something else reads it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tessera.compiler.functions import ELEMENTWISE
from tessera.compiler.graph import Graph, Node, Shape, unique_name

_TO_LAST = {3: [0, 2, 1], 4: [0, 2, 3, 1]}
_TO_FIRST = {3: [0, 2, 1], 4: [0, 3, 1, 2]}
"""Permutations that move the channels behind all other axes, and before them, by the number of axes."""

_SLIDING = ("Conv", "MaxPool", "AveragePool")
"""Operators whose 1-D form has a 2-D one with a kernel of one row."""


def to_maps(graph: Graph) -> Graph:
    """Matrix products of more than one row become 1 x 1 convolutions, 1-D convolutions and pools 2-D ones, and what
    lies between works on the same maps, so that few tensors are transposed."""
    return _Rewriter(graph.copy()).rewritten()


class _Rewriter:
    """Goes through the nodes once, in order.

    ``first`` and ``last`` hold the twins of tensors whose channels are the first axis behind the batch, or the last.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.first: dict[str, str] = {}
        self.last: dict[str, str] = {}

    def rewritten(self) -> Graph:
        """The graph."""
        for node in list(self.graph.nodes):
            if node.op == "Transpose":
                self._transpose(node)
            elif node.op == "MatMul" and self._is_product(node):
                self._product(node)
            elif node.op in _SLIDING and len(self.graph.shapes.get(node.inputs[0], ())) == 3:
                self._slide(node)
            elif node.op in ELEMENTWISE:
                self._elementwise(node)
        return self.graph

    def _transpose(self, node: Node) -> None:
        """A transposition between both orders changes the twin's role alone."""
        shape, order = self.graph.shapes.get(node.inputs[0], ()), list(node.attributes.get("perm", []))
        source = node.inputs[0]
        if order == _TO_LAST.get(len(shape)) and (source in self.first or len(shape) == 4):
            self.last[node.output] = self.first.get(source, source)
        if order == _TO_FIRST.get(len(shape)) and source in self.last:
            self._make(node, self.last[source], self.first)

    def _is_product(self, node: Node) -> bool:
        weights = self.graph.constants.get(node.inputs[1])
        shape = self.graph.shapes.get(node.inputs[0], ())
        return len(shape) in (3, 4) and shape[0] == 1 and weights is not None and weights.size == _last_two(weights)

    def _product(self, node: Node) -> None:
        matrix = self.graph.constants[node.inputs[1]]
        matrix = matrix.reshape(matrix.shape[-2:])
        weights = self.graph.add_constant(f"{node.name}_weights", matrix.T[:, :, np.newaxis, np.newaxis])
        source = self._twin(node, node.inputs[0], self.last)
        self._replace(node, "Conv", (source, weights), {}, self.last)

    def _slide(self, node: Node) -> None:
        """A 1-D convolution or pool as one over a single row."""
        attributes = dict(node.attributes)
        for name, fill in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
            if name in attributes:
                attributes[name] = [fill, *attributes[name]]
        if "pads" in attributes:
            before, after = attributes["pads"]
            attributes["pads"] = [0, before, 0, after]
        operands = list(node.inputs[1:])
        if node.op == "Conv" and operands[0] in self.graph.constants:
            weights = self.graph.constants[operands[0]][:, :, np.newaxis]
            operands[0] = self.graph.add_constant(f"{node.name}_weights", weights)
        elif node.op == "Conv" or len(node.outputs) > 1:
            return
        source = self._twin(node, node.inputs[0], self.first)
        self._replace(node, node.op, (source, *operands), attributes, self.first)

    def _elementwise(self, node: Node) -> None:
        """Follows the twins of the operands, as long as constants fit them."""
        for twins, axis in ((self.last, -1), (self.first, 1)):
            shape = self.graph.shapes.get(node.output, ())
            variables = [name for name in node.inputs if name and name not in self.graph.constants]
            if not any(name in twins for name in variables) or any(
                self.graph.shapes[name] != shape for name in variables
            ):
                continue
            constants = {
                name: self._constant(name, shape, axis) for name in node.inputs if name in self.graph.constants
            }
            if any(value is None for value in constants.values()):
                continue
            names = {name: self.graph.add_constant(f"{name}_map", value) for name, value in constants.items()}
            names |= {name: self._twin(node, name, twins) for name in variables}
            self._replace(node, node.op, tuple(names.get(name, "") for name in node.inputs), node.attributes, twins)
            return

    def _constant(self, name: str, shape: Shape, axis: int) -> Any:
        """A constant per channel as it is added to a map, or a constant for all values; ``None`` if it is neither."""
        value = self.graph.constants[name]
        if value.size == 1:
            return value.reshape(())
        if value.ndim > len(shape):
            return None
        aligned = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
        return value.reshape(-1, 1, 1) if aligned.shape[axis] == value.size else None

    def _twin(self, reader: Node, name: str, twins: dict[str, str]) -> str:
        """The twin of a tensor; made before its reader if there is none."""
        if name not in twins:
            shape = self.graph.shapes[name]
            source = name
            if twins is self.last:
                order = _TO_FIRST[len(shape)]
                source = self._add(reader, "Transpose", (name,), tuple(shape[axis] for axis in order), perm=order)
            twins[name] = (
                source if len(shape) == 4 else self._reshape(reader, source, _map_of(self.graph.shapes[source]))
            )
        return twins[name]

    def _replace(self, node: Node, op: str, inputs: tuple[str, ...], attributes: Any, twins: dict[str, str]) -> None:
        """Puts a node that makes the twin of its output in the place of another one."""
        shape = self.graph.shapes[node.output]
        if twins is self.last:
            shape = tuple(shape[axis] for axis in _TO_FIRST[len(shape)])
        twin = unique_name(f"{node.output}_map", [*self.graph.shapes, *self.graph.constants])
        self.graph.shapes[twin] = _map_of(shape)
        self.graph.move_quantizer(node.output, twin)
        made = Node(unique_name(f"{node.name}_map", [each.name for each in self.graph.nodes]), op, inputs, (twin,))
        self.graph.replace_node(node, replace(made, name=node.name, attributes=attributes), node)
        self._make(node, twin, twins)

    def _make(self, node: Node, twin: str, twins: dict[str, str]) -> None:
        """Lets a tensor be made of its twin, in the place of ``node``."""
        output, source, shape = node.output, twin, self.graph.shapes[node.output]
        twins[output] = twin
        if twins is self.last:
            if len(shape) == 3:
                source = self._reshape(node, twin, (shape[0], shape[2], shape[1]))
            self._finish(node, "Transpose", (source,), {"perm": _TO_LAST[len(shape)]})
        elif len(shape) == 3:
            self._finish(node, "Reshape", (source, self._shape_constant(node, shape)), {})
        else:
            self._finish(node, "Identity", (source,), {})

    def _finish(self, node: Node, op: str, inputs: tuple[str, ...], attributes: Any) -> None:
        name = unique_name(f"{node.name}_order", [each.name for each in self.graph.nodes])
        self.graph.replace_node(node, Node(name, op, inputs, node.outputs[:1], attributes))

    def _reshape(self, before: Node, source: str, shape: Shape) -> str:
        return self._add(before, "Reshape", (source, self._shape_constant(before, shape)), shape)

    def _shape_constant(self, node: Node, shape: Shape) -> str:
        return self.graph.add_constant(f"{node.name}_shape", np.array(shape, np.int64))

    def _add(self, before: Node, op: str, inputs: tuple[str, ...], shape: Shape, **attributes: Any) -> str:
        """Adds a node before another one; returns the name of its output."""
        output = unique_name(f"{inputs[0]}_{op.lower()}", [*self.graph.shapes, *self.graph.constants])
        self.graph.shapes[output] = shape
        name = unique_name(output, [each.name for each in self.graph.nodes])
        self.graph.replace_node(before, Node(name, op, inputs, (output,), attributes), before)
        return output


def _last_two(value: np.ndarray) -> int:
    """Elements of the last two axes; -1 for a vector."""
    return int(np.prod(value.shape[-2:])) if value.ndim >= 2 else -1


def _map_of(shape: Shape) -> Shape:
    """The map of a tensor (1, C, L) or (1, C, H, W)."""
    return shape if len(shape) == 4 else (shape[0], shape[1], 1, shape[2])
