"""List scheduling: what can run is ranked, and takes lanes in that order."""

from __future__ import annotations

from tessera.compiler.execution_plan import ExecutionPlan
from tessera.compiler.planning.model import LANE_COUNTS, MAX_SLOTS, BundleWork, SlotWork, advance, begin
from tessera.compiler.planning.objective import Objective
from tessera.compiler.planning.problem import Outcome, Problem, Vector
from tessera.compiler.planning.serial import job_ranks, next_operation


def greedy(problem: Problem, objective: Objective = Objective.MAKESPAN) -> ExecutionPlan:
    """Bundles one after another, without looking ahead.

    The jobs are ranked by the objective (for the makespan: by priority, then the longest rest first). Each gets the
    lanes that its next operation needs; lanes that are left double those of the slot that takes longest; short slots
    are filled.

    Raises
    ------
    CompilerError
        No plan fits the memory, see `tessera.compiler.planning.serial.serial`.
    """
    return problem.plan("greedy", greedy_outcome(problem, objective))


def greedy_outcome(problem: Problem, objective: Objective) -> Outcome:
    """The bundles of `greedy`."""
    moment, vector = begin(problem.machine, problem.workload.start, prefetch=True), problem.start
    works = []
    while not problem.finished(vector):
        work = _bundle(problem, vector, _order(problem, objective, vector, moment.time))
        _, moment, _ = advance(problem.machine, moment, work, prefetch=True)
        vector = work.targets
        works.append(work)
    return problem.outcome(works, prefetch=True)


def _order(problem: Problem, objective: Objective, vector: Vector, time: int) -> list[int]:
    """Jobs that are there and not over, by rank; if none is there, the first that comes."""
    states = problem.of(vector)
    left = [index for index, state in enumerate(states) if not state.finished]
    first = min(max(time, problem.jobs[index].arrival) for index in left)
    there = [index for index in left if problem.jobs[index].arrival <= first]
    if objective is Objective.MAKESPAN:
        return sorted(there, key=lambda index: (-problem.jobs[index].priority, -states[index].path, index))
    ranks = job_ranks(problem, objective)
    return sorted(there, key=lambda index: ranks[index])


def _bundle(problem: Problem, vector: Vector, order: list[int]) -> BundleWork:
    work = next_operation(problem, vector, order, narrow=True)
    for index in order:
        if len(work.slots) < MAX_SLOTS and all(slot.job != index for slot in work.slots):
            free = problem.machine.lanes - sum(slot.lanes for slot in work.slots)
            work = _with_job(problem, vector, work, index, free) or work
    return _filled(problem, vector, _widened(problem, vector, work))


def _with_job(problem: Problem, vector: Vector, work: BundleWork, index: int, free: int) -> BundleWork | None:
    """The bundle with the next operation of another job, on the fewest lanes; ``None`` if there is no room."""
    for lanes in LANE_COUNTS:
        for slot in _single(problem, vector, index, lanes) if lanes <= free else []:
            found = problem.bundle(vector, [*work.slots, slot])
            if found is not None:
                return found
    return None


def _widened(problem: Problem, vector: Vector, work: BundleWork) -> BundleWork:
    """The bundle with the lanes that are left, each time for the longest slot that gets faster with them."""
    while True:
        free = problem.machine.lanes - sum(slot.lanes for slot in work.slots)
        for longest in sorted(work.slots, key=lambda slot: -slot.cycles):
            lanes = 2 * longest.lanes
            wider = [
                slot
                for slot in _single(problem, vector, longest.job, lanes)
                if slot.codes == longest.codes and lanes - longest.lanes <= free
            ]
            found = wider and problem.bundle(vector, [wider[0] if slot is longest else slot for slot in work.slots])
            if found:
                work = found
                break
        else:
            return work


def _filled(problem: Problem, vector: Vector, work: BundleWork) -> BundleWork:
    """The bundle with as many operations in the shorter slots as fit the time of the longest."""
    most = max(slot.cycles for slot in work.slots)
    for place, slot in enumerate(work.slots):
        for longer in reversed(problem.states[slot.job].moves(vector[slot.job], slot.lanes)):
            if longer.cycles <= most and longer.codes[:1] == slot.codes and len(longer.codes) > 1:
                found = problem.bundle(vector, [*work.slots[:place], longer, *work.slots[place + 1 :]])
                if found is not None:
                    work = found
                    break
    return work


def _single(problem: Problem, vector: Vector, index: int, lanes: int) -> list[SlotWork]:
    """One operation of a job, on so many lanes."""
    return [slot for slot in problem.states[index].moves(vector[index], lanes) if len(slot.codes) == 1]
