"""``tessera profile``: cycles of every operation on 1, 2 and 4 lanes, measured and predicted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.cli.console import check_output, print_table, progress_bar, write_json
from tessera.cli.networks import load_network, quantization_options
from tessera.cli.options import (
    ActivationsOption,
    CalibrationsOption,
    DatabaseOption,
    IoFormatOption,
    JsonOption,
    LayersOption,
    NpuOption,
    ShapesOption,
    SimulatorOption,
    WeightsOption,
    parse_io_format,
)
from tessera.compiler.integer import to_integer
from tessera.compiler.io_formats import network_formats
from tessera.compiler.lowering.mapping import MappedNetwork, map_whole
from tessera.compiler.planning.costs import Clock, lane_counts, network_costs, uniform_program
from tessera.compiler.planning.durations import DurationTable, known_durations, observations
from tessera.compiler.planning.operation_key import kind_of, operation_key
from tessera.compiler.planning.profile_database import DurationSource, ProfileDatabase, Run, default_path
from tessera.firmware.cosimulation import Inferences, Options
from tessera.firmware.profiling import rtl_clock
from tessera.firmware.timeline import OperationTime, instruction_times, operation_times
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator
from tessera.sim.cycles import predict
from tessera.sim.program import Program


def profile(
    networks: Annotated[list[Path], typer.Argument(help="Networks (ONNX or QONNX).", metavar="NETWORK...")],
    npu: NpuOption = "edge",
    source: Annotated[
        DurationSource, typer.Option("--source", help="Run on the RTL, or ask the cycle model alone.")
    ] = DurationSource.MEASURED,
    database: DatabaseOption = None,
    calibration: CalibrationsOption = None,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    simulator: SimulatorOption = Simulator.VERILATOR,
    io_format: IoFormatOption = "integer",
    json: JsonOption = None,
) -> None:
    """Find every operation's cycles on 1, 2 and 4 lanes, and remember them in the profile database."""
    file = default_path() if database is None else database
    check_output(json, *networks, file)
    check_output(file, *networks)
    config = NpuConfig.load(npu)
    memory_format = parse_io_format(io_format)
    options = quantization_options(
        networks, calibration, activations, weights, layer, shape, power_of_two_io=memory_format.is_float
    )
    with ProfileDatabase(file, config) as opened:
        rows = []
        for path in networks:
            quantized = load_network(path, options)
            mapped = map_whole(to_integer(quantized), config, network_formats(quantized, config, memory_format))
            rows.append(_profile(path, mapped, source, Options(simulator=simulator), opened))
    if json is not None:
        write_json(json, {"npu": config.name, "simulator": simulator.value, "source": source, "networks": rows})


@dataclass(frozen=True)
class _WholeRun:
    """An inference on all lanes: its cycles, and when each operation worked."""

    cycles: int
    times: list[OperationTime]


def _profile(
    path: Path, mapped: MappedNetwork, source: DurationSource, options: Options, database: ProfileDatabase
) -> dict[str, object]:
    name, config = mapped.network.name, mapped.config
    predicted = network_costs(mapped)
    database.record(DurationSource.PREDICTED, observations(mapped, predicted))
    program = uniform_program(mapped, config.lanes)
    prediction = predict(program.instructions, config)
    expected = _WholeRun(
        prediction.total, operation_times(program, prediction.start.tolist(), prediction.end.tolist())
    )
    whole = None
    if source is DurationSource.MEASURED:
        whole = _measure(mapped, options, database)
        run = Run((name,), source, whole.cycles, expected.cycles, {})
        database.record_run(run)
        _print_whole(f"{name} on {config.name}", whole, expected)
    known = known_durations(mapped, database, predicted=predicted)
    rows = _by_lanes(mapped, database, known, predicted)
    _print_by_lanes(f"{name} on {config.name}: cycles on 1, 2 and 4 lanes, without waiting for transfers", rows)
    summary: dict[str, object] = {"name": name, "file": str(path), "predicted_cycles": expected.cycles}
    if whole is not None:
        summary |= {"cycles": whole.cycles, "operations": _whole_rows(whole, expected)}
    return summary | {"by_lanes": rows}
