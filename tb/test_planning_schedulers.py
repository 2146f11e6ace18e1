"""Every scheduler on random workloads: its plans are valid, and keep what the scheduler promises."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_random import DrawnRandom
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_workloads import WORKLOADS, jobs_of
from random_workloads import pick, random_jobs

from tessera.compiler.errors import CompilerError
from tessera.compiler.planning import (
    SCHEDULERS,
    ExecutionPlan,
    Job,
    Machine,
    Mode,
    Objective,
    Task,
    TaskGraph,
    Tensor,
    Workload,
    schedule,
)
from tessera.compiler.planning.bounds import lower_bound
from tessera.compiler.planning.dp import dp
from tessera.compiler.planning.problem import Problem, place_slots
from tessera.compiler.planning.serial import alone, serial
from tessera.compiler.planning.validate import validate
from tessera.compiler.planning.workload import advanced

TB = Path(__file__).resolve().parent


def random_workload(rng: Any) -> tuple[Workload, Machine]:
    """One to five jobs with arrivals, priorities and deadlines."""
    scale = pick(rng, (5, 200, 3000))
    jobs = random_jobs(
        rng, 1 + int(rng.integers(5)), 1 + int(rng.integers(6)), scale=scale, words=pick(rng, (64, 1500))
    )
    jobs = tuple(
        replace(
            job,
            inferences=1 + int(rng.integers(3)),
            priority=pick(rng, (0.5, 1.0, 3.0)),
            arrival=pick(rng, (0, scale, 5 * scale)),
            deadline=pick(rng, (None, 100 * scale)),
        )
        for job in jobs
    )
    # So little memory that one job fits, or two, or all.
    least = max(
        job.graph.words_during((1 << index) - 1, 1 << index) for job in jobs for index in range(len(job.graph.tasks))
    )
    machine = Machine(
        bytes_per_cycle=pick(rng, (1.0, 4.0, 5.3, 16.0)),
        weight_bank_bytes=pick(rng, (512, 4096, 16384)),
        capacity_words=pick(rng, (least, least * 3 // 2, 5 * least)),
    )
    return Workload(jobs), machine


def costs(problem: Problem, plan: ExecutionPlan, objective: Objective) -> tuple[float, ...]:
    """What a plan costs, from its bundles alone."""
    states, vector, works = problem.states, problem.start, []
    for bundle in plan.bundles:
        slots = []
        for slot in bundle.slots:
            own = next(each for each in states if each.job.name == slot.job)
            names = [task.operation for task in own.tasks]
            codes = tuple(
                own.first_code + task.inference * len(names) + names.index(task.operation) for task in slot.tasks
            )
            slots.append(own.slot_work(vector[own.index], len(slot.lanes), codes))
        work = problem.bundle(vector, slots)
        assert work is not None
        works.append(work)
        vector = work.targets
    outcome = problem.outcome(works, plan.prefetch)
    assert max(outcome.completions) - problem.workload.start == plan.cycles
    return objective.total(problem.jobs, outcome.completions, alone(problem))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_plans_are_valid_and_dp_is_the_best(data: st.DataObject) -> None:
    rng = DrawnRandom(data)
    workload, machine = random_workload(rng)
    problem = Problem(workload, machine)
    objective = pick(rng, list(Objective))
    plans = {name: scheduler(problem, objective) for name, scheduler in SCHEDULERS.items()}
    plans["serial without prefetch"] = serial(problem, objective, prefetch=False)
    plans["preemptive"] = serial(problem, objective, preemptive=True)
    for plan in plans.values():
        validate(plan, workload, machine)
        assert plan.cycles >= lower_bound(problem).cycles
    best = costs(problem, plans["dp"], objective)[0]
    for name, plan in plans.items():
        assert best <= costs(problem, plan, objective)[0], name


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_plan_may_be_made_again_at_any_bundle(data: st.DataObject) -> None:
    rng = DrawnRandom(data)
    workload, machine = random_workload(rng)
    first = schedule(workload, machine, pick(rng, list(SCHEDULERS)))
    count = int(rng.integers(len(first.bundles) + 1))
    start = max([workload.start, *(bundle.end for bundle in first.bundles[:count])])
    rest = advanced(workload, first.bundles[:count], start)
    late = replace(rest, jobs=tuple(replace(job, priority=1 / job.priority) for job in rest.jobs))
    for name in SCHEDULERS:
        plan = schedule(late, machine, name, Objective.WEIGHTED_COMPLETION)
        validate(plan, late, machine)
        tasks = [
            task for bundle in (*first.bundles[:count], *plan.bundles) for slot in bundle.slots for task in slot.tasks
        ]
        assert len(tasks) == len(set(tasks)) == sum(job.inferences * len(job.graph.tasks) for job in workload.jobs)


@pytest.mark.parametrize("seed", range(6))
def test_weighted_completion_is_not_worse_than_shortest_weighted_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    jobs = tuple(
        replace(job, priority=float(weight)) for job, weight in zip(random_jobs(rng, 3, 8), rng.permutation([4, 2, 1]))
    )
    problem = Problem(Workload(jobs), Machine(bytes_per_cycle=4))
    objective = Objective.WEIGHTED_COMPLETION
    own = alone(problem)
    first = sorted(jobs, key=lambda job: own[jobs.index(job)] / job.priority)
    done, reference = 0, 0.0
    for job in first:  # one after another, by arithmetic
        done += own[jobs.index(job)]
        reference += job.priority * done
    assert costs(problem, dp(problem, objective), objective)[0] <= reference


def one_task(name: str, modes: tuple[Mode, ...], dram_bytes: int = 0, **options: Any) -> Job:
    return Job(name, TaskGraph((Task("op", modes, (), dram_bytes),), (Tensor(10, (), (0,)),)), **options)


def test_a_network_that_waits_for_the_memory_runs_beside_one_that_computes() -> None:
    """4,000 bytes at 4 bytes per cycle take as long as the other's 1,000 cycles: both end after 1,000, not 2,000."""
    machine = Machine(bytes_per_cycle=4, start_up=0, weight_bank_bytes=1000)
    jobs = (
        one_task("computes", (Mode(2, 1000, 0, 0, 0),)),
        one_task("loads", (Mode(2, 500, 0, 0, 8000),), dram_bytes=4000),
    )
    problem = Problem(Workload(jobs), machine)
    # Of 8,000 bytes per lane 1,000 fit: an eighth of the loads, 125 cycles, runs ahead.
    assert serial(problem).cycles == 1000 + 875
    plan = dp(problem)
    assert plan.cycles == 1000
    assert [slot.job for slot in plan.bundles[0].slots] == ["computes", "loads"]


def test_a_latency_is_hidden_by_another_network() -> None:
    """Each network alone waits 100 cycles between its two operations; on all lanes in turn, neither does."""
    mode = Mode(4, 200, 100, 0, 0)
    graph = TaskGraph((Task("first", (mode,), (), 0), Task("second", (mode,), (0,), 0)), (Tensor(1, (0,), (1,)),))
    problem = Problem(Workload((Job("a", graph), Job("b", graph))), Machine(start_up=0))
    assert serial(problem).cycles == 4 * 200 + 2 * 100 + 100
    assert dp(problem).cycles == 4 * 200 + 100


def test_short_operations_follow_one_another_beside_a_long_one() -> None:
    short = tuple(Task(f"op{index}", (Mode(1, 100, 0, 0, 0),), (index - 1,) if index else (), 0) for index in range(5))
    jobs = (one_task("long", (Mode(2, 500, 0, 0, 0),)), Job("short", TaskGraph(short, (Tensor(1, (), (0,)),))))
    plan = dp(Problem(Workload(jobs), Machine(start_up=0)))
    assert plan.cycles == 500
    assert [len(slot.tasks) for slot in plan.bundles[0].slots] == [1, 5]


def test_the_urgent_network_goes_first() -> None:
    mode = (Mode(4, 1000, 0, 0, 0),)
    jobs = (one_task("slow", mode), one_task("urgent", mode, priority=5.0))
    for name in ("dp", "greedy", "serial", "native"):
        for objective in (Objective.MAKESPAN, Objective.WEIGHTED_COMPLETION):
            plan = schedule(Workload(jobs), Machine(), name, objective)
            assert plan.bundles[0].slots[0].job == "urgent", (name, objective)


def test_deadlines_decide_the_order() -> None:
    mode = (Mode(4, 1000, 0, 0, 0),)
    jobs = (one_task("any", mode, priority=5.0), one_task("due", mode, deadline=1500))
    problem = Problem(Workload(jobs), Machine())
    plan = dp(problem, Objective.TARDINESS)
    assert plan.bundles[0].slots[0].job == "due"
    assert costs(problem, plan, Objective.TARDINESS)[0] == 0


def test_a_slot_keeps_the_lanes_of_its_job() -> None:
    mode = (Mode(2, 100, 0, 0, 0),)
    problem = Problem(Workload((one_task("a", mode), one_task("b", mode))), Machine())
    slots = [problem.states[index].moves(problem.start[index], 2)[0] for index in (0, 1)]
    assert place_slots(slots, {}) == [(0, 1), (2, 3)]
    assert place_slots(slots, {0: 1, 1: 1}) == [(2, 3), (0, 1)]
    assert place_slots(slots[1:], {2: 1, 3: 1}) == [(2, 3)]


def test_plans_do_not_depend_on_the_order_of_sets() -> None:
    """Two processes that order sets and dictionaries of strings differently make the same plan."""
    script = (
        "from planning_workloads import jobs_of\n"
        "from tessera.compiler.planning import Machine, Workload, schedule\n"
        "print(schedule(Workload(jobs_of(('resnet8', 'dscnn', 'autoencoder'))), Machine(bytes_per_cycle=8)))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(TB)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and "ExecutionPlan(scheduler='dp'" in outputs.pop()


@pytest.mark.parametrize("number", [3, 4])
def test_networks_that_load_beside_networks_that_compute_take_less_time(number: int) -> None:
    """The known topologies at 8 bytes per cycle: at least a tenth less than one operation at a time with prefetch."""
    problem = Problem(Workload(jobs_of(WORKLOADS[number])), Machine(bytes_per_cycle=8))
    plan = dp(problem)
    validate(plan, problem.workload, problem.machine)
    assert 1.1 * plan.cycles < serial(problem).cycles


def test_an_unknown_scheduler_is_named() -> None:
    with pytest.raises(CompilerError, match="^there is no scheduler 'best'; take one of dp, greedy, serial, native$"):
        schedule(Workload((one_task("a", (Mode(1, 1, 0, 0, 0),)),)), Machine(), "best")
