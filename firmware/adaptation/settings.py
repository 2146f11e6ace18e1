"""How the precision manager decides."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from tessera.firmware.adaptation.errors import AdaptationError
from tessera.firmware.adaptation.metrics import Limit, Metric
from tessera.firmware.adaptation.network import AdaptableNetwork
from tessera.firmware.bandwidth import COUNT_LIMIT, MonitorSettings
from tessera.rtl.adaptation import PERIOD_BITS, Sampling
from tessera.rtl.config import ACTIVATION_DEPTHS
from tessera.rtl.traffic import LEAST_SECTIONS, LEAST_WINDOW, MOST_SECTIONS, MOST_WINDOW

TABLE_DEPTHS = (16, 8, 6, 4)
"""Depth in bits that each section asks for, the one with most bandwidth first."""

THRESHOLDS = (3 / 4, 2 / 4, 1 / 4)
"""Shares of the bus above which a section begins, the one with most bandwidth first."""


class PolicyName(enum.StrEnum):
    """Who chooses the depths, and how."""

    FIXED = "fixed"
    """Nobody: every layer keeps one depth."""
    TABLE = "table"
    """The hardware, at each layer, by the bandwidth that others leave."""
    SENSITIVITY = "sensitivity"
    """The manager, one operation by one step after the other: the one that harms least and helps most."""


class Mode(enum.StrEnum):
    """For what a depth is chosen."""

    LAYER = "layer"
    """Each layer has a depth of its own within its own limits."""
    NETWORK = "network"
    """All layers have one depth within the limits of the network, each as near to it as its own limits allow."""


@dataclass(frozen=True)
class Settings:
    """How the precision manager decides.

    Attributes
    ----------
    policy, mode, sampling
        Who chooses depths, for what, and when the hardware looks.
    depth
        In bits: of the policy ``fixed``, and at which ``sensitivity`` starts, which is as far as bits come back;
        ``None`` for the network's default. The policy ``table`` has its depths from the sections alone.
    thresholds
        Shares of the bus above which a section begins, falling: THD1, THD2, THD3.
    section_depths
        Depths in bits that the sections ask for, falling, one more than thresholds; ``None``: 16, 8, 6 and 4 bits, or
        what the network has next to them.
    hysteresis
        Share of the bus by which the available bandwidth must exceed a threshold to come back into a section.
    window_cycles
        The monitor's window, a power of two; the shortest time in which anything is noticed.
    period_cycles
        Of the sampling ``PERIOD``.
    poll_cycles
        Cycles after which the manager looks at the metrics, if no interrupt calls it earlier.
    limits
        For metrics besides the available bandwidth: where they count as passed, and as released.
    steps
        Operations that the sensitivity policy lowers or raises by one step each time that it looks, at most; with a
        target and without limits as many as the prediction asks for.
    raise_after
        Times that the manager must find contention ended, one after another, before it raises an operation.
    target_cycles
        Latency that an inference should have at most, in cycles; ``None``: no target.
    margin
        Share of the target that must stay free when an operation is raised, and half of it at all times.
    foresight
        Inferences for which the least bandwidth that was seen is expected to come back at any moment, so that a target
        can still be met; 0: it is not.
    saturation_share
        Share of a layer's output values that may saturate; at more the layer is raised, and that is remembered.

    Raises
    ------
    AdaptationError
        Something of this makes no sense, whatever the network.
    """

    policy: PolicyName = PolicyName.SENSITIVITY
    mode: Mode = Mode.LAYER
    sampling: Sampling = Sampling.LAYER
    depth: int | None = None
    thresholds: tuple[float, ...] = THRESHOLDS
    section_depths: tuple[int, ...] | None = None
    hysteresis: float = 1 / 32
    window_cycles: int = 1 << 10
    period_cycles: int = 1 << 14
    poll_cycles: int = 1 << 12
    limits: Mapping[Metric, Limit] = field(default_factory=dict)
    steps: int = 1
    raise_after: int = 4
    target_cycles: int | None = None
    margin: float = 0.03
    foresight: int = 32
    saturation_share: float = 0.05

    def __post_init__(self) -> None:
        _check_window(self.window_cycles)
        self._check_thresholds()
        self._check_depths()
        for name, least in {"period_cycles": 1, "poll_cycles": 1, "steps": 1, "raise_after": 1, "foresight": 0}.items():
            if getattr(self, name) < least:
                raise AdaptationError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("margin", "saturation_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise AdaptationError(f"{name} is a share, from 0 to 1, not {getattr(self, name):g}")
        if self.period_cycles >= 1 << PERIOD_BITS:
            raise AdaptationError(
                f"period_cycles must be at most {(1 << PERIOD_BITS) - 1}, not {self.period_cycles}; to look once per "
                "inference use the sampling 'run'"
            )
        if self.poll_cycles >= COUNT_LIMIT:
            raise AdaptationError(
                f"poll_cycles must be at most {COUNT_LIMIT - 1}, not {self.poll_cycles}; after that the counters wrap "
                "around"
            )
        if self.target_cycles is not None and not 1 <= self.target_cycles < COUNT_LIMIT:
            raise AdaptationError(
                f"the latency target must be 1 to {COUNT_LIMIT - 1} cycles, not {self.target_cycles}; leave it out if "
                "any latency will do"
            )
        for metric, limit in self.limits.items():
            metric.check(limit)

    @property
    def sections(self) -> int:
        """Number of sections."""
        return len(self.thresholds) + 1

    def depths_of_sections(self, network: AdaptableNetwork) -> tuple[int, ...]:
        """The depth in bits of each section, section 0 (least bandwidth) first."""
        chosen = self.section_depths
        if chosen is None:
            wanted = TABLE_DEPTHS[: self.sections]
            chosen = tuple(max((own for own in network.depths if own <= d), default=network.depths[0]) for d in wanted)
        return chosen[::-1]

    def section(self, available: float, before: int | None = None) -> int:
        """The section of a share of the bus that is available, as the monitor finds it: 0 is the one with least.

        Parameters
        ----------
        available
            Share of the bus.
        before
            The section until now, from which it rises only by more than the hysteresis; ``None``: there was none.
        """
        rising = self.thresholds[::-1]
        plain = sum(available > threshold for threshold in rising)
        if before is None or plain <= before:
            return plain
        return max(before, sum(available > threshold + self.hysteresis for threshold in rising))

    def monitor(self, bus_bytes: float) -> MonitorSettings:
        """How the bandwidth monitor finds the sections on a bus of so many bytes per cycle."""
        return MonitorSettings(
            window=self.window_cycles,
            peak=bus_bytes,
            thresholds=tuple(bus_bytes * share for share in reversed(self.thresholds)),
            hysteresis=bus_bytes * self.hysteresis,
        )

    def check(self, network: AdaptableNetwork) -> None:
        """Raises `AdaptationError` if the settings ask a network for something that it does not have, or its machine's
        bandwidth monitor for what it cannot find."""
        self._check_monitor(network.bus_bytes)
        asked = {"the depth": (self.depth,), "the table": self.section_depths or ()}
        for what, depths in asked.items():
            for depth in depths:
                if depth is not None and depth not in network.depths:
                    raise AdaptationError(
                        f"{what} of policy {self.policy.value!r} asks for {depth} bits, but network {network.name!r} "
                        f"has variants of {', '.join(map(str, network.depths))} bits; use one of them, or quantise "
                        "the network with --adaptive for more"
                    )
        if self.policy is PolicyName.SENSITIVITY:
            _check_profile(network)

    def _check_thresholds(self) -> None:
        if not LEAST_SECTIONS <= self.sections <= MOST_SECTIONS:
            raise AdaptationError(
                f"there are {len(self.thresholds)} thresholds, which make {self.sections} sections, but there may be "
                f"{LEAST_SECTIONS} to {MOST_SECTIONS}"
            )
        for threshold in self.thresholds:
            if not 0 < threshold < 1:
                raise AdaptationError(f"a threshold is a share of the bus, between 0 and 1, not {threshold:g}")
        for upper, lower in itertools.pairwise(self.thresholds):
            if upper <= lower:
                raise AdaptationError(
                    f"the thresholds {', '.join(f'{each:g}' for each in self.thresholds)} are out of order: {lower:g} "
                    f"must be below {upper:g}"
                )
        if not 0 <= self.hysteresis < 1 - self.thresholds[0]:
            raise AdaptationError(
                f"the hysteresis is a share of the bus, from 0 to less than what is above the highest threshold, "
                f"{1 - self.thresholds[0]:g}, not {self.hysteresis:g}"
            )

    def _check_monitor(self, bus_bytes: float) -> None:
        """Whole bytes per window may be too coarse for shares that differ by little."""
        monitor = self.monitor(bus_bytes).per_window()
        try:
            monitor.in_force(round(bus_bytes))
        except ValueError as error:
            raise AdaptationError(
                f"in windows of {self.window_cycles} cycles {error}; lower the threshold or take a longer window"
            ) from None
        for index, (upper, lower) in enumerate(
            itertools.pairwise(monitor.thresholds[: -len(self.thresholds) - 1 : -1])
        ):
            if upper == lower:
                raise AdaptationError(
                    f"the thresholds {self.thresholds[index]:g} and {self.thresholds[index + 1]:g} are both {upper} "
                    f"bytes in windows of {self.window_cycles} cycles; take a longer window"
                )

    def _check_depths(self) -> None:
        depths = self.section_depths or ()
        for depth in (*depths, *(() if self.depth is None else (self.depth,))):
            if depth not in ACTIVATION_DEPTHS:
                raise AdaptationError(
                    f"the activation depth {depth} does not exist; use one of {', '.join(map(str, ACTIVATION_DEPTHS))}"
                )
        if self.section_depths is not None and len(depths) != self.sections:
            raise AdaptationError(
                f"{len(self.thresholds)} thresholds make {self.sections} sections, but there are {len(depths)} depths; "
                "give one for each section"
            )
        if any(upper < lower for upper, lower in itertools.pairwise(depths)):
            raise AdaptationError(
                f"the depths of the sections, {', '.join(map(str, depths))}, must fall with the bandwidth; swap them"
            )


def _check_window(cycles: int) -> None:
    least, most = 1 << LEAST_WINDOW, 1 << MOST_WINDOW
    if not least <= cycles <= most or cycles & (cycles - 1):
        raise AdaptationError(
            f"the monitor's window must be a power of two from {least} to {most} cycles, not {cycles}"
        )


def _check_profile(network: AdaptableNetwork) -> None:
    """Raises `AdaptationError` if the sensitivity of a layer's output is not known for all of its depths."""
    for layer in network.layers:
        known = network.tensors[layer.output].sensitivity
        if len(layer.allowed) < 2:
            continue
        if known is None:
            raise AdaptationError(
                f"the sensitivity profile of network {network.name!r} lacks layer {layer.name!r}; quantise the network "
                "again with --adaptive, or use the policy 'table'"
            )
        for depth in layer.allowed:
            if depth not in known:
                raise AdaptationError(
                    f"the sensitivity profile of network {network.name!r} lacks layer {layer.name!r} at {depth} bits; "
                    "quantise the network again with --adaptive, or use the policy 'table'"
                )
