"""Finds between which activation depths a network may run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tessera.compiler.mixed_precision.quality import Judge
from tessera.compiler.precision import DepthLimits, DepthRange, SensitivityProfile
from tessera.compiler.quantized import QuantizedNetwork


def find_limits(
    network: QuantizedNetwork, profile: SensitivityProfile, judge: Judge, available: Sequence[int], loss: float
) -> DepthLimits:
    """The limits for which a network loses at most ``loss`` points against its greatest depths, with the same weights.

    All layers have their least depth at the same level of sensitivity: the highest at which the network, with every
    layer at its least depth, loses no more. The least depth of the network is that at which all layers may run alike.
    The depths that the network has are always allowed.

    Parameters
    ----------
    network
        The network.
    profile
        Sensitivities of its layers.
    judge
        Finds the quality of other depths.
    available
        Activation depths of the machine, rising.
    loss
        In points.
    """
    layers = network.layer_depths()

    def points(depths: Mapping[str, int]) -> float:
        return judge(network.with_activation_depths(depths)).points

    return limits_by_points(profile, layers, list(available), points, loss)


Points = Callable[[Mapping[str, int]], float]
"""The quality, in points, of the network with given activation depths by layer."""


def limits_by_points(
    profile: SensitivityProfile, depths: Mapping[str, int], available: list[int], points: Points, loss: float
) -> DepthLimits:
    """The limits of a network with some depths by layer; see `find_limits`."""
    deepest = available[-1]
    accepted = points(dict.fromkeys(depths, deepest)) - loss
    minima = _least_depths(profile, depths, available, lambda chosen: points(chosen) >= accepted)
    uniform = next((depth for depth in available if points(dict.fromkeys(depths, depth)) >= accepted), deepest)
    layers = {name: DepthRange(min(minima[name], depth), max(deepest, depth)) for name, depth in depths.items()}
    return DepthLimits(DepthRange(uniform, deepest), layers)


def _least_depths(
    profile: SensitivityProfile,
    layers: Mapping[str, int],
    available: list[int],
    accepts: Callable[[Mapping[str, int]], bool],
) -> dict[str, int]:
    """Least depths by layer at the highest level of sensitivity that is accepted."""
    levels = sorted({profile.layers[name].activations[depth] for name in layers for depth in available})

    def at(level: float) -> dict[str, int]:
        return {name: _least_depth(profile.layers[name].activations, available, level) for name in layers}

    low, high = -1, len(levels)  # accepted, refused: indices of levels
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepts(at(levels[middle])) else (low, middle)
    return at(levels[low]) if low >= 0 else dict.fromkeys(layers, available[-1])


def _least_depth(sensitivities: Mapping[int, float], available: list[int], level: float) -> int:
    """The least depth such that it and all deeper ones are no more sensitive than a level."""
    least = available[-1]
    for depth in reversed(available):
        if sensitivities[depth] > level:
            break
        least = depth
    return least
