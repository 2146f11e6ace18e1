"""QONNX files: what is written reads back bit by bit, other tools compute the same, and what is refused.

The executor of the ``qonnx`` package computes in float32. Where float32 is exact (scales that are powers of
two, sums below 2 ** 24) its integers must be equal to the golden model's, throughout the network. Elsewhere
each operation must be within one step of what the golden model computes from the same operands.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx_networks import OnnxBuilder, random_network, reference, residual_network

from tessera.compiler import (
    CompilerError,
    QuantizedNetwork,
    calibrate,
    import_onnx,
    is_quantized,
    prepare,
    quantize,
    read_qonnx,
    to_integer,
    write_qonnx,
)
from tessera.compiler.passes.partition import host_report
from tessera.compiler.precision import DepthLimits, DepthRange, LayerSensitivity, SensitivityProfile
from tessera.compiler.qonnx_format import METADATA_KEY, METADATA_VERSION
from tessera.compiler.qonnx_writer import qonnx_model
from tessera.compiler.quantized import QuantizedConvolution, QuantizedTensor, equal_quantized
from tessera.compiler.quantized_execution import execute_quantized, host_before
from tessera.sim.golden import evaluate
from tessera.sim.golden.network import equal_networks

MODELS = Path(__file__).resolve().parents[1] / "models"


def quantized_network(
    path: Path, net: OnnxBuilder, output: str, activation: int = 8, weight: int = 8
) -> tuple[QuantizedNetwork, dict[str, np.ndarray]]:
    """A network quantised with normally distributed data, and the data."""
    graph = prepare(import_onnx(net.save(path / "float.onnx", output)))
    rng = np.random.default_rng(0)
    shapes = {name: (6, *graph.shapes[name][1:]) for name in graph.inputs}
    data = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return quantize(graph, calibrate(graph, data), activation, weight), data


def written(network: QuantizedNetwork, folder: Path) -> Path:
    """The network's file."""
    path = folder / "network.onnx"
    write_qonnx(network, path)
    return path


@pytest.mark.parametrize("activation, weight", [(4, 4), (6, 8), (8, 8), (16, 8)])
@pytest.mark.parametrize("seed", range(6))
def test_reads_back_what_was_written(tmp_path: Path, seed: int, activation: int, weight: int) -> None:
    net, output = random_network(np.random.default_rng(seed))
    network, _ = quantized_network(tmp_path, net, output, activation, weight)
    again = read_qonnx(written(network, tmp_path))
    assert equal_quantized(network, again)
    assert equal_networks(to_integer(network), to_integer(again))
    assert again.format() == network.format()


def test_limits_and_sensitivities_read_back(tmp_path: Path) -> None:
    """What is known of a network's depths is in the file; of a file without it, its own depths are the least."""
    net, output = residual_network(np.random.default_rng(0))
    network, _ = quantized_network(tmp_path, net, output, 6)
    layers = network.layer_depths()
    ranges = {name: DepthRange(4 + 2 * (index % 2), 16) for index, name in enumerate(layers)}
    ranges = {name: DepthRange(min(each.minimum, layers[name]), 16) for name, each in ranges.items()}
    known = {name: LayerSensitivity({4: 0.1, 8: 1e-9}, {4: 1 / 3, 16: 0.0}) for name in layers}
    rich = replace(
        network,
        limits=DepthLimits(DepthRange(6, 8), ranges),
        sensitivity=SensitivityProfile("hessian", known, 256),
    )
    assert equal_quantized(rich, read_qonnx(written(rich, tmp_path)))
    model = qonnx_model(network)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    bare = read_qonnx(tmp_path / "bare.onnx").depth_limits
    assert {name: each.minimum for name, each in bare.layers.items()} == layers
    assert bare.network == DepthRange(max(layers.values()), 16)


def test_every_structure_reads_back(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(0))
    network, _ = quantized_network(tmp_path, net, output)
    assert equal_quantized(network, read_qonnx(written(network, tmp_path)))


def test_host_nodes_read_back(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    scaled = net.node("Mul", net.node("Sub", "x", net.random(8)), net.random(1, 3, 1, 8))
    hidden = net.node("Clip", net.conv(scaled, 3, 4), net.constant(-0.75))
    network, data = quantized_network(tmp_path, net, net.node("LogSoftmax", net.node("Flatten", hidden), axis=1))
    again = read_qonnx(written(network, tmp_path))
    assert equal_quantized(network, again)
    assert [node.op for node in again.host_before] == ["Sub", "Mul"]
    assert [node.op for node in again.host_after] == ["Reshape", "LogSoftmax"]
    integers = [host_before(item, data).integers for item in (network, again)]
    assert integers[0].keys() == integers[1].keys() == {scaled}
    assert np.array_equal(integers[0][scaled], integers[1][scaled])


def test_what_stands_beyond_host_nodes_reads_back(tmp_path: Path) -> None:
    """Nodes that the NPU could execute stay ONNX nodes on the host, with their constants and reasons."""
    net = OnnxBuilder(np.random.default_rng(0))
    hidden = net.node("Relu", net.conv(net.node("Sin", net.node("Clip", "x", net.constant(-1.0))), 3, 4))
    gated = net.batch_norm(net.node("Add", net.node("Cos", hidden), hidden), 4)
    output = net.node("Add", net.node("GlobalAveragePool", gated), net.random(4, 1, 1))
    network, data = quantized_network(tmp_path, net, output)
    again = read_qonnx(written(network, tmp_path))
    assert equal_quantized(network, again)
    assert [node.op for node in again.host_before] == ["Clip", "Sin"]
    assert [node.op for node in again.host_after] == [
        "Cos",
        "Add",
        "BatchNormalization",
        "GlobalAveragePool",
        "Add",
    ]
    assert host_report(again.host_part()) == host_report(prepare(import_onnx(tmp_path / "float.onnx")))
    expected = reference(tmp_path / "float.onnx", data)[0]
    np.testing.assert_allclose(execute_quantized(again, data)[output], expected, atol=0.05 * np.abs(expected).max())


def test_shapes_of_one_by_one_maps(tmp_path: Path) -> None:
    """Vectors and maps of 1 x 1 are the same to the NPU, but not in the file."""
    net = OnnxBuilder(np.random.default_rng(0))
    mean = net.node("GlobalAveragePool", net.conv("x", 3, 4))
    left = net.gemm(net.node("Flatten", mean), 4, 4)
    right = net.node("Flatten", net.node("Relu", mean))
    network, _ = quantized_network(tmp_path, net, net.node("Add", left, right))
    assert equal_quantized(network, read_qonnx(written(network, tmp_path)))


def test_means_without_their_axes(tmp_path: Path) -> None:
    """What reads such a mean finds the axes that its node makes."""
    net = OnnxBuilder(np.random.default_rng(0))
    mean = net.node("ReduceMean", "x", axes=[2, 3], keepdims=0)
    network, _ = quantized_network(tmp_path, net, net.batch_norm(net.node("Add", mean, mean), 3))
    assert equal_quantized(network, read_qonnx(written(network, tmp_path)))


def test_a_sum_keeps_the_order_of_its_operands(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    left = net.node("Relu", net.conv("x", 3, 4))
    network, _ = quantized_network(tmp_path, net, net.node("Add", left, net.node("Relu", net.conv("x", 3, 4))))
    again = read_qonnx(written(network, tmp_path))
    assert (again.operations[-1].input, again.operations[-1].residual) == (left, "relu3_out")
    assert equal_quantized(network, again)


def test_a_file_without_our_metadata(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(0))
    network, _ = quantized_network(tmp_path, net, output)
    model = qonnx_model(network)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "network.onnx")
    again = read_qonnx(tmp_path / "network.onnx")
    assert equal_networks(to_integer(again), replace(to_integer(network), name="network"))
    assert again.tensors["x"].scale_at(4) == network.tensors["x"].scale * 2**4


@pytest.fixture
def executor(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Path, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Runs a QONNX file in the executor of the qonnx package and returns every tensor."""
    pytest.importorskip("onnxruntime")
    onnx_exec = pytest.importorskip("qonnx.core.onnx_exec")
    wrapper = pytest.importorskip("qonnx.core.modelwrapper").ModelWrapper
    # It wraps each node in a model of the newest file format, which can be newer than onnxruntime reads.
    make_model = functools.partial(onnx_exec.qonnx_make_model, ir_version=8)
    monkeypatch.setattr(onnx_exec, "qonnx_make_model", make_model)
    return lambda path, inputs: onnx_exec.execute_onnx(wrapper(str(path)), inputs, return_full_exec_context=True)


def integers_of(values: np.ndarray, tensor: QuantizedTensor) -> np.ndarray:
    """The integers (C, H, W) that float values of a quantised tensor stand for."""
    integers = np.rint(values.astype(np.float64) / tensor.scale).astype(np.int64)
    return integers.reshape(tensor.type.shape)


def compare_each_operation(
    network: QuantizedNetwork, tensors: dict[str, np.ndarray], inputs: dict[str, np.ndarray]
) -> int:
    """Compares another executor's tensors with the golden model, operation by operation.

    Each operation gets the operands that the executor had. Returns the number of values that are one step
    off; more than one step fails.
    """
    golden = to_integer(network)
    found = {name: value[0] for name, value in host_before(network, inputs).integers.items()}
    different = 0
    for operation in golden.operations:
        operands = tuple({operation.input, operation.post.residual} - {None})
        types = {name: golden.tensors[name] for name in (*operands, operation.output)}
        alone = replace(golden, tensors=types, inputs=operands, outputs=(operation.output,), operations=(operation,))
        expected = evaluate(alone, {name: found[name] for name in operands})[operation.output]
        found[operation.output] = integers_of(tensors[operation.output], network.tensors[operation.output])
        error = np.abs(found[operation.output] - expected)
        assert error.max() <= 1, operation.name
        different += int(np.count_nonzero(error))
    return different


@pytest.mark.parametrize("activation, weight", [(8, 8), (4, 4)])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_mlp"])
def test_digits_in_the_executor_of_qonnx(
    tmp_path: Path, executor: Callable, name: str, activation: int, weight: int
) -> None:
    pytest.importorskip("sklearn")
    datasets = pytest.importorskip("tessera.compiler.datasets")
    split = datasets.load_digits_split()
    graph = prepare(import_onnx(MODELS / f"{name}.onnx"))
    shape = graph.shapes[graph.inputs[0]]
    calibration = calibrate(graph, {graph.inputs[0]: split.calibration.images.reshape(-1, *shape[1:])})
    network = quantize(graph, calibration, activation, weight)
    path = written(network, tmp_path)
    values = different = 0
    for image in split.test.images[:3]:
        inputs = {graph.inputs[0]: image.reshape(shape)}
        different += compare_each_operation(network, executor(path, inputs), inputs)
        values += sum(np.prod(network.tensors[operation.output].shape) for operation in network.operations)
    assert different <= values / 1000


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_in_the_executor_of_qonnx(tmp_path: Path, executor: Callable, seed: int) -> None:
    net, output = random_network(np.random.default_rng(seed))
    network, data = quantized_network(tmp_path, net, output)
    inputs = {name: value[:1] for name, value in data.items()}
    compare_each_operation(network, executor(written(network, tmp_path), inputs), inputs)


@pytest.mark.parametrize("seed", range(8))
def test_equal_where_float32_is_exact(tmp_path: Path, executor: Callable, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = OnnxBuilder(rng, (1, 4, 6, 6))
    stem = net.node("Relu", net.conv("x", 4, 6, pads=[1, 1, 1, 1]))
    pool = net.node("AveragePool", net.conv(stem, 6, 6), kernel_shape=[2, 2], strides=[2, 2])
    total = net.node("Relu", net.node("Add", pool, net.conv(pool, 6, 6, (1, 1))))
    output = net.gemm(net.node("Flatten", total), 24, 5)
    network, data = quantized_network(tmp_path, net, output, int(rng.choice([4, 6, 8])), int(rng.choice([4, 8])))
    network = with_binary_scales(network)
    inputs = {name: value[:1] for name, value in data.items()}
    tensors = executor(written(network, tmp_path), inputs)
    integers = {name: value[0] for name, value in host_before(network, inputs).integers.items()}
    for name, expected in evaluate(to_integer(network), integers).items():
        if name not in network.npu_inputs:
            assert np.array_equal(integers_of(tensors[name], network.tensors[name]), expected), name


def with_binary_scales(network: QuantizedNetwork) -> QuantizedNetwork:
    """The network with powers of two as scales, and biases that are multiples of the sums' steps."""
    tensors = {
        name: replace(tensor, base_scale=2.0 ** np.floor(np.log2(tensor.base_scale)))
        for name, tensor in network.tensors.items()
    }
    operations = []
    for operation in network.operations:
        if isinstance(operation, QuantizedConvolution):
            scales = np.exp2(np.floor(np.log2(operation.weight_scales)))
            steps = scales * tensors[operation.input].scale
            bias = (np.rint(operation.bias / steps) * steps).astype(np.float32)
            operation = replace(operation, weight_scales=scales, bias=bias)
        operations.append(operation)
    return replace(network, tensors=tensors, operations=tuple(operations))


def test_the_file_is_plain_onnx(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(0))
    network, _ = quantized_network(tmp_path, net, output)
    path = written(network, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {"", "qonnx.custom_op.general"}
    assert [value.name for value in model.graph.input] == ["x"]
    weights = [node for node in model.graph.node if node.name.endswith("_weights_quant")]
    for node in weights:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        assert attributes == {"signed": 1, "narrow": 1, "rounding_mode": b"ROUND"}
    assert len(weights) == 6
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])
    assert facts["version"] == METADATA_VERSION
    assert facts["depth_limits"]["layers"].keys() == network.layer_depths().keys()
    assert facts["tensors"].keys() == network.tensors.keys()
    assert path.read_bytes() == qonnx_model(network).SerializeToString(deterministic=True)


def test_which_files_are_quantised(tmp_path: Path) -> None:
    net, output = residual_network(np.random.default_rng(0))
    network, _ = quantized_network(tmp_path, net, output)
    assert is_quantized(written(network, tmp_path))
    assert not is_quantized(tmp_path / "float.onnx")
    with pytest.raises(CompilerError) as caught:
        import_onnx(tmp_path / "network.onnx")
    assert "of the domain 'qonnx.custom_op.general', which a float network cannot have" in str(caught.value)
    with pytest.raises(CompilerError) as caught:
        read_qonnx(tmp_path / "float.onnx")
    assert str(caught.value) == (
        f"{tmp_path / 'float.onnx'} has no Quant node for activations; quantise the network first"
    )


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, output = residual_network(np.random.default_rng(0))
    network, _ = quantized_network(tmp_path, net, output)
    path = written(network, tmp_path)
    before = sorted(tmp_path.iterdir()), path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_qonnx(replace(network, name="other"), path)
    assert (sorted(tmp_path.iterdir()), path.read_bytes()) == before


def change_constant(name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    """Replaces the value of a constant."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))

    return change


def change_attribute(node: str, name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    """Replaces the value of an attribute."""

    def change(model: onnx.ModelProto) -> None:
        attributes = next(item for item in model.graph.node if item.name == node).attribute
        attribute = next(item for item in attributes if item.name == name)
        attribute.CopyFrom(onnx.helper.make_attribute(name, value))

    return change


def change_operator(node: str, op: str) -> Callable[[onnx.ModelProto], None]:
    """Replaces the operator of a node."""

    def change(model: onnx.ModelProto) -> None:
        next(item for item in model.graph.node if item.name == node).op_type = op

    return change


def bypass(node: str) -> Callable[[onnx.ModelProto], None]:
    """Removes a Quant node; its readers get what it quantised."""

    def change(model: onnx.ModelProto) -> None:
        victim = next(item for item in model.graph.node if item.name == node)
        model.graph.node.remove(victim)
        for item in model.graph.node:
            item.input[:] = [victim.input[0] if name == victim.output[0] else name for name in item.input]

    return change


def change_metadata(text: str) -> Callable[[onnx.ModelProto], None]:
    """Replaces the metadata."""

    def change(model: onnx.ModelProto) -> None:
        model.metadata_props[0].value = text

    return change


REMEDY = "them or write the file again"

CHANGES: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "zero point": (
        change_constant("conv0_quant_zero_point", 3),
        "node 'conv0_quant' (Quant) has a zero point other than 0; quantise symmetrically",
    ),
    "width": (
        change_constant("conv0_quant_bits", 5),
        "node 'conv0_quant' (Quant) has a width of 5 bits; it must be one of 4, 6, 8, 16",
    ),
    "weight width": (
        change_constant("conv0_weights_bits", 6),
        "node 'conv0_weights_quant' (Quant) has a width of 6 bits; it must be one of 4, 8",
    ),
    "scale": (
        change_constant("conv0_quant_scale", -1),
        "node 'conv0_quant' (Quant) has a scale that is not positive",
    ),
    "scales": (
        change_constant("conv0_quant_scale", np.ones((1, 4, 1, 1))),
        "node 'conv0_quant' (Quant) must have one scale, and the attribute narrow = 0, because it quantises "
        "activations",
    ),
    "weight scales": (
        change_constant("conv0_weights_scale", np.ones((4, 3, 1, 1))),
        "node 'conv0_weights_quant' (Quant) must be signed and have one scale, or one per output channel, as "
        "weights "
        "do",
    ),
    "narrow": (
        change_attribute("conv0_quant", "narrow", 1),
        "node 'conv0_quant' (Quant) must have one scale, and the attribute narrow = 0, because it quantises "
        "activations",
    ),
    "rounding": (
        change_attribute("conv0_quant", "rounding_mode", "FLOOR"),
        "node 'conv0_quant' (Quant) has the rounding mode FLOOR, but the NPU rounds half to even (ROUND)",
    ),
    "operator": (
        change_operator("conv0_activation", "Cos"),
        "node 'conv0_activation' (Cos) lies between quantised tensors, but the NPU has no operator Cos",
    ),
    "QONNX operator": (
        change_operator("conv0_quant", "BipolarQuant"),
        "node 'conv0_quant' has the QONNX operator BipolarQuant, but only Quant can be read",
    ),
    "float weights": (
        bypass("conv0_weights_quant"),
        "node 'conv0' (Conv) has weights without a Quant node; quantise them",
    ),
    "float activations": (
        bypass("conv0_quant"),
        "node 'conv0_activation' (Relu) computes the operand of an operation, but no Quant node quantises its result",
    ),
    "float input": (
        bypass("x_quant"),
        "node 'conv0' (Conv) has quantised weights, but no Quant node quantises its input; put one there",
    ),
    "metadata": (
        change_metadata("{"),
        "the metadata 'tessera' are damaged; remove them or write the file again",
    ),
    "metadata of a newer version": (
        change_metadata('{"version": 99, "tensors": {}}'),
        "the metadata 'tessera' have version 99, but this version of the compiler reads 1 and 2; use a newer compiler, "
        "or write the file again with this one",
    ),
    "metadata without version": (
        change_metadata('{"tensors": {}}'),
        "the metadata 'tessera' are damaged; remove " + REMEDY,
    ),
    "metadata with a number beyond floats": (
        change_metadata('{"version": 1, "tensors": {"x": {"base_scale": 1%s, "clip_shifts": {}}}}' % ("0" * 400)),
        "the metadata 'tessera' are damaged; remove " + REMEDY,
    ),
    "metadata with infinitely many samples": (
        change_metadata(
            '{"version": 2, "tensors": {}, "sensitivity": {"method": "noise", "samples": 1e999, "layers": {}}}'
        ),
        "the metadata 'tessera' are damaged; remove " + REMEDY,
    ),
    "metadata nested without end": (
        change_metadata("[" * 100_000),
        "the metadata 'tessera' are damaged; remove " + REMEDY,
    ),
    "metadata that are no object": (change_metadata("[1]"), "the metadata 'tessera' are damaged; remove " + REMEDY),
    "no clip shifts": (
        change_metadata('{"version": 1, "tensors": {"x": {"base_scale": 1}}}'),
        "the metadata 'tessera' are damaged; remove " + REMEDY,
    ),
    "a clip shift is missing": (
        change_metadata('{"version": 1, "tensors": {"x": {"base_scale": 1, "clip_shifts": {"8": 1}}}}'),
        "are damaged (the clip shift of 4 bits is None, no whole number up to 64); remove " + REMEDY,
    ),
    "a scale of zero": (
        change_metadata('{"version": 1, "tensors": {"x": {"base_scale": 0, "clip_shifts": {}}}}'),
        "are damaged (a base scale of 0 is not positive); remove " + REMEDY,
    ),
    "other scales": (
        change_metadata('{"version": 1, "tensors": {"x": {"base_scale": 1, "clip_shifts": {"4": 1, "6": 1, "8": 1}}}}'),
        "but the metadata 'tessera' say 2; remove them",
    ),
    "a limit that is no depth": (
        change_metadata('{"version": 2, "tensors": {}, "depth_limits": {"network": [4, 7], "layers": {}}}'),
        "are damaged (the activation depth 7 does not exist; use one of 4, 6, 8, 16); remove " + REMEDY,
    ),
    "limits the wrong way round": (
        change_metadata('{"version": 2, "tensors": {}, "depth_limits": {"network": [8, 4], "layers": {}}}'),
        "are damaged (the least activation depth 8 is above the greatest, 4; swap them); remove " + REMEDY,
    ),
    "limits without a layer": (
        change_metadata('{"version": 2, "tensors": {}, "depth_limits": {"network": [4, 8], "layers": {}}}'),
        "the limits in the metadata 'tessera' lack the layer 'conv0'; remove " + REMEDY,
    ),
    "a layer outside its limits": (
        change_metadata(
            '{"version": 2, "tensors": {}, "depth_limits": {"network": [4, 8], "layers": '
            '{"x": [4, 8], "conv0": [16, 16], "conv2": [8, 8]}}}'
        ),
        "layer 'conv0' has 8 bits, but the metadata 'tessera' allow 16 to 16; remove " + REMEDY,
    ),
    "sensitivities of another network": (
        change_metadata(
            '{"version": 2, "tensors": {}, "sensitivity": {"method": "noise", "samples": 9, "layers": {"foreign": '
            '{"weights": {}, "activations": {"4": 1.5}}}}}'
        ),
        "the sensitivities in the metadata 'tessera' lack the layer 'conv0'; remove " + REMEDY,
    ),
    "a sensitivity that is no number": (
        change_metadata(
            '{"version": 2, "tensors": {}, "sensitivity": {"method": "noise", "samples": 9, "layers": {"conv0": '
            '{"weights": {}, "activations": {"4": NaN}}}}}'
        ),
        "are damaged (nan is no finite number); remove " + REMEDY,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    net = OnnxBuilder(np.random.default_rng(0))
    first = net.node("Relu", net.conv("x", 3, 4))
    network, _ = quantized_network(tmp_path, net, net.conv(first, 4, 2))
    model = qonnx_model(network)
    change, sentence = CHANGES[name]
    change(model)
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    with pytest.raises(CompilerError) as caught:
        read_qonnx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(sentence)
