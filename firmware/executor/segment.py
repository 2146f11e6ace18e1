"""Plans of what is left to do, and their streams: a *segment* runs from a start of the NPU to its end or pause."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.plan import DramLayout, lower_plan
from tessera.compiler.lowering.plan_memory import ChipState, PlacementError, state_after
from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.planning import ExecutionPlan, Job, Machine, Progress, Workload, schedule
from tessera.compiler.planning.selection import PlannedStream, StreamPlanner
from tessera.compiler.planning.workload import least_cycles
from tessera.firmware.executor.requests import Work
from tessera.firmware.executor.settings import Settings
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Store
from tessera.sim.contexts import Context
from tessera.sim.cycles import Memory
from tessera.sim.windows import MemoryWindow

_SHARES = (1.0, 0.75, 0.5)
"""Shares of the activation banks that plans are made for, one after another, until one can be placed."""


@dataclass(frozen=True)
class Segment:
    """A plan and its stream.

    Attributes
    ----------
    plan, program
        The two.
    works
        What is planned, by the names of the jobs.
    before
        What the plan finds on chip.
    start
        Cycle for which it was planned.
    code
        Where its code is in DRAM, when it has a place.
    """

    plan: ExecutionPlan
    program: PlanProgram
    works: dict[str, Work]
    before: ChipState
    start: int
    code: MemoryWindow | None = None

    def placed(self, code: MemoryWindow) -> Segment:
        """The segment with its code in a window of the DRAM."""
        return replace(self, program=replace(self.program, code_address=code.base), code=code)

    @property
    def contexts(self) -> dict[int, Context]:
        """The contexts by their numbers: every job has its own memory, and contains its errors."""
        jobs = self.program.jobs.values()
        return {job.context: Context(job.load_window, job.store_window, contain=True) for job in jobs}

    @property
    def prediction(self) -> int:
        """Cycles that the plan takes, as it was planned."""
        return self.planned(len(self.plan.bundles))

    def planned(self, bundles: int) -> int:
        """Cycles from the start until so many bundles have ended, as it was planned."""
        return self.plan.bundles[bundles - 1].end - self.start if bundles else 0

    def finishing(self, job: str) -> list[int]:
        """The inferences of a job that end in the stream, in the order in which its context counts them."""
        context = self.program.jobs[job].context
        return [
            task.inference
            for instruction, task in zip(self.program.instructions, self.program.tasks)
            if task is not None
            and isinstance(instruction, Store)
            and instruction.finished
            and instruction.context == context
        ]

    def exhausted(self, job: str) -> bool:
        """Whether all inferences of a job that are planned have ended, but not the job."""
        work = self.works[job]
        return not work.over and set(range(len(self.program.jobs[job].tensors))) <= work.collected

    def after(self, bundles: int) -> ChipState:
        """What the next plan finds when this one has been stopped behind so many bundles."""
        networks = {name: work.network.mapped for name, work in self.works.items()}
        return state_after(self.plan, bundles, networks, self.program.placement.ranges, self.before)


def without(state: ChipState, job: str, inference: int | None = None) -> ChipState:
    """A state in which nothing is known of a job, or of one of its inferences."""

    def other(name: str, number: int) -> bool:
        return name != job or inference not in (None, number)

    done = frozenset(task for task in state.done if other(task.job, task.inference))
    return ChipState(done, {name: where for name, where in state.live.items() if other(name.job, name.inference)})


def progress(work: Work, state: ChipState) -> Progress:
    """How far a work is."""
    names = [task.operation for task in work.network.graph.tasks]
    for inference in range(len(work.samples)):
        ended = {task.operation for task in state.done if (task.job, task.inference) == (work.name, inference)}
        if inference not in work.collected and len(ended) < len(names):
            return Progress(inference, sum(1 << index for index, name in enumerate(names) if name in ended))
    return Progress(len(work.samples), 0)


def alone_cycles(work: Work, state: ChipState) -> int:
    """Cycles that what is left of a work takes alone, on the lanes that make each operation fastest."""
    done, tasks = progress(work, state), work.network.graph.tasks
    spans = [task.fastest.cycles + task.fastest.latency for task in tasks]
    ended = sum(span for index, span in enumerate(spans) if done.done >> index & 1)
    return (len(work.samples) - done.inferences) * sum(spans) - ended


def make_segment(
    works: Sequence[Work],
    urgencies: Sequence[float],
    state: ChipState,
    now: int,
    settings: Settings,
    memory: Memory,
    config: NpuConfig,
) -> Segment | None:
    """Plans what is left of some works and lowers it; ``None`` if their tensors do not fit the chip together.

    While nothing is on chip there is time: of several plans the one with the best stream is taken. What is planned
    again gets the first that fits.

    Every work has a place in DRAM. At first tensors lie in all lanes, so that whatever plan comes next can read them;
    if they do not fit so, or not at all, plans that need less of the banks are tried, and at last one operation at a
    time.
    """
    jobs = tuple(_job(work, urgency, state, now, settings) for work, urgency in zip(works, urgencies))
    workload = Workload(jobs, {work.name: progress(work, state) for work in works}, now)
    networks = {work.name: work.network.mapped for work in works}
    layout = DramLayout(jobs={work.name: work.place for work in works if work.place is not None})
    if not state.live:
        best = _best_stream(StreamPlanner(config, networks, memory), workload, settings, state, layout)
        if best is not None:
            return Segment(best.plan, best.program, {work.name: work for work in works}, state, now)
    for plan in _plans(workload, settings, memory, config):
        for spread in (True, False):
            try:
                program = lower_plan(plan, networks, config, memory=memory, dram=layout, state=state, spread=spread)
            except PlacementError:
                continue
            return Segment(plan, program, {work.name: work for work in works}, state, now)
    return None


def _job(work: Work, urgency: float, state: ChipState, now: int, settings: Settings) -> Job:
    """The job of a work: its next inferences. A deadline that cannot be met any more does not count."""
    # Inferences that run side by side are counted together, so that nobody could tell which one is to be repeated.
    most = 1 if work.network.policy.repeats_counted else settings.inferences_ahead
    ahead = min(len(work.samples), progress(work, state).inferences + most)
    job = Job(work.name, work.network.graph, ahead, urgency, min(work.result.arrival, now))
    deadline = work.request.deadline
    within_reach = deadline is not None and deadline >= job.arrival + least_cycles(job)
    return replace(job, deadline=deadline) if within_reach else job


def _best_stream(
    planner: StreamPlanner, workload: Workload, settings: Settings, state: ChipState, layout: DramLayout
) -> PlannedStream | None:
    """The best of several plans by their streams; ``None`` if their tensors do not fit."""
    for spread in (True, False):
        with suppress(CompilerError):
            return planner.plan(
                workload, settings.scheduler, settings.objective, state=state, dram=layout, spread=spread
            )
    return None


def _plans(workload: Workload, settings: Settings, memory: Memory, config: NpuConfig) -> Iterator[ExecutionPlan]:
    """Plans that need less and less of the banks; what does not fit a share of them is left out."""
    attempts = [(settings.scheduler, share) for share in _SHARES] + [("serial", share) for share in _SHARES]
    for scheduler, share in dict.fromkeys(attempts):
        machine = Machine.of(config, memory, round(share * config.activation_words))
        with suppress(CompilerError):
            yield schedule(workload, machine, scheduler, settings.objective)
