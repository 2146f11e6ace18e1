"""The choice of depths by integer linear programming."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.compiler.errors import CompilerError
from tessera.compiler.mixed_precision.selection import SENSITIVITY, Candidate, Tie, select

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "hawq_ilp.json"
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

Layers = Mapping[str, Sequence[Candidate]]

quantity = st.integers(0, 50)
candidate = st.builds(
    lambda activation, weight, sensitivity, cycles, size: Candidate(
        activation, weight, {SENSITIVITY: sensitivity, "cycles": cycles, "bytes": size}
    ),
    st.sampled_from((4, 8)),
    st.sampled_from((4, 8)),
    quantity,
    quantity,
    quantity,
)
small_layers = st.lists(st.lists(candidate, min_size=1, max_size=3), min_size=1, max_size=4).map(
    lambda lists: {f"layer{index}": each for index, each in enumerate(lists)}
)


def total(choice: Sequence[Candidate], name: str) -> float:
    return sum(each.quantities[name] for each in choice)


def legal_choices(layers: Layers, limits: Mapping[str, float], ties: Sequence[Tie]) -> list[tuple[Candidate, ...]]:
    """All choices, by trying every one."""
    names = list(layers)
    found = []
    for choice in itertools.product(*layers.values()):
        agreed = all(len({tie.attribute(choice[names.index(name)]) for name in tie.layers}) == 1 for tie in ties)
        if agreed and all(total(choice, name) <= limit for name, limit in limits.items()):
            found.append(choice)
    return found


@settings(max_examples=150, deadline=None)
@given(small_layers, st.integers(0, 120), st.integers(0, 120), st.booleans(), st.sampled_from((SENSITIVITY, "cycles")))
def test_is_the_best_of_all(layers: Layers, cycles: int, size: int, tied: bool, minimise: str) -> None:
    """As good as the best of all choices; refused if and only if there is none."""
    limits = {"cycles": cycles, "bytes": size}
    ties = [Tie(tuple(layers), lambda each: each.activation)] if tied else []
    choices = legal_choices(layers, limits, ties)
    if not choices:
        with pytest.raises(CompilerError):
            select(layers, limits, ties, minimise)
        return
    selection = select(layers, limits, ties, minimise)
    assert selection.totals[minimise] == min(total(choice, minimise) for choice in choices)
    assert tuple(selection.chosen.values()) in choices


def pair(cheap: float, dear: float) -> list[Candidate]:
    """Four and eight bits, whose sensitivities are 10 and 1."""
    return [
        Candidate(4, 4, {SENSITIVITY: 10.0, "cycles": cheap}),
        Candidate(8, 8, {SENSITIVITY: 1.0, "cycles": dear}),
    ]


def test_refusals_name_the_nearest_budget() -> None:
    """The sentence has the quantity, the limit, and the least that can be reached."""
    layers = {"first": pair(10, 20), "second": pair(30, 60)}
    assert refusal(layers, {"cycles": 39}) == (
        "no depths keep cycles <= 39; the least is 40: use a limit of at least that"
    )
    assert select(layers, {"cycles": 40}).totals == {SENSITIVITY: 20.0, "cycles": 40}
    assert refusal(layers, {"cycles": 70, SENSITIVITY: 5}) == (
        "no depths keep sensitivity <= 5 beside cycles <= 70; the least is 11: use a limit of at least that"
    )


def test_refuses_what_means_nothing() -> None:
    """No layers, no candidates, an unknown quantity, a sensitivity that is no number."""
    assert refusal({}, {}).startswith("there are no layers")
    assert refusal({"a": []}, {}) == "layer 'a' has no depths to choose from; allow at least one"
    assert refusal({"a": pair(1, 2)}, {"joules": 3}) == (
        "nothing is known about 'joules'; the quantities are sensitivity, cycles"
    )
    broken = [Candidate(8, 4, {SENSITIVITY: math.nan, "cycles": 1.0})]
    assert refusal({"a": broken}, {}) == (
        "layer 'a' has a sensitivity of nan at 4-bit weights and 8-bit activations; it must be a finite number"
    )


def refusal(layers: Layers, limits: Mapping[str, float]) -> str:
    with pytest.raises(CompilerError) as caught:
        select(layers, limits)
    return str(caught.value)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"{PUBLISHED} is absent: the published problems are not solved")
def test_published_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """HAWQ-V3's problems: the total sensitivity is no worse than that of the published choice, within the limit."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("benchmark.published_depths")
    problems = module.published_problems(PUBLISHED)
    assert len(problems) == 18
    for problem in problems:
        assert problem.is_solved(), problem.name
        selection = problem.solve()
        for tie in problem.ties:
            assert len({tie.attribute(selection.chosen[name]) for name in tie.layers}) == 1, problem.name
