"""What may be done, beyond rounding to the nearest step, so that few bits lose little."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Refinements:
    """Switches of the quantiser; what each is worth is in ``docs/decisions/0014-refinements.md``.

    None needs labels or training: they take the calibration data, and the float network as the teacher.

    Attributes
    ----------
    scale_search
        Each output channel's weight scale has the least squared error of the weights; else the largest weight is the
        end of the range.
    clip_search
        Each tensor's range at each depth has the least squared error of the activations, which cuts rare large ones
        off; else it covers all of them. The idea of both searches: Banner et al., arXiv:1810.05723.
    bias_correction
        A layer's mean output is as in the float network (Nagel et al., arXiv:1906.04721, section 4.2). Without
        ``rounding`` it makes up for what the weights lost times the input's mean; with it, for all that came before.
    equalisation
        The channels between two convolutions are scaled such that they and the weights that read them fill their
        ranges equally well: :func:`tessera.compiler.equalise`, which the caller applies before calibration (after
        Nagel et al., section 4.1).
    rounding
        Weights are rounded such that a layer's output, not each weight, has the least error (the aim of Nagel et al.,
        arXiv:2004.10568, by the second moments of the inputs as in Frantar et al., arXiv:2210.17323); see
        :mod:`tessera.compiler.rounding`. Weights that have few bits already stay.
    """

    scale_search: bool = True
    clip_search: bool = True
    bias_correction: bool = True
    equalisation: bool = True
    rounding: bool = True

    def switched(self, names: Iterable[str], *, on: bool) -> Refinements:
        """The same with some, by their names, switched on or off."""
        return replace(self, **dict.fromkeys(names, on))


REFINEMENTS = tuple(field.name for field in fields(Refinements))
"""Names of the refinements."""

DEFAULT_REFINEMENTS = Refinements()
"""Those that pay on the whole."""

NO_REFINEMENTS = Refinements().switched(REFINEMENTS, on=False)
"""The nearest step everywhere."""
