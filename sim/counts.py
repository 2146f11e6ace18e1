"""What the machine counts of the values of a stream, or of one of its operations."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Counts:
    """What happened to values. The sum of two has the sums of the numbers, and the lanes of both.

    Attributes
    ----------
    saturations
        Channels of output pixels that the post-processing saturated.
    not_a_number, underflows, overflows
        Values that the conversions from and to floating point found to be NaN or infinity, turned into 0, saturated.
    overflow
        Mask of the lanes whose accumulators overflowed: what those lanes made is wrong.
    """

    saturations: int = 0
    not_a_number: int = 0
    underflows: int = 0
    overflows: int = 0
    overflow: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.saturations + other.saturations,
            self.not_a_number + other.not_a_number,
            self.underflows + other.underflows,
            self.overflows + other.overflows,
            self.overflow | other.overflow,
        )


COUNT_NAMES = tuple(field.name for field in fields(Counts))
"""Names of the counts, which are those of the registers too."""
