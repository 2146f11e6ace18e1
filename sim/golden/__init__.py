"""The golden model: what a network's integers must be, independent of tiling, placement and instruction
streams.

Exact integers only. :mod:`~tessera.sim.golden.arithmetic` defines rounding, saturation and digits;
:mod:`~tessera.sim.golden.network` defines the operations; :mod:`~tessera.sim.golden.evaluate` computes them.
"""

from tessera.sim.golden.arithmetic import (
    convert_depth,
    depth_range,
    join_digits,
    round_half_even_shift,
    saturate,
    split_digits,
)
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import (
    Convolution,
    IntegerNetwork,
    NetworkError,
    PostProcessing,
    TensorType,
    Window,
)

__all__ = [
    "Convolution",
    "IntegerNetwork",
    "NetworkError",
    "PostProcessing",
    "TensorType",
    "Window",
    "convert_depth",
    "depth_range",
    "evaluate",
    "join_digits",
    "round_half_even_shift",
    "saturate",
    "split_digits",
]
