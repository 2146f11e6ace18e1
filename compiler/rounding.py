"""Rounds a layer's weights such that its output, not each weight by itself, is near the float network's.

The output's error is a quadratic form of the weights. With x for the layer's inputs in the quantised network and y for
what its sums should be (:class:`tessera.compiler.paired_execution.Moments`), the mean of ``(y - w x - b) ** 2`` is, up
to a constant, ``(w - v) H (w - v)``, where H is the covariance of x and v the weights that fit best. Two steps:

- *fit*: v by least squares with a penalty on the distance to the float weights (ridge regression). It makes up for
  errors of the layers before: x is what they really give. Few samples tell little, so the penalty grows as they get
  fewer.
- *rounding*: the weights are rounded in turn, each such that it makes up for those before, unless rounding each float
  weight to the nearest integer is better. From there weight after weight is set to the integer that is best beside all
  others (coordinate descent) until none changes. With penalty the error is not above that of the nearest integers, and
  without it neither, since no integers have a smaller penalty than those.

Each output channel is a problem of its own; the channels of a group share H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tessera.compiler.paired_execution import Moments

LARGEST_FAN_IN = 4608
"""Weights per output channel up to which the quadratic form is kept (3 x 3 over 512 channels: 170 MB)."""

_PENALTY = 0.3
"""Penalty of the fit with many samples, by the mean variance of the inputs: 0.1 to 1 do equally well on data like those
of the calibration, less does harm on others."""

_NO_VARIANCE = 1e-9
"""Inputs that vary by less than this part of their mean square are constant but for rounding errors."""

_MOST_SWEEPS = 10
"""Times that each weight is looked at in the end."""

_BLOCK = 64
"""Weights between which the gradient is brought up to date one by one; the rest follows by a matrix product."""


@dataclass(frozen=True, eq=False)
class Fit:
    """The quadratic form of a group's output error.

    Attributes
    ----------
    weights
        Real weights (K, N) with the least error.
    curvature
        Matrix (N, N), symmetric and positive definite, or zero.
    """

    weights: np.ndarray
    curvature: np.ndarray

    def error(self, weights: np.ndarray) -> np.ndarray:
        """By how much other weights (K, N) are worse, per output channel."""
        difference = weights - self.weights
        return ((difference @ self.curvature) * difference).sum(axis=1)


def round_layer(
    weights: np.ndarray,
    bias: np.ndarray,
    scales: np.ndarray,
    top: int,
    moments: Moments,
    *,
    free_bias: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Integer weights of a convolution whose output is near the float network's, and its bias.

    Parameters
    ----------
    weights, bias
        Float weights (K, C / groups, height, width) and bias (K).
    scales
        Real value (K) of one step of each output channel's weights.
    top
        Largest integer.
    moments
        Of the layer.
    free_bias
        Whether the bias becomes the best one for the integers; else it stays.

    Returns
    -------
    int8 weights (K, C / groups, height, width) and float64 bias (K).
    """
    groups = len(moments.patch)
    flat, steps = weights.reshape(groups, len(weights) // groups, -1), scales.astype(np.float64).reshape(groups, -1)
    fixed = None if free_bias else bias.reshape(groups, -1)
    integers = np.empty_like(flat)
    for group in range(groups):
        fit = fit_group(flat[group], None if fixed is None else fixed[group], moments, group)
        integers[group] = round_weights(fit, flat[group], steps[group], top)
    if fixed is None:
        real = integers * steps[..., np.newaxis]
        fixed = moments.target - (real @ moments.patch[..., np.newaxis])[..., 0]
    return integers.reshape(weights.shape).astype(np.int8), fixed.reshape(-1)


def fit_group(weights: np.ndarray, bias: np.ndarray | None, moments: Moments, group: int) -> Fit:
    """The best real weights of a group.

    Parameters
    ----------
    weights
        Float weights (K, N).
    bias
        The bias (K) that the layer will have, or ``None`` if it will be the best one for the rounded weights.
    moments
        Of the layer.
    group
        Which of its groups.
    """
    patch, target = moments.patch[group], moments.target[group]
    if bias is None:
        curvature = moments.patch_patch[group] - np.outer(patch, patch)
        cross = moments.target_patch[group] - np.outer(target, patch)
    else:
        curvature = moments.patch_patch[group]
        cross = moments.target_patch[group] - np.outer(bias, patch)
    size = len(curvature)
    variance = float(np.trace(curvature))
    if variance <= _NO_VARIANCE * float(np.trace(moments.patch_patch[group])):
        return Fit(weights, np.zeros_like(curvature))
    penalty = (_PENALTY + size / moments.count) * variance / size
    curvature = curvature + penalty * np.eye(size)
    return Fit(np.linalg.solve(curvature, (cross + penalty * weights).T).T, curvature)


def round_weights(fit: Fit, weights: np.ndarray, scales: np.ndarray, top: int) -> np.ndarray:
    """Integers (K, N) from -top to top of a group's weights whose error is not above that of the nearest integers.

    Parameters
    ----------
    fit
        The error.
    weights
        Float weights (K, N).
    scales
        Real value (K) of one step of each output channel.
    top
        Largest integer.
    """
    steps = scales[:, np.newaxis]
    integers = np.clip(np.rint(weights / steps), -top, top)
    if not fit.curvature.any():
        return integers
    wanted = fit.weights / steps
    other = _round_in_turn(wanted, fit.curvature, top)
    is_better = fit.error(other * steps) < fit.error(integers * steps)
    integers[is_better] = other[is_better]
    for _ in range(_MOST_SWEEPS):
        if not _sweep(integers, wanted, fit.curvature, top):
            break
    return integers


def _round_in_turn(wanted: np.ndarray, curvature: np.ndarray, top: int) -> np.ndarray:
    """Integers (K, N) of real ``wanted``, each rounded such that it makes up for those before.

    With H = R' R, R upper triangular, the error is the squared length of R e, whose last element is the last weight's
    alone; from there on each next element of R e is made as small as it can be. The weights whose inputs vary most
    come first.
    """
    order = np.argsort(np.diag(curvature), kind="stable")
    factor = np.linalg.cholesky(curvature[np.ix_(order, order)]).T
    wanted = wanted[:, order]
    errors = np.zeros_like(wanted)
    pull = np.zeros_like(wanted)
    for stop in range(len(order), 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        for index in range(stop - 1, start - 1, -1):
            best = wanted[:, index] - pull[:, index] / factor[index, index]
            errors[:, index] = np.clip(np.rint(best), -top, top) - wanted[:, index]
            pull[:, start:index] += np.outer(errors[:, index], factor[start:index, index])
        pull[:, :start] += errors[:, start:stop] @ factor[:start, start:stop].T
    integers = np.empty_like(wanted)
    integers[:, order] = np.rint(wanted + errors)
    return integers


def _sweep(integers: np.ndarray, wanted: np.ndarray, curvature: np.ndarray, top: int) -> bool:
    """Moves each integer (K, N) to the best one beside all others, in place; whether any moved."""
    # Half the error's gradient, in steps; made anew for each sweep, so that no rounding adds up.
    gradient = (integers - wanted) @ curvature
    changed = False
    for start in range(0, len(curvature), _BLOCK):
        block = slice(start, start + _BLOCK)
        moves = _descend(integers[:, block], gradient[:, block], curvature[block, block], top)
        gradient += moves @ curvature[block]
        integers[:, block] += moves
        changed = changed or bool(moves.any())
    return changed


def _descend(integers: np.ndarray, gradient: np.ndarray, curvature: np.ndarray, top: int) -> np.ndarray:
    """The moves (K, B) of a block's integers, each to the best one while the others stay."""
    moves = np.zeros_like(integers)
    gradient = gradient.copy()
    for index, row in enumerate(curvature):
        best = np.clip(np.rint(integers[:, index] - gradient[:, index] / row[index]), -top, top)
        moves[:, index] = best - integers[:, index]
        gradient += np.outer(moves[:, index], row)
    return moves
