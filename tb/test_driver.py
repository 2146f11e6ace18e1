"""The host driver against a bus that the test plays: what is written in which order, and every refusal."""

from __future__ import annotations

import asyncio
import re

import pytest

from tessera.firmware.driver import Npu, NpuBusyError, NpuError, NpuStuckError
from tessera.rtl.control.register_map import register_map
from tessera.rtl.isa import ErrorCode, Unit

REGISTERS = register_map()


class FakeBus:
    """Registers with fixed contents; logs the writes."""

    def __init__(self, **contents):
        self.words = {}
        self.log = []
        for name, value in contents.items():
            register = REGISTERS[f"stream[0].{name}"]
            for index, address in enumerate(register.words):
                self.words[address] = value >> 32 * index & 0xFFFF_FFFF

    async def write_register(self, address, value):
        names = {word: item.name for item in REGISTERS.values() for word in item.words}
        self.log.append((names[address].removeprefix("stream[0]."), value))

    async def read_register(self, address):
        return self.words.get(address, 0)

    async def write_memory(self, address, data):
        self.log.append(("memory", address, data))

    async def read_memory(self, address, length):
        return bytes(length)

    async def wait_for_interrupt(self, timeout_cycles):
        self.log.append(("interrupt", timeout_cycles))
        return 0


def test_run():
    bus = FakeBus(status=0b010, cycles=(5 << 32) + 7, instructions=3, saturations=4, read_beats=5, write_beats=6)
    result = asyncio.run(Npu(bus).run(0x12_3456_7880, timeout_cycles=99))
    assert bus.log == [
        ("irq_status", 3), ("irq_enable", 3), ("address", 0x3456_7880), ("address", 0x12), ("control", 1),
        ("interrupt", 99), ("irq_status", 3),
    ]  # fmt: skip
    assert (result.cycles, result.instructions, result.saturations) == ((5 << 32) + 7, 3, 4)
    assert (result.read_beats, result.write_beats) == (5, 6)


def test_busy_cycles():
    bus = FakeBus()
    bus.words[REGISTERS["stream[0].busy[2]"].address] = 9
    assert asyncio.run(Npu(bus).busy_cycles()) == {unit: 9 if unit is Unit.LANE0 else 0 for unit in Unit}


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
