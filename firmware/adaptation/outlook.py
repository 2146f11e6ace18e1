"""How long the inference that is under way will take, at the bandwidth of now, and should the bus get busy again."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping

from tessera.firmware.adaptation.metrics import Observation, Progress
from tessera.firmware.adaptation.network import AdaptableNetwork, Depths
from tessera.firmware.adaptation.prediction import Bandwidth, LatencyModel

SMOOTHING = 0.25
"""Weight of the latest window in the available bandwidth that predictions assume, while the section stays the same."""

COMMITTED = 3
"""Layers that run at their old depths when others begin to take the bus: the one that runs, the next, which is chosen
already, and one while the manager looks."""

_BISECTIONS = 12


class Outlook:
    """What an inference takes with depths that are yet to be chosen.

    Parameters
    ----------
    latencies
        Predicts latencies.
    section_of
        The section of a share of the bus.
    section
        The section before anything was seen.
    foresight
        Inferences for which the least bandwidth that was seen is expected to come back; 0: it is not.

    Attributes
    ----------
    share, section
        Share of the bus that predictions assume to be available, and its section.
    progress
        How far the inference has come; ``None`` before one.
    """

    def __init__(self, latencies: LatencyModel, section_of: Callable[[float], int], section: int, foresight: int):
        self.share, self.section = 1.0, section
        self.progress: Progress | None = None
        self._latencies, self._section_of = latencies, section_of
        self._least: deque[float] = deque(maxlen=min(foresight, sys.maxsize))
        self._seen = False

    def see(self, observation: Observation) -> None:
        """Takes over what was seen. A single window tells the bandwidth with too much noise, as others take their beats
        at random; so it is smoothed within a section."""
        fresh = not self._seen or observation.section != self.section
        before = observation.available if fresh else self.share
        self.share = before + SMOOTHING * (observation.available - before)
        self.section, self.progress, self._seen = observation.section, observation.progress, True
        if self.progress is None or not self._least:
            self._least.append(self.share)
        else:
            self._least[-1] = min(self._least[-1], self.share)

    @property
    def spent(self) -> int:
        """Cycles that the inference has taken already."""
        return 0 if self.progress is None else self.progress.cycles

    @property
    def chosen(self) -> Mapping[str, int]:
        """The depth in bits of the layers whose depth cannot be changed any more."""
        return {} if self.progress is None else self.progress.chosen

    def cycles(self, depths: Depths) -> float:
        """Cycles of the whole inference with depths of the layers that are yet to be chosen."""
        return self.spent + sum(self._layers(depths, self._now))

    def least_share(self, network: AdaptableNetwork, limit: float) -> float:
        """The share of the bus that may come back: the least that was seen lately, but not less than what an inference
        with all bits given up needs to stay within a limit of cycles, since nothing helps there."""
        low, high = min(self._least, default=self.share), self.share
        shallow = network.uniform(0)
        if self._whole(shallow, low) <= limit:
            return low
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._whole(shallow, middle) > limit else (low, middle)
        return high

    def guarded(self, network: AdaptableNetwork, share: float) -> Callable[[Depths], float]:
        """Like `cycles`, but if others leave no more than ``share`` of the bus from the worst moment on: the layers
        that are committed then keep their depths, and those behind them give up all bits."""
        if share >= self.share:
            return self.cycles
        then = self._bandwidth(share)
        shallow = self._layers(network.uniform(0), then)
        rest = [sum(shallow[layer:]) for layer in range(len(shallow) + COMMITTED)]

        def worst(depths: Depths) -> float:
            now, busy = self._layers(depths, self._now), self._layers(depths, then)
            passed, found = 0.0, sum(now)
            for layer, cycles in enumerate(now):
                behind = layer + COMMITTED
                found = max(found, passed + sum(busy[layer:behind]) + rest[behind])
                passed += cycles
            return self.spent + found

        return worst

    @property
    def _now(self) -> Bandwidth:
        return Bandwidth(self.share, self.section)

    def _bandwidth(self, share: float) -> Bandwidth:
        return Bandwidth(share, self._section_of(share))

    def _whole(self, depths: Depths, share: float) -> float:
        return sum(self._latencies.layers(depths, self._bandwidth(share)))

    def _layers(self, depths: Depths, bandwidth: Bandwidth) -> list[float]:
        """Cycles that are left of each layer."""
        moved = 0 if self.progress is None else self.progress.moved_bytes
        return self._latencies.layers({**depths, **self.chosen}, bandwidth, moved)
