"""The host driver against a bus that the test plays: what is written in which order, and every refusal."""

from __future__ import annotations

import asyncio
import re

import pytest

from tessera.firmware.driver import WATCHDOG_CYCLES, Npu, NpuBusyError, NpuError, NpuStuckError
from tessera.rtl.control.register_map import register_map
from tessera.rtl.isa import CONTEXTS, ErrorCode, Unit
from tessera.sim.counts import Counts
from tessera.sim.windows import MemoryWindow, MemoryWindows, aligned_window

REGISTERS = register_map()


class FakeBus:
    """Registers with fixed contents, but for a status from the start on; logs the writes."""

    def __init__(self, *, status_after_start=None, **contents):
        self.words = {}
        self.log = []
        self.status_after_start = status_after_start
        for name, value in contents.items():
            register = REGISTERS[f"stream[0].{name}"]
            for index, address in enumerate(register.words):
                self.words[address] = value >> 32 * index & 0xFFFF_FFFF

    async def write_register(self, address, value):
        names = {word: item.name for item in REGISTERS.values() for word in item.words}
        self.log.append((names[address].removeprefix("stream[0]."), value))
        if names[address] == "stream[0].control" and self.status_after_start is not None:
            self.words[REGISTERS["stream[0].status"].address] = self.status_after_start

    async def read_register(self, address):
        return self.words.get(address, 0)

    async def write_memory(self, address, data):
        self.log.append(("memory", address, data))

    async def read_memory(self, address, length):
        return bytes(length)

    async def wait_for_interrupt(self, timeout_cycles):
        self.log.append(("interrupt", timeout_cycles))
        return 0


def window_writes(name, base, limit):
    """The register writes that set a memory window."""
    words = [("base", base & 0xFFFF_FFFF), ("base", base >> 32), ("limit", limit & 0xFFFF_FFFF), ("limit", limit >> 32)]
    return [(f"{name}_window.{register}", value) for register, value in words]


def closed_writes():
    """The register writes that close the contexts that are not used."""
    writes = []
    for number in range(1, CONTEXTS):
        for name in ("load", "store"):
            writes += [(f"context[{number}].{name}_window.limit", 0)] * 2
        writes.append((f"context[{number}].mode", 0))
    return writes


def test_windows_and_watchdog():
    """What the host asks for is written before the start."""
    bus = FakeBus(status=0b010, overflow=0b0101)
    windows = MemoryWindows(
        code=MemoryWindow(0x100, 0x300), load=MemoryWindow(0x12_0000_0000, 1 << 40), store=MemoryWindow(0x400, 0x400)
    )
    result = asyncio.run(Npu(bus).run(0x100, timeout_cycles=99, windows=windows, watchdog_cycles=77))
    writes = bus.log[: bus.log.index(("control", 1))]
    assert writes[-1] == ("watchdog", 77)
    for name, pair in windows.as_dict().items():
        expected = window_writes(name if name == "code" else f"context[0].{name}", *pair)
        position = writes.index(expected[0])
        assert writes[position : position + 4] == expected
    assert result.counts == Counts(overflow=0b0101)
    assert MemoryWindows.from_dict(windows.as_dict()) == windows


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0x80, 0x100), "the base of a memory window must be a multiple of 256 bytes, not 0x80; align what lies there"),
        ((0, 0x1F0), "the limit of a memory window must be a multiple of 256 bytes, not 0x1f0; align what lies there"),
        ((0, 2 << 40), "the limit of a memory window must be from 0 to 0x10000000000, not 0x20000000000"),
    ],
)
def test_impossible_windows_are_refused(limits, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MemoryWindow(*limits)


def test_watchdog_that_does_not_fit():
    message = "stream[0].watchdog.limit = 4294967296 does not fit in 32 bits"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        asyncio.run(Npu(FakeBus()).run(0, timeout_cycles=1, watchdog_cycles=1 << 32))


def test_window_contains():
    """Every byte must lie inside; addresses wrap at the end of the address space."""
    window = MemoryWindow(0x200, 0x400)
    assert window == aligned_window(0x201, 0x3FF) == aligned_window(0x200, 0x400)
    assert [window.contains(address, 0x100) for address in (0x1FF, 0x200, 0x300, 0x301)] == [False, True, True, False]
    end = 1 << 40
    assert MemoryWindow().contains(end - 1, 2)
    assert MemoryWindow(0x200, end).contains(end - 1) and not MemoryWindow(0x200, end).contains(end - 1, 2)
    assert not MemoryWindow(0x400, 0x200).contains(0x300)


def test_stream_that_cannot_be_stopped():
    bus = FakeBus(status_after_start=0b101, error=ErrorCode.WATCHDOG, error_index=7)
    message = (
        "stream[0] cannot be stopped at instruction 7: the memory does not answer; reset the whole NPU and its memory"
    )
    with pytest.raises(NpuStuckError, match=f"^{re.escape(message)}$"):
        asyncio.run(Npu(bus).run(0, timeout_cycles=1))


def test_run():
    bus = FakeBus(
        status=0b010, irq_status=1, cycles=(5 << 32) + 7, instructions=3, saturations=4, read_beats=5, write_beats=6
    )
    result = asyncio.run(Npu(bus).run(0x12_3456_7880, timeout_cycles=99))
    assert bus.log == [
        ("irq_status", 0xFF7), ("irq_enable", 7), ("address", 0x3456_7880), ("address", 0x12),
        *window_writes("code", 0, 1 << 40), *window_writes("context[0].load", 0, 1 << 40),
        *window_writes("context[0].store", 0, 1 << 40), ("context[0].mode", 0), *closed_writes(),
        ("watchdog", WATCHDOG_CYCLES), ("control", 1),
        ("interrupt", 99), ("irq_status", 1),
    ]  # fmt: skip
    assert (result.cycles, result.instructions, result.counts) == ((5 << 32) + 7, 3, Counts(saturations=4))
    assert (result.read_beats, result.write_beats) == (5, 6)


def test_busy_cycles():
    bus = FakeBus()
    bus.words[REGISTERS["stream[0].busy[2]"].address] = 9
    assert asyncio.run(Npu(bus).busy_cycles()) == {unit: 9 if unit is Unit.LANE0 else 0 for unit in Unit}


class CountingBus(FakeBus):
    """Operation n has saturated n values, and never overflowed a number."""

    async def read_register(self, address):
        name = next(item.name for item in REGISTERS.values() if address in item.words).removeprefix("stream[0].")
        selected = [value for register, value in self.log if register == "operation.select"]
        if name.startswith("operation."):
            return {"saturations": selected[-1], "overflow": 0b10}[name.removeprefix("operation.")]
        return self.words.get(address, 0)


def test_operation_counts():
    """Each operation is selected before it is read; what the stream has not counted at all is not read."""
    bus = CountingBus(saturations=9, overflow=0b10)
    counts = asyncio.run(Npu(bus).operation_counts((3, 63)))
    assert counts == {3: Counts(saturations=3, overflow=0b10), 63: Counts(saturations=63, overflow=0b10)}
    assert bus.log == [("operation.select", 3), ("operation.select", 63)]


def test_operation_without_counters():
    message = "stream[0].operation.select.index = 64 does not fit in 6 bits"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        asyncio.run(Npu(FakeBus()).operation_counts((64,)))


def test_error_has_its_name_and_index():
    bus = FakeBus(status=0b100, error=ErrorCode.BAD_OPERAND, error_index=12)
    message = "the NPU stopped at instruction 12 with the error bad operand"
    with pytest.raises(NpuError, match=f"^{re.escape(message)}$") as caught:
        asyncio.run(Npu(bus).run(0, timeout_cycles=1))
    assert (caught.value.code, caught.value.index) == (ErrorCode.BAD_OPERAND, 12)


def test_not_a_number_says_what_to_do():
    message = (
        "the NPU stopped at instruction 3 because it loads NaN or infinity; remove them from the input, or load with "
        "another policy"
    )
    with pytest.raises(NpuError, match=f"^{re.escape(message)}$"):
        asyncio.run(Npu(FakeBus(status=0b100, error=ErrorCode.NOT_A_NUMBER, error_index=3)).run(0, timeout_cycles=1))


def test_load_stream():
    bus = FakeBus()
    asyncio.run(Npu(bus).load_stream(0x40, b"code"))
    assert bus.log == [("memory", 0x40, b"code")]


@pytest.mark.parametrize(
    "use", [lambda npu: npu.load_stream(0x30, b""), lambda npu: npu.run(0x30, timeout_cycles=1)], ids=["load", "run"]
)
def test_unaligned_stream_is_refused(use):
    bus = FakeBus()
    message = "a stream must begin at a multiple of 32 bytes, not at 0x30; move it"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        asyncio.run(use(Npu(bus)))
    assert not bus.log


def test_a_start_while_a_stream_runs_is_refused():
    """The NPU would ignore it, and the other stream's result would be taken for this one's."""
    bus = FakeBus(status=0b001, instructions=7)
    message = "stream[0] cannot start at 0x40: a stream still runs; reset it first"
    with pytest.raises(NpuBusyError, match=f"^{re.escape(message)}$"):
        asyncio.run(Npu(bus).run(0x40, timeout_cycles=1))
    assert not bus.log


def test_reset_waits_until_the_stream_has_stopped():
    class Stopping(FakeBus):
        polls = 3

        async def read_register(self, address):
            self.polls -= 1
            return int(self.polls > 0)

    bus = Stopping()
    asyncio.run(Npu(bus).reset())
    assert bus.log == [("control", 2)]
    assert bus.polls == 0


def test_reset_that_does_not_help(monkeypatch):
    monkeypatch.setattr("tessera.firmware.driver.RESET_POLLS", 5)
    message = "stream[0] does not stop after a reset; reset the whole NPU and its memory"
    with pytest.raises(NpuStuckError, match=f"^{re.escape(message)}$"):
        asyncio.run(Npu(FakeBus(status=1)).reset())
