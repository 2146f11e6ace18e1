"""What the planner takes for the costs of a network's operations: measured where there is something, else predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tessera.compiler.lowering.mapping import MappedNetwork
from tessera.compiler.planning.costs import Cost, CostTable, network_costs
from tessera.compiler.planning.operation_key import kind_of, operation_key
from tessera.compiler.planning.profile_database import Duration, DurationSource, Observation, ProfileDatabase

DurationTable = Mapping[str, Mapping[int, Duration]]
"""By operation, by number of lanes."""


def observations(mapped: MappedNetwork, costs: CostTable) -> list[Observation]:
    """The costs of a network's operations as the profile database takes them."""
    return [
        Observation(operation_key(mapped, name), lanes, cost)
        for name, by_lanes in costs.items()
        for lanes, cost in by_lanes.items()
    ]


def known_durations(
    mapped: MappedNetwork,
    database: ProfileDatabase,
    source: DurationSource = DurationSource.MEASURED,
    predicted: CostTable | None = None,
) -> DurationTable:
    """The durations of a network's operations on every number of lanes.

    Parameters
    ----------
    mapped
        The network in its form for the machine.
    database
        What is known.
    source
        ``MEASURED``: what was measured, where it was; ``PREDICTED``: predictions alone. A prediction that an executor
        had to adapt is taken with the factor that it found.
    predicted
        The predictions, if they are there already.

    Raises
    ------
    CompilerError
        An operation cannot be encoded.
    DatabaseError
        The file cannot be read.
    """
    predicted = network_costs(mapped) if predicted is None else predicted
    table: dict[str, dict[int, Duration]] = {}
    for name, by_lanes in predicted.items():
        key, kind = operation_key(mapped, name), kind_of(mapped.operations[name])
        table[name] = {}
        for lanes, cost in by_lanes.items():
            found = database.duration(key, lanes, source) if source is DurationSource.MEASURED else None
            if found is None:
                cost = replace(cost, cycles=round(cost.cycles * database.factor(key, lanes)))
                found = Duration(cost, DurationSource.PREDICTED, 1, database.margin(kind, lanes))
            table[name][lanes] = replace(found, cost=_with_times(cost, found.cost))
    return table


def _with_times(moved: Cost, times: Cost) -> Cost:
    """A cost with the times of one, and what is moved from another, which is known without measuring."""
    return replace(moved, cycles=times.cycles, latency=times.latency)


def costs_of(durations: DurationTable) -> CostTable:
    """The costs alone, for `task_graph`."""
    return {name: {lanes: each.cost for lanes, each in found.items()} for name, found in durations.items()}
