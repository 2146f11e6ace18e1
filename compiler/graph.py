"""The float intermediate representation: a network as imported, and what the passes make of it.

A :class:`Graph` has nodes in topological order, a static shape for every tensor, and constants as arrays.
Shapes are those of the ONNX file, with a first axis of 1 (one sample). Two kinds of nodes exist:

- nodes as in ONNX: ``op`` is the operator's name, ``attributes`` its attributes;
- *canonical* nodes, which the NPU executes and the passes make:

  ``Convolution``
      inputs: map, weights (K, C / groups, kh, kw), bias (K), and a residual operand if there is one.
      attributes: ``stride``, ``padding`` (top, left, bottom, right), ``dilation``, ``groups``, ``activation``.
  ``Window``
      inputs: map, and a residual operand if there is one. attributes: ``reduction`` ("sum" or "max"),
      ``kernel``, ``stride``, ``padding`` (a negative one crops), ``divisor`` (a sum is divided by it), ``repeat``
      (how often each row and column of a window of 1 x 1 is repeated), ``activation``.

  ``activation`` is a pair (low, high) of floats that limits the result, infinite where there is no limit. The
  output is ``limit(reduction + bias + residual)``, or ``function(limit(...))`` if the attribute ``function`` (a
  :class:`tessera.compiler.functions.Function`) is there. The operand of the function is the node's second output;

- *structural* nodes, which compute nothing: their tensors share memory.

  ``Concatenation``
      inputs: the parts, in the order of their channels.
  ``Selection``
      input: a map. attribute: ``channel``, the first one that is selected; how many, the output's shape says.

A *map* is a tensor of shape (1, C, H, W), or (1, F), which is F channels of 1 x 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import networkx
import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.quantizer import Quantizer
from tessera.sim.golden.network import output_size

CONVOLUTION = "Convolution"
WINDOW = "Window"
CANONICAL = (CONVOLUTION, WINDOW)
"""Operators of the nodes that the NPU executes."""

CONCATENATION = "Concatenation"
SELECTION = "Selection"
STRUCTURAL = (CONCATENATION, SELECTION)
"""Operators of the nodes that say where tensors of the NPU lie."""

NO_ACTIVATION = (-math.inf, math.inf)

Shape = tuple[int, ...]


class Placement(StrEnum):
    """Where a node runs."""

    HOST_BEFORE = "host before"
    NPU = "npu"
    HOST_AFTER = "host after"


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes
    ----------
    name
        Unique in its graph.
    op
        Operator: an ONNX operator's name or a canonical one.
    inputs, outputs
        Names of tensors or constants; an omitted optional operand is the empty string.
    attributes
        Attributes by name.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]

    @property
    def residual(self) -> str | None:
        """The residual operand of a canonical node."""
        count = 3 if self.op == CONVOLUTION else 1
        return self.inputs[count] if self.op in CANONICAL and len(self.inputs) > count else None

    @property
    def operands(self) -> tuple[str, ...]:
        """The maps that a canonical or structural node reads."""
        if self.op == CONCATENATION:
            return self.inputs
        return self.inputs[:1] if self.residual is None else (self.inputs[0], self.residual)

    @property
    def activation(self) -> tuple[float, float]:
        """Limits of a canonical node's activation function."""
        return self.attributes["activation"]

    @property
    def function(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """The function behind a canonical node's limits, if there is one."""
        return self.attributes.get("function")

    def with_attributes(self, **attributes: Any) -> Node:
        """The node with some attributes replaced."""
        return replace(self, attributes={**self.attributes, **attributes})


@dataclass(eq=False)
class Graph:
    """A network.

    Attributes
    ----------
    name
        Name of the network.
    inputs, outputs
        Names of the tensors that are given and asked for.
    shapes
        Static shape of every tensor that is no constant.
    constants
        Weights and other fixed operands.
    nodes
        In topological order.
    opset
        Version of the ONNX operators that the nodes follow.
    placement
        Where nodes run, by their names. The pass ``keep_on_host`` places nodes on the host because of where
        they stand, ``partition_host`` all others; it is empty before.
    quantizers
        How a file rounds tensors, by their names; no pass fuses such a tensor away. Empty for a float network.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, Shape]
    constants: dict[str, np.ndarray]
    nodes: list[Node]
    opset: int
    placement: dict[str, Placement] = field(default_factory=dict)
    quantizers: dict[str, Quantizer] = field(default_factory=dict)

    def copy(self) -> Graph:
        """A copy whose containers can be changed; arrays are shared."""
        return replace(
            self,
            shapes=dict(self.shapes),
            constants=dict(self.constants),
            nodes=list(self.nodes),
            placement=dict(self.placement),
            quantizers=dict(self.quantizers),
        )

    def producer(self, tensor: str) -> Node | None:
        """The node that computes a tensor; ``None`` for an input or a constant."""
        return next((node for node in self.nodes if tensor in node.outputs), None)

    def consumers(self, tensor: str) -> list[Node]:
        """The nodes that read a tensor."""
        return [node for node in self.nodes if tensor in node.inputs]

    def is_private(self, tensor: str) -> bool:
        """Whether exactly one node reads the tensor and it is neither an output nor rounded: it may disappear."""
        return len(self.consumers(tensor)) == 1 and tensor not in self.outputs and tensor not in self.quantizers

    def move_quantizer(self, old: str, new: str) -> None:
        """Rounds tensor ``new`` as ``old`` was rounded, which is no longer, if it was."""
        if old in self.quantizers:
            self.quantizers[new] = self.quantizers.pop(old)

    def replace_node(self, old: Node, *new: Node) -> None:
        """Puts ``new`` nodes in the place of ``old``; without new ones it is removed."""
        index = next(i for i, node in enumerate(self.nodes) if node is old)
        self.nodes[index : index + 1] = new

    def redirect(self, old: str, new: str) -> None:
        """Lets every reader of tensor ``old`` read ``new``. ``old`` must not be an output of the graph."""
        for node in self.consumers(old):
            inputs = tuple(new if name == old else name for name in node.inputs)
            self.replace_node(node, replace(node, inputs=inputs))

    def add_constant(self, wish: str, value: np.ndarray) -> str:
        """Adds a constant and returns its name, which is ``wish`` or, if that is taken, like it."""
        name = unique_name(wish, [*self.shapes, *self.constants])
        self.constants[name] = value
        return name

    def tidy(self) -> None:
        """Sorts the nodes topologically and removes nodes, tensors and constants that no output needs."""
        needed = set(self.outputs)
        self.nodes = topological_order(self)
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]
        names = {node.name for node in self.nodes}
        self.placement = {name: place for name, place in self.placement.items() if name in names}
        self.constants = {name: value for name, value in self.constants.items() if name in needed}
        alive = needed.union(self.inputs, *(node.outputs for node in self.nodes))
        self.shapes = {name: shape for name, shape in self.shapes.items() if name in alive}
        self.quantizers = {name: found for name, found in self.quantizers.items() if name in alive}

    def placed(self, placement: Placement) -> list[Node]:
        """The nodes that run at a place, in order; needs the pass ``partition_host``."""
        return [node for node in self.nodes if self.placement.get(node.name) is placement]

    def format(self) -> str:
        """The graph as text, one line per node."""
        lines = [f"graph {self.name} (opset {self.opset})"]
        lines += [f"  input  {name}: {_format_shape(self.shapes[name])}" for name in self.inputs]
        lines += [f"  {self._format_node(node)}" for node in self.nodes]
        lines += [f"  output {name}: {_format_shape(self.shapes[name])}" for name in self.outputs]
        return "\n".join(lines)

    def _format_node(self, node: Node) -> str:
        outputs = ", ".join(f"{name}: {_format_shape(self.shapes[name])}" for name in node.outputs if name)
        inputs = ", ".join(self._format_operand(name) for name in node.inputs)
        attributes = "".join(f" {key}={_format_attribute(value)}" for key, value in sorted(node.attributes.items()))
        place = f" [{self.placement[node.name]}]" if node.name in self.placement else ""
        return f"{outputs} = {node.op} {node.name}({inputs}){attributes}{place}"

    def _format_operand(self, name: str) -> str:
        if name in self.constants:
            return f"{name}[{_format_shape(self.constants[name].shape)}]"
        return name or "-"


def unique_name(wish: str, taken: Iterable[str]) -> str:
    """``wish``, or ``wish_1``, ``wish_2``, ... if it is taken."""
    names = set(taken)
    candidate, number = wish, 0
    while candidate in names:
        number += 1
        candidate = f"{wish}_{number}"
    return candidate


def topological_order(graph: Graph) -> list[Node]:
    """The nodes such that each comes after those whose outputs it reads; ties keep their order.

    Raises
    ------
    CompilerError
        The nodes form a cycle.
    """
    makers = {name: index for index, node in enumerate(graph.nodes) for name in node.outputs if name}
    dependencies = networkx.DiGraph()
    dependencies.add_nodes_from(range(len(graph.nodes)))
    for index, node in enumerate(graph.nodes):
        dependencies.add_edges_from((makers[name], index) for name in node.inputs if name in makers)
    try:
        order = list(networkx.lexicographical_topological_sort(dependencies))
    except networkx.NetworkXUnfeasible:
        raise CompilerError(f"the nodes of network {graph.name!r} form a cycle; a network must be acyclic") from None
    return [graph.nodes[index] for index in order]


def is_map(shape: Shape) -> bool:
    """Whether a tensor of this shape can be an operand of the NPU: (1, C, H, W) or (1, F)."""
    return len(shape) in (2, 4) and shape[0] == 1


def map_shape(shape: Shape) -> tuple[int, int, int]:
    """(channels, height, width) of a map."""
    channels, height, width = (*shape[1:], 1, 1)[:3]
    return channels, height, width


def verify(graph: Graph) -> None:
    """Checks that a graph is well formed; a failure is a fault of the pass that made it.

    Raises
    ------
    CompilerError
        The first problem, as a sentence.
    """
    for problem in _problems(graph):
        raise CompilerError(f"network {graph.name!r}: {problem}")


def _problems(graph: Graph) -> Iterator[str]:
    known = {*graph.inputs, *graph.constants, ""}
    names: set[str] = set()
    for node in graph.nodes:
        if node.name in names:
            yield f"two nodes are called {node.name!r}"
        names.add(node.name)
        for name in node.inputs:
            if name not in known:
                yield f"node {node.name!r} reads {name!r} before it is computed"
        for name in filter(None, node.outputs):
            if name in known:
                yield f"{name!r} is computed twice"
            if name not in graph.shapes:
                yield f"{name!r} has no shape"
        known.update(node.outputs)
        if node.op in CANONICAL:
            yield from _canonical_problems(graph, node)
    for name in (*graph.inputs, *graph.outputs):
        if name not in known or name not in graph.shapes:
            yield f"{name!r} is an input or output, but no tensor"
    if Placement.NPU in graph.placement.values() and set(graph.placement) != names:
        yield "some nodes have no place to run"


def _canonical_problems(graph: Graph, node: Node) -> Iterator[str]:
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    if not is_map(source) or not is_map(target):
        yield f"node {node.name!r} must map a map to a map, not {source} to {target}"
        return
    expected = canonical_output(graph, node)
    if map_shape(target) != expected:
        yield f"the output of node {node.name!r} has the map {map_shape(target)}, but must have {expected}"
    if node.residual is not None and map_shape(graph.shapes[node.residual]) != expected:
        yield f"the residual operand of node {node.name!r} must have the map {expected}"


def canonical_output(graph: Graph, node: Node) -> tuple[int, int, int]:
    """(channels, height, width) that a canonical node computes."""
    channels, height, width = map_shape(graph.shapes[node.inputs[0]])
    if node.op == CONVOLUTION:
        channels, _, *kernel = graph.constants[node.inputs[1]].shape
    else:
        kernel = list(node.attributes["kernel"])
        repeat_y, repeat_x = node.attributes["repeat"]
        height, width = height * repeat_y, width * repeat_x
    top, left, bottom, right = node.attributes["padding"]
    (stride_y, stride_x), (dilation_y, dilation_x) = (
        node.attributes["stride"],
        node.attributes.get("dilation", (1, 1)),
    )
    return (
        channels,
        output_size(height, kernel[0], stride_y, top, bottom, dilation_y),
        output_size(width, kernel[1], stride_x, left, right, dilation_x),
    )


def _format_shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _format_attribute(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array[{_format_shape(value.shape)}]"
    return str(value).replace(" ", "")
