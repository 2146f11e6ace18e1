"""What the executor did, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes
    ----------
    cycle
        When.
    kind
        One word: ``arrived``, ``admitted``, ``planned``, ``started``, ``paused``, ``finished``, ``ended``, ``raised``,
        ``changed``, ``cancelled``, ``fault``, ``adapted``, ``waits``, ``restarted``, ``reset``.
    request
        Which request it concerns; empty if none alone.
    reason
        A sentence.
    values
        Numbers that belong to it.
    """

    cycle: int
    kind: str
    request: str = ""
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What JSON can carry."""
        return asdict(self)


class EventLog:
    """The events in their order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, cycle: int, kind: str, request: str = "", reason: str = "", **values: Any) -> None:
        """Adds an event."""
        self.events.append(Event(cycle, kind, request, reason, values))

    def of(self, kind: str, request: str | None = None) -> list[Event]:
        """The events of a kind, of one request if that is said."""
        return [each for each in self.events if each.kind == kind and request in (None, each.request)]
