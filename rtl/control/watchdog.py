"""Watchdog: notices that a stream does not move any more."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import WATCHDOG_BITS


class Watchdog(wiring.Component):
    """Counts the cycles without progress.

    Members
    -------
    limit : In(WATCHDOG_BITS)
        Cycles without progress that are too many; 0 switches the watchdog off.
    enable : In(1)
        Cycles count.
    progress : In(1)
        Something has moved in this cycle: the count begins again.
    held : In(1)
        The NPU itself holds back what would move: the cycle does not count.
    expired : Out(1)
        1 for a cycle after ``limit`` cycles that count, and again after as many more.
    """

    def __init__(self) -> None:
        super().__init__(
            {"limit": In(WATCHDOG_BITS), "enable": In(1), "progress": In(1), "held": In(1), "expired": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(WATCHDOG_BITS)
        last = count >= self.limit - 1
        m.d.sync += self.expired.eq(0)
        with m.If(~self.enable | self.progress | self.expired | (self.limit == 0)):
            m.d.sync += count.eq(0)
        with m.Elif(~self.held):
            m.d.sync += [self.expired.eq(last), count.eq(Mux(last, 0, count + 1))]
        return m
