"""The quantiser's refinements: each does what it says, none does harm on its own data, and the results still run."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx_networks import OnnxBuilder, random_network, residual_network
from random_networks import random_inputs

from tessera.compiler import CompilerError, Refinements, calibrate, equalise, import_onnx, prepare, quantize, to_integer
from tessera.compiler.float_execution import execute, preactivation
from tessera.compiler.graph import CONVOLUTION, Graph, Node
from tessera.compiler.paired_execution import Moments, PairedExecution
from tessera.compiler.quantize import largest_weight, quantize_weights, weight_scales
from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork, equal_quantized
from tessera.compiler.quantized_execution import dequantize_values, execute_quantized, host_before
from tessera.compiler.refinements import NO_REFINEMENTS, REFINEMENTS
from tessera.compiler.rounding import Fit, fit_group, round_weights
from tessera.firmware.inference import compile_network
from tessera.rtl.config import ACTIVATION_DEPTHS, WEIGHT_DEPTHS, NpuConfig
from tessera.sim.golden.arithmetic import depth_range
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.stream import StreamModel

SEEDS = st.integers(0, 1 << 16)

WEIGHTS = arrays.arrays(np.float64, (3, 2, 2, 2), elements=st.floats(-100, 100, width=32))


def prepared(folder: Path, net: OnnxBuilder, *outputs: str) -> Graph:
    """The network after all passes."""
    return prepare(import_onnx(net.save(folder / "network.onnx", *outputs)))


def samples_for(graph: Graph, count: int = 32, seed: int = 0) -> dict[str, np.ndarray]:
    """Normally distributed inputs."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(count, *graph.shapes[name][1:])).astype(np.float32) for name in graph.inputs}


def quantized(
    graph: Graph, data: dict[str, np.ndarray], depths: tuple[int, int], refinements: Refinements
) -> QuantizedNetwork:
    """The network with (activation, weight) depths, equalised if the refinements say so."""
    if refinements.equalisation:
        graph = equalise(graph, data)
    return quantize(graph, calibrate(graph, data, refinements=refinements), *depths, refinements=refinements)


def only(*names: str) -> Refinements:
    """No refinements but these."""
    return NO_REFINEMENTS.switched(names, on=True)


def dense_network(tmp_path: Path, pooled: bool = False) -> Graph:
    """Two convolutions, with maximum pooling between them or not."""
    net = OnnxBuilder(np.random.default_rng(1))
    hidden = net.node("Relu", net.conv("x", 3, 12, pads=[1, 1, 1, 1]))
    if pooled:
        hidden = net.node("MaxPool", hidden, kernel_shape=[2, 2])
    return prepared(tmp_path, net, net.conv(hidden, 12, 6))


def convolutions(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == CONVOLUTION]


# --- Properties of the nearest step ---------------------------------------------------------------------------------


@given(WEIGHTS, st.sampled_from(WEIGHT_DEPTHS))
def test_the_full_range_loses_half_a_step(weights: np.ndarray, depth: int) -> None:
    scales = weight_scales(weights, depth, search=False)
    assert np.allclose(scales, np.abs(weights).max(axis=(1, 2, 3)) / largest_weight(depth))
    safe = np.where(scales > 0, scales, 1.0)
    integers = quantize_weights(weights, safe, depth)
    steps = safe.reshape(-1, 1, 1, 1)
    assert np.abs(integers).max() <= largest_weight(depth)
    assert (np.abs(integers * steps - weights) <= steps * (0.5 + 1e-9)).all()
    assert np.array_equal(quantize_weights(integers * steps, safe, depth), integers)


@given(SEEDS, st.booleans())
def test_weights_lose_less_with_more_bits(seed: int, search: bool) -> None:
    weights = np.random.default_rng(seed).normal(size=(5, 4, 3, 3))
    errors = []
    for depth in WEIGHT_DEPTHS:
        scales = weight_scales(weights, depth, search=search)
        rounded = quantize_weights(weights, scales, depth) * scales.reshape(-1, 1, 1, 1)
        errors.append(((rounded - weights) ** 2).sum(axis=(1, 2, 3)))
    assert all((shallow > 50 * deep).all() for shallow, deep in itertools.pairwise(errors))


@given(WEIGHTS, st.sampled_from(WEIGHT_DEPTHS))
def test_scale_search_is_not_worse_than_the_full_range(weights: np.ndarray, depth: int) -> None:
    errors = []
    for search in (True, False):
        scales = weight_scales(weights, depth, search=search)
        steps = np.where(scales > 0, scales, 1.0).reshape(-1, 1, 1, 1)
        errors.append(
            ((quantize_weights(weights, steps.reshape(-1), depth) * steps - weights) ** 2).sum(axis=(1, 2, 3))
        )
    assert (errors[0] <= errors[1] * (1 + 1e-9)).all()


# --- Rounding -------------------------------------------------------------------------------------------------------


def random_fit(rng: np.random.Generator, channels: int, size: int) -> Fit:
    """A quadratic form of correlated inputs."""
    inputs = rng.normal(size=(size + 2, size)) @ rng.normal(size=(size, size))
    return Fit(rng.normal(size=(channels, size)) * 4, inputs.T @ inputs / len(inputs) + 0.01 * np.eye(size))


@given(SEEDS, st.integers(1, 100), st.sampled_from(WEIGHT_DEPTHS))
def test_rounding_is_not_worse_than_the_nearest_integers(seed: int, size: int, depth: int) -> None:
    """... and in the end no single weight could be better; there are more weights than a block has."""
    rng = np.random.default_rng(seed)
    fit, top = random_fit(rng, 3, size), largest_weight(depth)
    scales = rng.uniform(0.5, 2, 3)
    weights = fit.weights + rng.normal(size=fit.weights.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tessera.compiler.rounding._MOST_SWEEPS", 1000)
        integers = round_weights(fit, weights, scales, top)
    assert np.array_equal(integers, np.rint(integers))
    assert np.abs(integers).max() <= top
    steps = scales[:, np.newaxis]
    error = fit.error(integers * steps)
    assert (error <= fit.error(np.clip(np.rint(weights / steps), -top, top) * steps) * (1 + 1e-9)).all()
    for index in rng.integers(0, size, 5):
        for move in (-1, 1):
            moved = integers.copy()
            moved[:, index] = np.clip(moved[:, index] + move, -top, top)
            assert (fit.error(moved * steps) >= error * (1 - 1e-9) - 1e-9).all()


def test_rounding_is_nearly_the_best_of_all() -> None:
    """Against all integers near the weights; on the whole, since a single problem can end beside its best."""
    total = np.zeros(3)
    for seed in range(200):
        fit = random_fit(np.random.default_rng(seed), 1, 4)
        around = np.clip(np.rint(fit.weights) + np.array(list(itertools.product(range(-2, 3), repeat=4))), -7, 7)
        best = Fit(np.repeat(fit.weights, len(around), axis=0), fit.curvature).error(around).min()
        found = fit.error(round_weights(fit, fit.weights, np.ones(1), 7)).item()
        total += best, found, fit.error(np.clip(np.rint(fit.weights), -7, 7)).item()
    best, found, nearest = total
    assert found < best + 0.1 * (nearest - best)


@pytest.mark.parametrize("top, most", [(1, 0.96), (7, 0.6), (127, 0.4)])
def test_rounding_in_turn_makes_up_for_earlier_weights(monkeypatch: pytest.MonkeyPatch, top: int, most: float) -> None:
    """Before any weight is looked at again; where the range is too small for it, the nearest integers may be better."""
    monkeypatch.setattr("tessera.compiler.rounding._MOST_SWEEPS", 0)
    total = np.zeros(2)
    for seed in range(10):
        fit = random_fit(np.random.default_rng(seed), 3, 100)
        found = fit.error(round_weights(fit, fit.weights, np.ones(3), top))
        nearest = fit.error(np.clip(np.rint(fit.weights), -top, top))
        assert (found <= nearest).all()
        total += found.sum(), nearest.sum()
    assert total[0] < most * total[1]


def test_independent_inputs_leave_nothing_to_gain() -> None:
    fit = Fit(np.random.default_rng(0).normal(size=(4, 9)) * 3, np.diag(np.arange(1.0, 10)))
    assert np.array_equal(round_weights(fit, fit.weights, np.ones(4), 7), np.clip(np.rint(fit.weights), -7, 7))


def test_constant_inputs_leave_the_weights() -> None:
    """Their variance is zero but for rounding errors; a free bias makes up for everything."""
    patch = np.full((1, 5), 1e3 / 3)
    moments = Moments(
        patch, np.ones((1, 2)), patch[..., np.newaxis] @ patch[:, np.newaxis] * (1 + 1e-15), np.ones((1, 2, 5)), 9
    )
    weights = np.random.default_rng(0).normal(size=(2, 5))
    fit = fit_group(weights, None, moments, 0)
    assert np.array_equal(fit.weights, weights)
    assert not fit.curvature.any()
    assert fit_group(weights, np.zeros(2), moments, 0).curvature.any()


@pytest.mark.parametrize("free_bias", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_rounding_lowers_the_error_of_a_layer_on_its_own_data(tmp_path: Path, seed: int, free_bias: bool) -> None:
    """The layer's sums against the float layer's, computed from the outputs, with activations that are nearly exact."""
    rng = np.random.default_rng(seed)
    net = OnnxBuilder(rng, (1, 4, 7, 6))
    groups = int(rng.choice([1, 2, 4]))
    weights, bias = net.random(8, 4 // groups, 3, 2), net.random(8)
    output = net.node("Conv", "x", weights, bias, group=groups, pads=[1, 1, 0, 0], strides=[1, 2])
    graph = prepared(tmp_path, net, output)
    data = samples_for(graph, 16, seed)
    data["x"] = data["x"].cumsum(axis=1).cumsum(axis=3)  # channels and pixels have much in common, as in real maps
    exact = execute(graph, data)[output]
    names = ["rounding", *["bias_correction"] * free_bias]
    errors = {
        switches: np.square(execute_quantized(quantized(graph, data, (16, 4), only(*switches)), data)[output] - exact)
        for switches in ((), tuple(names))
    }
    without, refined = (error.mean(axis=(0, 2, 3)) for error in errors.values())
    assert (refined <= without * (1 + 1e-3)).all()
    assert refined.sum() < 0.95 * without.sum()


def test_rounding_makes_up_for_layers_before(tmp_path: Path) -> None:
    """The second layer is fitted to what the first one gives at 4 bits, and so the network's error falls."""
    graph = dense_network(tmp_path)
    data, others = samples_for(graph, 64), samples_for(graph, 64, seed=1)
    (output,) = graph.outputs
    exact = execute(graph, others)[output]
    errors = [
        float(np.mean(np.square(execute_quantized(quantized(graph, data, (4, 4), each), others)[output] - exact)))
        for each in (NO_REFINEMENTS, only("rounding"))
    ]
    assert errors[1] < 0.8 * errors[0]


def test_the_pair_is_what_the_golden_model_computes(tmp_path: Path) -> None:
    """Inputs are those of the integers that the NPU will compute; targets make up for their residual operands."""
    net, output = residual_network(np.random.default_rng(5))
    graph = prepared(tmp_path, net, output)
    data = samples_for(graph, 40)
    network = quantize(graph, calibrate(graph, data), 4, 4)
    integers = evaluate(to_integer(network), host_before(network, data).integers)
    reals = {name: dequantize_values(values, network.tensors[name]) for name, values in integers.items()}
    exact = execute(graph, data, list(network.tensors))
    pair = PairedExecution(graph, data, network.tensors)
    operations = {operation.name: operation for operation in network.operations}
    for node in convolutions(graph):
        moments = pair.moments(node)
        operation = operations[node.name]
        assert isinstance(operation, QuantizedConvolution)
        pair.replace(node, operation)
        if operation.weights[0, 0].size == 1 and operation.stride == (1, 1):
            means = reals[operation.input].mean(axis=(0, 2, 3))
            np.testing.assert_allclose(moments.patch[0], means, rtol=1e-3, atol=1e-4)
        target = preactivation(graph, node, exact[operation.input])
        if node.residual is not None:
            target += exact[node.residual] - reals[node.residual]
        np.testing.assert_allclose(moments.target[0], target.mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_large_layers_are_rounded_to_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = dense_network(tmp_path)
    data = samples_for(graph)
    # The package's attribute of this name is the function.
    monkeypatch.setattr(sys.modules["tessera.compiler.quantize"], "LARGEST_FAN_IN", 1)
    first, second = (quantized(graph, data, (8, 4), each) for each in (NO_REFINEMENTS, only("rounding")))
    assert equal_quantized(first, second)


def test_large_maps_are_fitted_with_fewer_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = dense_network(tmp_path)
    data = samples_for(graph)
    monkeypatch.setattr("tessera.compiler.paired_execution._MOST_VALUES", 3 * 12 * 8 * 8)
    few = quantized(graph, data, (8, 4), only("rounding"))
    monkeypatch.undo()
    calibration = calibrate(graph, data, refinements=NO_REFINEMENTS)
    pair = PairedExecution(graph, {"x": data["x"][:3]}, few.tensors)
    assert pair.moments(convolutions(graph)[0]).count == 3 * 8 * 8
    all_samples = quantize(graph, calibration, 8, 4, refinements=only("rounding"))
    assert not equal_quantized(few, all_samples)


# --- Equalisation ---------------------------------------------------------------------------------------------------


def unbalanced(net: OnnxBuilder, rng: np.random.Generator) -> None:
    """Gives every output channel of every layer a size of its own."""
    for value in net.constants.values():
        if value.ndim == 4:
            value *= 10.0 ** rng.uniform(-2, 2, (len(value), 1, 1, 1)).astype(np.float32)


def mobile_network(rng: np.random.Generator) -> tuple[OnnxBuilder, str]:
    """Depthwise and pointwise convolutions, and pooling."""
    net = OnnxBuilder(rng)
    x = net.node("Relu", net.conv("x", 3, 6))
    x = net.node("Relu", net.node("Conv", x, net.random(6, 1, 3, 3), net.random(6), group=6, pads=[1, 1, 1, 1]))
    x = net.node("AveragePool", net.node("Relu", net.conv(x, 6, 5, (1, 1))), kernel_shape=[2, 2])
    x = net.node("MaxPool", net.conv(x, 5, 7, (1, 1)), kernel_shape=[2, 2])
    return net, net.gemm(net.node("Flatten", x), 7 * 4 * 4, 4)


@settings(max_examples=40)
@given(SEEDS, st.sampled_from([random_network, residual_network, mobile_network]))
def test_equalisation_changes_no_output(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: Callable[..., tuple[OnnxBuilder, str]]
) -> None:
    rng = np.random.default_rng(seed)
    net, output = kind(rng)
    unbalanced(net, rng)
    graph = prepared(tmp_path_factory.mktemp("equalised"), net, output)
    data = samples_for(graph, 4, seed)
    equalised = equalise(graph, data)
    exact, found = execute(graph, data)[output], execute(equalised, data)[output]
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-5 * np.abs(exact).max())
    assert equalised.format() == equalise(equalised, data).format()


@pytest.mark.parametrize("pooled", [False, True])
def test_equalisation_balances_channels(tmp_path: Path, pooled: bool) -> None:
    """A network whose channels are of very different size loses hardly more than one whose channels are alike."""
    graph = dense_network(tmp_path, pooled)
    data, others = samples_for(graph, 32), samples_for(graph, 32, seed=1)
    factors = 2.0 ** np.random.default_rng(0).integers(-5, 6, 12).astype(np.float32)
    first, second = convolutions(graph)
    skewed = graph.copy()
    for name in first.inputs[1:3]:
        skewed.constants[name] = (graph.constants[name].T * factors).T
    skewed.constants[second.inputs[1]] = graph.constants[second.inputs[1]] / factors.reshape(1, -1, 1, 1)
    (output,) = graph.outputs
    exact = execute(graph, others)[output]

    def error(network: Graph, refinements: Refinements) -> float:
        scores = execute_quantized(quantized(network, data, (4, 4), refinements), others)[output]
        return float(np.mean(np.square(scores - exact)) / np.mean(np.square(exact)))

    assert error(skewed, NO_REFINEMENTS) > 3 * error(graph, NO_REFINEMENTS)
    assert error(skewed, only("equalisation")) < 2 * error(graph, NO_REFINEMENTS)


def relu6(net: OnnxBuilder, x: str) -> str:
    return net.node("Clip", x, net.constant(0.0), net.constant(6.0))


def sigmoid(net: OnnxBuilder, x: str) -> str:
    return net.node("Sigmoid", x)


def residual(net: OnnxBuilder, x: str) -> str:
    return net.node("Relu", net.node("Add", x, "x"))


@pytest.mark.parametrize("between", [relu6, sigmoid, residual])
def test_what_does_not_commute_is_left_alone(tmp_path: Path, between: Callable[[OnnxBuilder, str], str]) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.conv(between(net, net.conv("x", 3, 3, (1, 1))), 3, 4))
    equalised = equalise(graph, samples_for(graph))
    assert equalised.constants.keys() == graph.constants.keys()
    assert all(equalised.constants[name] is value for name, value in graph.constants.items())


def test_what_others_read_is_left_alone(tmp_path: Path) -> None:
    """A tensor that is an output too, itself or behind pooling, or also a residual operand."""
    net = OnnxBuilder(np.random.default_rng(0))
    first = net.node("Relu", net.conv("x", 3, 3, (1, 1)))
    second = net.node("Relu", net.conv(first, 3, 3, (1, 1)))
    pooled = net.node("MaxPool", second, kernel_shape=[2, 2])
    third = net.node("Relu", net.conv(second, 3, 3, (1, 1)))
    fourth = net.conv(third, 3, 3, (1, 1))
    graph = prepared(tmp_path, net, first, pooled, net.node("Add", fourth, third))
    equalised = equalise(graph, samples_for(graph))
    assert all(equalised.constants[name] is value for name, value in graph.constants.items())


def test_layers_that_share_weights_are_scaled_apart(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0), (1, 3, 6, 6))
    weights = net.random(3, 3, 3, 3)
    x = "x"
    for _ in range(3):
        x = net.node("Relu", net.node("Conv", x, weights, pads=[1, 1, 1, 1]))
    graph = prepared(tmp_path, net, x)
    data = samples_for(graph)
    equalised = equalise(graph, data)
    assert len({node.inputs[1] for node in convolutions(equalised)}) == 3
    np.testing.assert_allclose(execute(equalised, data)[x], execute(graph, data)[x], rtol=1e-4, atol=1e-5)


def test_dead_channels_and_layers_stay(tmp_path: Path) -> None:
    graph = dense_network(tmp_path)
    first, second = convolutions(graph)
    graph.constants = {name: value.copy() for name, value in graph.constants.items()}
    graph.constants[first.inputs[1]][:2] = 0
    graph.constants[first.inputs[2]][:2] = [-1, 1e-6]
    data = samples_for(graph)
    (output,) = graph.outputs
    exact = execute(graph, data)[output]
    with np.errstate(all="raise", under="ignore"):
        equalised = equalise(graph, data)
        np.testing.assert_allclose(execute(equalised, data)[output], exact, rtol=1e-4, atol=1e-5)
        factors = graph.constants[first.inputs[2]] / equalised.constants[first.inputs[2]]
        assert 0.03 < factors.min() < factors.max() < 32
        graph.constants[second.inputs[1]][:3] = 0
        equalise(graph, data)
        graph.constants[second.inputs[1]][:] = 0
        assert equalise(graph, data).format() == graph.format()


def test_weights_at_the_end_of_float32_are_left_alone(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0), (1, 2, 1, 1))
    weights = net.constant(np.array([[1e38, 0], [0, 3e38]]).reshape(2, 2, 1, 1))
    graph = prepared(tmp_path, net, net.conv(net.node("Conv", "x", weights), 2, 3, (1, 1)))
    data = {"x": np.array([1e-37, 1e-40], np.float32).reshape(1, 2, 1, 1)}
    with np.errstate(over="ignore"):
        assert all(np.isfinite(value).all() for value in equalise(graph, data).constants.values())


def test_equalisation_checks_its_data(tmp_path: Path) -> None:
    graph = dense_network(tmp_path)
    for data, sentence in (
        ({"x": np.zeros((0, 3, 8, 8))}, "there are no samples"),
        ({"x": np.full((1, 3, 8, 8), 3e38)}, "computes NaN or infinity in tensor 'relu1_out'"),
    ):
        with pytest.raises(CompilerError, match=sentence), np.errstate(over="ignore", invalid="ignore"):
            equalise(graph, data)


# --- Switches -------------------------------------------------------------------------------------------------------


def test_clip_search_cuts_rare_values_off(tmp_path: Path) -> None:
    graph = dense_network(tmp_path)
    data = samples_for(graph, 64)
    full, clipped = (calibrate(graph, data, refinements=each).ranges for each in (NO_REFINEMENTS, only("clip_search")))
    for measured in full.values():
        for depth in ACTIVATION_DEPTHS:
            scale = measured.base_scale * 2.0 ** measured.clip_shifts.get(depth, 0)
            low, high = depth_range(depth, measured.signed)
            assert low * scale <= measured.minimum
            assert measured.maximum <= high * scale * (1 + 1e-6)
    assert clipped["x"].base_scale * 2.0 ** clipped["x"].clip_shifts[4] * 7 < clipped["x"].maximum


def test_bias_correction(tmp_path: Path) -> None:
    """Without it the biases are the float network's; with it each channel's mean is right, with rounding or without."""
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepared(tmp_path, net, net.conv("x", 3, 8))
    data = {"x": np.random.default_rng(1).uniform(size=(64, 3, 8, 8)).astype(np.float32)}
    exact = execute(graph, data)["conv0_out"].mean(axis=(0, 2, 3))

    def measure(*names: str) -> tuple[np.ndarray, np.ndarray]:
        network = quantized(graph, data, (16, 4), only(*names))
        means = execute_quantized(network, data)["conv0_out"].mean(axis=(0, 2, 3))
        return network.operations[0].bias, np.abs(means - exact)

    for others in ((), ("rounding",)):
        bias, error = measure(*others)
        np.testing.assert_allclose(bias, graph.constants["constant1"], atol=1e-4)
        assert measure(*others, "bias_correction")[1].max() < 0.1 * error.max()


def test_every_switch_changes_the_network(tmp_path: Path) -> None:
    graph = dense_network(tmp_path)
    data = samples_for(graph)
    plain = quantized(graph, data, (4, 4), NO_REFINEMENTS)
    assert equal_quantized(plain, quantized(graph, data, (4, 4), NO_REFINEMENTS))
    for name in REFINEMENTS:
        assert not equal_quantized(plain, quantized(graph, data, (4, 4), only(name))), name


@pytest.mark.parametrize("depth", WEIGHT_DEPTHS)
def test_weights_that_were_trained_for_a_depth_stay(tmp_path: Path, depth: int) -> None:
    graph = dense_network(tmp_path)
    expected = {}
    for node in convolutions(graph):
        weights, bias = (graph.constants[name] for name in node.inputs[1:3])
        scales = weight_scales(weights, depth).astype(np.float32)
        expected[node.name] = quantize_weights(weights, scales, depth), bias
        graph.constants[node.inputs[1]] = expected[node.name][0] * scales.reshape(-1, 1, 1, 1)
    for operation in quantized(graph, samples_for(graph), (4, depth), Refinements()).operations:
        assert isinstance(operation, QuantizedConvolution)
        integers, bias = expected[operation.name]
        np.testing.assert_array_equal(operation.weights, integers)
        np.testing.assert_allclose(operation.bias, bias, atol=2e-2)


def test_quantising_twice_gives_the_same(tmp_path: Path) -> None:
    graph = dense_network(tmp_path)
    data = samples_for(graph)
    assert equal_quantized(*(quantized(graph, data, (4, 4), Refinements()) for _ in range(2)))


@pytest.mark.parametrize("depths", [(4, 4), (6, 8), (16, 4)])
@pytest.mark.parametrize("kind", [random_network, residual_network, mobile_network])
def test_refined_networks_run(
    tmp_path: Path, kind: Callable[..., tuple[OnnxBuilder, str]], depths: tuple[int, int]
) -> None:
    """The stream model's integers are the golden model's."""
    config = NpuConfig.preset("tiny")
    rng = np.random.default_rng(depths[0])
    net, output = kind(rng)
    graph = prepared(tmp_path, net, output)
    compiled = compile_network(quantized(graph, samples_for(graph), depths, Refinements()), config)
    inputs = random_inputs(rng, compiled.integer)
    found, expected = StreamModel(config).run(compiled.program, inputs), evaluate(compiled.integer, inputs)
    for name in compiled.integer.outputs:
        np.testing.assert_array_equal(found[name], expected[name])
