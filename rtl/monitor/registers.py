"""Joins the monitor, the regulator and the activity counters to their registers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.monitor.activity import UNIT_COUNTS, activity_layout
from tessera.rtl.monitor.bandwidth import BandwidthMonitor, findings_layout
from tessera.rtl.monitor.regulator import BandwidthRegulator
from tessera.rtl.traffic import THRESHOLDS, TrafficSource


def connect_monitor(m: Module, fields: Any, monitor: BandwidthMonitor) -> None:
    """Settings, commands and status of the monitor; ``fields`` are the ports of the registers ``monitor``."""
    for register, value in _settings_fields(fields, monitor.new):
        m.d.comb += value.eq(register.value)
    for register, value in _settings_fields(fields.in_force, monitor.settings):
        m.d.comb += register.value.eq(value)
    m.d.comb += [
        monitor.apply.eq(fields.command.apply.value),
        monitor.clear_peaks.eq(fields.command.clear_peaks.value),
        fields.status.section.value.eq(monitor.findings.section),
        fields.status.error.set.eq(monitor.refused),
        fields.status.changed.set.eq(monitor.changed),
    ]


def _settings_fields(fields: Any, settings: data.View) -> list[tuple[Any, Value]]:
    """The fields of settings, and what they hold."""
    pairs = [(getattr(fields.control, name), settings[name]) for name in ("enable", "window", "sections")]
    pairs += [(fields.counted.sources, settings.counted)]
    pairs += [(fields.peak.bytes, settings.peak), (fields.hysteresis.bytes, settings.hysteresis)]
    return pairs + [(fields.threshold[index].bytes, settings.thresholds[index]) for index in range(THRESHOLDS)]


def connect_regulator(m: Module, fields: Any, regulator: BandwidthRegulator, *, clear: Value) -> None:
    """Limits, and counters that ``clear`` sets to 0; ``fields`` are the ports of the registers ``regulator``."""
    for axi_id, limit in enumerate(regulator.limits):
        held = fields.held[axi_id].cycles
        m.d.comb += [
            limit.eq(fields.limit[axi_id].bytes.value),
            held.increment.eq(regulator.held[axi_id]),
            held.clear.eq(clear),
        ]


class Snapshot(wiring.Component):
    """Keeps what the monitor and the activity counters show in one cycle.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    take : In(1)
        Keep what is shown in this cycle.
    findings, activity : In
    kept_findings, kept_activity : Out
        From the next cycle on.
    """

    def __init__(self, config: NpuConfig):
        findings, activity = findings_layout(), activity_layout(config.lanes)
        super().__init__(
            {
                "take": In(1),
                "findings": In(findings),
                "activity": In(activity),
                "kept_findings": Out(findings),
                "kept_activity": Out(activity),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.take):
            m.d.sync += [self.kept_findings.eq(self.findings), self.kept_activity.eq(self.activity)]
        return m


def connect_snapshot(m: Module, fields: Any, snapshot: Snapshot) -> None:
    """What was kept, and when it is to be; ``fields`` are the ports of all registers."""
    findings, activity = snapshot.kept_findings, snapshot.kept_activity
    shown = fields.monitor.snapshot
    m.d.comb += [
        snapshot.take.eq(fields.monitor.command.snapshot.value),
        shown.windows.count.value.eq(findings.windows),
        shown.used.bytes.value.eq(findings.used),
        shown.available.bytes.value.eq(findings.available),
        shown.section.index.value.eq(findings.section),
    ]
    for source in TrafficSource:
        m.d.comb += [
            shown.source[source].bytes.value.eq(findings.counts[source]),
            shown.source_peak[source].bytes.value.eq(findings.peaks[source]),
        ]
    for name in UNIT_COUNTS:
        m.d.comb += getattr(fields.activity, name).value.value.eq(activity[name])
    for lane, count in enumerate(activity.multiplying):
        m.d.comb += fields.activity.multiplying[lane].value.value.eq(count)
