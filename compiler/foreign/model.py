"""Takes the quantisers out of a model, so that a float network is left, and remembers how each rounds.

Known are QuantizeLinear with DequantizeLinear, of ONNX itself or of onnxruntime's domain, and QONNX's Quant. A
quantiser of a constant is computed; one of an activation becomes an Identity.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from tessera.compiler.errors import CompilerError
from tessera.compiler.float_execution import run_onnx_node
from tessera.compiler.graph import Node
from tessera.compiler.onnx_import import ONNX_DOMAINS, node_attributes, opset_of
from tessera.compiler.qonnx_format import OLD_QUANT_DOMAINS, QUANT, QUANT_DOMAIN, ROUNDING_MODE
from tessera.compiler.quantizer import Quantizer

QONNX_DOMAINS = (QUANT_DOMAIN, *OLD_QUANT_DOMAINS)
QDQ_DOMAIN = "com.microsoft"
"""onnxruntime's own domain, which has the two operators for 4 and 16 bits where ONNX's version lacks them."""

QDQ = ("QuantizeLinear", "DequantizeLinear")
"""The operators of the QDQ format."""

QUANTS = (QUANT, "IntQuant")
"""The operators of QONNX that can be read."""

_INTEGER_OPERATORS = ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul")
"""Operators on integers, of which networks in another format than QDQ are made."""

_ALIKE = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "MaxPool", "Slice", "Split", "Concat")
"""Operators that only choose among the values of their operands, so that they do the same to integers."""

_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    ROUNDING_MODE: np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.copysign(np.ceil(np.abs(x)), x),
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "HALF_DOWN": lambda x: np.copysign(np.ceil(np.abs(x) - 0.5), x),
}
"""Rounding modes of Quant; the machine has the first two."""


@dataclass(eq=False)
class FloatModel:
    """A model without its quantisers.

    Attributes
    ----------
    model
        The float model.
    quantizers
        How the outputs of some of its Identity nodes are rounded, by name.
    notes
        A sentence for each thing that is not as in the file.
    """

    model: onnx.ModelProto
    quantizers: dict[str, Quantizer] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def has_quantizers(model: onnx.ModelProto) -> bool:
    """Whether a model has nodes that quantise."""
    return any(_is_quantizer(node) for node in model.graph.node)


def without_quantizers(path: Path, model: onnx.ModelProto) -> FloatModel:
    """The float model, and how its tensors are rounded.

    Raises
    ------
    CompilerError
        An operator that no float network and no known quantiser has, or a quantiser that the NPU lacks; names the
        node, what it has, and the remedy.
    """
    return _Stripper(path, model).stripped()


def _is_quantizer(node: onnx.NodeProto) -> bool:
    return node.domain in QONNX_DOMAINS or node.op_type in (*QDQ, *_INTEGER_OPERATORS)


@dataclass(frozen=True, eq=False)
class _Coding:
    """How a node means real numbers by integers, as arrays: one value, or one per index of an axis."""

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int

    def equals(self, other: _Coding) -> bool:
        """Whether the same integers mean the same numbers."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero_point, other.zero_point)

    def quantize(self, values: np.ndarray, rounding: Callable[[np.ndarray], np.ndarray] = np.rint) -> np.ndarray:
        """The integers nearest to real values (float64)."""
        scaled = values.astype(np.float32) / self.scale.astype(np.float32)
        return np.clip(rounding(scaled.astype(np.float64)) + self.zero_point, self.low, self.high)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """The real values (float32) of integers."""
        return ((integers - self.zero_point) * self.scale).astype(np.float32)


class _Stripper:
    """Goes through the nodes once, in order."""

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        self.path = path
        self.opset = opset_of(model)
        self.result = FloatModel(onnx.ModelProto())
        self.result.model.CopyFrom(model)
        self.constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.given = set(self.constants)
        self.codings: dict[str, _Coding] = {}  # of the integers that nodes compute
        self.nodes: list[onnx.NodeProto] = []
        self.readers = Counter(name for node in model.graph.node for name in node.input)
        self.readers.update(value.name for value in model.graph.output)

    def stripped(self) -> FloatModel:
        """The float model."""
        graph = self.result.model.graph
        for node in graph.node:
            self.take(node)
        outputs = {value.name for value in graph.output}
        for name in outputs.intersection(self.codings):
            self.result.notes.append(f"output {name!r} has the real values, not the integers of the file")
        for value in graph.output:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        given = [value for value in graph.input if value.name not in self.given]
        del graph.input[:]
        graph.input.extend(given)
        read = outputs.union(*(node.input for node in self.nodes))
        del graph.node[:]
        graph.node.extend(self.nodes)
        made = [name for name in self.constants if name not in self.given and name in read]
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        kept += [onnx.numpy_helper.from_array(self.constants[name], name) for name in made]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self.result

    def take(self, node: onnx.NodeProto) -> None:
        """Takes over a node, or what is left of it."""
        if node.op_type in QDQ and node.domain in (*ONNX_DOMAINS, QDQ_DOMAIN):
            coding = self.linear_coding(node)
            (self.quantize if node.op_type == QDQ[0] else self.dequantize)(node, coding)
        elif node.domain in QONNX_DOMAINS:
            self.quant(node)
        elif node.domain not in ONNX_DOMAINS or node.op_type in _INTEGER_OPERATORS:
            raise self.error(
                node,
                "computes with integers of its own, but only QuantizeLinear with DequantizeLinear, and Quant, can be "
                "read; quantise in the QDQ format (in onnxruntime, with QuantFormat.QDQ)",
            )
        elif node.input and all(name in self.constants for name in node.input if name):
            self.constants |= self.computed(node)
        else:
            self.keep(node)

    def keep(self, node: onnx.NodeProto) -> None:
        """Keeps a node; one that only chooses among integers has integers as its result."""
        if node.op_type == "Constant" and not node.input:
            self.constants |= self.computed(node)
        operands = [name for name in node.input if name in self.codings]
        if node.op_type == "Clip" and operands == node.input[:1]:
            self.narrow(node)
            return
        if operands and node.op_type in _ALIKE:
            self.codings |= dict.fromkeys(node.output, self.codings[operands[0]])
        elif operands:
            raise self.error(node, f"reads the integers {operands[0]!r}; put a DequantizeLinear node before it")
        self.nodes.append(node)

    def narrow(self, node: onnx.NodeProto) -> None:
        """Clip of integers: fewer of them."""
        coding = self.codings[node.input[0]]
        names = [*node.input[1:3], "", ""][:2]
        limits = [self.constants.get(name) for name in names]
        for name, limit in zip(names, limits, strict=True):
            if name and (limit is None or limit.size != 1 or not np.isfinite(limit).all()):
                raise self.error(node, f"limits integers by {name!r}, which is no constant integer; make it one")
        low, high = (old if new is None else int(new.item()) for old, new in zip((coding.low, coding.high), limits))
        narrower = replace(coding, low=max(low, coding.low), high=min(high, coding.high))
        if self.readers[node.input[0]] == 1:
            del self.result.quantizers[node.input[0]]
        self.codings[node.output[0]] = narrower
        self.round(node, narrower)

    def computed(self, node: onnx.NodeProto) -> dict[str, np.ndarray]:
        """The outputs of a node whose operands are constant."""
        simple = Node(
            node.name or node.output[0],
            node.op_type,
            tuple(node.input),
            tuple(node.output),
            node_attributes(self.path, node),
        )
        operands = [self.constants.get(name) for name in node.input]
        results = run_onnx_node(simple, self.opset, [None] * len(operands), operands, {})
        return {name: value[0] for name, value in results.items()}

    def identity(self, node: onnx.NodeProto) -> None:
        """Leaves an Identity of a node."""
        self.nodes.append(onnx.helper.make_node("Identity", node.input[:1], node.output, node.name))

    def quantize(self, node: onnx.NodeProto, coding: _Coding) -> None:
        """QuantizeLinear; its result stands for the real numbers that its integers mean."""
        values = self.constants.get(node.input[0])
        if values is not None:
            self.constants[node.output[0]] = coding.quantize(values).astype(np.int64)
            return
        self.codings[node.output[0]] = coding
        self.round(node, coding)

    def dequantize(self, node: onnx.NodeProto, coding: _Coding) -> None:
        """DequantizeLinear of a constant, or of what QuantizeLinear has made."""
        integers = self.constants.get(node.input[0])
        if integers is not None:
            self.constants[node.output[0]] = coding.dequantize(integers.astype(np.int64))
            return
        source = self.codings.get(node.input[0])
        if source is None or not source.equals(coding):
            raise self.error(
                node,
                f"reads {node.input[0]!r}, which no QuantizeLinear node of the same scale and zero point has made; "
                "make both nodes alike",
            )
        self.identity(node)

    def quant(self, node: onnx.NodeProto) -> None:
        """QONNX's Quant."""
        if node.op_type not in QUANTS:
            raise self.error(
                node, f"is QONNX's operator {node.op_type}, but only {QUANT} can be read; export the network without it"
            )
        coding = self.quant_coding(node)
        mode = str(node_attributes(self.path, node).get("rounding_mode", ROUNDING_MODE)).upper()
        values = self.constants.get(node.input[0])
        if mode not in _ROUNDINGS or (values is None and _ROUNDINGS[mode] is not np.rint):
            raise self.error(
                node,
                f"has the rounding mode {mode}, but the NPU rounds half to even; export it with {ROUNDING_MODE}",
            )
        if values is None:
            self.round(node, coding)
        else:
            self.constants[node.output[0]] = coding.dequantize(coding.quantize(values, _ROUNDINGS[mode]))

    def round(self, node: onnx.NodeProto, coding: _Coding) -> None:
        """Leaves an Identity whose output is rounded."""
        if coding.scale.size != 1 or coding.zero_point.size != 1:
            raise self.error(
                node,
                f"rounds activations with {max(coding.scale.size, coding.zero_point.size)} scales or zero points, but "
                "the NPU has one for a tensor; quantise activations per tensor",
            )
        scale, zero_point = float(coding.scale.reshape(())), int(coding.zero_point.reshape(()))
        self.result.quantizers[node.output[0]] = Quantizer(scale, coding.low - zero_point, coding.high - zero_point)
        self.identity(node)

    def linear_coding(self, node: onnx.NodeProto) -> _Coding:
        """Scale, zero point and range of QuantizeLinear or DequantizeLinear."""
        scale, (zero_point,) = self.parameters(node, 2)
        integers = zero_point if zero_point is not None else self.constants.get(node.input[0])
        kind = "uint8" if integers is None or (node.op_type == QDQ[0] and zero_point is None) else str(integers.dtype)
        attributes = node_attributes(self.path, node)
        if zero_point is None and attributes.get("output_dtype"):
            kind = onnx.TensorProto.DataType.Name(attributes["output_dtype"]).lower()
        match = re.fullmatch(r"(u?)int(\d+)", kind)
        if match is None:
            raise self.error(node, f"quantises to {kind}, but the NPU has integers; quantise to one of 4, 8 or 16 bits")
        bits = int(match[2])
        low, high = (0, (1 << bits) - 1) if match[1] else (-(1 << bits - 1), (1 << bits - 1) - 1)
        zeros = np.zeros_like(scale, np.int64) if zero_point is None else zero_point.astype(np.int64)
        fit = self.fitting(node, attributes.get("axis", 1), attributes.get("block_size", 0))
        return self.checked(node, _Coding(fit(scale.astype(np.float64)), fit(zeros), low, high))

    def fitting(self, node: onnx.NodeProto, axis: int, block: int) -> Callable[[np.ndarray], np.ndarray]:
        """From the parameters of a node to those that numpy stretches to its constant operand."""
        operand = self.constants.get(node.input[0])

        def fit(value: np.ndarray) -> np.ndarray:
            if operand is None or value.size == 1:
                return value.reshape(-1)[:1].reshape(()) if value.size == 1 else value
            if block:
                return np.repeat(value, block, axis=axis).take(range(operand.shape[axis]), axis=axis)
            return value.reshape([-1 if each == axis % operand.ndim else 1 for each in range(operand.ndim)])

        return fit

    def quant_coding(self, node: onnx.NodeProto) -> _Coding:
        """Scale, zero point and range of Quant."""
        scale, (zero_point, width) = self.parameters(node, 3)
        attributes = node_attributes(self.path, node)
        if zero_point is None or width is None or width.size != 1 or not 1 <= width.item() <= 32 or width.item() % 1:
            text = "no" if width is None else str(width.tolist())
            raise self.error(node, f"has a width of {text} bits; it must be one integer from 1 to 32")
        if (zero_point % 1).any():
            raise self.error(node, f"has the zero point {zero_point.tolist()}, but it must be an integer")
        signed, narrow = attributes.get("signed", 1), attributes.get("narrow", 0)
        top = 1 << int(width.item()) - bool(signed)
        low, high = (narrow - top, top - 1) if signed else (0, top - 1 - narrow)
        return self.checked(node, _Coding(scale.astype(np.float64), zero_point.astype(np.int64), low, high))

    def checked(self, node: onnx.NodeProto, coding: _Coding) -> _Coding:
        """The coding, if its parameters fit the constant operand of a node."""
        operand = self.constants.get(node.input[0])
        if operand is None:
            return coding
        shapes = operand.shape, coding.scale.shape, coding.zero_point.shape
        try:
            fits = np.broadcast_shapes(*shapes) == operand.shape
        except ValueError:
            fits = False
        if not fits:
            raise self.error(
                node,
                f"has scales of the shape {shapes[1]} and zero points of the shape {shapes[2]}, which do not fit its "
                f"operand of the shape {shapes[0]}; quantise the network again",
            )
        return coding

    def parameters(self, node: onnx.NodeProto, count: int) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """The scale, checked, and the constant operands behind it, ``None`` where one is left out."""
        names = [*node.input[1 : 1 + count], *[""] * count][:count]
        for name in names:
            if name and name not in self.constants:
                raise self.error(node, f"has the parameter {name!r}, which is computed at run time; make it constant")
        scale, *others = (self.constants.get(name) for name in names)
        if scale is None or not np.isfinite(scale).all() or not (scale > 0).all():
            raise self.error(node, "has a scale that is not positive; quantise the network again")
        return scale, others

    def error(self, node: onnx.NodeProto, problem: str) -> CompilerError:
        """The error that a node has a problem."""
        return CompilerError(f"{self.path}: node {node.name or node.output[0]!r} ({node.op_type}) {problem}")
