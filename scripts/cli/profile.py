"""``tessera profile``: cycles of every operation on 1, 2 and 4 lanes, measured and predicted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.cli.console import check_output, print_table, progress_bar, write_json
from tessera.cli.database import standing_files
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
from tessera.compiler.lowering.mapping import MappedNetwork, map_to_machine
from tessera.compiler.planning.costs import CostTable, lane_counts, network_costs, uniform_program
from tessera.compiler.planning.durations import known_durations, observations
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
    """Find every operation's cycles on 1, 2 and 4 lanes, and keep them in the profile database."""
    file = default_path() if database is None else database
    check_output(json, *networks, *standing_files(npu, database))
    config = NpuConfig.load(npu)
    memory_format = parse_io_format(io_format)
    options = quantization_options(
        networks, calibration, activations, weights, layer, shape, power_of_two_io=memory_format.is_float
    )
    check_output(json, *options.calibrations.values())
    with ProfileDatabase(file, config) as opened:
        rows = []
        for path in networks:
            quantized = load_network(path, options)
            formats = network_formats(quantized, config, memory_format)
            mapped = map_to_machine(to_integer(quantized), config, formats)
            found = _profile(mapped, source, Options(simulator=simulator), opened)
            rows.append({"name": mapped.network.name, "file": str(path), **found})
    if json is not None:
        write_json(json, {"npu": config.name, "simulator": simulator.value, "source": source.value, "networks": rows})


@dataclass(frozen=True)
class _Inference:
    """An inference on all lanes: its cycles, and when each operation worked."""

    cycles: int
    times: list[OperationTime]


def _profile(
    mapped: MappedNetwork, source: DurationSource, options: Options, database: ProfileDatabase
) -> dict[str, Any]:
    """Finds, keeps and prints the durations of a network; returns them for the JSON file."""
    predicted = network_costs(mapped)
    database.record(DurationSource.PREDICTED, observations(mapped, predicted))
    expected = _predict(uniform_program(mapped, mapped.config.lanes))
    found: dict[str, Any] = {"predicted_cycles": expected.cycles}
    if source is DurationSource.MEASURED:
        real = _measure(mapped, options, database)
        database.record_run(Run((mapped.network.name,), source, real.cycles, expected.cycles, {}))
        _print_inference(mapped, real, expected)
        found |= {"cycles": real.cycles, "operations": _operation_rows(real, expected)}
    rows = _lane_rows(mapped, database, predicted)
    _print_lane_rows(mapped, rows)
    return found | {"by_lanes": rows}


def _predict(program: Program) -> _Inference:
    prediction = predict(program.instructions, program.config)
    return _Inference(prediction.total, operation_times(program, prediction.start.tolist(), prediction.end.tolist()))


def _measure(mapped: MappedNetwork, options: Options, database: ProfileDatabase) -> _Inference:
    """Runs a network on each number of lanes, and keeps what its operations took; returns the run on all lanes."""
    counts = lane_counts(mapped.config)
    runs: list[_Inference] = []
    with progress_bar(mapped.network.name, len(counts)) as report:

        def on_run(program: Program, inferences: Inferences) -> None:
            times = operation_times(program, *instruction_times(program, inferences.trace))
            runs.append(_Inference(inferences.runs[0].cycles, times))
            report({"done": len(runs)})

        measured = network_costs(mapped, rtl_clock(options, on_run))
    database.record(DurationSource.MEASURED, observations(mapped, measured))
    return runs[-1]


def _print_inference(mapped: MappedNetwork, real: _Inference, expected: _Inference) -> None:
    print_table(
        ("operation", "lanes", "cycles", "predicted"),
        [
            (time.operation, ",".join(map(str, time.lanes)), f"{time.cycles:,}", f"{guess.cycles:,}")
            for time, guess in zip(real.times, expected.times, strict=True)
        ],
        title=f"{mapped.network.name} on {mapped.config.name}: {real.cycles:,} cycles, {expected.cycles:,} predicted "
        f"({expected.cycles / real.cycles - 1:+.1%})",
    )


def _operation_rows(real: _Inference, expected: _Inference) -> list[dict[str, Any]]:
    return [
        {
            "name": time.operation,
            "lanes": list(time.lanes),
            "cycles": time.cycles,
            "predicted_cycles": guess.cycles,
        }
        for time, guess in zip(real.times, expected.times, strict=True)
    ]


def _lane_rows(mapped: MappedNetwork, database: ProfileDatabase, predicted: CostTable) -> list[dict[str, Any]]:
    """For each operation and number of lanes what was measured, now or earlier, and what is predicted."""
    known = known_durations(mapped, database, predicted=predicted)
    rows = []
    for name, by_lanes in known.items():
        for lanes, duration in by_lanes.items():
            is_measured = duration.source is DurationSource.MEASURED
            rows.append(
                {
                    "name": name,
                    "lanes": lanes,
                    "measured": duration.cost.cycles if is_measured else None,
                    "predicted": predicted[name][lanes].cycles,
                    "margin": duration.margin,
                    "times": duration.count if is_measured else 0,
                }
            )
    return rows


def _print_lane_rows(mapped: MappedNetwork, rows: list[dict[str, Any]]) -> None:
    """The table; the margin is that of the measured cycles where there are any, else of the predicted ones."""
    print_table(
        ("operation", "lanes", "measured", "predicted", "margin"),
        [
            (
                row["name"],
                str(row["lanes"]),
                "" if row["measured"] is None else f"{row['measured']:,}",
                f"{row['predicted']:,}",
                f"{row['margin']:.1%}",
            )
            for row in rows
        ],
        title=f"{mapped.network.name} on {mapped.config.name}: cycles for which operations keep their lanes",
    )
