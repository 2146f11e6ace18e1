"""The bandwidth monitor of a modelled NPU, on whose memory bus there is no traffic."""

from __future__ import annotations

from collections.abc import Callable

from tessera.rtl.control.register_map import register_map
from tessera.rtl.traffic import THRESHOLDS
from tessera.sim.bandwidth import HIGHEST_SECTION, WindowSettings


class ModelMonitor:
    """Answers the registers of bandwidth monitor, bandwidth regulator and activity counters.

    Settings are checked and taken over as the hardware does; windows pass and are free. Of the activity only the cycles
    are known.

    Parameters
    ----------
    beat_bytes
        Bytes of a beat of the NPU's bus.
    """

    BLOCKS = ("monitor", "regulator", "activity")
    """What the paths of the registers begin with."""

    def __init__(self, beat_bytes: int):
        self._beat_bytes = beat_bytes
        self._settings = WindowSettings().in_force(beat_bytes)
        self._applied = self._windows = self._cycles = 0
        self._error = False

    def write(self, name: str, value: int, cycle: int, stream_cycles: int, written: Callable[[str], int]) -> None:
        """Does what a write to a register does at a clock cycle, other than that the value can be read back.

        Parameters
        ----------
        name, value
            Path of the register, and what was written.
        cycle
            The present clock cycle.
        stream_cycles
            Cycles for which the stream has been executed.
        written
            Gives what was written to a register.
        """
        fields = register_map()[name].fields
        if name == "monitor.status" and fields["error"].extract(value):
            self._error = False
        if name == "monitor.command":
            if fields["apply"].extract(value):
                self._apply(cycle, written)
            if fields["snapshot"].extract(value):
                self._windows = (cycle - self._applied >> self._settings.window) if self._settings.enable else 0
                self._cycles = stream_cycles

    def _apply(self, cycle: int, written: Callable[[str], int]) -> None:
        control = register_map()["monitor.control"].fields
        given = {name: field.extract(written("monitor.control")) for name, field in control.items()}
        enable = bool(given.pop("enable"))
        given |= {name: written(f"monitor.{name}") for name in ("counted", "peak", "hysteresis")}
        thresholds = tuple(written(f"monitor.threshold[{index}]") for index in range(THRESHOLDS))
        settings = WindowSettings(enable=enable, thresholds=thresholds, **given)
        try:
            self._settings = settings.in_force(self._beat_bytes)
        except ValueError:
            self._error = True
        else:
            self._applied = cycle

    def read(self, name: str, written: Callable[[str], int]) -> int:
        """A register's value."""
        info, settings = register_map()[name], self._settings
        known = {
            "monitor.command": 0,
            "monitor.snapshot.windows": self._windows,
            "monitor.snapshot.section": HIGHEST_SECTION,
            "monitor.snapshot.available": settings.peak if self._windows else 0,
            "activity.cycles": self._cycles,
            "monitor.in_force.counted": settings.counted,
            "monitor.in_force.peak": settings.peak,
            "monitor.in_force.hysteresis": settings.hysteresis,
            **{f"monitor.in_force.threshold[{index}]": value for index, value in enumerate(settings.thresholds)},
        }
        if name in known:
            return known[name]
        if name == "monitor.status":
            return info.encode(section=HIGHEST_SECTION, error=int(self._error))
        if name == "monitor.in_force.control":
            return info.encode(enable=int(settings.enable), window=settings.window, sections=settings.sections)
        is_setting = all(field.writable for field in info.fields.values())
        return written(name) if is_setting else 0
