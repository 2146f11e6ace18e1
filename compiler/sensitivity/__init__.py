"""How much a network's result suffers when a layer has fewer bits.

``loss`` says what the result is worth, ``probe`` computes it with a layer's weights or output changed, and ``profile``
makes of it the sensitivity profile of a network by one of several methods.
"""

from tessera.compiler.sensitivity.loss import Loss, make_loss
from tessera.compiler.sensitivity.probe import Probe
from tessera.compiler.sensitivity.profile import DEFAULT_METHOD, METHODS, HessianOptions, analyse

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "HessianOptions",
    "Loss",
    "Probe",
    "analyse",
    "make_loss",
]
