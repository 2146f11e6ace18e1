"""The data of write bursts: after their addresses, and complete even where a stream has been stopped."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa
from tessera.rtl.axi import address_layout, write_layout
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.pack import packed_beat_layout
from tessera.rtl.stream_fifo import StreamFifo


class WriteData(wiring.Component):
    """Passes beats on when the address of their burst has been accepted. Combinational; latency 0.

    After ``stop`` the beats that the accepted bursts still lack are made up, with no byte enabled: AXI knows no way
    to take an address back. The beats of a context that has ``failed`` go out with no byte enabled, too, and of a block
    that is squashed the beats up to its last one are dropped.

    Parameters
    ----------
    config
        Sizes of the NPU.
    bursts
        Bursts whose data may be missing at a time.

    Members
    -------
    burst, burst_len : In(1), In(8)
        The address of a burst of ``burst_len + 1`` beats is accepted in this cycle.
    beats : In(stream of packed_beat_layout)
        The data; ``last`` is not looked at.
    w : Out(stream of write_layout)
        The data with ``last`` where a burst ends.
    stop : In(1)
        Ends the taking of ``beats``, until the next reset.
    failed : In(contexts)
        Contexts whose beats write nothing.
    squash : In(1)
        Beats are dropped; no burst lacks data.
    squashed : Out(1)
        The last beat of a block is dropped in this cycle.
    """

    def __init__(self, config: NpuConfig, *, bursts: int):
        self._bursts = bursts
        super().__init__(
            {
                "burst": In(1),
                "burst_len": In(address_layout()["len"].shape),
                "beats": In(stream.Signature(packed_beat_layout(config))),
                "w": Out(stream.Signature(write_layout(config))),
                "stop": In(1),
                "failed": In(isa.CONTEXTS),
                "squash": In(1),
                "squashed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.lengths = lengths = StreamFifo(len(self.burst_len), depth=self._bursts)
        sent, made_up, moves = Signal.like(self.burst_len), Signal(), Signal()
        beat, empty, was_empty, offered = self.beats.payload, Signal(), Signal(), Signal()
        m.d.comb += [
            empty.eq(Mux(offered, was_empty, made_up | self.failed.bit_select(beat.context, 1))),
            lengths.input.valid.eq(self.burst),
            lengths.input.payload.eq(self.burst_len),
            lengths.output.ready.eq(moves & self.w.payload.last),
            self.w.valid.eq(lengths.output.valid & (made_up | self.beats.valid)),
            self.w.payload.data.eq(Mux(made_up, 0, beat.data)),
            self.w.payload.strb.eq(Mux(empty, 0, beat.strb)),
            self.w.payload.last.eq(sent == lengths.output.payload),
            self.beats.ready.eq((lengths.output.valid & self.w.ready & ~made_up) | self.squash),
            self.squashed.eq(self.squash & self.beats.valid & beat.block_ends),
            moves.eq(self.w.valid & self.w.ready),
        ]
        # A beat that has been offered must stay as it is until it is accepted.
        m.d.sync += [offered.eq(self.w.valid & ~self.w.ready), was_empty.eq(empty)]
        with m.If(moves):
            m.d.sync += sent.eq(Mux(self.w.payload.last, 0, sent + 1))
        with m.If(self.stop & (~self.w.valid | self.w.ready)):
            m.d.sync += made_up.eq(1)
        return m
