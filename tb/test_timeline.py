"""Times of operations from a trace that has nothing but completions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_networks import OnnxBuilder

from tessera.compiler import calibrate, import_onnx, prepare, quantize
from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.firmware.inference import compile_network
from tessera.firmware.timeline import bundles, instruction_times, operation_times
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Fence, Load, LoadTarget, PostProcess, Wait
from tessera.sim.cycles import Prediction, predict
from tessera.sim.program import Program

MODELS = Path(__file__).resolve().parent.parent / "models"


def program_of(network: str) -> Program:
    graph = prepare(import_onnx(MODELS / f"{network}.onnx"))
    rng = np.random.default_rng(0)
    samples = {name: rng.random((4, *graph.shapes[name][1:])) for name in graph.inputs}
    return compile_network(quantize(graph, calibrate(graph, samples)), NpuConfig.preset("tiny")).program


def trace_of(program: Program | PlanProgram, prediction: Prediction) -> list[tuple[int, int]]:
    """The trace of a machine that does exactly what the cycle model says."""
    masks: dict[int, int] = {}
    for instruction, end in zip(program.instructions, prediction.end.tolist(), strict=True):
        units = () if isinstance(instruction, Wait) else instruction.units()
        for unit in units:
            assert not masks.get(end, 0) >> unit & 1
            masks[end] = masks.get(end, 0) | 1 << unit
    return sorted(masks.items())


@pytest.mark.parametrize("network", ["digits_cnn", "digits_mlp", "digits_resnet"])
def test_times_from_completions(network: str) -> None:
    """Operations seem to begin about when they work, and not when the unit was last used or the stream started."""
    program = program_of(network)
    prediction = predict(program.instructions, program.config)
    start, end = instruction_times(program, trace_of(program, prediction))
    for index, instruction in enumerate(program.instructions):
        if isinstance(instruction, (Wait, Fence)) or not instruction.units():
            assert (start[index], end[index]) == (0, 0)
        else:
            assert end[index] == prediction.end[index]
            assert start[index] <= end[index]
    measured = operation_times(program, start, end)
    predicted = operation_times(program, prediction.start.tolist(), prediction.end.tolist())
    for real, guess in zip(measured, predicted, strict=True):
        assert (real.operation, real.end, real.lanes) == (guess.operation, guess.end, guess.lanes)
        assert abs(real.start - guess.start) < 50, real.operation


def test_first_tile_waits_for_its_weights() -> None:
    """The time in which nothing can work yet belongs to no operation."""
    program = program_of("digits_mlp")
    prediction = predict(program.instructions, program.config)
    first = operation_times(program, *instruction_times(program, trace_of(program, prediction)))[0]
    pairs = list(zip(program.instructions, prediction.end.tolist(), strict=True))
    weights = min(end for each, end in pairs if isinstance(each, Load) and each.target is LoadTarget.WEIGHTS)
    posts = [end for each, end in pairs if isinstance(each, PostProcess)]
    assert weights <= first.start < min(posts)


def test_bundles_of_copies(tmp_path: Path) -> None:
    """Copies that the compiler adds, of channels that begin within a word, have bundles like other operations."""
    rng = np.random.default_rng(0)
    builder = OnnxBuilder(rng, (1, 3, 6, 6))
    first, second = (builder.conv("x", 3, 5, (1, 1)) for _ in range(2))
    output = builder.conv(builder.node("Concat", first, second, axis=1), 10, 4, (1, 1))
    graph = prepare(import_onnx(builder.save(tmp_path / "net.onnx", output)))
    samples = {"x": rng.random((4, 3, 6, 6)).astype(np.float32)}
    network = compile_network(quantize(graph, calibrate(graph, samples), 4, 4), NpuConfig.preset("tiny"))
    prediction = predict(network.program.instructions, network.program.config)
    times = operation_times(network.program, prediction.start.tolist(), prediction.end.tolist())
    slots = [bundle["slots"][0] for bundle in bundles(network.quantized, network.program, times)]
    known = {operation.name for operation in network.quantized.operations}
    assert {slot["op"] for slot in slots} > known
    assert all((slot["activation_bits"], slot["weight_bits"]) == (4, 4) for slot in slots)
