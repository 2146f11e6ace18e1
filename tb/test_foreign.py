"""Networks quantised elsewhere: the same numbers as in the executor that their tool means them for.

With scales that are powers of two everything is exact, and the integers must be equal. Elsewhere the other executors
round sums in float32, and this machine's multipliers have 16 bits: a value that lies half-way between two steps may
become either, and differences of a step travel on.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.helper
import pytest
from agreement import assert_programs_agree
from foreign_networks import STRUCTURES, ForeignBuilder, quantize_with_onnxruntime, run_onnxruntime, small_network
from onnx_networks import OnnxBuilder, random_network, reference
from typer.testing import CliRunner

from tessera.cli.app import app
from tessera.compiler import (
    CompilerError,
    QuantizedNetwork,
    is_quantized,
    read_qonnx,
    read_quantized,
    to_integer,
    write_qonnx,
)
from tessera.compiler.foreign import ForeignNetwork, read_foreign
from tessera.compiler.foreign.weights import integer_weights, round_weights
from tessera.compiler.lowering import lower
from tessera.compiler.quantized import equal_quantized
from tessera.compiler.quantized_execution import execute_quantized, host_before
from tessera.firmware.cosimulation import Options
from tessera.rtl.config import NpuConfig
from tessera.sim.golden import evaluate
from tessera.sim.stream import StreamModel

TINY = NpuConfig.preset("tiny")
DATA = Path(__file__).resolve().parent / "data"
MODELS = Path(__file__).resolve().parents[1] / "models"


def output_of(network: QuantizedNetwork, data: dict[str, np.ndarray]) -> np.ndarray:
    """The network's output, by the golden model; the stream model must agree on the first sample."""
    integer = to_integer(network)
    first = host_before(network, {name: value[:1] for name, value in data.items()}).integers
    program = lower(integer, TINY)
    stream = StreamModel(TINY).run(program, {name: value[0] for name, value in first.items()})
    golden = evaluate(integer, first)
    for name in integer.outputs:
        assert np.array_equal(stream[name], golden[name][0]), name
    return execute_quantized(network, data)[network.outputs[0]]


def steps_between(network: QuantizedNetwork, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differences of two results in steps of the network's output."""
    scale = network.tensors[network.npu_outputs[0]].scale
    return np.abs(first.astype(np.float64).reshape(-1) - second.astype(np.float64).reshape(-1)) / scale


def assert_survives_writing(found: ForeignNetwork, folder: Path) -> None:
    """Our own form holds what was read, bit by bit."""
    write_qonnx(found.network, folder / "own.onnx")
    again = read_qonnx(folder / "own.onnx")
    assert equal_quantized(found.network, again)


def normal(rng: np.random.Generator, *shape: int) -> dict[str, np.ndarray]:
    """Inputs ``x``."""
    return {"x": rng.normal(size=shape).astype(np.float32)}


# --- QDQ by onnxruntime's quantiser

OPTIONS: dict[str, dict[str, Any]] = {
    "int8": {"activation_type": "QInt8", "weight_type": "QInt8"},
    "symmetric": {
        "activation_type": "QInt8",
        "weight_type": "QInt8",
        "extra_options": {"ActivationSymmetric": True},
    },
    "uint8 per channel": {"activation_type": "QUInt8", "weight_type": "QInt8", "per_channel": True},
    "uint8 weights, reduced": {"activation_type": "QUInt8", "weight_type": "QUInt8", "reduce_range": True},
    "float weights": {
        "activation_type": "QUInt8",
        "weight_type": "QInt8",
        "extra_options": {"AddQDQPairToWeight": True, "WeightSymmetric": False},
    },
    "pair for each reader": {
        "activation_type": "QInt8",
        "weight_type": "QInt8",
        "extra_options": {"DedicatedQDQPair": True, "ActivationSymmetric": True},
    },
    "only weighted": {
        "activation_type": "QUInt8",
        "weight_type": "QInt8",
        "op_types_to_quantize": ["Conv", "Gemm", "MatMul"],
    },
    "int4 weights": {"activation_type": "QInt8", "weight_type": "QInt4", "per_channel": True},
    "int16": {"activation_type": "QInt16", "weight_type": "QInt8", "extra_options": {"ActivationSymmetric": True}},
    "uint16": {"activation_type": "QUInt16", "weight_type": "QInt8"},
}


def quantized(folder: Path, net: OnnxBuilder, output: str, data: dict[str, np.ndarray], name: str) -> Path:
    """The QDQ file of a float network with a row of `OPTIONS`."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    types = {key: getattr(quantization.QuantType, kind) for key, kind in OPTIONS[name].items() if key.endswith("type")}
    source = net.save(folder / "float.onnx", output)
    return quantize_with_onnxruntime(source, folder / "qdq.onnx", data, **{**OPTIONS[name], **types})


@pytest.mark.parametrize("name", OPTIONS)
def test_qdq_of_onnxruntime(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    data = normal(rng, 24, 3, 8, 8)
    path = quantized(tmp_path, *small_network(rng), data, name)
    found = read_quantized(path)
    steps = steps_between(found.network, output_of(found.network, data), run_onnxruntime(path, data))
    # At 16 bits a step is next to the resolution of float32 and of the multipliers.
    most, mean = (16, 4) if "16" in name else (3, 0.3)
    if OPTIONS[name].get("extra_options", {}).get("WeightSymmetric") is False:
        assert "are rounded to such" in found.notes[-1]
        mean = 1
    assert steps.max() <= most + 0.5
    assert steps.mean() <= mean
    assert_survives_writing(found, tmp_path)


@pytest.mark.parametrize("seed", [0, 2, 3, 4, 5, 6, 9])
def test_random_networks_of_onnxruntime(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net, output = random_network(rng)
    shape = [dim.dim_value for dim in net.inputs[0].type.tensor_type.shape.dim]
    data = normal(rng, 8, *shape[1:])
    path = quantized(tmp_path, net, output, data, list(OPTIONS)[seed % 6])
    found = read_quantized(path)
    steps = steps_between(found.network, output_of(found.network, data), run_onnxruntime(path, data))
    assert steps.max() <= 3.5 and steps.mean() <= 0.3, f"seed {seed}"
    assert_survives_writing(found, tmp_path)


@pytest.mark.parametrize("name", ["symmetric", "only weighted"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_of_onnxruntime(tmp_path: Path, structure: str, name: str) -> None:
    """Also where only the operators with weights are quantised, so that others compute with numbers nobody rounds."""
    rng = np.random.default_rng(0)
    net = OnnxBuilder(rng)
    output = STRUCTURES[structure](net)
    data = normal(rng, 8, 3, 8, 8)
    path = quantized(tmp_path, net, output, data, name)
    found = read_quantized(path)
    expected = run_onnxruntime(path, data)
    result = output_of(found.network, data)
    step = max(tensor.scale_at(8) for tensor in found.network.tensors.values())
    assert np.abs(result.reshape(-1) - expected.reshape(-1)).max() <= 2 * step
    assert np.abs(result.reshape(-1) - expected.reshape(-1)).mean() <= step / 4
    assert_survives_writing(found, tmp_path)


def test_functions_of_onnxruntime(tmp_path: Path) -> None:
    """Functions with a table; what stands between the nodes of a function is not rounded."""
    rng = np.random.default_rng(0)
    net = OnnxBuilder(rng)
    first = net.conv("x", 3, 6)
    gated = net.node("Mul", first, net.node("Sigmoid", first))
    hidden = net.node("LeakyRelu", net.conv(gated, 6, 6), alpha=0.125)
    data = normal(rng, 16, 3, 8, 8)
    path = quantized(tmp_path, net, net.node("Tanh", net.conv(hidden, 6, 4)), data, "symmetric")
    found = read_quantized(path)
    assert sum(operation.function is not None for operation in found.network.operations) == 3
    error = np.abs(output_of(found.network, data) - run_onnxruntime(path, data))
    assert error.max() <= 0.05 and error.mean() <= 0.005
    assert_survives_writing(found, tmp_path)


def test_sequences_of_onnxruntime(tmp_path: Path) -> None:
    """Matrix products of several rows, and a Softmax on the host that is rounded there."""
    rng = np.random.default_rng(0)
    net = OnnxBuilder(rng, (1, 6, 8))
    hidden = net.node("Relu", net.node("Add", net.node("MatMul", "x", net.random(8, 12)), net.random(12)))
    output = net.node("Softmax", net.node("MatMul", hidden, net.random(12, 5)), axis=-1)
    data = normal(rng, 16, 6, 8)
    path = quantized(tmp_path, net, output, data, "uint8 per channel")
    found = read_quantized(path)
    result = output_of(found.network, data)
    np.testing.assert_allclose(np.rint(result * 255), result * 255, atol=1e-4)  # the host rounds as the file does
    np.testing.assert_allclose(result, run_onnxruntime(path, data), atol=2 / 255)
    assert_survives_writing(found, tmp_path)


def test_open_batches_are_closed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = normal(rng, 4, 3, 8, 8)
    path = quantized(tmp_path, *small_network(rng), data, "symmetric")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    with pytest.raises(CompilerError, match=r"has the shape \(batch, 3, 8, 8\).*--shape"):
        read_quantized(path)
    assert read_quantized(path, input_shapes={"x": (1, 3, 8, 8)}).network.operations


# --- QDQ with scales that are powers of two: exact


def exact_network(rng: np.random.Generator, dtype: Any, zero_point: int, opset: int = 21) -> tuple[ForeignBuilder, str]:
    """QDQ with zero points, every scale a power of two, on all structures that the reader moves roundings over."""
    net = ForeignBuilder(rng, (1, 3, 6, 6), opset)

    def weights(*shape: int) -> str:
        exponents = rng.integers(-6, -3, shape[0])
        return net.dequantized(net.integers(*shape), (2.0**exponents).astype(np.float32))

    def rounded(x: str, scale: float) -> str:
        return net.qdq(x, scale, zero_point, dtype)

    x = rounded("x", 2.0**-4)
    bias = net.dequantized(rng.integers(-999, 999, 8).astype(np.int32), np.float32(2.0**-8))
    first = rounded(net.node("Relu", net.node("Conv", x, weights(8, 3, 3, 3), bias, pads=[1, 1, 1, 1])), 0.5)
    second = rounded(net.node("Conv", first, weights(8, 1, 3, 3), group=8, pads=[1, 1, 1, 1]), 0.25)
    total = rounded(net.node("Add", second, first), 1.0)
    pooled = rounded(net.node("MaxPool", total, kernel_shape=[2, 2], strides=[2, 2]), 1.0)
    average = rounded(net.node("AveragePool", second, kernel_shape=[2, 2], strides=[2, 2]), 0.5)
    joined = rounded(net.node("Concat", pooled, average, axis=1), 2.0)
    limits = (net.constant([value], np.int64) for value in (4, 16, 1))
    parts = rounded(net.node("Slice", joined, *limits), 2.0)
    flat = rounded(net.node("Flatten", parts), 2.0)
    return net, rounded(net.node("Gemm", flat, weights(5, 108), transB=1), 16.0)


@pytest.mark.parametrize(
    ("dtype", "zero_point", "depth", "signed"),
    [
        (np.int8, 0, 8, True),
        (np.uint8, 128, 8, True),
        (np.uint8, 0, 8, False),
        (np.int8, -128, 8, False),
        (np.uint8, 90, 16, True),
        (np.int8, 3, 16, True),
        (np.int16, 0, 16, True),
        (np.uint16, 1 << 15, 16, True),
        (ml_dtypes.int4, 0, 4, True),
        (ml_dtypes.uint4, 0, 4, False),
        (ml_dtypes.uint4, 5, 6, True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_exact_scales_are_equal(tmp_path: Path, dtype: Any, zero_point: int, depth: int, signed: bool) -> None:
    """Also zero points that the machine lacks, which cost bits."""
    rng = np.random.default_rng(abs(zero_point))
    net, output = exact_network(rng, dtype, zero_point)
    path = net.save(tmp_path / "qdq.onnx", output)
    found = read_quantized(path)
    assert {(tensor.depth, tensor.signed) for tensor in found.network.tensors.values()} == {(depth, signed)}
    assert bool(found.notes) == ((depth > 8 and dtype in (np.int8, np.uint8)) or depth == 6)
    data = {"x": (8 * rng.normal(size=(4, 3, 6, 6))).astype(np.float32)}
    result = output_of(found.network, data)
    assert np.array_equal(result, reference(path, data)[0])
    assert len(np.unique(result)) > 5
    assert_survives_writing(found, tmp_path)


@pytest.mark.parametrize("zero_point", [0, 77, 128])
def test_weights_with_zero_points(tmp_path: Path, zero_point: int) -> None:
    """Integers minus their zero point are exact where 8 bits hold them, whatever the file's type is."""
    rng = np.random.default_rng(0)
    net = ForeignBuilder(rng, (1, 4, 5, 5), 21)
    integers = rng.integers(max(0, zero_point - 128), zero_point + 128, (6, 4, 3, 3)).astype(np.uint8)
    weights = net.dequantized(integers, np.float32(2.0**-5), zero_point)
    conv = net.node("Conv", net.qdq("x", 2.0**-4), weights)
    path = net.save(tmp_path / "qdq.onnx", net.qdq(conv, 0.5))
    found = read_quantized(path)
    assert not found.notes
    [operation] = found.network.operations
    assert np.array_equal(operation.weights, (integers.astype(int) - zero_point).astype(np.int8))
    data = normal(rng, 4, 4, 5, 5)
    assert np.array_equal(output_of(found.network, data), reference(path, data)[0])


def test_blocks_of_weights_are_rounded_and_named(tmp_path: Path) -> None:
    """Several scales within an output channel: the machine has one, so that the weights are rounded to it."""
    rng = np.random.default_rng(0)
    net = ForeignBuilder(rng, (1, 8), 21)
    scales = net.constant(rng.uniform(0.01, 0.1, (4, 2)))
    matrix = net.node(
        "DequantizeLinear",
        net.constant(net.integers(4, 8, bits=4), ml_dtypes.int4),
        scales,
        axis=1,
        block_size=4,
    )
    path = net.save(tmp_path / "qdq.onnx", net.qdq(net.node("Gemm", net.qdq("x", 0.03), matrix, transB=1), 0.02))
    found = read_quantized(path)
    [note] = found.notes
    assert "the weights of 'gemm" in note and "are rounded to such" in note
    data = normal(rng, 8, 8)
    assert steps_between(found.network, output_of(found.network, data), reference(path, data)[0]).max() <= 2


# --- QONNX


@pytest.mark.parametrize("name", ["brevitas_w4a4", "brevitas_w8a8", "brevitas_w2a5_qcdq"])
def test_exports_of_brevitas(tmp_path: Path, name: str) -> None:
    """Real exports, with what Brevitas computes; the network's output is not rounded there."""
    found = read_quantized(DATA / f"{name}.onnx")
    recorded = np.load(DATA / f"{name.removesuffix('_qcdq')}.npz")
    result = output_of(found.network, {found.network.inputs[0]: recorded["x"]})
    error = np.abs(result - recorded["y"]).reshape(-1)
    assert np.median(error) < 2e-3
    assert error.max() < 0.02 * np.abs(recorded["y"]).max()
    assert ["nothing rounds 'linear'" in note for note in found.notes] == [True]
    weight_bits = {operation.weight_depth for operation in found.network.operations if hasattr(operation, "weights")}
    assert weight_bits == {8 if "w8" in name else 4}
    assert_survives_writing(found, tmp_path)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
@pytest.mark.parametrize("bits", range(2, 9))
def test_widths_and_ranges_of_quant(tmp_path: Path, bits: int, narrow: int, signed: int) -> None:
    """Every width is exact: the machine's next depth holds it, and limits make its range narrower."""
    rng = np.random.default_rng(bits)
    net = ForeignBuilder(rng, (1, 4, 5, 5))
    steps = 2.0 ** (1 - bits), 2.0 ** (2 - bits)
    weights = net.quant(net.constant(rng.normal(size=(6, 4, 3, 3))), np.full((6, 1, 1, 1), steps[1]), bits, 1, 1)
    bias = net.quant(net.constant(rng.normal(size=6)), steps[0] * steps[1], 16)
    hidden = net.node("Conv", net.quant("x", steps[0], bits, signed, narrow), weights, bias)
    rounded = net.quant(net.node("Relu", hidden) if not signed else hidden, 2.0 ** (2 - bits), bits, signed, narrow)
    pooled = net.node("MaxPool", rounded, kernel_shape=[2, 2])
    path = net.save(tmp_path / "quant.onnx", pooled)
    found = read_quantized(path)
    assert not found.notes
    depth = next(depth for depth in (4, 6, 8) if depth >= bits)
    assert {(tensor.depth, tensor.signed) for tensor in found.network.tensors.values()} == {(depth, bool(signed))}
    assert found.network.operations[0].weight_depth == (4 if bits <= 4 else 8)
    data = {"x": (2 * rng.normal(size=(6, 4, 5, 5))).astype(np.float32)}
    expected = np.concatenate([quant_reference(path, {"x": value[np.newaxis]}) for value in data["x"]])
    assert np.array_equal(output_of(found.network, data), expected)
    assert_survives_writing(found, tmp_path)


def quant_reference(path: Path, data: dict[str, np.ndarray]) -> np.ndarray:
    """The output of a QONNX file in the executor of the qonnx package."""
    onnx_exec = pytest.importorskip("qonnx.core.onnx_exec")
    wrapper = pytest.importorskip("qonnx.core.modelwrapper").ModelWrapper(str(path))
    wrapper = wrapper.transform(pytest.importorskip("qonnx.transformation.infer_shapes").InferShapes())
    # It wraps each node in a model of the newest file format, which can be newer than onnxruntime reads.
    make_model = functools.partial(onnx_exec.qonnx_make_model, ir_version=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_exec, "qonnx_make_model", make_model)
        [result] = onnx_exec.execute_onnx(wrapper, data).values()
    return result


def test_batch_normalisation_before_quant_folds(tmp_path: Path) -> None:
    """The integers stay, and the scales of the weights take the factors."""
    rng = np.random.default_rng(0)
    net = ForeignBuilder(rng, (1, 3, 6, 6))
    integers = np.maximum(net.integers(8, 3, 3, 3, bits=4), -7)  # a negative factor would make -8 too large
    weights = net.quant(net.constant(integers * 0.125), 0.125, 4)
    normalised = net.batch_norm(net.node("Conv", net.quant("x", 0.0625, 8), weights), 8)
    path = net.save(tmp_path / "quant.onnx", net.quant(net.node("Relu", normalised), 0.1, 4, signed=0))
    found = read_quantized(path)
    [operation] = found.network.operations
    assert not found.notes and operation.weight_depth == 4
    magnitudes = np.abs(operation.weights.astype(int))
    assert all(np.array_equal(a * b.max(), b * a.max()) for a, b in zip(magnitudes, np.abs(integers.astype(int))))
    data = normal(rng, 6, 3, 6, 6)
    expected = np.concatenate([quant_reference(path, {"x": value[np.newaxis]}) for value in data["x"]])
    assert steps_between(found.network, output_of(found.network, data), expected).max() <= 1.5


def test_sums_without_quant_stay_exact(tmp_path: Path) -> None:
    """Sums and means of rounded values are multiples of a step, so that they need bits but no rounding."""
    rng = np.random.default_rng(0)
    net = ForeignBuilder(rng, (1, 4, 4, 4))
    first, second = (net.quant(net.conv(net.quant("x", 0.125, 8), 4, 4, (1, 1)), 0.25, 4) for _ in range(2))
    mean = net.node("GlobalAveragePool", net.node("Relu", net.node("Add", first, second)))
    path = net.save(tmp_path / "quant.onnx", mean)
    found = read_quantized(path)
    assert [tensor.depth for tensor in found.network.tensors.values()] == [8, 4, 4, 4, 8]
    data = normal(rng, 6, 4, 4, 4)
    expected = np.concatenate([quant_reference(path, {"x": value[np.newaxis]}) for value in data["x"]])
    assert steps_between(found.network, output_of(found.network, data), expected).max() <= 1.5


def test_pools_to_other_steps_are_one_operation(tmp_path: Path) -> None:
    """The maximum is rounded, and not what it is taken of."""
    net = ForeignBuilder(np.random.default_rng(0), (1, 4, 6, 6))
    pooled = net.node("MaxPool", net.quant("x", 0.125, 8), kernel_shape=[2, 2], strides=[2, 2])
    found = read_quantized(net.save(tmp_path / "quant.onnx", net.quant(pooled, 0.3, 4)))
    [operation] = found.network.operations
    assert operation.reduction == "max"


def test_flattened_inputs_are_channels(tmp_path: Path) -> None:
    """The host flattens what the first fully connected layer reads, wherever the file rounds it."""
    rng = np.random.default_rng(0)
    for place in ("before", "behind"):
        net = ForeignBuilder(rng, (1, 1, 8, 8))
        flat = net.node("Flatten", net.quant("x", 0.0625, 8) if place == "before" else "x")
        hidden = net.gemm(flat if place == "before" else net.quant(flat, 0.0625, 8), 64, 8)
        path = net.save(tmp_path / f"{place}.onnx", net.quant(hidden, 0.125, 8))
        found = read_quantized(path)
        [operation] = found.network.operations
        assert operation.weights.shape == (8, 64, 1, 1), place
        data = normal(rng, 4, 1, 8, 8)
        expected = np.concatenate([quant_reference(path, {"x": value[np.newaxis]}) for value in data["x"]])
        assert steps_between(found.network, output_of(found.network, data), expected).max() <= 1.5


def test_narrow_ranges_behind_functions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    net = ForeignBuilder(rng, (1, 3, 6, 6))
    hidden = net.quant(net.conv(net.quant("x", 0.0625, 8), 3, 4), 0.03125, 8)
    path = net.save(tmp_path / "quant.onnx", net.quant(net.node("Tanh", hidden), 0.125, 3, narrow=1))
    found = read_quantized(path)
    data = normal(rng, 6, 3, 6, 6)
    result = output_of(found.network, data)
    expected = np.concatenate([quant_reference(path, {"x": value[np.newaxis]}) for value in data["x"]])
    assert np.abs(result).max() == np.abs(expected).max() == 0.375
    assert np.mean(result == expected) > 0.95
    assert_survives_writing(found, tmp_path)


def test_own_files_mean_the_same_without_metadata(tmp_path: Path) -> None:
    """What this compiler writes is QONNX to everybody; the two readers agree on it."""
    rng = np.random.default_rng(0)
    net = ForeignBuilder(rng, (1, 3, 6, 6))
    first = net.quant(net.node("Relu", net.conv(net.quant("x", 0.01, 8), 3, 4)), 0.02, 6, signed=0)
    found = read_quantized(net.save(tmp_path / "quant.onnx", net.quant(net.conv(first, 4, 5), 0.03, 8)))
    write_qonnx(found.network, tmp_path / "own.onnx")
    model = onnx.load(tmp_path / "own.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    again = read_quantized(tmp_path / "plain.onnx")
    assert not again.notes
    operations = [to_integer(item.network).operations for item in (found, again)]
    for one, other in zip(*operations, strict=True):
        assert np.array_equal(one.weights, other.weights)
        assert np.array_equal(one.post.multiplier, other.post.multiplier)
        assert np.array_equal(one.post.bias, other.post.bias)


# --- the parts


@pytest.mark.parametrize("depth", [4, 8])
def test_integers_are_found_behind_any_scale(depth: int) -> None:
    rng = np.random.default_rng(depth)
    top = 1 << depth - 1
    integers = rng.integers(-top, top, (64, 5, 3, 3))
    integers[0], integers[1] = 0, -top
    scales = rng.uniform(1e-6, 1e3, 64)
    weights = (integers * scales.reshape(-1, 1, 1, 1)).astype(np.float32)
    found = integer_weights(weights, depth)
    assert found.exact.all()
    scales = np.where(found.scales > 0, found.scales, 1.0)
    again = round_weights(weights, scales, depth)
    np.testing.assert_allclose(again * scales.reshape(-1, 1, 1, 1), weights, rtol=1e-6)
    assert not integer_weights(rng.normal(size=(3, 40)), depth).exact.any()


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp", "digits_resnet"])
def test_float_networks_are_not_quantised(tmp_path: Path, name: str) -> None:
    assert not is_quantized(MODELS / f"{name}.onnx")
    net = ForeignBuilder(np.random.default_rng(0))
    assert is_quantized(net.save(tmp_path / "qdq.onnx", net.qdq("x", 0.1)))
    assert is_quantized(net.save(tmp_path / "quant.onnx", net.quant("x", 0.1, 8)))


# --- what is refused


def _conv(net: ForeignBuilder, x: str) -> str:
    return net.node("Conv", x, net.dequantized(net.integers(4, 3, 3, 3), np.float32(0.01)))


def _no_input(net: ForeignBuilder) -> str:
    return net.qdq(_conv(net, "x"), 0.1)


def _per_channel_activations(net: ForeignBuilder) -> str:
    operands = net.constant([0.1, 0.2, 0.3]), net.constant([0, 0, 0], np.int8)
    integers = net.node("QuantizeLinear", "x", *operands, axis=1)
    return _conv(net, net.node("DequantizeLinear", integers, *operands, axis=1))


def _different_pair(net: ForeignBuilder) -> str:
    integers = net.node("QuantizeLinear", "x", net.constant(0.1), net.constant(0, np.int8))
    return _conv(net, net.node("DequantizeLinear", integers, net.constant(0.2), net.constant(0, np.int8)))


def _negative_scale(net: ForeignBuilder) -> str:
    return net.quant(_conv(net, net.qdq("x", 0.1)), -1.0, 8)


def _floor(net: ForeignBuilder) -> str:
    return net.quant(_conv(net, net.quant("x", 0.1, 8)), 0.1, 8, mode="FLOOR")


def _width(net: ForeignBuilder) -> str:
    return _conv(net, net.quant("x", 0.1, 2.5))  # type: ignore[arg-type]


def _bipolar(net: ForeignBuilder) -> str:
    return _conv(net, net.node("BipolarQuant", "x", net.constant(1.0), domain="qonnx.custom_op.general"))


def _trunc(net: ForeignBuilder) -> str:
    bits = [net.constant(float(value)) for value in (1, 0, 16, 8)]
    x = net.node("AveragePool", net.quant("x", 0.1, 8), kernel_shape=[2, 2])
    return _conv(net, net.node("Trunc", x, *bits, domain="qonnx.custom_op.general"))


def _integer_operator(net: ForeignBuilder) -> str:
    zero = net.constant(0, np.int8)
    integers = net.node("QuantizeLinear", "x", net.constant(0.1), zero)
    return net.node("Cast", net.node("ConvInteger", integers, net.constant(net.integers(4, 3, 3, 3), np.int8)), to=1)


def _computed_scale(net: ForeignBuilder) -> str:
    scale = net.node("ReduceMax", "x", keepdims=0)
    zero = net.constant(0, np.int8)
    return _conv(net, net.node("DequantizeLinear", net.node("QuantizeLinear", "x", scale, zero), scale, zero))


def _operator_between(net: ForeignBuilder) -> str:
    return net.qdq(net.node("Conv", net.node("Sin", _conv(net, net.qdq("x", 0.1))), net.random(2, 4, 1, 1)), 0.1)


def _scales_that_do_not_fit(net: ForeignBuilder) -> str:
    scales = np.full(5, 0.01, np.float32)
    return net.node("Conv", net.qdq("x", 0.1), net.dequantized(net.integers(4, 3, 3, 3), scales))


def _limits_of_integers(net: ForeignBuilder) -> str:
    operands = net.constant(0.1), net.constant(0, np.int8)
    integers = net.node("QuantizeLinear", "x", *operands)
    narrow = net.node("Clip", integers, net.constant([-3, -4], np.int8))
    return _conv(net, net.node("DequantizeLinear", narrow, *operands))


def _sum_of_integers(net: ForeignBuilder) -> str:
    operands = net.constant(0.1), net.constant(0, np.int8)
    integers = net.node("QuantizeLinear", "x", *operands)
    return _conv(net, net.node("DequantizeLinear", net.node("Add", integers, integers), *operands))


REFUSED: dict[str, tuple[Callable[[ForeignBuilder], str], str]] = {
    "input without rounding": (_no_input, "the NPU is given 'x', but nothing rounds it, so that its range is unknown"),
    "activations per channel": (_per_channel_activations, r"\(QuantizeLinear\) rounds activations with 3 scales"),
    "different pair": (_different_pair, "no QuantizeLinear node of the same scale and zero point has made"),
    "negative scale": (_negative_scale, r"\(Quant\) has a scale that is not positive; quantise the network again"),
    "rounding mode": (_floor, "has the rounding mode FLOOR, but the NPU rounds half to even; export it with ROUND"),
    "width": (_width, "has a width of 2.5 bits; it must be one integer from 1 to 32"),
    "bipolar": (_bipolar, "is QONNX's operator BipolarQuant, but only Quant can be read"),
    "trunc": (_trunc, "is QONNX's operator Trunc, but only Quant can be read; export the network without it"),
    "integer operator": (_integer_operator, r"\(ConvInteger\) computes with integers of its own.*QuantFormat.QDQ"),
    "computed scale": (_computed_scale, "has the parameter 'reducemax0_out', which is computed at run time"),
    "scales that do not fit": (_scales_that_do_not_fit, r"scales of the shape \(5, 1, 1, 1\).*\(4, 3, 3, 3\)"),
    "limits of integers": (_limits_of_integers, r"\(Clip\) limits integers by 'constant\d+', which is no constant"),
    "sum of integers": (_sum_of_integers, r"\(Add\) reads the integers .*put a DequantizeLinear node before it"),
    "operator between": (_operator_between, r"'sin\d+' \(Sin\) cannot run on the NPU: the NPU has no operator Sin"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    build, sentence = REFUSED[name]
    net = ForeignBuilder(np.random.default_rng(0))
    path = net.save(tmp_path / "foreign.onnx", build(net))
    with pytest.raises(CompilerError) as caught:
        read_quantized(path)
    message = str(caught.value)
    assert re.search(sentence, message), message
    assert "\n" not in message


def test_attributes_that_are_no_text(tmp_path: Path) -> None:
    net = ForeignBuilder(np.random.default_rng(0))
    path = net.save(tmp_path / "quant.onnx", _conv(net, net.quant("x", 0.1, 8)))
    path.write_bytes(path.read_bytes().replace(b"ROUND", b"\xff\xffUND"))
    with pytest.raises(CompilerError, match=r"the attribute 'rounding_mode' of node 'quant\d+' is no text"):
        read_quantized(path)


# --- the command line


def test_command_line_rewrites_and_plans(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = normal(rng, 8, 3, 8, 8)
    path = quantized(tmp_path, *small_network(rng), data, "int8")
    run = CliRunner().invoke
    result = run(app, ["quantize", str(path), "--output", str(tmp_path / "own.onnx")])
    assert result.exit_code == 0, result.output
    assert "quantise with symmetric activations" in result.output
    assert equal_quantized(read_qonnx(tmp_path / "own.onnx"), read_foreign(path).network)
    assert run(app, ["plan", str(path), "--npu", "tiny"]).exit_code == 0


@pytest.mark.parametrize("option", [["--calibration", "c.npz"], ["--activations", "4"], ["--power-of-two-io"]])
def test_command_line_refuses_options_of_float_networks(tmp_path: Path, option: list[str]) -> None:
    net = ForeignBuilder(np.random.default_rng(0))
    path = net.save(tmp_path / "qdq.onnx", net.qdq("x", 0.1))
    result = CliRunner().invoke(app, ["quantize", str(path), "--output", str(tmp_path / "own.onnx"), *option])
    assert result.exit_code != 0
    assert not (tmp_path / "own.onnx").exists()


# --- the RTL


@pytest.mark.cosim
def test_rtl_agrees(tmp_path: Path) -> None:
    """golden = stream = RTL for a network of each kind."""
    rng = np.random.default_rng(3)
    data = normal(rng, 2, 3, 8, 8)
    exact, output = exact_network(rng, np.uint8, 90)
    recorded = np.load(DATA / "brevitas_w4a4.npz")["x"][:2]
    files = {
        "onnxruntime": (quantized(tmp_path, *small_network(rng), data, "symmetric"), data),
        "zero points": (exact.save(tmp_path / "exact.onnx", output), normal(rng, 2, 3, 6, 6)),
        "brevitas": (DATA / "brevitas_w4a4.onnx", {"x": recorded}),
    }
    cases = {}
    for name, (path, inputs) in files.items():
        network = read_quantized(path).network
        integer = to_integer(network)
        cases[name] = (integer, lower(integer, TINY), host_before(network, inputs).integers)
    assert_programs_agree(TINY, cases, Options())
