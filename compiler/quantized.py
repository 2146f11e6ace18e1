"""The quantised intermediate representation: integers, their scales, and what stays on the host.

A real number is ``integer * scale``; there are no zero points. All scales and biases are float32 numbers, so
that a file holds them exactly, and the integer network is a function of this representation alone
(:func:`tessera.compiler.integer.to_integer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import networkx
import numpy as np

from tessera.compiler.functions import Function
from tessera.compiler.graph import NO_ACTIVATION, Graph, Node, Placement, Shape, map_shape
from tessera.compiler.precision import DepthLimits, DepthRange, LayerSensitivity, SensitivityProfile
from tessera.rtl.config import ACTIVATION_DEPTHS
from tessera.sim.golden.network import Part, TensorType

BASE_DEPTH = 16
"""The deepest activation depth; a tensor's base scale belongs to it."""


@dataclass(frozen=True)
class QuantizedTensor:
    """An activation tensor.

    Attributes
    ----------
    shape
        Shape in the ONNX file: (1, C, H, W) or (1, F).
    base_scale
        Scale at 16 bits.
    clip_shifts
        For each other depth d the exponent k of its scale, ``base_scale * 2 ** k``. Without clipping k is 16
        - d; a smaller one gives up the largest values for a finer step.
    depth
        Depth in bits: 4, 6, 8 or 16.
    signed
        False if the tensor is never negative.
    """

    shape: Shape
    base_scale: float
    clip_shifts: Mapping[int, int]
    depth: int
    signed: bool

    @classmethod
    def of_scale(cls, shape: Shape, scale: float, depth: int, signed: bool) -> QuantizedTensor:
        """A tensor with this scale, a float32 number, at its depth; at other depths it covers the same range."""
        shifts = {other: BASE_DEPTH - other for other in ACTIVATION_DEPTHS if other != BASE_DEPTH}
        return cls(shape, scale * 2.0 ** (depth - BASE_DEPTH), shifts, depth, signed)

    @property
    def scale(self) -> float:
        """Real value of one step at the tensor's depth."""
        return self.scale_at(self.depth)

    def scale_at(self, depth: int) -> float:
        """Real value of one step at ``depth`` bits; a float32 number."""
        return self.base_scale * 2.0 ** self.exponent_at(depth)

    def exponent_at(self, depth: int) -> int:
        """Exponent of the scale at ``depth`` bits, in base scales."""
        return 0 if depth == BASE_DEPTH else self.clip_shifts[depth]

    @property
    def type(self) -> TensorType:
        """The integers' type."""
        return TensorType(*map_shape(self.shape), self.depth, self.signed)

    def __str__(self) -> str:
        return f"{self.type} scale {self.scale:.6g}"


@dataclass(frozen=True, eq=False)
class QuantizedFunction:
    """An activation function that is evaluated with a table.

    Attributes
    ----------
    function
        The function.
    operand_scale
        Real value of one step of its operand, a 16-bit signed integer; a float32 number.
    """

    function: Function
    operand_scale: float


@dataclass(frozen=True, eq=False)
class QuantizedConvolution:
    """A convolution or fully connected layer with its bias, residual operand and activation.

    Attributes
    ----------
    name, input, output
        Name of the operation and of its tensors.
    weights
        int8 array (K, C / groups, kh, kw).
    weight_depth
        4 or 8 bits.
    weight_scales
        float32 array (K,): real value of one step of each output channel's weights.
    bias
        float32 array (K,), real values.
    stride, padding, dilation, groups
        As in :class:`tessera.sim.golden.network.Convolution`.
    activation
        Real limits (low, high) of the result.
    residual
        Name of the residual operand.
    function
        Function of the limited result, with a table; ``None`` if there is none.
    """

    name: str
    input: str
    output: str
    weights: np.ndarray
    weight_depth: int
    weight_scales: np.ndarray
    bias: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int = 1
    activation: tuple[float, float] = NO_ACTIVATION
    residual: str | None = None
    function: QuantizedFunction | None = None


@dataclass(frozen=True, eq=False)
class QuantizedWindow:
    """Pooling, or as the sum of a 1 x 1 window a copy, with residual operand and activation.

    Attributes
    ----------
    name, input, output
        Name of the operation and of its tensors.
    reduction, kernel, stride, padding
        As in :class:`tessera.sim.golden.network.Window`.
    divisor
        A sum is divided by it.
    repeat
        As in :class:`tessera.sim.golden.network.Window`.
    activation
        Real limits (low, high) of the result.
    residual
        Name of the residual operand.
    function
        As for a convolution.
    """

    name: str
    input: str
    output: str
    reduction: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    divisor: int = 1
    activation: tuple[float, float] = NO_ACTIVATION
    residual: str | None = None
    function: QuantizedFunction | None = None
    repeat: tuple[int, int] = (1, 1)


QuantizedOperation = QuantizedConvolution | QuantizedWindow


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A quantised network.

    Attributes
    ----------
    name
        Name of the network.
    inputs, outputs
        Names of the float tensors that are given and asked for.
    shapes
        Shapes of all float tensors that the host handles: inputs, outputs and those between its nodes.
    tensors
        The activation tensors of the NPU.
    host_before, host_after
        ONNX nodes that the host executes before and after the NPU, in order.
    host_constants
        Constants of those nodes.
    opset
        Version of the ONNX operators of those nodes.
    operations
        What the NPU executes, in topological order.
    parts
        The tensors that are parts of others, by name; they share scale and depth.
    limits
        Between which depths it may run; default: its own depths are the least.
    sensitivity
        What fewer bits of its layers cost, if that is known.
    adaptive_depths
        The activation depths among which its layers may choose while it runs, rising; empty if they keep their own. See
        `tessera.compiler.adaptive`.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, Shape]
    tensors: dict[str, QuantizedTensor]
    host_before: tuple[Node, ...]
    host_after: tuple[Node, ...]
    host_constants: dict[str, np.ndarray]
    opset: int
    operations: tuple[QuantizedOperation, ...]
    parts: Mapping[str, Part] = field(default_factory=dict)
    limits: DepthLimits | None = None
    sensitivity: SensitivityProfile | None = None
    adaptive_depths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.limits is None:
            object.__setattr__(self, "limits", DepthLimits.at_least(self.layer_depths()))

    @property
    def depth_limits(self) -> DepthLimits:
        """Between which depths it may run."""
        assert self.limits is not None, "set when it was made"
        return self.limits

    def layer_depths(self) -> dict[str, int]:
        """The activation depth of each layer, by the name of its operation, or of the tensor that the NPU is given."""
        depths = {name: self.tensors[name].depth for name in self.npu_inputs}
        return depths | {each.name: self.tensors[each.output].depth for each in self.operations}

    def with_activation_depths(self, depths: Mapping[str, int]) -> QuantizedNetwork:
        """The network with other activation depths of its layers, by name, and the same weights: each tensor has its
        scale at that depth. Tensors that share storage get the deepest of their layers'."""
        outputs = {operation.name: operation.output for operation in self.operations}
        chosen = {outputs.get(name, name): depth for name, depth in depths.items()}
        for group in self.storage_groups():
            known = [chosen[name] for name in group if name in chosen]
            chosen |= dict.fromkeys(group, max(known)) if known else {}
        tensors = {name: replace(each, depth=chosen.get(name, each.depth)) for name, each in self.tensors.items()}
        return replace(self, tensors=tensors, limits=None)

    def with_doubled_scale(self, tensor: str, times: int = 1) -> QuantizedNetwork:
        """The network with the scale of a tensor, and of those that share storage with it, times ``2 ** times``: what
        it can hold grows by as much, and so does its step."""
        group = next((group for group in self.storage_groups() if tensor in group), {tensor})
        changed = {
            name: replace(self.tensors[name], base_scale=self.tensors[name].base_scale * 2.0**times) for name in group
        }
        return replace(self, tensors={**self.tensors, **changed})

    def storage_groups(self) -> list[set[str]]:
        """Tensors that are parts of one whole, with it."""
        ties = networkx.Graph((name, part.whole) for name, part in self.parts.items())
        return list(networkx.connected_components(ties))

    @property
    def npu_inputs(self) -> tuple[str, ...]:
        """Tensors that the NPU is given."""
        made = {name for node in self.host_before for name in node.outputs}.union(self.inputs)
        return tuple(name for name in self.tensors if name in made)

    @property
    def npu_outputs(self) -> tuple[str, ...]:
        """Tensors that the NPU returns: outputs of the network, and operands of the host's nodes, in their order."""
        read = dict.fromkeys((*self.outputs, *(name for node in self.host_after for name in node.inputs)))
        given = self.npu_inputs
        return tuple(name for name in read if name in self.tensors and name not in given)

    def result_scale(self, operation: QuantizedOperation) -> float:
        """Real value of one step of what an operation's sums are scaled to: its output, or its function's operand."""
        function = operation.function
        return self.tensors[operation.output].scale if function is None else function.operand_scale

    def host_part(self) -> Graph:
        """The host's nodes as a graph of float tensors: given are the network's inputs and what the NPU returns."""
        places = {node.name: Placement.HOST_BEFORE for node in self.host_before}
        return Graph(
            name=self.name,
            inputs=(*self.inputs, *self.npu_outputs),
            outputs=(*self.npu_inputs, *self.outputs),
            shapes=dict(self.shapes),
            constants=dict(self.host_constants),
            nodes=[*self.host_before, *self.host_after],
            opset=self.opset,
            placement={**places, **{node.name: Placement.HOST_AFTER for node in self.host_after}},
        )

    def format(self) -> str:
        """The network as text, one line per operation."""
        lines = [f"quantised network {self.name}"]
        lines += [f"  input  {name}: {_format_shape(self.shapes[name])}" for name in self.inputs]
        lines += [f"  {_format_host(node)}" for node in self.host_before]
        lines += [f"  quantise {name}: {self.tensors[name]}" for name in self.npu_inputs]
        lines += [f"  {self._format_operation(operation)}" for operation in self.operations]
        lines += [f"  part {name}: {part.whole} from channel {part.channel}" for name, part in self.parts.items()]
        lines += [f"  {_format_host(node)}" for node in self.host_after]
        lines += [f"  output {name}: {_format_shape(self.shapes[name])}" for name in self.outputs]
        return "\n".join(lines)

    def _format_operation(self, operation: QuantizedOperation) -> str:
        operands = operation.input if operation.residual is None else f"{operation.input} + {operation.residual}"
        if isinstance(operation, QuantizedConvolution):
            kernel = operation.weights.shape[2:]
            kind = f"convolution W{operation.weight_depth}"
        else:
            kernel = operation.kernel
            kind = f"window {operation.reduction}"
        facts = f"kernel {kernel[0]}x{kernel[1]} stride {operation.stride[0]}x{operation.stride[1]}"
        if any(operation.padding):
            facts += f" padding {operation.padding}"
        if operation.activation != NO_ACTIVATION:
            facts += " limits {:g}..{:g}".format(*operation.activation)
        if operation.function is not None:
            facts += f" function {operation.function.function} of steps of {operation.function.operand_scale:.6g}"
        target = self.tensors[operation.output]
        return f"{operation.output}: {target} = {kind} {operation.name}({operands}) {facts}"


def hosted_names(
    inputs: Iterable[str], outputs: Iterable[str], nodes: Iterable[Node], npu_inputs: Iterable[str]
) -> set[str]:
    """Names of the float tensors and constants that the host handles, given its nodes and what the NPU is given."""
    operands = {name for node in nodes for name in (*node.inputs, *node.outputs) if name}
    return operands.union(inputs, outputs, npu_inputs)


def equal_quantized(first: QuantizedNetwork, second: QuantizedNetwork) -> bool:
    """Whether two networks are the same, every number bit by bit."""
    return _equal(first, second)


_COMPARED = (
    QuantizedNetwork,
    QuantizedConvolution,
    QuantizedWindow,
    QuantizedTensor,
    QuantizedFunction,
    Function,
    Node,
    DepthLimits,
    DepthRange,
    LayerSensitivity,
    SensitivityProfile,
)
"""Classes that are compared attribute by attribute."""


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if type(first) is not type(second):
        return False
    if isinstance(first, _COMPARED):
        return all(_equal(getattr(first, item.name), getattr(second, item.name)) for item in fields(first))
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)


def _format_host(node: Node) -> str:
    return f"{', '.join(node.outputs)} = host {node.op} {node.name}({', '.join(node.inputs)})"


def _format_shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
