"""Rows of the time that planning takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from benchmark.plans.runs import memory_of
from benchmark.plans.workloads import CONFIG, SHORT_NAMES, Network, network
from benchmark.rows import Row
from tessera.compiler.planning import Job, Machine, Workload, schedule
from tessera.compiler.planning.selection import StreamPlanner

MEMORY = memory_of(8)

SIZES = ((2, 100), (4, 200), (8, 500), (12, 1000))
"""Networks, and operations of all of them together."""

AIM = 5.0
"""Seconds for four networks with 200 operations in all."""


def measure_seconds() -> Iterator[Row]:
    """Planning alone for each of `SIZES`; and for four networks with the streams of all plans that are considered."""
    for count, operations in SIZES:
        jobs = large_workload(count, operations)
        seconds = _seconds(lambda jobs=jobs: schedule(jobs, Machine.of(CONFIG, MEMORY)))
        aim = AIM if count == 4 else None
        yield Row(f"plan/seconds/{count}x{operations}", round(seconds, 2), "s", "lower", aim=aim, source=_said(jobs))
    jobs = large_workload(*SIZES[1])
    planner = StreamPlanner(CONFIG, {job.name: _network(job.name).mapped for job in jobs.jobs}, MEMORY)
    seconds = _seconds(lambda: planner.plan(jobs))
    yield Row("plan/seconds/4x200/stream", round(seconds, 2), "s", "lower", source="with the streams of several plans")


def large_workload(count: int, operations: int) -> Workload:
    """So many jobs of the networks in turn, each as often as it takes for its equal part of the operations."""
    jobs = []
    for index in range(count):
        name = f"{list(SHORT_NAMES)[index * 3 % len(SHORT_NAMES)]}.{index}"
        graph = _network(name).graph
        jobs.append(Job(name, graph, max(1, round(operations / count / len(graph.tasks)))))
    return Workload(tuple(jobs))


def _network(job: str) -> Network:
    return network(job.split(".")[0])


def _said(workload: Workload) -> str:
    operations = sum(job.inferences * len(job.graph.tasks) for job in workload.jobs)
    return f"{len(workload.jobs)} networks with {operations} operations in all, processor seconds"


def _seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
