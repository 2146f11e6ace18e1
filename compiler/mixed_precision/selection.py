"""Chooses the depths of a network's layers by integer linear programming.

Every layer has *candidates*: depths with a sensitivity (what they cost in accuracy, in any unit that adds up
over layers) and costs of resources (cycles, weight bytes, DRAM bytes...). Exactly one candidate of each layer is
chosen. The objective is either the total sensitivity under budgets of resources, or the total of one resource under
a bound on the sensitivity; sensitivity is therefore one of the *quantities* that candidates have, by the name
``SENSITIVITY``.

The formulation is that of HAWQ-V3 (Yao et al., arXiv:2011.10680, section 3.4) with any number of candidates, budgets
and ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from tessera.compiler.errors import CompilerError

SENSITIVITY = "sensitivity"
"""Name of the quantity that every candidate has."""

_CONTRADICTION = "the layers' ties leave no choice; remove one"

_RELATIVE_SLACK = 1e-9
"""A budget may be exceeded by this share, which is the solver's rounding."""


@dataclass(frozen=True)
class Candidate:
    """Depths that a layer may have.

    Attributes
    ----------
    activation
        Bits of the activations that the layer stands for.
    weight
        Bits of its weights; ``None`` if it has none.
    quantities
        What they cost, by the name of the quantity; ``SENSITIVITY`` is one.
    """

    activation: int
    weight: int | None
    quantities: Mapping[str, float]


class Infeasible(CompilerError):
    """No choice keeps the limits."""


@dataclass(frozen=True)
class Tie:
    """Layers that must agree in something.

    Attributes
    ----------
    layers
        Their names.
    attribute
        In what: a function of a candidate.
    """

    layers: tuple[str, ...]
    attribute: Callable[[Candidate], Hashable]


@dataclass(frozen=True)
class Selection:
    """The candidates that were chosen.

    Attributes
    ----------
    chosen
        One candidate for each layer, by its name.
    totals
        Every quantity, added over the layers.
    """

    chosen: Mapping[str, Candidate]
    totals: Mapping[str, float]


def select(
    layers: Mapping[str, Sequence[Candidate]],
    limits: Mapping[str, float],
    ties: Sequence[Tie] = (),
    minimise: str = SENSITIVITY,
) -> Selection:
    """The best candidates.

    Parameters
    ----------
    layers
        Candidates by layer, of which all have the same quantities.
    limits
        Largest total of quantities, by name.
    ties
        Layers that must agree.
    minimise
        The quantity whose total is to be least.

    Raises
    ------
    CompilerError
        There are no layers, a limit or ``minimise`` names no quantity, or a quantity is no finite number.
    Infeasible
        No choice keeps the limits; the sentence says the least total that could be reached.
    """
    _check(layers, limits, minimise)
    problem = _Problem(layers, ties)
    choice = problem.solve(minimise, limits)
    if choice is None:
        raise Infeasible(_nearest(problem, limits))
    chosen = {name: candidates[index] for (name, candidates), index in zip(layers.items(), choice, strict=True)}
    names = next(iter(layers.values()))[0].quantities
    totals = {name: sum(each.quantities[name] for each in chosen.values()) for name in names}
    return Selection(chosen, totals)


class _Problem:
    """The integer programme: a variable 0 or 1 for each candidate of each layer."""

    def __init__(self, layers: Mapping[str, Sequence[Candidate]], ties: Sequence[Tie]):
        self._candidates = [each for candidates in layers.values() for each in candidates]
        self._sizes = [len(candidates) for candidates in layers.values()]
        starts = np.cumsum([0, *self._sizes])
        self._ranges = {name: range(starts[i], starts[i + 1]) for i, name in enumerate(layers)}
        rows = [*self._one_of_each_layer(), *(row for tie in ties for row in self._agreement(tie))]
        matrix = np.array([row for row, _ in rows])
        values = np.array([value for _, value in rows])
        self._structure = LinearConstraint(matrix, values, values)

    def solve(self, minimise: str, limits: Mapping[str, float]) -> list[int] | None:
        """The index of the chosen candidate of each layer; ``None`` if the limits cannot be kept."""
        constraints = [self._structure]
        for name, limit in limits.items():
            row = self._row(name)
            scale = float(np.abs(row).max()) or 1.0
            constraints.append(
                LinearConstraint(row / scale, -np.inf, limit / scale + abs(limit / scale) * _RELATIVE_SLACK)
            )
        objective = self._row(minimise)
        scale = float(np.abs(objective).max()) or 1.0
        found = milp(
            objective / scale,
            constraints=constraints,
            integrality=np.ones(len(objective)),
            bounds=Bounds(0, 1),
            # HiGHS's presolve saves nothing on problems of this size, and sometimes prints a line of its own.
            options={"mip_rel_gap": 0.0, "presolve": False},
        )
        if found.x is None:
            return None
        return [int(np.argmax(part)) for part in np.split(found.x, np.cumsum(self._sizes)[:-1])]

    def total(self, name: str, choice: Sequence[int]) -> float:
        """Total of a quantity."""
        starts = np.cumsum([0, *self._sizes[:-1]])
        return float(self._row(name)[starts + np.array(choice)].sum())

    def _row(self, name: str) -> np.ndarray:
        return np.array([each.quantities[name] for each in self._candidates], float)

    def _one_of_each_layer(self) -> Iterator[tuple[np.ndarray, float]]:
        for indices in self._ranges.values():
            row = np.zeros(len(self._candidates))
            row[indices] = 1
            yield row, 1.0

    def _agreement(self, tie: Tie) -> Iterator[tuple[np.ndarray, float]]:
        """For each value of the attribute: a layer has it as often as the first one."""
        first, *others = tie.layers
        for other in others:
            members = [(index, 1.0) for index in self._ranges[first]] + [(index, -1.0) for index in self._ranges[other]]
            values = dict.fromkeys(tie.attribute(self._candidates[index]) for index, _ in members)
            for value in values:
                row = np.zeros(len(self._candidates))
                for index, sign in members:
                    row[index] = sign * (tie.attribute(self._candidates[index]) == value)
                yield row, 0.0


def _check(layers: Mapping[str, Sequence[Candidate]], limits: Mapping[str, float], minimise: str) -> None:
    if not layers:
        raise CompilerError("there are no layers whose depths could be chosen; the network has no convolutions")
    for name, candidates in layers.items():
        if not candidates:
            raise CompilerError(f"layer {name!r} has no depths to choose from; allow at least one")
        for candidate in candidates:
            for quantity, value in candidate.quantities.items():
                if not math.isfinite(value):
                    weights = "" if candidate.weight is None else f"{candidate.weight}-bit weights and "
                    raise CompilerError(
                        f"layer {name!r} has a {quantity} of {value} at {weights}{candidate.activation}-bit "
                        "activations; it must be a finite number"
                    )
    known = next(iter(layers.values()))[0].quantities
    for quantity in (*limits, minimise):
        if quantity not in known:
            raise CompilerError(f"nothing is known about {quantity!r}; the quantities are {', '.join(known)}")


def _nearest(problem: _Problem, limits: Mapping[str, float]) -> str:
    """The sentence about limits that cannot be kept: the first one that fails, and its least total."""
    kept: dict[str, float] = {}
    for name, limit in limits.items():
        choice = problem.solve(name, kept)
        if choice is None:
            return _CONTRADICTION
        least = problem.total(name, choice)
        if least > limit * (1 + _RELATIVE_SLACK):
            beside = "" if not kept else " beside " + " and ".join(f"{key} <= {value:g}" for key, value in kept.items())
            return f"no depths keep {name} <= {limit:g}{beside}; the least is {least:g}: use a limit of at least that"
        kept[name] = limit
    return "no depths keep the limits together; use larger ones" if limits else _CONTRADICTION
