"""When the tasks of a plan worked, on which lanes and slices, and what they moved: predicted, or measured."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.mixed_precision.costs import transfer_bytes
from tessera.compiler.planning import TaskId
from tessera.firmware.timeline import instruction_times
from tessera.rtl.isa import (
    INSTRUCTION_BYTES,
    PPU_SLICES,
    Instruction,
    LaneProgram,
    Load,
    PostProcess,
    Source,
    Store,
    Window,
    lanes_of_mask,
)
from tessera.sim.cycles import DEFAULT_MEMORY, Memory, predict
from tessera.sim.occupancy import lane_cycles, post_cycles, starts

CODE = ""
"""In place of a job's name: the instructions of the stream, which belong to all jobs."""

Depths = Mapping[tuple[str, str], tuple[int, int | None]]
"""By (job, operation): bits of the activations and of the weights, if there are any."""


@dataclass(frozen=True)
class Work:
    """Cycles since the start of the plan, from ``start`` to before ``end``, in which a unit worked for a task."""

    start: int
    end: int
    task: TaskId

    @property
    def cycles(self) -> int:
        """From start to end."""
        return self.end - self.start


@dataclass(frozen=True)
class TransferWork:
    """Bytes that crossed the memory's bus evenly from cycle ``start`` to before ``end``.

    Attributes
    ----------
    start, end
        Cycles since the start of the plan.
    job
        Whose they were; `CODE` for instructions.
    bytes
        How many.
    read
        True for loads and instructions, false for stores.
    """

    start: int
    end: int
    job: str
    bytes: int
    read: bool


@dataclass(frozen=True)
class TaskTime:
    """When and where a task worked.

    Attributes
    ----------
    task
        The task.
    bundle
        Index of its bundle.
    lanes
        Indices of the lanes whose multipliers it used; empty for windows.
    activation_bits, weight_bits
        Depths of what it reads; no weights for windows.
    start, end
        Cycles since the start of the plan: from the beginning of its first lane program, or window, to the end of its
        last post-processing.
    """

    task: TaskId
    bundle: int
    lanes: tuple[int, ...]
    activation_bits: int
    weight_bits: int | None
    start: int
    end: int

    @property
    def cycles(self) -> int:
        """From start to end."""
        return self.end - self.start


@dataclass(frozen=True)
class PlanTimeline:
    """What a plan's units did.

    Attributes
    ----------
    cycles
        Of the plan as a whole.
    tasks
        The tasks, in the order of the stream.
    lanes, slices
        For each lane and post-processing slice the cycles in which it worked, rising.
    transfers
        What crossed the memory's bus.
    """

    cycles: int
    tasks: tuple[TaskTime, ...]
    lanes: tuple[tuple[Work, ...], ...]
    slices: tuple[tuple[Work, ...], ...]
    transfers: tuple[TransferWork, ...]

    @property
    def idle_cycles(self) -> tuple[int, ...]:
        """For each lane the cycles of the plan in which its multipliers did not work."""
        return tuple(self.cycles - sum(work.cycles for work in lane) for lane in self.lanes)

    @property
    def lane_utilization(self) -> float:
        """Share of all lanes' cycles in which their multipliers worked."""
        return 1 - sum(self.idle_cycles) / (self.cycles * len(self.lanes)) if self.cycles else 0.0

    @property
    def jobs(self) -> list[str]:
        """Names of the jobs, in the order in which they begin."""
        return list(dict.fromkeys(time.task.job for time in self.tasks))

    def job_end(self, job: str) -> int:
        """Cycle in which the last task of a job was complete."""
        return max(time.end for time in self.tasks if time.task.job == job)

    def bundle_times(self) -> dict[int, tuple[int, int]]:
        """By the index of each bundle the cycles from the start of its first task to the end of its last."""
        found: dict[int, tuple[int, int]] = {}
        for time in self.tasks:
            start, end = found.get(time.bundle, (time.start, time.end))
            found[time.bundle] = min(start, time.start), max(end, time.end)
        return dict(sorted(found.items()))

    def dram_bytes(self, *, job: str | None = None, read: bool | None = None) -> int:
        """Bytes that crossed the bus: of one job (or `CODE`), or in one direction, if that is said."""
        return sum(
            each.bytes
            for each in self.transfers
            if (job is None or each.job == job) and (read is None or each.read == read)
        )

    def dram_windows(self, window: int) -> dict[str, np.ndarray]:
        """Bytes that crossed the bus in each window of ``window`` cycles, by job, with `CODE` last."""
        count = max(1, -(-max([self.cycles, *(each.end for each in self.transfers)]) // window))
        found = {job: np.zeros(count) for job in (*self.jobs, CODE)}
        for each in self.transfers:
            _spread(found[each.job], each, window)
        return found


def within_bandwidth(windows: Mapping[str, np.ndarray], most: float) -> dict[str, np.ndarray]:
    """Bytes of windows, by job, of which none has more than ``most`` in all: what is too much was moved before. When a
    transfer ended is known, and when its bytes came is not."""
    found = {job: own.copy() for job, own in windows.items()}
    for index in range(len(next(iter(found.values()))) - 1, 0, -1):
        total = sum(own[index] for own in found.values())
        for own in found.values() if total > most else ():
            early = own[index] * (1 - most / total)
            own[index] -= early
            own[index - 1] += early
    return found


def _spread(windows: np.ndarray, transfer: TransferWork, window: int) -> None:
    """Adds a transfer's bytes to the windows that it touches."""
    start, end = transfer.start, max(transfer.start + 1, transfer.end)
    first, last = start // window, (end - 1) // window
    if first == last:
        windows[first] += transfer.bytes
        return
    rate = transfer.bytes / (end - start)
    windows[first] += rate * ((first + 1) * window - start)
    windows[first + 1 : last] += rate * window
    windows[last] += rate * (end - last * window)


def predicted_timeline(
    program: PlanProgram, memory: Memory = DEFAULT_MEMORY, depths: Depths | None = None
) -> PlanTimeline:
    """What a program's units will do by the cycle model; see `plan_timeline`."""
    prediction = predict(program.instructions, program.config, memory)
    return plan_timeline(program, prediction.end.tolist(), prediction.total, memory, depths)


def measured_timeline(
    program: PlanProgram,
    trace: Sequence[tuple[int, int]],
    cycles: int,
    memory: Memory = DEFAULT_MEMORY,
    depths: Depths | None = None,
) -> PlanTimeline:
    """What a program's units did on the RTL, from the trace and the cycles of a run; see `plan_timeline`."""
    return plan_timeline(program, instruction_times(program, trace)[1], cycles, memory, depths)


def plan_timeline(
    program: PlanProgram,
    ends: Sequence[int],
    cycles: int,
    memory: Memory = DEFAULT_MEMORY,
    depths: Depths | None = None,
) -> PlanTimeline:
    """What a program's units did, from when its instructions ended. Predicted and measured times are read alike.

    A lane program counts as working for the cycles that its steps take, right before it ended; a post-process for those
    of its pixels. What they waited for before that is idle time. Bytes count as moved at the memory's bandwidth right
    before the transfer ended, and instructions as fetched when they could be handed out at the latest.

    Parameters
    ----------
    program
        The program.
    ends
        For each instruction the cycle in which it had finished; those of waits, fences, bundles and the end do not
        count.
    cycles
        Of the plan as a whole.
    memory
        The DRAM.
    depths
        Depths of operations that are not as the machine has them, as of depthwise weights, which it widens.
    """
    reader = _Reader(program, ends, memory)
    return PlanTimeline(
        cycles=cycles,
        tasks=tuple(_task_times(program, reader.works, depths or {})),
        lanes=tuple(reader.of_unit(LaneProgram, lane) for lane in range(program.config.lanes)),
        slices=tuple(reader.of_unit(PostProcess, index) for index in range(PPU_SLICES)),
        transfers=(*reader.transfers.values(), *_fetches(program, reader.begun)),
    )


@dataclass(frozen=True)
class _Worked:
    """An instruction that worked in units of a kind."""

    index: int
    kind: type[LaneProgram] | type[PostProcess]
    units: tuple[int, ...]
    work: Work


class _Reader:
    """Reads off a program's ends when its instructions worked.

    Attributes
    ----------
    works
        What lanes and slices did.
    transfers
        What loads and stores moved, by the indices of their instructions.
    """

    def __init__(self, program: PlanProgram, ends: Sequence[int], memory: Memory):
        self._config, self._ends, self._memory = program.config, ends, memory
        self._starts = starts(program.instructions, program.config, ends)
        owned = [
            (index, instruction, task)
            for index, (instruction, task) in enumerate(zip(program.instructions, program.tasks, strict=True))
            if task is not None
        ]
        self.works = list(self._works(owned))
        self.transfers = dict(self._transfers(owned))

    @property
    def begun(self) -> dict[int, int]:
        """By the index of each instruction that worked the cycle in which it began."""
        works = {each.index: each.work.start for each in self.works}
        return works | {index: each.start for index, each in self.transfers.items()}

    def of_unit(self, kind: type[LaneProgram] | type[PostProcess], unit: int) -> tuple[Work, ...]:
        """When a lane or slice worked; what follows one another for the same task is one."""
        own = [each.work for each in self.works if each.kind is kind and unit in each.units]
        return tuple(_joined(own))

    def _works(self, owned: Sequence[tuple[int, Instruction, TaskId]]) -> Iterator[_Worked]:
        positions: dict[int, deque[int]] = defaultdict(deque)
        for index, instruction, task in owned:
            if isinstance(instruction, LaneProgram):
                lanes = tuple(lanes_of_mask(instruction.lanes))
                yield _Worked(
                    index, LaneProgram, lanes, self._work(index, lane_cycles(instruction, self._config), task)
                )
            elif isinstance(instruction, Window):
                positions[instruction.slice].append(instruction.kernel_height * instruction.kernel_width)
            elif isinstance(instruction, PostProcess):
                own = 1 if instruction.source is Source.LANES else positions[instruction.slice].popleft()
                work = self._work(index, post_cycles(instruction, own, self._config), task)
                yield _Worked(index, PostProcess, (instruction.slice,), work)

    def _work(self, index: int, cycles: int, task: TaskId) -> Work:
        end = int(self._ends[index])
        return Work(self._start(index, end, cycles), end, task)

    def _start(self, index: int, end: int, cycles: int) -> int:
        """When an instruction that ended at ``end`` began, if it took ``cycles`` and had its units no earlier."""
        return min(end, max(self._starts[index], end - cycles))

    def _transfers(self, owned: Sequence[tuple[int, Instruction, TaskId]]) -> Iterator[tuple[int, TransferWork]]:
        rate = self._memory.bytes_per_cycle or self._config.beat_bytes
        for index, instruction, task in owned:
            if isinstance(instruction, Load | Store):
                moved, end = transfer_bytes(instruction, self._config), int(self._ends[index])
                start = self._start(index, end, math.ceil(moved / rate))
                yield index, TransferWork(start, end, task.job, moved, isinstance(instruction, Load))


def _joined(works: Iterable[Work]) -> Iterator[Work]:
    """Works that rise, with those that touch and have the same task as one."""
    before: Work | None = None
    for work in sorted(works, key=lambda each: each.start):
        if before is not None and before.task == work.task and work.start <= before.end:
            before = replace(before, end=max(before.end, work.end))
            continue
        if before is not None:
            yield before
        before = work
    if before is not None:
        yield before


def _task_times(program: PlanProgram, works: Sequence[_Worked], depths: Depths) -> Iterator[TaskTime]:
    machine_depths = _machine_depths(program)
    by_task: dict[TaskId, list[_Worked]] = defaultdict(list)
    for each in works:
        by_task[each.work.task].append(each)
    for task, own in by_task.items():
        activation, weight = depths.get((task.job, task.operation), machine_depths[task])
        lanes = {lane for each in own if each.kind is LaneProgram for lane in each.units}
        start, end = min(each.work.start for each in own), max(each.work.end for each in own)
        yield TaskTime(task, program.bundles[own[0].index], tuple(sorted(lanes)), activation, weight, start, end)


def _machine_depths(program: PlanProgram) -> dict[TaskId, tuple[int, int | None]]:
    """Bits of each task's activations and weights, as the machine has them."""
    found: dict[TaskId, tuple[int, int | None]] = {}
    for instruction, task in zip(program.instructions, program.tasks, strict=True):
        if task is not None and isinstance(instruction, LaneProgram | Window):
            weight = instruction.weight_depth.bits if isinstance(instruction, LaneProgram) else None
            found[task] = instruction.depth.bits, weight
    return found


def _fetches(program: PlanProgram, begun: Mapping[int, int]) -> Iterator[TransferWork]:
    """The fetch of the stream, from the cycles in which instructions began to work, by their indices. They are handed
    out in order, so each is there before any later one begins."""
    latest = max(begun.values(), default=0)
    cycles = []
    for index in reversed(range(len(program.instructions))):
        latest = min(latest, begun.get(index, latest))
        cycles.append(latest)
    for cycle, group in itertools.groupby(reversed(cycles)):
        yield TransferWork(cycle, cycle + 1, CODE, INSTRUCTION_BYTES * sum(1 for _ in group), read=True)
