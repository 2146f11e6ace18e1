"""A stream on the models: what it does by the stream model, and when by the cycle model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tessera.firmware.driver import Phase
from tessera.rtl.isa import INSTRUCTION_BYTES, Bundle, ErrorCode, Load, Select, Store, Unit
from tessera.rtl.traffic import MOST_SECTIONS
from tessera.sim.adaptation import Selection
from tessera.sim.contexts import Context, ContextState
from tessera.sim.counts import Counts
from tessera.sim.cycles import Memory, predict
from tessera.sim.faults import Scan
from tessera.sim.stream import StreamError, StreamModel, StreamStopped
from tessera.sim.transfers import row_bytes

NEVER = 1 << 62
"""Later than any cycle."""


@dataclass(frozen=True)
class Stop:
    """Why and when a stream stops.

    Attributes
    ----------
    cycle
        Cycles since its start.
    phase
        What it is then.
    instructions
        Instructions that it has executed.
    error, error_index
        As the registers of these names.
    """

    cycle: int
    phase: Phase
    instructions: int
    error: ErrorCode = ErrorCode.NONE
    error_index: int = 0


class ModelStream:
    """A stream from its start on.

    Instructions take effect in the order of the stream, as soon as one of them has ended by the cycle model; what a
    context tells the host shows when the instruction that is the cause has ended.

    Parameters
    ----------
    model
        The machine's memories, which the stream works on.
    scan
        The stream, and its faults.
    contexts
        The contexts by their numbers.
    memory
        The DRAM, for the times.
    watchdog
        Cycles without progress after which the machine stops it; 0 for never.

    Attributes
    ----------
    instructions
        The stream.
    stop
        Why and when it stops, as far as that is known.
    read_bytes, written_bytes
        What its transfers have moved so far.
    """

    def __init__(self, model: StreamModel, scan: Scan, contexts: Mapping[int, Context], memory: Memory, watchdog: int):
        self.instructions = scan.instructions
        self._scan = scan
        self._model, self._watchdog = model, watchdog
        times = predict(self.instructions, model.config, memory)
        self._begins, self._ends = times.start.tolist(), times.end.tolist()
        self._set_order()
        self.stop = Stop(times.total, Phase.DONE, len(self.instructions))
        if scan.faults:
            fault = scan.faults[0]
            known = fault.step < len(self.instructions)
            cycle = self._ends[fault.step] if known else times.total + 1
            self.stop = Stop(cycle, Phase.FAILED, fault.step, fault.code, fault.index)
        model.begin(contexts)
        self._executed = 0
        self._states: list[list[tuple[int, ContextState]]] = [[(0, state)] for state in model.context_states]
        self.read_bytes = self.written_bytes = 0

    def _set_order(self) -> None:
        """For every end, in rising order, the last instruction that has ended by then."""
        order = sorted(range(len(self._ends)), key=lambda index: self._ends[index])
        self._sorted_ends = [self._ends[index] for index in order]
        self._last_ended = list(accumulate(order, max))

    def advance(self, cycle: int) -> None:
        """Executes what has ended by a cycle, or comes before that in the stream."""
        position = bisect_right(self._sorted_ends, min(cycle, self.stop.cycle))
        ended = self._last_ended[position - 1] + 1 if position else 0
        if cycle >= self.stop.cycle:
            ended = self.stop.instructions
        while self._executed < min(ended, self.stop.instructions):
            self._execute(self._executed)
            self._executed += 1
        if cycle >= self.stop.cycle:
            self._model.stop()

    def _execute(self, index: int) -> None:
        instruction, end = self.instructions[index], self._ends[index]
        before = list(self._model.context_states)
        try:
            self._model.step(instruction, self._scan.indices[index])
        except StreamStopped as stop:
            self.stop = Stop(end, Phase.FAILED, index, stop.code, self._scan.indices[index])
            return
        except (StreamError, IndexError):
            # What a unit waits for does not come.
            self._hang(end, index)
            return
        if isinstance(instruction, Load | Store):
            self._note_transfer(instruction, end, before[instruction.context])

    def _note_transfer(self, transfer: Load | Store, end: int, before: ContextState) -> None:
        state = self._model.context_states[transfer.context]
        if state != before:
            self._states[transfer.context].append((end, state))
        if not state.failed:
            moved = transfer.planes * transfer.rows * row_bytes(transfer, self._model.config)
            self.read_bytes += moved * isinstance(transfer, Load)
            self.written_bytes += moved * isinstance(transfer, Store)

    def pause(self, cycle: int) -> None:
        """The host asks for a pause."""
        if cycle >= self.stop.cycle or self.stop.phase is Phase.PAUSED:
            return
        for index, instruction in enumerate(self.instructions[: self.stop.instructions]):
            if isinstance(instruction, Bundle) and self._begins[index] > cycle:
                end = max([self._begins[index], *self._ends[:index]]) + 1
                if end < self.stop.cycle:
                    self.stop = Stop(end, Phase.PAUSED, index + 1)
                return

    def hang(self, cycle: int) -> None:
        """Nothing is completed any more from a cycle on."""
        if cycle < self.stop.cycle:
            index = next((index for index, end in enumerate(self._ends) if end > cycle), len(self._ends) - 1)
            self._hang(cycle, index)

    def _hang(self, cycle: int, index: int) -> None:
        fires = cycle + self._watchdog if self._watchdog else NEVER
        position = self._scan.indices[index] if self.instructions else 0
        self.stop = Stop(fires, Phase.FAILED, min(index, self._executed), ErrorCode.WATCHDOG, position)
        self._forget_ends(cycle)

    def _forget_ends(self, cycle: int) -> None:
        """No instruction ends after a cycle."""
        self._ends = [end if end <= cycle else NEVER for end in self._ends]
        self._set_order()

    def next_event(self, cycle: int) -> int:
        """The next cycle in which the host may learn something."""
        position = bisect_right(self._sorted_ends, cycle)
        following = self._sorted_ends[position] if position < len(self._sorted_ends) else NEVER
        return min(following, self.stop.cycle) if cycle < self.stop.cycle else NEVER

    def phase(self, cycle: int) -> Phase:
        """What it is in a cycle."""
        return self.stop.phase if cycle >= self.stop.cycle else Phase.RUNNING

    def executed(self, cycle: int) -> int:
        """Instructions that have been handed out by a cycle."""
        if cycle >= self.stop.cycle:
            return self.stop.instructions
        return sum(begin <= cycle for begin in self._begins)

    def position(self, cycle: int) -> int:
        """The index behind that of the instruction that was handed out last by a cycle."""
        executed = self.executed(cycle)
        return self._scan.indices[executed - 1] + 1 if executed else 0

    def selections(self, cycle: int) -> list[Selection]:
        """The depths that were selected by a cycle, in the section with the most bandwidth."""
        executed = zip(self.instructions, self._begins, strict=True)
        selects = [(begin, each.operation) for each, begin in executed if isinstance(each, Select)]
        return [
            Selection(begin, operation, depth, MOST_SECTIONS - 1)
            for (begin, operation), depth in zip(selects, self._scan.depths, strict=True)
            if begin <= min(cycle, self.stop.cycle)
        ]

    def bundle(self, cycle: int) -> int:
        """Index of the last bundle that it has begun, or at which it was paused."""
        seen = zip(self.instructions[: self.stop.instructions], self._begins)
        return max((each.index for each, begin in seen if isinstance(each, Bundle) and begin <= cycle), default=0)

    def context(self, number: int, cycle: int) -> ContextState:
        """What has become of a context by a cycle."""
        return [state for end, state in self._states[number] if end <= cycle][-1]

    def counts(self) -> Sequence[Counts]:
        """What was counted so far, by operation."""
        return self._model.operation_counts

    def completions(self, cycle: int) -> list[tuple[int, int]]:
        """(cycle, mask of the units that completed an instruction), rising, up to a cycle."""
        masks: dict[int, int] = {}
        last = dict.fromkeys(Unit, 0)
        for index, instruction in enumerate(self.instructions[: self._executed]):
            for unit in instruction.workers():
                last[unit] = max(self._ends[index], last[unit] + 1)
                masks[last[unit]] = masks.get(last[unit], 0) | 1 << unit
        return sorted((end, mask) for end, mask in masks.items() if end <= cycle)

    def busy(self, unit: Unit) -> int:
        """Cycles in which a unit has worked on what was executed."""
        total = until = 0
        for instruction, begin, end in zip(self.instructions[: self._executed], self._begins, self._ends):
            if unit in instruction.workers() and end < NEVER:
                total += max(0, end - max(begin, until))
                until = max(until, end)
        return total

    @property
    def code_bytes(self) -> int:
        """Bytes of the instructions that were executed."""
        return self._executed * INSTRUCTION_BYTES
