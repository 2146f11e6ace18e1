"""What the bandwidth monitor makes of its settings and of what moves: the reference of `rtl.monitor`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tessera.rtl.traffic import (
    DEFAULT_WINDOW,
    LEAST_SECTIONS,
    LEAST_WINDOW,
    MOST_SECTIONS,
    MOST_WINDOW,
    OTHER_SOURCES,
    THRESHOLDS,
    mask_of,
)

HIGHEST_SECTION = MOST_SECTIONS - 1
"""The section of a free bus, and while the monitor is not enabled."""


@dataclass(frozen=True)
class WindowSettings:
    """Settings of the monitor as its registers have them, in bytes per window.

    Attributes
    ----------
    enable
        It counts.
    window
        Logarithm to base 2 of the cycles of a window.
    sections
        Number of sections; with fewer than 4 the lowest ones are left out, and with them the lowest thresholds.
    counted
        Mask of the sources that count as used.
    peak
        What the bus can move; 0 for a beat of the NPU's bus in each cycle.
    hysteresis
        By how much a threshold above the present section must be exceeded.
    thresholds
        The lowest one first; all 0 for one, two and three quarters of the peak, rounded down.
    """

    enable: bool = False
    window: int = DEFAULT_WINDOW
    sections: int = MOST_SECTIONS
    counted: int = field(default_factory=lambda: mask_of(OTHER_SOURCES))
    peak: int = 0
    hysteresis: int = 0
    thresholds: tuple[int, ...] = (0,) * THRESHOLDS

    def in_force(self, beat_bytes: int) -> WindowSettings:
        """With numbers in place of the zeros that stand for defaults.

        Raises
        ------
        ValueError
            The monitor refuses them; says why.
        """
        if not LEAST_WINDOW <= self.window <= MOST_WINDOW:
            raise ValueError(
                f"a window of the bandwidth monitor has from {1 << LEAST_WINDOW} to {1 << MOST_WINDOW} cycles, not "
                f"2 to the power of {self.window}"
            )
        if not LEAST_SECTIONS <= self.sections <= MOST_SECTIONS:
            raise ValueError(
                f"the available bandwidth has from {LEAST_SECTIONS} to {MOST_SECTIONS} sections, not {self.sections}"
            )
        peak = self.peak or beat_bytes << self.window
        thresholds = self.thresholds
        if not any(thresholds):
            thresholds = tuple(peak * quarter // 4 for quarter in (1, 2, 3))
        used = thresholds[MOST_SECTIONS - self.sections :]
        if list(used) != sorted(used):
            raise ValueError(f"the thresholds of the available bandwidth must not fall, but they are {_listed(used)}")
        if used[-1] + self.hysteresis >= peak:
            raise ValueError(
                f"the highest threshold ({used[-1]}) and the hysteresis ({self.hysteresis}) must together be less than "
                f"the peak ({peak} bytes per window), or a free bus would not lead back to the highest section"
            )
        return replace(self, peak=peak, thresholds=thresholds)

    def available(self, used: int) -> int:
        """What is left of the peak."""
        return max(self.peak - used, 0)

    def section(self, available: int, present: int) -> int:
        """The section that follows the present one after a window with so many bytes available."""
        section = MOST_SECTIONS - self.sections
        while section < HIGHEST_SECTION:
            margin = self.hysteresis if section >= present else 0
            if available <= self.thresholds[section] + margin:
                break
            section += 1
        return section


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
