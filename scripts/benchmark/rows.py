"""The rows of the benchmark's tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes
    ----------
    name, measured, unit
        What was measured.
    better
        "lower" or "higher".
    floor, aim
        What must be reached, and what is wanted.
    source
        The command or run the number comes from, if it is not this one.
    """

    name: str
    measured: float
    unit: str
    better: str
    floor: float | None = None
    aim: float | None = None
    source: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the floor is kept."""
        return self.floor is None or self._is_as_good_as(self.floor)

    @property
    def reached(self) -> bool:
        """Whether the aim, if there is one, is reached."""
        return self.aim is None or self._is_as_good_as(self.aim)

    def to_json(self) -> dict[str, object]:
        """The row without what it does not have."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def _is_as_good_as(self, limit: float) -> bool:
        return self.measured >= limit if self.better == "higher" else self.measured <= limit
