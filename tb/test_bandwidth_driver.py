"""The driver of the bandwidth monitor on a modelled NPU, the settings that it refuses, and load profiles."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tessera.firmware.bandwidth import Monitor, MonitorError, MonitorSettings, Regulator
from tessera.firmware.modelled.bus import ModelBus
from tessera.firmware.register_access import RegisterAccess
from tessera.rtl.config import NpuConfig
from tessera.rtl.traffic import OTHER_SOURCES, TrafficSource
from tessera.sim.bandwidth import HIGHEST_SECTION, WindowSettings
from tessera.sim.cosim.load_profile import LoadProfile, LoadStep
from tessera.sim.cosim.traffic import TrafficWindow

TINY = NpuConfig.preset("tiny")


def test_settings_in_bytes_per_cycle() -> None:
    """Two thresholds make three sections, the highest ones; what is not given has its default."""
    settings = MonitorSettings(window=256, peak=44.0, thresholds=(11.0, 33.0), hysteresis=0.5)
    assert settings.per_window() == WindowSettings(
        True, 8, 3, 0b1111, peak=44 * 256, hysteresis=128, thresholds=(0, 11 * 256, 33 * 256)
    )
    default = MonitorSettings().per_window().in_force(TINY.beat_bytes)
    peak = TINY.beat_bytes * 1024
    assert (default.peak, default.thresholds) == (peak, (peak // 4, peak // 2, peak * 3 // 4))
    assert MonitorSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "a window of the bandwidth monitor is a power of two from 16 to 1048576 cycles, not 0"),
        ({"window": 1000}, "a window of the bandwidth monitor is a power of two from 16 to 1048576 cycles, not 1000"),
        ({"peak": 0.0}, "the peak bandwidth must be positive, not 0.0 bytes per cycle"),
        ({"hysteresis": -1.0}, "the hysteresis of the bandwidth must not be negative, not -1.0"),
        ({"thresholds": ()}, "the bandwidth has from 1 to 3 thresholds, not 0"),
        (
            {"thresholds": (2.0, 1.0, 3.0)},
            "thresholds of the bandwidth must be positive and must not fall, but they are 2.0, 1.0, 3.0 bytes per "
            "cycle",
        ),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MonitorSettings(**changes)


def test_settings_that_this_npu_cannot_have() -> None:
    """They are refused before anything is written."""

    async def check() -> None:
        bus = ModelBus(TINY)
        before = await Monitor(bus).in_force()
        message = (
            "the highest threshold (8192) and the hysteresis (0) must together be less than the peak (8192 bytes per "
            "window), or a free bus would not lead back to the highest section"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            await Monitor(bus).configure(MonitorSettings(thresholds=(1.0, 2.0, float(TINY.beat_bytes))))
        message = "the peak of 1000000.0 bytes per cycle is too large for windows of 1024 cycles; the most is 524288"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            await Monitor(bus).configure(MonitorSettings(peak=1e6))
        assert await Monitor(bus).in_force() == before
        assert await RegisterAccess(bus).read("monitor.control") == await RegisterAccess(ModelBus(TINY)).read(
            "monitor.control"
        )

    asyncio.run(check())


def test_configured_on_a_free_bus() -> None:
    """Windows pass, the section is the highest, and what is in force is what was asked for."""

    async def check() -> None:
        bus = ModelBus(TINY)
        monitor = Monitor(bus)
        settings = MonitorSettings(window=64, peak=10.0, counted=[TrafficSource.OTHER1, TrafficSource.LOAD])
        await monitor.configure(settings, interrupt=True)
        assert await monitor.in_force() == settings.per_window().in_force(TINY.beat_bytes)
        assert (await monitor.in_force()).counted == 0b0100010
        await bus.interrupt_within(64 * 7)
        findings = await monitor.findings()
        assert findings.windows >= 7
        assert (findings.section, await monitor.section()) == (HIGHEST_SECTION, HIGHEST_SECTION)
        assert (findings.available, findings.available_rate, findings.used) == (640, 10.0, 0)
        assert not any((findings.own_reads, findings.own_writes, *findings.bytes.values(), *findings.peaks.values()))
        assert not await monitor.acknowledge()
        await monitor.clear_peaks()
        await monitor.disable()
        assert await monitor.in_force() == WindowSettings().in_force(TINY.beat_bytes)
        assert (await monitor.findings()).windows == 0
        assert (await monitor.activity()).cycles == 0

    asyncio.run(check())


def test_settings_written_by_hand() -> None:
    """What makes no sense is noted, and changes nothing; the note stays until it is cleared."""

    async def check() -> None:
        bus = ModelBus(TINY)
        monitor, registers = Monitor(bus), RegisterAccess(bus, "monitor")
        await monitor.configure(MonitorSettings(window=64))
        before = await monitor.in_force()
        await registers.write_fields("control", enable=1, window=0, sections=4)
        await registers.write_fields("command", apply=1)
        assert (await registers.read_fields("status"))["error"] == 1
        assert await monitor.in_force() == before
        await registers.write_fields("status", error=1)
        assert (await registers.read_fields("status"))["error"] == 0

    asyncio.run(check())


def test_an_npu_that_refuses() -> None:
    """The driver says so, and lowers the flag."""

    async def check() -> None:
        bus = ModelBus(TINY)
        with pytest.raises(MonitorError, match="^the NPU has refused the settings WindowSettings\\("):
            await Monitor(bus)._apply(WindowSettings(window=2))
        assert (await RegisterAccess(bus, "monitor").read_fields("status"))["error"] == 0

    asyncio.run(check())


def test_limits() -> None:
    """They are in bytes per cycle, and hold for the windows of the monitor; None removes one."""

    async def check() -> None:
        bus = ModelBus(TINY)
        regulator, registers = Regulator(bus), RegisterAccess(bus, "regulator")

        async def limits() -> list[int]:
            return [await registers.read(f"limit[{axi_id}]") for axi_id in range(3)]

        await Monitor(bus).configure(MonitorSettings(window=128))
        await regulator.limit(load=1.5, store=1e-6)
        assert await limits() == [0, 192, 1]
        await regulator.limit(fetch=2, load=None)
        assert await limits() == [256, 0, 1]
        assert await regulator.held_cycles() == {"fetch": 0, "load": 0, "store": 0}
        for rates, message in (
            ({"loads": 1.0}, "there is no master 'loads' inside the NPU; there are fetch, load, store"),
            ({"load": 0.0}, "the limit of load must be positive, not 0.0 bytes per cycle; None removes it"),
            (
                {"fetch": 1, "load": 1e9},
                "the limit of load of 1000000000.0 bytes per cycle is too large for windows of 128 cycles; the most is "
                "4.1943e+06",
            ),
        ):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                await regulator.limit(**rates)
        assert await limits() == [256, 0, 1]

    asyncio.run(check())


def test_mismatches_of_a_window() -> None:
    """A source of which monitor and memory have counted different bytes."""
    same, other = [5, 2, 100, *range(7), *range(7)], [5, 2, 100, *range(7), *range(6), 99]
    assert [TrafficWindow.of_numbers(numbers).mismatches for numbers in (same, other)] == [0, 1]


def test_load_profiles(tmp_path: Path) -> None:
    """Each way to make one, and the text that the simulated memory reads."""
    assert LoadProfile.bursts(busy=300, share=0.8, idle=700, source=2).text() == "300 205 2 0\n700 0 2 0\n"
    assert LoadProfile.constant(0.5, random=True).text() == f"{(1 << 31) - 1} 128 0 1\n"
    path = tmp_path / "load.csv"
    path.write_text("# recorded\n1000, 0.25\n\n20, 1.0, 3  # a burst\n5,0,1,1\n", encoding="utf-8")
    profile = LoadProfile.from_file(path)
    assert profile == LoadProfile((LoadStep(1000, 0.25), LoadStep(20, 1.0, 3), LoadStep(5, 0.0, 1, True)), repeat=False)
    assert LoadProfile.from_dict(json.loads(json.dumps(profile.as_dict()))) == profile
    drawn = LoadProfile.random(5, cycles=(10, 20), count=100)
    assert (
        drawn == LoadProfile.random(5, cycles=(10, 20), count=100) != LoadProfile.random(6, cycles=(10, 20), count=100)
    )
    assert {step.source for step in drawn.steps} == {0, 1, 2} and all(10 <= step.cycles <= 20 for step in drawn.steps)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0,0.5", "a step of a load profile takes from 1 to 2147483647 cycles, not 0"),
        ("10,1.5", "the share of a step of a load profile is from 0 to 1, not 1.5"),
        ("10,0.5,4", f"the source of a step of a load profile is from 0 to {len(OTHER_SOURCES) - 1}, not 4"),
        ("10", "a step has from 2 to 4 columns (cycles, share, source, random), not 1"),
        ("10,0.5,0,2", "the column random is 0 or 1, not 2"),
        ("1e3,0.5", "the column cycles is '1e3', which is no number; write lines such as 20000,0.8"),
        ("10,50%", "the column share is '50%', which is no number; write lines such as 20000,0.8"),
        ("10,0.5,", "the column source is '', which is no number; write lines such as 20000,0.8"),
    ],
)
def test_lines_that_make_no_sense(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    path.write_text(f"5,0.5\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}, line 2: {message}')}$"):
        LoadProfile.from_file(path)


def test_profiles_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    path.write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} is no text; write lines such as 20000,0.8')}$"):
        LoadProfile.from_file(path)
    path.write_bytes(b"\xef\xbb\xbf10,0.5\r\n")  # as spreadsheets write it
    assert LoadProfile.from_file(path).steps == (LoadStep(10, 0.5),)


def test_profiles_that_make_no_sense(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("# nothing\n", encoding="utf-8")
    for make, message in (
        (lambda: LoadProfile(()), "a load profile needs at least one step"),
        (lambda: LoadProfile.from_file(path), f"{path} has no step of a load profile; write lines such as 20000,0.8"),
        (
            lambda: LoadProfile.random(1, sources=()),
            "a random load profile needs at least one share, one source and one step",
        ),
        (
            lambda: LoadProfile.random(1, cycles=(5, 4)),
            "the shortest step of a random load profile (5) exceeds the longest (4)",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            make()
