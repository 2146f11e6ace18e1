"""``tessera plan``: what the compiler makes of networks for a machine, without running them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.console import check_output, console, print_table, write_json
from tessera.cli.networks import QuantizationOptions, host_operations, load_network
from tessera.cli.options import (
    ActivationsOption,
    CalibrationOption,
    JsonOption,
    LayersOption,
    NpuOption,
    ShapesOption,
    WeightsOption,
    parse_layers,
    parse_shapes,
)
from tessera.firmware.inference import CompiledNetwork, compile_network, ideal_cycles
from tessera.firmware.timeline import operation_times
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import predict


def plan(
    networks: Annotated[list[Path], typer.Argument(help="Networks (ONNX or QONNX).", metavar="NETWORK...")],
    npu: NpuOption = "edge",
    calibration: CalibrationOption = None,
    activations: ActivationsOption = 8,
    weights: WeightsOption = 8,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    show: Annotated[bool, typer.Option("--print", help="Print placement and disassembled stream.")] = False,
    json: JsonOption = None,
) -> None:
    """Compile networks and show their operations with predicted cycles."""
    check_output(json)
    config = NpuConfig.load(npu)
    options = QuantizationOptions(calibration, activations, weights, parse_layers(layer), parse_shapes(shape))
    summaries = []
    for path in networks:
        compiled = compile_network(load_network(path, options), config)
        if show:
            console.print(compiled.program.format(), markup=False, highlight=False, soft_wrap=True)
        for sentence in host_operations(compiled.quantized):
            console.print(sentence, markup=False, highlight=False)
        summaries.append(_summarize(path, compiled))
    if json is not None:
        write_json(json, {"npu": config.name, "networks": summaries})


def _summarize(path: Path, compiled: CompiledNetwork) -> dict[str, object]:
    program = compiled.program
    prediction = predict(program.instructions, program.config)
    times = operation_times(program, prediction.start.tolist(), prediction.end.tolist())
    print_table(
        ("operation", "start", "end", "cycles"),
        [(time.operation, f"{time.start:,}", f"{time.end:,}", f"{time.cycles:,}") for time in times],
        title=f"{program.name} on {program.config.name}: {prediction.total:,} cycles predicted, "
        f"{len(program.instructions)} instructions",
    )
    return {
        "name": program.name,
        "file": str(path),
        "predicted_cycles": prediction.total,
        "ideal_cycles": ideal_cycles(compiled.integer, program.config),
        "macs": program.macs,
        "instructions": len(program.instructions),
        "dram_bytes": program.end_address,
        "operations": [{"name": time.operation, "start": time.start, "end": time.end} for time in times],
    }
