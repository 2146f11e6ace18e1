"""The bandwidth monitor."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.monitor.counters import ByteCounters, UsedBytes, WindowTimer, traffic_layout
from tessera.rtl.monitor.section import SectionRule
from tessera.rtl.monitor.settings import MonitorSettings, settings_layout
from tessera.rtl.traffic import SECTION_BITS, WINDOW_BYTES_BITS, TrafficSource

WINDOW_COUNT_BITS = 32
"""Bits of the number of windows."""


def findings_layout() -> data.StructLayout:
    """What the monitor has found in a window, the peaks in all windows; in bytes but for ``windows``, the number of
    complete windows since the settings were applied, and the section."""
    per_source = data.ArrayLayout(WINDOW_BYTES_BITS, len(TrafficSource))
    return data.StructLayout(
        {
            "windows": WINDOW_COUNT_BITS,
            "used": WINDOW_BYTES_BITS,
            "available": WINDOW_BYTES_BITS,
            "section": SECTION_BITS,
            "counts": per_source,
            "peaks": per_source,
        }
    )


class BandwidthMonitor(wiring.Component):
    """Counts the bytes on the memory bus per window and finds the section of what is left.

    Time is divided into windows whether the monitor is enabled or not; while it is not, it counts nothing, and the
    section is the highest. When settings are applied a new window begins, and the number of windows starts at 0; what
    was found last stays until that window is complete.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    new, apply, settings, refused
        See `MonitorSettings`.
    clear_peaks
        See `ByteCounters`.
    traffic : In(traffic_layout)
        What moves in this cycle.
    findings : Out(findings_layout)
        Those of the last complete window, all of the same cycle: from ``LATENCY`` cycles after its last one on.
    changed : Out(1)
        1 for a cycle when the section has changed.
    last : Out(1)
        1 in the last cycle of a window: as the traffic is counted.
    begins : Out(1)
        A window whose bytes are counted begins in the next cycle.
    shown : Out(1)
        1 for a cycle when the findings are those of another window.
    """

    LATENCY = 4

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "new": In(settings_layout()),
                "apply": In(1),
                "settings": Out(settings_layout()),
                "refused": Out(1),
                "clear_peaks": In(1),
                "traffic": In(traffic_layout()),
                "findings": Out(findings_layout()),
                "changed": Out(1),
                "last": Out(1),
                "begins": Out(1),
                "shown": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.settings = settings = MonitorSettings(self._config)
        m.submodules.timer = timer = WindowTimer()
        m.submodules.used = used = UsedBytes(self._config)
        m.submodules.counters = counters = ByteCounters(self._config)
        m.submodules.rule = rule = SectionRule()
        enabled, applied = settings.settings.enable, Signal()  # applied: the first cycle in which settings are in force
        m.d.sync += applied.eq(settings.applied)
        m.d.comb += [
            settings.new.eq(self.new),
            settings.apply.eq(self.apply),
            self.settings.eq(settings.settings),
            self.refused.eq(settings.refused),
            timer.window.eq(settings.settings.window),
            timer.restart.eq(applied),
            self.last.eq(timer.last),
            self.begins.eq(timer.last | timer.restart),
        ]
        cancel = settings.applied | applied  # what is under way belongs to a window of the settings before
        stages = self._delay(m, timer.last & enabled, applied, cancel)
        traffic, last, restart = stages[0]
        update = Signal()
        m.d.sync += update.eq(last)
        m.d.comb += [
            used.traffic.eq(traffic),
            used.last.eq(last),
            used.restart.eq(restart),
            used.counted.eq(settings.settings.counted),
            rule.settings.eq(settings.settings),
            rule.clear.eq(~enabled),
            rule.cancel.eq(cancel),
            rule.update.eq(update),
            rule.used.eq(used.used),
            self.changed.eq(rule.changed),
        ]
        traffic, last, restart = stages[-1]
        m.d.comb += [
            counters.traffic.eq(traffic),
            counters.last.eq(last & ~cancel),
            counters.restart.eq(restart),
            counters.clear_peaks.eq(self.clear_peaks),
        ]
        self._collect(m, used, counters, rule, complete=last & ~cancel, cancel=cancel)
        return m

    def _delay(self, m: Module, last: Value, restart: Value, cancel: Value) -> list[tuple[data.View, Value, Value]]:
        """What the counters see: the traffic, the ends of windows and the restarts, one more cycle late each time.

        The section takes longer than the counts, which therefore come later by as much.
        """
        traffic, stages = Signal(traffic_layout()), []
        m.d.comb += traffic.eq(self.traffic)
        with m.If(~self.settings.enable):
            m.d.comb += [traffic.other.eq(0), traffic.read.eq(0), traffic.write.eq(0)]
        for stage in range(1, self.LATENCY):
            earlier, traffic = traffic, Signal(traffic_layout(), name=f"traffic_{stage}")
            was_last, last = last, Signal(name=f"last_{stage}")
            was_restart, restart = restart, Signal(name=f"restart_{stage}")
            m.d.sync += [traffic.eq(earlier), last.eq(was_last & ~cancel), restart.eq(was_restart)]
            stages.append((traffic, last, restart))
        return stages

    def _collect(
        self, m: Module, used: UsedBytes, counters: ByteCounters, rule: SectionRule, *, complete: Value, cancel: Value
    ) -> None:
        """The findings of a window, all from the same cycle on."""
        shown_used, windows = Signal(WINDOW_BYTES_BITS), Signal(WINDOW_COUNT_BITS)
        m.d.sync += self.shown.eq(complete)
        with m.If(complete):
            m.d.sync += [shown_used.eq(used.used), windows.eq(windows + 1)]
        with m.If(cancel):
            m.d.sync += windows.eq(0)
        m.d.comb += [
            self.findings.windows.eq(windows),
            self.findings.used.eq(shown_used),
            self.findings.available.eq(rule.available),
            self.findings.section.eq(rule.section),
            self.findings.counts.eq(counters.counts),
            self.findings.peaks.eq(counters.peaks),
        ]
