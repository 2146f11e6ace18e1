"""The driver of the bandwidth monitor, the bandwidth regulator and the activity counters.

Rates are in bytes per clock cycle of the NPU: at 100 MHz, 16 bytes per cycle are 1.6 GB/s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tessera.firmware.bus import Bus
from tessera.firmware.register_access import RegisterAccess
from tessera.rtl.control.register_map import register_map
from tessera.rtl.isa import MAX_LANES
from tessera.rtl.traffic import (
    DEFAULT_WINDOW,
    LEAST_WINDOW,
    MOST_SECTIONS,
    MOST_WINDOW,
    OTHER_SOURCES,
    THRESHOLDS,
    WINDOW_BYTES_BITS,
    TrafficSource,
    mask_of,
)
from tessera.sim.bandwidth import WindowSettings

MASTERS = {source.name.lower(): source for source in TrafficSource if source.is_own}
"""The masters inside the NPU by the names that limits have for them."""

COUNT_LIMIT = 1 << register_map()["activity.cycles"].fields["value"].width
"""The counts of `Activity` are modulo this."""


class MonitorError(RuntimeError):
    """The bandwidth monitor has refused its settings, those that were in force stay so; the message says so."""


@dataclass(frozen=True)
class MonitorSettings:
    """How the available bandwidth is found.

    Attributes
    ----------
    window
        Cycles of a window, a power of two from 16 to 1048576.
    peak
        Bytes per cycle that the bus can move; ``None`` for a beat of the NPU's bus.
    thresholds
        Bytes per cycle between the sections, the lowest one first, from one to three; ``None`` for one, two and three
        quarters of the peak.
    hysteresis
        Bytes per cycle by which a threshold above the present section must be exceeded.
    counted
        Whose bytes are not available.

    Raises
    ------
    ValueError
        A value does not make sense whatever the NPU is; what else is wrong `Monitor.configure` finds.
    """

    window: int = 1 << DEFAULT_WINDOW
    peak: float | None = None
    thresholds: tuple[float, ...] | None = None
    hysteresis: float = 0.0
    counted: Collection[TrafficSource] = OTHER_SOURCES

    def __post_init__(self) -> None:
        if self.window not in [1 << length for length in range(LEAST_WINDOW, MOST_WINDOW + 1)]:
            raise ValueError(
                f"a window of the bandwidth monitor is a power of two from {1 << LEAST_WINDOW} to {1 << MOST_WINDOW} "
                f"cycles, not {self.window}"
            )
        if self.peak is not None and self.peak <= 0:
            raise ValueError(f"the peak bandwidth must be positive, not {self.peak} bytes per cycle")
        if self.hysteresis < 0:
            raise ValueError(f"the hysteresis of the bandwidth must not be negative, not {self.hysteresis}")
        if self.thresholds is not None:
            self._check_thresholds(self.thresholds)

    def _check_thresholds(self, thresholds: tuple[float, ...]) -> None:
        listed = ", ".join(map(str, thresholds))
        if not 1 <= len(thresholds) <= THRESHOLDS:
            raise ValueError(f"the bandwidth has from 1 to {THRESHOLDS} thresholds, not {len(thresholds)}")
        if thresholds[0] <= 0 or list(thresholds) != sorted(thresholds):
            raise ValueError(
                f"thresholds of the bandwidth must be positive and must not fall, but they are {listed} bytes per cycle"
            )

    def per_window(self) -> WindowSettings:
        """As the registers have them.

        Raises
        ------
        ValueError
            A rate is too large for them.
        """
        given = () if self.thresholds is None else tuple(self._bytes("threshold", rate) for rate in self.thresholds)
        return WindowSettings(
            enable=True,
            window=self.window.bit_length() - 1,
            sections=len(given) + 1 if given else MOST_SECTIONS,
            counted=mask_of(self.counted),
            peak=0 if self.peak is None else self._bytes("peak", self.peak),
            hysteresis=self._bytes("hysteresis", self.hysteresis),
            thresholds=(0,) * (THRESHOLDS - len(given)) + given,
        )

    def _bytes(self, name: str, rate: float) -> int:
        return bytes_per_window(name, rate, self.window)

    def as_dict(self) -> dict[str, Any]:
        """What JSON can carry of it."""
        return {**asdict(self), "counted": [int(source) for source in self.counted]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MonitorSettings:
        """The reverse of `as_dict`."""
        thresholds = values["thresholds"]
        return cls(
            **{
                **values,
                "thresholds": None if thresholds is None else tuple(thresholds),
                "counted": tuple(map(TrafficSource, values["counted"])),
            }
        )


def bytes_per_window(name: str, rate: float, window: int) -> int:
    """A rate in bytes per cycle as bytes per window, at least 1 if it is not 0.

    Raises
    ------
    ValueError
        The registers have no room for it.
    """
    value = round(rate * window)
    if value >= 1 << WINDOW_BYTES_BITS:
        raise ValueError(
            f"the {name} of {rate} bytes per cycle is too large for windows of {window} cycles; the most is "
            f"{((1 << WINDOW_BYTES_BITS) - 1) / window:g}"
        )
    return max(value, int(rate > 0))


@dataclass(frozen=True)
class Activity:
    """What the units have done since the start of the stream, each count modulo `COUNT_LIMIT`.

    Attributes
    ----------
    cycles
        Cycles in which the stream was executed.
    bus_stalls
        Cycles in which a burst or write data waited for the memory bus, or read data were due and none came.
    bank_reads, bank_writes
        Words read from and written to the activation banks of the lanes.
    pixels
        Pixels, of as many channels as the array has columns, that the post-processing has written.
    waiting_tiles
        Sum over the cycles of the lanes in which a finished tile waited for the post-processing.
    multiplying
        For each lane the cycles in which an activation word entered its multipliers.
    """

    cycles: int
    bus_stalls: int
    bank_reads: int
    bank_writes: int
    pixels: int
    waiting_tiles: int
    multiplying: tuple[int, ...]


@dataclass(frozen=True)
class Findings:
    """What the bandwidth monitor has found in the last complete window.

    Attributes
    ----------
    windows
        Complete windows since it was configured; while that is 0 the rest means nothing.
    cycles
        Cycles of a window.
    used, available
        Bytes.
    section
        Section of what was available, 0 to 3.
    bytes, peaks
        For each source its bytes, and the most in any window since the peaks were cleared.
    activity
        What the units have done, as of the same cycle.
    """

    windows: int
    cycles: int
    used: int
    available: int
    section: int
    bytes: Mapping[TrafficSource, int]
    peaks: Mapping[TrafficSource, int]
    activity: Activity

    @property
    def available_rate(self) -> float:
        """Bytes per cycle that were available."""
        return self.available / self.cycles

    @property
    def own_reads(self) -> int:
        """Bytes that the NPU has read."""
        return self.bytes[TrafficSource.FETCH] + self.bytes[TrafficSource.LOAD]

    @property
    def own_writes(self) -> int:
        """Bytes that it has written."""
        return self.bytes[TrafficSource.STORE]


class Monitor:
    """The bandwidth monitor of an NPU.

    Parameters
    ----------
    bus
        The way to the NPU.
    """

    def __init__(self, bus: Bus):
        self._all = RegisterAccess(bus)
        self._registers = RegisterAccess(bus, "monitor")

    async def configure(self, settings: MonitorSettings, *, interrupt: bool = False) -> None:
        """Starts to count with new settings; the first window begins at once.

        Parameters
        ----------
        settings
            The settings.
        interrupt
            Raise the NPU's interrupt when the section has changed, until `acknowledge`.

        Raises
        ------
        ValueError
            The settings make no sense for this NPU; nothing was written.
        MonitorError
            The NPU refuses them.
        """
        new = settings.per_window()
        new.in_force((await self._all.read_fields("tile"))["beat_bytes"])
        await self._registers.write_fields("irq_enable", changed=int(interrupt))
        await self._apply(new)

    async def disable(self) -> None:
        """Stops counting; the section is the highest one from then on, and the windows are of 1024 cycles."""
        await self._apply(WindowSettings())

    async def _apply(self, new: WindowSettings) -> None:
        registers = self._registers
        await registers.write_fields("control", enable=int(new.enable), window=new.window, sections=new.sections)
        await registers.write_fields("counted", sources=new.counted)
        for name in ("peak", "hysteresis"):
            await registers.write_fields(name, bytes=getattr(new, name))
        for index, threshold in enumerate(new.thresholds):
            await registers.write_fields(f"threshold[{index}]", bytes=threshold)
        await registers.write_fields("status", error=1)
        await registers.write_fields("command", apply=1)
        if (await registers.read_fields("status"))["error"]:
            await registers.write_fields("status", error=1)
            raise MonitorError(f"the NPU has refused the settings {new} of its bandwidth monitor")

    async def in_force(self) -> WindowSettings:
        """The settings by which it works, with numbers in place of defaults."""
        control = await self._registers.read_fields("in_force.control")
        read = {name: await self._registers.read(f"in_force.{name}") for name in ("counted", "peak", "hysteresis")}
        thresholds = [await self._registers.read(f"in_force.threshold[{index}]") for index in range(THRESHOLDS)]
        return WindowSettings(
            enable=bool(control["enable"]),
            window=control["window"],
            sections=control["sections"],
            thresholds=tuple(thresholds),
            **read,
        )

    async def section(self) -> int:
        """The present section, 0 to 3; one access."""
        return (await self._registers.read_fields("status"))["section"]

    async def acknowledge(self) -> bool:
        """Lowers the interrupt; whether the section has changed since the last time."""
        changed = (await self._registers.read_fields("status"))["changed"]
        await self._registers.write_fields("status", changed=changed)
        return bool(changed)

    async def clear_peaks(self) -> None:
        """Begins anew to find the most that each source moves."""
        await self._registers.write_fields("command", clear_peaks=1)

    async def findings(self) -> Findings:
        """What was found last, all of one cycle."""
        registers = self._registers
        await registers.write_fields("command", snapshot=1)
        per_source = {
            kind: {source: await registers.read(f"snapshot.{kind}[{source.value}]") for source in TrafficSource}
            for kind in ("source", "source_peak")
        }
        names = ("windows", "used", "available", "section")
        found = {name: await registers.read(f"snapshot.{name}") for name in names}
        window = (await registers.read_fields("in_force.control"))["window"]
        return Findings(
            **found,
            cycles=1 << window,
            bytes=per_source["source"],
            peaks=per_source["source_peak"],
            activity=await self._activity(),
        )

    async def activity(self) -> Activity:
        """What the units have done since the start of the stream, all of one cycle."""
        await self._registers.write_fields("command", snapshot=1)
        return await self._activity()

    async def _activity(self) -> Activity:
        names = ("cycles", "bus_stalls", "bank_reads", "bank_writes", "pixels", "waiting_tiles")
        counts = {name: await self._all.read(f"activity.{name}") for name in names}
        multiplying = [await self._all.read(f"activity.multiplying[{lane}]") for lane in range(MAX_LANES)]
        return Activity(**counts, multiplying=tuple(multiplying))


class Regulator:
    """The bandwidth regulator of an NPU. Its windows are those of the bandwidth monitor.

    Parameters
    ----------
    bus
        The way to the NPU.
    """

    def __init__(self, bus: Bus):
        self._registers = RegisterAccess(bus)

    async def limit(self, **rates: float | None) -> None:
        """Limits what masters inside the NPU ask for, in bytes per cycle, from the next burst on.

        A limit holds for the windows that the monitor has now: it is to be set again when they change.

        Parameters
        ----------
        rates
            For ``fetch``, ``load`` and ``store`` the limit, or ``None`` for no limit; who is not named keeps its own.

        Raises
        ------
        ValueError
            There is no such master, or a rate is not positive or too large; nothing was written.
        """
        window = 1 << (await self._registers.read_fields("monitor.in_force.control"))["window"]
        limits = {}
        for name, rate in rates.items():
            if name not in MASTERS:
                raise ValueError(f"there is no master {name!r} inside the NPU; there are {', '.join(MASTERS)}")
            if rate is not None and rate <= 0:
                raise ValueError(f"the limit of {name} must be positive, not {rate} bytes per cycle; None removes it")
            limits[name] = 0 if rate is None else bytes_per_window(f"limit of {name}", rate, window)
        for name, limit in limits.items():
            await self._registers.write_fields(f"regulator.limit[{_axi_id(name)}]", bytes=limit)

    async def held_cycles(self) -> dict[str, int]:
        """For each master the cycles since the start of the stream in which a burst of it was held back."""
        return {name: await self._registers.read(f"regulator.held[{_axi_id(name)}]") for name in MASTERS}


def _axi_id(name: str) -> int:
    return MASTERS[name] - len(OTHER_SOURCES)
