"""AXI4-Lite slave: turns the bus into single-cycle accesses to 32-bit words."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.axi import LITE_ADDRESS_BITS, LITE_DATA_BITS, OKAY, AxiLite
from tessera.rtl.control.register_map import WORD_BYTES

DECERR = 0b11
"""Response code of an access to an address where nothing is."""


class AxiLiteSlave(wiring.Component):
    """Serves one write and one read at a time, independently of each other.

    Write address and data may come in any order. A write is performed in the first cycle in which both are there
    and the previous response has been taken; a read as soon as the previous data has been taken. No output depends
    on an input in the same cycle.
    Address bits below a word are ignored.

    Members
    -------
    axi
        The bus.
    write_enable, write_address, write_data, write_mask
        A write in this cycle: word address, data, and a 1 for each bit that is written.
    write_hit
        Answer in the same cycle: there is a register at ``write_address``.
    read_enable, read_address
        A read in this cycle: word address.
    read_data, read_hit
        Answer in the same cycle: the register's value, and whether there is one.
    """

    def __init__(self) -> None:
        word_address = LITE_ADDRESS_BITS - (WORD_BYTES.bit_length() - 1)
        super().__init__(
            {
                "axi": In(AxiLite()),
                "write_enable": Out(1),
                "write_address": Out(word_address),
                "write_data": Out(LITE_DATA_BITS),
                "write_mask": Out(LITE_DATA_BITS),
                "write_hit": In(1),
                "read_enable": Out(1),
                "read_address": Out(word_address),
                "read_data": In(LITE_DATA_BITS),
                "read_hit": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        aw, w, b, ar, r = self.axi.aw, self.axi.w, self.axi.b, self.axi.ar, self.axi.r
        aw_held = Signal()
        w_held = Signal()
        address = Signal.like(aw.payload)
        word = Signal.like(w.payload)
        offset = WORD_BYTES.bit_length() - 1

        # One write is held until both of its halves have come; the slave is then ready for the next one.
        m.d.comb += [aw.ready.eq(~aw_held), w.ready.eq(~w_held)]
        with m.If(aw.valid & aw.ready):
            m.d.sync += [address.eq(aw.payload), aw_held.eq(1)]
        with m.If(w.valid & w.ready):
            m.d.sync += [word.eq(w.payload), w_held.eq(1)]
        m.d.comb += [
            self.write_enable.eq(aw_held & w_held & (~b.valid | b.ready)),
            self.write_address.eq(address.addr[offset:]),
            self.write_data.eq(word.data),
            self.write_mask.eq(Cat(bit.replicate(8) for bit in word.strb)),
        ]
        with m.If(b.ready):
            m.d.sync += b.valid.eq(0)
        with m.If(self.write_enable):
            m.d.sync += [
                aw_held.eq(0),
                w_held.eq(0),
                b.valid.eq(1),
                b.payload.resp.eq(Mux(self.write_hit, OKAY, DECERR)),
            ]

        m.d.comb += [
            ar.ready.eq(~r.valid),
            self.read_enable.eq(ar.valid & ar.ready),
            self.read_address.eq(ar.payload.addr[offset:]),
        ]
        with m.If(r.ready):
            m.d.sync += r.valid.eq(0)
        with m.If(self.read_enable):
            m.d.sync += [
                r.valid.eq(1),
                r.payload.data.eq(self.read_data),
                r.payload.resp.eq(Mux(self.read_hit, OKAY, DECERR)),
            ]
        return m
