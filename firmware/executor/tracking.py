"""What plans took in truth, and what the executor makes of it: durations to remember, and adaptations of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tessera.compiler.execution_plan import TaskId
from tessera.compiler.planning.costs import Cost, operation_costs, read_next
from tessera.compiler.planning.model import Machine
from tessera.compiler.planning.occupancy import StreamStep
from tessera.compiler.planning.operation_key import operation_key
from tessera.compiler.planning.profile_database import Adaptation, DurationSource, Observation, ProfileDatabase, Run
from tessera.firmware.bus import TimedBus, TracingBus
from tessera.firmware.driver import Npu, Phase, RunResult, StreamState
from tessera.firmware.executor.history import Executed, executed_part, make_executed
from tessera.firmware.executor.networks import with_factor
from tessera.firmware.executor.requests import Work
from tessera.firmware.executor.segment import Segment
from tessera.firmware.executor.state import ExecutorState
from tessera.firmware.timeline import instruction_times
from tessera.rtl.isa import Unit
from tessera.sim.cycles import Memory

MEMORY_BOUND = 0.75
"""Share of a stretch's cycles in which the load unit works from which on delays are put down to the memory."""

CHECKS = 4
"""How often it is looked whether a plan that runs is late."""

RECOVERY = 1.5
"""By how much more bandwidth is planned with again after a stretch that was faster than planned."""

MEMORY_KEY = "memory"
"""Adaptations of the bandwidth have this in place of an operation."""

BANDWIDTH = "bandwidth"
"""Their quantity, in bytes per cycle."""


@dataclass(frozen=True)
class Stretch:
    """What was measured from a start to its end or pause.

    Attributes
    ----------
    bundles
        Bundles that have ended.
    cycles, planned_cycles
        As measured, and as planned for these bundles.
    bytes, planned_bytes
        On the memory's bus; the measured ones include what was loaded ahead.
    load_share
        Share of the cycles in which the load unit worked.
    tasks
        For each task its cost as it was measured; empty if the bus cannot tell.
    """

    bundles: int
    cycles: int
    planned_cycles: int
    bytes: int
    planned_bytes: int
    load_share: float
    tasks: Mapping[TaskId, Cost]


class Tracker:
    """Measures segments, remembers durations, and adapts.

    Parameters
    ----------
    state
        What the executor knows.
    bus, npu
        The way to the NPU, and its driver.
    database
        Where durations and adaptations go, if anywhere.
    """

    def __init__(self, state: ExecutorState, bus: TimedBus, npu: Npu, database: ProfileDatabase | None):
        self._state, self._npu, self._database = state, npu, database
        self._tracing = bus if isinstance(bus, TracingBus) else None
        self._nominal = _bandwidth(state, state.settings.memory)
        self._begun, self._checks = 0, [0]
        if database is not None:
            self._set_bandwidth(self._nominal * database.factor(MEMORY_KEY, 0, BANDWIDTH))

    # ----------------------------------------------------------------------------------------------- while a plan runs

    async def begin(self) -> None:
        """Before a start."""
        if self._tracing is not None:
            await self._tracing.start_trace()

    def started(self, segment: Segment) -> None:
        """Right after a start."""
        self._begun = self._state.now
        count = len(segment.plan.bundles)
        self._checks = sorted({count * check // CHECKS for check in range(1, CHECKS)} - {0})

    def next_check(self, segment: Segment) -> int | None:
        """The cycle at which it is to be looked whether the plan is late; ``None`` for not any more."""
        return self._begun + self._allowed(segment.planned(self._checks[0])) if self._checks else None

    async def check(self, segment: Segment) -> None:
        """Looks whether the plan is late, if it is time to."""
        cycle = self.next_check(segment)
        if cycle is None or self._state.now < cycle:
            return
        bundle = self._checks.pop(0)
        if await self._npu.bundle() < bundle and not self._state.changed:
            self._state.add_event("late", "", f"bundle {bundle} should have begun by now", bundle=bundle)
            self._state.changed = True
            self._checks = []

    def _allowed(self, planned: int) -> int:
        """Cycles up to which a stretch is as planned."""
        machine = Machine.of(self._state.config, self._state.memory)
        return round(self._state.settings.slower * planned) + 2 * machine.start_up

    # ---------------------------------------------------------------------------------------------------- when it ended

    async def ended(self, segment: Segment, stream: StreamState) -> None:
        """Measures, remembers, and adapts after a start that has not failed."""
        measured = await self._npu.measurements()
        trace = [] if self._tracing is None else await self._tracing.stop_trace()
        if stream.phase is Phase.FAILED:
            return
        stretch = await self._stretch(segment, stream, measured, trace)
        self._state.add_event(
            "measured", "", f"{stretch.cycles:,} cycles, planned were {stretch.planned_cycles:,}",
            cycles=stretch.cycles, planned_cycles=stretch.planned_cycles, bytes=stretch.bytes,
            planned_bytes=stretch.planned_bytes, load_share=stretch.load_share,
            operations=[[*_identity(task), cost.cycles, cost.dram_bytes] for task, cost in stretch.tasks.items()],
        )  # fmt: skip
        self._remember(segment, stretch, stream)
        self._adapt(segment, stretch)

    async def _stretch(
        self, segment: Segment, stream: StreamState, measured: RunResult, trace: list[tuple[int, int]]
    ) -> Stretch:
        bundles = stream.bundle if stream.phase is Phase.PAUSED else len(segment.plan.bundles)
        done = [task for bundle in segment.plan.bundles[:bundles] for slot in bundle.slots for task in slot.tasks]
        planned = {
            task: next(
                each.dram_bytes
                for each in segment.works[task.job].network.graph.tasks
                if each.operation == task.operation
            )
            for task in done
        }
        executed = self._executed(segment, stream, measured.cycles, bundles, trace)
        if executed is not None:
            self._state.executed.append(executed)
        busy = await self._npu.busy_cycles()
        beats = measured.read_beats + measured.write_beats
        return Stretch(
            bundles=bundles,
            cycles=measured.cycles,
            planned_cycles=segment.planned(bundles),
            bytes=beats * self._state.config.beat_bytes,
            planned_bytes=sum(planned.values()),
            load_share=busy[Unit.LOAD] / max(1, measured.cycles),
            tasks=self._task_costs(segment, executed, set(done)),
        )

    def _executed(
        self, segment: Segment, stream: StreamState, cycles: int, bundles: int, trace: list[tuple[int, int]]
    ) -> Executed | None:
        """What has run, from the trace; ``None`` if the bus cannot tell."""
        if not trace:
            return None
        part = executed_part(segment.program, stream.instructions)
        ends = instruction_times(part, [(cycle - self._begun, mask) for cycle, mask in trace])[1]
        return make_executed(segment, part, tuple(ends), start=self._begun, cycles=cycles, bundles=bundles)

    @staticmethod
    def _task_costs(segment: Segment, executed: Executed | None, done: set[TaskId]) -> dict[TaskId, Cost]:
        """Costs of the tasks that have ended, of networks that have not failed."""
        if executed is None:
            return {}
        program = executed.program
        owners = zip(program.instructions, program.labels, program.tasks)
        steps = [StreamStep(instruction, label, owner=task) for instruction, label, task in owners]
        costs = operation_costs(steps, program.config, steps, executed.ends, _readers(segment, done))
        return {task: cost for task, cost in costs.items() if task in done and not segment.works[task.job].failed}

    def _remember(self, segment: Segment, stretch: Stretch, stream: StreamState) -> None:
        """Tells the database."""
        if self._database is None:
            return
        lanes = _lanes(segment)
        found = [
            Observation(operation_key(segment.works[task.job].network.mapped, task.operation), lanes[task], cost)
            for task, cost in stretch.tasks.items()
        ]
        memory = self._state.settings.memory
        self._database.record(DurationSource.MEASURED, found, memory)
        if stream.phase is Phase.DONE:
            names = tuple(work.network.name for work in segment.works.values())
            run = Run(names, DurationSource.MEASURED, stretch.cycles, stretch.planned_cycles, {"bytes": stretch.bytes})
            self._database.record_run(run, memory)

    # -------------------------------------------------------------------------------------------------------- adapting

    def _adapt(self, segment: Segment, stretch: Stretch) -> None:
        """Changes what the next plan takes for true, if the stretch was slow or moved too much, or was fast again."""
        current = _bandwidth(self._state, self._state.memory)
        # A paused plan has already begun to load for its next bundle, and waits for that.
        begun = min(stretch.bundles + 1, len(segment.plan.bundles))
        too_slow = stretch.cycles > self._allowed(segment.planned(begun))
        too_much = stretch.bytes > self._state.settings.more * stretch.planned_bytes + self._ahead_bytes()
        if stretch.bundles and (too_slow or too_much) and stretch.load_share >= MEMORY_BOUND:
            seen = stretch.bytes / stretch.cycles
            if seen < current:
                self._change_bandwidth(current, seen, f"{seen:.2f} bytes per cycle came, planned were {current:.2f}")
        elif stretch.bundles and too_slow:
            for adaptation, work, operation in list(self._slower_operations(segment, stretch)):
                self._note(adaptation, work.request.name)
                work.network = with_factor(work.network, operation, adaptation.lanes, adaptation.factor)
        elif stretch.cycles * self._state.settings.slower < stretch.planned_cycles and current < self._nominal:
            seen = min(self._nominal, RECOVERY * current)
            self._change_bandwidth(current, seen, f"{stretch.cycles:,} cycles were fewer than planned")

    def _ahead_bytes(self) -> int:
        """Bytes that may have been loaded for bundles that have not run."""
        return self._state.config.lanes * self._state.config.weight_bank_bytes

    def _slower_operations(self, segment: Segment, stretch: Stretch) -> Iterator[tuple[Adaptation, Work, str]]:
        """What took longer than planned: operations if they were measured, else all by the same factor."""
        ratio, lanes = stretch.cycles / max(1, stretch.planned_cycles), _lanes(segment)
        known: set[tuple[str, str, int]] = set()
        for bundle in segment.plan.bundles[: stretch.bundles]:
            for task in (task for slot in bundle.slots for task in slot.tasks):
                work, key = segment.works[task.job], (task.job, task.operation, lanes[task])
                planned = work.network.costs[task.operation][lanes[task]].cycles
                seen = stretch.tasks[task].cycles if task in stretch.tasks else ratio * planned
                if key in known or seen <= self._state.settings.slower * planned:
                    continue
                known.add(key)
                yield (
                    Adaptation(
                        operation_key(work.network.mapped, task.operation), lanes[task], "cycles", planned, seen,
                        seen / planned, f"{task.operation} of {task.job} took {seen:.0f} cycles, not {planned}",
                    ),
                    work,
                    task.operation,
                )  # fmt: skip

    def _change_bandwidth(self, planned: float, seen: float, reason: str) -> None:
        self._set_bandwidth(seen)
        self._note(Adaptation(MEMORY_KEY, 0, BANDWIDTH, planned, seen, seen / self._nominal, reason))

    def _set_bandwidth(self, bytes_per_cycle: float) -> None:
        if bytes_per_cycle != self._nominal or self._state.memory != self._state.settings.memory:
            self._state.memory = replace(self._state.settings.memory, bytes_per_cycle=bytes_per_cycle)

    def _note(self, adaptation: Adaptation, request: str = "") -> None:
        values = {"quantity": adaptation.quantity, "planned": adaptation.planned, "seen": adaptation.seen}
        self._state.add_event("adapted", request, adaptation.reason, factor=adaptation.factor, **values)
        if self._database is not None:
            self._database.record_adaptation(adaptation)


def _bandwidth(state: ExecutorState, memory: Memory) -> float:
    """Bytes per cycle."""
    return memory.bytes_per_cycle or float(state.config.beat_bytes)


def _lanes(segment: Segment) -> dict[TaskId, int]:
    """The number of lanes of each task's slot."""
    return {task: len(slot.lanes) for bundle in segment.plan.bundles for slot in bundle.slots for task in slot.tasks}


def _readers(segment: Segment, done: set[TaskId]) -> dict[TaskId, TaskId]:
    """By tasks those that come next and read what they write."""
    following = {name: read_next(work.network.mapped) for name, work in segment.works.items()}
    return {
        task: replace(task, operation=following[task.job][task.operation])
        for task in done
        if task.operation in following[task.job]
    }


def _identity(task: TaskId) -> tuple[str, int, str]:
    return task.job, task.inference, task.operation
