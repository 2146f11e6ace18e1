"""The bundles that may come next: which jobs get how many lanes, and how far each slot is filled."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from tessera.compiler.planning.model import LANE_COUNTS, MAX_SLOTS, BundleWork, SlotWork
from tessera.compiler.planning.problem import Problem, Vector

MAX_PER_JOB = 2
"""Slots of a bundle that one job may have."""

Slots = tuple[SlotWork, ...]


class _Assignment(NamedTuple):
    """Slots as (place of the job in a list, lanes)."""

    slots: tuple[tuple[int, int], ...]
    free: int
    """Lanes that are left; 0 if no further slot is possible."""
    idle: tuple[int, ...]
    """Places without a slot."""
    twice: tuple[int, ...]
    """Places with two slots."""


class _Choice(NamedTuple):
    """What a slot can do."""

    works: Sequence[SlotWork]
    """All, shortest first."""
    singles: Sequence[SlotWork]
    """Those of one task."""
    cycles: Sequence[int]
    """Of each of ``works``."""


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
        of its longest slot the one whose other slots are as full as its time allows; and no lanes are left to idle
        that another job could use.
    """
    choices = _choices(problem, vector, jobs)
    # The fewest lanes that each job can use.
    least = [next((lanes for lanes in LANE_COUNTS if (place, lanes) in choices), 99) for place in range(len(jobs))]
    branches = [len(problem.states[job].ready(vector[job])) for job in jobs]
    found = []
    for assignment in _assignments(len(jobs), problem.machine.lanes):
        if not all(slot in choices for slot in assignment.slots):
            continue
        if any(branches[place] < MAX_PER_JOB for place in assignment.twice):
            continue
        if not every and any(least[place] <= assignment.free for place in assignment.idle):
            continue
        own, shared = [choices[slot] for slot in assignment.slots], bool(assignment.twice)
        for slots in _every_filling(own, shared) if every else _full_fillings(own, shared):
            work = problem.bundle(vector, slots)
            if work is not None:
                found.append(work)
    return found


def _choices(problem: Problem, vector: Vector, jobs: Sequence[int]) -> dict[tuple[int, int], _Choice]:
    """By place of the job and lanes, if there are any."""
    found = {}
    for place, job in enumerate(jobs):
        for lanes in LANE_COUNTS:
            works = problem.states[job].moves(vector[job], lanes)
            if works:
                singles = [work for work in works if len(work.codes) == 1]
                found[place, lanes] = _Choice(works, singles, [work.cycles for work in works])
    return found


@lru_cache
def _assignments(jobs: int, lanes: int) -> tuple[_Assignment, ...]:
    """All ways to give some of the jobs slots: as many lanes as there are, or fewer."""

    def extend(first: int, left: int, slots: tuple[tuple[int, int], ...]) -> Iterator[_Assignment]:
        if slots:
            places = [place for place, _ in slots]
            idle = tuple(place for place in range(jobs) if place not in places)
            free = left if len(slots) < MAX_SLOTS else 0
            twice = tuple(place for place in range(jobs) if places.count(place) > 1)
            yield _Assignment(slots, free, idle, twice)
        for place in range(first, jobs) if len(slots) < MAX_SLOTS else ():
            own = [count for other, count in slots if other == place]
            for count in LANE_COUNTS:
                # Slots of one job in the order of their lanes, so that each combination comes once.
                if count <= left and len(own) < MAX_PER_JOB and (not own or count <= own[-1]):
                    yield from extend(place, left - count, (*slots, (place, count)))

    return tuple(extend(0, lanes, ()))


def _every_filling(choices: Sequence[_Choice], shared: bool) -> Iterator[Slots]:
    for slots in itertools.product(*(choice.works for choice in choices)):
        if _cannot_be_cut(slots) and not (shared and _overlap(slots)):
            yield slots


def _full_fillings(choices: Sequence[_Choice], shared: bool) -> Iterable[Slots]:
    plain = itertools.product(*(choice.singles for choice in choices))
    found = {tuple(slot.codes for slot in slots): slots for slots in plain if not (shared and _overlap(slots))}
    for place in range(len(choices) if len(choices) > 1 else 0):
        for longest in choices[place].works:
            filled = _filled(choices, place, longest, shared)
            if filled is not None and _cannot_be_cut(filled):
                found.setdefault(tuple(slot.codes for slot in filled), filled)
    return found.values()


def _filled(choices: Sequence[_Choice], place: int, longest: SlotWork, shared: bool) -> Slots | None:
    """The others as long as ``longest`` lets them be; ``None`` if one of them has nothing as short."""
    chosen: list[SlotWork] = []
    for other, choice in enumerate(choices):
        if other == place:
            chosen.append(longest)
            continue
        fitting = bisect_right(choice.cycles, longest.cycles)
        if shared:
            taken = [longest, *chosen]
            while fitting and _overlap([*taken, choice.works[fitting - 1]]):
                fitting -= 1
        if not fitting:
            return None
        chosen.append(choice.works[fitting - 1])
    return tuple(chosen)


def _overlap(slots: Sequence[SlotWork]) -> bool:
    """Whether two slots have a task in common; if not, none depends on another."""
    codes = [code for slot in slots for code in slot.codes]
    return len(codes) > len(set(codes))


def _cannot_be_cut(slots: Slots) -> bool:
    """Whether another slot is busy until the last task of the longest slot begins."""
    longest = max(slots, key=_cycles)
    return longest.last_start == 0 or any(slot.cycles > longest.last_start for slot in slots if slot is not longest)


def _cycles(slot: SlotWork) -> int:
    return slot.cycles
