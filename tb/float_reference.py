"""Floating-point conversions as numpy's own arithmetic makes them: what models and RTL are compared with.

Every number of the three formats, and every such number times a power of two in the range of a shift, is exact in
float64; so one rounding is all that happens.
"""

from __future__ import annotations

import numpy as np

from tessera.rtl.isa import MemoryFormat

FORMATS = tuple(item for item in MemoryFormat if item.is_float)

LEAST_EXPONENT = {MemoryFormat.FP16: -14, MemoryFormat.BF16: -126, MemoryFormat.FP32: -126}
LARGEST = {
    MemoryFormat.FP16: float(np.finfo(np.float16).max),
    MemoryFormat.BF16: 2.0**127 * (2 - 2.0**-7),
    MemoryFormat.FP32: float(np.finfo(np.float32).max),
}
FRACTION_BITS = {MemoryFormat.FP16: 10, MemoryFormat.BF16: 7, MemoryFormat.FP32: 23}


def numbers(patterns: np.ndarray, memory_format: MemoryFormat) -> np.ndarray:
    """The real numbers (float64) of bit patterns."""
    patterns = np.asarray(patterns)
    if memory_format is MemoryFormat.FP16:
        return patterns.astype(np.uint16).view(np.float16).astype(np.float64)
    if memory_format is MemoryFormat.BF16:
        patterns = patterns.astype(np.uint32) << 16
    with np.errstate(invalid="ignore"):  # signalling NaN
        return patterns.astype(np.uint32).view(np.float32).astype(np.float64)


def to_integers(
    patterns: np.ndarray, memory_format: MemoryFormat, shift: int, low: int, high: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Integers (NaN: 0), and where there were NaN or infinity, underflow, overflow."""
    x = numbers(patterns, memory_format)
    special = ~np.isfinite(x)
    rounded = np.rint(np.ldexp(np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf), -shift))
    values = np.clip(rounded, low, high)
    return (
        values.astype(np.int64),
        special,
        ~special & (x != 0) & (rounded == 0),
        ~special & (values != rounded),
    )


def to_patterns(
    values: np.ndarray, shift: int, memory_format: MemoryFormat
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bit patterns, and where there was underflow, overflow."""
    x = np.ldexp(np.asarray(values, np.float64), -shift)
    exponent = np.maximum(np.frexp(x)[1] - 1, LEAST_EXPONENT[memory_format])
    quantum = np.ldexp(1.0, exponent - FRACTION_BITS[memory_format])
    rounded = np.copysign(np.rint(x / quantum) * quantum, x)
    largest = LARGEST[memory_format]
    finite = np.clip(rounded, -largest, largest)
    if memory_format is MemoryFormat.FP16:
        patterns = finite.astype(np.float16).view(np.uint16)
    else:
        patterns = finite.astype(np.float32).view(np.uint32) >> (16 if memory_format is MemoryFormat.BF16 else 0)
    return patterns.astype(np.int64), (x != 0) & (rounded == 0), np.abs(rounded) > largest
