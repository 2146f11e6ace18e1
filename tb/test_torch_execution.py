"""Prepared networks in PyTorch: the same numbers as in numpy, and exact derivatives.

PyTorch comes with the extra ``train``; without it all but the sentence that says so is skipped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_networks import OnnxBuilder, random_network, residual_network
from scipy.stats import spearmanr
from test_onnx_writer import special_network

from tessera.compiler import calibrate, import_onnx, prepare
from tessera.compiler.errors import CompilerError
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import Graph
from tessera.compiler.quantize import quantize_weights, weight_scales
from tessera.compiler.sensitivity import METHODS, HessianOptions, Probe, analyse
from tessera.compiler.sensitivity.derivatives import Derivatives
from tessera.compiler.torch_execution import TorchNetwork
from tessera.rtl.config import WEIGHT_DEPTHS


@pytest.fixture
def torch() -> object:
    module = pytest.importorskip("torch", reason="derivatives need the extra 'train'")
    module.set_num_threads(1)
    return module


def prepared(net: OnnxBuilder, output: str, folder: Path) -> Graph:
    return prepare(import_onnx(net.save(folder / "net.onnx", output)))


def samples(graph: Graph, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(count, *graph.shapes[name][1:])).astype(np.float32) for name in graph.inputs}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("make", [random_network, residual_network, special_network])
def test_same_numbers_as_numpy(torch: object, tmp_path: Path, make: object, seed: int) -> None:
    graph = prepared(*make(np.random.default_rng(seed)), tmp_path)
    data = samples(graph, 3, seed)
    network = TorchNetwork(graph, double=True)
    expected = execute(graph, data, [node.output for node in graph.nodes], dtype=np.float64)
    values = network(network.given(data))
    for name, value in expected.items():
        found = values[name].detach().numpy().reshape(value.shape)
        np.testing.assert_allclose(found, value, atol=1e-6 if name in graph.outputs else 1e-9)


def test_derivatives_of_a_function_with_a_table(torch: object, tmp_path: Path) -> None:
    """First and second derivatives of the sigmoid of a sum of two inputs."""
    net = OnnxBuilder(np.random.default_rng(0), (1, 2))
    output = net.node("Sigmoid", net.node("Gemm", "x", net.constant([[1.0, 1.0]]), transB=1))
    network = TorchNetwork(prepared(net, output, tmp_path), double=True)
    x = torch.tensor([[0.3, -1.1]], dtype=torch.float64, requires_grad=True)
    value = network({"x": x[np.newaxis]})[output].sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad(first[0, 0], x)
    y = 1 / (1 + np.exp(0.8))
    assert first.detach().numpy() == pytest.approx(np.full((1, 2), y * (1 - y)), rel=1e-5)
    assert second.numpy() == pytest.approx(np.full((1, 2), y * (1 - y) * (1 - 2 * y)), rel=1e-3)


def test_unknown_derivatives_of_the_host_are_refused(torch: object, tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0), (1, 4))
    graph = prepared(net, net.node("Sin", net.gemm("x", 4, 3)), tmp_path)
    (node,) = (node for node in graph.nodes if node.op == "Sin")
    sentence = rf"^node '{node.name}' \(Sin\) behind the NPU has no derivative here; cut the network off before it$"
    with pytest.raises(CompilerError, match=sentence):
        TorchNetwork(graph)


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    graph = prepared(*residual_network(np.random.default_rng(0)), tmp_path)
    sentence = r"^derivatives need PyTorch; install it with `pip install tessera-npu\[train\]`$"
    with pytest.raises(CompilerError, match=sentence):
        TorchNetwork(graph)


def small_classifier(folder: Path) -> Graph:
    """Five layers whose curvatures differ widely, one behind max pooling, and a residual addition."""
    net = OnnxBuilder(np.random.default_rng(3), (1, 2, 6, 6))
    x = net.node("Relu", net.conv("x", 2, 4, pads=[1, 1, 1, 1]))
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    inner = net.node("Relu", net.conv(x, 4, 4, pads=[1, 1, 1, 1]))
    x = net.node("Relu", net.node("Add", net.conv(inner, 4, 4, pads=[1, 1, 1, 1]), x))
    x = net.node("Relu", net.gemm(net.node("Flatten", x), 36, 12))
    return prepared(net, net.gemm(x, 12, 5), folder)


def test_traces_rank_as_the_exact_ones(torch: object, tmp_path: Path) -> None:
    """The estimator that needs no derivatives against automatic differentiation: weights and activations."""
    graph = small_classifier(tmp_path)
    data = samples(graph, 24)
    labels = np.random.default_rng(1).integers(0, 5, 24)
    probe = Probe(graph, data, labels)
    options = HessianOptions(directions=128, batch=probe.samples)
    estimator, exact = METHODS["hessian"](probe, calibrate(graph, data), options), Derivatives(probe)
    pairs = []
    for node in probe.layers:
        if (weights := probe.weights(node)) is not None:
            estimator.prepare_weights(node, weights)
            pairs.append((estimator.mean_diagonal, exact.weight_curvature(node)))
        name = probe.behind_max_pooling(node.output)
        estimator.prepare_activations(name, probe.values(name, np.arange(probe.samples)))
        pairs.append((estimator.mean_diagonal, exact.activation_curvature(name)))
    found, expected = np.array(pairs).T
    assert spearmanr(found, expected).statistic >= 0.98
    np.testing.assert_allclose(found, expected, rtol=0.5, atol=1e-3 * expected.max())


def test_gradient_sensitivity_of_a_linear_network(torch: object, tmp_path: Path) -> None:
    """Of one fully connected layer with cross-entropy the gradients are known: (softmax - label) times the input."""
    net = OnnxBuilder(np.random.default_rng(0), (1, 6))
    graph = prepared(net, net.gemm("x", 6, 4), tmp_path)
    data, labels = samples(graph, 16), np.arange(16) % 4
    calibration = calibrate(graph, data)
    layer = analyse(graph, calibration, data, "gradient", labels=labels).layers[graph.nodes[-1].name]
    scores = execute(graph, data, dtype=np.float64)[graph.outputs[0]].reshape(16, 4)
    errors = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True) - np.eye(4)[labels]
    magnitudes = np.abs(errors[:, :, np.newaxis] * data["x"].reshape(16, 1, 6)).mean(axis=0)
    weights = graph.constants[graph.nodes[-1].inputs[1]].astype(np.float64)
    expected = {}
    for depth in WEIGHT_DEPTHS:
        scales = weight_scales(weights, depth)
        quantised = quantize_weights(weights, scales, depth) * scales.reshape(-1, 1, 1, 1)
        expected[depth] = float((magnitudes * np.abs(quantised - weights)[:, :, 0, 0]).sum())
    assert layer.weights == pytest.approx(expected, rel=1e-5)


def test_gradients_need_labels(torch: object, tmp_path: Path) -> None:
    graph = small_classifier(tmp_path)
    data = samples(graph, 16)
    with pytest.raises(CompilerError, match=r"^the gradients vanish, .*; give the right classes \(an array 'labels'"):
        analyse(graph, calibrate(graph, data), data, "gradient")
