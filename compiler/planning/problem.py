"""A workload on a machine, as every scheduler sees it, and plans from what a scheduler chose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tessera.compiler.execution_plan import Bundle, ExecutionPlan, Slot, TaskId
from tessera.compiler.planning.model import (
    MAX_CONTEXTS,
    BundleWork,
    Machine,
    SlotWork,
    advance,
    begin,
    bundle_work,
)
from tessera.compiler.planning.states import MAX_FILL, JobState, job_states
from tessera.compiler.planning.workload import Workload, check_workload

Vector = tuple[int, ...]
"""A state of every job."""


@dataclass(frozen=True)
class Outcome:
    """What a scheduler chose.

    Attributes
    ----------
    works
        The bundles.
    times
        Cycles at which each begins and ends.
    completions
        Cycle at which each job is complete; for one that was over before, the start of the plan.
    prefetch
        Whether loads ran ahead.
    """

    works: tuple[BundleWork, ...]
    times: tuple[tuple[int, int], ...]
    completions: tuple[int, ...]
    prefetch: bool


class Problem:
    """A workload on a machine.

    Parameters
    ----------
    workload, machine
        The two.
    fill
        Tasks that may follow one another in a slot.

    Raises
    ------
    CompilerError
        The workload makes no sense, see `check_workload`.
    """

    def __init__(self, workload: Workload, machine: Machine, fill: int = MAX_FILL):
        check_workload(workload, machine)
        self.workload, self.machine, self.jobs = workload, machine, workload.jobs
        self.states = job_states(workload.jobs, machine, fill)
        self._known_safe: dict[Vector, bool] = {}
        self._known_progress: dict[Vector, tuple[int, int]] = {}
        self.start: Vector = tuple(
            states.number(workload.progress_of(job)) for states, job in zip(self.states, workload.jobs)
        )

    def of(self, vector: Vector) -> list[JobState]:
        """The jobs' states."""
        return [states.states[number] for states, number in zip(self.states, vector)]

    def finished(self, vector: Vector) -> bool:
        """Whether all is done."""
        return all(state.finished for state in self.of(vector))

    def bundle(self, vector: Vector, slots: Sequence[SlotWork]) -> BundleWork | None:
        """The bundle of some slots, or ``None`` if it may not be.

        Its tensors must fit the banks, no more jobs may be in progress than there are contexts, and it must be possible
        to end those one after another from there, so that no plan comes to a dead end for lack of memory.
        """
        targets = list(vector)
        words, contexts = self._in_progress(vector)
        by_job: dict[int, list[SlotWork]] = {}
        for slot in slots:
            by_job.setdefault(slot.job, []).append(slot)
        for index, own in by_job.items():
            states, number = self.states[index], vector[index]
            before = states.states[number]
            contexts += not before.started
            if len(own) == 1:
                words, targets[index] = words + own[0].words - before.words, own[0].target
            else:
                codes = tuple(code for slot in own for code in slot.codes)
                words += states.words_during(number, codes) - before.words
                targets[index] = states.after(number, codes)
        if words > self.machine.capacity_words or contexts > MAX_CONTEXTS or not self._safe(tuple(targets)):
            return None
        finished = tuple(index for index in by_job if self.states[index].states[targets[index]].finished)
        arrival = max(self.jobs[index].arrival for index in by_job)
        return bundle_work(self.machine, slots, tuple(targets), finished, arrival)

    def _in_progress(self, vector: Vector) -> tuple[int, int]:
        """Words that the jobs in progress keep, and how many they are."""
        if vector not in self._known_progress:
            going = [state for state in self.of(vector) if state.started and not state.finished]
            self._known_progress[vector] = sum(state.words for state in going), len(going)
        return self._known_progress[vector]

    def _safe(self, vector: Vector) -> bool:
        """Whether the jobs in progress can be ended one after another."""
        if vector not in self._known_safe:
            going = [state for state in self.of(vector) if state.started and not state.finished]
            free = self.machine.capacity_words - sum(state.words for state in going)
            # Whichever can be ended gives back its words, so that it does no harm to end it first.
            while going:
                next_ended = min(going, key=lambda state: state.peak - state.words)
                if next_ended.peak - next_ended.words > free:
                    break
                free += next_ended.words
                going.remove(next_ended)
            self._known_safe[vector] = not going
        return self._known_safe[vector]

    def outcome(self, works: Iterable[BundleWork], prefetch: bool) -> Outcome:
        """Runs bundles in the model."""
        moment = begin(self.machine, self.workload.start, prefetch)
        times, run = [], tuple(works)
        complete = [self.workload.start] * len(self.jobs)
        for work in run:
            start, moment, ends = advance(self.machine, moment, work, prefetch)
            times.append((start, moment.time))
            for slot, end in zip(work.slots, ends):
                complete[slot.job] = max(complete[slot.job], end)
        return Outcome(run, tuple(times), tuple(complete), prefetch)

    def plan(self, scheduler: str, outcome: Outcome) -> ExecutionPlan:
        """The plan of some bundles, whose slots keep the lanes that their jobs have where that is possible."""
        bundles: list[Bundle] = []
        held: dict[int, int] = {}  # job by lane
        for work, (start, end) in zip(outcome.works, outcome.times):
            lanes = place_slots(work.slots, held)
            held = {lane: slot.job for slot, own in zip(work.slots, lanes) for lane in own}
            slots = [
                Slot(own, tuple(self._task(slot, code) for code in slot.codes)) for slot, own in zip(work.slots, lanes)
            ]
            bundles.append(Bundle(tuple(sorted(slots, key=lambda slot: slot.lanes)), start, end))
        cycles = max(outcome.completions) - self.workload.start
        return ExecutionPlan(scheduler, tuple(bundles), outcome.prefetch, cycles)

    def _task(self, slot: SlotWork, code: int) -> TaskId:
        states = self.states[slot.job]
        inference, index = divmod(code - states.first_code, len(states.tasks))
        return TaskId(states.job.name, inference, states.tasks[index].operation)


def place_slots(slots: Sequence[SlotWork], held: dict[int, int], lanes: int = 4) -> list[tuple[int, ...]]:
    """Lanes of each slot, aligned to their number: those that the job held before, as far as possible.

    Of the placements that keep the most lanes, the first in lexicographic order.
    """
    best: tuple[int, list[tuple[int, ...]]] = -1, []

    def place(index: int, free: frozenset[int], kept: int, chosen: list[tuple[int, ...]]) -> None:
        nonlocal best
        if index == len(slots):
            best = (kept, chosen) if kept > best[0] else best
            return
        count = slots[index].lanes
        for first in range(0, lanes, count):
            own = tuple(range(first, first + count))
            if free.issuperset(own):
                same = sum(held.get(lane) == slots[index].job for lane in own)
                place(index + 1, free.difference(own), kept + same, [*chosen, own])

    place(0, frozenset(range(lanes)), 0, [])
    return best[1]
