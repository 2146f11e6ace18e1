"""From bus beats to chunks of an element's bytes, wherever a row begins."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.axi import read_layout
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.block import FIELD_WIDTHS
from tessera.rtl.interfaces import address_bits


def chunk_row_layout(config: NpuConfig, settings: ShapeLike) -> data.StructLayout:
    """A row of ``chunks`` chunks of ``chunk_bytes`` bytes (at most a beat) that begins ``offset`` bytes into a beat.

    ``pairs`` is 1 where two chunks make an element; ``base`` is the on-chip address of the first element; ``last``
    marks a block's last row.
    """
    return data.StructLayout(
        {
            "offset": address_bits(config.beat_bytes),
            "chunk_bytes": range(config.beat_bytes + 1),
            "chunks": FIELD_WIDTHS["columns"] + 1,
            "pairs": 1,
            "base": FIELD_WIDTHS["base"],
            "last": 1,
            "settings": settings,
        }
    )


def chunk_layout(config: NpuConfig, settings: ShapeLike) -> data.StructLayout:
    """Bytes of one element, or of half of one, from bit 0; the bits above are undefined.

    ``half`` is 1 in the second chunk of a pair; ``last`` marks a block's last chunk, and ``error`` is then 1 if a
    beat of the block came with a bus error.
    """
    return data.StructLayout(
        {
            "data": config.axi_data_bits,
            "address": FIELD_WIDTHS["base"],
            "half": 1,
            "last": 1,
            "error": 1,
            "settings": settings,
        }
    )


class Unpacker(wiring.Component):
    """Cuts the beats of each row into chunks. Latency 2 cycles; one beat or one chunk per cycle.

    A row begins with the first byte of its first chunk and ends with the last byte of its last one; what else is
    in its first and last beats is dropped, and the next row begins in a new beat. The beat in which the next chunk
    begins is held in a register; a chunk that straddles two beats waits for the second at the input.

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
    """

    def __init__(self, config: NpuConfig, settings: ShapeLike):
        self._config = config
        super().__init__(
            {
                "rows": In(stream.Signature(chunk_row_layout(config, settings))),
                "beats": In(stream.Signature(read_layout(config))),
                "chunks": Out(stream.Signature(chunk_layout(config, settings))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row, active, half = Signal.like(self.rows.payload, reset_less=True), Signal(), Signal(reset_less=True)
        held, held_valid = Signal.like(self.beats.payload, reset_less=True), Signal()
        end, straddles = Signal(range(2 * self._config.beat_bytes)), Signal()
        row_ends, take = Signal(), Signal()
        m.d.comb += [
            end.eq(row.offset + row.chunk_bytes),
            straddles.eq(end > self._config.beat_bytes),
            row_ends.eq(row.chunks == 1),
            take.eq(active & held_valid & (self.beats.valid | ~straddles) & (self.chunks.ready | ~self.chunks.valid)),
            self.rows.ready.eq(~active | (take & row_ends)),
            self.beats.ready.eq(~held_valid | (take & (row_ends | (end >= self._config.beat_bytes)))),
        ]
        with m.If(self.rows.ready):
            m.d.sync += [row.eq(self.rows.payload), half.eq(0), active.eq(self.rows.valid)]
        with m.Elif(take):
            m.d.sync += [
                row.offset.eq(end),
                row.chunks.eq(row.chunks - 1),
                row.base.eq(row.base + (half | ~row.pairs)),
                half.eq(row.pairs & ~half),
            ]
        with m.If(self.beats.ready):
            used_at_once = held_valid & row_ends & straddles
            m.d.sync += [held.eq(self.beats.payload), held_valid.eq(self.beats.valid & ~used_at_once)]
        error = held.resp[1] | (straddles & self.beats.payload.resp[1])
        window = Cat(held.data, self.beats.payload.data) >> (row.offset << 3)
        self._emit(m, take, row, half, row_ends & row.last, window, error)
        return m

    def _emit(
        self, m: Module, take: Value, row: data.View, half: Value, last: Value, window: Value, error: Value
    ) -> None:
        """Puts the chunk into the output register and gathers the block's errors."""
        chunk, valid = Signal.like(self.chunks.payload, reset_less=True), Signal()
        failed = Signal()
        m.d.comb += [self.chunks.payload.eq(chunk), self.chunks.valid.eq(valid)]
        with m.If(take):
            m.d.sync += [
                chunk.data.eq(window),
                chunk.address.eq(row.base),
                chunk.half.eq(half),
                chunk.last.eq(last),
                chunk.error.eq(failed | error),
                chunk.settings.eq(row.settings),
                valid.eq(1),
                failed.eq(Mux(last, 0, failed | error)),
            ]
        with m.Elif(self.chunks.ready):
            m.d.sync += valid.eq(0)
