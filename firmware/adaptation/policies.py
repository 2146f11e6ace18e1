"""Policies: who gives up bits, and who gets them back. What all share, and the simple ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tessera.firmware.adaptation.errors import AdaptationError
from tessera.firmware.adaptation.log import Decision
from tessera.firmware.adaptation.metrics import Observation
from tessera.firmware.adaptation.network import AdaptableNetwork, Layer
from tessera.firmware.adaptation.prediction import LatencyModel
from tessera.firmware.adaptation.settings import Mode, Settings


@dataclass(frozen=True)
class Group:
    """Layers whose depth is chosen as one: most often a single layer, or all of a network.

    Attributes
    ----------
    name
        What is said of it.
    layers
        The layers.
    steps
        Depths in bits that may be chosen, rising.
    """

    name: str
    layers: tuple[Layer, ...]
    steps: tuple[int, ...]

    def depths(self, depth: int) -> dict[str, int]:
        """The depth of each layer when this one is chosen."""
        return {layer.name: layer.nearest(depth) for layer in self.layers}

    def nearest(self, depth: int) -> int:
        """The step that is deepest among those not above ``depth``; the shallowest one, if all are."""
        return max((each for each in self.steps if each <= depth), default=self.steps[0])

    def below(self, depth: int) -> int | None:
        """The next step below; ``None`` at the end."""
        return max((each for each in self.steps if each < depth), default=None)

    def above(self, depth: int) -> int | None:
        """The next step above; ``None`` at the end."""
        return min((each for each in self.steps if each > depth), default=None)


def groups_of(network: AdaptableNetwork, mode: Mode) -> tuple[Group, ...]:
    """The groups of a network.

    Raises
    ------
    AdaptationError
        In the mode ``network`` its limits exclude every depth that it has.
    """
    if mode is Mode.LAYER:
        by_number: dict[int, list[Layer]] = {}
        for layer in network.layers:
            by_number.setdefault(layer.number, []).append(layer)
        return tuple(map(_group, by_number.values()))
    steps = tuple(depth for depth in network.depths if depth in network.limits)
    if not steps:
        raise AdaptationError(
            f"network {network.name!r} may run at {network.limits.minimum} to {network.limits.maximum} bits, but has "
            f"variants of {', '.join(map(str, network.depths))} bits only; change its limits"
        )
    return (Group(network.name, network.layers, steps),)


def _group(layers: Sequence[Layer]) -> Group:
    """Layers that share a number, so that the hardware's table has one depth for them."""
    steps = sorted({depth for layer in layers for depth in layer.allowed})
    return Group(", ".join(layer.name for layer in layers), tuple(layers), tuple(steps))


class Policy(ABC):
    """Chooses the depths of a network's layers, one observation after another.

    Parameters
    ----------
    network, settings
        What to decide for, and how.

    Attributes
    ----------
    chosen
        The depth of each group, in bits.
    latencies
        What is known of how long inferences take.
    """

    def __init__(self, network: AdaptableNetwork, settings: Settings):
        self.settings = settings
        self.latencies = LatencyModel(network)
        self.start = network.default_depth if settings.depth is None else settings.depth
        self.network, self.groups = network, groups_of(network, settings.mode)
        self.chosen = {group.name: group.nearest(self.start) for group in self.groups}

    def limit(self, network: AdaptableNetwork) -> None:
        """The same network has other limits from now on."""
        self.network, self.groups = network, groups_of(network, self.settings.mode)
        self.chosen = {group.name: group.nearest(self.chosen[group.name]) for group in self.groups}

    @property
    def table(self) -> dict[int, int]:
        """The depth in bits that is asked for, by the layers' numbers."""
        return {layer.number: self.chosen[group.name] for group in self.groups for layer in group.layers}

    @property
    def depths(self) -> dict[str, int]:
        """The depth of each layer, in bits."""
        found: dict[str, int] = {}
        for group in self.groups:
            found |= group.depths(self.chosen[group.name])
        return found

    @abstractmethod
    def decide(self, observation: Observation) -> Iterator[Decision]:
        """Changes ``chosen`` as an observation demands, and says so."""


class FixedPolicy(Policy):
    """Every layer keeps its depth."""

    def decide(self, observation: Observation) -> Iterator[Decision]:
        """Nothing changes."""
        return iter(())


class TablePolicy(Policy):
    """Every layer has the depth that the section asks for, as near as its limits allow.

    The hardware does this by itself; here is said what it does.
    """

    def __init__(self, network: AdaptableNetwork, settings: Settings):
        super().__init__(network, settings)
        self._asked = settings.depths_of_sections(network)
        self._section = settings.sections - 1
        self._ask(self._asked[-1])

    def decide(self, observation: Observation) -> Iterator[Decision]:
        """Follows the section."""
        if observation.section == self._section:
            return
        before, after = self._asked[self._section], self._asked[observation.section]
        old = self.depths
        self._section = observation.section
        self._ask(after)
        changed = tuple(name for name, depth in self.depths.items() if depth != old[name])
        yield Decision(
            observation.cycle,
            "section",
            f"others leave {observation.available:.0%} of the bus: section {observation.section} asks for {after} bits",
            changed,
            before,
            after,
            {"available": round(observation.available, 4), "section": observation.section},
        )

    def _ask(self, depth: int) -> None:
        self.chosen = {group.name: group.nearest(depth) for group in self.groups}
