"""From the used bandwidth to the section of what is available."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.monitor.settings import settings_layout
from tessera.rtl.traffic import MOST_SECTIONS, SECTION_BITS, THRESHOLDS, WINDOW_BYTES_BITS

HIGHEST_SECTION = MOST_SECTIONS - 1
"""The section while nothing is known of the bandwidth."""


class SectionRule(wiring.Component):
    """The section of the available bandwidth.

    ::

        available = max(peak - used, 0)
        section   = number of thresholds that are exceeded, at least 4 - sections

    A threshold that lies above the present section is exceeded only by more than ``hysteresis``, so that a section
    rises later than it falls.

    Members
    -------
    settings : In(settings_layout)
        Peak, thresholds, hysteresis and sections.
    clear : In(1)
        Sets the section to the highest one.
    cancel : In(1)
        The update that is under way has no effect.
    update : In(1)
        ``used`` is that of another window.
    used : In(WINDOW_BYTES_BITS)
        Bytes of the window.
    available : Out(WINDOW_BYTES_BITS)
        What the window had left; ``LATENCY`` cycles after ``update``.
    section : Out(SECTION_BITS)
        Its section; in the same cycle.
    changed : Out(1)
        1 for a cycle when a window has changed the section.
    """

    LATENCY = 2

    def __init__(self) -> None:
        super().__init__(
            {
                "settings": In(settings_layout()),
                "clear": In(1),
                "cancel": In(1),
                "update": In(1),
                "used": In(WINDOW_BYTES_BITS),
                "available": Out(WINDOW_BYTES_BITS),
                "section": Out(SECTION_BITS, init=HIGHEST_SECTION),
                "changed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        settings, compare = self.settings, Signal()
        left = Signal(WINDOW_BYTES_BITS)
        difference = Signal(WINDOW_BYTES_BITS + 1)
        m.d.comb += difference.eq(settings.peak - self.used)
        m.d.sync += [compare.eq(self.update & ~self.cancel), self.changed.eq(0)]
        with m.If(self.update):
            m.d.sync += left.eq(Mux(difference[-1], 0, difference))
        exceeded = []
        for index, threshold in enumerate(settings.thresholds):
            margin = Mux(self.section > index, 0, settings.hysteresis)
            exceeded.append((left > threshold + margin) | (settings.sections < MOST_SECTIONS - index))
        # A section is reached only through those below it, so that one threshold that is not exceeded ends the count.
        section = Signal(SECTION_BITS)
        for index in range(THRESHOLDS):
            with m.If(Cat(exceeded[: index + 1]).all()):
                m.d.comb += section.eq(index + 1)
        with m.If(compare & ~self.cancel):
            m.d.sync += [
                self.available.eq(left),
                self.section.eq(section),
                self.changed.eq(section != self.section),
            ]
        with m.If(self.clear):
            m.d.sync += self.section.eq(HIGHEST_SECTION)
        return m
