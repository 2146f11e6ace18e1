"""Inputs and outputs that are floating point in DRAM: refusals, golden = stream model = RTL, and NaN from the host."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from test_tiling import chain, convolution

from tessera.compiler import CompilerError, QuantizedNetwork, calibrate, import_onnx, prepare, quantize
from tessera.compiler.io_formats import float_formats
from tessera.compiler.lowering import lower
from tessera.compiler.quantized_execution import execute_quantized, host_before
from tessera.compiler.stream_checker import check_program
from tessera.firmware.inference import CompiledNetwork, compile_network, run_network
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import ErrorCode, MemoryFormat, NanPolicy
from tessera.sim.cosim import CosimError
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import TensorType
from tessera.sim.program import DramFormat
from tessera.sim.stream import StreamModel, StreamStopped

TINY = NpuConfig.preset("tiny")
MODELS = Path(__file__).resolve().parent.parent / "models"
FORMATS = [item for item in MemoryFormat if item.is_float]


def samples(network: str, count: int, seed: int) -> dict[str, np.ndarray]:
    graph = prepare(import_onnx(MODELS / f"{network}.onnx"))
    rng = np.random.default_rng(seed)
    return {name: rng.random((count, *graph.shapes[name][1:])).astype(np.float32) for name in graph.inputs}


def quantized(network: str, *, power_of_two_io: bool = True, depth: int = 8) -> QuantizedNetwork:
    graph = prepare(import_onnx(MODELS / f"{network}.onnx"))
    calibration = calibrate(graph, samples(network, 8, 3), power_of_two_io=power_of_two_io)
    return quantize(graph, calibration, depth, 8)


def stream_outputs(compiled: CompiledNetwork, inputs: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """What the stream model gives back for one sample."""
    before = host_before(compiled.quantized, inputs)
    given = {name: before.values[name].reshape(before.integers[name].shape)[index] for name in compiled.program.inputs}
    return StreamModel(TINY).run(compiled.program, given)


def test_scales_that_are_powers_of_two() -> None:
    """Only inputs and outputs are rounded, and only up, so nothing more is clipped."""
    plain, network = quantized("digits_cnn", power_of_two_io=False), quantized("digits_cnn", power_of_two_io=True)
    exchanged = {*network.npu_inputs, *network.npu_outputs}
    for name, tensor in network.tensors.items():
        ratio = tensor.base_scale / plain.tensors[name].base_scale
        if name in exchanged:
            assert np.frexp(tensor.scale)[0] == 0.5
            assert 1 <= ratio < 2
    assert any(tensor.base_scale == plain.tensors[name].base_scale for name, tensor in network.tensors.items())


def test_other_scales_are_refused() -> None:
    network = quantized("digits_mlp", power_of_two_io=False)
    names = (*network.npu_inputs, *network.npu_outputs)
    name = next(name for name in names if np.frexp(network.tensors[name].scale)[0] != 0.5)
    message = (
        f"tensor {name!r} has the scale {network.tensors[name].scale:.9g}, but floating point in DRAM needs a power of "
        "two; quantise the float network with --power-of-two-io, or leave the tensor as integers"
    )
    with pytest.raises(CompilerError, match=f"^{re.escape(message)}$"):
        float_formats(network, TINY, MemoryFormat.FP32)


def test_a_scale_too_far_from_one_is_refused() -> None:
    network = quantized("digits_mlp")
    name = network.npu_inputs[0]
    tiny_scale = dataclasses.replace(network.tensors[name], base_scale=2.0**-140, depth=16)
    network.tensors[name] = tiny_scale
    message = (
        f"tensor {name!r} has the scale 2 ** -140, but floating point in DRAM needs an exponent from -127 to 127; "
        "leave the tensor as integers"
    )
    with pytest.raises(CompilerError, match=f"^{re.escape(message)}$"):
        float_formats(network, TINY, MemoryFormat.FP32)


def test_a_machine_without_the_format_is_refused() -> None:
    config = dataclasses.replace(TINY, name="mine", float_formats=("fp32",))
    message = "configuration 'mine' does not convert fp16; its float_formats are fp32; add it there, or use integers"
    with pytest.raises(CompilerError, match=f"^{re.escape(message)}$"):
        compile_network(quantized("digits_mlp"), config, MemoryFormat.FP16)


@pytest.mark.parametrize("depth", [4, 8, 16])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_programs_are_proven(memory_format: MemoryFormat, depth: int) -> None:
    check_program(compile_network(quantized("digits_cnn", depth=depth), TINY, memory_format).program)


def test_fp32_changes_nothing() -> None:
    """The NPU makes of FP32 the integers that the host would have made, and the host gets the same real numbers."""
    network = quantized("digits_mlp")
    inputs = samples("digits_mlp", 3, 9)
    expected = execute_quantized(network, inputs)
    compiled = compile_network(network, TINY, MemoryFormat.FP32)
    for index in range(3):
        outputs = stream_outputs(compiled, inputs, index)
        for name, values in expected.items():
            np.testing.assert_array_equal(outputs[name].ravel(), values[index].ravel())


@pytest.mark.cosim
@pytest.mark.parametrize("memory_format", FORMATS)
def test_network_on_the_npu(memory_format: MemoryFormat) -> None:
    compiled = compile_network(quantized("digits_mlp"), TINY, memory_format)
    inputs = samples("digits_mlp", 3, 9)
    # Some that FP16 cannot hold, and some far outside the range: they saturate.
    next(iter(inputs.values())).ravel()[:4] = [1e6, -1e6, 1e-9, 3.00001]
    if memory_format is MemoryFormat.FP16:
        next(iter(inputs.values())).ravel()[:2] = [6e4, -6e4]
    result = run_network(compiled, inputs)
    assert result.bit_exact
    for index, run in enumerate(result.inferences.runs):
        outputs = stream_outputs(compiled, inputs, index)
        for name, values in outputs.items():
            assert values.dtype == np.float32
            np.testing.assert_array_equal(result.inferences.outputs[name][index], values)
        assert run.counts.not_a_number == 0
    assert result.inferences.runs[0].counts.overflows > 0


@pytest.mark.parametrize("policy", list(NanPolicy))
@pytest.mark.parametrize("memory_format", FORMATS)
def test_nan_policies_of_networks_that_pass_through_dram(memory_format: MemoryFormat, policy: NanPolicy) -> None:
    """NaN and infinity in every band of an input that does not fit on chip."""
    source = TensorType(11, 30, 30, 8, True)
    network = chain(source, convolution("y", "x", (5, 11, 3, 3), padding=(2, 0, 1, 1)))
    config = dataclasses.replace(TINY, activation_bank_bytes=2048)
    program = lower(network, config, io_formats={"x": DramFormat(memory_format, -3, policy, 300)})
    check_program(program)
    assert "x" in program.streamed
    rng = np.random.default_rng(3)
    integers = rng.integers(-128, 128, source.shape)
    values = integers * 2.0**-3
    places = rng.random(source.shape)
    for place, value, integer in ((0.01, np.nan, 0), (0.02, np.inf, 127), (0.03, -np.inf, -128)):
        chosen = (place - 0.01 <= places) & (places < place)
        values[chosen], integers[chosen] = value, 127 if policy is NanPolicy.REPLACE else integer
    model = StreamModel(config)
    if policy is NanPolicy.STOP_STREAM:
        with pytest.raises(StreamStopped, match="NaN or infinity") as stopped:
            model.run(program, {"x": values})
        assert stopped.value.code is ErrorCode.NOT_A_NUMBER
        return
    output = model.run(program, {"x": values})["y"]
    assert model.counts.not_a_number > 20
    if policy is not NanPolicy.STOP_OPERATION:  # which leaves what was there before
        np.testing.assert_array_equal(output, evaluate(network, {"x": integers})["y"])


def test_numbers_that_the_format_cannot_hold_are_refused() -> None:
    """65519 is the largest float32 integer that rounds to a finite FP16 number; BF16 has the range of FP32."""
    compiled = compile_network(quantized("digits_mlp"), TINY, MemoryFormat.FP16)
    inputs = samples("digits_mlp", 2, 9)
    (name,) = compiled.program.inputs
    next(iter(inputs.values())).ravel()[[3, 70]] = -65520, 65519
    message = f"input {name!r} has the value -65520, which is infinity in fp16; scale the data, or use another format"
    with pytest.raises(CompilerError, match=f"^{re.escape(message)}$"):
        run_network(compiled, inputs)


@pytest.mark.cosim
def test_nan_from_the_host_stops_the_stream() -> None:
    compiled = compile_network(quantized("digits_mlp"), TINY, MemoryFormat.FP32)
    inputs = samples("digits_mlp", 1, 9)
    next(iter(inputs.values())).ravel()[5] = np.nan
    with (
        pytest.raises(CosimError, match="it loads NaN or infinity; remove them from the input"),
        np.errstate(invalid="ignore"),
    ):
        run_network(compiled, inputs)
