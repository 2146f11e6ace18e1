"""Calibration, quantisation and the integer network: properties, accuracy, and refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx_networks import OnnxBuilder, random_network, residual_network

from tessera.compiler import (
    Calibration,
    CompilerError,
    LayerDepths,
    QuantizedNetwork,
    calibrate,
    import_onnx,
    prepare,
    quantize,
    to_integer,
)
from tessera.compiler.calibrate import choose_scales
from tessera.compiler.datasets import load_digits_split
from tessera.compiler.fixed_point import LARGEST_RATIO, SMALLEST_RATIO, fixed_point
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import Graph
from tessera.compiler.limits import accumulator_demand, check_limits
from tessera.compiler.quantize import quantize_weights, weight_scales
from tessera.compiler.quantized import QuantizedConvolution, QuantizedTensor
from tessera.compiler.quantized_execution import dequantize_values, execute_quantized, quantize_values
from tessera.rtl.config import ACTIVATION_DEPTHS, NpuConfig
from tessera.sim.golden import IntegerNetwork
from tessera.sim.golden.network import MAX_BIAS, equal_networks

ROOT = Path(__file__).resolve().parents[1]
SHARED_RESNET = ROOT.parent / "shared" / "models" / "ic_resnet8.onnx"

REALS = arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, allow_subnormal=False, width=32))
DEPTHS = st.sampled_from(ACTIVATION_DEPTHS)


def prepared(tmp_path: Path, net: OnnxBuilder, *outputs: str) -> Graph:
    """The network after all passes."""
    return prepare(import_onnx(net.save(tmp_path / "network.onnx", *outputs)))


def samples_for(graph: Graph, count: int = 8, seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Normally distributed inputs."""
    rng = np.random.default_rng(seed)
    shapes = {name: (count, *graph.shapes[name][1:]) for name in graph.inputs}
    return {name: rng.normal(scale=scale, size=shape).astype(np.float32) for name, shape in shapes.items()}


def tensor_at(depth: int, values: np.ndarray) -> QuantizedTensor:
    """A tensor calibrated with ``values``."""
    signed = bool(values.min() < 0)
    base, shifts = choose_scales(values, signed)
    return QuantizedTensor((1, values.size), base, shifts, depth, signed)


@settings(max_examples=40)
@given(REALS, DEPTHS)
def test_quantising_twice_changes_nothing(values: np.ndarray, depth: int) -> None:
    tensor = tensor_at(depth, values)
    once = quantize_values(values, tensor)
    assert np.array_equal(quantize_values(dequantize_values(once, tensor), tensor), once)
    low, high = tensor.type.range
    assert low <= once.min() <= once.max() <= high


@settings(max_examples=40)
@given(REALS)
def test_error_falls_with_depth(values: np.ndarray) -> None:
    errors = []
    for depth in ACTIVATION_DEPTHS:
        tensor = tensor_at(depth, values)
        integers = np.clip(np.rint(values / tensor.scale), *tensor.type.range)
        errors.append(np.mean((integers * tensor.scale - values) ** 2))
    assert all(shallow >= deep * (1 - 1e-9) for shallow, deep in itertools.pairwise(errors))


@settings(max_examples=40)
@given(REALS)
def test_sixteen_bits_cover_the_range(values: np.ndarray) -> None:
    tensor = tensor_at(16, values)
    error = np.abs(dequantize_values(quantize_values(values, tensor), tensor) - values).max()
    assert error <= tensor.scale * (0.5 + 2**-7)  # float32 holds 16-bit integers and 7 bits more
    largest = np.abs(values).max()
    if largest > 1e-29:  # smaller ones count as zero
        assert tensor.scale <= 2 * largest / tensor.type.range[1] * (1 + 1e-6)


@settings(max_examples=40)
@given(REALS, DEPTHS)
def test_scales_are_float32_and_powers_of_two_apart(values: np.ndarray, depth: int) -> None:
    tensor = tensor_at(depth, values)
    assert float(np.float32(tensor.scale)) == tensor.scale
    assert np.log2(tensor.scale / tensor.base_scale).is_integer()


def test_clipping_beats_full_range_at_4_bits() -> None:
    """The point of the clip shift: nearly as good as the best range of all, for bell-shaped values."""
    values = np.random.default_rng(0).normal(size=20000)
    tensor = tensor_at(4, values)

    def error(scale: float) -> float:
        return float(np.mean((np.clip(np.rint(values / scale), -8, 7) * scale - values) ** 2))

    best = min(error(scale) for scale in np.linspace(0.05, np.abs(values).max() / 7, 200))
    assert error(tensor.scale) < 10**-0.15 * error(np.abs(values).max() / 7)  # 1.5 dB better
    assert error(tensor.scale) < 10**0.2 * best  # 2 dB worse


@given(
    arrays.arrays(np.float64, (3, 2, 2, 2), elements=st.floats(-100, 100, width=32)),
    st.sampled_from([4, 8]),
)
def test_weights_quantise_within_half_a_step_or_clip(weights: np.ndarray, depth: int) -> None:
    scales = weight_scales(weights, depth)
    safe = np.where(scales > 0, scales, 1.0)
    integers = quantize_weights(weights, safe, depth)
    top = 2 ** (depth - 1) - 1
    assert np.abs(integers).max() <= top
    steps = safe.reshape(-1, 1, 1, 1)
    error = np.abs(integers * steps - weights)
    assert (
        error[np.abs(integers) < top] <= (0.5 + 1e-9) * np.broadcast_to(steps, weights.shape)[np.abs(integers) < top]
    ).all()
    again = quantize_weights(integers * steps, safe, depth)
    assert np.array_equal(again, integers)


@given(st.floats(SMALLEST_RATIO, LARGEST_RATIO))
def test_fixed_point_is_near(ratio: float) -> None:
    multiplier, shift = fixed_point(np.array([ratio]))
    assert 2**15 <= multiplier[0] < 2**16 or (shift[0] == 0 and multiplier[0] < 2**16)
    assert abs(multiplier[0] / 2.0 ** shift[0] - ratio) <= ratio * 2**-16


def test_fixed_point_with_a_limited_shift() -> None:
    multiplier, shift = fixed_point(np.array([1.0, 1.0, 0.01]), np.array([15, 3, 3]))
    assert multiplier.tolist() == [2**15, 8, 0]
    assert shift.tolist() == [15, 3, 3]


def check_network(graph: Graph, quantized: QuantizedNetwork) -> IntegerNetwork:
    """Checks what must hold for every network that the compiler quantises; returns the integers."""
    network = to_integer(quantized)
    network.verify()
    for operation in quantized.operations:
        if isinstance(operation, QuantizedConvolution):
            check_multipliers(quantized, operation, network)
    assert equal_networks(network, to_integer(quantized))
    return network


def check_multipliers(quantized: QuantizedNetwork, operation: QuantizedConvolution, network: IntegerNetwork) -> None:
    """The multipliers are exact: the float32 scales differ from them by float32's rounding only."""
    post = network.operation(operation.name).post
    unit = quantized.tensors[operation.input].scale / quantized.tensors[operation.output].scale
    ratio = operation.weight_scales.astype(np.float64) * unit
    np.testing.assert_allclose(post.multiplier / 2.0**post.shift, ratio, rtol=2**-23)
    assert (np.abs(post.bias) < MAX_BIAS).all()


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net, output = random_network(rng)
    graph = prepared(tmp_path, net, output)
    data = samples_for(graph, scale=10.0 ** rng.integers(-3, 4))
    calibration = calibrate(graph, data)
    depths = rng.choice(ACTIVATION_DEPTHS), rng.choice([4, 8])
    check_network(graph, quantize(graph, calibration, int(depths[0]), int(depths[1])))
    deep = quantize(graph, calibration, 16, 8)
    exact, approximate = execute(graph, data)[output], execute_quantized(deep, data)[output]
    assert np.abs(exact - approximate).max() <= 0.08 * np.abs(exact).max()
    check_network(graph, deep)


def test_error_of_a_network_falls_with_depth(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(3))
    graph = prepared(tmp_path, net, output)
    data = samples_for(graph, 64)
    calibration = calibrate(graph, data)
    exact = execute(graph, data)[output]
    errors = [
        float(np.sqrt(np.mean((execute_quantized(quantize(graph, calibration, a, w), data)[output] - exact) ** 2)))
        for a, w in [(4, 4), (4, 8), (6, 8), (8, 8), (16, 8)]
    ]
    assert errors == sorted(errors, reverse=True)


def _dead(graph: Graph) -> None:
    """Channels without weights, with large and small biases."""
    weights, bias = (graph.constants[name] for name in graph.nodes[0].inputs[1:3])
    weights[1:4] = 0
    bias[1:4] = [0, 1e6, 1e-6]


def _faint(graph: Graph) -> None:
    """A channel whose weights vanish beside its bias, and beside the others."""
    weights, bias = (graph.constants[name] for name in graph.nodes[0].inputs[1:3])
    weights[0] *= 1e-12
    bias[0] = 3.0


def _all_dead(graph: Graph) -> None:
    """An operation whose output is zero everywhere."""
    for name in graph.nodes[0].inputs[1:3]:
        graph.constants[name][:] = 0


def _constant_output(graph: Graph) -> None:
    """An operation whose output does not depend on its input."""
    graph.constants[graph.nodes[0].inputs[1]][:] = 0
    graph.constants[graph.nodes[0].inputs[2]][:] = 7.25


@pytest.mark.parametrize("damage", [_dead, _faint, _all_dead, _constant_output])
@pytest.mark.parametrize("activation, weight", [(4, 4), (8, 8), (16, 8)])
def test_dead_and_constant_channels(
    tmp_path: Path, damage: Callable[[Graph], None], activation: int, weight: int
) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    first = net.conv("x", 3, 5, pads=[1, 1, 1, 1])
    output = net.node("Add", first, net.node("Relu", net.conv("x", 3, 5, pads=[1, 1, 1, 1])))
    graph = prepared(tmp_path, net, output)
    graph.constants = {name: value.copy() for name, value in graph.constants.items()}
    damage(graph)
    data = samples_for(graph)
    quantized = quantize(graph, calibrate(graph, data), activation, weight)
    check_network(graph, quantized)
    exact, approximate = execute(graph, data)[output], execute_quantized(quantized, data)[output]
    scale = quantized.tensors[output].scale
    assert np.abs(exact - approximate).max() <= 0.3 * np.abs(exact).max() + 2 * scale


def test_constant_input(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.conv("x", 3, 5))
    for value in (0.0, 1.0, -2.0):
        data = {"x": np.full((2, 3, 8, 8), value)}
        quantized = quantize(graph, calibrate(graph, data))
        check_network(graph, quantized)
        error = execute_quantized(quantized, data)["conv0_out"] - execute(graph, data)["conv0_out"]
        assert np.abs(error).max() < 0.05


def test_signs(tmp_path: Path) -> None:
    """Unsigned is what can never be negative: by structure inside, by the data at the input."""
    net = OnnxBuilder(np.random.default_rng(0))
    conv = net.conv("x", 3, 4)
    relu = net.node("Relu", net.conv("x", 3, 4))
    total = net.node("Add", net.node("MaxPool", relu, kernel_shape=[1, 1]), net.node("Clip", relu, net.constant(1.0)))
    graph = prepared(tmp_path, net, conv, relu, total)
    ranges = calibrate(graph, {"x": np.abs(samples_for(graph)["x"])}).ranges
    assert [ranges[name].signed for name in ("x", conv, relu, total)] == [False, True, False, False]
    assert calibrate(graph, samples_for(graph)).ranges["x"].signed


def test_biases_make_up_for_rounded_weights(tmp_path: Path) -> None:
    """Each channel's mean is right although each weight is rounded to 4 bits."""
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.conv("x", 3, 8))
    data = {"x": np.random.default_rng(1).uniform(size=(64, 3, 8, 8)).astype(np.float32)}
    quantized = quantize(graph, calibrate(graph, data), 16, 4)
    error = execute_quantized(quantized, data)["conv0_out"] - execute(graph, data)["conv0_out"]
    operation = quantized.operations[0]
    rounded = operation.weights * operation.weight_scales.reshape(-1, 1, 1, 1)
    uncorrected = (rounded - graph.constants["constant0"]).sum(axis=(1, 2, 3)) * 0.5
    assert np.abs(error.mean(axis=(0, 2, 3))).max() < 0.1 * np.abs(uncorrected).max()


def test_a_maximum_only_copies_integers(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.node("MaxPool", net.conv("x", 3, 4), kernel_shape=[2, 2]))
    quantized = quantize(graph, calibrate(graph, samples_for(graph)))
    post = to_integer(quantized).operations[1].post
    assert (post.multiplier == 2**15).all()
    assert (post.shift == 15).all()


def test_overrides(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(0))
    graph = prepared(tmp_path, net, output)
    calibration = calibrate(graph, samples_for(graph))
    overrides = {
        "x": LayerDepths(activation=16),
        "conv3": LayerDepths(6, 8),
        "gemm16": LayerDepths(activation=4),
    }
    quantized = quantize(graph, calibration, 4, 4, overrides)
    depths = {operation.name: quantized.tensors[operation.output].depth for operation in quantized.operations}
    weights = {item.name: item.weight_depth for item in quantized.operations if isinstance(item, QuantizedConvolution)}
    assert quantized.tensors["x"].depth == 16
    assert (depths["conv3"], weights["conv3"]) == (6, 8)
    assert (depths["conv0"], weights["conv0"]) == (4, 4)
    assert depths["gemm16"] == 4
    assert quantize(graph, calibration, 4, 4).tensors["gemm16_out"].depth == 8  # it leaves the NPU
    check_network(graph, quantized)


def test_format(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.node("Relu", net.conv("x", 3, 4)))
    calibration = calibrate(graph, {"x": np.ones((1, 3, 8, 8))})
    lines = quantize(graph, calibration, 4, 8).format().splitlines()
    assert lines[:3] == [
        "quantised network network",
        "  input  x: 1x3x8x8",
        f"  quantise x: 3x8x8 u4 scale {calibration.ranges['x'].base_scale * 2**12:.6g}",
    ]
    assert lines[3].endswith("= convolution W8 conv0(x) kernel 3x3 stride 1x1 limits 0..inf")
    assert calibration.format().splitlines()[0] == "calibration with 1 samples"


def refusal(action: Callable[[], object]) -> str:
    """The sentence with which something is refused."""
    with pytest.raises(CompilerError) as caught:
        action()
    return str(caught.value)


def test_calibration_data_are_checked(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.conv("x", 3, 4))
    good = samples_for(graph)["x"]
    for bad in (np.nan, np.inf):
        broken = good.copy()
        broken[5, 0, 0, 0] = bad
        assert refusal(lambda broken=broken: calibrate(graph, {"x": broken})) == (
            "the data for input 'x' have NaN or infinity in sample 5; remove it"
        )
    assert refusal(lambda: calibrate(graph, {"x": good[:0]})) == (
        "there are no samples; give at least one sample of every input"
    )
    assert refusal(lambda: calibrate(graph, {"x": good[0]})) == (
        "the data for input 'x' have the shape (3, 8, 8), but must have (samples, 3, 8, 8)"
    )
    assert refusal(lambda: calibrate(graph, {})) == "the input 'x' is missing; the network needs x"


def test_overflowing_float_network(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.conv(net.conv("x", 3, 4), 4, 4))
    with np.errstate(over="ignore", invalid="ignore"):
        sentence = refusal(lambda: calibrate(graph, {"x": np.full((1, 3, 8, 8), 3e38)}))
    assert sentence == "the float network computes NaN or infinity in tensor 'conv0_out'; repair the network"


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (
            {"kernel_shape": [4, 1], "pads": [0, 0, 2, 0], "strides": [3, 3]},
            "it computes 'maxpool1_out' of shape (1, 2, 3, 3), but by ONNX's shape inference that is (1, 2, 3, 4); "
            "write the node in another form (pooling without ceil_mode)",
        ),
        (
            {"kernel_shape": [3, 3], "pads": [9, 0, 9, 0]},  # windows of padding alone
            "ONNX's reference implementation, which computes it for the host, fails: ",
        ),
    ],
)
def test_pooling_on_which_onnx_is_at_odds_with_itself(tmp_path: Path, facts: dict, sentence: str) -> None:
    """What the host's implementation cannot compute, or computes in another shape, is refused and named."""
    net = OnnxBuilder(np.random.default_rng(0), (1, 2, 8, 8))
    node = net.node("MaxPool", net.conv("x", 2, 2, (1, 1)), ceil_mode=1, **facts)
    graph = prepare(import_onnx(net.save(tmp_path / "net.onnx", node)))
    text = refusal(lambda: calibrate(graph, {"x": np.ones((1, 2, 8, 8))}))
    assert text.startswith(f"node 'maxpool1' (MaxPool): {sentence}")


def test_depths_are_checked(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.conv("x", 3, 4))
    calibration = calibrate(graph, samples_for(graph))
    assert refusal(lambda: quantize(graph, calibration, 5)) == (
        "the network: the activation depth 5 does not exist; use one of 4, 6, 8, 16"
    )
    assert refusal(lambda: quantize(graph, calibration, 8, 16)) == (
        "the network: the weight depth 16 does not exist; use one of 4, 8"
    )
    assert refusal(lambda: quantize(graph, calibration, overrides={"conv0": LayerDepths(weight=2)})) == (
        "conv0: the weight depth 2 does not exist; use one of 4, 8"
    )
    assert refusal(lambda: quantize(graph, calibration, overrides={"conv7": LayerDepths(8)})) == (
        "network 'network' has no operation 'conv7' whose depths could be set; it has x, conv0"
    )


@pytest.fixture
def one_convolution(tmp_path: Path) -> QuantizedNetwork:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.node("Add", net.conv("x", 3, 3, pads=[1, 1, 1, 1]), "x"))
    return quantize(graph, calibrate(graph, samples_for(graph)))


def with_operation(network: QuantizedNetwork, **changes: object) -> QuantizedNetwork:
    """The network with its operation changed."""
    return replace(network, operations=(replace(network.operations[0], **changes),))


def test_scales_beyond_the_machine(one_convolution: QuantizedNetwork) -> None:
    """Networks from elsewhere can have scales that the machine cannot express."""
    operation = one_convolution.operations[0]
    assert refusal(lambda: to_integer(with_operation(one_convolution, bias=np.full(3, 1e9, np.float32)))).startswith(
        "operation 'conv0': the bias of channel "
    )
    scales = operation.weight_scales
    large = with_operation(one_convolution, weight_scales=np.full_like(scales, 1e9))
    assert refusal(lambda: to_integer(large)).endswith(
        "but must lie between 0 and 65535; give the output a larger scale"
    )
    mixed = with_operation(
        one_convolution, weight_scales=np.array([1e-9, *scales[1:]], np.float32), bias=0 * operation.bias
    )
    assert refusal(lambda: to_integer(mixed)).endswith("at most 15; give its weights a larger scale")
    residual = one_convolution.tensors[operation.residual]
    coarse = {operation.residual: replace(residual, base_scale=residual.base_scale * 2.0**40)}
    same_sums = with_operation(one_convolution, weight_scales=scales * np.float32(2.0**-40), bias=0 * operation.bias)
    assert refusal(lambda: to_integer(replace(same_sums, tensors={**same_sums.tensors, **coarse}))).endswith(
        "steps of its output, but at most 65535 can be expressed; give the output a larger scale"
    )


def test_limits_of_a_machine(one_convolution: QuantizedNetwork) -> None:
    network = to_integer(one_convolution)
    edge = NpuConfig.preset("edge")
    check_limits(network, edge)
    operation = network.operations[0]
    few = replace(edge, activation_depths=(4,))
    assert refusal(lambda: check_limits(network, few)) == (
        "network 'network' on 'edge': tensor 'x' has 8 bits, but the machine has activations of 4; quantise "
        "it to one of these depths"
    )
    assert "has weights of 4; quantise them" in refusal(
        lambda: check_limits(network, replace(edge, weight_depths=(4,)))
    )
    heavy = replace(operation, weights=np.full((3, 3, 60, 60), 127, np.int8))
    needed = accumulator_demand(heavy)
    assert needed == int(np.ceil(np.log2(127 * 3 * 3600 * 15))) + 1
    assert refusal(lambda: check_limits(replace(network, operations=(heavy,)), edge)) == (
        f"network 'network' on 'edge': operation 'conv0': its sums need accumulators of {needed} bits, but the machine "
        "has 24: the weights of one sign of output channel 0 add to a magnitude of 1371600, and 15 x 1371600 = "
        "20574000 is not less than 2 ** 23 = 8388608; use 4-bit weights, fewer input channels, or a configuration "
        f"with accumulator_bits >= {needed}"
    )
    far = replace(operation, dilation=(16, 1))
    assert refusal(lambda: check_limits(replace(network, operations=(far,)), edge)) == (
        "network 'network' on 'edge': operation 'conv0': its dilation is 16 x 1, but an instruction has at "
        "most 15 x 15; split the operation in the network"
    )


@pytest.mark.parametrize("bits, safe", [(24, 8388607 // 15), (20, 524287 // 15)])
def test_accumulator_demand_is_tight(one_convolution: QuantizedNetwork, bits: int, safe: int) -> None:
    operation = to_integer(one_convolution).operations[0]
    for total, expected in ((safe, bits), (safe + 1, bits + 1)):
        weights = np.ones((1, total, 1, 1), np.int8)
        assert accumulator_demand(replace(operation, weights=weights)) == expected


def digits_accuracy(calibration: Calibration, graph: Graph, activation: int, weight: int) -> float:
    """Percentage of the held-out digits that the quantised network recognises."""
    test = load_digits_split().test
    name, output = graph.inputs[0], graph.outputs[0]
    images = test.images.reshape(len(test), *graph.shapes[name][1:])
    scores = execute_quantized(quantize(graph, calibration, activation, weight), {name: images})[output]
    return 100 * float(np.mean(scores.argmax(axis=1) == test.labels))


@pytest.mark.parametrize("network", ["digits_cnn", "digits_resnet", "digits_mlp"])
def test_accuracy_on_digits(network: str) -> None:
    pytest.importorskip("sklearn")
    graph = prepare(import_onnx(ROOT / "models" / f"{network}.onnx"))
    split = load_digits_split()
    name, output = graph.inputs[0], graph.outputs[0]
    images = {
        part: getattr(split, part).images.reshape(-1, *graph.shapes[name][1:]) for part in ("calibration", "test")
    }
    scores = execute(graph, {name: images["test"]})[output]
    exact = 100 * float(np.mean(scores.argmax(axis=1) == split.test.labels))
    calibration = calibrate(graph, {name: images["calibration"]})
    assert digits_accuracy(calibration, graph, 16, 8) >= exact - 0.5
    assert digits_accuracy(calibration, graph, 8, 8) >= exact - 0.5
    assert digits_accuracy(calibration, graph, 6, 8) >= exact - 0.5
    assert digits_accuracy(calibration, graph, 4, 4) >= exact - 2.0


@pytest.mark.skipif(not SHARED_RESNET.exists(), reason="the networks of MLPerf Tiny are not here")
def test_resnet8_of_mlperf_tiny() -> None:
    """Real weights: the quantised scores follow the float network's on crops of a photograph."""
    datasets = pytest.importorskip("sklearn.datasets")
    graph = prepare(import_onnx(SHARED_RESNET))
    photographs = [image.transpose(2, 0, 1).astype(np.float32) for image in datasets.load_sample_images().images]
    rng = np.random.default_rng(0)
    corners = [(int(rng.integers(0, 300)), int(rng.integers(0, 500))) for _ in range(48)]
    crops = np.stack([photographs[y % 2][:, y : y + 64 : 2, x : x + 64 : 2] for y, x in corners])
    calibration = calibrate(graph, {"input": crops[:24]})
    logits = "l14_gemm"
    exact = execute(graph, {"input": crops[24:]}, [logits])[logits]
    errors = []
    for activation, weight in ((4, 4), (8, 8), (16, 8)):
        quantized = quantize(graph, calibration, activation, weight)
        network = check_network(graph, quantized)
        assert network.macs == 12501632
        without_softmax = replace(
            quantized, host_after=(), outputs=(logits,), shapes={**quantized.shapes, logits: (1, 10)}
        )
        scores = execute_quantized(without_softmax, {"input": crops[24:]})[logits]
        errors.append(float(np.sqrt(np.mean((scores - exact) ** 2) / np.mean(exact**2))))
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.1


@pytest.mark.parametrize("values", [np.arange(256.0), np.arange(17.0) / 16, np.arange(-128.0, 128) / 4])
def test_grids_are_exact_at_8_bits(values: np.ndarray) -> None:
    """Pixels, binary fractions: what has 8 bits already loses nothing."""
    tensor = tensor_at(8, values)
    assert np.array_equal(dequantize_values(quantize_values(values, tensor), tensor), values)


@pytest.mark.parametrize("values", [np.zeros(5), np.full(5, 1e-38), np.full(5, -3e38)])
def test_extreme_ranges_have_usable_scales(values: np.ndarray) -> None:
    tensor = tensor_at(4, values)
    assert np.finfo(np.float32).tiny < tensor.scale < np.inf


def test_steps_in_the_wrong_order(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    raw = import_onnx(net.save(tmp_path / "network.onnx", net.conv("x", 3, 4)))
    data = samples_for(raw)
    assert refusal(lambda: calibrate(raw, data)) == ("network 'network' is not prepared: call prepare() before this")
    calibration = calibrate(prepare(raw), data)
    longer = prepare(
        import_onnx(net.save(tmp_path / "network.onnx", net.node("MaxPool", "conv0_out", kernel_shape=[2, 2])))
    )
    assert refusal(lambda: quantize(longer, calibration)) == (
        "the calibration has no range of tensor 'maxpool1_out' of network 'network'; it comes from another network"
    )
