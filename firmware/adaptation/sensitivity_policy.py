"""The sensitivity policy: one operation by one step at a time, the one that harms least and helps most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tessera.firmware.adaptation.log import Decision
from tessera.firmware.adaptation.metrics import Metric, Observation
from tessera.firmware.adaptation.network import AdaptableNetwork
from tessera.firmware.adaptation.policies import Group, Policy
from tessera.firmware.adaptation.settings import Settings

LONGEST_WAIT = 64
"""Factor by which the patience before an operation is raised grows at most."""

SMOOTHING = 0.25
"""Weight of the latest window in the available bandwidth that predictions assume, while the section stays the same."""

_NEGLIGIBLE = 1e-9
"""Share of the largest harm that is added to every harm, so that what is harmless can be compared."""


@dataclass(frozen=True)
class _Wish:
    """What an observation asks for: fewer bits or more, why, how far, and of what there is too little.

    ``bound`` is the depth of a group beyond which it is not taken; ``use`` is what depths need of the scarce resource;
    ``fits`` tells whether depths are still acceptable.
    """

    kind: str
    reason: str
    bound: Callable[[Group], int]
    use: Callable[[dict[str, int]], float]
    fits: Callable[[dict[str, int]], bool] = lambda depths: True


class SensitivityPolicy(Policy):
    """One operation by one step at a time: the one that harms least and helps most (`docs/adaptation.md`)."""

    def __init__(self, network: AdaptableNetwork, settings: Settings):
        super().__init__(network, settings)
        self._asked = settings.depths_of_sections(network)
        self._section = settings.sections - 1
        self._calm = 0  # observations, one after another, that ask for more bits
        self._patience = settings.raise_after
        self._last_raised = ""
        self._available: float | None = None

    def decide(self, observation: Observation) -> Iterator[Decision]:
        """Lowers or raises up to ``steps`` operations."""
        if observation.section != self._section:
            self._section, self._patience, self._last_raised = observation.section, self.settings.raise_after, ""
            self._available = None
        self._smooth(observation.available)
        for _ in range(self.settings.steps):
            wish = self._wish(observation)
            if wish is None or not self._may(wish):
                return
            found = self._lower(wish) if wish.kind == "lowered" else self._raise(wish)
            if found is None:
                return
            group, depth = found
            yield self._change(observation, wish, group, depth)

    def _smooth(self, available: float) -> None:
        """A single window tells the bandwidth with too much noise: others take their beats at random."""
        before = available if self._available is None else self._available
        self._available = before + SMOOTHING * (available - before)

    @property
    def _share(self) -> float:
        """Share of the bus that predictions assume to be available."""
        return 1.0 if self._available is None else self._available

    def _may(self, wish: _Wish) -> bool:
        """Whether it is time: operations are lowered at once, and raised after some patience."""
        if wish.kind == "lowered":
            self._calm = 0
            return True
        self._calm += 1
        return self._calm >= self._patience

    def _change(self, observation: Observation, wish: _Wish, group: Group, depth: int) -> Decision:
        before = self.chosen[group.name]
        self.chosen[group.name] = depth
        if wish.kind == "raised":
            self._last_raised = group.name
            if self.settings.limits:
                self._calm = 0  # what this does must be seen before the next is raised
        elif group.name == self._last_raised:
            # It was raised in vain: the next attempt comes later.
            self._patience = min(2 * self._patience, LONGEST_WAIT * self.settings.raise_after)
            self._last_raised = ""
        values = {metric.value: round(value, 4) for metric, value in observation.values.items()}
        values |= {"available": round(observation.available, 4), "section": observation.section}
        return Decision(
            observation.cycle,
            wish.kind,
            wish.reason,
            tuple(layer.name for layer in group.layers),
            before,
            depth,
            values,
        )

    # --------------------------------------------------------------------------------------------------------- wishes

    def _wish(self, observation: Observation) -> _Wish | None:
        """What to do, if anything; the calm ends where nothing or less is asked for."""
        wish = self._more(observation) or self._less(observation)
        if wish is None:
            self._calm = 0
        return wish

    def _more(self, observation: Observation) -> _Wish | None:
        """A wish for fewer bits because something is scarce."""
        for metric, limit in self.settings.limits.items():
            value = observation.values.get(metric, 0.0)
            if value > limit.threshold:
                reason = f"{metric.value} at {value:.4g} pass their threshold of {limit.threshold:g}"
                return _Wish("lowered", reason, lambda group: group.steps[0], self._use(metric))
        if self.settings.target_cycles is not None:
            return self._missed_target(self.settings.target_cycles)
        if self._section == self.settings.sections - 1:
            return None
        floor = self._asked[self._section]
        reason = (
            f"others leave {observation.available:.0%} of the bus: in section {self._section} operations go down to "
            f"{floor} bits"
        )
        if any(self.chosen[group.name] > group.nearest(floor) for group in self.groups):
            return _Wish("lowered", reason, lambda group: group.nearest(floor), self.network.moved_bytes)
        return None

    def _missed_target(self, target: int) -> _Wish | None:
        cycles = self._cycles()
        predicted = cycles(self.depths)
        if predicted <= target:
            return None
        reason = (
            f"with {self._share:.0%} of the bus an inference takes about {predicted:,.0f} cycles, more than "
            f"its target of {target:,}"
        )
        return _Wish("lowered", reason, lambda group: group.steps[0], cycles)

    def _less(self, observation: Observation) -> _Wish | None:
        """A wish for more bits because nothing is scarce any more."""
        for metric, limit in self.settings.limits.items():
            if observation.values.get(metric, 0.0) >= max(limit.release, limit.threshold * _NEGLIGIBLE):
                return None
        target = self.settings.target_cycles
        if target is None:
            return self._contention_ended(observation)
        cycles, allowed = self._cycles(), target * (1 - self.settings.margin)
        reason = (
            f"with {self._share:.0%} of the bus an inference takes no more than {allowed:,.0f} cycles even "
            "so, within its target and margin"
        )
        return _Wish(
            "raised", reason, lambda group: group.nearest(self.start), cycles, lambda depths: cycles(depths) <= allowed
        )

    def _contention_ended(self, observation: Observation) -> _Wish | None:
        free = self._section == self.settings.sections - 1
        depth = self.start if free else min(self.start, self._asked[self._section])
        if all(self.chosen[group.name] >= group.nearest(depth) for group in self.groups):
            return None
        reason = (
            f"others leave {observation.available:.0%} of the bus again: section {self._section} allows {depth} bits"
        )
        return _Wish("raised", reason, lambda group: group.nearest(depth), self.network.moved_bytes)

    def _cycles(self) -> Callable[[dict[str, int]], float]:
        rate = self._share * self.network.bus_bytes
        return lambda depths: self.correction * self.network.cycles(depths, rate)

    def _use(self, metric: Metric) -> Callable[[dict[str, int]], float]:
        """What a metric measures the use of."""
        return self.network.lane_cycles if metric is Metric.LANES else self.network.moved_bytes

    # -------------------------------------------------------------------------------------------------------- choices

    def _lower(self, wish: _Wish) -> tuple[Group, int] | None:
        """The group and step with the most use saved for the harm done; the first one of equals."""
        now, best, found = self.depths, 0.0, None
        use, harm = wish.use(now), self.network.harm(now)
        for group in self.groups:
            depth = group.below(self.chosen[group.name])
            if depth is None or depth < wish.bound(group):
                continue
            then = self.depths_with(group, depth)
            score = (use - wish.use(then)) / (max(0.0, self.network.harm(then) - harm) + self._negligible)
            if score > best:
                best, found = score, (group, depth)
        return found

    def _raise(self, wish: _Wish) -> tuple[Group, int] | None:
        """The group and step with the most harm undone for the use; where nothing is undone before a neighbour is
        raised too, the most that this may become."""
        now, best, found = self.depths, (-1.0, -1.0), None
        use, harm, potential = wish.use(now), self.network.harm(now), self.network.shared_harm(now)
        for group in self.groups:
            depth = group.above(self.chosen[group.name])
            if depth is None or depth > wish.bound(group):
                continue
            then = self.depths_with(group, depth)
            if not wish.fits(then):
                continue
            cost = max(0.0, wish.use(then) - use) + _NEGLIGIBLE * max(1.0, use)
            undone = (harm - self.network.harm(then)) / cost, (potential - self.network.shared_harm(then)) / cost
            if undone > best:
                best, found = undone, (group, depth)
        return found

    @property
    def _negligible(self) -> float:
        least = {group.name: group.steps[0] for group in self.groups}
        worst: dict[str, int] = {}
        for group in self.groups:
            worst |= group.depths(least[group.name])
        return _NEGLIGIBLE * (self.network.harm(worst) or 1.0)
