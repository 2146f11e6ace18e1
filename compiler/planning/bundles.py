"""The bundles that may come next: which jobs get how many lanes, and how far each slot is filled."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from tessera.compiler.planning.model import LANE_COUNTS, MAX_SLOTS, BundleWork, SlotWork
from tessera.compiler.planning.problem import Problem, Vector

MAX_PER_JOB = 2
"""Slots of a bundle that one job may have."""

Assignment = tuple[tuple[int, int], ...]
"""Slots as (job, lanes)."""


def next_bundles(problem: Problem, vector: Vector, jobs: Sequence[int], every: bool) -> list[BundleWork]:
    """Bundles with which some of ``jobs`` go on.

    A bundle of several tasks per slot is one that could not be cut into two without making a lane wait: while the last
    task of its longest slot has not begun, another slot is busy. A slot that is alone has one task.

    Parameters
    ----------
    problem
        The workload on its machine.
    vector
        Where it is.
    jobs
        Indices of the jobs that are looked at.
    every
        True: all such bundles. False: for every lane partition the one with one task per slot, and for every content
        of its longest slot the one whose other slots are as full as its time allows.
    """
    found = []
    for assignment in _assignments(len(jobs), problem.machine.lanes):
        if not every and not _uses_lanes(problem, vector, jobs, assignment):
            continue
        choices = [problem.states[jobs[place]].moves(vector[jobs[place]], lanes) for place, lanes in assignment]
        if all(choices):
            for slots in _every_filling(choices) if every else _full_fillings(choices):
                work = problem.bundle(vector, slots)
                if work is not None:
                    found.append(work)
    return found


@lru_cache
def _assignments(jobs: int, lanes: int) -> tuple[Assignment, ...]:
    """All ways to give some of the jobs slots: as many lanes as there are, or fewer."""

    def extend(first: int, left: int, slots: Assignment) -> Iterator[Assignment]:
        if slots:
            yield slots
        if len(slots) == MAX_SLOTS:
            return
        for job in range(first, jobs):
            own = [count for other, count in slots if other == job]
            for count in LANE_COUNTS:
                # Slots of one job in the order of their lanes, so that each combination comes once.
                if count <= left and len(own) < MAX_PER_JOB and (not own or count <= own[-1]):
                    yield from extend(job, left - count, (*slots, (job, count)))

    return tuple(extend(0, lanes, ()))


def _uses_lanes(problem: Problem, vector: Vector, jobs: Sequence[int], assignment: Assignment) -> bool:
    """Whether no job without a slot could use the lanes that are left."""
    free = problem.machine.lanes - sum(lanes for _, lanes in assignment)
    if free == 0 or len(assignment) == MAX_SLOTS:
        return True
    taken = {place for place, _ in assignment}
    return not any(
        problem.states[job].moves(vector[job], lanes)
        for place, job in enumerate(jobs)
        if place not in taken
        for lanes in LANE_COUNTS
        if lanes <= free
    )


def _every_filling(choices: Sequence[Sequence[SlotWork]]) -> Iterator[tuple[SlotWork, ...]]:
    for slots in itertools.product(*choices):
        if _disjoint(slots) and _cannot_be_cut(slots):
            yield slots


def _full_fillings(choices: Sequence[Sequence[SlotWork]]) -> Iterable[tuple[SlotWork, ...]]:
    found: dict[tuple[tuple[int, ...], ...], tuple[SlotWork, ...]] = {}
    singles = [[work for work in own if len(work.codes) == 1] for own in choices]
    for slots in itertools.product(*singles):
        if _disjoint(slots):
            found.setdefault(tuple(slot.codes for slot in slots), slots)
    if len(choices) > 1:
        for place, own in enumerate(choices):
            for longest in own:
                filled = _filled(choices, place, longest)
                if filled is not None and _cannot_be_cut(filled):
                    found.setdefault(tuple(slot.codes for slot in filled), filled)
    return found.values()


def _filled(choices: Sequence[Sequence[SlotWork]], place: int, longest: SlotWork) -> tuple[SlotWork, ...] | None:
    """The others as long as ``longest`` lets them be."""
    chosen = [longest]
    for other, own in enumerate(choices):
        if other != place:
            fitting = (work for work in reversed(own) if work.cycles <= longest.cycles and _disjoint([*chosen, work]))
            work = next(fitting, None)
            if work is None:
                return None
            chosen.append(work)
    first, *rest = chosen
    return (*rest[:place], first, *rest[place:])


def _disjoint(slots: Sequence[SlotWork]) -> bool:
    """Whether slots of one job have no task in common: then none depends on the other."""
    codes = [code for slot in slots for code in slot.codes]
    return len(codes) == len(set(codes))


def _cannot_be_cut(slots: Sequence[SlotWork]) -> bool:
    longest = max(slots, key=lambda slot: slot.cycles)
    if longest.last_start == 0:
        return True
    return max((slot.cycles for slot in slots if slot is not longest), default=0) > longest.last_start
