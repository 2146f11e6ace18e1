"""Writes quantised networks as QONNX files; the form is described in :mod:`tessera.compiler.qonnx_format`."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper

from tessera.compiler.float_execution import make_onnx_node
from tessera.compiler.graph import NO_ACTIVATION, Node, Shape, map_shape, unique_name
from tessera.compiler.qonnx_format import (
    METADATA_KEY,
    QUANT,
    QUANT_DOMAIN,
    QUANT_VERSION,
    ROUNDING_MODE,
    format_metadata,
)
from tessera.compiler.quantized import (
    QuantizedConvolution,
    QuantizedFunction,
    QuantizedNetwork,
    QuantizedOperation,
    QuantizedTensor,
    QuantizedWindow,
)
from tessera.rtl.isa import TableEntry
from tessera.sim.golden.network import IntegerNetwork

_RELU = (0.0, math.inf)
_IR_VERSION = 8
"""File format version that old tools read too."""


def write_qonnx(network: QuantizedNetwork, path: str | Path) -> None:
    """Writes a network as a QONNX file; an existing file is replaced only when the new one is complete."""
    write_model(qonnx_model(network), path)


def write_model(model: onnx.ModelProto, path: str | Path) -> None:
    """Writes a model to a file; an existing file is replaced only when the new one is complete."""
    path = Path(path)
    data = model.SerializeToString(deterministic=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def qonnx_model(network: QuantizedNetwork) -> onnx.ModelProto:
    """The ONNX model of a quantised network."""
    model = NetworkWriter(network).model()
    onnx.checker.check_model(model)
    return model


class NetworkWriter:
    """Collects the nodes, constants and shapes of the file."""

    def __init__(self, network: QuantizedNetwork) -> None:
        self.network = network
        self.nodes: list[onnx.NodeProto] = []
        self.constants = dict(network.host_constants)
        self.shapes = {name: shape for name, shape in network.shapes.items() if name not in self.constants}
        self.shapes.update({name: tensor.shape for name, tensor in network.tensors.items()})
        self.quantized: dict[str, str] = {}  # name in the file of each tensor of the NPU
        types = {name: tensor.type for name, tensor in network.tensors.items()}
        self.types = IntegerNetwork(network.name, types, network.npu_inputs, network.npu_outputs, (), network.parts)

    def model(self) -> onnx.ModelProto:
        """The model."""
        network = self.network
        self.nodes += [make_onnx_node(node) for node in network.host_before]
        for name in network.npu_inputs:
            tensor = network.tensors[name]
            self.quantized[name] = self.new_tensor(f"{name}_quantized", tensor.shape)
            self.quantize(f"{name}_quant", name, self.quantized[name], tensor)
        for operation in network.operations:
            for operand in (operation.input, operation.residual):
                if operand is not None:
                    self.provide(operand)
            self.operation(operation)
        for name in network.npu_outputs:
            self.provide(name)
        self.nodes += [make_onnx_node(node) for node in network.host_after]
        return self.assemble()

    def assemble(self) -> onnx.ModelProto:
        """The model of what has been collected."""
        network = self.network
        given = (*network.inputs, *network.outputs)
        graph = onnx.helper.make_graph(
            self.nodes,
            network.name,
            [self.value(name) for name in network.inputs],
            [self.value(name) for name in network.outputs],
            [onnx.numpy_helper.from_array(value, name) for name, value in self.constants.items()],
            value_info=[self.value(name) for name in self.shapes if name not in given],
        )
        opsets = [("", network.opset), (QUANT_DOMAIN, QUANT_VERSION)]
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets]
        model = onnx.helper.make_model(graph, opset_imports=imports, producer_name="tessera", ir_version=_IR_VERSION)
        model.metadata_props.add(key=METADATA_KEY, value=format_metadata(network))
        return model

    def value(self, name: str) -> onnx.ValueInfoProto:
        """Name, type and shape of a tensor."""
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, self.shapes[name])

    def new_tensor(self, wish: str, shape: Shape) -> str:
        """A new name for a tensor of this shape."""
        name = unique_name(wish, [*self.shapes, *self.constants])
        self.shapes[name] = shape
        return name

    def constant(self, wish: str, value: Any, dtype: type[np.generic] = np.float32) -> str:
        """A new name for a constant."""
        name = unique_name(wish, [*self.shapes, *self.constants])
        self.constants[name] = np.asarray(value, dtype)
        return name

    def node(self, op: str, inputs: list[str], output: str, name: str, **attributes: Any) -> str:
        """Adds a node and returns its output."""
        domain = QUANT_DOMAIN if op == QUANT else ""
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], name=name, domain=domain, **attributes))
        return output

    def quantize(self, name: str, source: str, target: str, tensor: QuantizedTensor) -> None:
        """Adds the Quant node of an activation tensor."""
        inputs = [
            source,
            self.constant(f"{name}_scale", tensor.scale),
            self.constant(f"{name}_zero_point", 0),
            self.constant(f"{name}_bits", tensor.depth),
        ]
        self.node(QUANT, inputs, target, name, signed=int(tensor.signed), narrow=0, rounding_mode=ROUNDING_MODE)

    def provide(self, name: str, asked: frozenset[str] = frozenset()) -> None:
        """Adds the nodes of a tensor that is a part of others, or consists of parts, if it is not there yet."""
        found = None if name in self.quantized else self.types.derivation(name, self.quantized, asked)
        if found is None:
            return
        for each in found.pieces if found.whole is None else (found.whole,):
            self.provide(each, found.asked)
        tensor = self.network.tensors[name]
        value = self.new_tensor(f"{name}_placed", tensor.shape)
        if found.whole is not None:
            first = self.network.parts[name].channel
            limits = [first], [first + tensor.shape[1]]
            self.slice(f"{name}_slice", self.quantized[found.whole], value, *limits, [1], [1])
        else:
            self.node("Concat", [self.quantized[each] for each in found.pieces], value, f"{name}_concat", axis=1)
        self.quantize(f"{name}_quant", value, name, tensor)
        self.quantized[name] = name

    def slice(
        self,
        name: str,
        source: str,
        target: str,
        starts: list[int],
        stops: list[int],
        axes: list[int],
        steps: list[int],
    ) -> str:
        """Adds a Slice node."""
        operands = {"starts": starts, "stops": stops, "axes": axes, "steps": steps}
        inputs = [self.constant(f"{name}_{key}", value, np.int64) for key, value in operands.items()]
        return self.node("Slice", [source, *inputs], target, name)

    def operation(self, operation: QuantizedOperation) -> None:
        """Adds the nodes of one operation."""
        target = self.network.tensors[operation.output]
        if isinstance(operation, QuantizedConvolution):
            value = self.convolution(operation, target)
        else:
            value = self.window(operation, target)
        if operation.residual is not None:
            residual = self.reshape(f"{operation.name}_residual", self.quantized[operation.residual], target.shape)
            total = self.new_tensor(f"{operation.name}_total", target.shape)
            value = self.node("Add", [value, residual], total, f"{operation.name}_add")
        value = self.activation(operation, value, target)
        if operation.function is not None:
            value = self.function(operation.name, operation.function, value, target)
        is_named = not (isinstance(operation, QuantizedWindow) and is_copy(operation))
        self.quantize(f"{operation.name}_quant" if is_named else operation.name, value, operation.output, target)
        self.quantized[operation.output] = operation.output

    def convolution(self, operation: QuantizedConvolution, target: QuantizedTensor) -> str:
        """Adds Conv, or Gemm if the output is a vector; returns the sums."""
        is_product = len(target.shape) == 2
        flat = (len(operation.weights), -1) if is_product else operation.weights.shape
        weights = self.weights(operation, operation.weights.reshape(flat))
        bias = self.constant(f"{operation.name}_bias", operation.bias)
        sums = self.new_tensor(f"{operation.name}_sums", target.shape)
        source = self.quantized[operation.input]
        if is_product:
            source = self.flatten(operation.name, source)
            return self.node("Gemm", [source, weights, bias], sums, operation.name, transB=1)
        source = self.reshape(f"{operation.name}_input", source, (1, *map_shape(self.shapes[source])))
        return self.node(
            "Conv",
            [source, weights, bias],
            sums,
            operation.name,
            kernel_shape=operation.weights.shape[2:],
            strides=operation.stride,
            pads=operation.padding,
            dilations=operation.dilation,
            group=operation.groups,
        )

    def weights(self, operation: QuantizedConvolution, integers: np.ndarray) -> str:
        """Adds the Quant node of the weights; what it quantises is exact already."""
        name = f"{operation.name}_weights"
        scales = operation.weight_scales.reshape(-1, *[1] * (integers.ndim - 1))
        inputs = [
            self.constant(f"{name}_float", integers * scales),
            self.constant(f"{name}_scale", scales),
            self.constant(f"{name}_zero_point", 0),
            self.constant(f"{name}_bits", operation.weight_depth),
        ]
        target = self.new_tensor(name, integers.shape)
        narrow = int(integers.min() > -1 << operation.weight_depth - 1)
        return self.node(QUANT, inputs, target, f"{name}_quant", signed=1, narrow=narrow, rounding_mode=ROUNDING_MODE)

    def window(self, operation: QuantizedWindow, target: QuantizedTensor) -> str:
        """Adds MaxPool or AveragePool; returns the result, which is the operand itself for a copy."""
        source = self.quantized[operation.input]
        if is_copy(operation):
            return self.reshape(f"{operation.name}_input", source, target.shape)
        if operation.repeat != (1, 1):
            return self.resize(operation, target)
        if min(operation.padding) < 0:
            return self.crop(operation, target)
        op, extra = ("MaxPool", {}) if operation.reduction == "max" else ("AveragePool", {"count_include_pad": 1})
        sums = self.new_tensor(f"{operation.name}_sums", (1, *map_shape(target.shape)))
        self.node(
            op,
            [source],
            sums,
            operation.name,
            kernel_shape=operation.kernel,
            strides=operation.stride,
            pads=operation.padding,
            **extra,
        )
        return self.reshape(f"{operation.name}_vector", sums, target.shape)

    def resize(self, operation: QuantizedWindow, target: QuantizedTensor) -> str:
        """Adds Resize."""
        name = operation.name
        inputs = [
            self.quantized[operation.input],
            self.constant(f"{name}_region", []),
            self.constant(f"{name}_scales", [1, 1, *operation.repeat]),
        ]
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.node("Resize", inputs, self.new_tensor(f"{name}_sums", target.shape), name, **modes)

    def crop(self, operation: QuantizedWindow, target: QuantizedTensor) -> str:
        """Adds the Slice of rows and columns."""
        source = self.quantized[operation.input]
        sums = self.new_tensor(f"{operation.name}_sums", target.shape)
        starts = [-each for each in operation.padding[:2]]
        stops = [size + each for size, each in zip(self.shapes[source][2:], operation.padding[2:], strict=True)]
        return self.slice(operation.name, source, sums, starts, stops, [2, 3], list(operation.stride))

    def activation(self, operation: QuantizedOperation, value: str, target: QuantizedTensor) -> str:
        """Adds Relu or Clip where there is an activation."""
        if operation.activation == NO_ACTIVATION:
            return value
        limited = self.new_tensor(f"{operation.name}_limited", target.shape)
        name = f"{operation.name}_activation"
        if operation.activation == _RELU:
            return self.node("Relu", [value], limited, name)
        limits = [
            self.constant(f"{name}_{end}", limit)
            for end, limit in zip(("low", "high"), operation.activation, strict=True)
        ]
        return self.node("Clip", [value, *limits], limited, name)

    def function(self, name: str, quantized: QuantizedFunction, value: str, target: QuantizedTensor) -> str:
        """Adds the Quant node of a function's operand, and its nodes with names of their own."""
        operand = self.new_tensor(f"{name}_operand", target.shape)
        function = quantized.function
        self.quantize(
            f"{name}_operand_quant",
            value,
            operand,
            QuantizedTensor(target.shape, quantized.operand_scale, {}, TableEntry.OPERAND_BITS, True),
        )
        names = {function.VARIABLE: operand}
        names |= {
            old: self.constant(f"{name}_{old}", constant, constant.dtype.type)
            for old, constant in function.constants.items()
        }
        for node in function.nodes:
            names[node.output] = self.new_tensor(f"{name}_{node.output}", target.shape)
            inputs = tuple(names.get(old, old) for old in node.inputs)
            renamed = Node(f"{name}_{node.name}", node.op, inputs, (names[node.output],), node.attributes)
            self.nodes.append(make_onnx_node(renamed))
        return names[function.nodes[-1].output]

    def flatten(self, name: str, source: str) -> str:
        """The vector (1, F) of a tensor."""
        shape = self.shapes[source]
        if len(shape) == 2:
            return source
        target = self.new_tensor(f"{name}_flat", (1, int(np.prod(shape))))
        return self.node("Flatten", [source], target, f"{name}_flatten", axis=1)

    def reshape(self, name: str, source: str, shape: Shape) -> str:
        """The tensor with a shape, which it may have already."""
        if self.shapes[source] == shape:
            return source
        target = self.new_tensor(name, shape)
        shape_name = self.constant(f"{name}_shape", shape, np.int64)
        return self.node("Reshape", [source, shape_name], target, f"{name}_reshape")


def is_copy(operation: QuantizedWindow) -> bool:
    """Whether a window changes nothing but scale, residual operand and activation."""
    sizes = (operation.kernel, operation.stride, operation.padding, operation.divisor, operation.repeat)
    return sizes == ((1, 1), (1, 1), (0, 0, 0, 0), 1, (1, 1))
