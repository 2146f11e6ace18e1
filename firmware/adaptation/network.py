"""What the precision manager knows of a network: its layers, the tensors between them, and what depths cost and harm.

Every layer computes at a depth of its own and stores its output at it; a layer that reads a deeper tensor than its own
depth converts it on the way. A tensor therefore is worth the least of the depths of its producer and its consumers,
and takes the room on the bus of its producer's depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from tessera.compiler.precision import DepthRange
from tessera.firmware.adaptation.errors import AdaptationError

Depths = Mapping[str, int]
"""A depth in bits for each layer."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies in DRAM between layers.

    Attributes
    ----------
    values
        Number of values of one inference.
    sensitivity
        What the result suffers when it has a depth, by depth; ``None`` if nobody knows.
    depth
        Its depth, if it is always the same, as that of a network's input and output, so that its traffic counts among
        the ``constant_bytes`` of layers; ``None`` if it has that of its producer.
    padding
        Number of values that its layout adds.
    """

    values: int
    sensitivity: Mapping[int, float] | None = None
    depth: int | None = None
    padding: int = 0

    def bytes_at(self, depth: int) -> int:
        """Bytes in DRAM at a depth in bits."""
        return (self.values + self.padding) * depth // 8


@dataclass(frozen=True)
class Layer:
    """An operation whose depth can be chosen.

    Attributes
    ----------
    name, number
        Of the operation; the number is that of the hardware's table of depths, 0 to 63. Layers that share one have one
        depth, as near to it as each can.
    inputs, output
        Names of its tensors.
    depths
        Depths in bits at which it can run, rising.
    limits
        Depths at which it may run.
    constant_bytes
        Bytes that one execution moves whatever the depths: weights, parameters, code, and tensors of one depth.
    lane_cycles
        Cycles of its computation alone, by depth; 0 where nothing is said.
    alone_cycles
        Cycles that it adds to an inference while nobody else uses the bus, by depth; where nothing is said, its
        computation.
    """

    name: str
    number: int
    inputs: tuple[str, ...]
    output: str
    depths: tuple[int, ...]
    limits: DepthRange = DepthRange()
    constant_bytes: int = 0
    lane_cycles: Mapping[int, float] = field(default_factory=dict)
    alone_cycles: Mapping[int, float] = field(default_factory=dict)

    def least_cycles(self, depth: int) -> float:
        """Cycles that it takes however much of the bus is left."""
        return self.alone_cycles.get(depth, self.lane_cycles.get(depth, 0.0))

    @cached_property
    def allowed(self) -> tuple[int, ...]:
        """The depths at which it can and may run, rising."""
        return tuple(depth for depth in self.depths if depth in self.limits)

    def nearest(self, depth: int) -> int:
        """The deepest allowed depth that is not above ``depth``; the shallowest one, if all are."""
        return max((each for each in self.allowed if each <= depth), default=min(self.allowed))


@dataclass(frozen=True)
class AdaptableNetwork:
    """A network whose layers' depths can be chosen while it runs.

    Attributes
    ----------
    name
        Of the network.
    layers
        In the order of execution.
    tensors
        What lies in DRAM between them, by name.
    limits
        Depths at which it may run, where one depth is chosen for all layers.
    default_depth
        At which it starts, in bits.
    bus_bytes
        Bytes per cycle that the bus moves at most.
    identity
        What tells it from other networks of its name, for what is remembered of it.

    Raises
    ------
    AdaptationError
        A layer has no depth within its limits, or names a tensor that is not there or has no depth.
    """

    name: str
    layers: tuple[Layer, ...]
    tensors: Mapping[str, StoredTensor]
    limits: DepthRange = DepthRange()
    default_depth: int = 16
    bus_bytes: float = 16.0
    identity: str = ""

    def __post_init__(self) -> None:
        if not self.layers:
            raise AdaptationError(f"network {self.name!r} has no layer whose depth can be chosen")
        for layer in self.layers:
            if not layer.allowed:
                raise AdaptationError(
                    f"layer {layer.name!r} may run at {layer.limits.minimum} to {layer.limits.maximum} bits, but has "
                    f"variants of {_listed(layer.depths)} only; change its limits, or quantise it at other depths"
                )
            self._check_tensors(layer)

    def _check_tensors(self, layer: Layer) -> None:
        for name in (*layer.inputs, layer.output):
            if name not in self.tensors:
                raise AdaptationError(f"layer {layer.name!r} names tensor {name!r}, which is not there")
        for name in layer.inputs:
            if name not in self._producers and self.tensors[name].depth is None:
                raise AdaptationError(
                    f"tensor {name!r}, which layer {layer.name!r} reads, has neither a producer nor a depth of its own"
                )

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        """The layers by their names."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """All depths of which a layer has a variant, rising."""
        return tuple(sorted({depth for layer in self.layers for depth in layer.depths}))

    def uniform(self, depth: int) -> dict[str, int]:
        """Every layer as near to a depth as its limits and variants allow."""
        return {layer.name: layer.nearest(depth) for layer in self.layers}

    def with_minimums(self, minimums: Depths) -> AdaptableNetwork:
        """The network with layers that may not run below some depths; a minimum above a layer's maximum counts as that
        maximum."""

        def limited(layer: Layer) -> Layer:
            least = min(max(layer.limits.minimum, minimums.get(layer.name, 0)), max(layer.allowed))
            return replace(layer, limits=DepthRange(least, layer.limits.maximum))

        return replace(self, layers=tuple(map(limited, self.layers)))

    # ----------------------------------------------------------------------------------------------- what depths mean

    def moved_bytes(self, depths: Depths) -> int:
        """Bytes that one inference moves between chip and DRAM."""
        return sum(bytes_ for _, bytes_ in self._traffic(depths))

    def lane_cycles(self, depths: Depths) -> float:
        """Cycles of all computations alone."""
        return sum(layer.lane_cycles.get(depths[layer.name], 0.0) for layer in self.layers)

    def cycles(self, depths: Depths, bytes_per_cycle: float, moved_bytes: float = 0.0) -> float:
        """Cycles of one inference, or of what is left of it: each layer as long as it takes alone on the bus or as its
        traffic, whichever is longer.

        Parameters
        ----------
        depths
            Of each layer.
        bytes_per_cycle
            What others leave of the bus.
        moved_bytes
            Bytes that the inference has moved already; layers move theirs one after the other.
        """
        return sum(self.layer_cycles(depths, bytes_per_cycle, moved_bytes))

    def layer_cycles(self, depths: Depths, bytes_per_cycle: float, moved_bytes: float = 0.0) -> list[float]:
        """The same for each layer."""
        rate = max(min(bytes_per_cycle, self.bus_bytes), _LEAST_RATE * self.bus_bytes)
        found, moved = [], moved_bytes
        for layer, bytes_ in self._traffic(depths):
            left = 1.0 if moved <= 0 else max(0.0, 1 - moved / max(1, bytes_))
            found.append(left * max(layer.least_cycles(depths[layer.name]), bytes_ / rate))
            moved -= bytes_
        return found

    def harm(self, depths: Depths) -> float:
        """What the result suffers, in the unit of the sensitivity profile: the sum over the tensors."""
        return sum(max(written, read) for written, read in self._harms(depths))

    def shared_harm(self, depths: Depths) -> float:
        """The same if half of a tensor's harm were its producer's and half its consumers': what tells apart layers of
        which none does good or harm alone."""
        return sum((written + read) / 2 for written, read in self._harms(depths))

    def _harms(self, depths: Depths) -> Iterator[tuple[float, float]]:
        """For each tensor what its producer's depth and what the least depth of its consumers does to it."""
        for harms, writer, readers in self._touched:
            written = harms[depths[writer]] if writer else 0.0
            yield written, harms[min(depths[reader] for reader in readers)] if readers else 0.0

    @cached_property
    def _touched(self) -> list[tuple[dict[int, float], str, tuple[str, ...]]]:
        """For each tensor what every depth does to it, who writes it (empty: nobody), and who reads it."""
        return [
            (
                {depth: self._sensitivity(name, depth) for depth in self.depths},
                self._producers.get(name, ""),
                tuple(layer.name for layer in self.layers if name in layer.inputs),
            )
            for name in self.tensors
        ]

    def _sensitivity(self, name: str, depth: int) -> float:
        """Never negative, and never less than at more bits: what noise makes better by chance counts as harmless."""
        known = self.tensors[name].sensitivity or {}
        return max((0.0, *(value for other, value in known.items() if other >= depth)))

    def _traffic(self, depths: Depths) -> Iterator[tuple[Layer, int]]:
        """Each layer with the bytes that it moves."""
        for layer, stored in self._moved:
            yield layer, layer.constant_bytes + sum([by_depth[depths[writer]] for by_depth, writer in stored])

    @cached_property
    def _moved(self) -> list[tuple[Layer, list[tuple[dict[int, int], str]]]]:
        """Each layer with the bytes at every depth, and the writers, of its tensors that have their writers' depths."""

        def stored(name: str) -> tuple[dict[int, int], str]:
            tensor = self.tensors[name]
            return {depth: tensor.bytes_at(depth) for depth in self.depths}, self._producers[name]

        return [
            (layer, [stored(name) for name in (*layer.inputs, layer.output) if self.tensors[name].depth is None])
            for layer in self.layers
        ]

    @cached_property
    def _producers(self) -> dict[str, str]:
        return {layer.output: layer.name for layer in self.layers}


_LEAST_RATE = 1 / 256
"""Share of the bus that counts as available at least, so that a bus that others take whole has finite predictions."""


def _listed(depths: tuple[int, ...]) -> str:
    return ", ".join(map(str, depths)) + " bits"
