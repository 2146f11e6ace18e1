"""Registers by their names, over a bus."""

from __future__ import annotations

from tessera.firmware.bus import Bus
from tessera.rtl.control.register_map import RegisterInfo, register_map

_WORD_MASK = 0xFFFF_FFFF


class RegisterAccess:
    """Access to the registers whose paths begin alike.

    Parameters
    ----------
    bus
        The way to them.
    prefix
        What comes before the names, such as ``stream[0]``; empty for all registers.
    """

    def __init__(self, bus: Bus, prefix: str = ""):
        self._bus = bus
        self._prefix = f"{prefix}." if prefix else ""

    def info(self, name: str) -> RegisterInfo:
        """The description of a register."""
        return register_map()[self._prefix + name]

    async def write(self, name: str, value: int) -> None:
        """Writes a register."""
        for word, address in enumerate(self.info(name).words):
            await self._bus.write_register(address, value >> (32 * word) & _WORD_MASK)

    async def read(self, name: str) -> int:
        """Reads a register."""
        words = [await self._bus.read_register(address) for address in self.info(name).words]
        return sum(word << (32 * index) for index, word in enumerate(words))

    async def write_fields(self, name: str, **values: int) -> None:
        """Writes a register's fields, the others as 0.

        Raises
        ------
        ValueError
            A value does not fit.
        """
        await self.write(name, self.info(name).encode(**values))

    async def read_fields(self, name: str) -> dict[str, int]:
        """Reads a register; its fields by their names."""
        value = await self.read(name)
        return {field.name: field.extract(value) for field in self.info(name).fields.values()}
