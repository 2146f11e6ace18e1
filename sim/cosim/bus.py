"""The host's view of a simulated NPU: registers, memory, interrupt, and the knobs of the memory model.

Used inside the simulator. No method wakes up every cycle: Python waits for the harness to toggle a signal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from cocotb.triggers import First, RisingEdge, ValueChange

from tessera.sim.cosim.errors import CosimError
from tessera.sim.cosim.load_profile import LoadProfile
from tessera.sim.cosim.runner import MemoryCounters
from tessera.sim.windows import MemoryWindows

_REGISTER_TIMEOUT_CYCLES = 10_000
_PEEK, _POKE, _LOAD, _DUMP = range(4)  # commands of cosim_storage.v
_FEW_WORDS = 4  # up to here, single words are faster than a file
_TRACE_FILE = "trace.txt"  # as in tessera_harness.v
_SELECT = "select"  # first word of its lines about select instructions
_WINDOWS_FILE = "windows.txt"  # as in cosim_windows.v
_LOAD_FILE = "load_profile.txt"  # as in cosim_load.v
_RESPONSES = {0: "OKAY", 1: "EXOKAY", 2: "SLVERR", 3: "DECERR"}


class CosimBus:
    """Access to the NPU in a co-simulation.

    One coroutine at a time may use it. Addresses and lengths are in bytes, times in clock cycles.

    Parameters
    ----------
    dut
        cocotb's handle of the harness.
    memory_bytes
        Size of the simulated memory.
    folder
        The simulator's working directory, for files with memory contents.
    progress
        Where reports of progress go.

    Attributes
    ----------
    memory_bytes
        Size of the simulated memory.
    word_bytes
        Bytes of a word of the memory, which is a beat of the NPU's bus.
    selections
        Cycle, operation, depth code and section of each select instruction in the last trace.
    """

    def __init__(self, dut: Any, *, memory_bytes: int, folder: Path, progress: TextIO):
        self._dut = dut
        self._folder = folder
        self._progress = progress
        self.word_bytes = len(dut.host_memory_wstrb)
        self.memory_bytes = memory_bytes
        self.selections: list[tuple[int, ...]] = []

    # ------------------------------------------------------------------------------------------------ clock and reset

    @property
    def cycles(self) -> int:
        """Clock cycles since the start of the simulation."""
        return int(self._dut.host_cycles.value)

    @property
    def interrupt(self) -> bool:
        """Whether the interrupt is raised."""
        return bool(self._dut.host_irq.value)

    @property
    def interrupt_cycle(self) -> int:
        """The cycle in which the newest interrupt rose, exact to the cycle; 0 before the first."""
        return int(self._dut.host_irq_cycle.value)

    async def reset(self, cycles: int = 8) -> None:
        """Resets the NPU and the memory's queues; contents of the memory, settings and counters stay."""
        self._dut.host_reset.value = 1
        await self.wait_cycles(cycles)
        self._dut.host_reset.value = 0
        await self.wait_cycles(2)

    async def wait_cycles(self, cycles: int) -> None:
        """Lets the NPU run for a number of cycles, at least one."""
        if cycles < 1:
            raise ValueError(f"cycles must be positive, not {cycles}")
        self._set_alarm(cycles)
        await ValueChange(self._dut.host_alarm)

    async def wait_for_interrupt(self, timeout_cycles: int) -> int:
        """Waits until the interrupt is raised; returns the cycle in which it rose.

        Raises
        ------
        CosimError
            It did not rise within ``timeout_cycles``.
        """
        if not await self.interrupt_within(timeout_cycles):
            raise CosimError(f"the interrupt did not rise within {timeout_cycles} cycles.")
        return self.interrupt_cycle

    async def interrupt_within(self, cycles: int) -> bool:
        """Waits until the interrupt is raised, for at most so many cycles; whether it is raised."""
        if not self.interrupt:
            self._set_alarm(cycles)
            await First(RisingEdge(self._dut.host_irq), ValueChange(self._dut.host_alarm))
        return self.interrupt

    async def present_cycle(self) -> int:
        """Clock cycles since the start of the simulation."""
        return self.cycles

    def _set_alarm(self, cycles: int) -> None:
        self._dut.host_alarm_cycle.value = self.cycles + cycles

    # ---------------------------------------------------------------------------------------------------------- trace

    async def start_trace(self) -> None:
        """Begins to record which units complete an instruction, and when."""
        self._dut.host_trace.value = 1
        await self.wait_cycles(1)

    async def stop_trace(self) -> list[tuple[int, int]]:
        """Ends the recording; (cycle, mask of units) for each cycle in which an instruction was completed, rising."""
        self._dut.host_trace.value = 0
        await self.wait_cycles(1)
        lines = [line.split() for line in (self._folder / _TRACE_FILE).read_text(encoding="ascii").splitlines()]
        self.selections = [tuple(map(int, words)) for kind, *words in lines if kind == _SELECT]
        return [(int(kind), int(*words)) for kind, *words in lines if kind != _SELECT]

    async def start_windows(self) -> None:
        """Begins to record what crosses the memory bus in each window of the bandwidth monitor."""
        self._dut.host_windows.value = 1
        await self.wait_cycles(1)

    async def stop_windows(self) -> list[list[int]]:
        """Ends the recording; the numbers of a `TrafficWindow` for each window that has begun and ended meanwhile."""
        self._dut.host_windows.value = 0
        await self.wait_cycles(1)
        lines = (self._folder / _WINDOWS_FILE).read_text(encoding="ascii").splitlines()
        return [[int(number) for number in line.split()] for line in lines]

    # ------------------------------------------------------------------------------------------------------ registers

    async def write_register(self, address: int, value: int) -> None:
        """Writes a 32-bit register.

        Raises
        ------
        CosimError
            The NPU answers with an error, or not at all.
        """
        self._dut.host_register_wdata.value = value
        await self._access_register(address, write=True)

    async def read_register(self, address: int) -> int:
        """Reads a 32-bit register.

        Raises
        ------
        CosimError
            The NPU answers with an error, or not at all.
        """
        await self._access_register(address, write=False)
        return int(self._dut.host_register_rdata.value)

    async def _access_register(self, address: int, *, write: bool) -> None:
        dut = self._dut
        dut.host_register_address.value = address
        dut.host_register_write.value = int(write)
        request = 1 - int(dut.host_register_done.value)
        dut.host_register_request.value = request
        self._set_alarm(_REGISTER_TIMEOUT_CYCLES)
        await First(ValueChange(dut.host_register_done), ValueChange(dut.host_alarm))
        access = f"the {'write to' if write else 'read from'} register {address:#05x}"
        if int(dut.host_register_done.value) != request:
            raise CosimError(f"{access} was not answered within {_REGISTER_TIMEOUT_CYCLES} cycles.")
        response = int(dut.host_register_response.value)
        if response != 0:
            raise CosimError(f"{access} was answered with {_RESPONSES[response]}.")

    # --------------------------------------------------------------------------------------------------------- memory

    async def write_memory(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Writes bytes to the memory, past the NPU; megabytes take milliseconds.

        Raises
        ------
        CosimError
            The range is not within the memory.
        """
        view = memoryview(data).cast("B")
        self._check_range(address, len(view))
        # Words that are written only in part go one by one, with byte enables.
        head = min(-address % self.word_bytes, len(view))
        body = (len(view) - head) // self.word_bytes * self.word_bytes
        if body <= _FEW_WORDS * self.word_bytes:
            await self._poke(address, view)
            return
        await self._poke(address, view[:head])
        await self._load(address + head, view[head : head + body])
        await self._poke(address + head + body, view[head + body :])

    async def read_memory(self, address: int, length: int) -> bytes:
        """Reads bytes from the memory, past the NPU.

        Raises
        ------
        CosimError
            The range is not within the memory.
        """
        self._check_range(address, length)
        offset = address % self.word_bytes
        words = -(-(offset + length) // self.word_bytes)
        read_words = self._peek if words <= _FEW_WORDS else self._dump
        data = await read_words(address - offset, words)
        return data[offset : offset + length]

    async def _poke(self, address: int, data: memoryview) -> None:
        while len(data):
            offset = address % self.word_bytes
            part = data[: self.word_bytes - offset]
            self._dut.host_memory_wdata.value = int.from_bytes(part, "little") << (8 * offset)
            self._dut.host_memory_wstrb.value = ((1 << len(part)) - 1) << offset
            await self._memory_command(_POKE, address, words=1)
            address, data = address + len(part), data[len(part) :]

    async def _peek(self, address: int, words: int) -> bytes:
        data = b""
        for index in range(words):
            await self._memory_command(_PEEK, address + index * self.word_bytes, words=1)
            data += int(self._dut.host_memory_rdata.value).to_bytes(self.word_bytes, "little")
        return data

    async def _load(self, address: int, data: memoryview) -> None:
        words = np.frombuffer(data, np.uint8).reshape(-1, self.word_bytes)
        # $fread fills a word from its most significant byte on.
        words[:, ::-1].tofile(self._folder / "memory_load.bin")
        await self._memory_command(_LOAD, address, words=len(words))

    async def _dump(self, address: int, words: int) -> bytes:
        await self._memory_command(_DUMP, address, words=words)
        return (self._folder / "memory_dump.bin").read_bytes()

    async def _memory_command(self, command: int, address: int, *, words: int) -> None:
        dut = self._dut
        dut.host_memory_command.value = command
        dut.host_memory_address.value = address
        dut.host_memory_words.value = words
        dut.host_memory_request.value = 1 - int(dut.host_memory_done.value)
        await ValueChange(dut.host_memory_done)
        if int(dut.host_memory_failed.value):
            raise CosimError(f"the simulator could not read or write a file in {self._folder}.")

    def _check_range(self, address: int, length: int) -> None:
        if address < 0 or length < 0 or address + length > self.memory_bytes:
            raise CosimError(
                f"{length} bytes at address {address:#x} are not within the simulated memory of {self.memory_bytes} "
                f"bytes; set CosimDesign.memory_bytes higher."
            )

    # ---------------------------------------------------------------------------------------------- the memory's model

    def configure_memory(
        self,
        *,
        read_latency: int | None = None,
        write_latency: int | None = None,
        bandwidth: float | None = None,
        traffic_share: float | None = None,
        traffic_random: bool | None = None,
        error_range: tuple[int, int] | None = None,
    ) -> None:
        """Changes the memory's behaviour from the next cycle on; what is None stays as it is.

        Parameters
        ----------
        read_latency, write_latency
            Cycles from the address to the first beat, and from the last beat to the response: 2 to 65535.
        bandwidth
            Bytes per cycle for all reads and writes together, in steps of 1/256. At most a bus word per cycle is moved.
        traffic_share
            Share of the bandwidth that the second master takes: 0.0 to 1.0 in steps of 1/256.
        traffic_random
            Whether it takes its beats at random instead of evenly.
        error_range
            First address, and first address behind, of a range that is answered with SLVERR; ``(0, 0)`` for none.
        """
        dut = self._dut
        for name, latency in (("read_latency", read_latency), ("write_latency", write_latency)):
            if latency is not None:
                _set_checked(getattr(dut, f"host_{name}"), name, latency, low=2, high=65535)
        if bandwidth is not None:
            _set_checked(dut.host_bandwidth, "256 * bandwidth", round(bandwidth * 256), low=1, high=65535)
        if traffic_share is not None:
            _set_checked(dut.host_traffic_share, "256 * traffic_share", round(traffic_share * 256), low=0, high=256)
        if traffic_random is not None:
            dut.host_traffic_random.value = int(traffic_random)
        if error_range is not None:
            dut.host_error_base.value, dut.host_error_limit.value = error_range

    async def start_load(self, profile: LoadProfile) -> None:
        """Makes the second master follow a load profile from its beginning, instead of ``traffic_share``."""
        await self.stop_load()
        (self._folder / _LOAD_FILE).write_text(profile.text(), encoding="ascii")
        self._dut.host_load_repeats.value = int(profile.repeat)
        self._dut.host_load.value = 1
        await self.wait_cycles(1)

    async def stop_load(self) -> None:
        """The second master takes ``traffic_share`` again."""
        self._dut.host_load.value = 0
        await self.wait_cycles(1)

    def configure_windows(self, windows: MemoryWindows | None = None) -> None:
        """Sets where the NPU's masters may go, from the next cycle on (``None``: everywhere).

        A burst outside counts as a violation of the rules of AXI.
        """
        for name, (base, limit) in (windows or MemoryWindows()).as_dict().items():
            getattr(self._dut, f"host_{name}_base").value = base
            getattr(self._dut, f"host_{name}_limit").value = limit

    def configure_stalls(
        self,
        *,
        seed: int = 1,
        ar: float = 0.0,
        r: float = 0.0,
        aw: float = 0.0,
        w: float = 0.0,
        b: float = 0.0,
        register: float = 0.0,
    ) -> None:
        """Sets the probability per cycle (0.0 to 0.99) of a stall on each AXI channel and on register accesses."""
        self._dut.host_stall_seed.value = seed
        for name, value in (("ar", ar), ("r", r), ("aw", aw), ("w", w), ("b", b), ("register", register)):
            signal = getattr(self._dut, f"host_stall_{name}")
            _set_checked(signal, f"256 * {name}", round(value * 256), low=0, high=254)

    def counters(self) -> MemoryCounters:
        """Bytes moved since the start of the simulation."""
        dut = self._dut
        return MemoryCounters(
            npu_read_bytes=int(dut.host_npu_read_bytes.value),
            npu_write_bytes=int(dut.host_npu_write_bytes.value),
            traffic_bytes=int(dut.host_traffic_bytes.value),
        )

    @property
    def axi_violations(self) -> int:
        """Cycles in which the NPU broke a rule of AXI."""
        return int(self._dut.host_axi_violations.value)

    @property
    def axi_first_violation(self) -> str:
        """The first broken rule in words; empty if there was none."""
        handle = self._dut.host_axi_first_violation
        return int(handle.value).to_bytes(len(handle) // 8, "big").lstrip(b"\0").decode("ascii")

    # --------------------------------------------------------------------------------------------------------- reports

    def report_progress(self, **values: Any) -> None:
        """Sends JSON values to the ``on_progress`` of ``run_cosim``."""
        self._progress.write(json.dumps(values) + "\n")
        self._progress.flush()


def _set_checked(signal: Any, name: str, value: int, *, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value}")
    signal.value = value
