"""Prepared networks written as float ONNX files: the same operations, the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_networks import OnnxBuilder, random_network, reference, residual_network

from tessera.compiler import import_onnx, prepare
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import CANONICAL, CONVOLUTION, Graph, Node, Placement
from tessera.compiler.onnx_writer import write_onnx

Draw = Callable[[np.random.Generator], tuple[OnnxBuilder, str]]


def special_network(rng: np.random.Generator) -> tuple[OnnxBuilder, str]:
    """What is written in a special way: parts and wholes, functions with tables, resizing, and nodes of the host."""
    net = OnnxBuilder(rng, (1, 8, 6, 6))
    wide = net.node("Sigmoid", net.conv("x", 8, 16, pads=[1, 1, 1, 1]))
    first, second = (net.node("Relu", net.conv(wide, 16, 8, (1, 1))) for _ in range(2))
    joined = net.node("Concat", first, second, axis=1)
    doubled = net.node("Resize", joined, "", net.constant([1, 1, 2, 2]), mode="nearest", nearest_mode="floor",
                       coordinate_transformation_mode="asymmetric")  # fmt: skip
    mean = net.node("Flatten", net.node("GlobalAveragePool", net.node("Mul", doubled, net.node("Sigmoid", doubled))))
    return net, net.node("Softmax", net.gemm(mean, 16, 4))


def convolutions(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == CONVOLUTION]


def drawn_graph(make: Draw, rng: np.random.Generator, path: Path) -> Graph:
    """The first network of those that are drawn that gives the NPU something to do."""
    while True:
        net, output = make(rng)
        graph = prepare(import_onnx(net.save(path, output)))
        if graph.placed(Placement.NPU):
            return graph


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("make", [random_network, residual_network, special_network])
def test_written_network_is_the_same(tmp_path: Path, make: Draw, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = drawn_graph(make, rng, tmp_path / "net.onnx")
    write_onnx(graph, tmp_path / "written.onnx")
    again = prepare(import_onnx(tmp_path / "written.onnx"))
    for old, new in zip(convolutions(graph), convolutions(again), strict=True):
        for before, after in zip(old.inputs[1:3], new.inputs[1:3], strict=True):
            assert np.array_equal(again.constants[after], graph.constants[before])
    first, second = ([node.name for node in each.nodes if node.op in CANONICAL] for each in (graph, again))
    assert first == second
    data = {"x": rng.normal(size=(3, *graph.shapes["x"][1:])).astype(np.float32)}
    expected = execute(graph, data)[graph.outputs[0]]
    np.testing.assert_allclose(execute(again, data)[again.outputs[0]], expected, atol=1e-6)
    (computed,) = reference(tmp_path / "written.onnx", data)
    np.testing.assert_allclose(computed.reshape(expected.shape), expected, atol=1e-5)


def test_nothing_of_quantisation_is_left(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(0))
    write_onnx(prepare(import_onnx(net.save(tmp_path / "net.onnx", output))), tmp_path / "written.onnx")
    model = onnx.load(tmp_path / "written.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
    assert not model.metadata_props
