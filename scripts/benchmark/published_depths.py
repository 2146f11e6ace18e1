"""The published problems of HAWQ-V3 (Yao et al., arXiv:2011.10680), from a file beside the project."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.compiler.mixed_precision.selection import SENSITIVITY, Candidate, Selection, Tie, select

COST = "cost"
"""What a problem limits: bytes, operations or milliseconds."""


@dataclass(frozen=True)
class PublishedProblem:
    """One network under one limit, and the choice that was published.

    Attributes
    ----------
    name
        Network, what is limited, and the part of the way from 4 to 8 bits that may be gone, such as "size@0.5".
    layers
        Two candidates of each layer: 4 and 8 bits.
    ties
        Layers with the same depth.
    limit
        Largest total cost.
    published
        The published choice.
    """

    name: str
    layers: Mapping[str, Sequence[Candidate]]
    ties: Sequence[Tie]
    limit: float
    published: Sequence[Candidate]

    def solve(self) -> Selection:
        """The best choice."""
        return select(self.layers, {COST: self.limit}, self.ties)

    def is_solved(self) -> bool:
        """Whether the best choice keeps the limit, and is no more sensitive than the published one."""
        totals = self.solve().totals
        published = sum(each.quantities[SENSITIVITY] for each in self.published)
        return totals[SENSITIVITY] <= published * (1 + 1e-12) and totals[COST] <= self.limit * (1 + 1e-9)


def published_problems(path: Path) -> list[PublishedProblem]:
    """The problems of a file; none if there is no such file."""
    if not path.is_file():
        return []
    networks = json.loads(path.read_text(encoding="utf-8"))["networks"]
    return [_problem(name, network, case) for name, network in networks.items() for case in network["published"]]


def _problem(name: str, network: Mapping[str, Any], case: str) -> PublishedProblem:
    kind, alpha = case.split("@")
    layers = {f"layer{index}": options for index, options in enumerate(_candidates(network, kind))}
    low, high = (sum(options[index].quantities[COST] for options in layers.values()) for index in (0, 1))
    return PublishedProblem(
        name=f"{name}/{case}",
        layers=layers,
        ties=[Tie((f"layer{a}", f"layer{b}"), lambda each: each.weight) for a, b in network["tied_pairs"]],
        limit=low + float(alpha) * (high - low),
        published=[
            next(each for each in options if each.weight == bits)
            for options, bits in zip(layers.values(), network["published"][case], strict=True)
        ],
    )


def _candidates(network: Mapping[str, Any], kind: str) -> list[list[Candidate]]:
    """4 and 8 bits of each layer: their sensitivity is the mean trace times the squared error of the weights."""
    costs = {
        "modelsize": [(size / 2, size) for size in network["params"]],
        "bops": [(operations / 64, operations / 16) for operations in network["bops"]],
        "latency": list(zip(network["latency_int4"], network["latency_int8"], strict=True)),
    }[kind]
    errors = zip(network["delta_weights_4bit_square"], network["delta_weights_8bit_square"], strict=True)
    return [
        [
            Candidate(bits, bits, {SENSITIVITY: trace * error, COST: cost})
            for bits, error, cost in zip((4, 8), pair, prices, strict=True)
        ]
        for trace, pair, prices in zip(network["avg_trace"], errors, costs, strict=True)
    ]
