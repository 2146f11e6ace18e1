"""Runs a segment on the NPU: from the start of its stream to its end, pause or failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tessera.firmware.bus import TimedBus
from tessera.firmware.driver import Npu, Phase, StreamState
from tessera.firmware.executor.answers import FaultDesk, watched
from tessera.firmware.executor.requests import Status, Work
from tessera.firmware.executor.segment import Segment
from tessera.firmware.executor.settings import Preemption
from tessera.firmware.executor.state import ExecutorState
from tessera.firmware.executor.tracking import Tracker
from tessera.rtl.isa import ErrorCode
from tessera.sim.counts import COUNT_NAMES, Counts
from tessera.sim.cycles import longest_silence


@dataclass
class _Seen:
    """What was seen of a job since the start: finished inferences, whether it has failed, and counts by operation."""

    finished: int = 0
    failed: bool = False
    counts: dict[str, Counts] = field(default_factory=dict)


class Runner:
    """Runs segments.

    Parameters
    ----------
    state
        What the executor knows.
    bus, npu
        The way to the NPU, and its driver.
    desk, tracker
        What acts on faults, and what measures.
    events
        Does what was asked for up to now; returns the next cycle at which there is something to do, if any.
    """

    def __init__(
        self,
        state: ExecutorState,
        bus: TimedBus,
        npu: Npu,
        desk: FaultDesk,
        tracker: Tracker,
        events: Callable[[Segment], Awaitable[int | None]],
    ):
        self._state, self._bus, self._npu = state, bus, npu
        self._desk, self._tracker, self._events = desk, tracker, events

    async def run(self, segment: Segment) -> StreamState:
        """Runs a segment: collects outputs, and has it paused if something changes. Returns its state at the end."""
        await self._write(segment)
        await self._tracker.begin()
        await self._start(segment)
        self._tracker.started(segment)
        stream = await self._follow(segment)
        await self._tracker.ended(segment, stream)
        return stream

    async def _write(self, segment: Segment) -> None:
        """Writes the stream, what it loads, and the inputs that are not there yet."""
        for address, data in segment.program.writes:
            await self._bus.write_memory(address, data)
        for name, memory in segment.program.jobs.items():
            work = segment.works[name]
            for inference in range(work.written, len(memory.tensors)):
                for tensor, data in work.packed[inference].items():
                    await self._bus.write_memory(memory.tensors[inference][tensor].address, data)
            work.written = max(work.written, len(memory.tensors))

    async def _start(self, segment: Segment) -> None:
        state, program = self._state, segment.program
        silence = 2 * longest_silence(program.instructions, state.config)
        watchdog = max(state.settings.watchdog_cycles, silence) if state.settings.watchdog_cycles else 0
        await self._npu.start(
            program.code_address, contexts=segment.contexts, code=program.code_window, watchdog_cycles=watchdog
        )
        state.now = await self._bus.present_cycle()
        for work in segment.works.values():
            work.result.status = Status.RUNNING
            work.result.started = state.now if work.result.started is None else work.result.started
        state.add_event("started", "", f"{len(program.instructions)} instructions", jobs=list(segment.works))

    async def _follow(self, segment: Segment) -> StreamState:
        state, begun, pausing = self._state, self._state.now, False
        seen = {name: _Seen() for name in segment.program.jobs}
        while True:
            following = await self._events(segment)
            await self._tracker.check(segment)
            if state.changed and not pausing and state.settings.preemption is Preemption.BUNDLE:
                pausing = True
                await self._npu.pause()
            cycles = [
                cycle - state.now for cycle in (following, self._tracker.next_check(segment)) if cycle is not None
            ]
            raised = await self._bus.interrupt_within(max(1, min([*cycles, state.settings.poll_cycles])))
            state.now = await self._bus.present_cycle()
            if raised:
                stream = await self._npu.wait(1)
                await self._collect(segment, stream, seen)
                if stream.phase is not Phase.RUNNING:
                    return stream
            elif state.now - begun > state.settings.timeout_cycles:
                return StreamState(Phase.FAILED, error=ErrorCode.WATCHDOG)

    async def _collect(self, segment: Segment, stream: StreamState, seen: dict[str, _Seen]) -> None:
        """Reads what has ended since the last time, and acts on faults."""
        for name, memory in segment.program.jobs.items():
            work, context, known = segment.works[name], stream.contexts[memory.context], seen[name]
            ended = segment.finishing(name)[known.finished : context.finished]
            known.finished = context.finished
            if ended or stream.phase is not Phase.RUNNING:
                await self._count(segment, work, known)
            for inference in ended:
                if not work.over:
                    await self._take_outputs(segment, work, inference)
            if context.failed and not known.failed:
                known.failed = True
                if not work.over:
                    self._desk.context_failed(segment, work, context)

    async def _count(self, segment: Segment, work: Work, known: _Seen) -> None:
        """Adds what was counted since the last time to the inference in progress."""
        wanted = watched(work)
        if not wanted:
            return
        numbers = {task.operation: number for task, number in segment.program.numbers.items() if task.job == work.name}
        numbers = {name: number for name, number in numbers.items() if name in wanted}
        names = [name for name in COUNT_NAMES if any(name in each for each in wanted.values())]
        found = await self._npu.operation_counts(set(numbers.values()), names)
        for name, number in numbers.items():
            total, before = found[number], known.counts.get(name, Counts())
            known.counts[name] = total
            work.counts[name] = work.counts.get(name, Counts()) + _since(total, before)

    async def _take_outputs(self, segment: Segment, work: Work, inference: int) -> None:
        state, memory = self._state, segment.program.jobs[work.name]
        tensors, outputs = memory.tensors[inference], {}
        for name in memory.outputs:
            data = await self._bus.read_memory(tensors[name].address, tensors[name].size)
            outputs[name] = tensors[name].unpack(data, state.config)
        sample, result = work.samples[inference], work.result
        result.outputs[sample], result.completions[sample] = outputs, state.now
        work.collected.add(inference)
        state.add_event("finished", work.request.name, f"inference {sample}", inference=sample)
        counts, work.counts = work.counts, {}
        self._desk.counted(work, inference, counts)
        if all(each is not None for each in result.outputs):
            state.end(result, Status.DONE)


def _since(total: Counts, before: Counts) -> Counts:
    """What was counted between two looks; of overflows, which lanes have any."""
    numbers = {name: getattr(total, name) - getattr(before, name) for name in COUNT_NAMES if name != "overflow"}
    return Counts(**numbers, overflow=total.overflow & ~before.overflow)
