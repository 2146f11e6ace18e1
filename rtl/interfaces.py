"""Signatures and payload layouts of the streams and ports that join the blocks.

A stream follows Amaranth's rules: a transfer happens in a cycle where ``valid`` and ``ready`` are both 1; once
``valid`` is 1 it stays 1, and the payload stays the same, until the transfer.
"""

from __future__ import annotations

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig

CONVERSION_COUNT_BITS = 8
"""Bits of what a conversion of the DMA counts in a cycle."""


def layout_of(instruction: type[isa.Instruction]) -> data.StructLayout:
    """The fields of an instruction above its opcode, as they lie in the 256-bit word."""
    members: dict[str, object] = {}
    for field in isa.fields_of(instruction):
        shape = signed(field.width) if field.signed else unsigned(field.width)
        members[field.name] = data.ArrayLayout(shape, field.count) if field.count > 1 else shape
    return data.StructLayout(members)


def address_bits(words: int) -> int:
    """Bits that address ``words`` memory words."""
    return max(1, (words - 1).bit_length())


def bank_words(config: NpuConfig) -> data.ArrayLayout:
    """One activation word of each lane."""
    return data.ArrayLayout(config.word_bits, config.lanes)


def gang_read_layout(config: NpuConfig) -> data.StructLayout:
    """Request of a word from the banks of several lanes at the same address."""
    return data.StructLayout({"lanes": config.lanes, "address": address_bits(config.activation_words)})


def bank_write_layout(config: NpuConfig) -> data.StructLayout:
    """A word, or one half of it, written to the banks of several lanes at the same address.

    ``halves`` bit 0 enables digits 0 .. cols - 1 (the low half of the word), bit 1 the others.
    """
    return data.StructLayout(
        {
            "lanes": config.lanes,
            "address": address_bits(config.activation_words),
            "halves": 2,
            "words": bank_words(config),
        }
    )


class LaneRead(wiring.Signature):
    """A lane's read port of its own bank, seen from the lane.

    ``data`` is valid in the cycle after a transfer of ``request`` and only then.
    """

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "request": Out(stream.Signature(address_bits(config.activation_words))),
                "data": In(config.word_bits),
            }
        )


class GangRead(wiring.Signature):
    """A shared read port of all banks, seen from the reader.

    ``words`` is valid in the cycle after a transfer of ``request`` and only then; words of lanes that were not
    asked for are undefined.
    """

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "request": Out(stream.Signature(gang_read_layout(config))),
                "words": In(bank_words(config)),
            }
        )


class BeatWrite(wiring.Signature):
    """Write port of a memory that is filled by the DMA beat by beat, seen from the DMA. It never stalls."""

    def __init__(self, config: NpuConfig, *, beats: int):
        super().__init__(
            {
                "enable": Out(1),
                "address": Out(address_bits(beats)),
                "data": Out(config.axi_data_bits),
            }
        )


class TableWrite(wiring.Signature):
    """Writes one entry of the tables of activation functions, seen from the writer."""

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "enable": Out(1),
                "address": Out(address_bits(config.tables * isa.TableEntry.SEGMENTS)),
                "data": Out(8 * isa.TableEntry.BYTES),
            }
        )


class Drain(wiring.Signature):
    """Access to a lane's oldest finished tile, seen from the PPU.

    ``full`` is 1 while a finished tile waits. While it is, ``sums`` holds the accumulators of pixel ``pixel`` in
    the cycle after ``enable``, and keeps them until the next ``enable``. ``release`` for one cycle gives the memory
    back to the lane.
    """

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "full": In(1),
                "enable": Out(1),
                "pixel": Out(address_bits(config.accumulator_pixels)),
                "sums": In(data.ArrayLayout(signed(config.accumulator_bits), config.cols)),
                "release": Out(1),
            }
        )


def combined_sums(config: NpuConfig) -> data.ArrayLayout:
    """Sums of ``cols`` output channels of one pixel after the lanes of a gang are combined."""
    return data.ArrayLayout(signed(config.combined_bits), config.cols)


__all__ = [
    "CONVERSION_COUNT_BITS",
    "BeatWrite",
    "Drain",
    "GangRead",
    "LaneRead",
    "TableWrite",
    "address_bits",
    "bank_words",
    "bank_write_layout",
    "combined_sums",
    "gang_read_layout",
    "layout_of",
]
