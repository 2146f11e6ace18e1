"""An NPU without a simulator: a bus whose registers, memory and time are those of the models.

The bits are the stream model's and the times the cycle model's, so that the runtime can be tried and tested in
seconds. What only hardware shows is not modelled: stalls, second masters, and AXI itself. Depths are chosen as the
registers say at the start of a stream, with all of the bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tessera.firmware.driver import Phase
from tessera.firmware.modelled.adaptation import depth_settings, selection_register
from tessera.firmware.modelled.monitor import ModelMonitor
from tessera.firmware.modelled.stream import NEVER, ModelStream
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.control.register_map import RegisterInfo, register_map
from tessera.rtl.isa import CONTEXTS, ErrorCode, Load, Store, Unit
from tessera.sim.contexts import Context, ContextState
from tessera.sim.counts import COUNT_NAMES, Counts
from tessera.sim.cycles import DEFAULT_MEMORY, Memory
from tessera.sim.faults import scan
from tessera.sim.stream import StreamModel, StreamStopped
from tessera.sim.transfers import row_bytes
from tessera.sim.windows import MemoryWindow, MemoryWindows

REGISTER_CYCLES = 4
"""Cycles that an access to a register takes."""

_PREFIX = "stream[0]."


class ModelBusError(RuntimeError):
    """What the host asked for cannot be done; the message says why."""


class _FaultyModel(StreamModel):
    """A stream model of which a range of the DRAM is answered with bus errors."""

    error_range = (0, 0)

    def _load(self, load: Load) -> None:
        self._check_bus(load, ErrorCode.READ_ERROR)
        super()._load(load)

    def _store(self, store: Store) -> None:
        self._check_bus(store, ErrorCode.WRITE_ERROR)
        super()._store(store)

    def _check_bus(self, transfer: Load | Store, code: ErrorCode) -> None:
        base, limit = self.error_range
        length = row_bytes(transfer, self.config)
        for plane in range(transfer.planes):
            for row in range(transfer.rows):
                begin = transfer.address + plane * transfer.plane_pitch + row * transfer.row_pitch
                if begin < limit and base < begin + length:
                    raise StreamStopped(code, f"the memory answers with an error at {max(begin, base):#x}")


class ModelBus:
    """A `tessera.firmware.bus.TimedBus` to a modelled NPU, which can be traced, too.

    Parameters
    ----------
    config
        The NPU.
    memory_bytes
        Size of its DRAM.
    memory
        Latency and bandwidth of it.

    Attributes
    ----------
    model
        The memories.
    """

    def __init__(self, config: NpuConfig, memory_bytes: int = 1 << 24, memory: Memory = DEFAULT_MEMORY):
        self.model = _FaultyModel(config, memory_bytes)
        self._memory = memory
        self._now = self._started = 0
        self._stream: ModelStream | None = None
        self._words: dict[int, int] = {}
        self._names = {word: (info, index) for info in register_map().values() for index, word in enumerate(info.words)}
        self._pending = 0  # bits of the interrupt status
        self._shown: tuple[Phase, list[ContextState]] = (Phase.IDLE, [ContextState()] * CONTEXTS)
        self._trace: list[tuple[int, int]] | None = None
        self._traced_from = 0
        self._silent = False
        self._monitor = ModelMonitor(config.beat_bytes)

    # ------------------------------------------------------------------------------------------------- what users set

    def configure_memory(
        self,
        *,
        memory: Memory | None = None,
        error_range: tuple[int, int] | None = None,
        silent: bool | None = None,
    ) -> None:
        """Changes the DRAM; what is None stays as it is.

        Parameters
        ----------
        memory
            Latency and bandwidth from the next start of a stream on.
        error_range
            First address, and first address behind, of a range that is answered with an error; ``(0, 0)`` for none.
        silent
            True: it does not answer, so that streams hang, for good even if it answers later.
        """
        if memory is not None:
            self._memory = memory
        if error_range is not None:
            self.model.error_range = error_range
        if silent is not None:
            self._silent = silent
            self._hang_if_silent()

    def _hang_if_silent(self) -> None:
        if self._silent and self._stream is not None:
            self._stream.hang(self._now - self._started)

    # ---------------------------------------------------------------------------------------------------------- time

    async def present_cycle(self) -> int:
        """Clock cycles since the bus was made."""
        return self._now

    async def wait_for_interrupt(self, timeout_cycles: int) -> int:
        """Waits until the interrupt is raised; returns the cycle.

        Raises
        ------
        ModelBusError
            It did not rise in time.
        """
        if not await self.interrupt_within(timeout_cycles):
            raise ModelBusError(f"the interrupt did not rise within {timeout_cycles} cycles")
        return self._now

    async def interrupt_within(self, cycles: int) -> bool:
        """Waits until the interrupt is raised, for at most so many cycles; whether it is raised."""
        deadline = self._now + cycles
        while not self._interrupt and self._now < deadline:
            following = NEVER
            if self._stream is not None:
                following = self._started + self._stream.next_event(self._now - self._started)
            self._advance(min(following, deadline))
        return self._interrupt

    def _advance(self, cycle: int) -> None:
        """Lets the time pass, and notes what raises the interrupt."""
        self._now = cycle
        stream = self._stream
        if stream is None:
            return
        here = cycle - self._started
        stream.advance(here)
        phase, contexts = self._shown
        shown = [stream.context(number, here) for number in range(CONTEXTS)]
        status = self._info("irq_status").fields
        for number, (before, after) in enumerate(zip(contexts, shown)):
            if after.failed and not before.failed:
                self._pending |= 1 << status["context_error"].low + number
            if after.finished != before.finished:
                self._pending |= 1 << status["context_finished"].low + number
        if phase is Phase.RUNNING and stream.phase(here) is not phase:
            self._pending |= status[stream.phase(here).value].mask
        self._shown = stream.phase(here), shown

    @property
    def _interrupt(self) -> bool:
        return bool(self._pending & self._value("irq_enable"))

    # ---------------------------------------------------------------------------------------------------------- trace

    async def start_trace(self) -> None:
        """Begins to record which units complete an instruction, and when."""
        self._trace, self._traced_from = [], self._now

    async def stop_trace(self) -> list[tuple[int, int]]:
        """Ends the recording; (cycle, mask of units), rising."""
        self._keep_trace()
        trace, self._trace = self._trace or [], None
        return trace

    def _keep_trace(self) -> None:
        """Adds what the stream has completed."""
        if self._trace is not None and self._stream is not None:
            done = self._stream.completions(self._now - self._started)
            found = ((self._started + cycle, mask) for cycle, mask in done)
            self._trace += [(cycle, mask) for cycle, mask in found if cycle > self._traced_from]

    # --------------------------------------------------------------------------------------------------------- memory

    async def write_memory(self, address: int, data: bytes) -> None:
        """Writes bytes to the DRAM."""
        self._check_range(address, len(data))
        self.model.write_memory(address, data)

    async def read_memory(self, address: int, length: int) -> bytes:
        """Reads bytes from the DRAM."""
        self._check_range(address, length)
        return self.model.read_memory(address, length)

    def _check_range(self, address: int, length: int) -> None:
        if address < 0 or address + length > len(self.model.dram):
            raise ModelBusError(
                f"{length} bytes at address {address:#x} are not within the DRAM of {len(self.model.dram)} bytes; give "
                "the bus more memory_bytes"
            )

    # ------------------------------------------------------------------------------------------------------ registers

    async def write_register(self, address: int, value: int) -> None:
        """Writes a 32-bit register."""
        self._advance(self._now + REGISTER_CYCLES)
        info, _ = self._named(address)
        name = info.name.removeprefix(_PREFIX)
        if name == "control":
            self._control(info, value)
        elif name == "irq_status":
            self._pending &= ~value
        else:
            self._words[address] = value
            if name.partition(".")[0] in ModelMonitor.BLOCKS:
                self._monitor.write(name, value, self._now, self._readings()["cycles"]("cycles"), self._value)

    async def read_register(self, address: int) -> int:
        """Reads a 32-bit register."""
        self._advance(self._now + REGISTER_CYCLES)
        info, word = self._named(address)
        name = info.name.removeprefix(_PREFIX)
        known = self._readings().get(name.partition("[")[0].partition(".")[0])
        value = self._value(name) if known is None else known(name)
        return value >> 32 * word & 0xFFFF_FFFF

    def _named(self, address: int) -> tuple[RegisterInfo, int]:
        if address not in self._names:
            raise ModelBusError(f"there is no register at address {address:#05x}")
        return self._names[address]

    @staticmethod
    def _info(name: str) -> RegisterInfo:
        return register_map()[_PREFIX + name]

    def _value(self, name: str) -> int:
        """What was written to a register, or its value after reset."""
        info = self._info(name) if _PREFIX + name in register_map() else register_map()[name]
        reset = sum((field.reset or 0) << field.low for field in info.fields.values())
        words = [self._words.get(word, reset >> 32 * index & 0xFFFF_FFFF) for index, word in enumerate(info.words)]
        return sum(word << 32 * index for index, word in enumerate(words))

    def _control(self, info: RegisterInfo, value: int) -> None:
        fields = {name: field.extract(value) for name, field in info.fields.items()}
        running = self._shown[0] is Phase.RUNNING
        if fields["reset"]:
            self._keep_trace()
            self._stream, self._shown = None, (Phase.IDLE, [ContextState()] * CONTEXTS)
        elif fields["start"] and not running:
            self._start()
        elif fields["pause"] and running and self._stream is not None:
            self._stream.pause(self._now - self._started)

    def _start(self) -> None:
        self._keep_trace()
        contexts = {number: self._context(number) for number in range(CONTEXTS)}
        windows = MemoryWindows(code=self._window("code_window"))
        address, decisions = self._value("address"), depth_settings(self._value).decisions()
        found = scan(self.model.read_memory, address, self.model.config, windows, contexts, decisions)
        watchdog = self._value("watchdog")
        self._stream = ModelStream(self.model, found, contexts, self._memory, watchdog)
        self._started, self._pending = self._now, 0
        self._shown = Phase.RUNNING, [ContextState()] * CONTEXTS
        self._hang_if_silent()

    def _context(self, number: int) -> Context:
        name = f"context[{number}]"
        load, store = self._window(f"{name}.load_window"), self._window(f"{name}.store_window")
        return Context(load, store, bool(self._value(f"{name}.mode")))

    def _window(self, name: str) -> MemoryWindow:
        limit = self._value(f"{name}.limit") // AXI_BURST_BYTES * AXI_BURST_BYTES
        return MemoryWindow(self._value(f"{name}.base"), limit)

    def _readings(self) -> dict[str, Callable[[str], int]]:
        """How registers that are not just remembered are read, by the beginnings of their names."""
        readings: dict[str, Callable[[str], int]] = {
            "irq_status": lambda _: self._pending,
            "status": lambda _: self._status(),
            "context": self._context_register,
            "operation": self._operation_register,
            **dict.fromkeys(ModelMonitor.BLOCKS, lambda name: self._monitor.read(name, self._value)),
            "adaptation": self._adaptation_register,
            "busy": lambda name: 0 if self._stream is None else self._stream.busy(Unit(int(name[len("busy[") : -1]))),
        }
        stream, here = self._stream, self._now - self._started
        config = self.model.config
        beat, pixels = config.beat_bytes, config.accumulator_pixels
        readings["tile"] = lambda name: register_map()[name].encode(accumulator_pixels=pixels, beat_bytes=beat)
        values: dict[str, Any] = dict.fromkeys(
            ("error", "error_index", "cycles", "instructions", "bundle", "read_beats", "write_beats"), 0
        )
        if stream is not None:
            stopped = here >= stream.stop.cycle
            values |= {
                "error": int(stream.stop.error) if stopped else 0,
                "error_index": stream.stop.error_index if stopped else 0,
                "cycles": min(here, stream.stop.cycle),
                "instructions": stream.position(here),
                "bundle": stream.bundle(here),
                "read_beats": (stream.read_bytes + stream.code_bytes) // beat,
                "write_beats": stream.written_bytes // beat,
            }
        total = sum(self._counts(), Counts())
        values |= {name: getattr(total, name) for name in COUNT_NAMES}
        return readings | {name: lambda _, value=value: value for name, value in values.items()}

    def _status(self) -> int:
        fields, phase = self._info("status").fields, self._shown[0]
        names = {Phase.IDLE: "", Phase.RUNNING: "running"}
        name = names.get(phase, phase.value)
        return fields[name].mask if name else 0

    def _adaptation_register(self, name: str) -> int:
        selections = [] if self._stream is None else self._stream.selections(self._now - self._started)
        shown = selection_register(name, selections)
        return self._value(name) if shown is None else shown

    def _context_register(self, name: str) -> int:
        number, register = int(name[len("context[")]), name.partition(".")[2]
        state = self._shown[1][number]
        known = {"error": int(state.error), "error_index": state.error_index, "finished": state.finished}
        return known[register] if register in known else self._value(name)

    def _operation_register(self, name: str) -> int:
        register = name.partition(".")[2]
        if register == "select":
            return self._value(name)
        counts = self._counts()
        return getattr(counts[self._value("operation.select")], register) if counts else 0

    def _counts(self) -> list[Counts]:
        return [] if self._stream is None else list(self._stream.counts())
