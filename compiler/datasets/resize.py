"""Enlarges and shrinks images."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt


def resize(images: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Images (..., height, width) in another ``size``, by linear interpolation between the centres of pixels."""
    rows, columns = (_interpolation(old, new) for old, new in zip(images.shape[-2:], size, strict=True))
    return (rows @ images @ columns.T).astype(np.float32)


@cache
def _interpolation(old: int, new: int) -> npt.NDArray[np.float32]:
    """Weights (new, old) of the pixels of a line for those of the resized line."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(centres[:, np.newaxis] - np.arange(old))).astype(np.float32)
