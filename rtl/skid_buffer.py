"""A stream register whose ready depends on registers alone."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ShapeLike, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class SkidBuffer(wiring.Component):
    """Two registers that keep a stream at full speed and cut both of its paths. Latency 1 cycle.

    Parameters
    ----------
    shape
        Payload of the streams.

    Members
    -------
    input : In(stream)
        ``ready`` is a register's output.
    output : Out(stream)
        ``valid`` and ``payload`` are registers' outputs.
    """

    def __init__(self, shape: ShapeLike):
        self._shape = shape
        super().__init__({"input": In(stream.Signature(shape)), "output": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, held_valid = Signal(), Signal()
        payload = Signal(self._shape, reset_less=True)
        held = Signal(self._shape, reset_less=True)
        m.d.comb += [
            self.input.ready.eq(~held_valid),
            self.output.valid.eq(valid),
            self.output.payload.eq(payload),
        ]
        with m.If(~valid | self.output.ready):
            m.d.sync += [
                valid.eq(held_valid | self.input.valid),
                payload.eq(Mux(held_valid, held, self.input.payload)),
                held_valid.eq(0),
            ]
        with m.Elif(self.input.valid):
            m.d.sync += held_valid.eq(1)
        with m.If(~held_valid):
            m.d.sync += held.eq(self.input.payload)
        return m
