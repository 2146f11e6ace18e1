"""The host driver of an NPU: starts instruction streams and reads what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from tessera.firmware.bus import Bus
from tessera.firmware.register_access import RegisterAccess
from tessera.rtl.adaptation import DEPTH_BITS
from tessera.rtl.control.register_map import RegisterInfo
from tessera.rtl.isa import CONTEXTS, INSTRUCTION_BYTES, OPERATIONS, Depth, ErrorCode, Unit
from tessera.sim.adaptation import DepthSettings
from tessera.sim.contexts import Context, ContextState, all_contexts, contexts_of
from tessera.sim.counts import COUNT_NAMES, Counts
from tessera.sim.windows import EVERYWHERE, MemoryWindow, MemoryWindows

RESET_POLLS = 100_000
"""Readings of the status register after which a reset that has not taken effect counts as failed."""

ERROR_TEXTS = {
    ErrorCode.NOT_A_NUMBER: "because it loads NaN or infinity; remove them from the input, or load with another policy",
}
"""Why a stream stopped and what to do, where the error's name does not say it."""

WATCHDOG_CYCLES = 1 << 20
"""Default limit of the watchdog: ten milliseconds at 100 MHz. `tessera.sim.cycles.longest_silence` tells whether a
stream needs more, as machines with large memories may."""

_DEPTHS_PER_WORD = 32 // DEPTH_BITS
"""Depths of layers in a register."""


class NpuError(RuntimeError):
    """The NPU stopped a stream; the message names the error and the instruction's index."""

    def __init__(self, code: ErrorCode, index: int):
        text = ERROR_TEXTS.get(code, f"with the error {code.name.lower().replace('_', ' ')}")
        super().__init__(f"the NPU stopped at instruction {index} {text}")
        self.code = code
        self.index = index


class NpuBusyError(RuntimeError):
    """A stream was to be started while another one runs, which the NPU would ignore; the message says what to do."""


class NpuStuckError(RuntimeError):
    """A stream cannot be stopped; the message says what is left to do."""


@dataclass(frozen=True)
class RunResult:
    """Measurements of one run of a stream, from the NPU's own counters.

    Attributes
    ----------
    cycles
        Clock cycles from the start to the stream's end.
    instructions
        Instructions executed.
    read_beats, write_beats
        AXI beats of data.
    counts
        What happened to the values.
    """

    cycles: int
    instructions: int
    read_beats: int
    write_beats: int
    counts: Counts = Counts()


class Phase(Enum):
    """What a stream does; the values of those that have stopped are the names of their status bits."""

    IDLE = "idle"
    RUNNING = "running"
    DONE = "done"
    PAUSED = "paused"
    FAILED = "error"


_STOPPED = (Phase.FAILED, Phase.DONE, Phase.PAUSED)


@dataclass(frozen=True)
class StreamState:
    """What became of a stream since it was started.

    Attributes
    ----------
    phase
        What it does.
    bundle
        Index of the bundle that it has begun last, or at which it was paused.
    instructions
        Instructions that were executed; a paused stream goes on with the next one (`tessera.sim.continuation`).
    error, error_index
        What stopped it, and the index of the instruction, if it has failed.
    contexts
        What became of each context.
    stuck
        It has failed but cannot be stopped, because the memory does not answer.
    """

    phase: Phase
    bundle: int = 0
    instructions: int = 0
    error: ErrorCode = ErrorCode.NONE
    error_index: int = 0
    contexts: tuple[ContextState, ...] = ()
    stuck: bool = False

    def raise_error(self, name: str = "the NPU") -> None:
        """Raises `NpuError` or `NpuStuckError` if the stream called ``name`` has failed."""
        if self.stuck:
            raise NpuStuckError(
                f"{name} cannot be stopped at instruction {self.error_index}: the memory does not answer; reset the "
                "whole NPU and its memory"
            )
        if self.phase is Phase.FAILED:
            raise NpuError(self.error, self.error_index)


class Npu:
    """One NPU behind a bus.

    Windows that stay the same from start to start are written once, so one object alone must drive a stream of the
    hardware.

    Parameters
    ----------
    bus
        The way to it.
    stream
        Index of the hardware stream that is driven.
    """

    def __init__(self, bus: Bus, stream: int = 0):
        self._bus = bus
        self._prefix = f"stream[{stream}]"
        self._registers = RegisterAccess(bus, self._prefix)
        self._adaptation = RegisterAccess(bus, "adaptation")
        self._written: dict[str, int] = {}

    async def load_stream(self, address: int, code: bytes) -> None:
        """Writes an encoded stream to DRAM.

        Raises
        ------
        ValueError
            The address is not aligned to an instruction.
        """
        _check_alignment(address)
        await self._bus.write_memory(address, code)

    async def run(
        self,
        address: int,
        *,
        timeout_cycles: int,
        windows: MemoryWindows | None = None,
        watchdog_cycles: int = WATCHDOG_CYCLES,
    ) -> RunResult:
        """Starts the stream of one network, all in context 0, and waits for its end.

        A stream that moves but takes too long is still there when the bus has given up waiting; `reset` stops it.

        Parameters
        ----------
        address
            DRAM byte address of the first instruction.
        timeout_cycles
            Cycles to wait for the end.
        windows
            Where the stream may fetch, load and store; ``None`` for everywhere.
        watchdog_cycles
            Cycles without progress after which the NPU stops the stream; 0 for never. More than the memory's latency.

        Raises
        ------
        NpuBusyError
            A stream still runs; nothing was written.
        NpuError
            The NPU stopped the stream. It can be started again.
        NpuStuckError
            The NPU cannot stop the stream, because the memory does not answer.
        ValueError
            The address is not aligned to an instruction.
        """
        windows = windows or MemoryWindows()
        await self.start(
            address,
            code=windows.code,
            contexts=contexts_of(windows),
            watchdog_cycles=watchdog_cycles,
            report_progress=False,
        )
        await self._bus.wait_for_interrupt(timeout_cycles)
        await self._write("irq_status", await self._read("irq_status"))
        (await self._outcome()).raise_error(self._prefix)
        return await self.measurements()

    async def start(
        self,
        address: int,
        *,
        contexts: Mapping[int, Context],
        code: MemoryWindow = EVERYWHERE,
        watchdog_cycles: int = WATCHDOG_CYCLES,
        report_progress: bool = True,
    ) -> None:
        """Starts the stream at a DRAM byte address and returns at once.

        Parameters
        ----------
        address
            DRAM byte address of the first instruction.
        contexts
            What the transfers of each context may do; those of a context that is not named may do nothing.
        code
            Where instructions may lie.
        watchdog_cycles
            Cycles without progress after which the NPU stops the stream; 0 for never. More than the memory's latency.
        report_progress
            `wait` returns also when a context has failed or has finished an inference.

        Raises
        ------
        NpuBusyError
            A stream still runs; nothing was written.
        ValueError
            The address is not aligned to an instruction, or there is no context of a number.
        """
        _check_alignment(address)
        settings = all_contexts(contexts)
        if await self._is_running():
            raise NpuBusyError(f"{self._prefix} cannot start at {address:#x}: a stream still runs; reset it first")
        every_context = (1 << CONTEXTS) - 1 if report_progress else 0
        enabled = {"done": 1, "error": 1, "paused": 1}
        progress = {"context_error": every_context, "context_finished": every_context}
        if not await self._read("irq_enable"):  # the whole NPU was reset, or is new
            self._written.clear()
        await self._write("irq_status", _all_ones(self._register("irq_status")))
        await self._write("irq_enable", self._register("irq_enable").encode(**enabled, **progress))
        await self._write("address", address)
        await self._write_window("code_window", code)
        for number, context in enumerate(settings):
            await self._write_window(f"context[{number}].load_window", context.load)
            await self._write_window(f"context[{number}].store_window", context.store)
            await self._update(f"context[{number}].mode", int(context.contain))
        await self._write("watchdog", self._register("watchdog").encode(limit=watchdog_cycles))
        await self._write("control", self._register("control").encode(start=1))

    async def wait(self, timeout_cycles: int) -> StreamState:
        """Waits until the stream has stopped, or until there is progress if its start asked for that.

        What happens between two calls is not lost: the second returns at once then.
        """
        await self._bus.wait_for_interrupt(timeout_cycles)
        await self._write("irq_status", await self._read("irq_status"))
        return await self.state()

    async def acknowledge(self) -> StreamState:
        """Lowers the interrupt; the stream's state without its progress and its contexts."""
        await self._write("irq_status", await self._read("irq_status"))
        return await self._outcome()

    async def pause(self) -> None:
        """Asks the stream to pause at its next bundle; `wait` tells when it has, or has stopped before.

        The memories on the chip keep their contents. Without a stream that runs this has no effect.
        """
        await self._write("control", self._register("control").encode(pause=1))

    async def state(self) -> StreamState:
        """What became of the stream that was started last."""
        return replace(
            await self._outcome(),
            bundle=await self._read("bundle"),
            instructions=await self._read("instructions"),
            contexts=tuple([await self._context_state(number) for number in range(CONTEXTS)]),
        )

    async def _outcome(self) -> StreamState:
        """The state without its progress and its contexts, which takes few accesses."""
        status, fields = await self._read("status"), self._register("status").fields
        phase = next((phase for phase in _STOPPED if fields[phase.value].extract(status)), Phase.IDLE)
        running = bool(fields["running"].extract(status))
        error, index = ErrorCode.NONE, 0
        if phase is Phase.FAILED:
            error, index = ErrorCode(await self._read("error")), await self._read("error_index")
        return StreamState(
            phase=Phase.RUNNING if running and phase is not Phase.FAILED else phase,
            stuck=running and phase is Phase.FAILED,
            error=error,
            error_index=index,
        )

    async def bundle(self) -> int:
        """Index of the bundle that the stream has begun last."""
        return await self._read("bundle")

    async def _context_state(self, number: int) -> ContextState:
        name = f"context[{number}]"
        error, finished = ErrorCode(await self._read(f"{name}.error")), await self._read(f"{name}.finished")
        return ContextState(error, await self._read(f"{name}.error_index") if error else 0, finished)

    async def _write_window(self, name: str, window: MemoryWindow) -> None:
        """Writes a window, or only the limit of one that is closed for everything."""
        if window.limit:
            await self._update(f"{name}.base", window.base)
        await self._update(f"{name}.limit", window.limit)

    async def _update(self, name: str, value: int) -> None:
        """Writes a register that keeps its value, unless it has the value already."""
        if self._written.get(name) != value:
            await self._write(name, value)
            self._written[name] = value

    async def measurements(self) -> RunResult:
        """What the NPU's own counters say of the stream that was started last."""
        names = ("cycles", "instructions", "read_beats", "write_beats")
        return RunResult(**{name: await self._read(name) for name in names}, counts=await self.counts())

    async def busy_cycles(self) -> dict[Unit, int]:
        """For each unit the cycles of the last run in which it had work."""
        return {unit: await self._read(f"busy[{unit.value}]") for unit in Unit}

    async def counts(self, names: Iterable[str] = COUNT_NAMES) -> Counts:
        """What was counted since the last start, also if the stream was stopped; only some counts, if that is said."""
        return Counts(**{name: await self._read(name) for name in names})

    async def set_depths(self, settings: DepthSettings) -> None:
        """Says how the depths of adaptive streams are chosen; also while one runs."""
        await self._adaptation.write_fields("limits", minimum=settings.minimum, maximum=settings.maximum)
        depths = {f"section{section}": depth for section, depth in enumerate(settings.section_depths)}
        await self._adaptation.write_fields("section_depths", **depths)
        await self._adaptation.write_fields("period", cycles=settings.period)
        await self.set_layer_depths(settings.layer_depths)
        await self._adaptation.write_fields("control", source=settings.source, sampling=settings.sampling)

    async def set_layer_depths(self, depths: Sequence[Depth]) -> None:
        """Writes the depths that the host asks for, for each operation number; also while a stream runs."""
        for word, first in enumerate(range(0, OPERATIONS, _DEPTHS_PER_WORD)):
            packed = sum(depth << DEPTH_BITS * n for n, depth in enumerate(depths[first : first + _DEPTHS_PER_WORD]))
            await self._adaptation.write_fields(f"layer_depths[{word}]", depths=packed)

    async def depth_choices(self) -> int:
        """How many depths have been chosen since the last start."""
        return await self._adaptation.read("selects")

    async def chosen_depths(self) -> tuple[Depth, ...]:
        """The depth that was last chosen for each operation number, since the reset of the whole NPU."""
        chosen: list[Depth] = []
        for word in range(OPERATIONS // _DEPTHS_PER_WORD):
            packed = await self._adaptation.read(f"chosen[{word}]")
            chosen += [Depth(packed >> DEPTH_BITS * n & (1 << DEPTH_BITS) - 1) for n in range(_DEPTHS_PER_WORD)]
        return tuple(chosen)

    async def operation_counts(
        self, operations: Iterable[int], names: Iterable[str] = COUNT_NAMES
    ) -> dict[int, Counts]:
        """What was counted since the last start for each of these operations, see `CountedInstruction`; only the counts
        of some ``names``, if that is said.

        Raises
        ------
        ValueError
            There is no operation of that number.
        """
        happened = await self.counts(wanted := tuple(names))
        names = [name for name in wanted if getattr(happened, name)]  # the others are 0 in each operation too
        found = {}
        for operation in operations:
            await self._write("operation.select", self._register("operation.select").encode(index=operation))
            found[operation] = Counts(**{name: await self._read(f"operation.{name}") for name in names})
        return found

    async def reset(self) -> None:
        """Stops the stream, if one runs, clears its state, and waits until it has stopped.

        Raises
        ------
        NpuStuckError
            The stream does not stop: the memory does not answer what the NPU has asked for.
        """
        await self._write("control", self._register("control").encode(reset=1))
        for _ in range(RESET_POLLS):
            if not await self._is_running():
                return
        raise NpuStuckError(f"{self._prefix} does not stop after a reset; reset the whole NPU and its memory")

    async def _is_running(self) -> bool:
        return bool(self._register("status").fields["running"].extract(await self._read("status")))

    def _register(self, name: str) -> RegisterInfo:
        return self._registers.info(name)

    async def _write(self, name: str, value: int) -> None:
        await self._registers.write(name, value)

    async def _read(self, name: str) -> int:
        return await self._registers.read(name)


def _all_ones(register: RegisterInfo) -> int:
    """The register's value with every bit of its fields set."""
    return sum(field.mask for field in register.fields.values())


def _check_alignment(address: int) -> None:
    if address % INSTRUCTION_BYTES:
        raise ValueError(
            f"a stream must begin at a multiple of {INSTRUCTION_BYTES} bytes, not at {address:#x}; move it"
        )
