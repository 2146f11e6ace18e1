"""Contexts of a stream: whose errors stop it, and what became of the others."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa
from tessera.rtl.control.sequencer import failure_layout

EVENTS = 2
"""Units that use the bus, each of which may fail in any cycle: loads, stores."""


def event_layout() -> data.StructLayout:
    """A failure of a transfer, and the transfer's context; ``code`` is ``NONE`` where there is none."""
    return data.StructLayout({"failure": failure_layout(), "context": isa.CONTEXT_BITS})


class Contexts(wiring.Component):
    """Keeps the errors of the contexts that contain them, and passes the others on.

    The first error of a context that contains its errors is kept until the next start; later ones are ignored.

    Members
    -------
    start
        A stream starts: ``contain`` is taken over, and nothing has failed.
    contain
        A bit per context: its errors do not stop the stream.
    events
        What has failed in this cycle.
    stored, stored_context
        In this cycle a store is completed that finishes something, and for which context.
    failure
        An error that stops the stream, in the cycle of its event.
    failed
        A bit per context: it has an error. One cycle after the event.
    errors
        The error of each context.
    raised, finished
        A bit per context: its first error is found, such a store is completed, in this cycle. A context with an error
        finishes nothing.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "contain": In(isa.CONTEXTS),
                "events": In(data.ArrayLayout(event_layout(), EVENTS)),
                "stored": In(1),
                "stored_context": In(isa.CONTEXT_BITS),
                "failure": Out(failure_layout()),
                "failed": Out(isa.CONTEXTS),
                "errors": Out(data.ArrayLayout(failure_layout(), isa.CONTEXTS)),
                "raised": Out(isa.CONTEXTS),
                "finished": Out(isa.CONTEXTS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        contained, found = Signal(isa.CONTEXTS), Signal(isa.CONTEXTS)
        for event in self.events:
            with m.If(event.failure.code != isa.ErrorCode.NONE):
                with m.If(contained.bit_select(event.context, 1)):
                    m.d.comb += found.bit_select(event.context, 1).eq(1)
                with m.Else():
                    m.d.comb += self.failure.eq(event.failure)
        for context in range(isa.CONTEXTS):
            self._keep(m, context, found[context])
        with m.If(self.stored):
            m.d.comb += self.finished.bit_select(self.stored_context, 1).eq(
                ~(self.failed | found).bit_select(self.stored_context, 1)
            )
        with m.If(self.start):
            m.d.sync += [contained.eq(self.contain), self.failed.eq(0), self.errors.eq(0)]
        return m

    def _keep(self, m: Module, context: int, found: Signal) -> None:
        """Notes a context's first error."""
        with m.If(found & ~self.failed[context]):
            m.d.comb += self.raised[context].eq(1)
            m.d.sync += self.failed[context].eq(1)
            for event in self.events:
                with m.If((event.failure.code != isa.ErrorCode.NONE) & (event.context == context)):
                    m.d.sync += self.errors[context].eq(event.failure)
