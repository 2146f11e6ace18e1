"""How a file rounds a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tessera.rtl.config import ACTIVATION_DEPTHS
from tessera.sim.golden.arithmetic import depth_range


@dataclass(frozen=True)
class Quantizer:
    """Rounds a real number half to even to a multiple of ``scale`` in ``low * scale .. high * scale``.

    A zero point is no part of it: ``low`` and ``high`` are the least and the largest integer minus the zero point.
    Their depth, ``bits``, need not be one of the machine's.

    Attributes
    ----------
    scale
        Real value of one step, a float32 number.
    low, high
        Least and largest multiple.
    """

    scale: float
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Bits of the integers in the file."""
        return (self.high - self.low).bit_length()

    @property
    def signed(self) -> bool:
        """Whether there are negative numbers."""
        return self.low < 0

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest real number, as float32 numbers."""
        return float(np.float32(self.low * self.scale)), float(np.float32(self.high * self.scale))

    @property
    def depth(self) -> int | None:
        """Least depth of the machine that has all of the integers; ``None`` if none has."""
        return next((depth for depth in ACTIVATION_DEPTHS if self._fits(depth)), None)

    @property
    def fills_depth(self) -> bool:
        """Whether the integers are all that the machine's depth has."""
        return self.depth is not None and (self.low, self.high) == depth_range(self.depth, self.signed)

    def _fits(self, depth: int) -> bool:
        low, high = depth_range(depth, self.signed)
        return low <= self.low and self.high <= high
