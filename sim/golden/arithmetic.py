"""Rounding, saturation and digits: the only definition of the machine's arithmetic outside its RTL.

Everything here is exact. Arguments are Python integers or numpy integer arrays (``int64`` unless noted, or
``object`` arrays of Python integers where 64 bits are not enough); the result has the same form.

*Rounding* is always "round half to even": the result is the nearest integer; a value exactly half-way between
two integers goes to the even one (0.5 -> 0, 1.5 -> 2, -0.5 -> 0, -1.5 -> -2).

*Saturation* replaces a value outside the range of its depth by the nearest end of the range.

*Floating point* is what `tessera.rtl.isa.MemoryFormat` describes, as bit patterns. Conversions are of the exact real
number, rounded once; subnormal numbers are kept. A conversion *underflows* where a number that is not 0 becomes 0, and
*overflows* where a finite number is saturated: on the way to integers to the limit of the depth, on the way to floating
point, where rounding would give infinity, to the largest finite number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.rtl.config import DIGIT_BITS, digits_of_depth
from tessera.rtl.isa import MemoryFormat, TableEntry

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


def look_up(x: Any, base: np.ndarray, slope: np.ndarray, depth: int) -> Any:
    """The tabulated function of 16-bit operands ``x`` at ``depth`` bits, rounded half to even and not saturated.

    Parameters
    ----------
    x
        int64 array.
    base, slope
        int64 arrays of shape (``TableEntry.SEGMENTS``,): the table as `tessera.rtl.isa.TableEntry` describes it.
    depth
        Depth of the result in bits.
    """
    segment = x >> TableEntry.FRACTION_BITS & (TableEntry.SEGMENTS - 1)
    fraction = x & (1 << TableEntry.FRACTION_BITS) - 1
    exact = (base[segment] << TableEntry.FRACTION_BITS) + slope[segment] * fraction
    return round_half_even_shift(exact, TableEntry.FRACTION_BITS + TableEntry.BASE_BITS - depth)


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


@dataclass(frozen=True)
class IntegersOfFloats:
    """Integers made of floating-point numbers, and what happened to each: arrays of one shape.

    Attributes
    ----------
    values
        int64; NaN is 0, infinity the limit of its sign.
    special
        Was NaN or infinity.
    underflow, overflow
        See the module's text.
    """

    values: np.ndarray
    special: np.ndarray
    underflow: np.ndarray
    overflow: np.ndarray


@dataclass(frozen=True)
class FloatsOfIntegers:
    """Bit patterns (int64) of floating-point numbers made of integers, and what happened to each."""

    patterns: np.ndarray
    underflow: np.ndarray
    overflow: np.ndarray


def float_to_integer(
    patterns: np.ndarray, memory_format: MemoryFormat, shift: int, depth: int, signed: bool
) -> IntegersOfFloats:
    """``saturate(round_half_even(x / 2 ** shift), depth)`` of the real numbers x that the bit patterns mean."""
    fraction_bits, exponent_mask = memory_format.fraction_bits, (1 << memory_format.exponent_bits) - 1
    patterns = np.asarray(patterns, np.int64)
    negative = patterns >> memory_format.bits - 1 & 1 == 1
    exponent = patterns >> fraction_bits & exponent_mask
    fraction = patterns & (1 << fraction_bits) - 1
    special = exponent == exponent_mask
    significand = fraction + ((exponent > 0).astype(np.int64) << fraction_bits)
    # The magnitude is significand / 2 ** right. Beyond these limits, any but 0 saturates, or is far below a half.
    right = np.clip(shift + memory_format.bias + fraction_bits - np.maximum(exponent, 1), -38, 60)
    magnitude = round_half_even_shift(significand, right)
    exact = np.where(negative, -magnitude, magnitude)
    values = saturate(exact, depth, signed)
    low, high = depth_range(depth, signed)
    infinity = np.where(negative, low, high)
    return IntegersOfFloats(
        values=np.where(special, np.where(fraction == 0, infinity, 0), values),
        special=special,
        underflow=~special & (significand != 0) & (magnitude == 0),
        overflow=~special & (values != exact),
    )


def integer_to_float(values: np.ndarray, shift: int, memory_format: MemoryFormat) -> FloatsOfIntegers:
    """The floating-point number nearest to ``x / 2 ** shift``, half to even, for integers below ``2 ** 32``."""
    fraction_bits, bias = memory_format.fraction_bits, memory_format.bias
    infinity = (1 << memory_format.exponent_bits) - 1 << fraction_bits
    magnitude = np.abs(np.asarray(values, np.int64))
    # np.frexp gives the number of bits exactly, because float64 holds the magnitude.
    exponent = np.maximum(np.frexp(magnitude.astype(np.float64))[1] - 1 - shift + bias, 1).astype(np.int64)
    right = np.clip(exponent - bias - fraction_bits + shift, -fraction_bits, 60)
    significand = round_half_even_shift(magnitude, right)
    # A significand with its leading one adds it to the exponent, and so does one that was rounded up to the next.
    rounded = ((exponent - 1) << fraction_bits) + significand
    rounded = np.where(magnitude == 0, 0, rounded)
    sign = (np.asarray(values) < 0).astype(np.int64) << memory_format.bits - 1
    return FloatsOfIntegers(
        patterns=sign | np.minimum(rounded, infinity - 1),
        underflow=(magnitude != 0) & (rounded == 0),
        overflow=rounded >= infinity,
    )


def _positive_part(value: Any) -> Any:
    return max(value, 0) if isinstance(value, int) else np.maximum(value, 0)
