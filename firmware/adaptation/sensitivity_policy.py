"""The sensitivity policy: one operation by one step after the other, the one that harms least and helps most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tessera.firmware.adaptation.log import Decision
from tessera.firmware.adaptation.metrics import Metric, Observation
from tessera.firmware.adaptation.network import AdaptableNetwork, Depths
from tessera.firmware.adaptation.outlook import Outlook
from tessera.firmware.adaptation.policies import Group, Policy
from tessera.firmware.adaptation.settings import Settings

LONGEST_WAIT = 64
"""Factor by which the patience before an operation is raised grows at most."""

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
    """One operation by one step after the other: the one that harms least and helps most (`docs/adaptation.md`)."""

    def __init__(self, network: AdaptableNetwork, settings: Settings):
        super().__init__(network, settings)
        self._asked = settings.depths_of_sections(network)
        self._section = settings.sections - 1
        self._calm = 0  # observations, one after another, that ask for more bits
        self._patience = settings.raise_after
        self._last_raised = ""
        self._outlook = Outlook(self.latencies, settings.section, self._section, settings.foresight)
        self._feared_share = 1.0  # of the bus: others may leave no more at any moment
        self._feared_cycles: Callable[[Depths], float] = self._outlook.cycles  # of an inference to which that happens
        self._plan = dict(self.chosen)  # depths for a whole inference, without what one of them had to catch up

    def limit(self, network: AdaptableNetwork) -> None:
        """The same network has other limits from now on."""
        super().limit(network)
        self._plan = {group.name: group.nearest(self._plan[group.name]) for group in self.groups}

    def decide(self, observation: Observation) -> Iterator[Decision]:
        """Lowers or raises operations: with a target alone as many as the prediction asks for, else up to ``steps``,
        whose effect is seen first."""
        if observation.section != self._section:
            self._section, self._patience, self._last_raised = observation.section, self.settings.raise_after, ""
        if observation.progress is None and not observation.values and self.settings.limits:
            return  # between inferences, limited metrics say nothing
        self._see(observation)
        if observation.progress is None:
            yield from self._return_to_plan(observation)
        yield from self._changes(observation)
        if observation.progress is None or not self._predicts:
            self._plan = dict(self.chosen)

    def _see(self, observation: Observation) -> None:
        """Takes over the bandwidth, and with a target what is to be expected of it."""
        self._outlook.see(observation)
        if self.settings.target_cycles is not None:
            allowed = self.settings.target_cycles * (1 - self.settings.margin)
            self._feared_share = self._outlook.least_share(self.network, allowed)
            self._feared_cycles = self._outlook.guarded(self.network, self._feared_share)

    def _changes(self, observation: Observation) -> Iterator[Decision]:
        """One operation by one step after the other, while there is something to wish for."""
        first, count = None, 0
        while self._predicts or count < self.settings.steps:
            wish = self._wish(observation)
            if wish is None or wish.kind != (first or wish.kind) or (first is None and not self._may(wish)):
                return
            first = wish.kind
            found = self._lower(wish) if wish.kind == "lowered" else self._raise(wish)
            if found is None:
                return
            group, depth = found
            count += 1
            yield self._change(observation, wish, group, depth)

    @property
    def _predicts(self) -> bool:
        """Whether decisions rest on predictions alone, so that their effect is known beforehand."""
        return self.settings.target_cycles is not None and not self.settings.limits

    def _return_to_plan(self, observation: Observation) -> Iterator[Decision]:
        """What an inference had to catch up is not the next one's."""
        steps: dict[tuple[int, int], list[Group]] = {}
        for group in self.groups:
            before, after = self.chosen[group.name], self._plan[group.name]
            if before != after:
                steps.setdefault((before, after), []).append(group)
        self.chosen = dict(self._plan)
        for (before, after), groups in steps.items():
            names = tuple(layer.name for group in groups for layer in group.layers)
            reason = "a new inference has its whole time yet"
            yield Decision(observation.cycle, "restored", reason, names, before, after)

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
        """A wish for fewer bits because the inference takes too long, or could if the bus got as busy as before."""
        outlook, limit = self._outlook, target * (1 - self.settings.margin / 2)
        predicted, feared = outlook.cycles(self.depths), self._feared_cycles(self.depths)
        if max(predicted, feared) <= limit:
            return None
        if predicted > limit:
            reason = f"with {outlook.share:.0%} of the bus {self._whose} takes about {predicted:,.0f} cycles"
        else:
            reason = (
                f"should others leave {self._feared_share:.0%} of the bus again, {self._whose} takes about "
                f"{feared:,.0f} cycles"
            )
        reason += f", more than its target of {target:,} less half of the margin"
        return _Wish("lowered", reason, lambda group: group.steps[0], self._feared_cycles)

    @property
    def _whose(self) -> str:
        return "this inference" if self._outlook.progress else "an inference"

    def _less(self, observation: Observation) -> _Wish | None:
        """A wish for more bits because nothing is scarce any more."""
        for metric, limit in self.settings.limits.items():
            if observation.values.get(metric, 0.0) >= max(limit.release, limit.threshold * _NEGLIGIBLE):
                return None
        target = self.settings.target_cycles
        if target is None:
            return self._contention_ended(observation)
        cycles, allowed = self._feared_cycles, target * (1 - self.settings.margin)
        reason = (
            f"with {self._outlook.share:.0%} of the bus {self._whose} takes no more than {allowed:,.0f} cycles even "
            "so, within its target and margin"
        )
        return _Wish("raised", reason, self._ceiling, cycles, lambda depths: cycles(depths) <= allowed)

    def _ceiling(self, group: Group) -> int:
        """How far bits come back: while an inference runs only those that it gave up to catch up, since what it has to
        spare soon is little and the next one begins with its own plan."""
        planned = self._predicts and self._outlook.progress is not None
        return self._plan[group.name] if planned else group.nearest(self.start)

    def _contention_ended(self, observation: Observation) -> _Wish | None:
        free = self._section == self.settings.sections - 1
        depth = self.start if free else min(self.start, self._asked[self._section])
        if all(self.chosen[group.name] >= group.nearest(depth) for group in self.groups):
            return None
        reason = (
            f"others leave {observation.available:.0%} of the bus again: section {self._section} allows {depth} bits"
        )
        return _Wish("raised", reason, lambda group: group.nearest(depth), self.network.moved_bytes)

    def _open(self, group: Group) -> bool:
        """Whether a change of a group's depth still matters to the inference that is under way."""
        return not self._predicts or any(layer.name not in self._outlook.chosen for layer in group.layers)

    def _use(self, metric: Metric) -> Callable[[dict[str, int]], float]:
        """What a metric measures the use of."""
        return self.network.lane_cycles if metric is Metric.LANES else self.network.moved_bytes

    # -------------------------------------------------------------------------------------------------------- choices

    def _lower(self, wish: _Wish) -> tuple[Group, int] | None:
        """The group and step with the most use saved for the harm done; the first one of equals."""
        now, best, found = self.depths, 0.0, None
        use, harm, negligible = wish.use(now), self.network.harm(now), self._negligible
        for group in self.groups:
            depth = group.below(self.chosen[group.name])
            if depth is None or depth < wish.bound(group) or not self._open(group):
                continue
            then = now | group.depths(depth)
            score = (use - wish.use(then)) / (max(0.0, self.network.harm(then) - harm) + negligible)
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
            if depth is None or depth > wish.bound(group) or not self._open(group):
                continue
            then = now | group.depths(depth)
            if not wish.fits(then):
                continue
            cost = max(0.0, wish.use(then) - use) + _NEGLIGIBLE * max(1.0, use)
            undone = (harm - self.network.harm(then)) / cost, (potential - self.network.shared_harm(then)) / cost
            if undone > best:
                best, found = undone, (group, depth)
        return found

    @property
    def _negligible(self) -> float:
        worst: dict[str, int] = {}
        for group in self.groups:
            worst |= group.depths(group.steps[0])
        return _NEGLIGIBLE * self.network.harm(worst) or 1.0
