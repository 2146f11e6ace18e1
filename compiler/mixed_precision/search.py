"""Looks for the best depths of a network under budgets.

The linear programme adds up what operations cost where the whole network has one depth. The costs of a network of mixed
depths are found by compiling it, and the programme is given budgets that are corrected by what came out, until what it
chooses keeps the true ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from tessera.compiler.calibrate import Calibration
from tessera.compiler.errors import CompilerError
from tessera.compiler.graph import Graph
from tessera.compiler.mixed_precision.costs import CYCLES, WEIGHT_BYTES, Costs, Meter, total
from tessera.compiler.mixed_precision.problem import DepthProblem, Depths, Uniform, uniform_depths
from tessera.compiler.mixed_precision.quality import Judge, Quality
from tessera.compiler.mixed_precision.selection import Infeasible
from tessera.compiler.precision import SensitivityProfile
from tessera.compiler.quantize import LayerDepths, quantize
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.refinements import DEFAULT_REFINEMENTS, NO_REFINEMENTS, Refinements
from tessera.rtl.config import NpuConfig

STEPS = 10
"""Budgets of a front."""

_CORRECTIONS = 8
"""How often budgets are corrected; two or three times suffice as a rule."""

_SAME = 1e-9
"""Budgets that differ by less than this part are the same."""

_NARROWINGS = 4
"""How often the step of the front in which a loss of accuracy lies is halved."""

Progress = Callable[[int], None]
"""Is told how many steps are done."""


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Makes the quantised networks of given depths.

    Attributes
    ----------
    graph
        A prepared network.
    calibration
        Its activation ranges.
    refinements
        How it is quantised.
    """

    graph: Graph
    calibration: Calibration
    refinements: Refinements = DEFAULT_REFINEMENTS

    def __call__(self, depths: Depths) -> QuantizedNetwork:
        """The network."""
        return quantize(self.graph, self.calibration, overrides=depths, refinements=self.refinements)

    def draft(self, depths: Depths) -> QuantizedNetwork:
        """The network with the nearest weights, made in a fraction of the time: its costs do not depend on them."""
        return quantize(self.graph, self.calibration, overrides=depths, refinements=NO_REFINEMENTS)


@dataclass(frozen=True, eq=False)
class Choice:
    """A quantised network, and what it costs.

    Attributes
    ----------
    depths
        Depths of all layers.
    costs
        True costs, by resource.
    sensitivity
        Its total, by the profile.
    quantizer, judge
        Make the network, and find what its results are worth.
    """

    depths: Depths
    costs: Mapping[str, float]
    sensitivity: float
    quantizer: Quantizer
    judge: Judge

    @cached_property
    def network(self) -> QuantizedNetwork:
        """The network."""
        return self.quantizer(self.depths)

    @cached_property
    def quality(self) -> Quality:
        """What its results are worth."""
        return self.judge(self.network)

    def keeps(self, budgets: Mapping[str, float]) -> bool:
        """Whether no cost is above its budget."""
        return all(self.costs[name] <= budget for name, budget in budgets.items())

    def excess(self, budgets: Mapping[str, float]) -> float:
        """The largest part of a budget that its cost is; 1 or less if all are kept."""
        costs = {name: self.costs[name] for name in budgets if self.costs[name]}
        return max((cost / budgets[name] if budgets[name] else math.inf for name, cost in costs.items()), default=0.0)

    def beats(self, other: Choice) -> bool:
        """Whether it is as good as another one in cycles, size and loss, and better in one of them."""
        mine, others = ((each.costs[CYCLES], each.costs[WEIGHT_BYTES], each.quality.loss) for each in (self, other))
        return mine != others and all(a <= b for a, b in zip(mine, others, strict=True))


def _silent(_: int) -> None:
    """No report of progress."""


def uniform_costs(
    quantizer: Quantizer, config: NpuConfig, meter: Meter, progress: Progress = _silent
) -> dict[Uniform, Costs]:
    """Costs of a network at all pairs of depths of a machine, but for those at which it does not fit.

    Parameters
    ----------
    progress
        Is told how many pairs are done.

    Raises
    ------
    CompilerError
        The network fits at none of them.
    """
    costs, problems = {}, []
    available = config.activation_depths
    pairs = list(product(config.activation_depths, config.weight_depths))
    for done, (activation, weight) in enumerate(pairs):
        progress(done)
        try:
            depths = uniform_depths(quantizer.graph, activation, weight, available=available)
            costs[activation, weight] = meter(quantizer.draft(depths))
        except CompilerError as error:
            problems.append(error)
    if not costs:
        raise problems[0]
    return costs


class DepthSearch:
    """Chooses the depths of one network.

    Parameters
    ----------
    quantizer
        Makes the network of given depths.
    profile
        Its sensitivities.
    uniform
        Costs of its operations by uniform depths.
    meter, judge
        Find what a network costs, and its quality.
    fixed
        Depths that are given.

    Raises
    ------
    CompilerError
        As `DepthProblem`.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        profile: SensitivityProfile,
        uniform: Mapping[Uniform, Costs],
        meter: Meter,
        judge: Judge,
        fixed: Depths | None = None,
    ):
        self._problem = DepthProblem(quantizer.graph, profile, uniform, fixed)
        self._uniform, self._fixed = dict(uniform), fixed
        self._quantizer, self._meter, self._judge = quantizer, meter, judge
        self._choices: dict[tuple[tuple[str, LayerDepths], ...], Choice] = {}

    def within(self, budgets: Mapping[str, float]) -> Choice:
        """The choice with the least sensitivity whose true costs keep the budgets, or a uniform one, if that has the
        lower loss.

        Raises
        ------
        Infeasible
            No choice was found that does; the sentence says the nearest budget.
        """
        attempts = [choice for choice in self._attempts(budgets) if choice.keeps(budgets)]
        rivals = self._rivals(budgets)
        best = min(attempts or [self._cheapest(budgets)], key=lambda choice: choice.sensitivity)
        return min([best, *rivals], key=lambda choice: choice.quality.loss)

    def fastest(self, loss: float, budgets: Mapping[str, float] | None = None, progress: Progress = _silent) -> Choice:
        """The choice with the fewest cycles that loses at most ``loss`` points of the float network's quality and keeps
        the budgets; ``progress`` as for the front.

        Raises
        ------
        Infeasible
            Every choice loses more; the sentence says the least that was found.
        """
        least = self._judge.reference.points - loss
        front = self.front(budgets, progress)
        first = next((index for index, choice in enumerate(front) if choice.quality.points >= least), None)
        if first is None:
            lost = self._judge.reference.points - max(choice.quality.points for choice in front)
            raise Infeasible(
                f"all depths lose more than {loss:g} points of accuracy; the least that was found is {lost:.2f}: allow "
                "that, or retrain the network with quantised weights"
            )
        best = front[first]
        slow, fast = best.costs[CYCLES], front[max(first - 1, 0)].costs[CYCLES]
        for _ in range(_NARROWINGS):
            middle = (slow + fast) / 2
            choice = self._within_cycles(middle, budgets)
            if choice is not None and choice.quality.points >= least:
                best, slow = min(best, choice, key=lambda each: each.costs[CYCLES]), middle
            else:
                fast = middle
        return best

    def front(self, budgets: Mapping[str, float] | None = None, progress: Progress = _silent) -> list[Choice]:
        """The choices at `STEPS` budgets of cycles and the uniform ones, as far as they keep other budgets, by rising
        cycles; those that another one beats in cycles, size and loss are left out.

        Parameters
        ----------
        budgets
            Other budgets.
        progress
            Is told how many steps are done.

        Raises
        ------
        Infeasible
            No choice keeps the budgets.
        """
        found = list(self.uniform())
        cycles = [choice.costs[CYCLES] for choice in found]
        found = [choice for choice in found if choice.keeps(budgets or {})] or [self.within(budgets or {})]
        for done, limit in enumerate(np.geomspace(min(cycles), max(cycles), STEPS)):
            progress(done)
            choice = self._within_cycles(float(limit), budgets)
            found += [] if choice is None else [choice]
        kept = {id(each): each for each in found if not any(other.beats(each) for other in found)}
        return sorted(kept.values(), key=lambda choice: choice.costs[CYCLES])

    def _within_cycles(self, cycles: float, budgets: Mapping[str, float] | None) -> Choice | None:
        """The best choice under another budget of cycles, if there is one."""
        others = dict(budgets or {})
        try:
            return self.within({**others, CYCLES: min(cycles, others.get(CYCLES, cycles))})
        except Infeasible:
            return None

    def uniform(self) -> Iterator[Choice]:
        """The choices of one activation depth and one weight depth, given depths aside."""
        available = [activation for activation, _ in self._uniform]
        for activation, weight in self._uniform:
            yield self._choice(uniform_depths(self._quantizer.graph, activation, weight, self._fixed, available))

    def _rivals(self, budgets: Mapping[str, float]) -> list[Choice]:
        """The uniform choices that keep the budgets, but for those that have fewer bits than another one."""
        kept = {
            pair: choice for pair, choice in zip(self._uniform, self.uniform(), strict=True) if choice.keeps(budgets)
        }
        return [choice for pair, choice in kept.items() if not any(_has_fewer_bits(pair, other) for other in kept)]

    def _attempts(self, budgets: Mapping[str, float]) -> Iterator[Choice]:
        """What the programme chooses for budgets that are corrected by what its last choice truly costs."""
        limits = dict(budgets)
        for _ in range(_CORRECTIONS):
            try:
                selection = self._problem.select(limits)
            except Infeasible:
                return
            choice = self._choice(self._problem.depths(selection))
            yield choice
            before = limits
            # What costs nothing (the weights of a network that has none) keeps its budget.
            limits = {
                name: selection.totals[name] * budget / choice.costs[name] if choice.costs[name] else budget
                for name, budget in budgets.items()
            }
            if all(math.isclose(limits[name], before[name], rel_tol=_SAME) for name in limits):
                return

    def _cheapest(self, budgets: Mapping[str, float]) -> Choice:
        """The choice that is cheapest in what the budgets limit, or the best of those that were tried; raises
        `Infeasible` if none keeps them."""
        kept = [choice for choice in self._choices.values() if choice.keeps(budgets)]
        if kept:
            return min(kept, key=lambda choice: choice.sensitivity)
        for name, budget in budgets.items():
            choice = self._choice(self._problem.depths(self._problem.select({}, name)))
            if choice.costs[name] > budget:
                raise Infeasible(
                    f"no depths keep {name} <= {budget:,.0f}; the least is {_rounded_up(choice.costs[name])}: use a "
                    "budget of at least that"
                )
            if choice.keeps(budgets):
                return choice
        texts = " and ".join(f"{name} <= {budget:,.0f}" for name, budget in budgets.items())
        nearest = min(self._choices.values(), key=lambda each: each.excess(budgets))
        enough = " and ".join(f"{name} <= {_rounded_up(nearest.costs[name])}" for name in budgets)
        raise Infeasible(
            f"no depths keep {texts} together, though each of them alone can be kept; the nearest that was found is "
            f"{enough}: use budgets of at least that"
        )

    def _choice(self, depths: Depths) -> Choice:
        key = tuple(sorted(depths.items(), key=lambda item: item[0]))
        if key not in self._choices:
            costs = total(self._meter(self._quantizer.draft(depths)))
            sensitivity = self._problem.sensitivity(depths)
            self._choices[key] = Choice(depths, costs, sensitivity, self._quantizer, self._judge)
        return self._choices[key]


def _rounded_up(cost: float) -> str:
    """A cost as a whole number that suffices as a budget."""
    return f"{math.ceil(cost):,}"


def _has_fewer_bits(pair: Uniform, other: Uniform) -> bool:
    return pair != other and all(mine <= theirs for mine, theirs in zip(pair, other, strict=True))
