"""Rounding, saturation and digits: the only definition of the machine's arithmetic outside its RTL.

Everything here is exact. Arguments are Python integers or numpy integer arrays (``int64`` unless noted, or
``object`` arrays of Python integers where 64 bits are not enough); the result has the same form.

*Rounding* is always "round half to even": the result is the nearest integer; a value exactly half-way between
two integers goes to the even one (0.5 -> 0, 1.5 -> 2, -0.5 -> 0, -1.5 -> -2).

*Saturation* replaces a value outside the range of its depth by the nearest end of the range.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera.rtl.config import DIGIT_BITS, digits_of_depth

_DIGIT_VALUES = 1 << DIGIT_BITS


def round_half_even_shift(x: Any, shift: Any) -> Any:
    """``x / 2 ** shift`` rounded half to even.

    Parameters
    ----------
    x
        Integer or integer array.
    shift
        Right shift, an integer or an array that broadcasts against ``x``; a negative one multiplies by
        ``2 ** -shift``. In ``int64`` the exact result must fit 64 bits, and ``shift`` must be below 62.
    """
    right = _positive_part(shift)
    left = _positive_part(-shift)
    quotient = x >> right
    twice_remainder = (x - (quotient << right)) << 1
    one = 1 << right
    round_up = (twice_remainder > one) | ((twice_remainder == one) & ((quotient & 1) == 1))
    return (quotient + round_up) << left


def depth_range(depth: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of ``depth`` bits, two's complement if ``signed``."""
    if signed:
        return -(1 << (depth - 1)), (1 << (depth - 1)) - 1
    return 0, (1 << depth) - 1


def saturate(x: Any, depth: int, signed: bool) -> Any:
    """``x`` limited to the range of ``depth`` bits."""
    low, high = depth_range(depth, signed)
    if isinstance(x, int):
        return min(max(x, low), high)
    return np.clip(x, low, high)


def convert_depth(x: Any, shift: Any, depth: int, signed: bool) -> Any:
    """``x`` at another depth: ``saturate(round_half_even(x / 2 ** shift), depth)``; ``shift`` may be negative."""
    return saturate(round_half_even_shift(x, shift), depth, signed)


def split_digits(x: Any, depth: int) -> np.ndarray:
    """The 4-bit digits of activations.

    Parameters
    ----------
    x
        Integers of any shape in the range of ``depth`` bits, signed or not. A 6-bit value becomes the two
        digits of the 8-bit value that equals it.
    depth
        4, 6, 8 or 16 bits.

    Returns
    -------
    uint8 array of shape ``(digits, *x.shape)``, every digit 0..15, digit 0 the lowest.
    """
    values = np.asarray(x, dtype=np.int64)
    shifts = DIGIT_BITS * np.arange(digits_of_depth(depth)).reshape(-1, *[1] * values.ndim)
    return (values >> shifts & (_DIGIT_VALUES - 1)).astype(np.uint8)


def join_digits(digits: np.ndarray, signed: bool) -> np.ndarray:
    """The activations (int64) whose digits are ``digits``, of shape ``(count, ...)``; inverse of
    `split_digits`.

    If ``signed``, the top digit is two's complement; the others never are.
    """
    digits = np.asarray(digits, dtype=np.int64)
    weights = 1 << (DIGIT_BITS * np.arange(len(digits), dtype=np.int64))
    values = np.tensordot(weights, digits, axes=1)
    if signed:
        values -= (digits[-1] >> (DIGIT_BITS - 1)) << (DIGIT_BITS * len(digits))
    return values


def _positive_part(value: Any) -> Any:
    return max(value, 0) if isinstance(value, int) else np.maximum(value, 0)
