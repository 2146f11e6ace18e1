"""Every operator of the compiler's table, end to end: float ONNX file, quantised network, models, QONNX file, RTL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from agreement import assert_programs_agree
from onnx_networks import OnnxBuilder, reference

from tessera.compiler import calibrate, import_onnx, prepare, quantize, read_qonnx, to_integer, write_qonnx
from tessera.compiler.functions import NONLINEAR
from tessera.compiler.graph import Placement
from tessera.compiler.lowering import lower
from tessera.compiler.operators import OPERATORS
from tessera.compiler.quantized import QuantizedNetwork, equal_quantized
from tessera.compiler.quantized_execution import execute_quantized, host_before
from tessera.compiler.stream_checker import check_program
from tessera.firmware.cosimulation import Options
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.stream import StreamModel

TINY = NpuConfig.preset("tiny")
SHAPE = (1, 3, 6, 8)
SAMPLES = 8
LEAST_DECIBELS = 24
"""Least ratio of the float result to the error of 8 bits."""

Build = Callable[[OnnxBuilder], str | list[str]]


def _integers(net: OnnxBuilder, *values: int) -> str:
    return net.constant(values, np.int64)


def _pool(op: str, **attributes: object) -> Build:
    return lambda net: net.node(op, net.conv("x", 3, 10), **attributes)


def _unary(op: str, **attributes: object) -> Build:
    return lambda net: net.node(op, net.conv("x", 3, 10), **attributes)


def _with_constant(op: str, value: object, *, first: bool = False) -> Build:
    def build(net: OnnxBuilder) -> str:
        operands = [net.node("Sigmoid", net.conv("x", 3, 4)), net.constant(value)]
        return net.node(op, *(operands[::-1] if first else operands))

    return build


def _between_maps(op: str) -> Build:
    return lambda net: net.node(op, net.conv("x", 3, 10), net.node("Relu", net.conv("x", 3, 10)))


def _reshape(op: str) -> Build:
    """A map of one pixel as a vector, and back."""

    def build(net: OnnxBuilder) -> str:
        pooled = net.node("GlobalAveragePool", net.conv("x", 3, 10))
        flat = {
            "Flatten": lambda: net.node("Flatten", pooled),
            "Reshape": lambda: net.node("Reshape", pooled, _integers(net, 1, 10)),
            "Squeeze": lambda: net.node("Squeeze", pooled, _integers(net, 2, 3)),
            "Unsqueeze": lambda: net.node("Unsqueeze", net.node("Flatten", pooled), _integers(net, 2, 3)),
        }[op]()
        return net.conv(flat, 10, 5, (1, 1)) if op == "Unsqueeze" else net.gemm(flat, 10, 5)

    return build


def _split(net: OnnxBuilder, *sizes: int) -> list[str]:
    net.node("Split", net.conv("x", 3, sum(sizes)), _integers(net, *sizes), outputs=len(sizes), axis=1)
    return list(net.nodes[-1].output)


def _aligned_split(net: OnnxBuilder) -> str:
    first, second = _split(net, 8, 16)
    return net.node("Concat", net.conv(second, 16, 8, (1, 1)), first, axis=1)


def _concat(*channels: int) -> Build:
    def build(net: OnnxBuilder) -> str:
        parts = [net.node("Tanh", net.conv("x", 3, count)) for count in channels]
        return net.conv(net.node("Concat", *parts, axis=1), sum(channels), 6)

    return build


def _concat_in_two_places(net: OnnxBuilder) -> str:
    first, second = net.conv("x", 3, 8, (1, 1)), net.conv("x", 3, 8, (1, 1))
    inner = net.node("Concat", first, second, axis=1)
    return net.node("Concat", second, inner, "x", second, axis=1)


def _slice(starts: list[int], stops: list[int], axes: list[int], steps: list[int]) -> Build:
    def build(net: OnnxBuilder) -> str:
        operands = [_integers(net, *values) for values in (starts, stops, axes, steps)]
        return net.node("Slice", net.conv("x", 3, 12, (1, 1)), *operands)

    return build


def _resize(*scales: float, **attributes: object) -> Build:
    def build(net: OnnxBuilder) -> str:
        operand = net.node("Relu", net.conv("x", 3, 10))
        return net.node("Resize", operand, "", net.constant(scales), mode="nearest", **attributes)

    return build


def _gelu(net: OnnxBuilder) -> str:
    """GELU as older exporters write it."""
    x = net.conv("x", 3, 10)
    erf = net.node("Erf", net.node("Div", x, net.constant(np.sqrt(2))))
    return net.node("Mul", net.node("Mul", x, net.node("Add", erf, net.constant(1.0))), net.constant(0.5))


def _gelu_tanh(net: OnnxBuilder) -> str:
    x = net.conv("x", 3, 10)
    cube = net.node("Mul", net.node("Pow", x, net.constant(3.0)), net.constant(0.044715))
    inner = net.node("Mul", net.node("Add", x, cube), net.constant(np.sqrt(2 / np.pi)))
    gate = net.node("Mul", net.node("Add", net.node("Tanh", inner), net.constant(1.0)), net.constant(0.5))
    return net.node("Mul", x, gate)


def _hard_swish(net: OnnxBuilder) -> str:
    x = net.conv("x", 3, 10)
    gate = net.node("Clip", net.node("Add", x, net.constant(3.0)), net.constant(0.0), net.constant(6.0))
    return net.node("Div", net.node("Mul", x, gate), net.constant(6.0))


def _silu_and_residual(net: OnnxBuilder) -> list[str]:
    """A function behind a residual sum, and one that is itself the residual; two outputs."""
    left, right = net.conv("x", 3, 10), net.conv("x", 3, 10)
    total = net.node("Add", left, net.node("Relu", right))
    gated = net.node("Mul", total, net.node("Sigmoid", total))
    return [net.node("Add", gated, net.conv("x", 3, 10)), net.node("Sub", gated, net.conv("x", 3, 10))]


def _matmul(net: OnnxBuilder) -> str:
    flat = net.node("Flatten", net.node("Relu", net.conv("x", 3, 4)))
    return net.node("Add", net.random(5), net.node("MatMul", flat, net.random(96, 5)))


def _gemm(net: OnnxBuilder) -> str:
    flat = net.node("Flatten", net.node("MaxPool", net.conv("x", 3, 4), kernel_shape=[2, 2]))
    return net.node("Gemm", flat, net.random(60, 5), net.random(1, 5), alpha=0.5, beta=2.0)


def _perceptron(net: OnnxBuilder) -> str:
    """Matrix products of a sequence with the channels last, a residual sum and GELU between."""
    rows = net.node("Transpose", net.conv("x", 3, 12), perm=[0, 2, 3, 1])
    hidden = net.node("Gelu", net.node("Add", net.node("MatMul", rows, net.random(12, 20)), net.random(20)))
    total = net.node("Add", rows, net.node("MatMul", hidden, net.random(20, 12)))
    return net.node("Transpose", total, perm=[0, 3, 1, 2])


def _sequence(net: OnnxBuilder) -> str:
    """1-D convolution and pool, then a matrix product of what they make."""
    rows = net.node("Reshape", "x", _integers(net, 1, 3, 48))
    hidden = net.node("Relu", net.node("Conv", rows, net.random(8, 3, 5), net.random(8), pads=[2, 2], strides=[2]))
    pooled = net.node("MaxPool", hidden, kernel_shape=[2], strides=[2])
    return net.node("MatMul", net.node("Transpose", pooled, perm=[0, 2, 1]), net.random(8, 6))


def _unet(net: OnnxBuilder) -> str:
    outer = net.node("Relu", net.conv("x", 3, 8, pads=[1] * 4))
    inner = net.node("MaxPool", outer, kernel_shape=[2, 2], strides=[2, 2])
    inner = net.node("HardSwish", net.conv(inner, 8, 16, pads=[1] * 4))
    large = net.node("Resize", inner, "", net.constant([1, 1, 2, 2]), mode="nearest")
    return net.conv(net.node("Concat", outer, large, axis=1), 24, 4)


CASES: dict[str, Build] = {
    "Conv": lambda net: net.conv("x", 3, 10, pads=[0, 1, 2, 1], dilations=[2, 1], strides=[1, 2]),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMul of channels last": _perceptron,
    "MatMul and Conv of a sequence": _sequence,
    "BatchNormalization": lambda net: net.batch_norm(net.node("Relu", net.conv("x", 3, 10)), 10),
    "Relu": _unary("Relu"),
    "Clip": lambda net: net.node("Clip", net.conv("x", 3, 10), net.constant(-0.5), net.constant(1.5)),
    "Min": _with_constant("Min", 0.6),
    "Max": _with_constant("Max", 0.4, first=True),
    "Add": _between_maps("Add"),
    "Sub": _between_maps("Sub"),
    "Add of a constant": _with_constant("Add", np.arange(4).reshape(4, 1, 1) / 4),
    "Sub from a constant": _with_constant("Sub", 1.0, first=True),
    "Mul": _with_constant("Mul", np.arange(1, 5).reshape(4, 1, 1) / -2),
    "Div": _with_constant("Div", 3.0),
    "Neg": _unary("Neg"),
    **{name: _unary(name) for name in NONLINEAR},
    "Pow": lambda net: net.node("Pow", net.conv("x", 3, 10), net.constant(2.0)),
    "PRelu": lambda net: net.node("PRelu", net.conv("x", 3, 10), net.constant([[[0.25]]])),
    "MaxPool": _pool("MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "AveragePool": _pool("AveragePool", kernel_shape=[2, 3], pads=[1, 1, 0, 1], count_include_pad=1),
    "GlobalAveragePool": _pool("GlobalAveragePool"),
    "GlobalMaxPool": _pool("GlobalMaxPool"),
    "ReduceMean": lambda net: net.node("ReduceMean", net.conv("x", 3, 10), _integers(net, 2, 3)),
    "Concat": _concat(8, 16, 5),
    "Concat within words": _concat(5, 3, 9),
    "Concat in two places": _concat_in_two_places,
    "Split": _aligned_split,
    "Split within words": lambda net: _split(net, 3, 4, 6),
    "Slice": _slice([4, -5], [9, 100], [1, 2], [1, 1]),
    "Slice with steps": _slice([1, 0], [6, 8], [2, 3], [2, 3]),
    "Resize": _resize(1, 1, 2, 3, coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "Resize of columns": _resize(1, 1, 1, 2),
    **{name: _reshape(name) for name in ("Flatten", "Reshape", "Squeeze", "Unsqueeze")},
    "Transpose": lambda net: net.conv(
        net.node("Transpose", net.node("Transpose", net.conv("x", 3, 10), perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]), 10, 4
    ),
    "Pad": lambda net: net.conv(net.node("Pad", net.conv("x", 3, 10), _integers(net, 0, 0, 1, 2, 0, 0, 0, 1)), 10, 4),
    "Identity": lambda net: net.node("Identity", net.conv("x", 3, 10)),
    "Dropout": lambda net: net.node("Dropout", net.conv("x", 3, 10)),
    "Constant": lambda net: net.node("Add", net.conv("x", 3, 10), net.node("Constant", value_float=0.5)),
    "GELU of many nodes": _gelu,
    "GELU with tanh": _gelu_tanh,
    "hard swish of many nodes": _hard_swish,
    "SiLU behind a sum": _silu_and_residual,
    "U-Net": _unet,
}
"""A network for each operator of the table, and for what several make together."""

_TO_THE_HOST = {"MatMul and Conv of a sequence"}
"""Networks whose input or output the host rearranges."""


def _quantized(tmp_path: Path, build: Build, depths: tuple[int, int] = (8, 8)) -> tuple[QuantizedNetwork, list, dict]:
    """The quantised network of a case, the float results, and the data."""
    net = OnnxBuilder(np.random.default_rng(3), SHAPE, opset=20)
    outputs = build(net)
    path = net.save(tmp_path / "network.onnx", *([outputs] if isinstance(outputs, str) else outputs))
    data = {"x": np.random.default_rng(4).normal(size=(SAMPLES, *SHAPE[1:])).astype(np.float32)}
    graph = prepare(import_onnx(path))
    return quantize(graph, calibrate(graph, data), *depths), reference(path, data), data


def _decibels(wanted: np.ndarray, got: np.ndarray) -> float:
    error = np.square(got.astype(np.float64) - wanted).mean()
    return float(10 * np.log10(np.square(wanted.astype(np.float64)).mean() / max(error, 1e-30)))


def test_every_operator_has_a_case() -> None:
    """The table of operators is the list of what is tested."""
    assert set(OPERATORS) <= set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    """Runs on the NPU, near the float result; the file says all, and the stream computes the same integers."""
    network, wanted, data = _quantized(tmp_path, CASES[name])
    on_host = [node.op for node in (*network.host_before, *network.host_after)]
    assert name in _TO_THE_HOST or set(on_host) <= {"Reshape"}
    for output, values in zip(network.outputs, wanted, strict=True):
        got = execute_quantized(network, data)[output].reshape(values.shape)
        assert _decibels(values, got) > LEAST_DECIBELS
    write_qonnx(network, tmp_path / "quantized.onnx")
    assert equal_quantized(network, read_qonnx(tmp_path / "quantized.onnx"))
    integer_network = to_integer(network)
    program = lower(integer_network, TINY)
    check_program(program)
    integers = host_before(network, data).integers
    golden = evaluate(integer_network, integers)
    results = StreamModel(TINY).run(program, {key: value[0] for key, value in integers.items()})
    for output, values in results.items():
        assert np.array_equal(values, golden[output][0]), output


@pytest.mark.cosim
@pytest.mark.parametrize(
    "depths",
    [
        pytest.param((8, 8), id="w8a8"),
        pytest.param((16, 8), id="w8a16"),
        pytest.param((4, 4), id="w4a4", marks=pytest.mark.slow),
    ],
)
def test_operators_on_the_rtl(depths: tuple[int, int], tmp_path: Path) -> None:
    """Golden = stream model = RTL, every output integer."""
    cases = {}
    for name, build in CASES.items():
        network, _, data = _quantized(tmp_path, build, depths)
        integer_network = to_integer(network)
        integers = {key: value[:1] for key, value in host_before(network, data).integers.items()}
        cases[name] = integer_network, lower(integer_network, TINY), integers
    assert_programs_agree(TINY, cases, Options())


def test_near_the_result_of_onnxruntime(tmp_path: Path) -> None:
    """Another executor of the float networks gives the same as ONNX's reference, on which the other tests stand."""
    onnxruntime = pytest.importorskip("onnxruntime")
    for name, build in CASES.items():
        network, _, data = _quantized(tmp_path, build)
        session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"))
        results = [session.run(None, {"x": data["x"][i : i + 1]}) for i in range(SAMPLES)]
        got = execute_quantized(network, data)
        for index, output in enumerate(network.outputs):
            wanted = np.concatenate([each[index] for each in results])
            assert _decibels(wanted, got[output].reshape(wanted.shape)) > LEAST_DECIBELS, name


def test_a_part_of_an_operator_on_the_host(tmp_path: Path) -> None:
    """What stands behind an operator of the host is on the host too, whatever it could have been."""
    net = OnnxBuilder(np.random.default_rng(3), SHAPE, opset=20)
    wave = net.node("Sin", net.conv("x", 3, 10))
    path = net.save(tmp_path / "network.onnx", net.node("Mul", wave, net.node("Sigmoid", wave)))
    graph = prepare(import_onnx(path))
    assert [node.op for node in graph.placed(Placement.HOST_AFTER)] == ["Sin", "Sigmoid", "Mul"]
