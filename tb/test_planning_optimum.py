"""Dynamic programming against two other ways to the optimum: an exhaustive search, and constraint programming."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from random_workloads import pick, random_jobs

from tessera.compiler.planning import Job, Machine, Objective, Workload
from tessera.compiler.planning.dp import dp, dp_outcome
from tessera.compiler.planning.model import Moment, SlotWork, advance, begin, traffic_of
from tessera.compiler.planning.problem import Problem, Vector
from tessera.compiler.planning.serial import alone


def small_jobs(seed: int, count: int, size: int) -> tuple[Job, ...]:
    rng = np.random.default_rng(seed)
    jobs = random_jobs(rng, count, size, scale=40, words=200, memory=60.0)
    return tuple(
        replace(job, arrival=pick(rng, (0, 0, 50)), priority=float(rng.integers(1, 4)), deadline=1000) for job in jobs
    )


def small_machine(seed: int) -> Machine:
    """Banks so small that prefetching is limited by them."""
    rng = np.random.default_rng(seed)
    return Machine(bytes_per_cycle=pick(rng, (3.0, 8.0, 5.5)), start_up=5, weight_bank_bytes=pick(rng, (64, 192, 4096)))


class Exhaustive:
    """Looks at every order of every plan for one that costs less than ``limit``; no states, no dominance."""

    def __init__(self, problem: Problem, objective: Objective, limit: float):
        self.problem, self.objective, self.best = problem, objective, limit
        self._alone = alone(problem)
        moment = begin(problem.machine, problem.workload.start, prefetch=True)
        self._extend(problem.start, moment, [problem.workload.start] * len(problem.jobs))

    def _extend(self, vector: Vector, moment: Moment, completions: list[int]) -> None:
        cost = self.objective.total(self.problem.jobs, completions, self._alone)[0]
        if self.problem.finished(vector):
            self.best = min(self.best, cost)
            return
        if cost >= self.best or (self.objective is Objective.MAKESPAN and moment.time >= self.best):
            return
        for slots in self._bundles(vector):
            work = self.problem.bundle(vector, slots)
            if work is not None:
                _, after, ends = advance(self.problem.machine, moment, work, prefetch=True)
                complete = list(completions)
                for slot, end in zip(slots, ends):
                    complete[slot.job] = max(complete[slot.job], end)
                self._extend(work.targets, after, complete)

    def _bundles(self, vector: Vector) -> Iterator[tuple[SlotWork, ...]]:
        single = [slot for index in range(len(vector)) for slot in self._slots(vector, index)]
        for count in range(1, 5):
            for slots in itertools.combinations(single, count):
                jobs = [slot.job for slot in slots]
                codes = [code for slot in slots for code in slot.codes]
                if sum(slot.lanes for slot in slots) > 4 or len(set(codes)) < len(codes):
                    continue
                if any(jobs.count(job) > 2 for job in jobs):
                    continue
                *others, longest = sorted(slots, key=lambda slot: slot.cycles)
                if longest.last_start == 0 or any(slot.cycles > longest.last_start for slot in others):
                    yield slots

    def _slots(self, vector: Vector, index: int) -> Iterator[SlotWork]:
        states = self.problem.states[index]
        orders: list[tuple[int, ...]] = [()]
        while orders:
            order = orders.pop()
            for code in states.ready(states.after(vector[index], order)):
                longer = (*order, code)
                orders.append(longer)
                for lanes in (1, 2, 4):
                    modes = [states.task(code).on(lanes) for code in longer]
                    if all(modes) and any(mode and mode.lanes == lanes for mode in modes):
                        yield states.slot_work(vector[index], lanes, longer)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("objective", Objective)
def test_no_plan_is_better_than_that_of_two_jobs(seed: int, objective: Objective) -> None:
    """Exact for two jobs: an exhaustive search finds nothing that costs less."""
    problem = Problem(Workload(small_jobs(seed, 2, 4)), small_machine(seed))
    outcome = dp_outcome(problem, objective)
    cost = objective.total(problem.jobs, outcome.completions, alone(problem))[0]
    assert Exhaustive(problem, objective, cost).best == cost


@pytest.mark.parametrize("seed", [0, 2, 6, 7])
def test_constraint_programming_finds_the_same_makespan(seed: int) -> None:
    """One task per slot, and weights that fit the banks: then the model is linear."""
    pytest.importorskip("ortools", reason="needs OR-Tools: pip install 'tessera-npu[oracle]'")
    machine = replace(small_machine(seed), weight_bank_bytes=8192)
    problem = Problem(Workload(small_jobs(seed, 2, 5)), machine, fill=1)
    plan = dp(problem, beam=0)
    assert plan.cycles == least_makespan(problem.jobs, machine, plan.cycles)


def least_makespan(jobs: tuple[Job, ...], machine: Machine, limit: int) -> int:
    """The least makespan of plans with one task per slot, each on as many lanes as its mode has, one inference each."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    tasks = [(job, index) for job in jobs for index in range(len(job.graph.tasks))]
    horizon, rate, byte = 2 * limit + 100, machine.bandwidth.numerator, machine.byte
    banks = machine.lanes * machine.weight_bank_bytes * byte
    bundles = range(len(tasks))

    def time(name: str, most: int = horizon) -> cp_model.IntVar:
        return model.NewIntVar(0, most, name)

    starts, ends = [time(f"start{b}") for b in bundles], [time(f"end{b}") for b in bundles]
    ahead = [time(f"ahead{b}", banks) for b in range(len(tasks) + 1)]
    runs = {
        (place, step, b): model.NewBoolVar(f"run{place}_{step}_{b}")
        for place, (job, index) in enumerate(tasks)
        for step in range(len(job.graph.tasks[index].modes))
        for b in bundles
    }

    def modes(place: int) -> list:
        job, index = tasks[place]
        return list(enumerate(job.graph.tasks[index].modes))

    def among(place: int, b: int) -> cp_model.LinearExpr:
        return sum(runs[place, step, b] for step, _ in modes(place))

    complete = [time(f"complete{place}") for place in range(len(tasks))]
    model.Add(ahead[0] == 0)
    for place, (job, index) in enumerate(tasks):
        model.Add(sum(among(place, b) for b in bundles) == 1)
        for before in job.graph.tasks[index].predecessors:
            other = tasks.index((job, before))
            model.Add(sum(b * among(other, b) for b in bundles) + 1 <= sum(b * among(place, b) for b in bundles))
    for b in bundles:
        every = [(place, step, mode) for place in range(len(tasks)) for step, mode in modes(place)]
        model.Add(sum(mode.lanes * runs[place, step, b] for place, step, mode in every) <= machine.lanes)
        for job in jobs:
            model.Add(sum(among(place, b) for place in range(len(tasks)) if tasks[place][0] is job) <= 2)
        model.Add(starts[b] >= (ends[b - 1] if b else machine.start_up))
        traffic = sum(
            traffic_of(tasks[place][0].graph.tasks[tasks[place][1]], machine) * among(place, b)
            for place in range(len(tasks))
        )
        usable = time(f"usable{b}", 2 * banks)
        model.Add(usable <= ahead[b] + rate * (starts[b] - (ends[b - 1] if b else machine.start_up)))
        model.Add(usable <= banks)
        least = time(f"least{b}")
        model.Add(rate * least >= traffic - usable)
        model.Add(2 * least >= sum(mode.post_cycles * runs[place, step, b] for place, step, mode in every))
        model.Add(ends[b] >= starts[b] + least)
        model.Add(ahead[b + 1] <= usable + rate * (ends[b] - starts[b]) - traffic)
        for place, step, mode in every:
            job, index = tasks[place]
            chosen = runs[place, step, b]
            model.Add(
                usable <= traffic + machine.lanes * (machine.weight_bank_bytes - mode.weight_bytes) * byte
            ).OnlyEnforceIf(chosen)
            model.Add(starts[b] >= job.arrival).OnlyEnforceIf(chosen)
            model.Add(ends[b] >= complete[place] - mode.latency).OnlyEnforceIf(chosen)
            model.Add(complete[place] >= starts[b] + mode.cycles + mode.latency).OnlyEnforceIf(chosen)
            model.Add(complete[place] >= starts[b] + least + mode.latency).OnlyEnforceIf(chosen)
            for before in job.graph.tasks[index].predecessors:
                ready = complete[tasks.index((job, before))]
                model.Add(complete[place] >= ready + mode.cycles + mode.latency).OnlyEnforceIf(chosen)
    makespan = time("makespan")
    for each in complete:
        model.Add(makespan >= each)
    model.Minimize(makespan)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    status = solver.Solve(model)
    assert status == cp_model.OPTIMAL, solver.StatusName(status)
    return round(solver.ObjectiveValue())
