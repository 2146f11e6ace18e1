"""Sensitivity profiles: their methods against exact values, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_networks import OnnxBuilder
from scipy.stats import spearmanr

from tessera.compiler import calibrate, import_onnx, prepare
from tessera.compiler.datasets import DatasetSplit, load_digits_split
from tessera.compiler.errors import CompilerError
from tessera.compiler.graph import Graph
from tessera.compiler.precision import SensitivityProfile
from tessera.compiler.sensitivity import METHODS, Curvature, HessianOptions, Probe, analyse, make_loss
from tessera.rtl.config import ACTIVATION_DEPTHS, WEIGHT_DEPTHS

MODELS = Path(__file__).resolve().parents[1] / "models"


def digits() -> DatasetSplit:
    pytest.importorskip("sklearn", reason="the digits need scikit-learn")
    return load_digits_split()


def network(tmp_path: Path, *, classifier: bool = True) -> tuple[Graph, dict[str, np.ndarray]]:
    """Two convolutions with ReLU and a fully connected layer; 24 random images."""
    rng = np.random.default_rng(0)
    builder = OnnxBuilder(rng, (1, 2, 5, 5))
    name = builder.node("Relu", builder.conv("x", 2, 3))
    name = builder.node("Relu", builder.conv(name, 3, 4))
    name = builder.gemm(builder.node("Flatten", name), 4, 3)
    output = builder.node("Softmax", name) if classifier else name
    path = builder.save(tmp_path / "net.onnx", output)
    return prepare(import_onnx(path)), {"x": rng.normal(size=(24, 2, 5, 5)).astype(np.float32)}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Every method, the one that needs PyTorch only with it."""
    if request.param == "gradient":
        pytest.importorskip("torch", reason="derivatives need the extra 'train'")
    return request.param


def profile(graph: Graph, data: dict[str, np.ndarray], method: str, **options: object) -> SensitivityProfile:
    """The profile by a method; gradients are of a loss against some labels."""
    if method == "gradient":
        options = {"labels": np.arange(len(next(iter(data.values())))) % 3, **options}
    return analyse(graph, calibrate(graph, data), data, method, **options)


def test_every_layer_and_depth(method: str, tmp_path: Path) -> None:
    """All depths of all layers, deeper ones no more sensitive than half as deep ones, and the same when repeated."""
    graph, data = network(tmp_path)
    first = profile(graph, data, method)
    assert ["x", *(node.name for node in Probe(graph, data).layers)] == list(first.layers)
    for name, layer in first.layers.items():
        assert tuple(layer.activations) == ACTIVATION_DEPTHS
        assert tuple(layer.weights) == (() if name == "x" else WEIGHT_DEPTHS)
        assert not layer.weights or layer.weights[8] < layer.weights[4]
        assert layer.activations[8] < layer.activations[4]
        assert abs(layer.activations[16]) < 1e-3 * layer.activations[4]
    assert profile(graph, data, method) == first


def test_host_nodes_with_constants(tmp_path: Path) -> None:
    """Nodes that stay on the host compute in the analysis' number type too."""
    builder = OnnxBuilder(np.random.default_rng(0), (1, 2, 5, 5))
    shifted = builder.node("Softmax", builder.node("Sub", "x", builder.random(5)))
    path = builder.save(tmp_path / "net.onnx", builder.conv(shifted, 2, 3))
    data = {"x": np.random.default_rng(1).normal(size=(8, 2, 5, 5)).astype(np.float32)}
    assert profile(prepare(import_onnx(path)), data, "noise").layers


def exact_mean_diagonals(probe: Probe) -> list[float]:
    """Mean diagonal elements of the Hessian of each layer's weights, element by element by second differences."""
    samples, means = np.arange(probe.samples), []
    for node in probe.layers:
        weights = probe.weights(node)
        if weights is None:
            continue
        step, elements = 1e-4, []
        for index in np.ndindex(weights.shape):
            losses = []
            for sign in (1, 0, -1):
                moved = weights.copy()
                moved[index] += sign * step
                losses.append(probe.loss_with_weights(node, moved, samples))
            elements.append((losses[0] - 2 * losses[1] + losses[2]) / step**2)
        means.append(float(np.mean(elements)))
    return means


def test_traces_of_a_linear_network(tmp_path: Path) -> None:
    """Where the loss is quadratic the exact mean diagonal is known: 2 * mean of x ** 2 / outputs / power."""
    rng = np.random.default_rng(1)
    builder = OnnxBuilder(rng, (1, 6))
    path = builder.save(tmp_path / "linear.onnx", builder.gemm("x", 6, 4))
    graph, data = prepare(import_onnx(path)), {"x": rng.normal(size=(64, 6)).astype(np.float32)}
    probe = Probe(graph, data)
    (node,) = probe.layers
    power = np.mean(np.square(probe.values(node.output, np.arange(64))))
    expected = 2 * np.mean(np.square(data["x"].astype(np.float64))) / 4 / power
    assert exact_mean_diagonals(probe)[0] == pytest.approx(expected, rel=1e-4)
    found = profile(graph, data, "hessian", hessian=HessianOptions(directions=400, batch=64))
    error = profile(graph, data, "noise")
    weights = probe.weights(node)
    assert weights is not None
    squares = {depth: noise * np.square(weights).sum() for depth, noise in error.layers[node.name].weights.items()}
    estimates = [found.layers[node.name].weights[depth] / squares[depth] for depth in WEIGHT_DEPTHS]
    assert estimates == pytest.approx([expected, expected], rel=0.1)


def test_traces_rank_as_the_exact_ones(tmp_path: Path) -> None:
    """Of a smooth network of four layers, whose exact Hessian is computed element by element. The loss
    is that against the network's own results, whose Hessian is nowhere negative."""
    rng = np.random.default_rng(2)
    builder = OnnxBuilder(rng, (1, 2, 5, 5))
    name, channels = "x", 2
    for filters, gain in ((3, 3.0), (3, 0.5), (2, 2.0)):
        scale = builder.constant(np.full((1, 1, 1, 1), gain))
        name = builder.node("Tanh", builder.node("Mul", builder.conv(name, channels, filters, (2, 2)), scale))
        channels = filters
    output = builder.node("Softmax", builder.gemm(builder.node("Flatten", name), 4 * channels, 3))
    graph = prepare(import_onnx(builder.save(tmp_path / "tanh.onnx", output)))
    data = {"x": rng.normal(size=(32, 2, 5, 5)).astype(np.float32)}
    probe = Probe(graph, data)
    options = HessianOptions(directions=100, batch=32)
    estimator = Curvature(probe, options)
    traces = [estimator.weight_curvature(node) for node in probe.layers if probe.weights(node) is not None]
    exact = exact_mean_diagonals(probe)
    assert spearmanr(traces, exact).statistic > 0.98
    np.testing.assert_allclose(traces, exact, rtol=0.35)


def test_max_pooling_commutes_with_quantisation(method: str) -> None:
    """A layer before a max pooling is as sensitive as the pooling, whatever kinks that has."""
    graph = prepare(import_onnx(MODELS / "digits_cnn.onnx"))
    images = digits().calibration.images[:16]
    layers = profile(graph, {graph.inputs[0]: images.reshape(16, *graph.shapes[graph.inputs[0]][1:])}, method).layers
    assert layers["conv1"].activations == layers["pool1"].activations
    assert layers["pool1"].activations[4] > 0


def test_losses() -> None:
    """With labels or probabilities the cross-entropy, else the squared error; least where nothing has changed."""
    rng = np.random.default_rng(0)
    samples = np.arange(5)
    logits = rng.normal(size=(5, 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([0, 2, 1, 1, 0])
    expected = -np.log(chances[samples, labels]).mean()
    assert make_loss({"y": logits}, labels)({"y": logits}, samples) == pytest.approx(expected)
    assert make_loss({"y": chances}, labels)({"y": chances}, samples) == pytest.approx(expected)
    own = make_loss({"y": chances})
    assert own({"y": chances}, samples) < own({"y": np.roll(chances, 1, axis=1)}, samples)
    squared = make_loss({"y": logits, "z": np.zeros((5, 2))})
    assert squared({"y": logits, "z": np.zeros((5, 2))}, samples) == 0
    assert squared({"y": 2 * logits, "z": np.ones((5, 2))}, samples) == pytest.approx(2)


def test_dead_layers_and_constant_inputs(method: str, tmp_path: Path) -> None:
    """Where all samples are alike, or a layer makes them so, there is nothing to estimate."""
    graph, data = network(tmp_path)
    with pytest.raises(CompilerError, match=r"^input 'x' is the same for all 24 samples, so that no sensitivity can"):
        profile(graph, {"x": np.ones_like(data["x"])}, method)
    first = Probe(graph, data).layers[0]
    graph.constants[first.inputs[1]] = np.zeros_like(graph.constants[first.inputs[1]])
    with pytest.raises(CompilerError, match=f"^layer '{first.name}' is dead: its results are the same for all 24"):
        profile(graph, data, method)


def test_refusals(tmp_path: Path) -> None:
    """Too few samples, an unknown method, labels that fit no output, a network that is not finite."""
    graph, data = network(tmp_path)
    few = {"x": data["x"][:7]}
    with pytest.raises(CompilerError, match=r"^7 samples are too few to estimate sensitivities; give at least 8$"):
        profile(graph, few, "noise")
    with pytest.raises(CompilerError, match="there is no sensitivity method 'guess'; use one of hessian"):
        profile(graph, data, "guess")
    with pytest.raises(CompilerError, match="the labels go from 0 to 9, but the network has the outputs"):
        profile(graph, data, "noise", labels=np.arange(24) % 10)
    calibration = calibrate(graph, data)
    name = Probe(graph, data).layers[-1].inputs[1]
    graph.constants[name] = np.full_like(graph.constants[name], np.nan)
    with pytest.raises(CompilerError, match="of the float network is not finite"):
        analyse(graph, calibration, data, "noise")
