"""Small float ONNX networks for the compiler's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.reference
import onnx.shape_inference

OPSET = 17


class OnnxBuilder:
    """Builds an ONNX network node by node; every method returns the name of the tensor that it adds.

    Parameters
    ----------
    rng
        Source of the weights.
    shape
        Shape of the input ``x``.
    opset
        Version of the operators.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...] = (1, 3, 8, 8), opset: int = OPSET) -> None:
        self.rng = rng
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)]

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Any node."""
        name = f"{op.lower()}{len(self.nodes)}"
        names = [name + "_out"] + [f"{name}_out{i}" for i in range(1, outputs)]
        self.nodes.append(onnx.helper.make_node(op, inputs, names, name=name, **attributes))
        return names[0]

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """A constant."""
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def random(self, *shape: int) -> str:
        """A constant of normally distributed numbers."""
        return self.constant(self.rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:]))))

    def conv(self, x: str, channels: int, filters: int, kernel: tuple[int, int] = (3, 3), **attributes: Any) -> str:
        """A convolution with bias."""
        return self.node("Conv", x, self.random(filters, channels, *kernel), self.random(filters), **attributes)

    def batch_norm(self, x: str, channels: int, **attributes: Any) -> str:
        """A batch normalisation with random statistics."""
        gamma, beta, mean = (self.random(channels) for _ in range(3))
        variance = self.constant(self.rng.uniform(0.5, 2, channels))
        return self.node("BatchNormalization", x, gamma, beta, mean, variance, **attributes)

    def gemm(self, x: str, features: int, units: int, **attributes: Any) -> str:
        """A fully connected layer."""
        return self.node("Gemm", x, self.random(units, features), self.random(units), transB=1, **attributes)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The network whose outputs are these tensors."""
        untyped = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
        values = [onnx.helper.make_value_info(name, untyped) for name in outputs]
        constants = [onnx.numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = onnx.helper.make_graph(self.nodes, "network", self.inputs, values, constants)
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        opsets += [onnx.helper.make_opsetid(node.domain, 1) for node in self.nodes if node.domain]
        return with_output_shapes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8))

    def save(self, path: Path, *outputs: str) -> Path:
        """Writes the network to a file."""
        onnx.save(self.model(*outputs), path)
        return path


def with_output_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with shapes at its outputs, which the format asks for; an unknown one is a vector."""
    inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.output}
    for value in model.graph.output:
        value.CopyFrom(inferred[value.name])
        if not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.dim.add(dim_param="unknown")
    return model


def reference(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a network for each sample of ``inputs``, by ONNX's own reference implementation."""
    evaluator = onnx.reference.ReferenceEvaluator(str(path))
    samples = len(next(iter(inputs.values())))
    results = [
        evaluator.run(None, {name: value[sample : sample + 1] for name, value in inputs.items()})
        for sample in range(samples)
    ]
    return [np.concatenate(column) for column in zip(*results, strict=True)]


def residual_network(rng: np.random.Generator) -> tuple[OnnxBuilder, str]:
    """A network with every structure that the passes know; returns the builder and the output's name."""
    net = OnnxBuilder(rng)
    stem = net.node("Relu", net.batch_norm(net.conv("x", 3, 6, pads=[1, 1, 1, 1]), 6))
    inner = net.node("Relu", net.conv(stem, 6, 6, pads=[1, 1, 1, 1]))
    left = net.batch_norm(net.conv(inner, 6, 6, pads=[1, 1, 1, 1]), 6)
    block = net.node("Relu", net.node("Add", left, stem))
    pooled = net.node("MaxPool", block, kernel_shape=[2, 2], strides=[2, 2])
    down = net.conv(pooled, 6, 8, pads=[0, 0, 1, 1], strides=[2, 2])
    shortcut = net.conv(pooled, 6, 8, kernel=(1, 1), strides=[2, 2])
    six = net.constant(6.0)
    joined = net.node("Clip", net.node("Add", down, shortcut), net.constant(0.0), six)
    mean = net.node("Flatten", net.node("GlobalAveragePool", joined))
    return net, net.node("Softmax", net.gemm(mean, 8, 5))


def random_network(rng: np.random.Generator) -> tuple[OnnxBuilder, str]:
    """A random chain of convolutions, pooling, activations and residual additions."""
    channels, side = int(rng.integers(1, 5)), int(rng.integers(4, 10))
    net = OnnxBuilder(rng, (1, channels, side, side))
    x = "x"
    for _ in range(int(rng.integers(2, 6))):
        choice = rng.integers(0, 6)
        if choice <= 2:
            filters, kernel = int(rng.integers(1, 9)), tuple(rng.integers(1, min(4, side + 1), 2).tolist())
            mode = ["SAME_UPPER", "SAME_LOWER", "VALID"][rng.integers(0, 3)]
            stride = int(rng.integers(1, 3))
            x = net.conv(x, channels, filters, kernel, strides=[stride, stride], auto_pad=mode)
            longest = side - min(kernel) + 1 if mode == "VALID" else side
            channels, side = filters, -(-longest // stride)
            if kernel[0] != kernel[1] and mode == "VALID":
                break
            if choice == 1:
                x = net.batch_norm(x, channels)
        elif choice == 3:
            x = net.node("Relu", x)
        elif choice == 4:
            other = net.conv(x, channels, channels, (1, 1))
            x = net.node("Add", *([x, other] if rng.integers(0, 2) else [other, x]))
        elif side >= 3:
            op = ["MaxPool", "AveragePool"][rng.integers(0, 2)]
            x = net.node(op, x, kernel_shape=[2, 3], strides=[1, 2])
            break
    if rng.integers(0, 2):
        x = net.node("Flatten", net.node("GlobalAveragePool", x))
        x = net.gemm(x, channels, 4)
    return net, net.conv(x, channels, 3, (1, 1)) if x == "x" else x
