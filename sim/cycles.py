"""The cycle model: predicts how long a stream takes, and when each instruction works.

Times are computed in stream order, because nearly all that delays an instruction comes earlier in the stream:
its place in the in-order dispatch, room in its unit's queue, the instructions it waits for, its tile's lane
programs, and the post-processing that frees the accumulators. Only the traffic on the memory's bus does not;
that is taken from an earlier pass.

What is modelled: instruction fetch and dispatch, queues, waits, the lanes' steps, the two accumulator
memories, both post-processing slices with their window readers, and the DMA with DRAM latency and bandwidth,
which fetch, loads and stores share. What is not: conflicts on the ports of the activation banks.

A stream of segments is given as it is executed (`tessera.sim.segments.linear`). Its ``Select`` instructions are taken
to choose what the fetch has guessed, that is: what would have been chosen when they arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.isa import (
    INSTRUCTION_BYTES,
    PPU_SLICES,
    Advance,
    Bundle,
    End,
    Fence,
    Instruction,
    LaneProgram,
    Load,
    LoadTarget,
    PostProcess,
    Select,
    Source,
    Store,
    Unit,
    Wait,
    Window,
    lanes_of_mask,
    units_of_mask,
)
from tessera.sim.footprint import step_words, weight_steps
from tessera.sim.ordering import awaited
from tessera.sim.transfers import element_bytes, row_bytes

INSTRUCTIONS_PER_BURST = AXI_BURST_BYTES // INSTRUCTION_BYTES

MAX_PASSES = 16
"""Passes over a stream, until the traffic on the bus, in which fetch, loads and stores compete, stays the same."""

CONVERGED = 1e-4
"""Passes also end when the duration changes by no more than this fraction, which is far below the model's error."""


@dataclass(frozen=True)
class Timing:
    """Cycles of the RTL's pipelines; everything else follows from instruction and configuration."""

    fetch_request: int = 2
    """From the start to the first request of the instruction fetch at the memory."""
    fetch_bursts: int = 3
    """Bursts that the instruction fetch holds or has asked for."""
    fetch_deliver: int = 3
    """From an instruction's last beat to its push into the queues."""
    fetch_turn: int = 1
    """From the last beat of a ``Select`` to the start of the fetch at the next segment."""
    queue: int = 2
    """From the push of an instruction to its transfer to the unit."""
    in_flight: int = 8
    """Instructions that a unit has taken and not completed."""
    token: int = 3
    """From a completion to the transfer of an instruction that waited for it."""
    lane_start: int = 1
    """From a lane program's transfer to its first word, besides ``rows`` for its first weight block."""
    lane_finish: int = 3
    """From a tile's last word to its sums being ready, besides the stages of the adder trees."""
    adders_per_stage: int = 2
    """Levels of adders, the one that joins both trees included, per pipeline stage."""
    drain: int = 3
    """From a post-process's transfer to its first pixel."""
    drain_ready: int = 2
    """From a tile's sums being ready to its first pixel."""
    post: int = 7
    """From a pixel's sums to its write, without the lookup in a table."""
    lookup: int = 3
    """More than that in a machine that has tables."""
    parameters: int = 1
    """From a post-process's transfer to its first pixel, besides one per beat of its parameters."""
    parameters_free: int = 3
    """From the last pixel of a post-process to the next one's parameters being asked for."""
    residual: int = 5
    """From the last write of the post-process before to the first residual operand."""
    window: int = 6
    """From a window's transfer to the first pixel of its post-process, besides a cycle per position."""
    window_ahead: int = 4
    """Positions that a window reader reads ahead of its post-process."""
    load_request: int = 3
    """From a load's transfer to its first request at the memory."""
    load_write: int = 3
    """From a beat to its write, for weights and parameters."""
    load_convert: int = 3
    """More than that for activations."""
    store_convert: int = 3
    """Of that the conversion; a change between integers and floating point waits for the last store's values."""
    store_floats: int = 1
    """More than either for floating point."""
    load_outstanding: int = 128
    """Beats that may be under way."""
    store: int = 6
    """From a store's transfer to its first beat."""
    store_finish: int = 2
    """From a store's last beat to its completion, besides the memory's latency."""
    end: int = 1
    """From the last completion to the end of the stream, of a fence, or of a wait of the sequencer."""


@dataclass(frozen=True)
class Memory:
    """The DRAM that is assumed.

    Attributes
    ----------
    latency
        Cycles from a request to its first beat, and from the last beat of a write to its response.
    bytes_per_cycle
        Bandwidth; the bus width if ``None``.
    """

    latency: int = 40
    bytes_per_cycle: float | None = None


DEFAULT_MEMORY = Memory()
"""The DRAM of the co-simulation: as fast as the bus."""


@dataclass(frozen=True)
class Prediction:
    """A stream's predicted times, in cycles since the start.

    Attributes
    ----------
    total
        Duration of the stream.
    start, end
        For each instruction when it began to work (a wait: when it was reached) and when it had finished.
    busy
        For each unit the cycles in which it worked.
    """

    total: int
    start: np.ndarray
    end: np.ndarray
    busy: dict[Unit, int]


def predict(
    stream: Sequence[Instruction],
    config: NpuConfig,
    memory: Memory = DEFAULT_MEMORY,
    *,
    timing: Timing = Timing(),
    dispatch: bool = True,
    passes: int = MAX_PASSES,
) -> Prediction:
    """Predicts the duration of a stream.

    Parameters
    ----------
    stream
        The instructions that are executed, one after the other; every wait refers to earlier ones.
    config, memory, timing
        The machine, its DRAM and its pipelines.
    dispatch
        False: every unit is given its instructions without delay, as if fetch were free and queues unlimited.
        Shows when instructions could work at the earliest.
    passes
        Passes at most, see ``MAX_PASSES``.
    """
    traffic, total, change = _Traffic(), 0, 0
    for _ in range(passes if dispatch else 1):
        machine = _Machine(config, memory, timing, _segment_sizes(stream) if dispatch else None, traffic)
        times = [machine.execute(instruction) for instruction in stream]
        before, total = total, max((end for _, end in times), default=0)
        if machine.traffic == traffic or abs(total - before) <= CONVERGED * total:
            break
        # Where the bus limits, what is late in one pass is served early in the next; the middle ends that.
        swings = change * (total - before) < 0
        traffic, change = traffic.middle(machine.traffic) if swings else machine.traffic, total - before
    start, end = np.array(times, dtype=np.int64).reshape(-1, 2).T
    return Prediction(total, start, end, machine.busy)


def _segment_sizes(stream: Sequence[Instruction]) -> list[int]:
    """The numbers of instructions of the segments that a stream consists of."""
    ends = [index + 1 for index, instruction in enumerate(stream) if isinstance(instruction, Select)]
    return [last - first for first, last in pairwise([0, *ends, len(stream)])]


def longest_silence(stream: Sequence[Instruction], config: NpuConfig) -> int:
    """Cycles for which a stream may go without a completion or a beat once its loads have come: those of its longest
    lane program or window. The watchdog must wait longer."""
    return max((_silent_cycles(instruction, config) for instruction in stream), default=0)


def _silent_cycles(instruction: Instruction, config: NpuConfig) -> int:
    if isinstance(instruction, LaneProgram):
        return weight_steps(instruction) * max(step_words(instruction), config.rows)
    if isinstance(instruction, Window):
        pixels = instruction.tile_height * instruction.tile_width
        return pixels * instruction.kernel_height * instruction.kernel_width
    return 0


def transfer_cycles(transfer: Load | Store, config: NpuConfig) -> int:
    """Cycles that a transfer's data take on a memory as fast as the bus: one per beat, and at least one per beat on the
    chip of each element, of which several may be in one beat of the memory."""
    return round(sum(cycles for _, cycles in _bursts(transfer, config, 1)))


def _bursts(transfer: Load | Store, config: NpuConfig, beat_cycles: float) -> Iterator[tuple[int, float]]:
    """The bursts of a transfer: beats, and the cycles that their data take, of which a beat takes the memory
    ``beat_cycles``."""
    row_beats = -(-row_bytes(transfer, config) // config.beat_bytes)
    elements = transfer.columns * -(-element_bytes(transfer, config) // config.beat_bytes)
    pace = max(beat_cycles, elements / row_beats)
    for _ in range(transfer.rows * transfer.planes):
        for first in range(0, row_beats, config.burst_beats):
            beats = min(config.burst_beats, row_beats - first)
            yield beats, beats * pace


Burst = tuple[float, float]
"""When a burst was asked for, and the cycles that its data take."""


@dataclass
class _Traffic:
    """What shares the memory's data bus.

    Attributes
    ----------
    fetches, loads
        Read bursts of the instruction fetch and of the loads.
    stores
        (first cycle, cycles) of the data of each store.
    """

    fetches: list[Burst] = field(default_factory=list)
    loads: list[Burst] = field(default_factory=list)
    stores: list[Burst] = field(default_factory=list)

    def middle(self, later: _Traffic) -> _Traffic:
        """The traffic half way to that of a later pass."""
        return _Traffic(
            _middle(self.fetches, later.fetches), _middle(self.loads, later.loads), _middle(self.stores, later.stores)
        )


def _middle(earlier: Sequence[Burst], later: Sequence[Burst]) -> list[Burst]:
    """The later bursts, which are the earlier ones and perhaps more, at the mean of both times where there are two."""
    both = [((before + after) / 2, cycles) for (before, _), (after, cycles) in zip(earlier, later, strict=False)]
    return [*both, *later[len(both) :]]


class _ReadBus:
    """The memory's data bus as one of its readers sees it.

    Bursts are served in the order of their requests, and take turns with the data of stores.

    What the ``others`` read and the stores write is taken from an earlier pass, because a burst also waits for what
    stands behind it in the stream.
    """

    def __init__(self, latency: int, others: Sequence[Burst], stores: Sequence[Burst]):
        self.free = 0.0
        self.bursts: list[Burst] = []
        self._latency = latency
        self._others = deque(sorted(others))
        self._stores = deque(sorted(stores))

    def serve(self, requested: float, cycles: float) -> float:
        """Serves a burst; returns when its data begin."""
        self.bursts.append((requested, cycles))
        while self._others and self._others[0][0] <= requested:
            asked, length = self._others.popleft()
            self.free = max(self.free, asked + self._latency) + length
        start = max(requested + self._latency, self.free)
        self.free = start + cycles
        while self._stores and self._stores[0][0] < self.free:
            begin, length = self._stores.popleft()
            turns = min(length, cycles, max(0.0, begin + length - start))
            if begin <= start:
                start += turns
            self.free += turns
            if turns == cycles:
                self._stores.appendleft((begin + turns, length - turns))
                break
        return start


class _Fetch:
    """The instruction fetch of a segment: asks for a burst whenever it has room, until the last instruction has
    arrived; of a ``bounded`` one, whose length is known, for no more than it needs."""

    def __init__(
        self,
        bus: _ReadBus,
        timing: Timing,
        instruction_cycles: float,
        instructions: int,
        *,
        start: float = 0,
        bounded: bool = False,
    ):
        self.bus = bus
        self._bounded = bounded
        self._timing = timing
        self._instructions = instructions
        self._cycles = instruction_cycles
        self._begin: list[float] = []
        self._dispatched = 0
        for burst in range(timing.fetch_bursts):
            self._request(start + timing.fetch_request + burst)

    def available(self, index: int) -> float:
        """When an instruction can be pushed at the earliest."""
        return self.arrival(index) + self._timing.fetch_deliver

    def arrival(self, index: int) -> float:
        """When an instruction's last beat comes."""
        begin = self._begin[index // INSTRUCTIONS_PER_BURST]
        return begin + (index % INSTRUCTIONS_PER_BURST + 1) * self._cycles

    def dispatch(self, time: float) -> None:
        """The next instruction leaves, and the one after it is decoded, which makes room."""
        self._dispatched += 1
        if (self._dispatched + 1) % INSTRUCTIONS_PER_BURST == 0:
            self._request(time + 1)

    def _request(self, time: float) -> None:
        last = self._instructions - 1
        if last // INSTRUCTIONS_PER_BURST < len(self._begin) and (self._bounded or time >= self.available(last)):
            return
        left = self._instructions - len(self._begin) * INSTRUCTIONS_PER_BURST
        count = min(left, INSTRUCTIONS_PER_BURST) if self._bounded else INSTRUCTIONS_PER_BURST
        self._begin.append(self.bus.serve(time, count * self._cycles))


@dataclass
class _UnitState:
    """Progress of a unit.

    Attributes
    ----------
    transfers
        When its latest queue entries left the queue, as many as the queue and its head hold.
    ready
        When it can take the next instruction.
    free
        When it has done the work of the latest one, and the next may start to work.
    ends
        When its token counter has reached each count: when each of its instructions was completed.
    latest
        The counts that its latest instructions have brought, as many as may be under way.
    """

    transfers: deque[int]
    ready: int = 0
    free: int = 0
    ends: list[int] = field(default_factory=lambda: [0])
    latest: deque[int] = field(default_factory=lambda: deque(maxlen=Timing.in_flight))


class _Machine:
    """State of the machine after the instructions so far.

    ``segments`` are the numbers of instructions of the stream's segments, or ``None`` if fetch and dispatch take no
    time.
    """

    def __init__(
        self, config: NpuConfig, memory: Memory, timing: Timing, segments: Sequence[int] | None, traffic: _Traffic
    ):
        self.config = config
        self.timing = timing
        self.latency = memory.latency
        self.busy = dict.fromkeys(Unit, 0)
        self._units = [_UnitState(deque(maxlen=config.queue_depth + 1)) for _ in Unit]
        bytes_per_cycle = min(memory.bytes_per_cycle or config.beat_bytes, config.beat_bytes)
        self._beat_cycles = config.beat_bytes / bytes_per_cycle
        self._bus = _ReadBus(memory.latency, traffic.fetches, traffic.stores)
        self._fetches = traffic.fetches
        self._fetch = None
        self._instruction_cycles = INSTRUCTION_BYTES / bytes_per_cycle
        self._segments = deque(segments or ())
        if segments is not None:
            bus = _ReadBus(memory.latency, traffic.loads, traffic.stores)
            self._fetch = _Fetch(bus, timing, self._instruction_cycles, self._segments.popleft())
        self._stores: list[tuple[float, float]] = []
        self._converts_floats = {Unit.LOAD: False, Unit.STORE: False}
        self._index = 0
        self._pushed = 0
        self._tiles: list[deque[int]] = [deque() for _ in range(config.lanes)]
        self._released: list[deque[int]] = [deque([0, 0]) for _ in range(config.lanes)]
        self._open = [False] * config.lanes
        self._windows: list[deque[tuple[int, int, int]]] = [deque() for _ in range(PPU_SLICES)]
        self._requested = 0.0
        self._outstanding: deque[tuple[int, float]] = deque()
        adders = (config.rows - 1).bit_length() + 1
        self._lane_finish = timing.lane_finish + -(-adders // timing.adders_per_stage)

    @property
    def traffic(self) -> _Traffic:
        """What this pass has found to share the bus."""
        return _Traffic([] if self._fetch is None else self._fetch.bus.bursts, self._bus.bursts, self._stores)

    def execute(self, instruction: Instruction) -> tuple[int, int]:
        """Start and end of the next instruction."""
        pushed = self._push(instruction)
        if isinstance(instruction, Fence | End):
            self._pushed = max(pushed, *(state.ends[-1] for state in self._units)) + self.timing.end
            self._leave(self._pushed)
            return pushed, self._pushed
        if isinstance(instruction, Wait) and not instruction.targets:
            pushed = self._hold(instruction, pushed)
        self._leave(pushed)
        if isinstance(instruction, Select):
            self._turn()
        if isinstance(instruction, Bundle | Select):
            return pushed, pushed
        if isinstance(instruction, Advance):
            return self._advance(instruction, pushed)
        if isinstance(instruction, Wait):
            return self._wait(instruction, pushed)
        states = [self._units[unit] for unit in instruction.units()]
        taken = max(max(pushed + self.timing.queue, state.ready, self._room(state)) for state in states)
        for state in states:
            state.transfers.append(taken)
        start, end = self._work(instruction, taken)
        for unit, state in zip(instruction.units(), states, strict=True):
            state.latest.append(len(state.ends))
            state.ends.append(max(end, state.ends[-1]))
            self.busy[unit] += end - start
        return start, end

    def _push(self, instruction: Instruction) -> int:
        """When the sequencer hands an instruction to the queues."""
        if self._fetch is None:
            return 0
        queues = [self._units[unit].transfers for unit in instruction.units()]
        room = max((queue[0] for queue in queues if len(queue) == queue.maxlen), default=0)
        self._pushed = max(int(self._fetch.available(self._index)), self._pushed + 1, room)
        self._index += 1
        return self._pushed

    def _leave(self, time: int) -> None:
        """An instruction makes room for the fetch of another one."""
        if self._fetch is not None:
            self._fetch.dispatch(time)

    def _turn(self) -> None:
        """The fetch goes on at the next segment as soon as the ``Select`` has arrived."""
        if self._fetch is not None:
            start = self._fetch.arrival(self._index - 1) + self.timing.fetch_turn
            size = self._segments.popleft()
            self._fetch = _Fetch(
                self._fetch.bus, self.timing, self._instruction_cycles, size, start=start, bounded=True
            )
            self._index = 0

    def _room(self, state: _UnitState) -> int:
        """When a unit may hold one more instruction that it has not completed."""
        if len(state.latest) < self.timing.in_flight:
            return 0
        return state.ends[state.latest[0]] + 1

    def _advance(self, advance: Advance, pushed: int) -> tuple[int, int]:
        for unit, tokens in advance.tokens().items():
            state = self._units[unit]
            state.ready = max(state.ready, pushed + self.timing.queue) + 1
            state.transfers.append(state.ready - 1)
            state.ends += [state.ends[-1]] * tokens
        return pushed, pushed

    def _reached(self, wait: Wait) -> int:
        """When all is complete that a wait waits for."""
        given = [len(state.ends) - 1 for state in self._units]
        return max((self._units[unit].ends[count] for unit, count in awaited(wait, given)), default=0)

    def _hold(self, wait: Wait, pushed: int) -> int:
        """When a wait of the sequencer itself is over."""
        over = max(pushed, self._reached(wait) + self.timing.end)
        if self._fetch is not None:
            self._pushed = over
        return over

    def _wait(self, wait: Wait, pushed: int) -> tuple[int, int]:
        reached = self._reached(wait) + self.timing.token
        if not wait.targets:
            for state in self._units:
                state.ready = max(state.ready, pushed + self.timing.queue)
        for unit in units_of_mask(wait.targets):
            state = self._units[unit]
            state.ready = max(state.ready, reached, pushed + 1)
            state.transfers.append(state.ready)
        return pushed, max(reached, pushed)

    def _work(self, instruction: Instruction, taken: int) -> tuple[int, int]:
        """Start and end of an instruction that its units take at a time; updates their states."""
        if isinstance(instruction, LaneProgram):
            return self._lane(instruction, taken)
        if isinstance(instruction, PostProcess):
            return self._post(instruction, taken)
        if isinstance(instruction, Window):
            return self._window(instruction, taken)
        if isinstance(instruction, Load):
            return self._load(instruction, taken)
        if isinstance(instruction, Store):
            return self._store(instruction, taken)
        raise TypeError(f"no timing for {type(instruction).__name__}")

    def _lane(self, program: LaneProgram, taken: int) -> tuple[int, int]:
        """The lanes of a gang work side by side; the accumulators of all must be free when a tile begins."""
        lanes = lanes_of_mask(program.lanes)
        states = [self._units[Unit.lane(lane)] for lane in lanes]
        words = step_words(program)
        step = max(words, self.config.rows)
        start = taken + self.config.rows + self.timing.lane_start
        start = max(start, *(state.free for state in states))
        start = max(start, *(0 if self._open[lane] else self._released[lane].popleft() for lane in lanes))
        last_step = start + (weight_steps(program) - 1) * step
        for lane, state in zip(lanes, states, strict=True):
            state.free = last_step + step
            state.ready = max(taken + 1, last_step - 1)
            self._open[lane] = bool(program.partial)
            if not program.partial:
                self._tiles[lane].append(last_step + words + self._lane_finish)
        return start, last_step + words

    def _post(self, post: PostProcess, taken: int) -> tuple[int, int]:
        state = self._units[Unit.ppu(post.slice)]
        pixels = post.tile_height * post.tile_width
        parameters = self.timing.parameters + self.config.parameter_block_beats
        first = max(taken + self.timing.drain, max(taken, state.free + self.timing.parameters_free) + parameters)
        if post.residual:
            first = max(first, state.ends[-1] + self.timing.residual)
        if post.source is Source.WINDOW:
            first, last = self._read_windows(post.slice, first, pixels)
        else:
            lanes = lanes_of_mask(post.lanes)
            first = max(first, *(self._tiles[lane].popleft() + self.timing.drain_ready for lane in lanes))
            last = first + pixels - 1
            for lane in lanes:
                self._released[lane].append(last)
        state.free = last
        state.ready = max(taken + 1, state.ends[-1])
        return first, last + self.timing.post + (self.timing.lookup if self.config.tables else 0)

    def _read_windows(self, index: int, first: int, pixels: int) -> tuple[int, int]:
        """When the first and last result of a slice's window reader are taken, if the first can be at a time."""
        begin, finish, positions = self._windows[index].popleft()
        first = max(first, begin)
        paced = first + (pixels - 1) * positions - self.timing.window_ahead
        last = max(finish, first + pixels - 1, paced)
        window = self._units[Unit.window(index)]
        window.free = max(window.free, last - self.timing.window)
        for count in range(window.latest[-1], len(window.ends)):
            window.ends[count] = max(window.ends[count], last - 1)
        return first, last

    def _window(self, window: Window, taken: int) -> tuple[int, int]:
        state = self._units[Unit.window(window.slice)]
        positions = window.kernel_height * window.kernel_width
        start = max(taken, state.free)
        state.free = start + window.tile_height * window.tile_width * positions
        state.ready = max(taken + 1, start)
        begin, finish = start + self.timing.window + positions, state.free + self.timing.window
        self._windows[window.slice].append((begin, finish, positions))
        return start, finish

    def _load(self, load: Load, taken: int) -> tuple[int, int]:
        """The requests run ahead of the data, also into the next load, as far as the engine allows.

        The next load is taken when the last row is at its bursts.
        """
        state = self._units[Unit.LOAD]
        activations = load.target is LoadTarget.ACTIVATIONS
        changed = activations and self._converts_floats[Unit.LOAD] != load.memory_format.is_float
        if activations:
            self._converts_floats[Unit.LOAD] = load.memory_format.is_float
        requested = first = max(taken + self.timing.load_request, self._requested)
        bursts = list(_bursts(load, self.config, self._beat_cycles))
        if load.target is LoadTarget.TABLES:
            bursts = [(beats, max(cycles, beats * self.config.beat_entries)) for beats, cycles in bursts]
        last_row = len(bursts) - len(bursts) // (load.rows * load.planes)
        for index, (beats, cycles) in enumerate(bursts):
            if index == last_row:
                state.ready = max(taken + 2, int(requested) - self.timing.load_request + 1)
            while sum(count for count, _ in self._outstanding) + beats > self.timing.load_outstanding:
                requested = max(requested, self._outstanding.popleft()[1])
            if not activations or changed:
                self._bus.free = max(self._bus.free, state.ends[-1] - self.timing.load_write)
            self._bus.serve(requested, cycles)
            self._outstanding.append((beats, self._bus.free))
            requested += 1
        self._requested = requested
        end = int(self._bus.free) + self.timing.load_write
        if activations:
            end += self.timing.load_convert
        return int(first), max(end, state.ends[-1] + 1)

    def _store(self, store: Store, taken: int) -> tuple[int, int]:
        """Reads and writes share the memory's bandwidth: while reads are under way, they take turns."""
        state = self._units[Unit.STORE]
        bursts = list(_bursts(store, self.config, self._beat_cycles))
        cycles = sum(cycles for _, cycles in bursts)
        more = self.timing.store_floats if store.memory_format.is_float else 0
        drained = state.free
        if self._converts_floats[Unit.STORE] != store.memory_format.is_float:
            drained += self.timing.store_convert + more
        self._converts_floats[Unit.STORE] = store.memory_format.is_float
        start = max(taken + self.timing.store + more, drained)
        moved = sum(beats for beats, _ in bursts) * self._beat_cycles
        fetched = sum(length for asked, length in self._fetches if start <= asked + self.latency < start + cycles)
        state.free = int(start + cycles + max(0.0, min(moved, self._bus.free - start), min(moved, fetched)))
        self._stores.append((start, moved))
        state.ready = max(taken + 1, state.free - self.timing.store)
        return start, state.free + self.latency + self.timing.store_finish
