"""The precision manager: a control loop that chooses the depths of a running network's layers."""

from __future__ import annotations

from collections.abc import Mapping

from tessera.compiler.precision import DepthRange
from tessera.firmware.adaptation.log import Decision, DecisionLog
from tessera.firmware.adaptation.metrics import Observation
from tessera.firmware.adaptation.network import AdaptableNetwork, Depths
from tessera.firmware.adaptation.policies import FixedPolicy, Policy, TablePolicy
from tessera.firmware.adaptation.saturation import Forgetful, Memory
from tessera.firmware.adaptation.sensitivity_policy import SensitivityPolicy
from tessera.firmware.adaptation.settings import Mode, PolicyName, Settings
from tessera.rtl.adaptation import DepthSource
from tessera.rtl.config import ACTIVATION_DEPTHS
from tessera.rtl.isa import OPERATIONS, Depth
from tessera.rtl.traffic import MOST_SECTIONS
from tessera.sim.adaptation import DepthSettings

POLICIES: dict[PolicyName, type[Policy]] = {
    PolicyName.FIXED: FixedPolicy,
    PolicyName.TABLE: TablePolicy,
    PolicyName.SENSITIVITY: SensitivityPolicy,
}
"""The policies by name."""


class PrecisionManager:
    """Decides from observations how deep each layer of a network runs. It touches no hardware: `AdaptiveRunner` does.

    Parameters
    ----------
    network, settings
        What to decide for, and how.
    memory
        Where it is remembered which layers saturated; for the life of the manager, if ``None``.

    Attributes
    ----------
    log
        All decisions with their reasons.

    Raises
    ------
    AdaptationError
        The settings ask for what the network does not have.
    """

    def __init__(self, network: AdaptableNetwork, settings: Settings | None = None, memory: Memory | None = None):
        self.settings = settings or Settings()
        self.settings.check(network)
        self.log = DecisionLog()
        self._network = network
        self._key = f"{network.name} {network.identity}".strip()
        self._memory: Memory = Forgetful() if memory is None else memory
        is_one = self.settings.mode is Mode.NETWORK
        self._deepest = network.limits.maximum if is_one else max(ACTIVATION_DEPTHS)  # whatever is learned
        recalled = {layer.name: self._memory.recall(self._key, layer.name) for layer in network.layers}
        self._minimums = {name: min(depth, self._deepest) if self._adapts else 0 for name, depth in recalled.items()}
        self._policy = POLICIES[self.settings.policy](self._limited, self.settings)

    @property
    def depths(self) -> dict[str, int]:
        """The depth of each layer in bits."""
        return self._policy.depths

    @property
    def hardware(self) -> DepthSettings:
        """What the hardware is told. It follows the section by itself unless layers must be kept above depths that they
        saturated at, which only the table of layers can say."""
        settings, network = self.settings, self._network
        limits = network.limits if settings.mode is Mode.NETWORK else DepthRange()
        by_section = settings.policy is PolicyName.TABLE and not any(self._minimums.values())
        sections = settings.depths_of_sections(network)
        # With fewer thresholds the hardware never finds its lowest sections.
        sections = sections[:1] * (MOST_SECTIONS - len(sections)) + sections
        table = self._policy.table
        for layer in network.layers:  # a group's depth may be below what one of its layers has learned
            table[layer.number] = max(table[layer.number], self._minimums[layer.name])
        return DepthSettings(
            source=DepthSource.SECTION if by_section else DepthSource.LAYER,
            sampling=settings.sampling,
            period=settings.period_cycles,
            minimum=Depth.of(limits.minimum),
            maximum=Depth.of(limits.maximum),
            section_depths=tuple(map(Depth.of, sections)),
            layer_depths=tuple(Depth.of(table.get(number, max(ACTIVATION_DEPTHS))) for number in range(OPERATIONS)),
        )

    def started(self, cycle: int) -> None:
        """An inference begins."""
        self._policy.latencies.started()
        depths = sorted(set(self.depths.values()), reverse=True)
        self.log.add(
            Decision(
                cycle,
                "started",
                f"policy {self.settings.policy.value}, layers at {', '.join(map(str, depths))} bits",
                values={"depths": self.depths},
            )
        )

    def observe(self, observation: Observation) -> tuple[Decision, ...]:
        """Decides on what was seen; the decisions are in the log too."""
        chosen = {} if observation.progress is None else observation.progress.chosen
        self._policy.latencies.looked(observation, {**self.depths, **chosen})
        decisions = tuple(self._policy.decide(observation))
        for decision in decisions:
            self.log.add(decision)
        return decisions

    def finished(self, cycle: int, cycles: int, saturations: Mapping[str, int], chosen: Depths) -> tuple[Decision, ...]:
        """An inference has ended.

        Parameters
        ----------
        cycle
            When.
        cycles
            How long it took.
        saturations
            Values that saturated, by layer.
        chosen
            The depth at which each layer ran last, in bits.
        """
        target = self.settings.target_cycles
        met = None if target is None else cycles <= target
        verdict = {None: "", True: ", within its target", False: ", more than its target"}[met]
        self.log.add(
            Decision(cycle, "finished", f"an inference took {cycles:,} cycles{verdict}", values={"cycles": cycles})
        )
        self._policy.latencies.finished(cycles, chosen)
        learned = tuple(self._learn(cycle, saturations, chosen)) if self._adapts else ()
        for decision in learned:
            self.log.add(decision)
        return learned

    @property
    def _adapts(self) -> bool:
        """Whether depths may change at all."""
        return self.settings.policy is not PolicyName.FIXED

    @property
    def _limited(self) -> AdaptableNetwork:
        return self._network.with_minimums(self._minimums)

    def _learn(self, cycle: int, saturations: Mapping[str, int], chosen: Depths) -> list[Decision]:
        """Raises layers that saturated too much, for good."""
        learned = []
        for name, depth, share in self._saturated(saturations, chosen):
            layer = self._network.by_name[name]
            above = min((each for each in layer.allowed if depth < each <= self._deepest), default=None)
            if above is None or above <= self._minimums[name]:
                continue
            reason = (
                f"{share:.1%} of its values saturated at {depth} bits, more than {self.settings.saturation_share:.1%}: "
                "it stays above"
            )
            self._minimums[name] = above
            self._memory.remember(self._key, name, above, share, self.settings.saturation_share, reason)
            learned.append(Decision(cycle, "learned", reason, (name,), depth, above, {"share": round(share, 4)}))
        if learned:
            self._policy.limit(self._limited)
        return learned

    def _saturated(self, saturations: Mapping[str, int], chosen: Depths) -> list[tuple[str, int, float]]:
        """Layers that saturated too much, with their depths in bits and the shares of their values."""
        found = []
        for layer in self._network.layers:
            share = saturations.get(layer.name, 0) / max(1, self._network.tensors[layer.output].values)
            if share > self.settings.saturation_share:
                found.append((layer.name, chosen[layer.name], share))
        return found
