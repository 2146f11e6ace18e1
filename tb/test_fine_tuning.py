"""Quantisation-aware fine-tuning: what it simulates is what the quantised network computes, and it helps.

PyTorch comes with the extra ``train``; without it these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_networks import OnnxBuilder, residual_network

from tessera.compiler import LayerDepths, calibrate, import_onnx, prepare, quantize
from tessera.compiler.fine_tuning import FineTuning, fine_tune
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import CONVOLUTION, Graph
from tessera.compiler.quantize import depths_of
from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork
from tessera.compiler.quantized_execution import execute_quantized
from tessera.compiler.refinements import Refinements
from tessera.compiler.sensitivity import make_loss

torch = pytest.importorskip("torch", reason="fine-tuning needs the extra 'train'")
torch.set_num_threads(1)

DEPTHS = [(4, 4), (4, 8), (6, 4), (8, 8), (16, 8)]
"""(activation depth, weight depth)."""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    net, output = residual_network(np.random.default_rng(0))
    return prepare(import_onnx(net.save(tmp_path / "net.onnx", output)))


def samples(graph: Graph, count: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(count, *graph.shapes[name][1:])).astype(np.float32) for name in graph.inputs}


def quantized_as(graph: Graph, data: dict[str, np.ndarray], *depths: int, **overrides: LayerDepths) -> QuantizedNetwork:
    return quantize(graph, calibrate(graph, data), *depths, overrides)


@pytest.mark.parametrize("activation, weight", DEPTHS)
def test_loss_is_that_of_the_quantised_network(graph: Graph, activation: int, weight: int) -> None:
    """Without learning, the loss that training sees is the loss of what the golden model computes."""
    data = samples(graph, 64)
    seen: list[float] = []
    still = FineTuning(epochs=1, learning_rate=0.0, batch=16)
    tuned = fine_tune(graph, data, data, activation, weight, options=still, progress=lambda _, loss: seen.append(loss))
    loss = make_loss({name: value.reshape(64, -1) for name, value in execute(graph, data).items()})
    outputs = execute_quantized(quantized_as(tuned, data, activation, weight), data)
    floor = loss(execute(graph, data), np.arange(64))
    assert seen[0] - floor == pytest.approx(loss(outputs, np.arange(64)) - floor, rel=0.1, abs=1e-4)


@pytest.mark.parametrize("weight", [4, 8])
def test_quantiser_finds_the_same_weights(graph: Graph, weight: int) -> None:
    """Weights lie on a grid of their depth: quantising them changes them by less than the machine's scales need."""
    data = samples(graph, 32)
    tuned = fine_tune(graph, data, data, 8, weight, options=FineTuning(epochs=2, batch=16))
    network = quantized_as(tuned, data, 8, weight)
    floats = {node.name: tuned.constants[node.inputs[1]] for node in tuned.nodes if node.op == CONVOLUTION}
    for operation in network.operations:
        if isinstance(operation, QuantizedConvolution):
            exact = operation.weights * operation.weight_scales.reshape(-1, 1, 1, 1)
            np.testing.assert_allclose(exact, floats[operation.name], rtol=1e-4, atol=1e-6)


def test_training_lowers_the_error_of_the_quantised_network(graph: Graph) -> None:
    """Against the network that training begins with: rounded to the nearest step, with the scales that training has.
    (The quantiser's own rounding may do as well without training.)"""
    data = samples(graph, 256)
    expected = execute(graph, data)[graph.outputs[0]]
    nearest = Refinements(equalisation=False, rounding=False)

    def error(network: Graph) -> float:
        quantized = quantize(network, calibrate(network, data, refinements=nearest), 4, 4, refinements=nearest)
        outputs = execute_quantized(quantized, data)[graph.outputs[0]]
        return float(np.mean(np.square(outputs - expected)))

    tuned = fine_tune(graph, data, data, 4, 4, options=FineTuning(epochs=15, batch=32, learning_rate=3e-3))
    assert error(tuned) < 0.5 * error(graph)


def test_labels_are_learned(tmp_path: Path) -> None:
    """A network that knows nothing learns two separable classes."""
    rng = np.random.default_rng(5)
    net = OnnxBuilder(rng, (1, 4))
    hidden = net.node("Relu", net.gemm("x", 4, 8))
    graph = prepare(import_onnx(net.save(tmp_path / "net.onnx", net.gemm(hidden, 8, 2))))
    data = {"x": rng.normal(size=(256, 4)).astype(np.float32)}
    labels = (data["x"][:, 0] > data["x"][:, 1]).astype(np.int64)
    tuned = fine_tune(
        graph, data, data, 8, 4, labels=labels, options=FineTuning(epochs=60, batch=32, learning_rate=2e-2)
    )
    outputs = execute_quantized(quantized_as(tuned, data, 8, 4), data)[graph.outputs[0]]
    assert np.mean(outputs.reshape(256, -1).argmax(axis=1) == labels) > 0.85


def test_teacher_is_the_goal(graph: Graph) -> None:
    """Against the outputs of another network the loss is another one, also without learning."""
    data, losses = samples(graph, 32), []
    other = graph.copy()
    last = next(node for node in reversed(graph.nodes) if node.op == CONVOLUTION).inputs[1]
    other.constants[last] = -other.constants[last]
    for teacher in (None, graph, other):
        still = FineTuning(epochs=1, learning_rate=0.0)
        fine_tune(graph, data, data, 8, 8, teacher=teacher, options=still, progress=lambda _, loss: losses.append(loss))
    assert losses[0] == losses[1] < losses[2]


def test_the_same_again_and_the_source_unchanged(graph: Graph) -> None:
    data = samples(graph, 32)
    before = {name: value.copy() for name, value in graph.constants.items()}
    first, second = (fine_tune(graph, data, data, options=FineTuning(epochs=2, batch=16)) for _ in range(2))
    for name, value in before.items():
        assert np.array_equal(graph.constants[name], value)
        assert np.array_equal(first.constants[name], second.constants[name])


def test_depths_of_a_quantised_network_give_it_again(graph: Graph) -> None:
    data = samples(graph, 8)
    names = [node.name for node in graph.nodes if node.op == CONVOLUTION]
    network = quantized_as(graph, data, 4, 4, **{names[1]: LayerDepths(8, 8), names[2]: LayerDepths(None, 8)})
    again = quantized_as(graph, data, 8, 8, **depths_of(network))
    assert depths_of(again) == depths_of(network)
