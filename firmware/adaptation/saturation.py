"""What is learned from saturation: depths at which a layer loses too many values are not used again."""

from __future__ import annotations

from typing import Protocol

from tessera.compiler.planning.profile_database import Adaptation, ProfileDatabase

QUANTITY = "activation bits"
"""What adaptations in the profile database are of that say how deep a layer must be."""

_NO_LANES = 0  # how deep a layer must be does not depend on lanes


class Memory(Protocol):
    """Remembers the least depth of layers."""

    def recall(self, network: str, layer: str) -> int:
        """The least depth in bits at which a layer may run; 0 if nothing is known."""

    def remember(self, network: str, layer: str, depth: int, share: float, allowed: float, reason: str) -> None:
        """Keeps a least depth in bits, with the share of values that saturated and the share that may."""


class Forgetful:
    """A memory that lasts as long as the object."""

    def __init__(self) -> None:
        self._depths: dict[tuple[str, str], int] = {}

    def recall(self, network: str, layer: str) -> int:
        """The least depth in bits at which a layer may run; 0 if nothing is known."""
        return self._depths.get((network, layer), 0)

    def remember(self, network: str, layer: str, depth: int, share: float, allowed: float, reason: str) -> None:
        """Keeps a least depth in bits."""
        self._depths[network, layer] = depth


class DatabaseMemory:
    """A memory in the profile database, where it is valid for one version of the machine.

    Parameters
    ----------
    database
        An open database.
    """

    def __init__(self, database: ProfileDatabase):
        self._database = database

    def recall(self, network: str, layer: str) -> int:
        """The least depth in bits at which a layer may run; 0 if nothing is known."""
        found = self._database.factor(_key(network, layer), _NO_LANES, QUANTITY)
        return 0 if found == 1.0 else round(found)

    def remember(self, network: str, layer: str, depth: int, share: float, allowed: float, reason: str) -> None:
        """Keeps a least depth in bits, with the share of values that saturated and the share that may."""
        row = Adaptation(_key(network, layer), _NO_LANES, QUANTITY, allowed, share, float(depth), reason)
        self._database.record_adaptation(row)


def _key(network: str, layer: str) -> str:
    return f"layer {layer} of {network}"
