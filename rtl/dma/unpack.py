"""From bus beats to chunks of an element's bytes, wherever a row begins."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.axi import read_layout
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.block import FIELD_WIDTHS, max_parts
from tessera.rtl.interfaces import address_bits


def chunk_row_layout(config: NpuConfig, settings: ShapeLike) -> data.StructLayout:
    """A row of ``chunks`` chunks of ``chunk_bytes`` bytes (at most a beat) that begins ``offset`` bytes into a beat.

    Each chunk begins ``pitch`` bytes after the one before, at most ``chunk_bytes``. An element is ``last_part + 1``
    chunks, a power of two; ``base`` is the on-chip address of the first element; ``last`` marks a block's last row.
    """
    parts = max_parts(config)
    return data.StructLayout(
        {
            "offset": address_bits(config.beat_bytes),
            "chunk_bytes": range(config.beat_bytes + 1),
            "pitch": range(config.beat_bytes + 1),
            "chunks": FIELD_WIDTHS["columns"] + parts.bit_length() - 1,
            "last_part": range(parts),
            "base": FIELD_WIDTHS["base"],
            "last": 1,
            "settings": settings,
        }
    )


def chunk_layout(config: NpuConfig, settings: ShapeLike) -> data.StructLayout:
    """Bytes of one element, or of a part of one, from bit 0; the bits above are undefined.

    ``part`` counts the chunks of an element, and ``element_ends`` marks its last one; ``last`` marks a block's last
    chunk. ``error`` is 1 if a beat of the block so far came with a bus error.
    """
    return data.StructLayout(
        {
            "data": config.axi_data_bits,
            "address": FIELD_WIDTHS["base"],
            "part": range(max_parts(config)),
            "element_ends": 1,
            "last": 1,
            "error": 1,
            "settings": settings,
        }
    )


class Unpacker(wiring.Component):
    """Cuts the beats of each row into chunks. Latency 2 cycles; one beat or one chunk per cycle.

    A row begins with the first byte of its first chunk and ends with the last byte of its last one; what else is
    in its first and last beats is dropped, and the next row begins in a new beat. The beat in which the next chunk
    begins is held in a register; a chunk that straddles two beats waits for the second at the input, where that beat
    stays for as long as chunks begin in the first.

    A block can be *squashed*, so that it ends without the beats that it lacks: beats that are there, and rows, are
    dropped, and a chunk of no meaning is the last one.

    Parameters
    ----------
    config
        Sizes of the NPU.
    settings
        Shape of what accompanies a row unchanged.

    Members
    -------
    rows : In(stream of chunk_row_layout)
    beats : In(stream of read_layout)
        The beats that hold the rows, in the same order.
    chunks : Out(stream of chunk_layout)
    squash : In(1)
        The block of the present row, or of the next one if there is none, is to end; no more beats come for it. Stays
        until ``squashed``.
    squashed : Out(1)
        It ends in this cycle.
    skip : Out(1)
        The next row is to be the last of its block.
    """

    def __init__(self, config: NpuConfig, settings: ShapeLike):
        self._config = config
        super().__init__(
            {
                "rows": In(stream.Signature(chunk_row_layout(config, settings))),
                "beats": In(stream.Signature(read_layout(config))),
                "chunks": Out(stream.Signature(chunk_layout(config, settings))),
                "squash": In(1),
                "squashed": Out(1),
                "skip": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row, active = Signal.like(self.rows.payload, reset_less=True), Signal()
        part, element_ends = Signal.like(self.chunks.payload.part, reset_less=True), Signal()
        held, held_valid = Signal.like(self.beats.payload, reset_less=True), Signal()
        following, straddles = Signal(range(2 * self._config.beat_bytes)), Signal()
        row_ends, take, free = Signal(), Signal(), Signal()
        m.d.comb += [
            following.eq(row.offset + row.pitch),
            straddles.eq(row.offset + row.chunk_bytes > self._config.beat_bytes),
            row_ends.eq(row.chunks == 1),
            element_ends.eq(part == row.last_part),
            free.eq(self.chunks.ready | ~self.chunks.valid),
            take.eq(active & held_valid & (self.beats.valid | ~straddles) & free & ~self.squash),
            self.skip.eq(self.squash & active & ~row.last),
            self.squashed.eq(self.squash & active & row.last & ~self.beats.valid & free),
            self.rows.ready.eq(~active | (take & row_ends) | self.skip | self.squashed),
            self.beats.ready.eq(
                ~held_valid | (take & (row_ends | (following >= self._config.beat_bytes))) | self.squash
            ),
        ]
        with m.If(self.rows.ready):
            m.d.sync += [row.eq(self.rows.payload), part.eq(0), active.eq(self.rows.valid)]
        with m.Elif(take):
            m.d.sync += [
                row.offset.eq(following),
                row.chunks.eq(row.chunks - 1),
                row.base.eq(row.base + element_ends),
                part.eq((part + 1) & row.last_part),
            ]
        with m.If(self.beats.ready):
            used_at_once = (held_valid & row_ends & straddles) | self.squash
            m.d.sync += [held.eq(self.beats.payload), held_valid.eq(self.beats.valid & ~used_at_once)]
        error = held.resp[1] | (straddles & self.beats.payload.resp[1])
        window = Cat(held.data, self.beats.payload.data) >> (row.offset << 3)
        chunk = self._emit(m, take | self.squashed, row, self.squashed | (row_ends & row.last), window, error)
        with m.If(self.squashed):
            m.d.sync += [chunk.part.eq(row.last_part), chunk.element_ends.eq(1)]
        with m.Elif(take):
            m.d.sync += [chunk.part.eq(part), chunk.element_ends.eq(element_ends)]
        return m

    def _emit(self, m: Module, take: Value, row: data.View, last: Value, window: Value, error: Value) -> data.View:
        """Puts the chunk into the output register and gathers the block's errors; returns the register."""
        chunk, valid = Signal.like(self.chunks.payload, reset_less=True), Signal()
        failed = Signal()
        m.d.comb += [self.chunks.payload.eq(chunk), self.chunks.valid.eq(valid)]
        with m.If(take):
            m.d.sync += [
                chunk.data.eq(window),
                chunk.address.eq(row.base),
                chunk.last.eq(last),
                chunk.error.eq(failed | error),
                chunk.settings.eq(row.settings),
                valid.eq(1),
                failed.eq(Mux(last, 0, failed | error)),
            ]
        with m.Elif(self.chunks.ready):
            m.d.sync += valid.eq(0)
        return chunk
