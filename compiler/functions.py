"""Functions of one variable: the elementwise ONNX nodes that make one, its values, and its table.

An activation function may be one node (Sigmoid) or several (``x * sigmoid(x)``, GELU written with Erf). A *region* is
a set of elementwise nodes in which everything is computed from one tensor, value by value, with constants that are
the same for all values. As a whole it is a function of one real variable, whatever its nodes are, and the
post-processing can evaluate it with a table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.float_execution import run_onnx_node
from tessera.compiler.graph import Graph, Node
from tessera.rtl.isa import TableEntry
from tessera.sim.golden.arithmetic import depth_range

NONLINEAR = (
    "Sigmoid",
    "Tanh",
    "Gelu",
    "Erf",
    "HardSwish",
    "HardSigmoid",
    "Softplus",
    "Softsign",
    "Mish",
    "Elu",
    "Selu",
    "Celu",
    "LeakyRelu",
    "ThresholdedRelu",
    "Exp",
    "Abs",
)
"""Operators of one operand that need a table."""

LIMITS = ("Relu", "Clip", "Min", "Max")
"""Operators that need no table as long as what they limit by is constant."""

LINEAR = ("Add", "Sub", "Mul", "Div", "Neg")
"""Operators that need no table as long as no two variables are multiplied and none divides."""

OTHERS = ("Pow", "PRelu")
"""Operators of two operands that need a table."""

ELEMENTWISE = (*NONLINEAR, *LIMITS, *LINEAR, *OTHERS)
"""Operators that compute each value of their result from one value of each operand."""

_DOMAIN_SAMPLES = 4096
"""Points at which the interesting part of a function is searched."""


@dataclass(frozen=True, eq=False)
class Function:
    """A real function of one variable, whose tensors have names of its own: the same function is equal in every graph.

    Attributes
    ----------
    nodes
        Its ONNX nodes in topological order; the last one computes the result.
    constants
        The constants that the nodes read.
    opset
        Version of the nodes' operators.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    opset: int

    VARIABLE: ClassVar[str] = "x"
    """Name of the tensor that is the variable."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The values (of the type of ``x``, any shape) at ``x``."""
        values = {self.VARIABLE: x.reshape(1, -1)}
        constants = {
            name: value.reshape(-1).astype(x.dtype) if np.issubdtype(value.dtype, np.floating) else value
            for name, value in self.constants.items()
        }
        for node in self.nodes:
            operands = [values.get(name) for name in node.inputs]
            fixed = [self._constant(node, index, constants) for index in range(len(node.inputs))]
            # ONNX's reference computes both branches of some functions, of which one may overflow.
            with np.errstate(all="ignore"):
                values |= run_onnx_node(node, self.opset, operands, fixed, {})
        return values[self.nodes[-1].output].reshape(x.shape).astype(x.dtype, copy=False)

    @staticmethod
    def _constant(node: Node, index: int, constants: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """A constant operand; limits of Clip are scalars."""
        value = constants.get(node.inputs[index])
        return value.reshape(()) if value is not None and node.op == "Clip" else value

    def __str__(self) -> str:
        return "+".join(node.op.lower() for node in self.nodes)


@dataclass(frozen=True, eq=False)
class Region:
    """The nodes of a graph that make a function.

    Attributes
    ----------
    graph
        The graph.
    nodes
        The nodes in topological order; the last one computes the result.
    variable
        Name of the tensor that is the variable.
    """

    graph: Graph
    nodes: tuple[Node, ...]
    variable: str

    @property
    def result(self) -> str:
        """Name of the tensor that is the result."""
        return self.nodes[-1].output

    @property
    def function(self) -> Function:
        """The function."""
        fixed = [name for node in self.nodes for name in node.inputs if name in self.graph.constants]
        names = {name: f"constant{index}" for index, name in enumerate(dict.fromkeys(fixed))}
        constants = {new: self.graph.constants[old] for old, new in names.items()}
        names |= {self.variable: Function.VARIABLE, "": ""}
        nodes = []
        for index, node in enumerate(self.nodes):
            names[node.output] = f"value{index}"
            inputs = tuple(names[name] for name in node.inputs)
            nodes.append(Node(names[node.output], node.op, inputs, (names[node.output],), node.attributes))
        return Function(tuple(nodes), constants, self.graph.opset)


def regions(graph: Graph) -> Iterator[Region]:
    """The functions in a graph that need a table; no node is in two."""
    makers = {name: node for node in graph.nodes for name in node.outputs if name}
    readers: dict[str, list[str]] = defaultdict(list)
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].append(node.name)
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    taken: set[str] = set()
    for root in reversed(graph.nodes):
        if root.name in taken or not _is_elementwise(graph, root):
            continue
        found = _grow(graph, root, makers, readers, order)
        if found is not None and taken.isdisjoint(node.name for node in found.nodes):
            taken.update(node.name for node in found.nodes)
            yield found


def in_region(graph: Graph, node: Node) -> bool:
    """Whether a node is part of a function that needs a table."""
    return any(node.name == other.name for region in regions(graph) for other in region.nodes)


def domain(function: Function, low: float, high: float, tolerance: float) -> tuple[float, float]:
    """The part of ``low .. high`` outside of which the function is constant up to ``tolerance``."""
    x = np.linspace(low, high, _DOMAIN_SAMPLES)
    y = function(x)
    differs = [np.flatnonzero(np.abs(y - end) > tolerance) for end in (y[0], y[-1])]
    if not all(len(indices) for indices in differs):
        return low, high
    first, last = max(differs[0][0] - 1, 0), min(differs[1][-1] + 1, len(x) - 1)
    return float(x[first]), float(x[last])


def tabulate(name: str, function: Function, step: float, scale: float, depth: int, signed: bool) -> np.ndarray:
    """The table of a function.

    Parameters
    ----------
    name, function
        The operation, for errors, and its function.
    step
        Real value of one step of the operand.
    scale, depth, signed
        Real value of one step of the result, and its type.

    Returns
    -------
    int64 array (``TableEntry.SEGMENTS``, 2) of base and slope, in the order of the machine's table.

    Raises
    ------
    CompilerError
        The function is not finite somewhere.
    """
    half = TableEntry.SEGMENTS // 2
    x = np.arange(-half, half + 1) * 2.0**TableEntry.FRACTION_BITS * step
    y = function(x)
    if not np.isfinite(y).all():
        where = x[~np.isfinite(y)][0]
        raise CompilerError(
            f"operation {name!r}: its function {function} computes NaN or infinity at {where:g}; replace it in the "
            f"network"
        )
    finer = TableEntry.BASE_BITS - depth
    low, high = (limit << finer for limit in depth_range(depth, signed))
    ends = np.clip(np.rint(y / scale * 2.0**finer), low, high).astype(np.int64)
    slope = np.clip(np.diff(ends), *depth_range(TableEntry.SLOPE_BITS, signed=True))
    return np.roll(np.stack([ends[:-1], slope], axis=1), half, axis=0)


def _is_elementwise(graph: Graph, node: Node) -> bool:
    """Whether each value of a node's result depends on one value of each operand, or on constants for all values."""
    if node.name in graph.placement or node.op not in ELEMENTWISE or len(node.outputs) != 1:
        return False
    variables = [name for name in node.inputs if name and name not in graph.constants]
    fixed = [graph.constants[name] for name in node.inputs if name in graph.constants]
    shape = graph.shapes.get(node.output)
    return (
        bool(variables)
        and all(graph.shapes.get(name) == shape for name in variables)
        and all(value.size == 1 for value in fixed)
        and (node.op != "Clip" or variables == [node.inputs[0]])
    )


def _grow(
    graph: Graph,
    root: Node,
    makers: Mapping[str, Node],
    readers: Mapping[str, list[str]],
    order: Mapping[str, int],
) -> Region | None:
    """The largest region with the result of ``root``; ``None`` if there is none that needs a table.

    The latest variable is replaced by the operands of its node again and again, as long as nothing else reads it; each
    time that a single variable is left, a region has been found. A variable that a file rounds ends the search.
    """
    inside = {root.name: root}
    variables = _variables(graph, root)
    best: Region | None = None
    while True:
        if len(variables) == 1 and any(_needs_table(graph, node) for node in inside.values()):
            nodes = tuple(sorted(inside.values(), key=lambda node: order[node.name]))
            best = Region(graph, nodes, next(iter(variables)))
        if len(variables) == 1 and not variables.isdisjoint(graph.quantizers):
            return best
        makeable = [name for name in variables if name in makers]
        if not makeable:
            return best
        latest = max(makeable, key=lambda name: order[makers[name].name])
        maker = makers[latest]
        private = latest not in graph.outputs and all(name in inside for name in readers[latest])
        if not private or not _is_elementwise(graph, maker):
            return best
        inside[maker.name] = maker
        variables = (variables - {latest}) | _variables(graph, maker)


def _variables(graph: Graph, node: Node) -> set[str]:
    return {name for name in node.inputs if name and name not in graph.constants}


def _needs_table(graph: Graph, node: Node) -> bool:
    variables = [name for name in node.inputs if name and name not in graph.constants]
    if node.op in LIMITS:
        return len(variables) > 1
    if node.op in ("Mul", "Div"):
        return len(variables) > 1 or (node.inputs[0] not in variables and node.op == "Div")
    return node.op not in LINEAR


def operand_scale(low: float, high: float) -> float:
    """The smallest float32 scale with which 16 bits, signed, reach from ``low`` to ``high``."""
    least, most = depth_range(TableEntry.OPERAND_BITS, signed=True)
    scale = max(high / most, low / least, 0.0)
    return float(np.nextafter(np.float32(scale), np.float32(math.inf))) if scale > 0 else 1.0
