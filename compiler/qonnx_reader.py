"""Reads QONNX files of the form that :mod:`tessera.compiler.qonnx_format` describes.

The network is recognised by its structure alone; the metadata only add the scales at other depths. What other tools
write is read by :mod:`tessera.compiler.foreign`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import onnx

from tessera.compiler.errors import CompilerError
from tessera.compiler.functions import Region, regions
from tessera.compiler.graph import NO_ACTIVATION, Graph, Node, map_shape
from tessera.compiler.onnx_import import graph_of_model, infer_shapes, load_model
from tessera.compiler.operators import (
    clip_limits,
    crop_facts,
    explicit_padding,
    integer_scales,
    npu_problem,
    pair,
    slice_ranges,
)
from tessera.compiler.passes.reshapes import RESHAPES
from tessera.compiler.qonnx_format import (
    METADATA_KEY,
    OLD_QUANT_DOMAINS,
    QUANT,
    QUANT_DOMAIN,
    ROUNDING_MODE,
    Metadata,
    parse_metadata,
)
from tessera.compiler.quantized import (
    QuantizedConvolution,
    QuantizedFunction,
    QuantizedNetwork,
    QuantizedOperation,
    QuantizedTensor,
    QuantizedWindow,
    hosted_names,
)
from tessera.rtl.config import ACTIVATION_DEPTHS, WEIGHT_DEPTHS
from tessera.rtl.isa import TableEntry
from tessera.sim.golden.network import Part

_MAIN = ("Conv", "Gemm", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Slice", "Resize", *RESHAPES)
"""Operators that may stand between Quant nodes, besides additions and activations."""

_DOMAINS = (QUANT_DOMAIN, *OLD_QUANT_DOMAINS)


def read_qonnx(path: str | Path) -> QuantizedNetwork:
    """Reads a quantised network.

    Raises
    ------
    CompilerError
        The file is missing, broken, or no QONNX file, or something in it has no counterpart on the NPU; names
        the node.
    """
    path = Path(path)
    model = load_model(path, _DOMAINS)
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.domain in _DOMAINS:
            _check_operator(path, node)
            # For the inference of shapes; a Quant node has the shape of its first operand.
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output, node.name))
    graph = graph_of_model(path, model, infer_shapes(path, plain))
    metadata = {entry.key: entry.value for entry in model.metadata_props}.get(METADATA_KEY)
    if metadata is not None:
        graph.name = model.graph.name
    return _Reader(graph, str(path), parse_metadata(str(path), metadata)).network()


def _check_operator(path: Path, node: onnx.NodeProto) -> None:
    if node.op_type != QUANT:
        raise CompilerError(
            f"{path}: node {node.name or node.output[0]!r} has the QONNX operator {node.op_type}, but only "
            f"{QUANT} can be read"
        )


@dataclass(frozen=True, eq=False)
class _Weights:
    """Quantised constant: integers, one scale per first axis, and depth."""

    integers: np.ndarray
    scales: np.ndarray
    depth: int


@dataclass(eq=False)
class _Parts:
    """The nodes of one operation, found backwards from its Quant node."""

    quant: Node
    source: str
    main: Node | None = None
    residual: str | None = None
    activation: tuple[float, float] = NO_ACTIVATION
    function: QuantizedFunction | None = None


class _Reader:
    """Recognises the parts of one graph."""

    def __init__(self, graph: Graph, source: str, metadata: Metadata) -> None:
        self.graph = graph
        self.source = source
        self.metadata = metadata
        self.makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self.used: set[str] = set()  # names of the nodes that belong to operations
        self.weights: dict[str, _Weights] = {}
        self.tensors: dict[str, QuantizedTensor] = {}
        self.names: dict[str, str] = {}  # tensor by the output of its Quant node
        self.functions = self.find_functions()
        self.parts: dict[str, Part] = {}

    def find_functions(self) -> dict[str, Region]:
        """The functions between two Quant nodes, by the tensor that they compute."""
        found = {}
        for region in regions(self.graph):
            source = self.makers.get(region.variable)
            is_quantised = any(node.op == QUANT for node in self.graph.consumers(region.result))
            if is_quantised and source is not None and source.op == QUANT:
                found[region.result] = region
        return found

    def network(self) -> QuantizedNetwork:
        """The network."""
        graph = self.graph
        operands = {region.variable for region in self.functions.values()}
        quants = [node for node in graph.nodes if node.op == QUANT and node.output not in operands]
        for node in quants:
            if node.inputs[0] in graph.constants:
                self.weights[node.output] = self.read_weights(node)
        activations = [node for node in quants if node.output not in self.weights]
        if not activations:
            raise CompilerError(f"{self.source} has no {QUANT} node for activations; quantise the network first")
        internal = _descendants(graph, [node.output for node in activations])
        given = [node for node in activations if node.inputs[0] not in internal]
        for node in given:
            self.names[node.output] = node.inputs[0]
            self.tensors[node.inputs[0]] = self.read_tensor(node, node.inputs[0])
        computed = (node for node in activations if node not in given and not self.structure(node))
        operations = tuple(self.operation(node) for node in computed)
        network = self.assemble(operations, [node.inputs[0] for node in given], internal)
        self.check_layers(network)
        return network

    def assemble(
        self, operations: tuple[QuantizedOperation, ...], given: Sequence[str], internal: set[str]
    ) -> QuantizedNetwork:
        """The network of what has been recognised."""
        graph = self.graph
        host = [node for node in graph.nodes if node.op != QUANT and node.name not in self.used]
        after = tuple(node for node in host if internal.intersection(node.outputs))
        before = tuple(node for node in host if not internal.intersection(node.outputs))
        self.check_host(host)
        hosted = hosted_names(graph.inputs, graph.outputs, host, given)
        return QuantizedNetwork(
            name=graph.name,
            inputs=graph.inputs,
            outputs=graph.outputs,
            shapes={name: shape for name, shape in graph.shapes.items() if name in hosted},
            tensors=self.tensors,
            host_before=before,
            host_after=after,
            host_constants={name: value for name, value in graph.constants.items() if name in hosted},
            opset=graph.opset,
            operations=operations,
            parts=self.parts,
            limits=self.metadata.limits,
            sensitivity=self.metadata.sensitivity,
            adaptive_depths=self.metadata.adaptive_depths,
        )

    def check_host(self, host: Sequence[Node]) -> None:
        """Refuses host nodes that read something which exists only inside the NPU."""
        inside = set(self.names).difference(self.tensors)
        for node in host:
            if any(name in self.weights for name in node.inputs):
                raise self.error(node, f"has quantised weights, but no {QUANT} node quantises its input; put one there")
            for name in inside.intersection(node.inputs):
                raise self.error(node, f"reads {name!r}, the quantised input of the NPU; let it read the float input")

    def structure(self, quant: Node) -> bool:
        """Takes note of a Concat, or a Slice of channels, between Quant nodes; false if there is none."""
        node = self.makers.get(quant.inputs[0])
        if node is None or not (node.op == "Concat" or (node.op == "Slice" and self.is_selection(node))):
            return False
        self.check_main(node)
        self.used.update((quant.name, node.name))
        whole = self.read_tensor(quant, quant.output)
        self.names[quant.output], self.tensors[quant.output] = quant.output, whole
        if node.op == "Slice":
            ranges = slice_ranges(self.graph, node)
            assert ranges is not None, "checked with the table of operators"
            self.add_part(quant, quant.output, node.inputs[0], ranges[0].start)
            return True
        channel = 0
        for name in node.inputs:
            self.add_part(quant, name, quant.output, channel)
            channel += self.graph.shapes[name][1]
        return True

    def is_selection(self, node: Node) -> bool:
        """Whether a Slice leaves rows and columns as they are."""
        ranges = slice_ranges(self.graph, node)
        sides = self.graph.shapes[node.inputs[0]][2:]
        return ranges is not None and all(len(each) == size for each, size in zip(ranges[1:], sides, strict=True))

    def add_part(self, quant: Node, part: str, whole: str, channel: int) -> None:
        """A tensor that is a part of another one; both are given by the outputs of their Quant nodes."""
        for name in (part, whole):
            if name not in self.names:
                raise self.error(quant, f"joins or divides {name!r}, which no {QUANT} node quantises; put one there")
        part, whole = self.names[part], self.names[whole]
        first, second = self.tensors[part], self.tensors[whole]
        if (first.scale, first.depth, first.signed) != (second.scale, second.depth, second.signed):
            raise self.error(
                quant,
                f"has {part!r} of the scale {first.scale:g} and {first.depth} bits beside {whole!r} of the scale "
                f"{second.scale:g} and {second.depth} bits, but they must be alike; put a {QUANT} node between",
            )
        if part in self.parts:
            raise self.error(
                quant, f"has {part!r}, which is a part of {self.parts[part].whole!r} already; copy it first"
            )
        self.parts[part] = Part(whole, channel)

    def operation(self, quant: Node) -> QuantizedOperation:
        """The operation that ends with a Quant node."""
        parts = self.trace(quant)
        self.used.add(quant.name)
        self.names[quant.output] = quant.output
        self.tensors[quant.output] = self.read_tensor(quant, quant.output)
        if parts.main is not None and parts.main.op in ("Conv", "Gemm"):
            return self.convolution(parts, parts.main)
        return self.window(parts)

    def trace(self, quant: Node) -> _Parts:
        """Follows an operation from its Quant node to its quantised operands."""
        parts = _Parts(quant, quant.inputs[0])
        if parts.source in self.functions:
            self.take_function(parts)
        node = self.step(parts)
        if node is not None and node.op in ("Relu", "Clip"):
            limits = clip_limits(self.graph, node)
            if limits is None:
                raise self.error(node, "has limits that are computed at run time, but they must be constant")
            parts.activation = limits
            parts.source = node.inputs[0]
            node = self.step(parts)
        if node is not None and node.op == "Add":
            parts.source, parts.residual = self.addends(node)
            node = self.step(parts)
        if node is not None:
            parts.main, parts.source = node, node.inputs[0]
            self.check_main(node)
            node = self.step(parts)
        if node is not None:
            raise self.error(node, f"computes the operand of an operation, but no {QUANT} node quantises its result")
        parts.source = self.names[parts.source]
        return parts

    def take_function(self, parts: _Parts) -> None:
        """Goes back over a function and the Quant node of its operand."""
        region = self.functions[parts.source]
        quant = self.makers[region.variable]
        scale, depth = self.quantisation(quant, (TableEntry.OPERAND_BITS,))
        if scale.size != 1 or not quant.attributes.get("signed", 1) or quant.attributes.get("narrow", 0):
            raise self.error(
                quant,
                f"must have one scale, signed = 1 and narrow = 0, because a function with a table reads {depth} bits",
            )
        parts.function = QuantizedFunction(region.function, float(scale.reshape(())))
        self.used.update((quant.name, *(node.name for node in region.nodes)))
        parts.source = quant.inputs[0]

    def step(self, parts: _Parts) -> Node | None:
        """Goes back over reshapes; the node that computes the source, or ``None`` if the source is quantised."""
        while parts.source not in self.names:
            node = self.makers.get(parts.source)
            if node is None:
                raise self.error(parts.quant, f"quantises something that is made of the float tensor {parts.source!r}")
            self.used.add(node.name)
            if node.op not in RESHAPES:
                return node
            self.check_main(node)
            parts.source = node.inputs[0]
        return None

    def addends(self, node: Node) -> tuple[str, str]:
        """The addend that an operation computes, and the quantised one."""
        quantised = [name for name in node.inputs if self.origin(name) in self.names]
        if not quantised:
            raise self.error(node, f"adds two results of which none is quantised; put a {QUANT} node after one of them")
        residual = quantised[-1]
        source = next((name for name in node.inputs if name != residual), residual)
        self.mark_reshapes(residual)
        return source, self.names[self.origin(residual)]

    def origin(self, name: str) -> str:
        """The tensor of which ``name`` is a reshape."""
        node = self.makers.get(name)
        while node is not None and node.op in RESHAPES and name not in self.names:
            name = node.inputs[0]
            node = self.makers.get(name)
        return name

    def mark_reshapes(self, name: str) -> None:
        """Marks the reshapes between a tensor and its origin as part of an operation."""
        while name not in self.names:
            node = self.makers[name]
            self.used.add(node.name)
            name = node.inputs[0]

    def check_main(self, node: Node) -> None:
        """Refuses a node that is no operation of the NPU."""
        if node.op not in _MAIN:
            raise self.error(node, f"lies between quantised tensors, but the NPU has no operator {node.op}")
        weights = {name: self.weights[name].integers for name in node.inputs[1:] if name in self.weights}
        if node.op in ("Conv", "Gemm") and not weights:
            raise self.error(node, f"has weights without a {QUANT} node; quantise them")
        view = replace(self.graph, constants={**self.graph.constants, **weights})
        problem = npu_problem(view, node)
        if problem is not None:
            raise self.error(node, f"cannot run on the NPU: {problem}")

    def convolution(self, parts: _Parts, node: Node) -> QuantizedConvolution:
        """The convolution or fully connected layer of a Conv or Gemm node."""
        weights = self.weights[node.inputs[1]]
        integers, padding = weights.integers, (0, 0, 0, 0)
        if node.op == "Gemm":
            if not node.attributes.get("transB", 0) or node.attributes.get("alpha", 1.0) != 1.0:
                raise self.error(node, "must have transB = 1 and alpha = 1")
            integers = integers.reshape(len(integers), *self.tensors[parts.source].type.shape)
        else:
            padding = explicit_padding(self.graph, node, integers.shape[2:])
        return QuantizedConvolution(
            name=node.name,
            input=parts.source,
            output=parts.quant.output,
            weights=integers,
            weight_depth=weights.depth,
            weight_scales=weights.scales,
            bias=self.bias(node, len(integers)),
            stride=pair(node, "strides"),
            padding=padding,
            dilation=pair(node, "dilations"),
            groups=node.attributes.get("group", 1),
            activation=parts.activation,
            residual=parts.residual,
            function=parts.function,
        )

    def window(self, parts: _Parts) -> QuantizedWindow:
        """The pooling of a node, or a copy."""
        node = parts.main
        facts: dict[str, Any] = {
            "reduction": "sum",
            "kernel": (1, 1),
            "stride": (1, 1),
            "padding": (0, 0, 0, 0),
        }
        if node is not None and node.op == "GlobalAveragePool":
            facts["kernel"] = map_shape(self.graph.shapes[node.inputs[0]])[1:]
        elif node is not None and node.op == "Resize":
            facts["repeat"] = integer_scales(self.graph, node)
        elif node is not None and node.op == "Slice":
            facts |= crop_facts(self.graph, node)
        elif node is not None:
            kernel = pair(node, "kernel_shape")
            padding = explicit_padding(self.graph, node, kernel)
            facts |= {"kernel": kernel, "stride": pair(node, "strides"), "padding": padding}
        is_max = node is not None and node.op == "MaxPool"
        facts |= {"reduction": "max"} if is_max else {"divisor": facts["kernel"][0] * facts["kernel"][1]}
        return QuantizedWindow(
            name=parts.quant.name if node is None else node.name,
            input=parts.source,
            output=parts.quant.output,
            activation=parts.activation,
            residual=parts.residual,
            function=parts.function,
            **facts,
        )

    def bias(self, node: Node, channels: int) -> np.ndarray:
        """Bias of a Conv or Gemm node, float32."""
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        if not name:
            return np.zeros(channels, np.float32)
        if name not in self.graph.constants or node.attributes.get("beta", 1.0) != 1.0:
            raise self.error(node, "must have a constant bias (and beta = 1)")
        return np.broadcast_to(self.graph.constants[name].astype(np.float32).reshape(-1), (channels,)).copy()

    def read_tensor(self, node: Node, name: str) -> QuantizedTensor:
        """The type of an activation tensor."""
        scale, depth = self.quantisation(node, ACTIVATION_DEPTHS)
        if scale.size != 1 or node.attributes.get("narrow", 0):
            raise self.error(
                node, "must have one scale, and the attribute narrow = 0, because it quantises activations"
            )
        signed = bool(node.attributes.get("signed", 1))
        tensor = QuantizedTensor.of_scale(self.graph.shapes[node.output], float(scale.reshape(())), depth, signed)
        return self.with_facts(node, name, tensor)

    def with_facts(self, node: Node, name: str, tensor: QuantizedTensor) -> QuantizedTensor:
        """The tensor with the scales from the metadata."""
        if name not in self.metadata.scales:
            return tensor
        base, shifts = self.metadata.scales[name]
        result = QuantizedTensor(tensor.shape, base, shifts, tensor.depth, tensor.signed)
        if result.scale != tensor.scale:
            raise self.error(
                node,
                f"has the scale {tensor.scale:g}, but the metadata {METADATA_KEY!r} say {result.scale:g}; remove them",
            )
        return result

    def check_layers(self, network: QuantizedNetwork) -> None:
        """Refuses metadata about layers that the network does not have, or that lack one."""
        known = network.layer_depths()
        limits, sensitivity = self.metadata.limits, self.metadata.sensitivity
        for what, names in (
            ("limits", None if limits is None else limits.layers),
            ("sensitivities", None if sensitivity is None else sensitivity.layers),
        ):
            for name in () if names is None else sorted(names.keys() ^ known.keys()):
                problem = "lack the layer" if name in known else "speak of a layer that it does not have:"
                raise CompilerError(
                    f"{self.source}: the {what} in the metadata {METADATA_KEY!r} {problem} {name!r}; remove them or "
                    "write the file again"
                )
        for name, depth in known.items():
            if limits is not None and depth not in limits.layers[name] and not self.metadata.adaptive_depths:
                allowed = limits.layers[name]
                raise CompilerError(
                    f"{self.source}: layer {name!r} has {depth} bits, but the metadata {METADATA_KEY!r} allow "
                    f"{allowed.minimum} to {allowed.maximum}; remove them or write the file again"
                )

    def read_weights(self, node: Node) -> _Weights:
        """The integers of a quantised constant."""
        scale, depth = self.quantisation(node, WEIGHT_DEPTHS)
        values = self.graph.constants[node.inputs[0]].astype(np.float64)
        channels = len(values) if values.ndim else 1
        if not node.attributes.get("signed", 1) or scale.size not in (1, channels):
            raise self.error(node, "must be signed and have one scale, or one per output channel, as weights do")
        scales = np.broadcast_to(scale.astype(np.float32).reshape(-1), (channels,)).copy()
        top = (1 << (depth - 1)) - 1
        low = -top if node.attributes.get("narrow", 0) else -top - 1
        integers = np.rint(values / scales.astype(np.float64).reshape(-1, *[1] * (values.ndim - 1)))
        return _Weights(np.clip(integers, low, top).astype(np.int8), scales, depth)

    def quantisation(self, node: Node, depths: Sequence[int]) -> tuple[np.ndarray, int]:
        """Scale and depth of a Quant node."""
        constants = self.graph.constants
        operands = [constants[name] for name in node.inputs[1:4] if name in constants]
        if len(operands) != 3:
            raise self.error(node, "must have a constant scale, zero point and bit width")
        scale, zero_point, width = operands
        if not (scale > 0).all():
            raise self.error(node, "has a scale that is not positive")
        if zero_point.any():
            raise self.error(node, "has a zero point other than 0; quantise symmetrically")
        if width.size != 1 or width.item() not in depths:
            widths = ", ".join(map(str, depths))
            raise self.error(node, f"has a width of {_text(width)} bits; it must be one of {widths}")
        mode = node.attributes.get("rounding_mode", ROUNDING_MODE)
        if mode.upper() not in (ROUNDING_MODE, "HALF_EVEN"):
            raise self.error(node, f"has the rounding mode {mode}, but the NPU rounds half to even ({ROUNDING_MODE})")
        return scale, int(width.item())

    def error(self, node: Node, problem: str) -> CompilerError:
        """The error that a node has a problem."""
        return CompilerError(f"{self.source}: node {node.name!r} ({node.op}) {problem}")


def _text(value: np.ndarray) -> str:
    return f"{value.item():g}" if value.size == 1 else str(value.tolist())


def _descendants(graph: Graph, names: Sequence[str]) -> set[str]:
    """All tensors that depend on some tensors, those included."""
    flow = networkx.DiGraph()
    flow.add_nodes_from(names)
    for node in graph.nodes:
        flow.add_edges_from((source, target) for source in node.inputs if source for target in node.outputs)
    return set(names).union(*(networkx.descendants(flow, name) for name in names))
