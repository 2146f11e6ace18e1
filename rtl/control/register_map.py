"""The registers by name: addresses, fields and masks, read from ``registers.rdl``. Imports no Amaranth.

Names are the paths of the register description: ``register_map()["stream[0].status"].fields["running"]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from systemrdl import RDLCompiler
from systemrdl.node import AddrmapNode, FieldNode, RegNode

from tessera.rtl import adaptation, isa, traffic
from tessera.rtl.config import AXI_ADDRESS_BITS, AXI_BURST_BYTES, WATCHDOG_BITS

WORD_BYTES = 4
"""Bytes of an access."""


@dataclass(frozen=True)
class FieldInfo:
    """A field of a register.

    Attributes
    ----------
    name
        Name inside the register.
    low, width
        Position of the lowest bit, and bits.
    readable, writable
        What software can do with it.
    reset
        Value after reset, where it has one.
    description
        Meaning and unit.
    """

    name: str
    low: int
    width: int
    readable: bool
    writable: bool
    reset: int | None
    description: str

    @property
    def mask(self) -> int:
        """Ones at the field's bits of the register."""
        return ((1 << self.width) - 1) << self.low

    def extract(self, value: int) -> int:
        """The field in a register's value."""
        return (value & self.mask) >> self.low


@dataclass(frozen=True)
class RegisterInfo:
    """A register.

    Attributes
    ----------
    name
        Path in the register description.
    address
        Byte address.
    width
        32 or 64 bits; a 64-bit register is two words, lower one first.
    fields
        The fields by their names, lowest first.
    """

    name: str
    address: int
    width: int
    fields: Mapping[str, FieldInfo]

    @property
    def words(self) -> tuple[int, ...]:
        """Byte addresses of the register's words, in the order in which they must be accessed."""
        return tuple(range(self.address, self.address + self.width // 8, WORD_BYTES))

    def encode(self, **values: int) -> int:
        """The register's value with these fields, the others 0.

        Raises
        ------
        ValueError
            A field's value does not fit.
        KeyError
            There is no such field.
        """
        word = 0
        for name, value in values.items():
            field = self.fields[name]
            if not 0 <= value < 1 << field.width:
                raise ValueError(f"{self.name}.{name} = {value} does not fit in {field.width} bits")
            word |= value << field.low
        return word


@cache
def root() -> AddrmapNode:
    """The elaborated register description."""
    parameters: dict[str, Any] = {
        "UNITS": len(isa.Unit),
        "ADDRESS_BITS": AXI_ADDRESS_BITS,
        "ALIGNMENT_BITS": isa.INSTRUCTION_BYTES.bit_length() - 1,
        "WINDOW_BITS": AXI_BURST_BYTES.bit_length() - 1,
        "WATCHDOG_BITS": WATCHDOG_BITS,
        "LANES": isa.MAX_LANES,
        "CODE_BITS": max(isa.ErrorCode).bit_length(),
        "OPERATION_BITS": isa.OPERATION_BITS,
        "CONTEXTS": isa.CONTEXTS,
        "BUNDLE_BITS": isa.BUNDLE_BITS,
        "FINISHED_BITS": isa.FINISHED_BITS,
        "SOURCES": len(traffic.TrafficSource),
        "OTHERS": len(traffic.OTHER_SOURCES),
        "OWN_IDS": traffic.OWN_IDS,
        "LENGTH_BITS": traffic.WINDOW_BITS,
        "BYTES_BITS": traffic.WINDOW_BYTES_BITS,
        "DEPTH_BITS": adaptation.DEPTH_BITS,
        "DEEPEST": int(max(isa.Depth)),
        "SECTION_BITS": traffic.SECTION_BITS,
        "SECTIONS": traffic.MOST_SECTIONS,
        "DEFAULT_WINDOW": traffic.DEFAULT_WINDOW,
    }
    compiler = RDLCompiler()
    with resources.as_file(resources.files("tessera.rtl.control").joinpath("registers.rdl")) as path:
        compiler.compile_file(str(path))
    return compiler.elaborate("tessera_registers", parameters=parameters).top


@cache
def register_map() -> Mapping[str, RegisterInfo]:
    """All registers by their paths, by rising address."""
    nodes = [node for node in root().descendants(unroll=True) if isinstance(node, RegNode)]
    registers = {path_of(node): _register_info(node) for node in sorted(nodes, key=lambda node: node.absolute_address)}
    return MappingProxyType(registers)


def path_of(node: RegNode) -> str:
    """Path of a register below the register map."""
    return node.get_rel_path(root())


def _register_info(node: RegNode) -> RegisterInfo:
    fields = {field.inst_name: _field_info(field) for field in node.fields()}
    return RegisterInfo(path_of(node), node.absolute_address, node.get_property("regwidth"), MappingProxyType(fields))


def _field_info(node: FieldNode) -> FieldInfo:
    reset = node.get_property("reset")
    return FieldInfo(
        name=node.inst_name,
        low=node.low,
        width=node.width,
        readable=node.is_sw_readable,
        writable=node.is_sw_writable,
        reset=reset if isinstance(reset, int) else None,
        description=" ".join((node.get_property("desc") or "").split()),
    )
