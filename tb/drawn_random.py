"""A source of randomness for the generators of networks, whose choices hypothesis makes, and shrinks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

MOST_DRAWN = 4
"""Numbers that are drawn one by one; larger arrays, of weights and such, come from one drawn seed."""


class DrawnRandom:
    """Those methods of `numpy.random.Generator` that the generators use; ``data`` draws, see `hypothesis`."""

    def __init__(self, data: st.DataObject):
        self._data = data

    def integers(self, low: int, high: int | None = None, size: Any = None) -> Any:
        """Integers from ``low`` to below ``high``, or from 0 to below ``low``."""
        low, high = (0, low) if high is None else (low, high)
        if size is None:
            return self._draw(st.integers(int(low), int(high) - 1))
        if math.prod(np.atleast_1d(size)) > MOST_DRAWN:
            return self._generator().integers(low, high, size)
        flat = [self._draw(st.integers(int(low), int(high) - 1)) for _ in range(math.prod(np.atleast_1d(size)))]
        return np.reshape(np.array(flat, np.int64), size)

    def uniform(self, low: float, high: float) -> float:
        """A real number."""
        return self._draw(st.floats(low, high))

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self._draw(st.integers(0, 1 << 16)))

    def _draw(self, strategy: st.SearchStrategy) -> Any:
        return self._data.draw(strategy)
