"""Known network topologies with seeded random weights: their shapes and operations, not their accuracy.

Scales are chosen by fan-in, so that activations neither die out nor all saturate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tessera.sim.golden.network import (
    CLAMP_RANGE,
    Convolution,
    IntegerNetwork,
    Operation,
    PostProcessing,
    TensorType,
    Window,
    output_map,
)


class TopologyBuilder:
    """Appends operations to a network whose activations have one depth and are never negative unless asked.

    Parameters
    ----------
    shape
        (channels, height, width) of the input ``x``, signed.
    depth, weight_depth
        Bits of all activations and weights.
    seed
        Of the random weights.
    """

    def __init__(self, shape: tuple[int, int, int], depth: int, weight_depth: int, seed: int):
        self.rng = np.random.default_rng(seed)
        self.depth, self.weight_depth = depth, weight_depth
        self.tensors = {"x": TensorType(*shape, depth, True)}
        self.operations: list[Operation] = []

    def network(self, name: str) -> IntegerNetwork:
        """The network so far; the last operation's output is its output."""
        network = IntegerNetwork(name, self.tensors, ("x",), (self.operations[-1].output,), tuple(self.operations))
        network.verify()
        return network

    def convolution(
        self,
        source: str,
        channels: int,
        side: int,
        stride: int = 1,
        *,
        residual: str | None = None,
        linear: bool = False,
        depthwise: bool = False,
    ) -> str:
        """A convolution that keeps the size or halves it, followed by ReLU unless it is linear; returns its output."""
        limit = 1 << self.weight_depth - 1
        inputs = self.tensors[source].channels
        per_group = 1 if depthwise else inputs
        weights = self.rng.integers(-limit, limit, (channels, per_group, side, side)).astype(np.int8)
        name = f"conv{len(self.operations)}"
        before = (side - 1) // 2
        operation = Convolution(
            name,
            source,
            name,
            weights,
            self.weight_depth,
            (stride, stride),
            (before, before, before, before),
            (1, 1),
            0,
            self._post(channels, math.sqrt(weights[0].size) * limit / 3, residual, linear=linear),
            inputs // per_group,
        )
        return self._append(operation, channels, signed=linear)

    def pool(self, source: str, side: int, stride: int, reduction: str, padding: int = 0) -> str:
        """A pooling; returns its output."""
        name = f"pool{len(self.operations)}"
        channels = self.tensors[source].channels
        gain = side * side if reduction == "sum" else 1
        post = self._post(channels, gain, None, linear=True)
        sides = (padding, padding, padding, padding)
        operation = Window(name, source, name, reduction, (side, side), (stride, stride), sides, post)
        return self._append(operation, channels, signed=self.tensors[source].signed)

    def _append(self, operation: Operation, channels: int, *, signed: bool) -> str:
        height, width = output_map(operation, self.tensors[operation.input])
        self.tensors[operation.output] = TensorType(channels, height, width, self.depth, signed)
        self.operations.append(operation)
        return operation.output

    def _post(self, channels: int, gain: float, residual: str | None, *, linear: bool) -> PostProcessing:
        """Divides by about ``gain``, and adds half of the residual operand."""
        shift = 15 + max(0, round(math.log2(gain)))
        multiplier = self.rng.integers(3 << 13, 5 << 13, channels)
        bias = self.rng.integers(-(1 << self.depth), 1 << self.depth, channels)
        limits = CLAMP_RANGE if linear else (0, (1 << self.depth) - 1)
        operand = () if residual is None else (residual, 1 << 14, 15)
        return PostProcessing(bias, multiplier, np.full(channels, shift, np.int64), *limits, *operand)


def resnet18(side: int = 224, depth: int = 8, weight_depth: int = 8, width: int = 64, seed: int = 0) -> IntegerNetwork:
    """ResNet-18 for images of ``side`` x ``side``; ``width`` is the number of channels of the first stage."""
    builder = TopologyBuilder((3, side, side), depth, weight_depth, seed)
    name = builder.convolution("x", width, 7, 2)
    name = builder.pool(name, 3, 2, "max", padding=1)
    for stage in range(4):
        for block in range(2):
            channels, stride = width << stage, 2 if stage and not block else 1
            inner = builder.convolution(name, channels, 3, stride)
            shortcut = name if stride == 1 else builder.convolution(name, channels, 1, stride, linear=True)
            name = builder.convolution(inner, channels, 3, residual=shortcut)
    return _classified(builder, name, "resnet18")


def mobilenet_v2(
    side: int = 224, depth: int = 8, weight_depth: int = 8, width: float = 1.0, seed: int = 0
) -> IntegerNetwork:
    """MobileNetV2 for images of ``side`` x ``side``; ``width`` scales all channels."""

    def scaled(channels: int) -> int:
        return max(8, round(channels * width / 8) * 8)

    builder = TopologyBuilder((3, side, side), depth, weight_depth, seed)
    name = builder.convolution("x", scaled(32), 3, 2)
    for expansion, channels, repeats, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for repeat in range(repeats):
            name = _inverted_residual(builder, name, expansion, scaled(channels), 1 if repeat else first_stride)
    name = builder.convolution(name, scaled(1280), 1)
    return _classified(builder, name, "mobilenet_v2")


def _inverted_residual(builder: TopologyBuilder, source: str, expansion: int, channels: int, stride: int) -> str:
    """Expands, convolves each channel alone, and projects; adds the input where the shape allows."""
    inputs = builder.tensors[source].channels
    name = source if expansion == 1 else builder.convolution(source, expansion * inputs, 1)
    name = builder.convolution(name, expansion * inputs, 3, stride, depthwise=True)
    residual = source if stride == 1 and inputs == channels else None
    return builder.convolution(name, channels, 1, residual=residual, linear=True)


def _classified(builder: TopologyBuilder, source: str, name: str) -> IntegerNetwork:
    """Global pooling and a classifier of 1000 classes."""
    pooled = builder.pool(source, builder.tensors[source].height, 1, "sum")
    builder.convolution(pooled, 1000, 1, linear=True)
    return builder.network(name)


TOPOLOGIES: dict[str, Callable[..., IntegerNetwork]] = {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}
