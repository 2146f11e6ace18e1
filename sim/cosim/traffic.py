"""What crossed the memory bus in the windows of the bandwidth monitor, as the monitor and as the memory say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera.rtl.traffic import TrafficSource


@dataclass(frozen=True)
class TrafficWindow:
    """A window of the bandwidth monitor.

    Attributes
    ----------
    cycle
        Its last clock cycle.
    section, available
        What the monitor made of it; ``available`` in bytes.
    monitored, moved
        Bytes of each source (`TrafficSource`), as the monitor has counted them, and as the memory has.
    """

    cycle: int
    section: int
    available: int
    monitored: tuple[int, ...]
    moved: tuple[int, ...]

    @property
    def mismatches(self) -> int:
        """Sources of which the monitor has counted something else than the memory."""
        return sum(found != moved for found, moved in zip(self.monitored, self.moved, strict=True))

    @classmethod
    def of_numbers(cls, numbers: Iterable[int]) -> TrafficWindow:
        """A window from the numbers of a line that `cosim_windows.v` writes."""
        cycle, section, available, *counts = numbers
        return cls(cycle, section, available, *map(tuple, (counts[: len(TrafficSource)], counts[len(TrafficSource) :])))
