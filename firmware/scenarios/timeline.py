"""What the executor has run, as one plan with one timeline, as the report draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tessera.compiler.execution_plan import Bundle, ExecutionPlan, Slot, TaskId
from tessera.firmware.executor import Executed
from tessera.firmware.plans.timeline import CODE, PlanTimeline, TaskTime, TransferWork, Work, plan_timeline
from tessera.sim.cycles import DEFAULT_MEMORY, Memory


@dataclass(frozen=True)
class RunHistory:
    """What has run.

    Attributes
    ----------
    plan
        The bundles that have ended, with planned cycles from the starts of their parts.
    timeline
        What the units did.
    requests
        By job the request that it belongs to.
    """

    plan: ExecutionPlan
    timeline: PlanTimeline
    requests: Mapping[str, str]


def run_history(
    executed: Sequence[Executed], scheduler: str, cycles: int, memory: Memory = DEFAULT_MEMORY
) -> RunHistory:
    """Joins the parts that have run, on the clock of the bus.

    An operation that has run several times, because its inference began again, has the number of the repetition behind
    its name. What was loaded for a job of which nothing has run counts as instructions.

    Parameters
    ----------
    executed
        The parts, in their order.
    scheduler
        Who planned.
    cycles
        Of the run as a whole.
    memory
        The DRAM.
    """
    joined = _Joined()
    for part in executed:
        joined.add(part, plan_timeline(part.program, part.ends, part.cycles, memory))
    ends = [time.end for time in joined.tasks] + [transfer.end for transfer in joined.transfers]
    jobs = {time.task.job for time in joined.tasks}
    timeline = PlanTimeline(
        cycles=max([cycles, *ends]),
        tasks=tuple(joined.tasks),
        lanes=tuple(map(tuple, joined.lanes)),
        slices=tuple(map(tuple, joined.slices)),
        transfers=tuple(each if each.job in jobs else replace(each, job=CODE) for each in joined.transfers),
    )
    requests = {job: request for part in executed for job, request in part.requests.items() if job in jobs}
    return RunHistory(ExecutionPlan(scheduler, tuple(joined.bundles), True, timeline.cycles), timeline, requests)


@dataclass
class _Joined:
    """The parts so far, and how often each task has run."""

    tasks: list[TaskTime] = field(default_factory=list)
    lanes: list[list[Work]] = field(default_factory=list)
    slices: list[list[Work]] = field(default_factory=list)
    transfers: list[TransferWork] = field(default_factory=list)
    bundles: list[Bundle] = field(default_factory=list)
    runs: Counter[TaskId] = field(default_factory=Counter)

    def add(self, part: Executed, own: PlanTimeline) -> None:
        """Adds a part, with its timeline from its own start."""
        names = {time.task: self._named(time.task) for time in own.tasks}
        first, start = len(self.bundles), part.start
        self.bundles += _renamed_bundles(part, names)
        for time in own.tasks:
            moved = replace(time, task=names[time.task], bundle=first + time.bundle)
            self.tasks.append(replace(moved, start=_at(start, time.start), end=_at(start, time.end)))
        for units, added in ((self.lanes, own.lanes), (self.slices, own.slices)):
            units += [[] for _ in added[len(units) :]]
            for unit, works in zip(units, added, strict=True):
                unit += [Work(_at(start, each.start), _at(start, each.end), names[each.task]) for each in works]
        for each in own.transfers:
            self.transfers.append(replace(each, start=_at(start, each.start), end=_at(start, each.end)))

    def _named(self, task: TaskId) -> TaskId:
        """The task, with a number if it has run before."""
        self.runs[task] += 1
        count = self.runs[task]
        return task if count == 1 else replace(task, operation=f"{task.operation} ({count})")


def _at(start: int, cycle: int) -> int:
    """A cycle since a start on the bus's clock; a trace may begin a moment before the host has read the clock."""
    return max(0, start + cycle)


def _renamed_bundles(part: Executed, names: Mapping[TaskId, TaskId]) -> Iterator[Bundle]:
    for bundle in part.bundles:
        slots = tuple(Slot(slot.lanes, tuple(names.get(task, task) for task in slot.tasks)) for slot in bundle.slots)
        yield Bundle(slots, part.start + bundle.start, part.start + bundle.end)
