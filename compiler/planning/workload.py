"""What is to be planned: jobs, how far they are, and from when on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tessera.compiler.errors import CompilerError
from tessera.compiler.execution_plan import Bundle
from tessera.compiler.planning.model import Machine
from tessera.compiler.planning.tasks import Job, TaskGraph

MAX_TASKS = 10_000
"""Operations of all inferences of all jobs that are planned at a time: states, streams and DRAM grow with them."""


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes
    ----------
    inferences
        Inferences that have ended.
    done
        Bit mask of the tasks of the next one that have ended.
    """

    inferences: int = 0
    done: int = 0


@dataclass(frozen=True)
class Workload:
    """The jobs that a scheduler is given.

    Attributes
    ----------
    jobs
        The jobs.
    progress
        How far each is, by name; those that are not named have not begun.
    start
        Cycle at which the plan starts, on the same clock as arrivals and deadlines.
    """

    jobs: tuple[Job, ...]
    progress: Mapping[str, Progress] = field(default_factory=dict)
    start: int = 0

    def progress_of(self, job: Job) -> Progress:
        """How far a job is."""
        return self.progress.get(job.name, Progress())


def advanced(workload: Workload, bundles: Iterable[Bundle], start: int) -> Workload:
    """The workload after some bundles of a plan for it, at the cycle ``start``: to plan the rest again."""
    ended = {job.name: (workload.progress_of(job).inferences, workload.progress_of(job).done) for job in workload.jobs}
    graphs = {job.name: job.graph for job in workload.jobs}
    for task in (task for bundle in bundles for slot in bundle.slots for task in slot.tasks):
        operations = [own.operation for own in graphs[task.job].tasks]
        inferences, done = ended[task.job]
        done |= 1 << operations.index(task.operation)
        whole = done == (1 << len(operations)) - 1
        ended[task.job] = (inferences + 1, 0) if whole else (inferences, done)
    return Workload(workload.jobs, {name: Progress(*each) for name, each in ended.items()}, start)


def check_workload(workload: Workload, machine: Machine) -> None:
    """Refuses what cannot be planned.

    Raises
    ------
    CompilerError
        No job, two jobs of one name, an empty network, a priority, arrival, deadline or number of inferences that
        makes no sense, more than `MAX_TASKS` operations, a deadline that no plan can meet, an operation that needs more
        lanes or more memory than there is, or progress that the job cannot have made.
    """
    if not workload.jobs:
        raise CompilerError("there is nothing to plan; give at least one network")
    _check_names(workload)
    for job in workload.jobs:
        _check_job(job)
    _check_size(workload)
    for job in workload.jobs:
        _check_graph(job, machine)
        _check_progress(job, workload.progress_of(job))
        _check_deadline(job, workload)


def shortest(graph: TaskGraph) -> int:
    """Cycles that one inference takes at least, whatever is done: the longest path of the fastest modes."""
    complete: list[int] = []
    for task in graph.tasks:
        ready = max((complete[index] for index in task.predecessors), default=0)
        complete.append(ready + min(mode.cycles + mode.latency for mode in task.modes))
    return max(complete)


def least_cycles(job: Job) -> int:
    """Cycles that all inferences of a job take at least, whatever is done."""
    longest_task = max(min(mode.cycles for mode in task.modes) for task in job.graph.tasks)
    return shortest(job.graph) + (job.inferences - 1) * longest_task


def _check_names(workload: Workload) -> None:
    names = [job.name for job in workload.jobs]
    for name in names:
        if names.count(name) > 1:
            raise CompilerError(f"{names.count(name)} networks are named {name!r}; give each a name of its own")
    for name in workload.progress:
        if name not in names:
            raise CompilerError(f"there is progress of {name!r}, but no network of this name")


def _check_job(job: Job) -> None:
    if not (math.isfinite(job.priority) and job.priority > 0):
        raise CompilerError(f"network {job.name!r} has the priority {job.priority}; give a positive number")
    if job.inferences < 1:
        raise CompilerError(f"network {job.name!r} is to run {job.inferences} times; give at least 1")
    if job.arrival < 0:
        raise CompilerError(f"network {job.name!r} arrives at cycle {job.arrival}; give 0 or more")
    if job.deadline is not None and job.deadline <= job.arrival:
        raise CompilerError(
            f"network {job.name!r} has its deadline at cycle {job.deadline}, but arrives at {job.arrival}; give a "
            "later deadline"
        )


def _check_size(workload: Workload) -> None:
    tasks = sum((job.inferences - workload.progress_of(job).inferences) * len(job.graph.tasks) for job in workload.jobs)
    if tasks > MAX_TASKS:
        raise CompilerError(
            f"the inferences of all networks have {tasks:,} operations, but at most {MAX_TASKS:,} are planned at a "
            "time; plan fewer inferences, and run the plan several times"
        )


def _check_graph(job: Job, machine: Machine) -> None:
    if not job.graph.tasks:
        raise CompilerError(f"network {job.name!r} has no operation for the NPU; leave it out of the plan")
    done = 0
    for index, task in enumerate(job.graph.tasks):
        if task.on(machine.lanes) is None:
            raise CompilerError(
                f"operation {task.operation!r} of network {job.name!r} cannot run on {machine.lanes} lanes; take a "
                "configuration with more lanes"
            )
        words = job.graph.words_during(done, 1 << index)
        if words > machine.capacity_words:
            raise CompilerError(
                f"operation {task.operation!r} of network {job.name!r} needs {words:,} activation words with what else "
                f"the network keeps on chip, but {machine.capacity_words:,} are available; use a configuration with "
                "larger activation banks"
            )
        done |= 1 << index


def _check_progress(job: Job, progress: Progress) -> None:
    tasks = job.graph.tasks
    whole = progress.inferences == job.inferences and progress.done == 0
    if not whole and not (0 <= progress.inferences < job.inferences and 0 <= progress.done < (1 << len(tasks)) - 1):
        raise CompilerError(
            f"network {job.name!r} cannot have ended {progress.inferences} inferences and the operations "
            f"{progress.done:#x} of the next; it has {job.inferences} of {len(tasks)} operations"
        )
    for index, task in enumerate(tasks):
        for predecessor in task.predecessors:
            if progress.done >> index & 1 and not progress.done >> predecessor & 1:
                raise CompilerError(
                    f"operation {task.operation!r} of network {job.name!r} cannot have ended before "
                    f"{tasks[predecessor].operation!r}, whose result it reads"
                )


def _check_deadline(job: Job, workload: Workload) -> None:
    progress = workload.progress_of(job)
    if job.deadline is None or progress != Progress():
        return  # a plan that starts late may have to miss it: it says so, and runs
    least = least_cycles(job)
    if job.deadline - job.arrival < least:
        raise CompilerError(
            f"network {job.name!r} cannot meet its deadline at cycle {job.deadline}: it arrives at {job.arrival} and "
            f"takes at least {least:,} cycles alone; give a later deadline"
        )
