"""What the host driver needs of the way to an NPU. Co-simulation implements it, and a board can."""

from __future__ import annotations

from typing import Protocol


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
