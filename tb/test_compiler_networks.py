"""Random networks through the compiler, shrunk by hypothesis: right results, or one sentence that says why not."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from agreement import assert_programs_agree
from drawn_random import DrawnRandom
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from onnx_networks import OnnxBuilder, random_network, residual_network
from random_networks import NetworkGenerator, random_inputs

from tessera.compiler import CompilerError, calibrate, import_onnx, prepare, quantize
from tessera.compiler.lowering import lower
from tessera.compiler.quantized_execution import execute_quantized
from tessera.firmware.cosimulation import Options
from tessera.firmware.inference import compile_network
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.program import Program
from tessera.sim.stream import StreamModel

TINY = NpuConfig.preset("tiny")

UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
"""A network takes hypothesis' time, and that is fine."""


def check_refusal(error: CompilerError) -> None:
    """The message is one line without a Python object's address."""
    text = str(error)
    assert text.strip() and "\n" not in text and not re.search(r"object at 0x|Traceback", text), text
    note(f"refused: {text}")


def drawn_network(data: st.DataObject) -> IntegerNetwork:
    """A network of a few operations, most of which `tiny` can run, or which is larger than its banks."""
    generator = NetworkGenerator(DrawnRandom(data), TINY)
    operations = data.draw(st.integers(1, 4), label="operations")
    times = data.draw(st.sampled_from((0, 0, 0, 3)), label="times the banks")
    if times:
        return generator.large_network(operations, times)
    return generator.network(operations, inputs=data.draw(st.integers(1, 2), label="inputs"))


def lowered(network: IntegerNetwork) -> Program | None:
    """The network's program; None if the compiler refuses it, which it does in one sentence."""
    try:
        return lower(network, TINY)
    except CompilerError as error:
        check_refusal(error)
        return None


@settings(max_examples=60, suppress_health_check=UNHURRIED)
@given(st.data())
def test_golden_and_stream_model_agree(data: st.DataObject) -> None:
    network = drawn_network(data)
    program = lowered(network)
    assume(program is not None)
    inputs = random_inputs(np.random.default_rng(data.draw(st.integers(0, 1 << 16), label="data")), network)
    outputs, expected = StreamModel(TINY).run(program, inputs), evaluate(network, inputs)
    for name in network.outputs:
        np.testing.assert_array_equal(outputs[name], expected[name], err_msg=name)


@pytest.mark.cosim
@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=UNHURRIED)
@given(st.data())
def test_the_rtl_agrees_with_them(data: st.DataObject) -> None:
    network = drawn_network(data)
    program = lowered(network)
    assume(program is not None)
    inputs = random_inputs(np.random.default_rng(data.draw(st.integers(0, 1 << 16), label="data")), network)
    samples = {name: values[np.newaxis] for name, values in inputs.items()}
    assert_programs_agree(TINY, {"drawn": (network, program, samples)}, Options())


ATTRIBUTES = {
    "strides": st.lists(st.integers(-1, 9), min_size=1, max_size=3),
    "pads": st.lists(st.integers(-2, 9), min_size=2, max_size=5),
    "dilations": st.lists(st.integers(-1, 9), min_size=1, max_size=3),
    "kernel_shape": st.lists(st.integers(-1, 9), min_size=1, max_size=3),
    "group": st.integers(-1, 7),
    "auto_pad": st.sampled_from(("SAME_UPPER", "VALID", "NOTSET", "ANYTHING")),
    "ceil_mode": st.integers(0, 2),
    "count_include_pad": st.integers(0, 2),
    "alpha": st.floats(-3, 3, width=32),
    "beta": st.floats(-3, 3, width=32),
    "transA": st.integers(0, 1),
    "transB": st.integers(0, 1),
    "axis": st.integers(-5, 5),
    "epsilon": st.floats(-1, 1, width=32),
}
"""Values that attributes may get, most of which make no sense where they are."""

VALUES = (np.nan, np.inf, -np.inf, 0.0, 1e-42, 1e30, -3.4e38)
"""Numbers that constants may get."""


def damage_attribute(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Gives a node any attribute any value."""
    node = data.draw(st.sampled_from(list(model.graph.node)))
    name = data.draw(st.sampled_from([*[item.name for item in node.attribute if item.name in ATTRIBUTES], *ATTRIBUTES]))
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, data.draw(ATTRIBUTES[name]))])


def damage_operator(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Makes a node another one."""
    operators = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool", "Add", "Mul", "Tanh", "Concat", "Reshape", "LSTM", "Loop")
    data.draw(st.sampled_from(list(model.graph.node))).op_type = data.draw(st.sampled_from(operators))


def damage_operand(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Gives a node another operand, none, or one that is not there."""
    node = data.draw(st.sampled_from(list(model.graph.node)))
    names = [item.name for item in model.graph.initializer] + [item.output[0] for item in model.graph.node]
    node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from([*names, "", "x", "nobody"]))


def damage_shape(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Gives a constant another shape and other values."""
    tensor = data.draw(st.sampled_from(list(model.graph.initializer)))
    sides = data.draw(st.lists(st.integers(0, 5), max_size=5))
    kind = data.draw(st.sampled_from((np.float32, np.float64, np.int64, np.bool_)))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(sides, kind), tensor.name))


def damage_values(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Gives a constant an extreme value, somewhere or everywhere."""
    tensor = data.draw(st.sampled_from(list(model.graph.initializer)))
    values = onnx.numpy_helper.to_array(tensor).copy()
    value = data.draw(st.sampled_from(VALUES))
    if data.draw(st.booleans()):
        values[...] = value
    elif values.size:
        values.flat[data.draw(st.integers(0, values.size - 1))] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def damage_input(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Gives the input another shape."""
    sides = model.graph.input[0].type.tensor_type.shape.dim
    sides[data.draw(st.integers(0, len(sides) - 1))].dim_value = data.draw(st.sampled_from((0, 1, 2, 5, 70, 5000)))


def damage_output(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Asks for another tensor."""
    names = [item.output[0] for item in model.graph.node]
    model.graph.output[0].name = data.draw(st.sampled_from([*names, "x", "nobody", ""]))


DAMAGES: Sequence[Callable[[onnx.ModelProto, st.DataObject], None]] = (
    damage_attribute, damage_attribute, damage_attribute, damage_operator, damage_operand, damage_shape, damage_values,
    damage_input, damage_output,
)  # fmt: skip


def compile_and_compare(path: Path, activation_depth: int, weight_depth: int) -> None:
    """What a user does with a file; the stream model's result is the golden model's."""
    graph = prepare(import_onnx(path))
    rng = np.random.default_rng(0)
    samples = {name: rng.normal(size=(2, *graph.shapes[name][1:])) for name in graph.inputs}
    network = quantize(graph, calibrate(graph, samples), activation_depth, weight_depth)
    compiled = compile_network(network, TINY)
    rng = np.random.default_rng(1)
    inputs = random_inputs(rng, compiled.integer)
    outputs, expected = StreamModel(TINY).run(compiled.program, inputs), evaluate(compiled.integer, inputs)
    for name in compiled.integer.outputs:
        np.testing.assert_array_equal(outputs[name], expected[name], err_msg=name)
    execute_quantized(network, samples)


@settings(max_examples=100, suppress_health_check=UNHURRIED)
@given(st.data())
def test_a_damaged_file_works_or_is_refused_in_a_sentence(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 16), label="network"))
    net, output = data.draw(st.sampled_from((random_network, residual_network)), label="kind")(rng)
    model = net.model(output)
    for damage in data.draw(st.lists(st.sampled_from(DAMAGES), min_size=0, max_size=2), label="damages"):
        if model.graph.initializer or damage not in (damage_shape, damage_values):
            damage(model, data)
    depths = data.draw(st.sampled_from(((8, 8), (4, 4), (16, 8), (6, 4))), label="depths")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(model, path)
        try:
            compile_and_compare(path, *depths)
        except CompilerError as error:
            check_refusal(error)


def wrong_channels(net: OnnxBuilder) -> str:
    return net.conv("x", 2, 4)


def wrong_bias(net: OnnxBuilder) -> str:
    return net.node("Conv", "x", net.random(4, 3, 3, 3), net.random(5))


def constant_output(net: OnnxBuilder) -> str:
    return net.node("Relu", net.random(1, 3, 8, 8))


@pytest.mark.parametrize(
    "build, sentence",
    [
        (wrong_channels, r"\(Conv\): weights of the shape \(4, 2, 3, 3\) in 1 groups do not fit 3 input channels"),
        (wrong_bias, r"\(Conv\): its bias has the shape \(5,\), but must have \(4,\)"),
        (constant_output, r"its output .relu0_out. does not depend on any input; leave it out"),
    ],
)
def test_constants_that_do_not_fit(build: Callable[[OnnxBuilder], str], sentence: str, tmp_path: Path) -> None:
    """ONNX's own shape inference lets them through."""
    net = OnnxBuilder(np.random.default_rng(0))
    with pytest.raises(CompilerError, match=sentence):
        import_onnx(net.save(tmp_path / "network.onnx", build(net)))
