"""Alternatives of the planner compared on known topologies: prints the table of the decision. Takes minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
from planning_workloads import WORKLOADS, jobs_of

from tessera.compiler.planning import ExecutionPlan, Machine, Workload
from tessera.compiler.planning.bounds import lower_bound
from tessera.compiler.planning.dp import dp
from tessera.compiler.planning.greedy import greedy
from tessera.compiler.planning.problem import Problem
from tessera.compiler.planning.serial import native, serial


def without_barriers(problem: Problem, plan: ExecutionPlan) -> int:
    """Cycles of a plan whose lanes wait for results and loads, and not for the end of a bundle.

    Loads come in the order of the plan, a bundle's evenly over its slots' tasks, and not earlier than the model allows.
    """
    machine = problem.machine
    jobs = {job.name: job for job in problem.jobs}
    complete: dict[tuple[str, int, int], int] = {}
    free, bus, before = [machine.start_up] * machine.lanes, float(machine.start_up), machine.start_up
    for bundle in plan.bundles:
        reach = machine.lanes * machine.weight_bank_bytes / machine.bytes_per_cycle
        bus = max(bus, before - reach)
        before = min(max(free[lane] for lane in slot.lanes) for slot in bundle.slots)
        for slot in bundle.slots:
            tasks = jobs[slot.job].graph.tasks
            names = [task.operation for task in tasks]
            for each in slot.tasks:
                index = names.index(each.operation)
                mode = tasks[index].on(len(slot.lanes))
                assert mode is not None
                bus += tasks[index].dram_bytes / machine.bytes_per_cycle
                start = max(free[lane] for lane in slot.lanes)
                for predecessor in tasks[index].predecessors:
                    start = max(start, complete[slot.job, each.inference, predecessor])
                end = max(start + mode.cycles, math.ceil(bus))
                complete[slot.job, each.inference, index] = end + mode.latency
                for lane in slot.lanes:
                    free[lane] = end
    return max(complete.values())


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


SCHEDULERS: dict[str, Callable[[Problem], ExecutionPlan]] = {
    "native": native,
    "serial without prefetch": lambda problem: serial(problem, prefetch=False),
    "serial": serial,
    "greedy": greedy,
    **{f"dp, beam {beam}": lambda problem, beam=beam: dp(problem, beam=beam) for beam in (1, 4, 16, 64)},
    "dp": dp,
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("bandwidth", [16, 8, 4])
def test_compare(bandwidth: int, capsys: pytest.CaptureFixture[str]) -> None:
    ratios: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for workload in WORKLOADS:
        for fill in (1, 8):
            problem = Problem(Workload(jobs_of(workload)), Machine(bytes_per_cycle=bandwidth), fill)
            bound = lower_bound(problem).cycles
            for name, scheduler in SCHEDULERS.items():
                if fill > 1 or name.startswith("dp"):
                    name = name if fill > 1 else f"{name}, one task per slot"
                    start = time.process_time()
                    plan = scheduler(Problem(problem.workload, problem.machine, fill))
                    seconds[name] = max(seconds.get(name, 0), time.process_time() - start)
                    ratios.setdefault(name, []).append(plan.cycles / bound)
            free = min(without_barriers(problem, plan), plan.cycles)
            ratios.setdefault(f"dp, fill {fill}, without barriers", []).append(free / bound)
    with capsys.disabled():
        print(f"\n{bandwidth} bytes per cycle: over the lower bound, geometric mean and worst, and most seconds")
        for name, values in ratios.items():
            print(f"{name:32} {geometric_mean(values):6.3f} {max(values):6.3f} {seconds.get(name, 0):6.1f}")
    assert geometric_mean(ratios["dp"]) <= geometric_mean(ratios["greedy"])
