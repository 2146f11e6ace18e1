"""Lets loads pass those in front of them that have to wait.

The load unit works in order, and so a load that waits for memory to become free holds up all behind it, while the bus
rests. Whoever comes next and has its memory already goes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from tessera.compiler.lowering.builder import StepType
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Load, PostProcess, Source, Unit
from tessera.sim.footprint import Access, footprint
from tessera.sim.ordering import AccessHistory

LOOK_AHEAD = 64
"""Loads among which the next one is chosen."""

LATE = 32
"""Cycles for which a load may keep the bus waiting before others pass it."""


@dataclass(frozen=True, eq=False)
class _Load:
    """A load of a stream.

    Attributes
    ----------
    position
        Its position.
    after
        Position of the last instruction before it that uses memory that it overwrites, or writes what it reads; -1 if
        there is none.
    before
        Position of the first instruction that may read what it, or a load behind it, has written.
    ready
        Cycle at which nothing uses its memory any more.
    cycles
        For which it keeps the bus.
    accesses
        What it writes on chip.
    """

    position: int
    after: int
    before: int
    ready: int
    cycles: int
    accesses: tuple[Access, ...]

    def may_pass(self, other: _Load) -> bool:
        """Whether it computes the same in front of a load that is before it."""
        return self.after < other.before and not any(
            mine.space == its.space and mine.region.meets(its.region)
            for mine in self.accesses
            for its in other.accesses
        )


def let_loads_pass(
    steps: Sequence[StepType], config: NpuConfig, starts: Sequence[int], ends: Sequence[int]
) -> list[StepType]:
    """The steps with their loads in an order that keeps the bus busy; all others stay in theirs.

    Parameters
    ----------
    steps
        The steps, without waits; their order defines what the stream computes.
    config
        The machine.
    starts, ends
        The cycles at which each step starts and ends if the loads stay in their order.
    """
    return _rearranged(steps, _choose(_find_loads(steps, config, starts, ends)))


def _find_loads(
    steps: Sequence[StepType], config: NpuConfig, starts: Sequence[int], ends: Sequence[int]
) -> list[_Load]:
    """The loads of a stream, in its order."""
    history = AccessHistory(config)
    issued: list[list[int]] = [[] for _ in Unit]  # positions
    used: list[int] = []  # by load
    found = []
    bus_free = 0
    for position, step in enumerate(steps):
        accesses = footprint(step.instruction, config)
        conflicts = [conflict for access in accesses for conflict in history.conflicts(access)]
        for unit in step.instruction.units():
            issued[unit].append(position)
        if isinstance(step.instruction, PostProcess) and step.instruction.source is Source.WINDOW:
            issued[Unit.window(step.instruction.slice)][-1] = position  # a window ends with its post-process
        if isinstance(step.instruction, Load):
            users = [issued[unit][count - 1] for unit, count in conflicts]
            ready, cycles = max((ends[user] for user in users), default=0), ends[position] - starts[position]
            cycles = max(1, min(cycles, ends[position] - bus_free))
            bus_free = ends[position]
            on_chip = tuple(access for access in accesses if access.write)
            found.append(_Load(position, max(users, default=-1), len(steps), ready, cycles, on_chip))
            used.append(len(steps))
        for unit, count in conflicts:
            if unit is Unit.LOAD:
                used[count - 1] = min(used[count - 1], position)
        for access in accesses:
            history.record(access, len(issued[access.unit]))
    # A reader is known for the last load alone of all whose words it reads.
    before = list(accumulate(reversed(used), min))[::-1]
    return [replace(load, before=position) for load, position in zip(found, before, strict=True)]


def _choose(loads: Sequence[_Load]) -> list[_Load]:
    """The loads in the order in which a bus that never waits for one of several takes them."""
    waiting, chosen, time = list(loads), [], 0
    while waiting:
        load = _next(waiting[:LOOK_AHEAD], time)
        waiting.remove(load)
        chosen.append(load)
        time = max(time, load.ready) + load.cycles
    return chosen


def _next(waiting: Sequence[_Load], time: int) -> _Load:
    """The first load that need not wait, and may pass those in front of it; else the first one."""
    for index, load in enumerate(waiting):
        if load.ready <= time + (LATE if index == 0 else 0) and all(map(load.may_pass, waiting[:index])):
            return load
    return waiting[0]


def _rearranged(steps: Sequence[StepType], loads: Sequence[_Load]) -> list[StepType]:
    """The steps with their loads in that order, each as early as it can be."""
    result: list[StepType] = []
    left = deque(loads)
    for position, step in enumerate(steps):
        while left and left[0].after < position:
            result.append(steps[left.popleft().position])
        if not isinstance(step.instruction, Load):
            result.append(step)
    return [*result, *(steps[load.position] for load in left)]
