"""The host driver of an NPU: starts instruction streams and reads what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera.firmware.bus import Bus
from tessera.rtl.control.register_map import RegisterInfo, register_map
from tessera.rtl.isa import INSTRUCTION_BYTES, ErrorCode, Unit
from tessera.sim.counts import COUNT_NAMES, Counts
from tessera.sim.windows import MemoryWindows

RESET_POLLS = 100_000
"""Readings of the status register after which a reset that has not taken effect counts as failed."""

ERROR_TEXTS = {
    ErrorCode.NOT_A_NUMBER: "because it loads NaN or infinity; remove them from the input, or load with another policy",
}
"""Why a stream stopped and what to do, where the error's name does not say it."""

WATCHDOG_CYCLES = 1 << 20
"""Default limit of the watchdog: ten milliseconds at 100 MHz. `tessera.sim.cycles.longest_silence` tells whether a
stream needs more, as machines with large memories may."""


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


class Npu:
    """One NPU behind a bus.

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
        """Starts the stream at a DRAM byte address and waits for its end.

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
        _check_alignment(address)
        if await self._is_running():
            raise NpuBusyError(f"{self._prefix} cannot start at {address:#x}: a stream still runs; reset it first")
        interrupts = self._register("irq_enable").encode(done=1, error=1)
        await self._write("irq_status", interrupts)
        await self._write("irq_enable", interrupts)
        await self._write("address", address)
        for name, (base, limit) in (windows or MemoryWindows()).as_dict().items():
            await self._write(f"{name}_window.base", base)
            await self._write(f"{name}_window.limit", limit)
        await self._write("watchdog", self._register("watchdog").encode(limit=watchdog_cycles))
        await self._write("control", self._register("control").encode(start=1))
        await self._bus.wait_for_interrupt(timeout_cycles)
        await self._write("irq_status", interrupts)
        await self._raise_error()
        return await self._measurements()

    async def busy_cycles(self) -> dict[Unit, int]:
        """For each unit the cycles of the last run in which it had work."""
        return {unit: await self._read(f"busy[{unit.value}]") for unit in Unit}

    async def counts(self) -> Counts:
        """What was counted since the last start, also if the stream was stopped."""
        return Counts(**{name: await self._read(name) for name in COUNT_NAMES})

    async def operation_counts(self, operations: Iterable[int]) -> dict[int, Counts]:
        """What was counted since the last start for each of these operations, see `CountedInstruction`.

        Raises
        ------
        ValueError
            There is no operation of that number.
        """
        happened = await self.counts()
        names = [name for name in COUNT_NAMES if getattr(happened, name)]  # the others are 0 in each operation too
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

    async def _raise_error(self) -> None:
        status = await self._read("status")
        if self._register("status").fields["error"].extract(status):
            code, index = ErrorCode(await self._read("error")), await self._read("error_index")
            if self._register("status").fields["running"].extract(status):
                raise NpuStuckError(
                    f"{self._prefix} cannot be stopped at instruction {index}: the memory does not answer; reset the "
                    "whole NPU and its memory"
                )
            raise NpuError(code, index)

    async def _measurements(self) -> RunResult:
        names = ("cycles", "instructions", "read_beats", "write_beats")
        return RunResult(**{name: await self._read(name) for name in names}, counts=await self.counts())

    def _register(self, name: str) -> RegisterInfo:
        return register_map()[f"{self._prefix}.{name}"]

    async def _write(self, name: str, value: int) -> None:
        for word, address in enumerate(self._register(name).words):
            await self._bus.write_register(address, value >> (32 * word) & 0xFFFF_FFFF)

    async def _read(self, name: str) -> int:
        words = [await self._bus.read_register(address) for address in self._register(name).words]
        return sum(word << (32 * index) for index, word in enumerate(words))


def _check_alignment(address: int) -> None:
    if address % INSTRUCTION_BYTES:
        raise ValueError(
            f"a stream must begin at a multiple of {INSTRUCTION_BYTES} bytes, not at {address:#x}; move it"
        )
