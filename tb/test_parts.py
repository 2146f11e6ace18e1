"""Tensors that are parts of others: their meaning, where they lie, and the copies of those that cannot be addressed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_networks import OnnxBuilder
from random_networks import random_inputs

from tessera.compiler import (
    CompilerError,
    calibrate,
    import_onnx,
    prepare,
    quantize,
    read_qonnx,
    to_integer,
    write_qonnx,
)
from tessera.compiler.lowering import lower
from tessera.compiler.lowering.storage import Storage, with_addressable_parts
from tessera.compiler.stream_checker import check_program
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import IntegerNetwork, NetworkError, Part, TensorType, equal_networks
from tessera.sim.program import Program
from tessera.sim.stream import StreamModel

TINY = NpuConfig.preset("tiny")
SMALL = replace(TINY, name="small", activation_bank_bytes=512)
"""Its banks hold 128 words, so that maps pass through buffers."""


def _network(tmp_path: Path, *channels: int, side: int = 6, depths: tuple[int, int] = (8, 8)) -> IntegerNetwork:
    """Convolutions whose results are joined; the second of them is an output too, and a slice is read again."""
    net = OnnxBuilder(np.random.default_rng(0), (1, 3, side, side))
    parts = [net.conv("x", 3, count, (1, 1)) for count in channels]
    whole = net.node("Concat", *parts, axis=1)
    limits = [net.constant([value], np.int64) for value in (channels[0], channels[0] + channels[1], 1)]
    part = net.node("Slice", whole, *limits)
    outputs = [parts[1], net.conv(whole, sum(channels), 5), net.conv(part, channels[1], 4, (1, 1))]
    path = net.save(tmp_path / "network.onnx", *outputs)
    data = {"x": np.random.default_rng(1).normal(size=(4, 3, side, side)).astype(np.float32)}
    graph = prepare(import_onnx(path))
    quantized = quantize(graph, calibrate(graph, data), *depths)
    write_qonnx(quantized, tmp_path / "quantized.onnx")
    return to_integer(quantized)


def _agree(network: IntegerNetwork, config: NpuConfig) -> Program:
    """Golden model = stream model."""
    program = lower(network, config)
    check_program(program)
    inputs = random_inputs(np.random.default_rng(2), network)
    golden, stream = evaluate(network, inputs), StreamModel(config).run(program, inputs)
    for name in network.outputs:
        assert np.array_equal(golden[name], stream[name]), name
    return program


@pytest.mark.parametrize("config", [TINY, SMALL], ids=lambda config: config.name)
@pytest.mark.parametrize(
    "channels", [(8, 16, 8), (16, 8, 3), (5, 8, 8), (8, 3, 9)], ids=lambda each: "-".join(map(str, each))
)
def test_parts_in_banks_and_in_dram(channels: tuple[int, ...], config: NpuConfig, tmp_path: Path) -> None:
    """With banks for everything, and with maps that pass through buffers."""
    program = _agree(_network(tmp_path, *channels, side=12 if config is SMALL else 6), config)
    assert bool(program.streamed) == (config is SMALL)


def test_aligned_parts_cost_nothing(tmp_path: Path) -> None:
    """They are where their whole is, and there is no operation more."""
    network = _network(tmp_path, 8, 16, 8)
    assert with_addressable_parts(network, TINY) is network
    program = lower(network, TINY)
    (whole,) = {part.whole for part in network.parts.values()}
    place = program.placement[whole]
    firsts = [program.placement[name].base for name in network.parts_of(whole)]
    assert firsts == [place.base + block * place.block_pitch for block in (0, 1, 1, 3)]


def test_other_parts_are_copied_exactly(tmp_path: Path) -> None:
    """The rewritten network computes the same integers."""
    network = _network(tmp_path, 5, 8, 4)
    rewritten = with_addressable_parts(network, TINY)
    rewritten.verify()
    assert len(rewritten.operations) == len(network.operations) + 4  # three parts of the whole, and the slice
    storage = Storage(rewritten, TINY)
    assert all(storage.root(name) == name for name in rewritten.parts_of("concat3_out") if name in rewritten.parts)
    inputs = random_inputs(np.random.default_rng(2), network)
    before, after = evaluate(network, inputs), evaluate(rewritten, inputs)
    assert all(np.array_equal(before[name], after[name]) for name in network.tensors)


def test_parts_of_the_widest_depth(tmp_path: Path) -> None:
    """Copies of unsigned and signed 16 bits keep every bit."""
    _agree(_network(tmp_path, 3, 6, 2, depths=(16, 8)), TINY)


def _add_input(net: OnnxBuilder, name: str, channels: int) -> None:
    shape = (1, channels, 4, 4)
    net.inputs.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))


def _late_input(net: OnnxBuilder) -> list[str]:
    """An input that is first read when the whole that it is a part of is complete."""
    _add_input(net, "y", 5)
    whole = net.node("Concat", net.conv("x", 8, 8, (1, 1)), "y", axis=1)
    return [whole, net.conv("y", 5, 4, (1, 1))]


def _unread_input(net: OnnxBuilder) -> list[str]:
    """An input that is part of a result, and that no operation reads."""
    _add_input(net, "y", 5)
    return [net.node("Concat", net.conv("x", 8, 16, (1, 1)), "y", axis=1)]


def _part_of_a_moved_input(net: OnnxBuilder) -> list[str]:
    """A result that is a part of an input, which is copied into a whole because it begins within a word of it."""
    part = net.node("Slice", "x", *(net.constant([value], np.int64) for value in (0, 3, 1)))
    whole = net.node("Concat", net.conv("x", 8, 3, (1, 1)), "x", axis=1)
    return [part, net.node("Relu", whole)]


def _parts_within_parts(net: OnnxBuilder) -> list[str]:
    """A result that is a part of an input in a whole in a whole, the second of which is put together by copies."""
    part = net.node("Slice", "x", *(net.constant([value], np.int64) for value in (0, 5, 1)))
    inner = net.node("Concat", "x", axis=1)
    outer = net.node("Concat", inner, net.conv("x", 8, 3, (1, 1)), "x", axis=1)
    return [part, net.node("MaxPool", outer, kernel_shape=[2, 2])]


def test_file_keeps_the_order_of_outputs(tmp_path: Path) -> None:
    """A part that is an output comes in its place, before and after writing."""
    net = OnnxBuilder(np.random.default_rng(0), (1, 8, 4, 4))
    whole = net.conv("x", 8, 8, (1, 1))
    part = net.node("Slice", whole, *(net.constant([value], np.int64) for value in (0, 5, 1)))
    outputs = (net.conv(whole, 8, 3, (1, 1)), part, net.node("Tanh", part))
    graph = prepare(import_onnx(net.save(tmp_path / "network.onnx", *outputs)))
    data = {"x": np.random.default_rng(1).normal(size=(4, 8, 4, 4))}
    network = quantize(graph, calibrate(graph, data), 8, 8)
    write_qonnx(network, tmp_path / "quantized.onnx")
    assert to_integer(network).outputs == outputs
    assert equal_networks(to_integer(network), to_integer(read_qonnx(tmp_path / "quantized.onnx")))


@pytest.mark.parametrize("build", [_late_input, _unread_input, _part_of_a_moved_input, _parts_within_parts])
@pytest.mark.parametrize("config", [TINY, SMALL], ids=lambda config: config.name)
def test_inputs_as_parts(build: Callable[[OnnxBuilder], list[str]], config: NpuConfig, tmp_path: Path) -> None:
    """Inputs in the storage of results are there when these are stored; results have storage that is written."""
    net = OnnxBuilder(np.random.default_rng(0), (1, 8, 4, 4))
    path = net.save(tmp_path / "network.onnx", *build(net))
    graph = prepare(import_onnx(path))
    rng = np.random.default_rng(1)
    data = {name: rng.normal(size=(4, *graph.shapes[name][1:])) for name in graph.inputs}
    _agree(to_integer(quantize(graph, calibrate(graph, data), 8, 8)), config)


PROBLEMS = {
    "type": (Part("b", 0), "'a' is 8x2x2 s8, but its whole 'b' is 16x2x2 s4; they may differ in channels alone"),
    "channels": (Part("c", 9), "'a' has the channels 9..16 of 'c', which has 16"),
    "name": (Part("d", 0), "'a' is a part of 'd', but both must be tensors"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_verifier_refuses_parts(name: str) -> None:
    part, message = PROBLEMS[name]
    tensors = {
        "a": TensorType(8, 2, 2, 8, True),
        "b": TensorType(16, 2, 2, 4, True),
        "c": TensorType(16, 2, 2, 8, True),
    }
    network = IntegerNetwork("n", tensors, ("b", "c"), ("a",), (), {"a": part})
    with pytest.raises(NetworkError) as error:
        network.verify()
    assert message in str(error.value)


def test_half_a_whole_is_not_known() -> None:
    tensors = {"a": TensorType(8, 2, 2, 8, True), "c": TensorType(16, 2, 2, 8, True)}
    network = IntegerNetwork("n", tensors, ("a",), ("c",), (), {"a": Part("c", 0)})
    with pytest.raises(NetworkError, match="output 'c' is never computed"):
        network.verify()


def test_file_with_parts_of_other_scales(tmp_path: Path) -> None:
    """A file of another tool whose operands of a Concat differ in scale is refused with the node."""
    _network(tmp_path, 8, 16, 8)
    model = onnx.load(tmp_path / "quantized.onnx")
    for constant in model.graph.initializer:
        if constant.name == "conv1_quant_scale":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.5), constant.name))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(CompilerError, match="has 'conv1_out' of the scale 0.5 and 8 bits beside 'concat3_out'"):
        read_qonnx(tmp_path / "changed.onnx")
