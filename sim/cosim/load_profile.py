"""What other masters take of the memory's bandwidth over time, in a co-simulation."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tessera.rtl.traffic import OTHER_SOURCES

_Number = TypeVar("_Number", int, float)

SHARE_STEPS = 256
"""A share of the bandwidth is a multiple of one over this."""

LONGEST_STEP = (1 << 31) - 1
"""Most cycles of a step."""


@dataclass(frozen=True)
class LoadStep:
    """A stretch of time in which another master takes the same share.

    Attributes
    ----------
    cycles
        How long.
    share
        Share of the bandwidth, 0.0 to 1.0, in steps of 1/256.
    source
        Number of the master, as the bandwidth monitor knows it.
    random
        It takes its beats at random instead of evenly.

    Raises
    ------
    ValueError
        A value does not make sense.
    """

    cycles: int
    share: float
    source: int = 0
    random: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.cycles <= LONGEST_STEP:
            raise ValueError(f"a step of a load profile takes from 1 to {LONGEST_STEP} cycles, not {self.cycles}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"the share of a step of a load profile is from 0 to 1, not {self.share}")
        if self.source not in range(len(OTHER_SOURCES)):
            raise ValueError(
                f"the source of a step of a load profile is from 0 to {len(OTHER_SOURCES) - 1}, not {self.source}"
            )

    def line(self) -> str:
        """The step as the simulated memory reads it."""
        return f"{self.cycles} {round(self.share * SHARE_STEPS)} {self.source} {int(self.random)}\n"


@dataclass(frozen=True)
class LoadProfile:
    """What other masters take, step by step.

    Attributes
    ----------
    steps
        The steps in their order.
    repeat
        The first step follows the last one; otherwise nothing is taken after that.

    Raises
    ------
    ValueError
        There is no step.
    """

    steps: tuple[LoadStep, ...]
    repeat: bool = True

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("a load profile needs at least one step")

    @classmethod
    def constant(cls, share: float, *, source: int = 0, random: bool = False) -> LoadProfile:
        """The same share all the time."""
        return cls((LoadStep(LONGEST_STEP, share, source, random),))

    @classmethod
    def bursts(
        cls, *, busy: int, share: float, idle: int, idle_share: float = 0.0, source: int = 0, random: bool = False
    ) -> LoadProfile:
        """Alternates between ``busy`` cycles with one share and ``idle`` cycles with another one."""
        return cls((LoadStep(busy, share, source, random), LoadStep(idle, idle_share, source, random)))

    @classmethod
    def random(
        cls,
        seed: int,
        *,
        shares: Sequence[float] = (0.0, 0.3, 0.55, 0.8, 0.92),
        cycles: tuple[int, int] = (1_000, 20_000),
        count: int = 256,
        sources: Sequence[int] = (0, 1, 2),
    ) -> LoadProfile:
        """Steps with random shares, lengths and masters, which take their beats at random; the same for the same seed.

        Parameters
        ----------
        seed
            Of the random numbers.
        shares, sources
            What is chosen from.
        cycles
            Shortest and longest step.
        count
            Number of steps.
        """
        rng = random.Random(seed)
        if not shares or not sources or count < 1:
            raise ValueError("a random load profile needs at least one share, one source and one step")
        if cycles[0] > cycles[1]:
            raise ValueError(
                f"the shortest step of a random load profile ({cycles[0]}) exceeds the longest ({cycles[1]})"
            )
        return cls(
            tuple(
                LoadStep(rng.randint(*cycles), rng.choice(shares), rng.choice(sources), random=True)
                for _ in range(count)
            )
        )

    @classmethod
    def from_file(cls, path: str | Path, *, repeat: bool = False) -> LoadProfile:
        """A recorded or written profile: a step per line, as comma-separated cycles, share, and optionally the master's
        number and whether it takes its beats at random (0 or 1). Empty lines, and what follows a ``#``, are ignored.

        Raises
        ------
        ValueError
            A line is none of that; says which.
        """
        steps = []
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no text; write lines such as 20000,0.8") from None
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            if text:
                try:
                    steps.append(_step_of(text.split(",")))
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from None
        if not steps:
            raise ValueError(f"{path} has no step of a load profile; write lines such as 20000,0.8")
        return cls(tuple(steps), repeat)

    def text(self) -> str:
        """The steps as the simulated memory reads them."""
        return "".join(step.line() for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        """What JSON can carry of it."""
        return {
            "steps": [[step.cycles, step.share, step.source, step.random] for step in self.steps],
            "repeat": self.repeat,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoadProfile:
        """The reverse of `as_dict`."""
        return cls(tuple(LoadStep(*step) for step in values["steps"]), values["repeat"])


def _step_of(columns: list[str]) -> LoadStep:
    if not 2 <= len(columns) <= 4:
        raise ValueError(f"a step has from 2 to 4 columns (cycles, share, source, random), not {len(columns)}")
    cycles, share, source, beats = [*map(str.strip, columns), *("0", "0")[len(columns) - 2 :]]
    if beats not in ("0", "1"):
        raise ValueError(f"the column random is 0 or 1, not {beats}")
    return LoadStep(
        _number("cycles", cycles, int), _number("share", share, float), _number("source", source, int), beats == "1"
    )


def _number(column: str, text: str, kind: Callable[[str], _Number]) -> _Number:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"the column {column} is {text!r}, which is no number; write lines such as 20000,0.8"
        ) from None
