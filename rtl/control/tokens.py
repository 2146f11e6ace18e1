"""Token counters: how many instructions each unit has completed."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa


def token_counts() -> data.ArrayLayout:
    """A token counter value per unit."""
    return data.ArrayLayout(isa.TOKEN_BITS, len(isa.Unit))


class TokenCounters(wiring.Component):
    """One counter per unit, modulo ``2 ** isa.TOKEN_BITS``; what is counted shows in the next cycle.

    Members
    -------
    clear
        Sets all counters to 0 (start of a stream).
    done
        A bit per unit: it completes an instruction in this cycle.
    advance
        How far each counter is raised besides in this cycle.
    counts
        The counters.
    """

    def __init__(self) -> None:
        super().__init__(
            {"clear": In(1), "done": In(len(isa.Unit)), "advance": In(token_counts()), "counts": Out(token_counts())}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for unit in isa.Unit:
            m.d.sync += self.counts[unit].eq(self.counts[unit] + self.advance[unit] + self.done[unit])
        with m.If(self.clear):
            m.d.sync += self.counts.eq(0)
        return m
