"""Dynamic programming over the progress of all jobs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tessera.compiler.execution_plan import ExecutionPlan
from tessera.compiler.planning.bundles import next_bundles
from tessera.compiler.planning.greedy import greedy_outcome
from tessera.compiler.planning.model import MAX_CONTEXTS, BundleWork, Machine, Moment, advance, begin
from tessera.compiler.planning.objective import Objective
from tessera.compiler.planning.problem import Outcome, Problem, Vector
from tessera.compiler.planning.serial import alone, job_ranks, serial_outcome

MAX_EXACT_JOBS = 2
"""Jobs for which the search is exact."""

EXACT_STATES = 8000
"""States (vectors of progress) up to which it is exact."""

LABELS = 3000
"""Labels that a search with a beam goes on from, about; the beam is as wide as the number of tasks leaves."""

MIN_BEAM, MAX_BEAM = 4, 48

NEW_JOBS = 3
"""Jobs that have not begun which a search with a beam looks at, if more have not than there are contexts."""


def dp(problem: Problem, objective: Objective = Objective.MAKESPAN, *, beam: int | None = None) -> ExecutionPlan:
    """The best plan that is found, never worse in the model than one operation at a time.

    Parameters
    ----------
    problem
        The workload on its machine.
    objective
        What is minimised.
    beam
        Labels that are kept of each number of ended tasks; 0 for all. Without it, all for one or two jobs of moderate
        size.

    Raises
    ------
    CompilerError
        No plan fits the memory, see `serial`.
    """
    return problem.plan("dp", dp_outcome(problem, objective, beam))


def dp_outcome(problem: Problem, objective: Objective, beam: int | None = None) -> Outcome:
    """The bundles of `dp`."""
    own = alone(problem)
    candidates = [serial_outcome(problem, objective, preemptive=preemptive) for preemptive in (False, True)]
    candidates += [greedy_outcome(problem, objective)]

    def cost(outcome: Outcome) -> tuple[float, ...]:
        return objective.total(problem.jobs, outcome.completions, own)

    incumbent = min(candidates, key=cost)
    width = _width(problem) if beam is None else beam
    found = _Search(problem, objective, own, width, cost(incumbent)[0]).run()
    return incumbent if found is None else min(incumbent, problem.outcome(found, prefetch=True), key=cost)


def _width(problem: Problem) -> int:
    sizes = [states.codes - state.ended + 1 for states, state in zip(problem.states, problem.of(problem.start))]
    if len(sizes) <= MAX_EXACT_JOBS and math.prod(sizes) <= EXACT_STATES:
        return 0
    return max(MIN_BEAM, min(MAX_BEAM, LABELS // sum(sizes)))


@dataclass(slots=True)
class _Label:
    """A way to come to a state."""

    vector: Vector
    moment: Moment
    cost: float
    """Of the jobs that have ended."""
    weighted: float
    """Sum of their completions times priorities: decides between labels that are equal otherwise."""
    bound: tuple[float, float]
    """No plan that goes on from here costs less than the first; the second decides where that is equal."""
    before: _Label | None
    work: BundleWork | None

    def works(self) -> list[BundleWork]:
        """The bundles that led here."""
        found: list[BundleWork] = []
        label: _Label | None = self
        while label is not None and label.work is not None:
            found.append(label.work)
            label = label.before
        return found[::-1]


class _Search:
    """Goes through the states by the number of tasks that have ended.

    A label is dropped if another of its state is at least as early, has loaded as much by its time, and has its
    results complete as early; or if its bound is not below the cost of a plan that is known.
    """

    def __init__(self, problem: Problem, objective: Objective, own: Sequence[int], beam: int, incumbent: float):
        self._problem, self._objective, self._own, self._beam = problem, objective, own, beam
        self._incumbent = incumbent
        self._ranks = job_ranks(problem, objective)
        self._best: _Label | None = None
        self._layers: dict[int, dict[Vector, list[_Label]]] = {}
        self._rests: dict[Vector, _Rest] = {}

    def run(self) -> list[BundleWork] | None:
        """The bundles of the best plan that is better than the incumbent; ``None`` if none was found."""
        problem = self._problem
        moment = begin(problem.machine, problem.workload.start, prefetch=True)
        self._insert(_Label(problem.start, moment, 0.0, 0.0, (0.0, 0.0), None, None))
        while self._layers:
            layer = self._layers.pop(min(self._layers))
            for vector, labels in self._chosen(layer):
                self._expand(vector, labels)
        return None if self._best is None else self._best.works()

    def _chosen(self, layer: dict[Vector, list[_Label]]) -> list[tuple[Vector, list[_Label]]]:
        labels = [label for own in layer.values() for label in own if label.bound[0] < self._incumbent]
        if self._beam:
            labels = sorted(labels, key=lambda label: (label.bound, label.vector))[: self._beam]
        chosen: dict[Vector, list[_Label]] = {}
        for label in labels:
            chosen.setdefault(label.vector, []).append(label)
        return list(chosen.items())

    def _expand(self, vector: Vector, labels: list[_Label]) -> None:
        problem, machine = self._problem, self._problem.machine
        works = next_bundles(problem, vector, self._jobs(vector), every=not self._beam)
        for work in works:
            rest = self._rest(work.targets)
            for label in labels:
                _, moment, ends = advance(machine, label.moment, work, prefetch=True)
                cost, weighted = label.cost, label.weighted
                if work.finished:
                    cost, weighted = self._finish(label, work, ends)
                bound = rest.bound(moment, cost)
                if bound[0] < self._incumbent:
                    self._insert(_Label(work.targets, moment, cost, weighted, bound, label, work))

    def _jobs(self, vector: Vector) -> list[int]:
        """Those in progress, and of those that have not begun all, or the most promising."""
        states = self._problem.of(vector)
        going = [index for index, state in enumerate(states) if state.started and not state.finished]
        new = [index for index, state in enumerate(states) if not state.started]
        room = MAX_CONTEXTS - len(going)
        if self._beam and len(new) > room > 0:
            new = self._promising(vector, new)[: max(room, NEW_JOBS)]
        return sorted(going + new) if room else going

    def _promising(self, vector: Vector, new: list[int]) -> list[int]:
        """Jobs that have not begun: the first by the objective, the largest, that most bound by memory, the rest."""
        states = self._problem.of(vector)
        by_rank = sorted(new, key=lambda index: (self._problem.jobs[index].arrival, self._ranks[index]))
        largest = min(new, key=lambda index: (-states[index].lane_cycles, index))
        memory = min(new, key=lambda index: (-states[index].traffic / max(1, states[index].lane_cycles), index))
        return list(dict.fromkeys([by_rank[0], largest, memory, *by_rank]))

    def _finish(self, label: _Label, work: BundleWork, ends: Sequence[int]) -> tuple[float, float]:
        cost, weighted = label.cost, label.weighted
        for index in work.finished:
            job, states = self._problem.jobs[index], self._problem.states[index]
            codes = range(states.first_code, states.first_code + states.codes)
            complete = max(
                *(end for slot, end in zip(work.slots, ends) if slot.job == index),
                *(ready for code, ready in label.moment.pending if code in codes),
                0,
            )
            cost = self._objective.combine([cost, self._objective.cost(job, complete, self._own[index])])
            weighted += job.priority * complete
        return cost, weighted

    def _rest(self, vector: Vector) -> _Rest:
        if vector not in self._rests:
            self._rests[vector] = _Rest(self._problem, self._objective, self._own, vector)
        return self._rests[vector]

    def _insert(self, label: _Label) -> None:
        rest = self._rest(label.vector)
        if rest.finished:
            if self._best is None or (label.cost, label.weighted) < (self._best.cost, self._best.weighted):
                self._best, self._incumbent = label, label.cost
            return
        labels = self._layers.setdefault(rest.ended, {}).setdefault(label.vector, [])
        machine = self._problem.machine
        if not any(_dominates(machine, other, label) for other in labels):
            labels[:] = [other for other in labels if not _dominates(machine, label, other)]
            labels.append(label)


def _dominates(machine: Machine, first: _Label, second: _Label) -> bool:
    """Whether whatever can follow the second can follow the first, and costs no more."""
    later = second.moment.time - first.moment.time
    if later < 0 or first.cost > second.cost:
        return False
    if first.moment.ahead + machine.bandwidth.numerator * later < second.moment.ahead:
        return False
    if first.moment == second.moment and first.cost == second.cost and first.weighted > second.weighted:
        return False
    readies = dict(second.moment.pending)
    return all(ready <= max(second.moment.time, readies.get(code, 0)) for code, ready in first.moment.pending)


class _Rest:
    """What is left to do from a state on, and what it costs at least.

    Attributes
    ----------
    finished
        Whether nothing is.
    ended
        Tasks that have ended.
    """

    def __init__(self, problem: Problem, objective: Objective, own: Sequence[int], vector: Vector):
        self._objective, self._own = objective, own
        machine = problem.machine
        self._rate = machine.bandwidth.numerator
        left = [
            (job, state, alone)
            for job, state, alone in zip(problem.jobs, problem.of(vector), own)
            if not state.finished
        ]
        self.finished = not left
        self.ended = sum(state.ended for state in problem.of(vector))
        self._jobs = [(job, state.path, alone) for job, state, alone in left]
        self._lanes = -(-sum(state.lane_cycles for _, state, _ in left) // machine.lanes)
        self._traffic = sum(state.traffic for _, state, _ in left)
        self._post = -(-sum(state.post_cycles for _, state, _ in left) // 2)
        # By the work per priority: the order in which a single resource serves the sum of weighted completions best.
        self._shares = [
            sorted(((state.lane_cycles / machine.lanes, job.priority) for job, state, _ in left), key=_per_weight),
            sorted(((state.traffic / self._rate, job.priority) for job, state, _ in left), key=_per_weight),
        ]

    def bound(self, moment: Moment, cost: float) -> tuple[float, float]:
        """See `_Label.bound`."""
        time, loading = moment.time, -((moment.ahead - self._traffic) // self._rate)
        ends = time + max(self._lanes, self._post, loading)
        soft = 4 * time + 2 * self._lanes + self._post + loading
        if not self._jobs:
            return cost, soft
        completions = [max(time, job.arrival) + path for job, path, _ in self._jobs]
        objective = self._objective
        if objective is Objective.MAKESPAN:
            return max(cost, ends, *completions), soft
        costs = [objective.cost(job, end, alone) for (job, _, alone), end in zip(self._jobs, completions)]
        if objective is Objective.WEIGHTED_COMPLETION:
            return cost + max(sum(costs), self._one_after_another(time, moment.ahead)), soft
        if objective.adds:
            return cost + sum(costs), self._one_after_another(time, moment.ahead)
        last = min(objective.cost(job, ends, alone) for job, _, alone in self._jobs)
        return max(cost, last, *costs), soft

    def _one_after_another(self, time: int, ahead: int) -> float:
        """Least sum of weighted completions of jobs that share the lanes, or the bus."""
        totals = []
        for shares, credit in zip(self._shares, (0.0, ahead / self._rate)):
            end, total = time - credit, 0.0
            for cycles, priority in shares:
                end += cycles
                total += priority * max(end, time)
            totals.append(total)
        return max(totals)


def _per_weight(share: tuple[float, float]) -> float:
    return share[0] / share[1]
