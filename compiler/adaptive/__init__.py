"""Networks that choose the depth of their activations, layer by layer, while they run.

``network`` says what such a network is, and ``golden`` what it computes; ``lower`` makes instructions of it: one
*segment* for every layer and combination of depths, each of which ends with the selection of the next.
"""

from tessera.compiler.adaptive.golden import evaluate_adaptive
from tessera.compiler.adaptive.lower import lower_adaptive
from tessera.compiler.adaptive.network import AdaptiveNetwork, Trace, with_ranges
from tessera.compiler.adaptive.program import AdaptiveProgram, Segment

__all__ = [
    "AdaptiveNetwork",
    "AdaptiveProgram",
    "Segment",
    "Trace",
    "evaluate_adaptive",
    "lower_adaptive",
    "with_ranges",
]
