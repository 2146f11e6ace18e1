"""One operation at a time: the baselines."""

from __future__ import annotations

from dataclasses import replace

from tessera.compiler.errors import CompilerError
from tessera.compiler.execution_plan import ExecutionPlan
from tessera.compiler.planning.model import BundleWork, advance, begin
from tessera.compiler.planning.objective import Objective
from tessera.compiler.planning.problem import Outcome, Problem, Vector
from tessera.compiler.planning.workload import Workload

Rank = tuple[float, ...]
"""What goes first has the lowest."""


def serial(
    problem: Problem,
    objective: Objective = Objective.MAKESPAN,
    *,
    prefetch: bool = True,
    preemptive: bool = False,
) -> ExecutionPlan:
    """One operation at a time, on the lanes that make it fastest.

    Parameters
    ----------
    problem
        The workload on its machine.
    objective
        Decides the order of the jobs that have arrived.
    prefetch
        Whether the next operations' weights are loaded while one runs.
    preemptive
        Whether a job that goes first interrupts one that runs, between two operations.

    Raises
    ------
    CompilerError
        Jobs in progress keep so much on chip that none can go on.
    """
    return problem.plan("serial", serial_outcome(problem, objective, prefetch=prefetch, preemptive=preemptive))


def native(problem: Problem, objective: Objective = Objective.MAKESPAN) -> ExecutionPlan:
    """One operation at a time, on only the lanes that its precision needs, and without prefetch.

    Parameters, errors: as for `serial`.
    """
    return problem.plan("native", serial_outcome(problem, objective, prefetch=False, narrow=True))


def serial_outcome(
    problem: Problem,
    objective: Objective,
    *,
    prefetch: bool = True,
    preemptive: bool = False,
    narrow: bool = False,
) -> Outcome:
    """The bundles of `serial`, or with ``narrow`` of `native`."""
    ranks = job_ranks(problem, objective)
    moment, vector = begin(problem.machine, problem.workload.start, prefetch), problem.start
    works: list[BundleWork] = []
    running: int | None = None
    while not problem.finished(vector):
        found = next_operation(
            problem, vector, _order(problem, vector, moment.time, ranks, running, preemptive), narrow
        )
        _, moment, _ = advance(problem.machine, moment, found, prefetch)
        running, vector = found.slots[0].job, found.targets
        works.append(found)
    return problem.outcome(works, prefetch)


def alone(problem: Problem) -> list[int]:
    """Cycles that the rest of each job takes alone, one operation at a time with prefetch."""
    found = []
    for job in problem.jobs:
        progress = {job.name: problem.workload.progress_of(job)}
        own = Problem(Workload((replace(job, arrival=0, deadline=None),), progress), problem.machine)
        found.append(max(1, *serial_outcome(own, Objective.MAKESPAN).completions))
    return found


def job_ranks(problem: Problem, objective: Objective) -> list[Rank]:
    """Of each job: by deadline, by work per priority, or by priority; then by arrival."""
    ranks: list[Rank] = []
    cycles = [_fastest_cycles(problem, index) for index in range(len(problem.jobs))]
    for index, job in enumerate(problem.jobs):
        deadline = float("inf") if job.deadline is None else job.deadline
        weighted = cycles[index] / job.priority
        if objective is Objective.TARDINESS:
            first: Rank = (deadline, weighted)
        elif objective is Objective.WEIGHTED_COMPLETION:
            first = (weighted,)
        elif objective is Objective.FAIRNESS:
            first = (cycles[index],)
        else:
            first = (-job.priority, job.arrival, deadline)
        ranks.append((*first, job.arrival, index))
    return ranks


def _fastest_cycles(problem: Problem, index: int) -> float:
    """Cycles of a job's rest one operation at a time: those of its lanes, or of its traffic if those are more."""
    states = problem.states[index]
    state = states.states[problem.start[index]]
    left = problem.jobs[index].inferences - state.inferences
    cycles = [task.fastest.cycles for task in states.tasks]
    ended = sum(cost for place, cost in enumerate(cycles) if state.done >> place & 1)
    return max(left * sum(cycles) - ended, state.traffic / problem.machine.bandwidth.numerator)


def _order(
    problem: Problem, vector: Vector, time: int, ranks: list[Rank], running: int | None, preemptive: bool
) -> list[int]:
    """Jobs that are not over: the one that runs unless it can be interrupted, those that are there by their ranks, and
    the others by their arrivals."""
    left = [index for index, state in enumerate(problem.of(vector)) if not state.finished]

    def key(index: int) -> tuple[bool, int, Rank]:
        late = max(0, problem.jobs[index].arrival - time)
        return (index != running or preemptive, late, ranks[index])

    return sorted(left, key=key)


def next_operation(problem: Problem, vector: Vector, order: list[int], narrow: bool) -> BundleWork:
    """The next operation of the first job that can go on."""
    for index in order:
        for work in _operations(problem, vector, index, narrow):
            return work
    names = ", ".join(repr(problem.jobs[index].name) for index in order)
    raise CompilerError(
        f"none of the networks {names} can go on: what those in progress keep on chip leaves too little of the "
        f"{problem.machine.capacity_words:,} activation words for the next operation of any; start fewer at a time"
    )


def _operations(problem: Problem, vector: Vector, index: int, narrow: bool) -> list[BundleWork]:
    states = problem.states[index]
    found = []
    for code in states.ready(vector[index]):
        task = states.task(code)
        mode = task.native if narrow else task.fastest
        work = problem.bundle(vector, [states.slot_work(vector[index], mode.lanes, (code,))])
        if work is not None:
            found.append(work)
    return found
