"""``tessera serve``: the executor on requests that come and go while others run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tessera.cli.console import ResultError, UsageError, check_output, console, print_table, write_json
from tessera.cli.database import open_database, standing_files
from tessera.cli.networks import QuantizationOptions, host_operations, load_network
from tessera.cli.options import (
    ActivationsOption,
    DatabaseOption,
    IoFormatOption,
    JsonOption,
    LayersOption,
    NpuOption,
    ShapesOption,
    SimulatorOption,
    WeightsOption,
    parse_io_format,
    parse_layers,
    parse_shapes,
)
from tessera.cli.planning import (
    ObjectiveName,
    ObjectiveOption,
    SchedulerOption,
)
from tessera.cli.scenario import ChangeEntry, NetworkEntry, RequestEntry, read_scenario
from tessera.cli.simulation import BandwidthOption, LatencyOption, dram, simulated_memory
from tessera.compiler import load_inputs
from tessera.compiler.calibration_data import load_labels
from tessera.compiler.errors import check_file
from tessera.compiler.lowering.mapping import place_in_dram
from tessera.compiler.planning.fault_rules import parse_policies
from tessera.compiler.planning.profile_database import ProfileDatabase
from tessera.compiler.planning.schedulers import DEFAULT
from tessera.compiler.quantized_execution import host_before
from tessera.firmware.cosimulation import Options
from tessera.firmware.executor import Preemption, Request, Settings
from tessera.firmware.inference import in_dram
from tessera.firmware.modelled.bus import ModelBus
from tessera.firmware.plans.answers import request_answers
from tessera.firmware.plans.networks import PlannedNetwork, answered_result, map_planned, prepare_planned
from tessera.firmware.scenarios.scenario import (
    Cancellation,
    PriorityChange,
    Scenario,
    ScenarioResult,
    check_scenario,
    play,
)
from tessera.firmware.scenarios.simulation import simulate_scenario
from tessera.firmware.scenarios.summary import scenario_summary
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import MemoryFormat
from tessera.sim.cosim import Simulator
from tessera.sim.cycles import DEFAULT_MEMORY
from tessera.sim.windows import MemoryWindow

DRAM_BYTES = 1 << 24
"""What the executor has where nothing is said."""

MODELS = "models"
"""What a summary calls the models in place of a simulator."""


@dataclass(frozen=True)
class _Samples:
    """Samples of a request: as the network takes them, and their labels if there are any."""

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None


def serve(
    scenario: Annotated[Path, typer.Argument(help="Networks, requests and changes (TOML).", metavar="SCENARIO")],
    npu: NpuOption = "edge",
    scheduler: SchedulerOption = DEFAULT,
    objective: ObjectiveOption = ObjectiveName.WEIGHTED,
    preemption: Annotated[
        Preemption, typer.Option("--preemption", help="What an arrival does to a plan that runs: pause it, or wait.")
    ] = Preemption.BUNDLE,
    bandwidth: BandwidthOption = None,
    latency: LatencyOption = DEFAULT_MEMORY.latency,
    dram_bytes: Annotated[
        int, typer.Option("--dram", min=1, max=1 << 30, help="Bytes of DRAM for the executor.", metavar="BYTES")
    ] = DRAM_BYTES,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    io_format: IoFormatOption = "integer",
    models: Annotated[
        bool, typer.Option("--models", help="Run on the models of the NPU, in place of the co-simulated RTL.")
    ] = False,
    simulator: SimulatorOption = Simulator.VERILATOR,
    database: DatabaseOption = None,
    json: JsonOption = None,
) -> None:
    """Run requests that arrive, change and end while others run, under the executor; compare with the golden model."""
    config = NpuConfig.load(npu)
    file = read_scenario(scenario)
    check_output(json, scenario, *file.files, *standing_files(npu, database, remembers=not models))
    for path in file.files:
        check_file(path)
    memory_format, memory = parse_io_format(io_format), dram(config, bandwidth, latency)
    settings = Settings(scheduler=scheduler, objective=objective.objective, preemption=preemption, memory=memory)
    options = QuantizationOptions(
        {own.file: own.calibration for own in file.networks.values() if own.calibration is not None},
        activations,
        weights,
        parse_layers(layer),
        parse_shapes(shape),
        power_of_two_io=memory_format.is_float,
    )
    networks = _load_networks(file.networks, options, config, memory_format)
    samples = {entry.name: _load_samples(entry, networks[entry.network]) for entry in file.requests}
    with _database(database, config, models=models) as opened:
        prepared = tuple(prepare_planned(each, opened) for each in networks.values())
    asked = Scenario(
        config,
        prepared,
        tuple(_request(entry, networks[entry.network], samples[entry.name]) for entry in file.requests),
        tuple(map(_event, file.changes)),
        MemoryWindow(0, dram_bytes),
        settings,
        None if opened is None else opened.path,
    )
    check_scenario(asked)
    if models:
        result = asyncio.run(play(asked, ModelBus(config, dram_bytes, memory)))
    else:
        result = simulate_scenario(asked, Options(simulator=simulator, memory=simulated_memory(memory, config)))[0]
    summary = _summary(asked, MODELS if models else simulator.value, networks, memory_format, result, samples)
    _report(summary)
    if json is not None:
        write_json(json, summary)
    _check(summary)


@contextmanager
def _database(file: Path | None, config: NpuConfig, *, models: bool) -> Iterator[ProfileDatabase | None]:
    """The profile database; none for the models, whose times are not measured."""
    if models:
        if file is not None:
            raise UsageError("--database does nothing beside --models, which measure nothing; leave one of them out")
        yield None
        return
    with open_database(file, config) as opened:
        yield opened


def _load_networks(
    entries: Mapping[str, NetworkEntry], options: QuantizationOptions, config: NpuConfig, memory_format: MemoryFormat
) -> dict[str, PlannedNetwork]:
    found = {}
    for name, entry in entries.items():
        policy = parse_policies([f"{name}:{rule}" for rule in entry.faults], [name])[name]
        quantized = load_network(entry.file, options)
        for sentence in host_operations(quantized):
            console.print(f"{name}: {sentence}", soft_wrap=True)
        found[name] = map_planned(name, str(entry.file), quantized, config, memory_format, policy)
    return found


def _load_samples(entry: RequestEntry, network: PlannedNetwork) -> _Samples:
    inputs = load_inputs(entry.input, network.quantized.inputs, network.quantized.shapes)
    available = len(next(iter(inputs.values())))
    count = available if entry.samples is None else entry.samples
    if not 1 <= count <= available:
        raise UsageError(
            f"request {entry.name!r} is for {count} samples, but {entry.input} has {available}; give 1 to {available}"
        )
    labels = load_labels(entry.input, available)
    return _Samples(
        {name: values[:count] for name, values in inputs.items()}, None if labels is None else labels[:count]
    )


def _request(entry: RequestEntry, network: PlannedNetwork, samples: _Samples) -> Request:
    tensors, _ = place_in_dram(network.mapped, 0)
    sources = {name: tensors[name] for name in network.integer.inputs}
    written = in_dram(sources, host_before(network.quantized, samples.inputs))
    count = len(next(iter(written.values())))
    inputs = [{name: values[index] for name, values in written.items()} for index in range(count)]
    return Request(entry.name, entry.network, inputs, entry.priority, entry.arrival, entry.deadline)


def _event(change: ChangeEntry) -> PriorityChange | Cancellation:
    if change.priority is None:
        return Cancellation(change.cycle, change.request)
    return PriorityChange(change.cycle, change.request, change.priority)


def _summary(
    scenario: Scenario,
    machine: str,
    networks: Mapping[str, PlannedNetwork],
    memory_format: MemoryFormat,
    result: ScenarioResult,
    samples: Mapping[str, _Samples],
) -> dict[str, Any]:
    owners = {request.name: networks[request.network] for request in scenario.requests}
    compared = {
        name: answered_result(owners[name], own.inputs, request_answers(name, result)) for name, own in samples.items()
    }
    labels = {name: own.labels for name, own in samples.items()}
    return scenario_summary(scenario, machine, networks, memory_format, result, compared, labels)


def _report(summary: Mapping[str, Any]) -> None:
    """The table of the requests, and what was done about faults."""

    def cycles(value: int | None) -> str:
        return "" if value is None else f"{value:,}"

    print_table(
        ("request", "network", "status", "bit-exact", "priority", "arrival", "started", "ended", "latency", "deadline"),
        [
            (
                row["name"],
                row["network"],
                row["status"],
                "" if len(row["failed"]) == row["samples"] else "yes" if row["bit_exact"] else "NO",
                f"{row['priority']:g}",
                *(cycles(row[key]) for key in ("arrival", "started", "ended", "latency")),
                f"{cycles(row['deadline'])} missed" if row["missed"] else cycles(row["deadline"]),
            )
            for row in summary["requests"]
        ],
        title=f"{len(summary['requests'])} requests on {summary['npu']}, {summary['simulator']}: "
        f"{summary['cycles']:,} cycles, {_count(summary, 'planned')} plans, {_count(summary, 'paused')} pauses, lanes "
        f"{summary['lane_utilization']:.1%} busy",
    )
    for event in summary["log"]:
        if event["kind"] in ("fault", "adapted", "stopped", "late"):
            whose = f"{event['request']}: " if event["request"] else ""
            console.print(f"cycle {event['cycle']:,}: {whose}{event['reason']}", soft_wrap=True)


def _count(summary: Mapping[str, Any], kind: str) -> int:
    return sum(event["kind"] == kind for event in summary["log"])


def _check(summary: Mapping[str, Any]) -> None:
    """Raises `ResultError` if a result is wrong, or a request has failed."""
    rows: Sequence[Mapping[str, Any]] = summary["requests"]
    wrong = [row["name"] for row in rows if not row["bit_exact"]]
    if wrong:
        raise ResultError(f"results differ from the golden model's: {', '.join(wrong)}")
    failed = [f"{row['name']} ({row['reason']})" for row in rows if row["status"] == "failed"]
    if failed:
        raise ResultError(f"requests have failed: {', '.join(failed)}")
