"""The settings of the bandwidth monitor: checked as a whole before they are in force."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from tessera.rtl.config import NpuConfig
from tessera.rtl.traffic import (
    DEFAULT_WINDOW,
    LEAST_SECTIONS,
    LEAST_WINDOW,
    MOST_SECTIONS,
    MOST_WINDOW,
    OTHER_SOURCES,
    THRESHOLDS,
    WINDOW_BITS,
    WINDOW_BYTES_BITS,
    TrafficSource,
    mask_of,
)


def settings_layout() -> data.StructLayout:
    """Settings of the monitor; ``peak``, ``hysteresis`` and ``thresholds`` are in bytes per window."""
    return data.StructLayout(
        {
            "enable": 1,
            "window": WINDOW_BITS,
            "sections": MOST_SECTIONS.bit_length(),
            "counted": len(TrafficSource),
            "peak": WINDOW_BYTES_BITS,
            "hysteresis": WINDOW_BYTES_BITS,
            "thresholds": data.ArrayLayout(WINDOW_BYTES_BITS, THRESHOLDS),
        }
    )


class MonitorSettings(wiring.Component):
    """Takes over new settings if they make sense, and keeps those that are in force if not.

    A peak of 0 stands for a beat of the NPU's bus in each cycle, and thresholds that are all 0 for one, two and three
    quarters of the peak. With fewer than four sections the lowest ones are left out, and with them the lowest
    thresholds. Settings make sense if

    - the window is from ``2 ** LEAST_WINDOW`` to ``2 ** MOST_WINDOW`` cycles,
    - there are from 2 to 4 sections,
    - the thresholds that are used do not fall, and
    - the highest threshold and the hysteresis together are less than the peak, so that a free bus always leads back to
      the highest section.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    new : In(settings_layout)
        The new settings.
    apply : In(1)
        Take them over, ``LATENCY`` cycles later, if they make sense.
    settings : Out(settings_layout)
        Those in force, with numbers in place of zeros that stand for defaults.
    applied, refused : Out(1)
        1 for the cycle before settings come into force, and instead of that.
    """

    LATENCY = 2

    def __init__(self, config: NpuConfig):
        self._beat_bits = exact_log2(config.beat_bytes)
        thresholds = [config.beat_bytes * quarter << (DEFAULT_WINDOW - 2) for quarter in (1, 2, 3)]
        default = {
            "window": DEFAULT_WINDOW,
            "sections": MOST_SECTIONS,
            "counted": mask_of(OTHER_SOURCES),
            "peak": config.beat_bytes << DEFAULT_WINDOW,
            "thresholds": thresholds,
        }
        super().__init__(
            {
                "new": In(settings_layout()),
                "apply": In(1),
                "settings": Out(settings_layout(), init=default),
                "applied": Out(1),
                "refused": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        new, peak, checked = self.new, Signal(WINDOW_BYTES_BITS), Signal()
        whole_bus = Const(1 << self._beat_bits, WINDOW_BYTES_BITS) << new.window
        m.d.sync += [checked.eq(self.apply), peak.eq(Mux(new.peak.any(), new.peak, whole_bus))]
        thresholds = self._thresholds(m, peak)
        valid = self._is_valid(peak, thresholds)
        m.d.comb += [self.applied.eq(checked & valid), self.refused.eq(checked & ~valid)]
        with m.If(self.applied):
            m.d.sync += [self.settings.eq(new), self.settings.peak.eq(peak), self.settings.thresholds.eq(thresholds)]
        return m

    def _thresholds(self, m: Module, peak: Value) -> data.View:
        """The new thresholds, or quarters of the peak."""
        thresholds = Signal(data.ArrayLayout(WINDOW_BYTES_BITS, THRESHOLDS))
        half, quarter = peak[1:], peak[2:]
        quarters = (quarter, half, peak - quarter - (peak[:2].any()))  # rounded down, all of them
        given = self.new.thresholds.as_value().any()
        for threshold, new, default in zip(thresholds, self.new.thresholds, quarters, strict=True):
            m.d.comb += threshold.eq(Mux(given, new, default))
        return thresholds

    def _is_valid(self, peak: Value, thresholds: data.View) -> Value:
        new = self.new
        window = (new.window >= LEAST_WINDOW) & (new.window <= MOST_WINDOW)
        sections = (new.sections >= LEAST_SECTIONS) & (new.sections <= MOST_SECTIONS)
        in_order = [
            (thresholds[index] <= thresholds[index + 1]) | (new.sections < MOST_SECTIONS - index)
            for index in range(THRESHOLDS - 1)
        ]
        return Cat(window, sections, *in_order, thresholds[-1] + new.hysteresis < peak).all()
