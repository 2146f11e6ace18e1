"""The bandwidth monitor against its reference, cycle by cycle: bytes of every window, peaks, sections, settings."""

from __future__ import annotations

import random
import re
from dataclasses import asdict, dataclass, field, replace

import pytest
from amaranth.sim import SimulatorContext
from block_simulation import simulate

from tessera.rtl.config import NpuConfig
from tessera.rtl.monitor import BandwidthMonitor
from tessera.rtl.monitor.section import SectionRule
from tessera.rtl.monitor.settings import MonitorSettings
from tessera.rtl.traffic import OWN_IDS, THRESHOLDS, WINDOW_BYTES_BITS, TrafficSource
from tessera.sim.bandwidth import HIGHEST_SECTION, WindowSettings

TINY = NpuConfig.preset("tiny")
SOURCES = len(TrafficSource)


def settings_value(settings: WindowSettings) -> dict[str, object]:
    """What a port of settings is set to."""
    return {**asdict(settings), "thresholds": list(settings.thresholds)}


def random_settings(rng: random.Random, beat_bytes: int) -> WindowSettings:
    """Settings of short windows, valid ones and others; the thresholds are of the size of what moves in a window."""
    window = rng.choice((3, 4, 4, 5, 5, 6, 7, 21))
    peak = rng.choice((0, (beat_bytes + 16) << window, rng.randrange(1, 64 << window)))
    around = peak or beat_bytes << window
    thresholds = [rng.randrange(around) for _ in range(THRESHOLDS)]
    if rng.random() < 0.8:
        thresholds.sort()
    return WindowSettings(
        enable=rng.random() < 0.9,
        window=window,
        sections=rng.choice((1, 2, 3, 4, 4, 4, 4, 5)),
        counted=rng.getrandbits(SOURCES),
        peak=peak,
        hysteresis=rng.choice((0, 0, rng.randrange(around // 4 + 1))),
        thresholds=rng.choice(((0,) * THRESHOLDS, tuple(thresholds), tuple(thresholds))),
    )


@dataclass
class Reference:
    """The monitor as its description has it: what its outputs are, cycle by cycle."""

    settings: WindowSettings
    beat_bytes: int
    left: int = 0
    windows: int = 0
    section: int = HIGHEST_SECTION
    used: int = 0
    available: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * SOURCES)
    shown: list[int] = field(default_factory=lambda: [0] * SOURCES)
    peaks: list[int] = field(default_factory=lambda: [0] * SOURCES)
    under_way: list[tuple[int, list[int]]] = field(default_factory=list)

    def apply(self, settings: WindowSettings) -> None:
        """The settings are in force from this cycle on."""
        self.settings, self.windows = settings, 0
        self.under_way.clear()

    def show(self, cycle: int) -> bool:
        """What is shown in this cycle, whether it is of another window."""
        if not (self.under_way and self.under_way[0][0] + BandwidthMonitor.LATENCY == cycle):
            return False
        _, self.shown = self.under_way.pop(0)
        self.windows += 1
        self.peaks = [max(pair) for pair in zip(self.peaks, self.shown, strict=True)]
        self.used = sum(count for source, count in enumerate(self.shown) if self.settings.counted >> source & 1)
        self.available = self.settings.available(self.used)
        self.section = self.settings.section(self.available, self.section)
        return True

    def step(self, cycle: int, moved: list[int], restart: bool) -> bool:
        """What moves in this cycle; whether the cycle is the last one of a window."""
        last = self.left == 0
        if self.settings.enable:
            self.counts = [count + size for count, size in zip(self.counts, moved, strict=True)]
        if last and self.settings.enable and not restart:
            self.under_way.append((cycle, self.counts))
        if last or restart:
            self.counts = [0] * SOURCES
            self.left = (1 << self.settings.window) - 1
        else:
            self.left -= 1
        if not self.settings.enable:
            self.section = HIGHEST_SECTION
        return last


def random_traffic(rng: random.Random, density: float, beat_bytes: int) -> tuple[dict[str, int], list[int]]:
    """What moves in a cycle, as the monitor sees it and as bytes of each source."""
    traffic = {
        "other": int(rng.random() < density),
        "other_id": rng.randrange(4),
        "other_bytes": rng.choice((0, 1, 16, beat_bytes, 255)),
        "read": int(rng.random() < density),
        "read_id": rng.randrange(OWN_IDS - 1),
        "write": int(rng.random() < density),
    }
    moved = [0] * SOURCES
    moved[traffic["other_id"]] += traffic["other"] * traffic["other_bytes"]
    moved[TrafficSource.FETCH + traffic["read_id"]] += traffic["read"] * beat_bytes
    moved[TrafficSource.STORE] += traffic["write"] * beat_bytes
    return traffic, moved


@pytest.mark.parametrize("seed", range(4))
def test_monitor(seed: int) -> None:
    """Random traffic, in windows that begin and end with and without it, and settings that change at any time."""
    rng, dut = random.Random(seed), BandwidthMonitor(TINY)
    beat_bytes = TINY.beat_bytes
    reference = Reference(WindowSettings().in_force(beat_bytes), beat_bytes)
    seen: set[int] = set()
    complete = refused = 0

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal complete, refused
        given, applies, density = WindowSettings(), -MonitorSettings.LATENCY - 1, 0.5
        for cycle in range(3000):
            if cycle == applies + MonitorSettings.LATENCY:
                in_force = _in_force(given, beat_bytes)
                if in_force is not None:
                    reference.apply(in_force)
            restart = cycle == applies + MonitorSettings.LATENCY and in_force is not None
            shown = reference.show(cycle)
            from_end = min(reference.left, (1 << reference.settings.window) - reference.left)
            often = 0.05 if from_end < 2 * BandwidthMonitor.LATENCY else 0.004
            apply = cycle > applies + MonitorSettings.LATENCY and rng.random() < often
            if apply:
                given, applies = random_settings(rng, beat_bytes), cycle
                ctx.set(dut.new, settings_value(given))
            ctx.set(dut.apply, apply)
            clear = rng.random() < 0.01 and not shown
            ctx.set(dut.clear_peaks, clear)
            density = rng.choice((0.0, 0.2, 0.6, 1.0)) if rng.random() < 0.05 else density
            traffic, moved = random_traffic(rng, density, beat_bytes)
            ctx.set(dut.traffic, traffic)
            where = f"seed {seed}, cycle {cycle}"
            if cycle < applies + 4 or cycle % 16 == 0:
                assert ctx.get(dut.settings) == settings_value(reference.settings), where
            assert _findings(ctx, dut) == _expected(reference), where
            assert ctx.get(dut.shown) == shown, where
            refuses = cycle == applies + 1 and _in_force(given, beat_bytes) is None
            assert ctx.get(dut.refused) == refuses, where
            last = reference.step(cycle, moved, restart)
            assert (ctx.get(dut.last), ctx.get(dut.begins)) == (last, last or restart), where
            complete += shown
            refused += refuses
            seen.add(reference.section)
            if clear:
                reference.peaks = [0] * SOURCES
            await ctx.tick()

    simulate(dut, bench)
    print(f"seed {seed}: {complete} windows, {refused} settings refused")
    assert complete > 20 and refused > 2 and len(seen) > 2


def _in_force(settings: WindowSettings, beat_bytes: int) -> WindowSettings | None:
    try:
        return settings.in_force(beat_bytes)
    except ValueError:
        return None


def _findings(ctx: SimulatorContext, dut: BandwidthMonitor) -> dict[str, object]:
    found = dut.findings
    scalars = {name: ctx.get(found[name]) for name in ("windows", "used", "available", "section")}
    return {**scalars, "counts": list(ctx.get(found.counts)), "peaks": list(ctx.get(found.peaks))}


def _expected(reference: Reference) -> dict[str, object]:
    return {
        "windows": reference.windows,
        "used": reference.used,
        "available": reference.available,
        "section": reference.section,
        "counts": reference.shown,
        "peaks": reference.peaks,
    }


def test_defaults_of_every_preset() -> None:
    """After reset, before anything is written, peak and thresholds are what zeros stand for."""
    for name in ("tiny", "edge", "server"):
        config = NpuConfig.preset(name)
        dut = MonitorSettings(config)
        default = WindowSettings().in_force(config.beat_bytes)
        peak = config.beat_bytes << default.window
        assert default.thresholds == (peak // 4, peak // 2, peak * 3 // 4)

        async def bench(ctx: SimulatorContext, dut: MonitorSettings = dut, default: WindowSettings = default) -> None:
            assert ctx.get(dut.settings) == settings_value(default)

        simulate(dut, bench)


@pytest.mark.parametrize("unit", [1, ((1 << WINDOW_BYTES_BITS) - 1) // 1000])
@pytest.mark.parametrize("present", range(4))
def test_every_edge_of_the_sections(present: int, unit: int) -> None:
    """A byte more or less at each threshold and at its hysteresis, from each section, with each number of sections, for
    small numbers and the largest ones."""
    dut = SectionRule()
    peak, thresholds = 1000 * unit, (100 * unit, 400 * unit, 800 * unit)
    settings = replace(WindowSettings(peak=peak, hysteresis=7, thresholds=thresholds), enable=True)
    edges = [threshold + margin + step for threshold in settings.thresholds for margin in (0, 7) for step in (-1, 0, 1)]

    async def bench(ctx: SimulatorContext) -> None:
        for sections in (2, 3, 4):
            chosen = replace(settings, sections=sections)
            ctx.set(dut.settings, settings_value(chosen))
            for available in [0, peak, *edges]:
                section = HIGHEST_SECTION
                ctx.set(dut.clear, 1)
                await ctx.tick()
                ctx.set(dut.clear, 0)
                # A way to the present section that hysteresis does not bar: down.
                for left in ([0, *(threshold + 1 for threshold in thresholds)][present], available):
                    ctx.set(dut.used, peak - left)
                    ctx.set(dut.update, 1)
                    await ctx.tick()
                    ctx.set(dut.update, 0)
                    await ctx.tick()
                    before, section = section, chosen.section(left, section)
                    assert ctx.get(dut.section) == section, (sections, available)
                    assert ctx.get(dut.available) == left
                    assert ctx.get(dut.changed) == (section != before)

    simulate(dut, bench)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 3}, "a window of the bandwidth monitor has from 16 to 1048576 cycles, not 2 to the power of 3"),
        ({"window": 21}, "a window of the bandwidth monitor has from 16 to 1048576 cycles, not 2 to the power of 21"),
        ({"sections": 5}, "the available bandwidth has from 2 to 4 sections, not 5"),
        (
            {"thresholds": (5, 4, 9)},
            "the thresholds of the available bandwidth must not fall, but they are 5, 4, 9",
        ),
        (
            {"peak": 100, "thresholds": (5, 40, 90), "hysteresis": 10},
            "the highest threshold (90) and the hysteresis (10) must together be less than the peak (100 bytes per "
            "window), or a free bus would not lead back to the highest section",
        ),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WindowSettings(**changes).in_force(8)  # type: ignore[arg-type]
