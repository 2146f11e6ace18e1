"""Finds the integers behind weights that are given as real numbers.

A file's quantised weights are integers times one scale per output channel. On their way through the passes they are
transposed, multiplied by batch normalisations, and the like; they stay integers times a scale, and that is enough to
find the integers again, whatever happened.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tessera.compiler.quantize import weight_scales
from tessera.sim.golden.arithmetic import depth_range

_TOLERANCE = 2.0**-10
"""By how much a quotient of float32 weights may miss an integer below 2 ** 7, in steps."""

_SAMPLE = 16
"""Weights of a channel that are looked at first."""


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """Weights as integers.

    Attributes
    ----------
    scales
        float64 array (K,): real value of a step of each output channel.
    exact
        bool array (K,): whether the channel's weights are integers times the scale.
    """

    scales: np.ndarray
    exact: np.ndarray


def integer_weights(weights: np.ndarray, depth: int) -> IntegerWeights:
    """The scales with which weights are integers of ``depth`` bits.

    Of several scales that would do, a channel gets the largest one divided by a power of two, as far as the depth
    allows, because it is the step of its bias too. A channel whose weights are no integers of this depth gets the scale
    with the least mean squared error, a channel of zeros 0.

    Parameters
    ----------
    weights
        float array (K, ...).
    """
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    widest = np.abs(flat).max(axis=1)
    found = _largest_integers(flat / np.where(widest > 0, widest, 1.0)[:, np.newaxis], widest > 0, depth)
    exact = (found > 0) | (widest == 0)
    scales = np.divide(widest, found, out=np.zeros_like(widest), where=found > 0)
    if not exact.all():
        scales[~exact] = weight_scales(flat[~exact], depth)
    return IntegerWeights(scales, exact)


def round_weights(weights: np.ndarray, scales: np.ndarray, depth: int) -> np.ndarray:
    """int8 weights (K, ...): rounded half to even and saturated to ``depth`` bits; the lowest integer is used too."""
    by_channel = scales.astype(np.float64).reshape(-1, *[1] * (weights.ndim - 1))
    return np.clip(np.rint(weights / by_channel), *depth_range(depth, signed=True)).astype(np.int8)


def _largest_integers(normal: np.ndarray, alive: np.ndarray, depth: int) -> np.ndarray:
    """For each channel the largest magnitude of its integers; 0 if they are no integers of ``depth`` bits.

    ``normal`` has the weights of a channel divided by their largest magnitude.
    """
    low, high = depth_range(depth, signed=True)
    limits = np.where(normal.max(axis=1) == 1, high, -low)
    found = np.zeros(len(normal), np.int64)
    for magnitude in range(1, -low + 1):
        open_channels = np.flatnonzero(alive & (found == 0) & (limits >= magnitude))
        likely = open_channels[_are_integers(normal[open_channels, :_SAMPLE] * magnitude)]
        sure = likely[_are_integers(normal[likely] * magnitude)]
        found[sure] = magnitude * _power_below(limits[sure] // magnitude)
    return found


def _power_below(values: np.ndarray) -> np.ndarray:
    """The largest power of two up to each positive integer."""
    return 1 << (np.frexp(values)[1] - 1)


def _are_integers(values: np.ndarray) -> np.ndarray:
    """Whether all values of each row are integers."""
    return (np.abs(values - np.rint(values)) <= _TOLERANCE).all(axis=1)
