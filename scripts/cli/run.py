"""``tessera run``: networks on the co-simulated RTL, compared with the golden model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.console import ResultError, UsageError, check_output, console, print_table, progress_bar, write_json
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
    SimulatorOption,
    WeightsOption,
    match_files,
    parse_io_format,
)
from tessera.cli.planned_run import run_successive, successive
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
    check_stored,
    load_planned,
    make_plan,
    name_networks,
    plan_options,
    refuse_given,
    was_given,
)
from tessera.cli.simulation import BandwidthOption, LatencyOption, WavesOption, check_waves, dram, simulated_memory
from tessera.compiler import load_inputs
from tessera.compiler.calibration_data import load_labels
from tessera.compiler.errors import CompilerError, check_file
from tessera.compiler.lowering.mapping import map_to_machine
from tessera.compiler.planning.plan_file import StoredPlan, read_plan
from tessera.compiler.planning.profile_database import DurationSource, ProfileDatabase
from tessera.compiler.planning.schedulers import DEFAULT
from tessera.firmware.cosimulation import Options
from tessera.firmware.inference import CompiledNetwork, compile_network, run_network
from tessera.firmware.profiling import record_inferences
from tessera.firmware.summary import NetworkSummary, run_summary, summarize
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import CONTEXTS
from tessera.sim.cosim import Simulator
from tessera.sim.counts import Counts
from tessera.sim.cycles import DEFAULT_MEMORY


def run(
    context: typer.Context,
    networks: Annotated[list[Path], typer.Argument(help="Networks (ONNX or QONNX).", metavar="NETWORK...")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", "-i", help="Samples (.npz or .npy); with several networks NETWORK=FILE.", metavar="FILE"
        ),
    ],
    npu: NpuOption = "edge",
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Run this plan of tessera plan --output.", metavar="FILE")
    ] = None,
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
    calibration: CalibrationsOption = None,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    samples: Annotated[int | None, typer.Option("--samples", "-n", min=1, help="Use only the first N samples.")] = None,
    simulator: SimulatorOption = Simulator.VERILATOR,
    io_format: IoFormatOption = "integer",
    waves: WavesOption = None,
    database: DatabaseOption = None,
    json: JsonOption = None,
) -> None:
    """Run networks on the co-simulated RTL, several as a plan, and compare every result with the golden model."""
    read = (*networks, plan, *standing_files(npu, database))
    check_output(json, *read, waves)
    check_output(waves, *read)
    check_waves(waves, simulator)
    config = NpuConfig.load(npu)
    names = name_networks(networks)
    files = match_inputs(names, inputs)
    memory_format = parse_io_format(io_format)
    memory = dram(config, bandwidth, latency)
    options = quantization_options(
        networks, calibration, activations, weights, layer, shape, power_of_two_io=memory_format.is_float
    )
    for output in (json, waves):
        check_output(output, *files.values(), *options.calibrations.values())
    simulation = Options(simulator=simulator, memory=simulated_memory(memory, config), waveform=waves)
    asked = plan_options(
        names,
        scheduler,
        objective,
        memory,
        costs,
        priority=priority,
        deadline=deadline,
        arrival=arrival,
        inferences=inferences,
        fault=fault,
    )
    with open_database(database, config) as opened:
        if plan is None and len(networks) == 1 and not was_given(context, PLANNING_PARAMETERS):
            compiled = compile_network(load_network(networks[0], options), config, memory_format)
            (file,) = files.values()
            summary = _run(networks[0], compiled, file, samples, simulation, opened)
            report([summary])
            values = run_summary(config, simulator, [summary])
        else:
            stored = None if plan is None else read_plan(plan)[0]
            policies = asked.policies if stored is None else {each.name: each.faults for each in stored.networks}
            planned = load_planned(names, options, config, memory_format, policies)
            if plan is None or stored is None:
                groups = successive(planned, asked.priorities)
                _check_deadlines(asked.deadlines, len(groups))
                plans = [(make_plan(own, asked, config, memory_format, opened), own) for own in groups]
            else:
                refuse_given(context, sorted(PLANNING_PARAMETERS), "--plan")
                check_stored(plan, stored, planned, config, memory_format)
                if not was_given(context, {"bandwidth", "latency"}):
                    simulation = replace(simulation, memory=simulated_memory(stored.memory, config))
                plans = [(stored, planned)]
            for each, _ in plans:
                _check_arrivals(each)
            values = run_successive(plans, files, samples, simulation, opened)
    if json is not None:
        write_json(json, values)
    wrong = [row["name"] for row in values["networks"] if not row["bit_exact"]]
    if wrong:
        raise ResultError(f"the RTL's results differ from the golden model's: {', '.join(wrong)}")
    failed = [f"{row['name']} ({len(row['failed'])} samples)" for row in values["networks"] if row.get("failed")]
    if failed:
        raise ResultError(f"there are samples without a result, as the fault rules say: {', '.join(failed)}")


def _check_deadlines(deadlines: Mapping[str, int], plans: int) -> None:
    """Refuses deadlines where plans follow one another, of which each begins at cycle 0."""
    for name, deadline in deadlines.items() if plans > 1 else ():
        raise UsageError(
            f"--deadline {name}={deadline}: networks beyond {CONTEXTS} are successive plans without a common clock; "
            "leave the deadline out, or give the networks as requests of a scenario to tessera serve"
        )


def _check_arrivals(stored: StoredPlan) -> None:
    """Refuses networks that come while the plan runs: one stream begins with all of them."""
    for network in stored.networks:
        if network.arrival > 0:
            raise CompilerError(
                f"network {network.name!r} arrives at cycle {network.arrival}, but a run begins with all networks; "
                "leave its arrival out, or give the networks as requests of a scenario to tessera serve"
            )


def match_inputs(names: Mapping[str, Path], texts: list[str]) -> dict[str, Path]:
    """The input file of each network by its name, before anything is compiled.

    Raises
    ------
    UsageError
        A network has none, or one matches no network.
    CompilerError
        A file does not exist.
    """
    paths = list(dict.fromkeys(names.values()))
    numbered = {name for name, path in names.items() if name != path.stem}
    own = {name: Path(file) for name, _, file in (text.partition("=") for text in texts) if name in numbered}
    common = match_files("--input", paths, [text for text in texts if text.partition("=")[0] not in numbered])
    files = {name: own.get(name, common.get(path)) for name, path in names.items()}
    found = {name: file for name, file in files.items() if file is not None}
    for name, path in names.items():
        if name not in found:
            raise UsageError(f"{path} has no input; add --input {name}=FILE.npz")
        check_file(found[name])
    return found


def _run(
    path: Path,
    compiled: CompiledNetwork,
    file: Path,
    samples: int | None,
    options: Options,
    database: ProfileDatabase | None,
) -> NetworkSummary:
    for sentence in host_operations(compiled.quantized):
        console.print(sentence)
    network = compiled.quantized
    inputs = load_inputs(file, network.inputs, network.shapes)
    available = len(next(iter(inputs.values())))
    labels = load_labels(file, available)
    count = min(samples or available, available)
    with progress_bar(network.name, count) as on_progress:
        first = {name: values[:count] for name, values in inputs.items()}
        result = run_network(compiled, first, options, on_progress)
    if database is not None:
        mapped = map_to_machine(compiled.integer, compiled.program.config, compiled.formats)
        record_inferences(database, mapped, compiled.program, result.inferences)
    return summarize(path, compiled, result, None if labels is None else labels[:count])


def report(summaries: list[NetworkSummary]) -> None:
    """The table of a run."""
    rows = []
    for item in summaries:
        rows.append(
            (
                item.name,
                str(item.samples),
                "yes" if item.bit_exact else "NO",
                f"{item.cycles:,}",
                f"{item.mac_utilization:.1%}",
                f"{item.dram_bytes:,}",
                "" if item.accuracy is None else f"{item.accuracy:.2%}",
            )
        )
    print_table(("network", "samples", "bit-exact", "cycles", "MAC utilisation", "DRAM bytes", "accuracy"), rows)
    for item in summaries:
        report_counts(item)


def report_counts(summary: NetworkSummary) -> None:
    """The table of what was counted, of the operations where anything was."""
    names = {"saturations": "saturations", "not_a_number": "NaN", "underflows": "underflows", "overflows": "overflows"}
    rows = [
        (operation, *(f"{getattr(counts, name):,}" for name in names))
        for operation, counts in summary.operation_counts.items()
        if counts != Counts()
    ]
    if rows:
        print_table(("operation", *names.values()), rows, title=f"{summary.name}: values that lost something")
