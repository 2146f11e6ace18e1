"""Rows of the weighted completion of workloads whose networks have priorities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from benchmark.plans.makespan import geometric_mean
from benchmark.plans.runs import Measured, Planned, in_parallel, memory_of, run_plans
from benchmark.plans.workloads import CONFIG, WORKLOADS, network, workload, workload_name
from benchmark.rows import Row
from tessera.compiler.planning import Objective, Workload
from tessera.compiler.planning.selection import PlannedStream, StreamPlanner

BANDWIDTH = 8

PRIORITIES = (4.0, 2.0, 1.0, 1.0)
"""Of the networks of a workload, in the order of their names' alphabet, which has nothing to do with their lengths."""


def measure_weighted_completion() -> Iterator[Row]:
    """For each workload the sum of priority times completion, one network after another (the shortest per priority
    first, with prefetch) over dynamic programming."""
    streams = in_parallel(_streams, WORKLOADS)
    plans = [
        Planned(f"{workload_name(names)} with priorities", {name: network(name) for name in names}, stream)
        for names, found in zip(WORKLOADS, streams, strict=True)
        for stream in found
    ]
    measured = run_plans(plans, CONFIG, memory_of(BANDWIDTH), traced=True)
    ratios = {}
    for names, serial, dp in zip(WORKLOADS, measured[::2], measured[1::2], strict=True):
        weights = _priorities(names)
        ratios[workload_name(names)] = _weighted(serial, weights) / _weighted(dp, weights)
    name = f"plan/weighted_completion@{BANDWIDTH}"
    yield Row(name, round(geometric_mean(list(ratios.values())), 3), "ratio", "higher", floor=1.0)
    least = min(ratios, key=ratios.__getitem__)
    yield Row(f"{name}/least", math.floor(1000 * ratios[least]) / 1000, "ratio", "higher", floor=1.0, source=least)
    for each, ratio in ratios.items():
        yield Row(f"plan/{each}/weighted_completion@{BANDWIDTH}", round(ratio, 3), "ratio", "higher")


def _streams(names: tuple[str, ...]) -> list[PlannedStream]:
    """One network after another, and by dynamic programming."""
    weighted = _with_priorities(workload(names), _priorities(names))
    planner = StreamPlanner(CONFIG, {name: network(name).mapped for name in names}, memory_of(BANDWIDTH))
    return [planner.plan(weighted, each, Objective.WEIGHTED_COMPLETION) for each in ("serial", "dp")]


def _priorities(names: tuple[str, ...]) -> dict[str, float]:
    return dict(zip(sorted(names), PRIORITIES, strict=False))


def _with_priorities(jobs: Workload, priorities: Mapping[str, float]) -> Workload:
    return replace(jobs, jobs=tuple(replace(job, priority=priorities[job.name]) for job in jobs.jobs))


def _weighted(measured: Measured, priorities: Mapping[str, float]) -> float:
    return sum(priority * measured.completions[name] for name, priority in priorities.items())
