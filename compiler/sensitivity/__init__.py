"""How much a network's result suffers when a layer has fewer bits.

``loss`` says what the result is worth, and ``probe`` computes it with a layer's weights or output changed;
``curvature`` estimates the Hessian from that, ``derivatives`` finds it exactly; ``profile`` makes of them the
sensitivity profile of a network, by one of several methods.
"""

from tessera.compiler.sensitivity.curvature import Curvature, HessianOptions
from tessera.compiler.sensitivity.loss import Loss, make_loss
from tessera.compiler.sensitivity.probe import Probe
from tessera.compiler.sensitivity.profile import DEFAULT_METHOD, METHODS, analyse, check_request

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Curvature",
    "HessianOptions",
    "Loss",
    "Probe",
    "analyse",
    "check_request",
    "make_loss",
]
