"""Functions of one variable: which nodes make one, and how near the table comes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_networks import OnnxBuilder
from random_networks import NetworkGenerator

from tessera.compiler import CompilerError, calibrate, import_onnx, prepare, quantize, to_integer
from tessera.compiler.functions import domain, operand_scale, regions, tabulate
from tessera.compiler.graph import Graph
from tessera.compiler.lowering import lower
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import TableEntry
from tessera.sim.golden.arithmetic import look_up
from tessera.sim.golden.network import NetworkError

TINY = NpuConfig.preset("tiny")


def _graph(tmp_path: Path, net: OnnxBuilder, *outputs: str) -> Graph:
    return import_onnx(net.save(tmp_path / "network.onnx", *outputs))


def _silu(net: OnnxBuilder, x: str) -> str:
    return net.node("Mul", x, net.node("Sigmoid", x))


def _found(graph: Graph) -> list[list[str]]:
    return sorted(sorted(node.op for node in region.nodes) for region in regions(graph))


REGIONS = {
    "a chain": (lambda net: net.node("Tanh", net.node("Mul", "x", net.constant(0.5))), [["Mul", "Tanh"]]),
    "a diamond": (lambda net: _silu(net, "x"), [["Mul", "Sigmoid"]]),
    "diamonds in a row": (lambda net: _silu(net, _silu(net, "x")), [["Mul", "Mul", "Sigmoid", "Sigmoid"]]),
    "behind a sum of two": (
        lambda net: _silu(net, net.node("Add", net.conv("x", 3, 3, (1, 1)), "x")),
        [["Mul", "Sigmoid"]],
    ),
    "the sum of a function and its variable": (
        lambda net: net.node("Add", net.node("Sigmoid", "x"), "x"),
        [["Add", "Sigmoid"]],
    ),
    "limits alone": (lambda net: net.node("Relu", net.node("Add", "x", net.constant(1.0))), []),
    "a constant per channel": (lambda net: net.node("Tanh", net.node("Mul", "x", net.random(3, 1, 1))), [["Tanh"]]),
    "the reciprocal": (lambda net: net.node("Div", net.constant(1.0), "x"), [["Div"]]),
    "two variables": (
        lambda net: net.node("Mul", net.node("Sigmoid", net.conv("x", 3, 3, (1, 1))), "x"),
        [["Sigmoid"]],
    ),
    "a value that others read": (
        lambda net: net.node(
            "Add", net.conv(net.node("Tanh", "x"), 3, 3, (1, 1)), net.node("Erf", net.nodes[0].output[0])
        ),
        [["Erf"], ["Tanh"]],
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_regions(name: str, tmp_path: Path) -> None:
    build, expected = REGIONS[name]
    net = OnnxBuilder(np.random.default_rng(0))
    assert _found(_graph(tmp_path, net, build(net))) == expected


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Gelu", "HardSwish", "Softplus"])
@pytest.mark.parametrize(("depth", "steps"), [(4, 0.51), (8, 0.6), (16, 20)])
def test_error_of_a_table(op: str, depth: int, steps: float, tmp_path: Path) -> None:
    """In steps of the output, for every operand; half a step is what rounding costs."""
    net = OnnxBuilder(np.random.default_rng(0), opset=20)
    (region,) = regions(_graph(tmp_path, net, net.node(op, "x")))
    x = np.linspace(-8, 8, 20001)
    y = region.function(x)
    signed = bool(y.min() < 0)
    scale = float(np.abs(y).max()) / ((1 << depth - signed) - 1)
    step = operand_scale(-8.0, 8.0)
    base, slope = tabulate("op", region.function, step, scale, depth, signed).T
    operands = np.clip(np.rint(x / step), -(1 << 15), (1 << 15) - 1).astype(np.int64)
    assert np.abs(look_up(operands, base, slope, depth) - y / scale).max() <= steps


def test_domain(tmp_path: Path) -> None:
    """Where the function is constant no entry is spent; one that is nowhere constant keeps its range."""
    net = OnnxBuilder(np.random.default_rng(0))
    sigmoid, identity = regions(_graph(tmp_path, net, net.node("Sigmoid", "x"), net.node("Elu", "x")))
    functions = {str(each.function): each.function for each in (sigmoid, identity)}
    low, high = domain(functions["sigmoid"], -1000.0, 1000.0, 1e-3)
    assert -9 < low < -6
    assert 6 < high < 9
    low, high = domain(functions["elu"], -1000.0, 50.0, 1e-3)
    assert -9 < low < -6
    assert high == 50.0


def test_function_without_a_value(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepare(_graph(tmp_path, net, net.node("Pow", net.node("Abs", net.conv("x", 3, 4)), net.constant(-1.0))))
    data = {"x": np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)}
    with pytest.raises(CompilerError, match=r"operation 'conv0': its function abs\+pow computes NaN or infinity at 0"):
        to_integer(quantize(graph, calibrate(graph, data)))


def test_machine_without_tables(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepare(_graph(tmp_path, net, net.node("Tanh", net.conv("x", 3, 4))))
    data = {"x": np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)}
    network = to_integer(quantize(graph, calibrate(graph, data)))
    with pytest.raises(
        CompilerError, match="operation 'conv0': its activation function needs a table, but .*tables = 0"
    ):
        lower(network, replace(TINY, tables=0))


TABLES = {
    "shape": (np.zeros((3, 2), np.int64), "its table must be an int64 array of shape (256, 2)"),
    "bases": (np.full((256, 2), -1), "the bases of its table, -1..-1, are outside 0..65535"),
    "slopes": (np.stack([np.zeros(256, np.int64), np.full(256, 1 << 15)], 1), "the slopes of its table"),
}


@pytest.mark.parametrize("name", TABLES)
def test_verifier_refuses_tables(name: str) -> None:
    table, message = TABLES[name]
    network = NetworkGenerator(np.random.default_rng(1), TINY).network(1)
    operation = network.operations[-1]
    limits = {"clamp_low": -(1 << TableEntry.OPERAND_BITS - 1), "clamp_high": (1 << TableEntry.OPERAND_BITS - 1) - 1}
    changed = replace(operation, post=replace(operation.post, table=table, **limits))
    target = replace(network.tensors[operation.output], signed=False)
    broken = replace(
        network, operations=(*network.operations[:-1], changed), tensors=network.tensors | {operation.output: target}
    )
    with pytest.raises(NetworkError) as error:
        broken.verify()
    assert message in str(error.value)
