"""The execution plan: bundles in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class TaskId:
    """An operation of one inference of a job.

    Attributes
    ----------
    job
        Name of the job.
    inference
        Which of its inferences, from 0.
    operation
        Name of the operation.
    """

    job: str
    inference: int
    operation: str


@dataclass(frozen=True)
class Slot:
    """Lanes of a bundle, and what runs on them, one after another.

    Attributes
    ----------
    lanes
        Indices of the lanes, rising and adjacent: 1, 2 or 4 of them, aligned to their number.
    tasks
        Operations of one job.
    """

    lanes: tuple[int, ...]
    tasks: tuple[TaskId, ...]

    @property
    def job(self) -> str:
        """Name of the job that has the slot."""
        return self.tasks[0].job


@dataclass(frozen=True)
class Bundle:
    """Operations, of one job or of several, that occupy the lanes at the same time.

    Attributes
    ----------
    slots
        By rising lanes; no lane is in two of them.
    start, end
        Cycles of the plan's clock at which it is predicted to begin and to end, by the scheduler's model.
    """

    slots: tuple[Slot, ...]
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class ExecutionPlan:
    """The bundles of some jobs, in order.

    Attributes
    ----------
    scheduler
        Name of the scheduler that made it.
    bundles
        Each begins when the one before has ended, as far as anything of it depends on that.
    prefetch
        Whether loads may run ahead of the bundle that needs them.
    cycles
        Predicted cycles in all, by the scheduler's model of the machine.
    """

    scheduler: str
    bundles: tuple[Bundle, ...]
    prefetch: bool
    cycles: int

    @property
    def tasks(self) -> Iterator[TaskId]:
        """All tasks, bundle by bundle and slot by slot."""
        for bundle in self.bundles:
            for slot in bundle.slots:
                yield from slot.tasks

    @property
    def slots(self) -> tuple[tuple[Slot, ...], ...]:
        """The slots of each bundle: what is run where, whenever a scheduler thinks that it will be."""
        return tuple(bundle.slots for bundle in self.bundles)
