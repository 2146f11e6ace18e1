"""How long inferences take: by the network's own numbers, and by what was learned from those that ran."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.firmware.adaptation.metrics import Observation
from tessera.firmware.adaptation.network import AdaptableNetwork, Depths

LARGEST_CORRECTION = 8.0
"""Inferences that take more than so many times the predicted cycles, or less than the inverse, correct no further."""

_TRUST = 0.5  # weight of an inference that ran in one section as a whole in the section's correction


@dataclass(frozen=True)
class Bandwidth:
    """What others leave of the bus: a share, and its section."""

    share: float
    section: int


class LatencyModel:
    """Predicts latencies, and learns for each section of the bandwidth how much longer inferences take than the
    network's numbers say.

    An inference is learned from piece by piece, from one look to the next: what it moved in between says how many
    cycles it should have taken.

    Parameters
    ----------
    network
        Whose inferences.

    Attributes
    ----------
    corrections
        By section, cycles that inferences take over those that `AdaptableNetwork.cycles` says; 1 where there is none.
    """

    def __init__(self, network: AdaptableNetwork):
        self.corrections: dict[int, float] = {}
        self._network = network
        self._last: Observation | None = None
        self._pieces: dict[int, tuple[float, float]] = {}  # by section: cycles taken, cycles predicted

    def layers(self, depths: Depths, bandwidth: Bandwidth, moved_bytes: float = 0.0) -> list[float]:
        """Cycles of each layer, or of what is left of it when the inference has moved so many bytes."""
        correction = self.corrections.get(bandwidth.section, 1.0)
        rate = bandwidth.share * self._network.bus_bytes
        return [correction * cycles for cycles in self._network.layer_cycles(depths, rate, moved_bytes)]

    def started(self) -> None:
        """An inference begins."""
        self._last, self._pieces = None, {}

    def looked(self, observation: Observation, depths: Depths) -> None:
        """It is under way, with these depths."""
        progress = observation.progress
        if progress is not None:
            self._add_piece(observation, depths, progress.cycles, progress.moved_bytes)
        self._last = observation

    def finished(self, cycles: int, depths: Depths) -> None:
        """It has ended after so many cycles, in which its layers ran at these depths."""
        if self._last is None:
            return
        self._add_piece(self._last, depths, cycles, self._network.moved_bytes(depths))
        for section, (taken, predicted) in self._pieces.items():
            ratio = min(max(taken / max(1.0, predicted), 1 / LARGEST_CORRECTION), LARGEST_CORRECTION)
            before = self.corrections.get(section, 1.0)
            self.corrections[section] = before + _TRUST * min(1.0, taken / max(1, cycles)) * (ratio - before)

    def _add_piece(self, seen: Observation, depths: Depths, cycles: int, moved_bytes: float) -> None:
        """Adds what passed since the last look, in the section and with the bandwidth that were seen at its end."""
        last = None if self._last is None else self._last.progress
        cycles_before, moved_before = (0, 0) if last is None else (last.cycles, last.moved_bytes)
        rate = seen.available * self._network.bus_bytes
        left_before, left = (self._network.cycles(depths, rate, moved) for moved in (moved_before, moved_bytes))
        taken, predicted = self._pieces.get(seen.section, (0.0, 0.0))
        self._pieces[seen.section] = taken + cycles - cycles_before, predicted + left_before - left
