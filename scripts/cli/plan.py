"""``tessera plan``: what the compiler and the planner make of networks for a machine, without running them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.cli.console import check_output, console, print_table, write_json
from tessera.cli.database import open_database, standing_files
from tessera.cli.networks import host_operations, load_network, quantization_options
from tessera.cli.options import (
    ActivationsOption,
    CalibrationsOption,
    DatabaseOption,
    IoFormatOption,
    JsonOption,
    LayersOption,
    NpuOption,
    ShapesOption,
    WeightsOption,
    parse_io_format,
)
from tessera.cli.planning import (
    PLANNING_PARAMETERS,
    ArrivalOption,
    CostsOption,
    DeadlineOption,
    FaultOption,
    InferencesOption,
    ObjectiveName,
    ObjectiveOption,
    PriorityOption,
    SchedulerOption,
    load_planned,
    lower_stored,
    make_plan,
    name_networks,
    plan_options,
    was_given,
)
from tessera.cli.simulation import BandwidthOption, LatencyOption, dram
from tessera.compiler.planning.plan_file import StoredPlan
from tessera.compiler.planning.profile_database import DurationSource
from tessera.compiler.planning.schedulers import DEFAULT
from tessera.firmware.inference import CompiledNetwork, compile_network, ideal_cycles
from tessera.firmware.plans.networks import PlannedNetwork, operation_depths
from tessera.firmware.plans.text import format_plan, format_stream
from tessera.firmware.plans.timeline import PlanTimeline, predicted_timeline
from tessera.firmware.plans.timeline_json import timeline_to_json
from tessera.firmware.timeline import operation_times
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import DEFAULT_MEMORY, predict

PLAN_PARAMETERS = PLANNING_PARAMETERS | {"bandwidth", "latency", "database", "output"}
"""Parameters that ask for a plan even of one network."""


def plan(
    context: typer.Context,
    networks: Annotated[list[Path], typer.Argument(help="Networks (ONNX or QONNX).", metavar="NETWORK...")],
    npu: NpuOption = "edge",
    scheduler: SchedulerOption = DEFAULT,
    objective: ObjectiveOption = ObjectiveName.MAKESPAN,
    priority: PriorityOption = None,
    deadline: DeadlineOption = None,
    arrival: ArrivalOption = None,
    inferences: InferencesOption = None,
    fault: FaultOption = None,
    bandwidth: BandwidthOption = None,
    latency: LatencyOption = DEFAULT_MEMORY.latency,
    costs: CostsOption = DurationSource.MEASURED,
    database: DatabaseOption = None,
    calibration: CalibrationsOption = None,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    io_format: IoFormatOption = "integer",
    show: Annotated[
        bool,
        typer.Option(
            "--print",
            help="Print the bundles of a plan; of one network without a plan placement and disassembled stream.",
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="With --print: placement and disassembled stream of a plan, too.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the plan, for run and report.", metavar="FILE")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Plan several networks on one machine, or compile one and show its operations with predicted cycles."""
    config = NpuConfig.load(npu)
    memory_format = parse_io_format(io_format)
    options = quantization_options(
        networks, calibration, activations, weights, layer, shape, power_of_two_io=memory_format.is_float
    )
    read = (*networks, *options.calibrations.values(), *standing_files(npu, database))
    check_output(output, *read)
    check_output(json, *read, output)
    if len(networks) == 1 and not was_given(context, PLAN_PARAMETERS):
        compiled = compile_network(load_network(networks[0], options), config, memory_format)
        summary = _show_network(networks[0], compiled, show=show)
        if json is not None:
            write_json(json, {"npu": config.name, "networks": [summary]})
        return
    names = name_networks(networks)
    asked = plan_options(
        names,
        scheduler,
        objective,
        dram(config, bandwidth, latency),
        costs,
        priority=priority,
        deadline=deadline,
        arrival=arrival,
        inferences=inferences,
        fault=fault,
    )
    planned = load_planned(names, options, config, memory_format, asked.policies)
    with open_database(database, config) as opened:
        stored = make_plan(planned, asked, config, memory_format, opened)
    program = lower_stored(stored, planned, config)
    timeline = predicted_timeline(program, stored.memory, operation_depths(planned))
    for network in planned:
        for sentence in host_operations(network.quantized):
            console.print(f"{network.name}: {sentence}", soft_wrap=True)
    if show:
        console.print(format_plan(stored, planned, program, timeline), soft_wrap=True)
    if show and verbose:
        console.print(format_stream(program), soft_wrap=True)
    rows = _network_rows(stored, planned, timeline)
    _print_plan(stored, timeline, rows)
    if output is not None:
        write_json(output, stored.to_json() | {"timelines": {"planned": timeline_to_json(timeline)}})
    if json is not None:
        write_json(json, {"npu": config.name, "networks": rows, "plan": stored.to_json()} | _totals(timeline))


def _network_rows(stored: StoredPlan, networks: list[PlannedNetwork], timeline: PlanTimeline) -> list[dict[str, Any]]:
    """What is said of each network of a plan."""
    return [
        {
            "name": network.name,
            "file": network.file,
            "inferences": own.inferences,
            "priority": own.priority,
            "arrival": own.arrival,
            "deadline": own.deadline,
            "start": min(time.start for time in timeline.tasks if time.task.job == network.name),
            "end": timeline.job_end(network.name),
            "ideal_cycles": own.inferences * ideal_cycles(network.integer, network.mapped.config),
            "macs": own.inferences * network.mapped.macs,
            "dram_bytes": timeline.dram_bytes(job=network.name),
        }
        for network, own in zip(networks, stored.networks, strict=True)
    ]


def _totals(timeline: PlanTimeline) -> dict[str, Any]:
    return {
        "predicted_cycles": timeline.cycles,
        "idle_lane_cycles": sum(timeline.idle_cycles),
        "lane_utilization": round(timeline.lane_utilization, 4),
        "dram_bytes": timeline.dram_bytes(),
    }


def _print_plan(stored: StoredPlan, timeline: PlanTimeline, rows: list[dict[str, Any]]) -> None:
    print_table(
        ("network", "inferences", "priority", "arrival", "deadline", "start", "end", "DRAM bytes"),
        [
            (
                row["name"],
                f"{row['inferences']}",
                f"{row['priority']:g}",
                f"{row['arrival']:,}",
                "" if row["deadline"] is None else f"{row['deadline']:,}",
                f"{row['start']:,}",
                f"{row['end']:,}",
                f"{row['dram_bytes']:,}",
            )
            for row in rows
        ],
        title=f"{len(rows)} networks on {stored.npu}, {stored.plan.scheduler}, {stored.objective.value}: "
        f"{timeline.cycles:,} cycles predicted ({stored.plan.cycles:,} planned), {len(stored.plan.bundles)} bundles, "
        f"lanes {timeline.lane_utilization:.1%} busy, {timeline.dram_bytes():,} DRAM bytes",
    )


def _show_network(path: Path, compiled: CompiledNetwork, *, show: bool) -> dict[str, object]:
    """Prints what became of one network without a plan; returns its summary."""
    if show:
        console.print(compiled.program.format(), soft_wrap=True)
    for sentence in host_operations(compiled.quantized):
        console.print(sentence)
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
