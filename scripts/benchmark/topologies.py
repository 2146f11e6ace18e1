"""Public network topologies with seeded weights, for benchmarks: their cycles do not depend on the weights.

Layers of MobileNetV1: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", arXiv:1704.04861, table 1; the visual wake words network of MLPerf Tiny is its 0.25 x 96 x 96 form.
Layers of ResNet-18: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17

_MOBILENET_V1 = (
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    *[(1, 512)] * 5,
    (2, 1024),
    (1, 1024),
)
"""Stride of the depthwise and width of the pointwise convolution of each block, at width 1."""


def mobilenet_v1(side: int = 96, width: float = 0.25, classes: int = 2, seed: int = 0) -> onnx.ModelProto:
    """MobileNetV1 for RGB images of ``side`` x ``side`` pixels; float32 ONNX, ``input`` (1, 3, side, side)."""
    network = _Network((3, side, side), seed)
    network.convolution(round(32 * width), 3, stride=2)
    for stride, channels in _MOBILENET_V1:
        network.convolution(network.shape[0], 3, stride=stride, groups=network.shape[0])
        network.convolution(round(channels * width), 1)
    network.classifier(classes)
    return network.model(f"mobilenet_v1_{width:.2f}_{side}")


def resnet18(side: int = 224, width: int = 64, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """ResNet-18 for RGB images of ``side`` x ``side`` pixels, batch normalisation folded; float32 ONNX, ``input``
    (1, 3, side, side). ``width`` is the number of channels of the first stage."""
    network = _Network((3, side, side), seed)
    network.convolution(width, 7, stride=2, activation="Relu")
    network.max_pool(3, stride=2)
    for stage in range(4):
        network.residual_block(width << stage, stride=2 if stage else 1)
        network.residual_block(width << stage)
    network.classifier(classes)
    return network.model(f"resnet18_{side}")


class _Network:
    """Appends layers one after another.

    Attributes
    ----------
    shape
        (channels, height, width) of the last layer's output.
    """

    def __init__(self, shape: tuple[int, int, int], seed: int):
        self.shape = shape
        self._input = shape
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._last = "input"

    def convolution(
        self, filters: int, kernel: int, stride: int = 1, groups: int = 1, activation: str = "Relu6"
    ) -> None:
        """A convolution with bias and an activation function: "Relu6", "Relu" or "" for none."""
        channels = self.shape[0]
        weights = self._weights(filters, channels // groups, kernel, kernel)
        bias = self._constant(self._rng.normal(0, 0.1, filters))
        self._node("Conv", weights, bias, group=groups, **self._geometry(kernel, stride))
        if activation == "Relu6":
            self._node("Clip", self._constant(np.array(0.0)), self._constant(np.array(6.0)))
        elif activation:
            self._node(activation)
        self.shape = filters, *self.shape[1:]

    def max_pool(self, kernel: int, stride: int) -> None:
        """Max pooling."""
        self._node("MaxPool", **self._geometry(kernel, stride))

    def residual_block(self, filters: int, stride: int = 1) -> None:
        """Two convolutions of 3 x 3, and what goes around them: the input, or a convolution of 1 x 1 of it."""
        source, shape = self._last, self.shape
        self.convolution(filters, 3, stride, activation="Relu")
        self.convolution(filters, 3, activation="")
        inner, shortcut = self._last, source
        if self.shape != shape:
            self._last, self.shape = source, shape
            self.convolution(filters, 1, stride, activation="")
            shortcut = self._last
        self._last = inner
        self._node("Add", shortcut)
        self._node("Relu")

    def classifier(self, classes: int) -> None:
        """Global average pooling, a fully connected layer and softmax."""
        self._node("GlobalAveragePool")
        self._node("Flatten")
        weights = self._weights(classes, self.shape[0])
        self._node("Gemm", weights, self._constant(self._rng.normal(0, 0.1, classes)), transB=1)
        self._node("Softmax")
        self.shape = classes, 1, 1

    def model(self, name: str) -> onnx.ModelProto:
        """The network as an ONNX model."""
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *self._input])]
        outputs = [helper.make_tensor_value_info(self._last, TensorProto.FLOAT, [1, self.shape[0]])]
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        return model

    def _geometry(self, kernel: int, stride: int) -> dict[str, list[int]]:
        """Attributes of a window that is padded as TensorFlow's SAME, more at the bottom and right; sets the size."""
        sizes = self.shape[1:]
        outputs = [-(-size // stride) for size in sizes]
        padding = [max(0, (count - 1) * stride + kernel - size) for count, size in zip(outputs, sizes, strict=True)]
        before = [total // 2 for total in padding]
        after = [total - first for total, first in zip(padding, before, strict=True)]
        self.shape = self.shape[0], outputs[0], outputs[1]
        return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [*before, *after]}

    def _weights(self, filters: int, *shape: int) -> str:
        """He initialisation: keeps the size of the activations from layer to layer."""
        return self._constant(self._rng.normal(0, math.sqrt(2 / math.prod(shape)), (filters, *shape)))

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def _node(self, operator: str, *operands: str, **attributes: object) -> None:
        name = f"{operator.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, [self._last, *operands], [name], name=name, **attributes))
        self._last = name
