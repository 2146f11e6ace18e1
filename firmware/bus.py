"""What the host driver needs of the way to an NPU. Co-simulation implements it, and a board can."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Bus(Protocol):
    """Access to one NPU's registers, memory and interrupt. Addresses and lengths are in bytes."""

    async def write_register(self, address: int, value: int) -> None:
        """Writes a 32-bit register."""

    async def read_register(self, address: int) -> int:
        """Reads a 32-bit register."""

    async def write_memory(self, address: int, data: bytes) -> None:
        """Writes bytes to the memory that the NPU reads."""

    async def read_memory(self, address: int, length: int) -> bytes:
        """Reads bytes from the memory that the NPU writes."""

    async def wait_for_interrupt(self, timeout_cycles: int) -> int:
        """Waits until the interrupt is raised; raises an exception of its own if that takes too long."""


class TimedBus(Bus, Protocol):
    """A bus with a clock, which the executor needs besides: the time since some moment, in clock cycles of the NPU."""

    async def present_cycle(self) -> int:
        """The present time. A board may take a clock of its own, at the NPU's frequency."""

    async def interrupt_within(self, cycles: int) -> bool:
        """Waits until the interrupt is raised, for at most so many cycles, at least one; whether it is raised."""


@runtime_checkable
class TracingBus(Protocol):
    """A bus that can tell when the units completed their instructions; simulations can."""

    async def start_trace(self) -> None:
        """Begins to record."""

    async def stop_trace(self) -> list[tuple[int, int]]:
        """Ends the recording; (cycle, mask of units) for each cycle in which an instruction was completed, rising."""


@runtime_checkable
class TrafficRecordingBus(TracingBus, Protocol):
    """A bus that also can tell what crossed the memory bus, and which depths were chosen; co-simulation can.

    Attributes
    ----------
    selections
        Of the last trace: cycle, number of the operation, code of the depth and section of each choice of a depth.
    """

    selections: list[tuple[int, ...]]

    async def start_windows(self) -> None:
        """Begins to record the windows of the bandwidth monitor."""

    async def stop_windows(self) -> list[list[int]]:
        """Ends that; the numbers of a `tessera.sim.cosim.traffic.TrafficWindow` each."""
