"""From chunks of an element's bytes to bus beats with byte strobes, wherever a row begins."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa
from tessera.rtl.axi import write_layout
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.interfaces import address_bits


def packed_layout(config: NpuConfig) -> data.StructLayout:
    """``chunk_bytes`` bytes (at most a beat) from bit 0 of ``data``; the bits above are 0.

    ``first`` and ``last`` mark the chunks of a row; a row begins at the DRAM address ``address`` (modulo the longest
    burst, which is all that matters here). ``block_ends`` marks the last chunk of a block, of the context ``context``.
    """
    return data.StructLayout(
        {
            "data": config.axi_data_bits,
            "chunk_bytes": range(config.beat_bytes + 1),
            "address": address_bits(AXI_BURST_BYTES),
            "first": 1,
            "last": 1,
            "block_ends": 1,
            "context": isa.CONTEXT_BITS,
        }
    )


def packed_beat_layout(config: NpuConfig) -> data.StructLayout:
    """A beat of write data, its context, and a mark of the block's last beat."""
    members = {name: field.shape for name, field in write_layout(config)}
    return data.StructLayout({**members, "block_ends": 1, "context": isa.CONTEXT_BITS})


class Packer(wiring.Component):
    """Joins the chunks of each row to beats. Latency 1 cycle; one chunk or one beat per cycle.

    Strobes are 1 for the bytes of the row alone. Beats are marked ``last`` where :class:`BurstSplitter` ends a
    burst. A row whose last chunk straddles two beats takes one cycle for each.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    chunks : In(stream of packed_layout)
    beats : Out(stream of packed_beat_layout)
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "chunks": In(stream.Signature(packed_layout(config))),
                "beats": Out(stream.Signature(packed_beat_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat_bytes, beat_bits = self._config.beat_bytes, address_bits(self._config.beat_bytes)
        chunk = self.chunks.payload
        position = Signal(address_bits(AXI_BURST_BYTES), reset_less=True)
        start, end = Signal.like(position), Signal(range(2 * beat_bytes))
        take, emit, move, rest_follows = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            move.eq(self.beats.ready | ~self.beats.valid),
            self.chunks.ready.eq(move & ~rest_follows),
            take.eq(self.chunks.valid & self.chunks.ready),
            start.eq(Mux(rest_follows | ~chunk.first, position, chunk.address)),
            end.eq(start[:beat_bits] + chunk.chunk_bytes),
            emit.eq(rest_follows | (take & (chunk.last | (end >= beat_bytes)))),
        ]
        with m.If(take):
            m.d.sync += [position.eq(start + chunk.chunk_bytes), rest_follows.eq(chunk.last & (end > beat_bytes))]
        with m.Elif(move):
            m.d.sync += rest_follows.eq(0)
        row_ends = rest_follows | (chunk.last & (end <= beat_bytes))
        burst_ends = (start >> beat_bits) == self._config.burst_beats - 1
        data_and_strobes = self._gather(m, take, rest_follows & move, emit, start[:beat_bits])
        block_ends, context = self._block_marks(m, take)
        beat, valid = Signal.like(self.beats.payload, reset_less=True), Signal()
        m.d.comb += [self.beats.payload.eq(beat), self.beats.valid.eq(valid)]
        with m.If(move):
            m.d.sync += valid.eq(emit)
        with m.If(move & emit):
            m.d.sync += [Cat(beat.data, beat.strb).eq(data_and_strobes), beat.last.eq(row_ends | burst_ends)]
            m.d.sync += [beat.block_ends.eq(row_ends & block_ends), beat.context.eq(context)]
        return m

    def _block_marks(self, m: Module, take: Value) -> tuple[Value, Value]:
        """Whether the last chunk that was taken ends its block, and its context."""
        chunk = self.chunks.payload
        block_ends, context = Signal(), Signal.like(chunk.context)
        with m.If(take):
            m.d.sync += [block_ends.eq(chunk.block_ends), context.eq(chunk.context)]
        return Mux(take, chunk.block_ends, block_ends), Mux(take, chunk.context, context)

    def _gather(self, m: Module, take: Value, flush: Value, emit: Value, offset: Value) -> Value:
        """Shifts each chunk to its place beside the bytes that wait for the rest of their beat.

        Returns the beat with its strobes. ``flush``: the waiting bytes go alone.
        """
        bits, beat_bytes = self._config.axi_data_bits, self._config.beat_bytes
        chunk = self.chunks.payload
        waiting, waiting_strobes = Signal(bits), Signal(beat_bytes)
        window, strobes = Signal(2 * bits), Signal(2 * beat_bytes)
        m.d.comb += [
            window.eq(Mux(take, chunk.data << (offset << 3), 0)),
            strobes.eq(Mux(take, ((1 << chunk.chunk_bytes) - 1) << offset, 0)),
        ]
        joined = Cat(waiting | window[:bits], waiting_strobes | strobes[:beat_bytes])
        with m.If(take):
            m.d.sync += Cat(waiting, waiting_strobes).eq(Mux(emit, Cat(window[bits:], strobes[beat_bytes:]), joined))
        with m.Elif(flush):
            m.d.sync += Cat(waiting, waiting_strobes).eq(0)
        return joined
