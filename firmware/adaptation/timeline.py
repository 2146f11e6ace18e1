"""What became of an adaptive network over time: its layers' depths, the bandwidth, and the decisions.

As JSON values a timeline is a part of the summary of a run. All cycles count from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from tessera.compiler.planning.plan_file import text, whole
from tessera.firmware.adaptation import Decision
from tessera.firmware.adaptation.scenario import AdaptiveRun, AdaptiveScenario
from tessera.rtl.traffic import TrafficSource


@dataclass(frozen=True)
class LayerTime:
    """A layer at a depth in bits, from its choice to that of the next one or the end of the inference, and the section
    that counted."""

    layer: str
    depth: int
    section: int
    start: int
    end: int


@dataclass(frozen=True)
class BandwidthWindow:
    """A window of the bandwidth monitor: its first cycle and that behind it, bytes per cycle that others left and that
    the NPU moved, and the section."""

    start: int
    end: int
    available: float
    own: float
    section: int


@dataclass(frozen=True)
class AdaptationTimeline:
    """A run of an adaptive network.

    Attributes
    ----------
    network, policy
        What ran, and who chose depths.
    bus_bytes
        Bytes per cycle that the bus moves at most.
    target_cycles
        What an inference should take at most; ``None`` if nothing was said.
    cycles
        From the beginning to the end.
    layers
        The layers in their order.
    inferences
        (start, end) of each.
    times
        What ran at which depth, rising.
    windows
        The monitor's windows, rising; empty if they were not recorded.
    decisions
        The manager's log.
    """

    network: str
    policy: str
    bus_bytes: float
    target_cycles: int | None
    cycles: int
    layers: tuple[str, ...]
    inferences: tuple[tuple[int, int], ...]
    times: tuple[LayerTime, ...]
    windows: tuple[BandwidthWindow, ...]
    decisions: tuple[Decision, ...]

    @property
    def depths(self) -> tuple[int, ...]:
        """All depths in bits that occurred, rising."""
        return tuple(sorted({time.depth for time in self.times}))

    def of_layer(self, layer: str) -> Iterator[LayerTime]:
        """The times of a layer."""
        return (time for time in self.times if time.layer == layer)

    @classmethod
    def of_run(cls, scenario: AdaptiveScenario, run: AdaptiveRun) -> AdaptationTimeline:
        """The timeline of a run, warm-up included."""
        found = (*run.warm_up, *run.inferences)
        origin = found[0].begin
        inferences = tuple((each.begin - origin, each.end - origin) for each in found)
        return cls(
            network=scenario.program.network.name,
            policy=scenario.settings.policy.value,
            bus_bytes=float(scenario.program.config.beat_bytes),
            target_cycles=scenario.settings.target_cycles,
            cycles=inferences[-1][1],
            layers=scenario.program.network.layers,
            inferences=inferences,
            times=tuple(_times(run, origin, inferences)),
            windows=tuple(_windows(scenario, run, origin, inferences[-1][1])),
            decisions=tuple(_moved(each, origin) for each in run.decisions),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values; ``times`` are rows [index of the layer, depth, section, start, end], ``windows`` rows [start,
        end, available, own, section]."""
        index = {layer: position for position, layer in enumerate(self.layers)}
        return {
            "network": self.network,
            "policy": self.policy,
            "bus_bytes": self.bus_bytes,
            "target_cycles": self.target_cycles,
            "cycles": self.cycles,
            "layers": list(self.layers),
            "inferences": [list(each) for each in self.inferences],
            "times": [[index[t.layer], t.depth, t.section, t.start, t.end] for t in self.times if t.layer in index],
            "windows": [[w.start, w.end, round(w.available, 4), round(w.own, 4), w.section] for w in self.windows],
            "decisions": [decision.as_dict() for decision in self.decisions],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AdaptationTimeline:
        """The inverse of `to_json`; raises `KeyError`, `IndexError`, `TypeError` or `ValueError` for anything else."""
        layers = tuple(map(text, values["layers"]))
        target = values["target_cycles"]
        return cls(
            network=text(values["network"]),
            policy=text(values["policy"]),
            bus_bytes=float(values["bus_bytes"]),
            target_cycles=None if target is None else whole(target),
            cycles=whole(values["cycles"]),
            layers=layers,
            inferences=tuple((whole(start), whole(end)) for start, end in values["inferences"]),
            times=tuple(
                LayerTime(layers[whole(layer)], *map(whole, (depth, section, start, end)))
                for layer, depth, section, start, end in values["times"]
            ),
            windows=tuple(
                BandwidthWindow(whole(start), whole(end), float(available), float(own), whole(section))
                for start, end, available, own, section in values["windows"]
            ),
            decisions=tuple(_decision(each) for each in values["decisions"]),
        )


def _times(run: AdaptiveRun, origin: int, inferences: tuple[tuple[int, int], ...]) -> Iterator[LayerTime]:
    """Each choice until the next one, or the end of its inference."""
    ends = iter(inferences)
    _, end = next(ends)
    following = chain(run.selects[1:], (None,))
    for event, after in zip(run.selects, following):
        start = event.cycle - origin
        while start >= end:
            _, end = next(ends)
        until = end if after is None else min(end, after.cycle - origin)
        yield LayerTime(event.layer, event.depth, event.section, start, until)


def _windows(scenario: AdaptiveScenario, run: AdaptiveRun, origin: int, cycles: int) -> Iterator[BandwidthWindow]:
    """The windows that lie within the run."""
    length = scenario.settings.window_cycles
    own = [source for source in TrafficSource if source.is_own]
    for window in run.windows:
        end = window.cycle + 1 - origin
        if end <= 0 or end - length >= cycles:
            continue
        moved = sum(window.moved[source] for source in own)
        start = max(0, end - length)
        yield BandwidthWindow(start, min(end, cycles), window.available / length, moved / length, window.section)


def _moved(decision: Decision, origin: int) -> Decision:
    return Decision(**{**_fields(decision), "cycle": max(0, decision.cycle - origin)})


def _fields(decision: Decision) -> dict[str, Any]:
    return {**asdict(decision), "layers": decision.layers}


def _decision(values: Mapping[str, Any]) -> Decision:
    return Decision(
        cycle=whole(values["cycle"]),
        kind=text(values["kind"]),
        reason=text(values["reason"]),
        layers=tuple(map(text, values["layers"])),
        before=whole(values["before"]),
        after=whole(values["after"]),
        values=dict(values["values"]),
    )
