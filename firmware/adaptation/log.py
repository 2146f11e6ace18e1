"""What the precision manager decided, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Decision:
    """Something that the manager decided or noticed.

    Attributes
    ----------
    cycle
        When.
    kind
        One word: ``started``, ``section``, ``lowered``, ``raised``, ``restored``, ``learned``, ``finished``.
    reason
        A sentence.
    layers
        The layers whose depth changes; empty if none does.
    before, after
        Their depth in bits before and after; 0 where there is none.
    values
        Numbers on which the decision rests.
    """

    cycle: int
    kind: str
    reason: str
    layers: tuple[str, ...] = ()
    before: int = 0
    after: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_change(self) -> bool:
        """Whether it is more than the beginning or the end of an inference."""
        return self.kind not in ("started", "finished")

    def __str__(self) -> str:
        what = f" {', '.join(self.layers)}: {self.before} -> {self.after} bits" if self.layers else ""
        return f"{self.cycle:>10} {self.kind}{what} ({self.reason})"

    def as_dict(self) -> dict[str, Any]:
        """What JSON can carry."""
        return asdict(self) | {"layers": list(self.layers)}


class DecisionLog:
    """The decisions in their order.

    Parameters
    ----------
    decisions
        Those that are there already.
    """

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        self.decisions = list(decisions)

    def add(self, decision: Decision) -> None:
        """Adds a decision."""
        self.decisions.append(decision)

    def __iter__(self) -> Iterator[Decision]:
        return iter(self.decisions)

    def text(self) -> str:
        """A line per decision, for people."""
        return "".join(f"{decision}\n" for decision in self)

    def json_lines(self) -> str:
        """A JSON object per line, for programs."""
        return "".join(f"{json.dumps(decision.as_dict())}\n" for decision in self)
