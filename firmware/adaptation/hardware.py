"""What the precision manager sees of the hardware: the bandwidth monitor and the activity of the units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple

from tessera.firmware.adaptation.metrics import Metric, Observation, Progress, Work
from tessera.firmware.adaptation.settings import Settings
from tessera.firmware.bandwidth import COUNT_LIMIT, Activity, Findings, Monitor
from tessera.firmware.bus import TimedBus
from tessera.firmware.register_access import RegisterAccess
from tessera.rtl.config import NpuConfig
from tessera.rtl.traffic import MOST_SECTIONS


class Observer:
    """Looks at one NPU.

    Parameters
    ----------
    bus, config
        The way to the NPU, and what it is.
    settings
        Those of the precision manager.
    """

    def __init__(self, bus: TimedBus, config: NpuConfig, settings: Settings):
        self._bus, self._config, self._settings = bus, config, settings
        self._monitor = Monitor(bus)
        self._stream = RegisterAccess(bus, "stream[0]")
        self._before = Work(0)

    async def configure(self) -> None:
        """Begins to find sections, and calls for an interrupt when they change.

        Raises
        ------
        MonitorError, ValueError
            The monitor does not take the settings.
        """
        monitor = self._settings.monitor(float(self._config.beat_bytes))
        await self._monitor.configure(monitor, interrupt=True)

    def restart(self) -> None:
        """A stream is started, so that all counts begin at 0."""
        self._before = Work(0)

    async def observe(self, chosen: Mapping[str, int]) -> Observation:
        """What happened since the last call, or since the start of the stream, in which these layers have their depths
        in bits."""
        found = await self._monitor.findings()
        beats = await self._stream.read("read_beats") + await self._stream.read("write_beats")
        before, now = self._before, _work(found.activity, beats * self._config.beat_bytes)
        self._before = now
        cycle = await self._bus.present_cycle()
        values = _difference(before, now).metrics(self._config)
        return self._observation(cycle, found, values, Progress(now.cycles, now.dram_bytes, chosen))

    async def bandwidth(self) -> Observation:
        """What others leave of the bus, before a stream is started."""
        return self._observation(await self._bus.present_cycle(), await self._monitor.findings(), {}, None)

    def _observation(
        self, cycle: int, found: Findings, values: dict[Metric, float], progress: Progress | None
    ) -> Observation:
        if not found.windows:
            return Observation(cycle, 1.0, self._settings.sections - 1, values, progress)
        section = max(0, found.section - (MOST_SECTIONS - self._settings.sections))
        share = min(1.0, found.available_rate / self._config.beat_bytes)
        return Observation(cycle, share, section, values, progress)

    async def acknowledge(self) -> None:
        """Lowers the monitor's interrupt."""
        await self._monitor.acknowledge()


def _work(activity: Activity, dram_bytes: int) -> Work:
    """Counts since the start of a stream."""
    return Work(
        activity.cycles,
        sum(activity.multiplying),
        activity.bus_stalls,
        activity.bank_reads + activity.bank_writes,
        activity.pixels,
        dram_bytes,
    )


def _difference(before: Work, after: Work) -> Work:
    """What was done between two moments."""
    return Work(*((new - old) % COUNT_LIMIT for old, new in zip(astuple(before), astuple(after), strict=True)))
