"""The curvature of a network's loss, from values of the loss alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from tessera.compiler.graph import Node
from tessera.compiler.sensitivity.probe import Probe

Outputs = Mapping[str, np.ndarray]
"""Outputs of the network, by name."""

Run = Callable[[np.ndarray, np.ndarray], Outputs]
"""The outputs with other values of what is changed, for some samples."""


@dataclass(frozen=True)
class HessianOptions:
    """Hutchinson's estimator.

    Attributes
    ----------
    directions
        Random directions per layer: 32 give the right order of layers but for near-equal neighbours.
    batch
        Samples that the loss of a direction is the mean of, drawn anew for each direction.
    epsilon
        Length of a step relative to the root mean square of what is changed. ReLU and max pooling have kinks that
        larger steps cross, which biases the second difference.
    seed
        Of directions and samples.
    """

    directions: int = 32
    batch: int = 16
    epsilon: float = 1e-5
    seed: int = 0


class Curvature:
    """Mean diagonal elements of the Hessian by Hutchinson's estimator (Communications in Statistics 19(2), 1990): the
    mean of v'Hv / n over random v of elements +-1, each from the second difference of the loss along v.

    ReLU and max pooling have kinks, and a step across one makes a second difference as large as it likes. The loss,
    seen from the outputs, has none: the part of v'Hv that comes from the loss's own curvature (Gauss and Newton's)
    is taken from the outputs' first difference, and averaged. The rest, the outputs' own curvature, is 0 between the
    kinks of such a network and smooth in others; its median over the directions is not moved by the kinks.

    Elements that are 0 are left out, since quantisation leaves them as they are. Nothing is differentiated, so that any
    network will do; `Derivatives` finds the same exactly.

    Parameters
    ----------
    probe
        The network, its data and its loss.
    options
        Of the estimator.
    """

    def __init__(self, probe: Probe, options: HessianOptions):
        self._probe, self._options = probe, options

    def weight_curvature(self, node: Node) -> float:
        """Mean diagonal element with respect to a layer's weights; never negative."""
        weights = self._probe.weights(node)
        assert weights is not None, "only a layer with weights has a curvature in them"
        return self._mean_diagonal(weights, partial(self._probe.outputs_with_weights, node), by_sample=False)

    def activation_curvature(self, name: str) -> float:
        """Mean diagonal element of a sample's loss with respect to a tensor's values; never negative."""
        values = self._probe.values(name, np.arange(self._probe.samples))
        return self._mean_diagonal(values, partial(self._probe.outputs_with_values, name), by_sample=True)

    def _mean_diagonal(self, values: np.ndarray, outputs: Run, *, by_sample: bool) -> float:
        options, probe = self._options, self._probe
        rng = np.random.default_rng(options.seed)
        size = min(options.batch, probe.samples)
        step = options.epsilon * (float(np.sqrt(np.mean(np.square(values)))) or 1.0)
        found = []
        for _ in range(options.directions):
            samples = rng.choice(probe.samples, size, replace=False)
            start = values[samples] if by_sample else values
            direction = rng.choice((-1.0, 1.0), start.shape) * (start != 0)
            # The loss is a mean over samples, each of which has its own part of a changed tensor.
            share = (size if by_sample else 1) / max(1, int(np.count_nonzero(direction)))
            up, down = (outputs(start + sign * step * direction, samples) for sign in (1, -1))
            found.append([share * part / step**2 for part in self._second_differences(up, down, samples)])
        whole, own = np.array(found).T
        return max(0.0, float(own.mean() + np.median(whole - own)))

    def _second_differences(self, up: Outputs, down: Outputs, samples: np.ndarray) -> tuple[float, float]:
        """The second difference of the loss, and that where the outputs were linear between ``up`` and ``down``."""
        middle = self._probe.outputs(samples)
        slope = {name: (up[name] - down[name]) / 2 for name in up}
        straight = ({name: middle[name] + sign * slope[name] for name in up} for sign in (1, -1))
        whole, own = (
            sum(self._probe.criterion(side, samples) for side in sides) - 2 * self._probe.criterion(middle, samples)
            for sides in ((up, down), straight)
        )
        return whole, own
