"""Scale factors as the machine has them: a 16-bit multiplier and a right shift."""

from __future__ import annotations

import numpy as np

from tessera.rtl.isa import ChannelParameters

MULTIPLIER_BITS = ChannelParameters.MULTIPLIER_BITS
MAX_SHIFT = ChannelParameters.MAX_SHIFT

SMALLEST_RATIO = 2.0 ** (MULTIPLIER_BITS - 1 - MAX_SHIFT)
"""Smallest factor that has all bits of the multiplier."""

LARGEST_RATIO = float((1 << MULTIPLIER_BITS) - 1)
"""Largest factor."""


def fixed_point(ratio: np.ndarray, largest_shift: np.ndarray | int = MAX_SHIFT) -> tuple[np.ndarray, np.ndarray]:
    """Multipliers and shifts such that ``multiplier / 2 ** shift`` is nearest to ``ratio``.

    Parameters
    ----------
    ratio
        Positive numbers up to `LARGEST_RATIO` (float64).
    largest_shift
        Upper limit of the shift; where it is reached the multiplier has fewer bits.

    Returns
    -------
    int64 arrays. The multiplier lies in 2 ** 15 .. 2 ** 16 - 1 unless the shift is limited; then it may be 0.
    """
    ratio = np.asarray(ratio, dtype=np.float64)
    shift = np.minimum(normal_shift(ratio), largest_shift)
    multiplier = np.rint(np.ldexp(ratio, shift)).astype(np.int64)
    return multiplier, shift


def normal_shift(ratio: np.ndarray) -> np.ndarray:
    """The shift with which the multiplier of ``ratio`` has all its bits."""
    _, exponent = np.frexp(ratio)  # ratio = mantissa * 2 ** exponent with mantissa in 1/2 .. 1
    shift = MULTIPLIER_BITS - exponent.astype(np.int64)
    rounds_up = np.rint(np.ldexp(ratio, shift)) >= 1 << MULTIPLIER_BITS
    return shift - rounds_up
