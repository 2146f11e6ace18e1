"""``tessera plan``: what the compiler makes of networks for a machine, without running them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.console import check_output, console, print_table, write_json
from tessera.cli.networks import host_operations, load_network, quantization_options
from tessera.cli.options import (
    ActivationsOption,
    CalibrationsOption,
    IoFormatOption,
    JsonOption,
    LayersOption,
    NpuOption,
    ShapesOption,
    WeightsOption,
    parse_io_format,
)
from tessera.firmware.inference import CompiledNetwork, compile_network, ideal_cycles
from tessera.firmware.timeline import operation_times
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import predict


def plan(
    networks: Annotated[list[Path], typer.Argument(help="Networks (ONNX or QONNX).", metavar="NETWORK...")],
    npu: NpuOption = "edge",
    calibration: CalibrationsOption = None,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    io_format: IoFormatOption = "integer",
    show: Annotated[bool, typer.Option("--print", help="Print placement and disassembled stream.")] = False,
    json: JsonOption = None,
) -> None:
    """Compile networks and show their operations with predicted cycles."""
    check_output(json, *networks)
    config = NpuConfig.load(npu)
    memory_format = parse_io_format(io_format)
    options = quantization_options(
        networks, calibration, activations, weights, layer, shape, power_of_two_io=memory_format.is_float
    )
    summaries = []
    for path in networks:
        compiled = compile_network(load_network(path, options), config, memory_format)
        if show:
            console.print(compiled.program.format(), soft_wrap=True)
        for sentence in host_operations(compiled.quantized):
            console.print(sentence)
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
        "dram_footprint_bytes": program.end_address,
        "operations": [{"name": time.operation, "start": time.start, "end": time.end} for time in times],
    }
