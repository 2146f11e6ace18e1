"""Plans of several networks as the commands make them: names and options of each network, the planner, plan files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tessera.cli.console import UsageError, console
from tessera.cli.networks import QuantizationOptions, load_network
from tessera.compiler.lowering.plan import lower_plan
from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.planning import SCHEDULERS, ExecutionPlan, Job, Machine, Objective, Workload
from tessera.compiler.planning.costs import CostTable, network_costs, task_graph
from tessera.compiler.planning.durations import costs_of, known_durations
from tessera.compiler.planning.fault_rules import RULE_FORM, parse_policies
from tessera.compiler.planning.faults import DEFAULT_POLICY, FaultPolicy
from tessera.compiler.planning.operation_key import configuration_key
from tessera.compiler.planning.plan_file import StoredNetwork, StoredPlan, check_plan, current_version, fingerprint
from tessera.compiler.planning.profile_database import DurationSource, ProfileDatabase
from tessera.compiler.planning.schedulers import DEFAULT
from tessera.compiler.planning.selection import StreamPlanner
from tessera.compiler.planning.validate import validate
from tessera.compiler.planning.workload import check_workload
from tessera.compiler.quantized import QuantizedNetwork
from tessera.firmware.plans.networks import PlannedNetwork, map_planned
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import MemoryFormat
from tessera.sim.cycles import DEFAULT_MEMORY, Memory

PLANNING_PARAMETERS = {"scheduler", "objective", "priority", "deadline", "arrival", "inferences", "costs", "fault"}
"""Parameters of a command that say how to plan, and so ask for a plan even of one network."""

Value = TypeVar("Value", int, float)


class ObjectiveName(StrEnum):
    """What a plan minimises, in the words of the command line."""

    MAKESPAN = "makespan"
    WEIGHTED = "weighted"
    DEADLINES = "deadlines"
    FAIRNESS = "fairness"

    @property
    def objective(self) -> Objective:
        """As the planner has it."""
        return {
            ObjectiveName.MAKESPAN: Objective.MAKESPAN,
            ObjectiveName.WEIGHTED: Objective.WEIGHTED_COMPLETION,
            ObjectiveName.DEADLINES: Objective.TARDINESS,
            ObjectiveName.FAIRNESS: Objective.FAIRNESS,
        }[self]


SchedulerOption = Annotated[
    str, typer.Option("--scheduler", help=f"Who plans: {', '.join(SCHEDULERS)}.", metavar="NAME")
]
ObjectiveOption = Annotated[ObjectiveName, typer.Option("--objective", help="What the plan minimises.")]
PriorityOption = Annotated[
    list[str] | None, typer.Option("--priority", help="Weight of a network, 1 by default.", metavar="NAME=W")
]
DeadlineOption = Annotated[
    list[str] | None, typer.Option("--deadline", help="When a network should have ended.", metavar="NAME=CYCLES")
]
ArrivalOption = Annotated[
    list[str] | None, typer.Option("--arrival", help="When a network may begin.", metavar="NAME=CYCLES")
]
InferencesOption = Annotated[
    list[str] | None, typer.Option("--inferences", help="How often a network runs.", metavar="NAME=N")
]
FaultOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        help="What happens when something goes wrong, such as saturation=renormalise,above=0.01.",
        metavar=RULE_FORM,
    ),
]
CostsOption = Annotated[
    DurationSource, typer.Option("--costs", help="Where durations are from: measured ones if there are, or predicted.")
]


@dataclass(frozen=True)
class PlanOptions:
    """How networks are planned.

    Attributes
    ----------
    scheduler, objective
        Who plans, and what is minimised.
    memory
        The DRAM that is assumed.
    costs
        Where durations are from.
    priorities, deadlines, arrivals, inferences
        By name of the network, where something was said.
    policies
        By name of the network what happens when something goes wrong.
    """

    scheduler: str = DEFAULT
    objective: ObjectiveName = ObjectiveName.MAKESPAN
    memory: Memory = DEFAULT_MEMORY
    costs: DurationSource = DurationSource.MEASURED
    priorities: Mapping[str, float] = field(default_factory=dict)
    deadlines: Mapping[str, int] = field(default_factory=dict)
    arrivals: Mapping[str, int] = field(default_factory=dict)
    inferences: Mapping[str, int] = field(default_factory=dict)
    policies: Mapping[str, FaultPolicy] = field(default_factory=dict)


def plan_options(
    names: Mapping[str, Path],
    scheduler: str,
    objective: ObjectiveName,
    memory: Memory,
    costs: DurationSource,
    *,
    priority: list[str] | None,
    deadline: list[str] | None,
    arrival: list[str] | None,
    inferences: list[str] | None,
    fault: list[str] | None,
) -> PlanOptions:
    """From the options of a command; raises `CompilerError`."""
    if scheduler not in SCHEDULERS:
        raise UsageError(f"--scheduler {scheduler}: there is no such scheduler; use one of {', '.join(SCHEDULERS)}")
    return PlanOptions(
        scheduler,
        objective,
        memory,
        costs,
        by_network("--priority", priority, names, float, "a number"),
        by_network("--deadline", deadline, names, int, "a whole number of cycles"),
        by_network("--arrival", arrival, names, int, "a whole number of cycles"),
        by_network("--inferences", inferences, names, int, "a whole number"),
        parse_policies(fault or [], names),
    )


def was_given(context: typer.Context, parameters: Iterable[str]) -> bool:
    """Whether any of these parameters of the command was given."""
    sources = [context.get_parameter_source(name) for name in parameters]
    return any(source is not None and source.name == "COMMANDLINE" for source in sources)


def refuse_given(context: typer.Context, parameters: Iterable[str], option: str) -> None:
    """Raises `UsageError` if one of these parameters was given, because another option has decided it."""
    for name in parameters:
        if was_given(context, {name}):
            raise UsageError(
                f"--{name} does nothing beside {option}, whose plan is made already; leave one of them out"
            )


def name_networks(paths: Sequence[Path]) -> dict[str, Path]:
    """A name for each network: its file's without folder and suffix, with a number where several have the same."""
    names: dict[str, Path] = {}
    for path in paths:
        name, count = path.stem, 1
        while name in names:
            count += 1
            name = f"{path.stem}-{count}"
        names[name] = path
        if name != path.stem:
            console.print(f"{path} is named {name}, because there is another network {path.stem}", soft_wrap=True)
    return names


def by_network(
    option: str, texts: list[str] | None, names: Mapping[str, Path], parse: Callable[[str], Value], kind: str
) -> dict[str, Value]:
    """The values of an option NAME=VALUE by the names of networks; raises `UsageError`."""
    found: dict[str, Value] = {}
    for text in texts or []:
        name, separator, value = text.rpartition("=")
        if not separator:
            raise UsageError(f"{option} {text!r} has no name; write NAME={value}, with one of {', '.join(names)}")
        if name not in names:
            raise UsageError(f"{option} {text}: there is no network {name!r}; the networks are {', '.join(names)}")
        if name in found:
            raise UsageError(f"{option} {text}: there is another one for the network {name!r}; give one")
        try:
            found[name] = parse(value)
        except ValueError:
            raise UsageError(f"{option} {text}: {value!r} is not {kind}; write NAME=NUMBER") from None
    return found


def load_planned(
    names: Mapping[str, Path],
    options: QuantizationOptions,
    config: NpuConfig,
    memory_format: MemoryFormat,
    policies: Mapping[str, FaultPolicy],
) -> list[PlannedNetwork]:
    """Reads networks, each file once, and prepares them for plans, with the fault rules of those that have some."""
    loaded: dict[Path, QuantizedNetwork] = {}
    for path in names.values():
        if path not in loaded:
            loaded[path] = load_network(path, options)
    return [
        map_planned(name, str(path), loaded[path], config, memory_format, policies.get(name, DEFAULT_POLICY))
        for name, path in names.items()
    ]


def make_plan(
    networks: Sequence[PlannedNetwork],
    options: PlanOptions,
    config: NpuConfig,
    memory_format: MemoryFormat,
    database: ProfileDatabase | None,
) -> StoredPlan:
    """Plans networks; raises `CompilerError` if the options make no sense or the networks do not fit."""
    for network in networks:
        network.policy.check_names(network.integer)
    workload = _workload(networks, options, database)
    planner = StreamPlanner(config, {network.name: network.mapped for network in networks}, options.memory)
    found = planner.plan(workload, options.scheduler, options.objective.objective).plan
    return StoredPlan(
        version=current_version(),
        configuration=configuration_key(config),
        npu=config.name,
        io_format=memory_format.name.lower(),
        bus_bytes=config.beat_bytes,
        memory=options.memory,
        objective=options.objective.objective,
        costs=options.costs.value,
        networks=tuple(
            StoredNetwork(
                job.name,
                network.file,
                fingerprint(network.integer),
                job.inferences,
                job.priority,
                job.arrival,
                job.deadline,
                network.policy,
            )
            for job, network in zip(workload.jobs, networks, strict=True)
        ),
        plan=found,
    )


def check_stored(
    path: Path,
    stored: StoredPlan,
    networks: Sequence[PlannedNetwork],
    config: NpuConfig,
    memory_format: MemoryFormat,
) -> None:
    """Refuses a stored plan that was made for something else, or that breaks a rule.

    Raises
    ------
    CompilerError
        Says which, and what to do.
    """
    check_plan(path, stored, config, {network.name: network.integer for network in networks})
    if stored.io_format != memory_format.name.lower():
        raise UsageError(
            f"{path} was made for inputs and outputs in {stored.io_format}; give --io-format {stored.io_format}"
        )
    named = {network.name: network for network in networks}
    options = PlanOptions(
        inferences={each.name: each.inferences for each in stored.networks},
        costs=DurationSource.PREDICTED,
    )
    workload = _workload([named[each.name] for each in stored.networks], options, None)
    machine = Machine.of(config, stored.memory)
    check_workload(workload, machine)
    validate(stored.plan, workload, machine, timeline=False)


def _workload(networks: Sequence[PlannedNetwork], options: PlanOptions, database: ProfileDatabase | None) -> Workload:
    graphs = {}
    for network in networks:
        if id(network.quantized) not in graphs:  # the same file twice
            costs: CostTable = network_costs(network.mapped)
            if database is not None:
                durations = known_durations(network.mapped, database, options.costs, costs)
                costs = costs_of(durations)
            graphs[id(network.quantized)] = task_graph(network.mapped, costs)
    return Workload(
        tuple(
            Job(
                network.name,
                graphs[id(network.quantized)],
                options.inferences.get(network.name, 1),
                options.priorities.get(network.name, 1.0),
                options.arrivals.get(network.name, 0),
                options.deadlines.get(network.name),
            )
            for network in networks
        )
    )


def lower_stored(stored: StoredPlan, networks: Sequence[PlannedNetwork], config: NpuConfig) -> PlanProgram:
    """The program of a plan; raises `CompilerError` if its tensors do not fit together."""
    plan: ExecutionPlan = stored.plan
    return lower_plan(plan, {each.name: each.mapped for each in networks}, config, memory=stored.memory)
