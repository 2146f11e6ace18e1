"""Networks quantised by other tools, or as other tools would write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx_networks import OnnxBuilder

from tessera.compiler.qonnx_format import QUANT_DOMAIN


class ForeignBuilder(OnnxBuilder):
    """Builds networks with the nodes of QDQ and QONNX."""

    def qdq(self, x: str, scale: float, zero_point: int = 0, dtype: Any = np.int8) -> str:
        """QuantizeLinear and DequantizeLinear."""
        operands = self.constant(scale), self.constant(zero_point, dtype)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *operands), *operands)

    def dequantized(self, integers: np.ndarray, scale: Any, zero_point: Any = 0, axis: int = 0) -> str:
        """DequantizeLinear of constant integers."""
        operands = self.constant(scale), self.constant(np.broadcast_to(zero_point, np.shape(scale)), integers.dtype)
        return self.node("DequantizeLinear", self.constant(integers, integers.dtype), *operands, axis=axis)

    def quant(self, x: str, scale: Any, bits: int, signed: int = 1, narrow: int = 0, mode: str = "ROUND") -> str:
        """QONNX's Quant."""
        operands = self.constant(scale), self.constant(0.0), self.constant(float(bits))
        attributes = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
        return self.node("Quant", x, *operands, domain=QUANT_DOMAIN, **attributes)

    def integers(self, *shape: int, bits: int = 8, dtype: Any = np.int8) -> np.ndarray:
        """Random integers of ``bits`` bits, the lowest one included."""
        top = 1 << bits - 1
        return self.rng.integers(-top, top, shape).astype(dtype)


class Samples:
    """Calibration data as onnxruntime's quantiser reads them, sample by sample."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = iter([{name: value[np.newaxis]} for value in values])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample."""
        return next(self.left, None)


def quantize_with_onnxruntime(source: Path, target: Path, data: dict[str, np.ndarray], **options: Any) -> Path:
    """Writes the QDQ form of a float network; the options are those of onnxruntime's quantiser."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    [(name, values)] = data.items()
    quantize_static(source, target, Samples(name, values), quant_format=QuantFormat.QDQ, **options)
    return target


def run_onnxruntime(path: Path, data: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of a network for each sample."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    [(name, values)] = data.items()
    return np.concatenate([session.run(None, {name: value[np.newaxis]})[0] for value in values])


def small_network(rng: np.random.Generator) -> tuple[OnnxBuilder, str]:
    """Operators that onnxruntime quantises, and a residual sum, ending with scores."""
    net = OnnxBuilder(rng)
    stem = net.node("Relu", net.conv("x", 3, 8, pads=[1, 1, 1, 1]))
    depthwise = net.node("Conv", stem, net.random(8, 1, 3, 3), net.random(8), pads=[1, 1, 1, 1], group=8)
    clipped = net.node("Clip", depthwise, net.constant(0.0), net.constant(6.0))
    block = net.node("Relu", net.node("Add", net.conv(clipped, 8, 8, (1, 1)), stem))
    pooled = net.node("MaxPool", block, kernel_shape=[2, 2], strides=[2, 2])
    joined = net.node("Concat", pooled, net.conv(pooled, 8, 4, (1, 1)), axis=1)
    upsampled = net.node(
        "Resize",
        joined,
        "",
        net.constant([1.0, 1.0, 2.0, 2.0]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    average = net.node("AveragePool", upsampled, kernel_shape=[2, 2], strides=[2, 2])
    mean = net.node("Flatten", net.node("GlobalAveragePool", average))
    hidden = net.node("Add", net.node("MatMul", mean, net.random(12, 7)), net.random(7))
    return net, net.gemm(hidden, 7, 5)


def _split(net: OnnxBuilder) -> str:
    """Channels divided and joined again."""
    first = net.node("Split", net.conv("x", 3, 8), net.constant([4, 4], np.int64), outputs=2, axis=1)
    second = net.nodes[-1].output[1]
    return net.node("GlobalMaxPool", net.node("Concat", net.node("Relu", first), second, axis=1))


def _mean(net: OnnxBuilder) -> str:
    """A mean that leaves a vector."""
    return net.gemm(net.node("ReduceMean", net.conv("x", 3, 8), axes=[2, 3], keepdims=0), 8, 4)


def _affine(net: OnnxBuilder) -> str:
    """Padding, and constants per channel that no convolution can take in."""
    padded = net.node("Pad", "x", net.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    normalised = net.batch_norm(net.conv(padded, 3, 8), 8)
    return net.node("Sub", net.node("Mul", normalised, net.random(8, 1, 1)), net.conv("x", 3, 8, pads=[1, 1, 1, 1]))


def _crop(net: OnnxBuilder) -> str:
    """Rows and columns cut off before the activation."""
    limits = (net.constant(value, np.int64) for value in ([1, 1], [5, 5], [2, 3]))
    return net.node("Relu", net.node("Slice", net.conv("x", 3, 8), *limits))


def _float_first(net: OnnxBuilder) -> str:
    """Operators before the first tensor that is rounded."""
    return net.conv(net.node("AveragePool", net.node("Relu", "x"), kernel_shape=[2, 2]), 3, 4)


def _channels_last(net: OnnxBuilder) -> str:
    """Transposed by the host before and behind."""
    rows = net.node("Transpose", net.node("Transpose", "x", perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
    return net.node("Transpose", net.node("Relu", net.conv(rows, 3, 8)), perm=[0, 2, 3, 1])


STRUCTURES = {
    "split": _split,
    "mean": _mean,
    "affine": _affine,
    "crop": _crop,
    "float first": _float_first,
    "channels last": _channels_last,
}
"""Networks of one structure each, by name: functions that add them to a builder and return the output."""
