"""What is known of how many bits a network needs: the sensitivities of its layers, and the limits of their depths.

Both name a layer by its operation, or, for what the NPU is given, by the tensor; a layer's activations are its output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tessera.compiler.errors import CompilerError
from tessera.rtl.config import ACTIVATION_DEPTHS


@dataclass(frozen=True)
class LayerSensitivity:
    """What fewer bits of one layer cost, in the unit of the method.

    Attributes
    ----------
    weights
        By weight depth; empty for a layer without weights.
    activations
        By depth of the layer's output.
    """

    weights: Mapping[int, float]
    activations: Mapping[int, float]


@dataclass(frozen=True)
class SensitivityProfile:
    """Sensitivities of a network.

    Attributes
    ----------
    method
        How they were found; one of `tessera.compiler.sensitivity.METHODS`.
    layers
        By the name of the layer.
    samples
        Calibration samples that they come from.
    """

    method: str
    layers: Mapping[str, LayerSensitivity]
    samples: int


@dataclass(frozen=True)
class DepthRange:
    """The least and the greatest activation depth that may be chosen, in bits.

    Raises
    ------
    CompilerError
        One of them is no activation depth, or the least is the greater one.
    """

    minimum: int = min(ACTIVATION_DEPTHS)
    maximum: int = max(ACTIVATION_DEPTHS)

    def __post_init__(self) -> None:
        for depth in (self.minimum, self.maximum):
            if depth not in ACTIVATION_DEPTHS:
                raise CompilerError(
                    f"the activation depth {depth} does not exist; use one of {', '.join(map(str, ACTIVATION_DEPTHS))}"
                )
        if self.minimum > self.maximum:
            raise CompilerError(
                f"the least activation depth {self.minimum} is above the greatest, {self.maximum}; swap them"
            )

    def __contains__(self, depth: int) -> bool:
        return self.minimum <= depth <= self.maximum

    def clamp(self, depth: int) -> int:
        """The depth in the range that is next to ``depth``."""
        return min(max(depth, self.minimum), self.maximum)

    def among(self, depths: Sequence[int]) -> tuple[int, ...]:
        """Those of rising ``depths`` that are in the range."""
        return tuple(depth for depth in depths if depth in self)

    def nearest(self, depth: int, depths: Sequence[int]) -> int:
        """What a layer of this range takes of rising ``depths`` where ``depth`` is asked for: the deepest in the range
        that is no deeper, or else the shallowest in the range, of which there must be one."""
        allowed = self.among(depths)
        return max((each for each in allowed if each <= depth), default=allowed[0])


@dataclass(frozen=True)
class DepthLimits:
    """The activation depths that a network may run at.

    Attributes
    ----------
    network
        Where one depth is chosen for all layers.
    layers
        Where each layer has its own, by the name of the layer.
    """

    network: DepthRange
    layers: Mapping[str, DepthRange]

    @staticmethod
    def at_least(depths: Mapping[str, int]) -> DepthLimits:
        """Those of a network of which no more is known than the depths by layer that it was made for: more bits do no
        harm, fewer may."""
        layers = {name: DepthRange(minimum=depth) for name, depth in depths.items()}
        return DepthLimits(DepthRange(minimum=max(depths.values(), default=min(ACTIVATION_DEPTHS))), layers)

    @staticmethod
    def within(allowed: DepthRange, depths: Mapping[str, int]) -> DepthLimits:
        """Those of a network whose layers may all have the same depths, and their own."""
        layers = {
            name: DepthRange(min(allowed.minimum, depth), max(allowed.maximum, depth)) for name, depth in depths.items()
        }
        return DepthLimits(allowed, layers)

    def with_ranges(self, network: str, ranges: Mapping[str, DepthRange]) -> DepthLimits:
        """These with other ranges for some layers of a network, by name; the name "" stands for the network, and for
        all layers that are not named.

        Raises
        ------
        CompilerError
            There is no such layer.
        """
        for name in ranges:
            if name and name not in self.layers:
                raise CompilerError(
                    f"network {network!r} has no layer {name!r} whose range of depths could be set; it has "
                    f"{', '.join(self.layers)}"
                )
        whole = ranges.get("", self.network)
        layers = {name: ranges.get(name, whole if "" in ranges else each) for name, each in self.layers.items()}
        return DepthLimits(whole, layers)

    def empty_ranges(self, layers: Iterable[str], depths: Sequence[int]) -> Iterator[str]:
        """For each of some layers whose range has none of ``depths`` what is wrong."""
        for layer in layers:
            allowed = self.layers[layer]
            if not allowed.among(depths):
                yield (
                    f"layer {layer!r} may have {allowed.minimum} to {allowed.maximum} bits, but there are variants of "
                    f"{', '.join(map(str, depths))}; change its range or the depths"
                )
