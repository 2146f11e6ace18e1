"""Small adaptive networks, and their runs on the models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx_networks import OnnxBuilder
from random_networks import random_values

from tessera.compiler import LayerDepths, calibrate, import_onnx, prepare, quantize
from tessera.compiler.adaptive import AdaptiveNetwork, AdaptiveProgram, evaluate_adaptive
from tessera.compiler.precision import DepthRange
from tessera.sim.segments import follow
from tessera.sim.stream import StreamModel

ALL_DEPTHS = (4, 6, 8, 16)


def adaptive_network(
    net: OnnxBuilder,
    *outputs: str,
    depths: Sequence[int] = ALL_DEPTHS,
    weight_depth: int = 4,
    fixed: dict[str, int] | None = None,
    ranges: Mapping[str, DepthRange] | None = None,
) -> AdaptiveNetwork:
    """A float network, calibrated with random data; ``fixed`` has depths of inputs and outputs by their layers."""
    with tempfile.TemporaryDirectory() as folder:
        graph = prepare(import_onnx(net.save(Path(folder) / "network.onnx", *outputs)))
    rng = np.random.default_rng(0)
    data = {name: rng.normal(size=(6, *graph.shapes[name][1:])).astype(np.float32) for name in graph.inputs}
    overrides = {name: LayerDepths(depth) for name, depth in (fixed or {}).items()}
    found = calibrate(graph, data, adaptive=depths)
    quantized = quantize(graph, found, max(depths), weight_depth, overrides, adaptive=depths, depth_ranges=ranges)
    return AdaptiveNetwork.of(quantized)


def separable_network(rng: np.random.Generator, side: int = 8) -> tuple[OnnxBuilder, str]:
    """Depthwise and pointwise convolutions by turns, pooling, and a classifier."""
    channels = 8 * int(rng.integers(1, 4))
    net = OnnxBuilder(rng, (1, 3, side, side))
    x = net.node("Relu", net.conv("x", 3, channels, strides=[2, 2], pads=[1, 1, 1, 1]))
    for _ in range(int(rng.integers(1, 3))):
        x = net.node("Relu", net.conv(x, 1, channels, pads=[1, 1, 1, 1], group=channels))
        wider = 8 * int(rng.integers(1, 5))
        x, channels = net.node("Relu", net.conv(x, channels, wider, (1, 1))), wider
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net, net.gemm(x, channels, 5)


def uneven_network(rng: np.random.Generator) -> tuple[OnnxBuilder, str]:
    """Residual additions of operands of different magnitude, some with limits far below them, so that scales meet what
    the machine can express; the last one leaves the NPU."""
    net = OnnxBuilder(rng, (1, 3, 4, 4))
    x = net.conv("x", 3, 4)
    for _ in range(int(rng.integers(1, 4))):
        gain = 10.0 ** rng.uniform(-4.5, 4.5)
        weights, bias = (net.constant(gain * rng.normal(size=shape)) for shape in ((4, 4, 1, 1), (4,)))
        branch = net.node("Conv", x, weights, bias)
        x = net.node("Add", *((x, branch) if rng.integers(2) else (branch, x)))
        kind = ("Clip", "Relu", "HardSwish", "")[rng.integers(4)]
        limits = [net.constant(value) for value in (0.0, 10.0 ** rng.uniform(-3, 1))] if kind == "Clip" else []
        x = net.node(kind, x, *limits) if kind else x
    return net, x


def joined_network(channels: Sequence[int], side: int = 6, *, returned: bool) -> tuple[OnnxBuilder, list[str]]:
    """Convolutions whose results are joined; one of them may be returned too, and a slice is read again."""
    net = OnnxBuilder(np.random.default_rng(0), (1, 3, side, side))
    parts = [net.conv("x", 3, count, (1, 1)) for count in channels]
    whole = net.node("Concat", *parts, axis=1)
    limits = [net.constant([value], np.int64) for value in (channels[0], channels[0] + channels[1], 1)]
    part = net.node("Slice", whole, *limits)
    return net, [*parts[1 : 1 + returned], net.conv(whole, sum(channels), 5), net.conv(part, channels[1], 4, (1, 1))]


def random_trace(rng: Any, network: AdaptiveNetwork) -> dict[str, int]:
    """A depth for each layer."""
    variants = {layer: network.variants(layer) for layer in network.layers}
    return {layer: depths[int(rng.integers(len(depths)))] for layer, depths in variants.items()}


def random_inputs(rng: Any, network: AdaptiveNetwork) -> dict[str, np.ndarray]:
    """Integers for every input, at the depth at which it is stored."""
    return {name: random_values(rng, network.stored.tensors[name]) for name in network.stored.inputs}


def assert_agree(program: AdaptiveProgram, inputs: dict[str, np.ndarray], trace: dict[str, int]) -> None:
    """Golden model = stream model = stream model of the same run without choices."""
    golden = evaluate_adaptive(program.network, inputs, trace)
    model = StreamModel(program.config)
    runs = {
        "segments": model.run(program, inputs, follow(program.choices(trace))),
        "linear": model.run(program.linear(trace), inputs),
    }
    for kind, outputs in runs.items():
        for name, values in outputs.items():
            assert np.array_equal(values, golden[name]), f"{kind}: {name} differs with the depths {trace}"
