"""The front end's passes: each keeps the meaning and rewrites what it should; refusals name the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_networks import OnnxBuilder, random_network, reference, residual_network

from tessera.compiler import CompilerError, import_onnx, prepare
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import CANONICAL, Graph, Node, Placement, verify
from tessera.compiler.operators import OPERATORS
from tessera.compiler.passes import PASSES, PIPELINE, Pipeline
from tessera.compiler.passes.partition import host_report

INF = float("inf")


def graph_of(tmp_path: Path, net: OnnxBuilder, *outputs: str) -> Graph:
    """The imported network."""
    return import_onnx(net.save(tmp_path / "network.onnx", *outputs))


def random_inputs(graph: Graph, seed: int = 0, samples: int = 2) -> dict[str, np.ndarray]:
    """Normally distributed inputs."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(samples, *graph.shapes[name][1:])).astype(np.float32) for name in graph.inputs}


def check_meaning(tmp_path: Path, net: OnnxBuilder, *outputs: str) -> Graph:
    """Every stage computes what the ONNX file does; returns the last one."""
    graph = graph_of(tmp_path, net, *outputs)
    inputs = random_inputs(graph)
    expected = reference(tmp_path / "network.onnx", inputs)
    stages = list(PIPELINE.stages(graph))
    for name, stage in stages:
        results = execute(stage, inputs)
        for output, value in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(results[output], value, rtol=1e-4, atol=1e-5, err_msg=f"after {name}")
    return stages[-1][1]


def summary(graph: Graph) -> list[str]:
    """Operator of each node, with a plus for a residual operand and limits for an activation."""
    return [_summary(node) for node in graph.nodes]


def _summary(node: Node) -> str:
    if node.op not in CANONICAL:
        return node.op
    plus = "+" if node.residual is not None else ""
    low, high = node.activation
    return f"{node.op}{plus}" + ("" if (low, high) == (-INF, INF) else f" {low:g}..{high:g}")


def test_residual_network(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(0))
    graph = check_meaning(tmp_path, net, output)
    assert summary(graph) == [
        "Convolution 0..inf",
        "Convolution 0..inf",
        "Convolution+ 0..inf",
        "Window",
        "Convolution",
        "Convolution+ 0..6",
        "Window",
        "Convolution",
        "Softmax",
    ]
    assert graph.placed(Placement.HOST_AFTER)[0].op == "Softmax"


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_keep_their_meaning(tmp_path: Path, seed: int) -> None:
    net, output = random_network(np.random.default_rng(seed))
    graph = check_meaning(tmp_path, net, output)
    assert {node.op for node in graph.nodes} <= set(CANONICAL)


def _add_bias(net: OnnxBuilder) -> str:
    flat = net.node("Flatten", net.conv("x", 3, 2))
    product = net.node("MatMul", flat, net.random(72, 5))
    return net.node("Add", net.random(5), product)


def _sum_of_relus(net: OnnxBuilder) -> str:
    left = net.node("Relu", net.conv("x", 3, 4))
    return net.node("Add", left, net.node("Relu", net.conv("x", 3, 4)))


def _two_readers(net: OnnxBuilder) -> str:
    shared = net.conv("x", 3, 4)
    return net.node("Add", net.node("Relu", shared), shared)


def _constants(net: OnnxBuilder) -> str:
    shape = net.node(
        "Concat",
        net.node("Slice", net.node("Shape", "x"), *_slice(net)),
        net.constant([-1], np.int64),
        axis=0,
    )
    return net.gemm(net.node("Reshape", net.node("Identity", net.conv("x", 3, 2)), shape), 72, 4)


def _slice(net: OnnxBuilder) -> tuple[str, str]:
    return net.constant([0], np.int64), net.constant([1], np.int64)


def _normalised(net: OnnxBuilder) -> str:
    """Normalised rows; the second of the node's three outputs is omitted."""
    values = net.node("LayerNormalization", "x", net.random(8), outputs=3)
    net.nodes[-1].output[1] = ""
    return values


def _pool(net: OnnxBuilder, op: str, **attributes: object) -> str:
    return net.conv(net.node(op, "x", kernel_shape=[3, 3], **attributes), 3, 2, (1, 1))


_LIGHT = ["BatchNormalization", "MaxPool", "AveragePool", "Clip", "Add", "Relu", "Reshape", "ReduceMean"]
"""Operators of `_light` as they stay on the host."""


def _light(net: OnnxBuilder, x: str, channels: int) -> str:
    """Operators without weights, which the NPU could run as well."""
    pooled = net.node("MaxPool", net.batch_norm(x, channels), kernel_shape=[2, 2])
    pooled = net.node("AveragePool", pooled, kernel_shape=[2, 2])
    limited = net.node("Clip", pooled, net.constant(-0.5), net.constant(0.5))
    total = net.node("Add", limited, net.random(channels, 1, 1))
    shaped = net.node("Reshape", total, net.constant([1, channels, -1, 1], np.int64))
    return net.node("ReduceMean", net.node("Relu", shaped), axes=[2, 3])


def _gated(net: OnnxBuilder) -> str:
    features = net.node("Relu", net.conv("x", 3, 4))
    return net.node("Relu", net.node("Add", net.node("Cos", features), features))


def _flattened_twice(net: OnnxBuilder) -> str:
    flat = net.node("Flatten", net.conv("x", 3, 2))
    return net.node("Concat", net.gemm(flat, 72, 5), net.node("Add", flat, net.random(72)), axis=1)


CASES: dict[str, tuple[Callable[[OnnxBuilder], str], list[str]]] = {
    "bias of a product": (_add_bias, ["Convolution", "Convolution"]),
    "bias of a convolution": (
        lambda net: net.node("Add", net.conv("x", 3, 4), net.random(1, 4, 1, 1)),
        ["Convolution"],
    ),
    "constant after a pool": (
        lambda net: net.node("Add", net.node("MaxPool", "x", kernel_shape=[2, 2]), net.random(3, 1, 1)),
        ["Window", "Convolution"],
    ),
    "sum of activations": (_sum_of_relus, ["Convolution 0..inf", "Convolution 0..inf", "Window+"]),
    "two readers prevent fusion": (_two_readers, ["Convolution", "Window 0..inf", "Window+"]),
    "sum with itself": (
        lambda net: net.node("Add", *[net.conv("x", 3, 4)] * 2),
        ["Convolution", "Window+"],
    ),
    "sum with the input": (
        lambda net: net.node("Add", "x", net.conv("x", 3, 3, pads=[1, 1, 1, 1])),
        ["Convolution+"],
    ),
    "activation alone": (lambda net: net.node("Relu", "x"), ["Window 0..inf"]),
    "activations join": (
        lambda net: net.node("Clip", net.node("Relu", net.conv("x", 3, 4)), net.constant(-1.0), net.constant(0.5)),
        ["Convolution 0..0.5"],
    ),
    "open limit": (
        lambda net: net.node("Clip", net.conv("x", 3, 4), "", net.constant(0.25)),
        ["Convolution -inf..0.25"],
    ),
    "pool with activation": (
        lambda net: net.node("Relu", net.node("AveragePool", "x", kernel_shape=[2, 2])),
        ["Window 0..inf"],
    ),
    "batch normalisation alone": (lambda net: net.batch_norm("x", 3), ["Convolution"]),
    "epsilon of a batch normalisation": (
        lambda net: net.batch_norm(net.conv("x", 3, 4), 4, epsilon=0.5),
        ["Convolution"],
    ),
    "batch normalisation of a vector": (
        lambda net: net.batch_norm(net.gemm(net.node("Flatten", net.conv("x", 3, 2)), 72, 5), 5),
        ["Convolution", "Convolution"],
    ),
    "batch normalisation after an activation": (
        lambda net: net.batch_norm(net.node("Relu", net.conv("x", 3, 4)), 4),
        ["Convolution 0..inf", "Convolution"],
    ),
    "constants are computed": (_constants, ["Convolution", "Convolution"]),
    "product of the transpose": (
        lambda net: net.node(
            "Gemm",
            net.node("Flatten", net.conv("x", 3, 2)),
            net.random(72, 5),
            net.random(1),
            alpha=0.5,
            beta=2.0,
        ),
        ["Convolution", "Convolution"],
    ),
    "flattened input": (
        lambda net: net.gemm(net.node("Flatten", "x"), 192, 5),
        ["Reshape", "Convolution"],
    ),
    "activation after flattening": (
        lambda net: net.gemm(net.node("Relu", net.node("Flatten", net.conv("x", 3, 2))), 72, 5),
        ["Convolution 0..inf", "Convolution"],
    ),
    "dropout": (
        lambda net: net.node("Relu", net.node("Dropout", net.conv("x", 3, 4))),
        ["Convolution 0..inf"],
    ),
    "identity at the end": (lambda net: net.node("Identity", net.conv("x", 3, 4)), ["Convolution"]),
    "mean": (
        lambda net: net.node("ReduceMean", net.conv("x", 3, 4), axes=[-1, 2]),
        ["Convolution", "Window"],
    ),
    "mean without its axes": (
        lambda net: net.node("ReduceMean", net.conv("x", 3, 4), axes=[-1, 2], keepdims=0),
        ["Convolution", "Window", "Reshape"],
    ),
    "squeeze": (
        lambda net: net.gemm(
            net.node("Squeeze", net.node("GlobalAveragePool", "x"), net.constant([2, 3], np.int64)), 3, 5
        ),
        ["Window", "Convolution"],
    ),
    "ceil mode": (lambda net: _pool(net, "MaxPool", strides=[2, 2], ceil_mode=1), ["Window", "Convolution"]),
    "same padding": (lambda net: _pool(net, "MaxPool", auto_pad="SAME_LOWER"), ["Window", "Convolution"]),
    "counted padding": (
        lambda net: _pool(net, "AveragePool", pads=[1, 0, 1, 2], count_include_pad=1),
        ["Window", "Convolution"],
    ),
    "dilation": (
        lambda net: net.conv("x", 3, 4, dilations=[2, 3], pads=[2, 0, 1, 3]),
        ["Convolution"],
    ),
    "depthwise": (
        lambda net: net.batch_norm(net.node("Conv", net.conv("x", 3, 4), net.random(4, 1, 3, 2), group=4), 4),
        ["Convolution", "Convolution"],
    ),
    "groups": (
        lambda net: net.node("Conv", net.conv("x", 3, 4), net.random(6, 2, 3, 3), net.random(6), group=2),
        ["Convolution", "Convolution"],
    ),
    "omitted output": (
        lambda net: net.node("Cos", net.conv(_normalised(net), 3, 4)),
        ["LayerNormalization", "Convolution", "Cos"],
    ),
    "host before and after": (
        lambda net: net.node("Cos", net.conv(net.node("Sub", "x", net.random(8)), 3, 4)),
        ["Sub", "Convolution", "Cos"],
    ),
    "pool behind the host": (
        lambda net: net.node("GlobalAveragePool", net.node("Cos", net.conv("x", 3, 4))),
        ["Convolution", "Cos", "GlobalAveragePool"],
    ),
    "constant behind the host": (
        lambda net: net.node(
            "Add",
            net.node("Softmax", net.gemm(net.node("Flatten", net.conv("x", 3, 4)), 144, 5)),
            net.random(5),
        ),
        ["Convolution", "Convolution", "Softmax", "Add"],
    ),
    "everything light behind the host": (
        lambda net: _light(net, net.node("Sin", net.conv("x", 3, 4)), 4),
        ["Convolution", "Sin", *_LIGHT],
    ),
    "everything light before the host": (
        lambda net: net.conv(net.node("Sin", _light(net, "x", 3)), 3, 4, (1, 1)),
        [*_LIGHT, "Sin", "Convolution"],
    ),
    "gate behind the host": (_gated, ["Convolution 0..inf", "Cos", "Add", "Relu"]),
    "sum of flattened maps": (
        lambda net: net.node("Add", net.node("Flatten", net.conv("x", 3, 4)), net.node("Flatten", net.conv("x", 3, 4))),
        ["Convolution", "Convolution", "Reshape", "Reshape", "Add"],
    ),
    "flattened map of two readers": (_flattened_twice, ["Convolution", "Convolution", "Reshape", "Add", "Concat"]),
    "host between pools": (
        lambda net: net.node(
            "MaxPool", net.node("Sin", net.node("MaxPool", "x", kernel_shape=[2, 2])), kernel_shape=[2, 2]
        ),
        ["Window", "Sin", "MaxPool"],
    ),
    "host before a sum": (
        lambda net: net.node("Add", net.node("Sin", "x"), net.conv("x", 3, 3, (1, 1))),
        ["Sin", "Convolution+"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_network_becomes(tmp_path: Path, name: str) -> None:
    build, expected = CASES[name]
    net = OnnxBuilder(np.random.default_rng(1))
    assert summary(check_meaning(tmp_path, net, build(net))) == expected


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    other = OnnxBuilder(np.random.default_rng(0)).inputs[0]
    other.name = "y"
    net.inputs.append(other)
    stem = net.conv("x", 3, 3, pads=[1, 1, 1, 1])
    total = net.node("Add", stem, "y")
    graph = check_meaning(tmp_path, net, total, net.node("Relu", total))
    assert summary(graph) == ["Convolution+", "Window 0..inf"]


def test_preparing_twice_changes_nothing(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(0))
    graph = prepare(graph_of(tmp_path, net, output))
    assert prepare(graph).format() == graph.format()


def test_passes_leave_their_argument_alone(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(0))
    graph = graph_of(tmp_path, net, output)
    before = graph.format()
    PIPELINE.run(graph)
    assert graph.format() == before


def test_pipeline_prints_every_stage(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = graph_of(tmp_path, net, net.node("Relu", net.conv("x", 3, 4)))
    text = PIPELINE.format(graph)
    stages = [line.removeprefix("after ").rstrip(":") for line in text.splitlines() if line.startswith("after ")]
    assert stages == ["import", *(item.__name__ for item in PASSES)]
    assert text.endswith(
        "graph network (opset 17)\n"
        "  input  x: 1x3x8x8\n"
        "  relu1_out: 1x4x6x6 = Convolution conv0(x, constant0[4x3x3x3], constant1[4]) activation=(0.0,inf) "
        "dilation=(1,1) groups=1 padding=(0,0,0,0) stride=(1,1) [npu]\n"
        "  output relu1_out: 1x4x6x6"
    )


def test_verifier_stops_a_faulty_pass(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = graph_of(tmp_path, net, net.node("Relu", net.conv("x", 3, 4)))

    def lose_a_node(graph: Graph) -> Graph:
        return replace(graph, nodes=graph.nodes[1:])

    with pytest.raises(CompilerError) as caught:
        Pipeline([lose_a_node]).run(graph)
    assert str(caught.value) == "network 'network': node 'relu1' reads 'conv0_out' before it is computed"


def test_verifier_checks_shapes(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = prepare(graph_of(tmp_path, net, net.conv("x", 3, 4)))
    graph.shapes["conv0_out"] = (1, 4, 6, 5)
    with pytest.raises(CompilerError) as caught:
        verify(graph)
    assert str(caught.value) == (
        "network 'network': the output of node 'conv0' has the map (4, 6, 5), but must have (4, 6, 6)"
    )


def between(build: Callable[[OnnxBuilder, str], str]) -> Callable[[OnnxBuilder], str]:
    """A node between two convolutions; ``build`` makes it from the first one's result (1, 4, 6, 6)."""
    return lambda net: net.conv(build(net, net.conv("x", 3, 4)), 4, 2, (1, 1))


REFUSALS: dict[str, tuple[Callable[[OnnxBuilder], str], str]] = {
    "operator": (
        between(lambda net, x: net.node("Cos", x)),
        "node 'cos1' (Cos) cannot run on the NPU: the NPU has no operator Cos",
    ),
    "uncounted padding": (
        between(lambda net, x: net.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
        "node 'averagepool1' (AveragePool) cannot run on the NPU: its padding is not counted "
        "(count_include_pad = 0), "
        "so that each position has a divisor of its own; the NPU divides all by the same",
    ),
    "partial windows": (
        between(
            lambda net, x: net.node(
                "AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, count_include_pad=1
            )
        ),
        "node 'averagepool1' (AveragePool) cannot run on the NPU: its last window reaches beyond the padding "
        "(ceil_mode), which needs a divisor of its own",
    ),
    "dilated pool": (
        between(lambda net, x: net.node("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 2])),
        "node 'maxpool1' (MaxPool) cannot run on the NPU: its dilation is (2, 2), but must be (1, 1)",
    ),
    "broadcast": (
        between(lambda net, x: net.node("Add", x, net.node("GlobalAveragePool", x))),
        "node 'add2' (Add) cannot run on the NPU: its two operands have different shapes, but the NPU does "
        "not "
        "broadcast",
    ),
    "constant map": (
        between(lambda net, x: net.node("Add", x, net.random(4, 6, 6))),
        "node 'add1' (Add) cannot run on the NPU: its constant operand must have one value per channel",
    ),
    "training": (
        between(
            lambda net, x: net.node(
                "BatchNormalization",
                x,
                *(net.constant(np.ones(4)) for _ in range(4)),
                training_mode=1,
                outputs=3,
            )
        ),
        "node 'batchnormalization1' (BatchNormalization) cannot run on the NPU: it is in training mode; "
        "export the "
        "network for inference",
    ),
    "mean over channels": (
        between(lambda net, x: net.node("Add", x, net.node("ReduceMean", x, axes=[1]))),
        "node 'reducemean1' (ReduceMean) cannot run on the NPU: it must be a mean over height and width "
        "(axes 2 and 3) "
        "of a map (1, C, H, W)",
    ),
    "reshape": (
        between(lambda net, x: net.node("Reshape", x, net.constant([1, 4, 4, 9], np.int64))),
        "node 'reshape1' (Reshape) cannot run on the NPU: it changes the shape (1, 4, 6, 6) to (1, 4, 4, 9); "
        "only "
        "flattening a map to (1, F) costs nothing",
    ),
    "limits": (
        between(lambda net, x: net.node("Clip", x, net.node("ReduceMin", x, keepdims=0))),
        "node 'reducemin1' (ReduceMin) cannot run on the NPU: the NPU has no operator ReduceMin",
    ),
    "weights": (
        lambda net: net.conv(net.node("Conv", "x", net.node("Sin", net.conv("x", 3, 3))), 1, 2, (1, 1)),
        "node 'sin1' (Sin) cannot run on the NPU: the NPU has no operator Sin",
    ),
    "product of products": (
        lambda net: net.gemm(
            net.node("Gemm", net.gemm(net.node("Flatten", "x"), 192, 1), net.random(1, 4), transA=1), 4, 2
        ),
        "node 'gemm2' (Gemm) cannot run on the NPU: its attribute transA is 1, but must be 0",
    ),
    "flattened map": (
        lambda net: net.conv(
            net.node("Reshape", net.conv("x", 3, 4), net.constant([1, 144, 1, 1], np.int64)), 144, 2, (1, 1)
        ),
        "node 'reshape1' (Reshape) cannot run on the NPU: it changes the shape (1, 4, 6, 6) to (1, 144, 1, 1); "
        "only flattening a map to (1, F) costs nothing",
    ),
    "flattened map that is no operand of a product": (
        lambda net: net.gemm(
            net.node("Add", net.node("Flatten", net.conv("x", 3, 4)), net.node("Flatten", net.conv("x", 3, 4))),
            144,
            2,
        ),
        "node 'flatten1' (Reshape) cannot run on the NPU: flattening a map of more than one pixel costs "
        "nothing only before a fully connected layer",
    ),
    "head and tail of the host at once": (
        between(lambda net, x: net.node("Relu", net.node("Cos", net.node("Relu", x)))),
        "node 'cos2' (Cos) cannot run on the NPU: the NPU has no operator Cos",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    build, sentence = REFUSALS[name]
    net = OnnxBuilder(np.random.default_rng(1))
    graph = graph_of(tmp_path, net, build(net))
    with pytest.raises(CompilerError) as caught:
        prepare(graph)
    assert str(caught.value) == (
        f"network 'network': {sentence}, and it lies between nodes that the NPU executes, where the host "
        "cannot take it over; replace it in the network"
    )


def test_network_without_work_for_the_npu(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    with pytest.raises(CompilerError) as caught:
        prepare(graph_of(tmp_path, net, net.node("Cos", "x")))
    assert str(caught.value) == (
        "network 'network' has no node that the NPU can execute (node 'cos0' (Cos) cannot run on the "
        "NPU: the NPU has no operator Cos)"
    )


def test_network_that_only_moves_values(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    part = net.node("Slice", "x", *(net.constant([value], np.int64) for value in (0, 2, 1)))
    with pytest.raises(
        CompilerError, match="'slice0' .* cannot run on the NPU: it only says where values lie, and no "
    ):
        prepare(graph_of(tmp_path, net, part))


def test_operand_of_the_wrong_rank(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0), (1, 3, 8))
    with pytest.raises(CompilerError, match="node 'relu0' \\(Relu\\) cannot run on the NPU: its input is no map"):
        prepare(graph_of(tmp_path, net, net.node("Relu", "x")))


@pytest.mark.parametrize("kernel", [9, 10])
def test_map_without_elements(kernel: int, tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    side = 9 - kernel
    with pytest.raises(CompilerError) as caught:
        prepare(graph_of(tmp_path, net, net.node("Relu", net.conv("x", 3, 4, (kernel, kernel)))))
    assert str(caught.value) == (
        f"network 'network': node 'conv0' makes 'relu1_out' of shape (1, 4, {side}, {side}), which has no elements; "
        "its window is larger than its input, or its slice is empty"
    )


def test_host_report(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    scaled = net.node("Ceil", "x")
    graph = prepare(graph_of(tmp_path, net, net.node("Sin", net.conv(scaled, 3, 4))))
    assert host_report(graph) == [
        "node 'ceil0' (Ceil) runs on the host before the NPU: the NPU has no operator Ceil",
        "node 'sin2' (Sin) runs on the host after the NPU: the NPU has no operator Sin",
    ]


def test_host_report_of_what_stands_beside_the_host(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    scaled = net.node("Ceil", net.node("Relu", "x"))
    output = net.node("GlobalAveragePool", net.node("Sin", net.conv(scaled, 3, 4)))
    assert host_report(prepare(graph_of(tmp_path, net, output))) == [
        "node 'relu0' (Relu) runs on the host before the NPU: its result is needed by a node that runs on the host",
        "node 'ceil1' (Ceil) runs on the host before the NPU: the NPU has no operator Ceil",
        "node 'sin3' (Sin) runs on the host after the NPU: the NPU has no operator Sin",
        "node 'globalaveragepool4' (GlobalAveragePool) runs on the host after the NPU: it needs the result of a "
        "node that runs on the host",
    ]


def test_preparing_twice_keeps_the_host(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    output = net.node("GlobalAveragePool", net.node("Sin", net.conv(net.node("Floor", net.node("Relu", "x")), 3, 4)))
    graph = prepare(graph_of(tmp_path, net, output))
    assert prepare(graph).format() == graph.format()


def test_a_network_may_end_on_both_sides(tmp_path: Path) -> None:
    """A host node that hangs on the input alone, beside the NPU's part."""
    net = OnnxBuilder(np.random.default_rng(0))
    graph = check_meaning(tmp_path, net, net.conv("x", 3, 4), net.node("Floor", "x"))
    assert [graph.placement[node.name] for node in graph.nodes] == [Placement.NPU, Placement.HOST_AFTER]


def test_operator_table_is_complete() -> None:
    for name, operator in OPERATORS.items():
        assert operator.name == name
        assert operator.becomes
        assert operator.limits


def test_wrong_inputs_are_refused(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    graph = graph_of(tmp_path, net, net.conv("x", 3, 4))
    with pytest.raises(CompilerError, match="the input 'x' is missing; the network needs x"):
        execute(graph, {})
    with pytest.raises(CompilerError) as caught:
        execute(graph, {"x": np.zeros((2, 3, 8, 7))})
    assert str(caught.value) == ("the data for input 'x' have the shape (2, 3, 8, 7), but must have (samples, 3, 8, 8)")
