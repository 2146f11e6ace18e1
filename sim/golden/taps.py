"""Sliding windows over feature maps: the one place that says which input position a kernel position meets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def pad_map(source: np.ndarray, padding: tuple[int, int, int, int], value: float) -> np.ndarray:
    """``source`` (..., height, width) with rows and columns of ``value`` added at (top, left, bottom, right), or
    removed where the number is negative."""
    top, left, bottom, right = (max(each, 0) for each in padding)
    sides = [(0, 0)] * (source.ndim - 2) + [(top, bottom), (left, right)]
    first_row, first_column, last_rows, last_columns = (max(-each, 0) for each in padding)
    height, width = source.shape[-2:]
    kept = source[..., first_row : height - last_rows, first_column : width - last_columns]
    return np.pad(kept, sides, constant_values=value)


def taps(
    padded: np.ndarray,
    output_map: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each kernel position (ky, kx) the view of a padded map that meets it.

    Parameters
    ----------
    padded
        Array (..., height, width), padding included.
    output_map
        (height, width) of the output.
    kernel, stride, dilation
        (vertical, horizontal) sizes.

    Yields
    ------
    ky, kx and a view of shape (..., output height, output width).
    """
    height, width = output_map
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            y, x = ky * dilation[0], kx * dilation[1]
            rows = slice(y, y + stride[0] * (height - 1) + 1, stride[0])
            columns = slice(x, x + stride[1] * (width - 1) + 1, stride[1])
            yield ky, kx, padded[..., rows, columns]
