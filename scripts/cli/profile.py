"""``tessera profile``: measured and predicted cycles of every operation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tessera.cli.console import check_output, print_table, progress_bar, write_json
from tessera.cli.networks import load_network, quantization_options
from tessera.cli.options import (
    ActivationsOption,
    CalibrationsOption,
    IoFormatOption,
    JsonOption,
    LayersOption,
    NpuOption,
    ShapesOption,
    SimulatorOption,
    WeightsOption,
    parse_io_format,
)
from tessera.firmware.cosimulation import Options, run_program
from tessera.firmware.inference import CompiledNetwork, compile_network
from tessera.firmware.timeline import instruction_times, operation_times
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator
from tessera.sim.cycles import predict


def profile(
    networks: Annotated[list[Path], typer.Argument(help="Networks (ONNX or QONNX).", metavar="NETWORK...")],
    npu: NpuOption = "edge",
    calibration: CalibrationsOption = None,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    simulator: SimulatorOption = Simulator.VERILATOR,
    io_format: IoFormatOption = "integer",
    json: JsonOption = None,
) -> None:
    """Measure every operation's cycles on the RTL, beside the cycle model's prediction."""
    check_output(json, *networks)
    config = NpuConfig.load(npu)
    memory_format = parse_io_format(io_format)
    options = quantization_options(
        networks, calibration, activations, weights, layer, shape, power_of_two_io=memory_format.is_float
    )
    rows = [
        _profile(
            path, compile_network(load_network(path, options), config, memory_format), Options(simulator=simulator)
        )
        for path in networks
    ]
    if json is not None:
        write_json(json, {"npu": config.name, "simulator": simulator.value, "networks": rows})


def _profile(path: Path, compiled: CompiledNetwork, options: Options) -> dict[str, object]:
    program = compiled.program
    # Durations do not depend on the data, so zeros will do.
    zeros = {name: np.zeros((1, *tensor.type.shape), np.int64) for name, tensor in program.inputs.items()}
    with progress_bar(program.name, 1) as on_progress:
        inferences = run_program(program, zeros, options, on_progress)
    prediction = predict(program.instructions, program.config)
    predicted = operation_times(program, prediction.start.tolist(), prediction.end.tolist())
    measured = operation_times(program, *instruction_times(program, inferences.trace))
    cycles = inferences.runs[0].cycles
    pairs = list(zip(measured, predicted, strict=True))
    print_table(
        ("operation", "lanes", "cycles", "predicted"),
        [
            (real.operation, ",".join(map(str, real.lanes)), f"{real.cycles:,}", f"{guess.cycles:,}")
            for real, guess in pairs
        ],
        title=f"{program.name} on {program.config.name}: {cycles:,} cycles, {prediction.total:,} predicted "
        f"({prediction.total / cycles - 1:+.1%})",
    )
    return {
        "name": program.name,
        "file": str(path),
        "cycles": cycles,
        "predicted_cycles": prediction.total,
        "operations": [
            {
                "name": real.operation,
                "lanes": list(real.lanes),
                "cycles": real.cycles,
                "predicted_cycles": guess.cycles,
            }
            for real, guess in pairs
        ],
    }
