"""What the layers' variants lose: scales and weights of an adaptive network suit its shallow variants too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adaptive_networks import joined_network
from onnx_networks import OnnxBuilder

from tessera.compiler import calibrate, equalise, import_onnx, prepare, quantize
from tessera.compiler.adaptive import AdaptiveNetwork, Trace, evaluate_adaptive
from tessera.compiler.calibrate import choose_scales
from tessera.compiler.datasets import load_split
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import Graph
from tessera.compiler.paired_execution import PairedExecution, mean_moments
from tessera.compiler.precision import DepthLimits, DepthRange
from tessera.compiler.quantize import computed
from tessera.compiler.quantized import QuantizedNetwork, QuantizedTensor
from tessera.compiler.quantized_execution import dequantize_values, host_before, quantize_values
from tessera.compiler.variants import Variants
from tessera.rtl.config import ACTIVATION_DEPTHS

MODELS = Path(__file__).parents[1] / "models"


def _noise(graph: Graph, network: AdaptiveNetwork, data: Mapping[str, np.ndarray], trace: Trace) -> float:
    """The float scores' variance over the mean squared error of a run, in decibels."""
    (output,) = network.quantized.npu_outputs
    exact = execute(graph, data, [output])[output].reshape(len(next(iter(data.values()))), -1)
    integers = evaluate_adaptive(network, host_before(network.quantized, data).integers, trace)[output]
    scores = dequantize_values(integers, network.quantized.tensors[output]).reshape(exact.shape)
    return 10 * float(np.log10(np.mean(np.var(exact, axis=0)) / np.mean(np.square(scores - exact))))


def test_shallow_variants_lose_less() -> None:
    """Against scales and weights that were chosen for the deepest depth alone, on data that the quantiser has not seen:
    less noise at 4 bits and on the mean of runs of mixed depths, and hardly more at 16."""
    split = load_split("digits")
    graph = prepare(import_onnx(MODELS / "digits_resnet.onnx"))
    (name,) = graph.inputs
    data, seen = {name: split.test.images[:200]}, {name: split.calibration.images}
    graph = equalise(graph, seen)
    deepest = max(ACTIVATION_DEPTHS)
    ranges = calibrate(graph, seen, adaptive=ACTIVATION_DEPTHS)
    before, scaled = (
        AdaptiveNetwork(_all_allowed(quantize(graph, each, deepest, 4)), ACTIVATION_DEPTHS)
        for each in (calibrate(graph, seen), ranges)
    )
    after = AdaptiveNetwork.of(quantize(graph, ranges, deepest, 4, adaptive=ACTIVATION_DEPTHS))

    def noise(network: AdaptiveNetwork, *depths: int) -> float:
        trace = {layer: depths[index % len(depths)] for index, layer in enumerate(network.layers)}
        return _noise(graph, network, data, trace)

    assert noise(scaled, 4) > noise(before, 4) + 0.5
    assert noise(after, 4) > noise(scaled, 4) + 0.2
    assert noise(after, 16) > noise(before, 16) - 1
    mixed = (4, 16), (16, 4), (4, 6), (6, 4)
    assert np.mean([noise(after, *each) - noise(before, *each) for each in mixed]) > 0.5


def _all_allowed(quantized: QuantizedNetwork) -> QuantizedNetwork:
    """A network for one depth, whose layers may choose all the same."""
    return replace(quantized, limits=DepthLimits.within(DepthRange(), quantized.layer_depths()))


@pytest.mark.parametrize("seed", range(4))
def test_base_scales_suit_what_layers_choose_among(seed: int) -> None:
    """The sum of the errors at the adaptive depths is the least of all base scales: no larger than with those for any
    one of the depths, or for all in decibels."""
    values = np.maximum(np.random.default_rng(seed).standard_t(3, size=2000), 0)

    def errors(adaptive: Sequence[int], judged: Sequence[int]) -> float:
        base, shifts = choose_scales(values, False, adaptive=adaptive)
        tensors = (QuantizedTensor((1, values.size), base, shifts, depth, False) for depth in judged)
        return sum(
            float(np.mean((dequantize_values(quantize_values(values, each), each) - values) ** 2)) for each in tensors
        )

    for depths in ((4,), (6, 8), (4, 6, 8)):
        others = ((), (16,), (4,), (6,), (8,), (6, 8))
        assert all(errors((*depths, 16), depths) <= errors(other, depths) * (1 + 1e-5) for other in others)
    assert errors((4, 16), (4,)) < errors((), (4,))
    assert choose_scales(values, False, adaptive=(16,)) == choose_scales(values, False)


def _chain(folder: Path) -> Graph:
    net, x = OnnxBuilder(np.random.default_rng(0), (1, 3, 6, 6)), "x"
    for _ in range(3):
        x = net.node("Relu", net.conv(x, 3, 3, (2, 2)))
    return prepare(import_onnx(net.save(folder / "network.onnx", x)))


def test_weights_are_rounded_for_the_mean_of_the_runs(tmp_path: Path) -> None:
    graph = _chain(tmp_path)
    data = {"x": np.random.default_rng(1).normal(size=(8, 3, 6, 6)).astype(np.float32)}
    network = quantize(graph, calibrate(graph, data), 16, 8)
    tensors = [network.with_activation_depths(dict.fromkeys(network.tensors, depth)).tensors for depth in (4, 16)]
    node = graph.nodes[0]
    moments = [PairedExecution(graph, data, each).moments(node) for each in tensors]
    mean = mean_moments(moments)
    for name in ("patch", "target", "patch_patch", "target_patch"):
        np.testing.assert_allclose(getattr(mean, name), np.mean([getattr(each, name) for each in moments], axis=0))
    assert mean.count == moments[0].count


def test_tensors_in_runs_of_one_depth(tmp_path: Path) -> None:
    """Each has the depth of its layer, or of the deepest reader if this is less; what is kept has its own."""
    graph = _chain(tmp_path)
    data = {"x": np.random.default_rng(1).normal(size=(8, 3, 6, 6)).astype(np.float32)}
    tensors = quantize(graph, calibrate(graph, data), 16, 8).tensors
    first, second, third = (node.name for node in graph.nodes)
    outputs = [node.output for node in graph.nodes]
    ranges = {first: DepthRange(8, 16), second: DepthRange(4, 6), third: DepthRange()}
    limits = DepthLimits(DepthRange(), {"x": DepthRange(), **ranges})
    variants = Variants(graph.nodes, tensors, frozenset(outputs[2:]), (4, 6, 8, 16), limits)
    names = ["x", *outputs]
    found = [[run[name].depth for name in names] for run in variants.runs()]
    assert found == [[8, 4, 4, 16], [8, 6, 6, 16], [8, 6, 6, 16], [16, 6, 6, 16]]
    assert [each[outputs[0]].depth for each in variants.of(second)] == [16, 4, 6]
    assert [each[outputs[2]].depth for each in variants.of(third)] == [16] * 5
    assert replace(variants, depths=()).runs() == [tensors]
    assert replace(variants, depths=()).of(first) == [tensors]


def test_what_no_layer_reads_has_the_depth_of_its_layer(tmp_path: Path) -> None:
    """The parts of a whole: nothing is lost that the run itself keeps."""
    net, outputs = joined_network((8, 8), returned=False)
    graph = prepare(import_onnx(net.save(tmp_path / "network.onnx", *outputs)))
    data = {"x": np.random.default_rng(1).normal(size=(8, 3, 6, 6)).astype(np.float32)}
    tensors = quantize(graph, calibrate(graph, data), 16, 8).tensors
    layers = computed(graph)
    deep, shallow, *_ = layers
    limits = DepthLimits(DepthRange(), {node.name: DepthRange() for node in layers} | {deep.name: DepthRange(8, 16)})
    run, _ = Variants(layers, tensors, frozenset(), (4, 16), limits).runs()
    assert [run[node.output].depth for node in (deep, shallow)] == [16, 4]
