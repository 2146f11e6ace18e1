"""Whether a plan keeps all rules: an independent check.

It shares nothing with the schedulers and their model but the descriptions of jobs, machine and plan, and computes the
timeline in its own way: by when the DMA begins with the loads of a bundle, in exact fractions of a cycle.
"""

from __future__ import annotations

import math
from fractions import Fraction

from tessera.compiler.errors import CompilerError
from tessera.compiler.execution_plan import Bundle, ExecutionPlan, Slot, TaskId
from tessera.compiler.planning.model import Machine
from tessera.compiler.planning.tasks import Job, Mode, Task, TaskGraph
from tessera.compiler.planning.workload import Workload

CONTEXTS = 4
"""Jobs that the hardware can have in progress."""


def validate(plan: ExecutionPlan, workload: Workload, machine: Machine, *, timeline: bool = True) -> None:
    """Checks a plan against the jobs and the machine.

    Parameters
    ----------
    plan
        The plan.
    workload
        Its jobs, and how far they were when it was made.
    machine
        Where it is to run.
    timeline
        Whether its predicted cycles are checked too; false for a plan whose times come from elsewhere.

    Raises
    ------
    CompilerError
        A rule that it breaks, with the bundle, the slot and the task.
    """
    checker = _Checker(workload, machine)
    for number, bundle in enumerate(plan.bundles):
        checker.check_lanes(number, bundle)
        checker.check_order(number, bundle)
        checker.check_memory(number, bundle)
        checker.check_contexts(number, bundle)
        checker.end(bundle)
    checker.check_complete()
    if timeline:
        _Timeline(workload, machine, plan.prefetch).check(plan)


def _name(number: int, slot: int | None = None, task: TaskId | None = None) -> str:
    text = f"bundle {number}"
    if slot is not None:
        text += f", slot {slot}"
    if task is not None:
        text += f", operation {task.operation!r} of inference {task.inference} of {task.job!r}"
    return text


class _Checker:
    """Follows a plan from bundle to bundle."""

    def __init__(self, workload: Workload, machine: Machine):
        self._machine = machine
        self._jobs = {job.name: job for job in workload.jobs}
        self._indices = {
            job.name: {task.operation: index for index, task in enumerate(job.graph.tasks)} for job in workload.jobs
        }
        self._ended: dict[str, dict[int, set[int]]] = {}  # by job and inference that has begun, indices of tasks
        for job in workload.jobs:
            progress, tasks = workload.progress_of(job), range(len(job.graph.tasks))
            self._ended[job.name] = {inference: set(tasks) for inference in range(progress.inferences)}
            if progress.done:
                self._ended[job.name][progress.inferences] = {index for index in tasks if progress.done >> index & 1}

    def check_lanes(self, number: int, bundle: Bundle) -> None:
        """Slots have lanes that may form one, and none has those of another; their tasks can run on as many."""
        taken: dict[int, int] = {}
        if not bundle.slots:
            raise CompilerError(f"{_name(number)} has no slot")
        if len(bundle.slots) > 4:
            raise CompilerError(f"{_name(number)} has {len(bundle.slots)} slots; at most 4 are possible")
        for place, slot in enumerate(bundle.slots):
            count, first = len(slot.lanes), min(slot.lanes, default=0)
            if count not in (1, 2, 4):
                raise CompilerError(f"{_name(number, place)} has {count} lanes; 1, 2 or 4 are possible")
            if slot.lanes != tuple(range(first, first + count)) or first % count:
                raise CompilerError(
                    f"{_name(number, place)} has the lanes {slot.lanes}; they must be adjacent and begin at a "
                    f"multiple of {count}"
                )
            if first < 0 or first + count > self._machine.lanes:
                raise CompilerError(
                    f"{_name(number, place)} has the lanes {slot.lanes}, but the machine has {self._machine.lanes}"
                )
            for lane in slot.lanes:
                if lane in taken:
                    raise CompilerError(f"{_name(number, place)} has lane {lane}, which slot {taken[lane]} has too")
                taken[lane] = place
            self._check_tasks(number, place, slot)
        if list(taken) != sorted(taken):
            raise CompilerError(f"{_name(number)} does not have its slots in the order of their lanes")

    def check_order(self, number: int, bundle: Bundle) -> None:
        """Every task runs once, after those whose results it reads, and inferences follow one another."""
        bundled: set[tuple[str, int, int]] = set()
        for place, slot in enumerate(bundle.slots):
            looked_at = {inference for task in slot.tasks for inference in (task.inference - 1, task.inference)}
            ended = {inference: set(self._ended[slot.job].get(inference, ())) for inference in looked_at}
            for task in slot.tasks:
                index = self._indices[task.job][task.operation]
                if index in ended[task.inference] or (task.job, task.inference, index) in bundled:
                    raise CompilerError(f"{_name(number, place, task)} has run before")
                graph = self._jobs[task.job].graph
                for predecessor in graph.tasks[index].predecessors:
                    if predecessor not in ended[task.inference]:
                        raise CompilerError(
                            f"{_name(number, place, task)} reads the result of "
                            f"{graph.tasks[predecessor].operation!r}, which has not ended by then"
                        )
                for before in range(len(graph.tasks)):
                    if task.inference and before not in ended[task.inference - 1]:
                        raise CompilerError(
                            f"{_name(number, place, task)} begins before {graph.tasks[before].operation!r} of the "
                            "inference before has ended"
                        )
                ended[task.inference].add(index)
                bundled.add((task.job, task.inference, index))

    def check_memory(self, number: int, bundle: Bundle) -> None:
        """Tensors and buffers of all jobs fit the activation banks at once."""
        words = {name: self._words(name, bundle) for name in self._jobs}
        if sum(words.values()) > self._machine.capacity_words:
            share = ", ".join(f"{count:,} of {name!r}" for name, count in words.items() if count)
            raise CompilerError(
                f"{_name(number)} needs {sum(words.values()):,} activation words ({share}), but there are "
                f"{self._machine.capacity_words:,}"
            )

    def check_contexts(self, number: int, bundle: Bundle) -> None:
        """No more jobs are in progress than the hardware has contexts."""
        going = {name for name, ended in self._ended.items() if ended and not self._is_complete(name)}
        going |= {slot.job for slot in bundle.slots}
        if len(going) > CONTEXTS:
            raise CompilerError(f"{_name(number)} has {len(going)} networks in progress; at most {CONTEXTS} can be")

    def end(self, bundle: Bundle) -> None:
        """Takes note that a bundle has ended."""
        for slot in bundle.slots:
            for task in slot.tasks:
                index = self._indices[task.job][task.operation]
                self._ended[task.job].setdefault(task.inference, set()).add(index)

    def check_complete(self) -> None:
        """All tasks have run."""
        for name, job in self._jobs.items():
            for inference in range(job.inferences):
                for index, task in enumerate(job.graph.tasks):
                    if index not in self._ended[name].get(inference, ()):
                        raise CompilerError(
                            f"the plan does not run operation {task.operation!r} of inference {inference} of {name!r}"
                        )

    def _is_complete(self, name: str) -> bool:
        """Whether the last inference of a job has ended, before which all others have."""
        job = self._jobs[name]
        return len(self._ended[name].get(job.inferences - 1, ())) == len(job.graph.tasks)

    def _check_tasks(self, number: int, place: int, slot: Slot) -> None:
        if not slot.tasks:
            raise CompilerError(f"{_name(number, place)} has no operation")
        for task in slot.tasks:
            if task.job != slot.tasks[0].job:
                raise CompilerError(
                    f"{_name(number, place, task)} is in a slot of {slot.tasks[0].job!r}; a slot belongs to one network"
                )
            job = self._jobs.get(task.job)
            if job is None or task.operation not in self._indices[task.job]:
                raise CompilerError(f"{_name(number, place, task)} is not among what was planned")
            if not 0 <= task.inference < job.inferences:
                raise CompilerError(f"{_name(number, place, task)} is one too many: it has {job.inferences} inferences")
            least = min(mode.lanes for mode in self._task(task).modes)
            if least > len(slot.lanes):
                raise CompilerError(f"{_name(number, place, task)} needs {least} lanes, but has {len(slot.lanes)}")

    def _task(self, task: TaskId) -> Task:
        return self._jobs[task.job].graph.tasks[self._indices[task.job][task.operation]]

    def _words(self, name: str, bundle: Bundle) -> int:
        """Words of a job while a bundle runs: each inference's tensors that are written or loaded, and not read for the
        last time, before it or during it."""
        graph, ended = self._jobs[name].graph, self._ended[name]
        running: dict[int, set[int]] = {}
        for task in (task for slot in bundle.slots for task in slot.tasks if task.job == name):
            running.setdefault(task.inference, set()).add(self._indices[name][task.operation])
        # All inferences before the last that has begun have ended, and keep nothing.
        going = {max(len(ended) - 1, 0), *running}
        return sum(
            _live_words(graph, ended.get(inference, set()), running.get(inference, set())) for inference in going
        )


def _live_words(graph: TaskGraph, ended: set[int], running: set[int]) -> int:
    words = sum(graph.tasks[index].buffer_words for index in running)
    for tensor in graph.tensors:
        users = set(tensor.writers) | set(tensor.readers)
        if users & (ended | running) and not users <= ended:
            words += tensor.words
    return words


class _Timeline:
    """Recomputes when each bundle begins and ends."""

    def __init__(self, workload: Workload, machine: Machine, prefetch: bool):
        self._machine, self._prefetch, self._start = machine, prefetch, workload.start
        self._jobs = {job.name: job for job in workload.jobs}
        self._rate = Fraction(machine.bytes_per_cycle).limit_denominator(256)
        self._complete: dict[TaskId, int] = {}
        self._time = workload.start + (machine.start_up if prefetch else 0)
        self._bus_free = Fraction(self._time)  # when the DMA may begin with the loads of the next bundle

    def check(self, plan: ExecutionPlan) -> None:
        """Compares the cycles of a plan with these."""
        for number, bundle in enumerate(plan.bundles):
            arrival = max(self._jobs[slot.job].arrival for slot in bundle.slots)
            if bundle.start < arrival:
                raise CompilerError(
                    f"{_name(number)} is to start at cycle {bundle.start}, but one of its networks arrives at {arrival}"
                )
            start = max(self._time, arrival)
            if bundle.start != start:
                raise CompilerError(
                    f"{_name(number)} is to start at cycle {bundle.start}, but what is before it ends at {start}"
                )
            end, reason = self._run(bundle, start)
            if bundle.end != end:
                raise CompilerError(
                    f"{_name(number)} is to end at cycle {bundle.end}, but {reason} takes until cycle {end}"
                )
            self._time = end
        last = max(self._complete.values(), default=self._start) - self._start
        if plan.cycles != last:
            raise CompilerError(f"the plan is to take {plan.cycles:,} cycles, but takes {last:,}")

    def _run(self, bundle: Bundle, start: int) -> tuple[int, str]:
        """End of a bundle, and what takes that long."""
        modes = [[self._mode(slot, task) for task in slot.tasks] for slot in bundle.slots]
        post = math.ceil(Fraction(sum(mode.post_cycles for own in modes for mode in own), 2))
        if not self._prefetch:
            start += self._machine.start_up
        loaded = self._loads(bundle, modes, start)
        ends = {"its post-processing": start + post, "its traffic": loaded}
        for place, slot in enumerate(bundle.slots):
            ends[f"slot {place}"] = self._slot(slot, start, least=max(start + post, loaded))
        if not self._prefetch:
            last = max(self._complete[task] for slot in bundle.slots for task in slot.tasks)
            ends["its last result"] = last
        end = max(ends.values())
        limit = self._machine.lanes * self._machine.weight_bank_bytes / self._rate
        self._bus_free = max(self._bus_free, end - limit)
        return end, next(reason for reason, time in ends.items() if time == end)

    def _mode(self, slot: Slot, task: TaskId) -> Mode:
        return max(
            (mode for mode in self._task(task).modes if mode.lanes <= len(slot.lanes)), key=lambda mode: mode.lanes
        )

    def _task(self, task: TaskId) -> Task:
        return next(own for own in self._jobs[task.job].graph.tasks if own.operation == task.operation)

    def _loads(self, bundle: Bundle, modes: list[list[Mode]], start: int) -> int:
        """First whole cycle by which everything that a bundle moves has been moved."""
        tasks = [self._task(task) for slot in bundle.slots for task in slot.tasks]
        total = sum(max(Fraction(task.dram_bytes), task.transfer_cycles * self._rate) for task in tasks)
        if not self._prefetch:
            return math.ceil(start + total / self._rate)
        bank = self._machine.weight_bank_bytes
        fullest = max(sum(mode.weight_bytes for mode in own) for own in modes)
        room = (
            Fraction(math.floor(total) * bank // fullest)
            if fullest > bank
            else total + self._machine.lanes * (bank - fullest)
        )
        room = min(room, Fraction(self._machine.lanes * bank))
        begin = max(self._bus_free, start - room / self._rate)
        self._bus_free = begin + total / self._rate
        return max(start, math.ceil(self._bus_free))

    def _slot(self, slot: Slot, start: int, least: int) -> int:
        """Runs the tasks of a slot, which ends at ``least`` or later; notes when their results are complete."""
        job = self._jobs[slot.job]
        own: dict[TaskId, tuple[int, int]] = {}  # end, and latency
        waits = [
            self._complete[before]
            for task in slot.tasks
            for before in self._before(job, task)
            if before in self._complete and before not in slot.tasks
        ]
        time = max([start, *waits]) if self._prefetch else start
        for task in slot.tasks:
            time = max([time, *(sum(own[before]) for before in self._before(job, task) if before in own)])
            mode = self._mode(slot, task)
            time += mode.cycles
            own[task] = time, mode.latency
        late = max(0, least - time)
        for task, (end, latency) in own.items():
            self._complete[task] = end + latency + late
        return time + late

    def _before(self, job: Job, task: TaskId) -> list[TaskId]:
        return [
            TaskId(task.job, task.inference, job.graph.tasks[index].operation)
            for index in self._task(task).predecessors
        ]
