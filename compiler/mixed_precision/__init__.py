"""Chooses how many bits each layer of a network has.

``costs`` finds what a network costs on a machine and ``quality`` what its results are worth; ``problem`` makes of costs
and sensitivities an integer linear programme, which ``selection`` solves; ``search`` looks for the best depths under
budgets; ``limits`` finds between which depths a network may run.
"""

from tessera.compiler.mixed_precision.costs import (
    CYCLES,
    DRAM_BYTES,
    RESOURCES,
    WEIGHT_BYTES,
    Costs,
    Meter,
    cycle_model,
    operation_costs,
    total,
)
from tessera.compiler.mixed_precision.limits import find_limits, limits_by_points
from tessera.compiler.mixed_precision.problem import Depths, Uniform, uniform_depths
from tessera.compiler.mixed_precision.quality import Judge, Quality
from tessera.compiler.mixed_precision.search import STEPS, Choice, DepthSearch, Progress, Quantizer, uniform_costs
from tessera.compiler.mixed_precision.selection import Infeasible

__all__ = [
    "CYCLES",
    "DRAM_BYTES",
    "RESOURCES",
    "STEPS",
    "WEIGHT_BYTES",
    "Choice",
    "Costs",
    "DepthSearch",
    "Depths",
    "Infeasible",
    "Judge",
    "Meter",
    "Progress",
    "Quality",
    "Quantizer",
    "Uniform",
    "cycle_model",
    "find_limits",
    "limits_by_points",
    "operation_costs",
    "total",
    "uniform_costs",
    "uniform_depths",
]
