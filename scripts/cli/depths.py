"""The part of ``tessera quantize`` that chooses depths: under budgets, for an accuracy, or along a front."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tessera.cli.console import UsageError, progress_bar
from tessera.compiler.mixed_precision import (
    CYCLES,
    DRAM_BYTES,
    STEPS,
    WEIGHT_BYTES,
    Choice,
    Depths,
    DepthSearch,
    Judge,
    Progress,
    Quality,
    Quantizer,
    Uniform,
    cycle_model,
    find_limits,
    total,
    uniform_costs,
    uniform_depths,
)
from tessera.compiler.precision import DepthLimits, SensitivityProfile
from tessera.compiler.sensitivity import analyse
from tessera.firmware.costs import measured
from tessera.rtl.config import NpuConfig

BUDGETS = {"cycles": CYCLES, "weights": WEIGHT_BYTES, "traffic": DRAM_BYTES}
"""Resources by their names on the command line."""

REFERENCE = (8, 8)
"""Depths of activations and weights whose costs are the 100 % of a budget."""

_BUDGET = re.compile(r"(?P<name>\w+)=(?P<number>\d+(?:\.\d+)?)(?P<percent>%?)")


class CostSource(StrEnum):
    """Where the costs of a network come from."""

    MODEL = "model"
    RTL = "rtl"


@dataclass(frozen=True)
class Budget:
    """A limit of one resource: an amount, or a part of what `REFERENCE` costs."""

    resource: str
    amount: float
    is_part: bool


@dataclass(frozen=True)
class DepthRequest:
    """What is asked of the depths.

    Attributes
    ----------
    config
        The machine.
    budgets
        Limits of its resources.
    largest_loss
        Points that may be lost against the float network; ``None`` if only budgets count.
    method
        Sensitivity method.
    source
        Where costs come from.
    limit_loss
        Points that the network may lose at its least activation depths.
    fixed
        Depths that are given.
    wants_front
        Whether all of the front is asked for.
    """

    config: NpuConfig
    budgets: Sequence[Budget]
    largest_loss: float | None
    method: str
    source: CostSource
    limit_loss: float
    fixed: Depths
    wants_front: bool = False


def parse_budgets(texts: Sequence[str] | None) -> list[Budget]:
    """Budgets from ``--budget cycles=50%``; raises `UsageError`."""
    budgets: dict[str, Budget] = {}
    for text in texts or []:
        match = _BUDGET.fullmatch(text.replace(" ", ""))
        if match is None or match["name"] not in BUDGETS:
            raise UsageError(
                f"--budget {text!r} is no budget; write NAME=NUMBER or NAME=PERCENT%, such as cycles=50%, with one of "
                f"the names {', '.join(BUDGETS)}"
            )
        if match["name"] in budgets:
            raise UsageError(f"--budget {text!r}: there is another one of {match['name']}; give one")
        amount = float(match["number"]) / (100 if match["percent"] else 1)
        budgets[match["name"]] = Budget(BUDGETS[match["name"]], amount, bool(match["percent"]))
    return list(budgets.values())


@dataclass(frozen=True)
class DepthChoice:
    """What was chosen for a network: one choice, or all of a front; and what it was chosen by.

    Attributes
    ----------
    choices
        By rising cycles.
    reference
        Costs of the network at `REFERENCE`, or the nearest depths of the machine.
    float_quality
        Quality of the float network.
    profile
        Its sensitivities.
    wants_front
        Whether all of the front was asked for.
    """

    choices: list[Choice]
    reference: Mapping[str, float]
    float_quality: Quality
    profile: SensitivityProfile
    wants_front: bool


def choose(
    request: DepthRequest,
    quantizer: Quantizer,
    samples: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    judge: Judge,
) -> DepthChoice:
    """Chooses the depths of one network, with progress bars.

    Parameters
    ----------
    request
        What is asked.
    quantizer
        Makes the quantised network of given depths.
    samples, labels
        Calibration data, on which sensitivities are measured.
    judge
        Measures its quality.

    Raises
    ------
    CompilerError
        The data do not suffice, the network does not fit the machine, or no depths do what is asked.
    """
    profile = _analyse(request, quantizer, samples, labels)
    meter = cycle_model(request.config) if request.source is CostSource.MODEL else measured(request.config)
    with progress_bar("costs", len(request.config.activation_depths) * len(request.config.weight_depths)) as report:
        uniform = uniform_costs(quantizer, request.config, meter, lambda done: report({"done": done}))
    search = DepthSearch(quantizer, profile, uniform, meter, judge, request.fixed)
    reference = total(uniform[min(uniform, key=lambda pair: _distance(pair, REFERENCE))])
    with progress_bar("depths", STEPS) as report:
        choices = _search(request, search, reference, lambda done: report({"done": done}))
    return DepthChoice(choices, reference, judge.reference, profile, request.wants_front)


def find_depth_limits(request: DepthRequest, choice: Choice, profile: SensitivityProfile) -> DepthLimits:
    """Between which activation depths the chosen network may run."""
    with progress_bar("limits", 1):
        available = sorted(request.config.activation_depths)
        return find_limits(choice.network, profile, choice.judge, available, request.limit_loss)


def _search(
    request: DepthRequest, search: DepthSearch, reference: Mapping[str, float], progress: Progress
) -> list[Choice]:
    budgets = {
        each.resource: each.amount * (reference[each.resource] if each.is_part else 1) for each in request.budgets
    }
    if request.wants_front:
        return search.front(budgets, progress)
    if request.largest_loss is not None:
        return [search.fastest(request.largest_loss, budgets, progress)]
    return [search.within(budgets)]


def _analyse(
    request: DepthRequest,
    quantizer: Quantizer,
    samples: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
) -> SensitivityProfile:
    layers = itertools.count()
    with progress_bar("sensitivities", len(uniform_depths(quantizer.graph, *REFERENCE))) as report:
        return analyse(
            quantizer.graph,
            quantizer.calibration,
            samples,
            request.method,
            labels=labels,
            progress=lambda _: report({"done": next(layers)}),
        )


def _distance(pair: Uniform, other: Uniform) -> int:
    return sum(abs(a - b) for a, b in zip(pair, other, strict=True))
