"""Reading ONNX files: what is read, and the sentence for everything that is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_networks import OnnxBuilder, reference, residual_network

from tessera.compiler import CompilerError, import_onnx, prepare
from tessera.compiler.float_execution import execute
from tessera.compiler.operators import OPSETS


@pytest.fixture
def net() -> OnnxBuilder:
    return OnnxBuilder(np.random.default_rng(0))


def refusal(path: Path, **arguments: object) -> str:
    """The sentence with which a file is refused, with the file called FILE."""
    with pytest.raises(CompilerError) as caught:
        import_onnx(path, **arguments)
    return str(caught.value).replace(str(path), "FILE")


def test_network_as_imported_computes_the_same(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(1))
    path = net.save(tmp_path / "n.onnx", output)
    graph = import_onnx(path)
    assert (graph.name, graph.inputs, graph.outputs, graph.opset) == ("n", ("x",), (output,), 17)
    assert graph.shapes["x"] == (1, 3, 8, 8)
    assert graph.shapes[output] == (1, 5)
    assert [node.op for node in graph.nodes[:3]] == ["Conv", "BatchNormalization", "Relu"]
    x = np.random.default_rng(2).normal(size=(3, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(execute(graph, {"x": x})[output], reference(path, {"x": x})[0], rtol=1e-5)


@pytest.mark.parametrize("opset", [OPSETS.start, 13, OPSETS.stop - 1])
def test_versions_that_are_read(tmp_path: Path, opset: int) -> None:
    net = OnnxBuilder(np.random.default_rng(0), opset=opset)
    path = net.save(tmp_path / "n.onnx", net.node("Relu", net.conv("x", 3, 4)))
    assert import_onnx(path).opset == opset


@pytest.mark.parametrize("opset", [OPSETS.start - 1, OPSETS.stop])
def test_versions_that_are_refused(tmp_path: Path, opset: int) -> None:
    net = OnnxBuilder(np.random.default_rng(0), opset=opset)
    path = net.save(tmp_path / "n.onnx", net.conv("x", 3, 4))
    assert refusal(path) == (
        f"FILE uses version {opset} of the ONNX operators, but {OPSETS.start} to {OPSETS.stop - 1} can be "
        "read; export it again, or convert it with onnx.version_converter"
    )


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "n.onnx") == "there is no file FILE"
    assert refusal(tmp_path) == "FILE is a folder; give the name of a file in it"


@pytest.mark.parametrize("content", [b"", b"hello, this is no network at all", bytes(range(256))])
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "n.onnx"
    path.write_bytes(content)
    assert refusal(path).startswith("FILE is no ONNX file, or is broken: ")


def test_truncated_file(tmp_path: Path, net: OnnxBuilder) -> None:
    path = net.save(tmp_path / "n.onnx", net.conv("x", 3, 4))
    path.write_bytes(path.read_bytes()[:-40])
    assert refusal(path).startswith("FILE is no")


def test_text_that_is_none(tmp_path: Path, net: OnnxBuilder) -> None:
    """A damaged name or operator, which is not UTF-8."""
    data = net.model(net.node("Relu", net.conv("x", 3, 4))).SerializeToString()
    path = tmp_path / "n.onnx"
    for old, new in ((b"Relu", b"Re\xffu"), (b"relu1", b"rel\xff1"), (b"constant0", b"consta\xfft0")):
        path.write_bytes(data.replace(old, new))
        assert refusal(path) == "FILE is no ONNX file, or is broken: a name in it is no text"


def test_no_outputs(tmp_path: Path, net: OnnxBuilder) -> None:
    model = net.model(net.node("Relu", "x"))
    del model.graph.output[:]
    onnx.save(model, tmp_path / "n.onnx")
    sentence = "FILE has no outputs; export the network with what it computes as outputs"
    assert refusal(tmp_path / "n.onnx") == sentence


def test_batch_norm_of_old_versions(tmp_path: Path) -> None:
    """ONNX's reference implementation of versions before 14 takes the statistics of the data."""
    net = OnnxBuilder(np.random.default_rng(0), opset=11)
    output = net.batch_norm("x", 3)
    graph = import_onnx(net.save(tmp_path / "n.onnx", output))
    gamma, beta, mean, variance = (net.constants[name].reshape(3, 1, 1) for name in net.nodes[0].input[1:])
    x = np.random.default_rng(2).normal(size=(2, 3, 8, 8)).astype(np.float32)
    expected = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(execute(graph, {"x": x})[output], expected, rtol=1e-4, atol=1e-6)


def test_invalid_network(tmp_path: Path, net: OnnxBuilder) -> None:
    path = net.save(tmp_path / "n.onnx", net.node("Relu", "nowhere"))
    assert refusal(path).startswith("FILE is not a valid ONNX file: ")


def test_unknown_operator(tmp_path: Path, net: OnnxBuilder) -> None:
    path = net.save(tmp_path / "n.onnx", net.node("Frobnicate", "x"))
    assert refusal(path) == "FILE: node 'frobnicate0' has the operator Frobnicate, which ONNX 17 lacks"


def test_foreign_domain(tmp_path: Path, net: OnnxBuilder) -> None:
    path = net.save(tmp_path / "n.onnx", net.node("FusedConv", "x", domain="com.microsoft"))
    assert refusal(path) == (
        "FILE: node 'fusedconv0' has the operator FusedConv of the domain 'com.microsoft', which a float "
        "network cannot have; only standard ONNX operators are supported"
    )


def test_control_flow(tmp_path: Path, net: OnnxBuilder) -> None:
    branch = onnx.helper.make_graph([], "branch", [], [])
    condition = net.constant(True, bool)
    output = net.node("If", condition, then_branch=branch, else_branch=branch)
    assert refusal(net.save(tmp_path / "n.onnx", output)) == (
        "FILE: node 'if0' (If) holds a graph of its own, but control flow is not supported; export the "
        "network without it"
    )


@pytest.mark.parametrize("value, count", [(np.nan, 1), (np.inf, 1)])
def test_weights_that_are_not_finite(tmp_path: Path, net: OnnxBuilder, value: float, count: int) -> None:
    output = net.conv("x", 3, 4)
    net.constants["constant0"][0, 0, 1, 1] = value
    assert refusal(net.save(tmp_path / "n.onnx", output)) == (
        f"FILE: {count} of 108 values of the constant 'constant0' are NaN or infinite; repair the network"
    )


def test_dynamic_shape_and_its_remedy(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0), ("batch", 3, "h", "w"))
    path = net.save(tmp_path / "n.onnx", net.conv("x", 3, 4))
    assert refusal(path) == (
        "FILE: input 'x' has the shape (batch, 3, h, w), but every side must be a fixed number; export the "
        "network with fixed shapes and a batch of 1, or give the sides with --shape x=1,... (in Python, with the "
        "argument input_shapes of import_onnx)"
    )
    assert import_onnx(path, input_shapes={"x": (1, 3, 8, 10)}).shapes["conv0_out"] == (1, 4, 6, 8)
    assert refusal(path, input_shapes={"y": (1, 3, 8, 8)}) == "FILE has no input 'y'; its inputs are x"
    assert refusal(path, input_shapes={"x": (1, 3)}) == "FILE: input 'x' has 4 axes, but the shape (1, 3) was given"
    assert refusal(path, input_shapes={"x": (1, 4, 8, 8)}) == "FILE: input 'x' has the side 3, but 4 was given"


def test_stale_shapes_in_the_file_do_not_matter(tmp_path: Path, net: OnnxBuilder) -> None:
    model = net.model(net.node("Relu", net.conv("x", 3, 4)))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("conv0_out", 1, ("n", 4, "h", "w")))
    onnx.save(model, tmp_path / "n.onnx")
    assert import_onnx(tmp_path / "n.onnx").shapes["conv0_out"] == (1, 4, 6, 6)


def test_shape_that_depends_on_data(tmp_path: Path, net: OnnxBuilder) -> None:
    path = net.save(tmp_path / "n.onnx", net.node("Cast", net.node("NonZero", "x"), to=1))
    assert refusal(path) == (
        "FILE: the shape of 'nonzero0_out' (node 'nonzero0', NonZero) depends on the data, but every shape "
        "must be fixed"
    )


def test_shapes_that_do_not_fit(tmp_path: Path, net: OnnxBuilder) -> None:
    path = net.save(tmp_path / "n.onnx", net.node("MatMul", "x", net.constant(np.zeros((9, 4)))))
    assert refusal(path).startswith("FILE: shapes cannot be inferred: ")


def test_batch_other_than_one(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0), (4, 3, 8, 8))
    assert refusal(net.save(tmp_path / "n.onnx", net.conv("x", 3, 4))) == (
        "FILE: input 'x' has the shape (4, 3, 8, 8), but the batch (first axis) must be 1; export the "
        "network with a batch of 1"
    )


def test_input_that_is_no_float(tmp_path: Path, net: OnnxBuilder) -> None:
    net.inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, (1, 3))]
    path = net.save(tmp_path / "n.onnx", net.node("Relu", net.node("Cast", "x", to=1)))
    assert refusal(path) == "FILE: input 'x' has the type INT64, but must be FLOAT"


def test_external_data(tmp_path: Path, net: OnnxBuilder) -> None:
    model = net.model(net.conv("x", 3, 64))
    path = tmp_path / "n.onnx"
    onnx.save(model, path, save_as_external_data=True, location="n.bin", size_threshold=16)
    assert np.array_equal(import_onnx(path).constants["constant0"], net.constants["constant0"])
    (tmp_path / "n.bin").unlink()
    assert refusal(path) == (
        "FILE: the tensor 'constant0' lies in the file 'n.bin', which is missing; put it beside the ONNX file"
    )


def test_nodes_without_names_get_some(tmp_path: Path, net: OnnxBuilder) -> None:
    model = net.model(net.node("Relu", net.conv("x", 3, 4)))
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "n.onnx")
    assert [node.name for node in import_onnx(tmp_path / "n.onnx").nodes] == ["conv0_out", "relu1_out"]


def test_same_names_become_different(tmp_path: Path, net: OnnxBuilder) -> None:
    model = net.model(net.node("Relu", net.conv("x", 3, 4)))
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, tmp_path / "n.onnx")
    assert [node.name for node in import_onnx(tmp_path / "n.onnx").nodes] == ["same", "same_1"]


def test_infinite_limits_are_none(tmp_path: Path, net: OnnxBuilder) -> None:
    limits = net.constant(-np.inf), net.constant(np.inf)
    path = net.save(tmp_path / "n.onnx", net.node("Clip", net.conv("x", 3, 4), *limits))
    assert prepare(import_onnx(path)).nodes[0].activation == (-np.inf, np.inf)
