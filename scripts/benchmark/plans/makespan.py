"""Rows of the makespans of the workloads, with every scheduler and DRAM."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from benchmark.plans.runs import SCHEDULERS, Measured, Planned, in_parallel, memory_of, plans_of, run_plans
from benchmark.plans.workloads import CONFIG, WORKLOADS, network, workload, workload_name
from benchmark.rows import Row
from tessera.compiler.planning import Machine
from tessera.compiler.planning.bounds import lower_bound
from tessera.compiler.planning.problem import Problem
from tessera.compiler.planning.selection import PlannedStream

BANDWIDTHS = (16, 8, 4)
"""Bytes per cycle of the DRAM."""

BASELINES = tuple(each for each in SCHEDULERS if each != "dp")

FLOORS = {"native": 1.2}
"""What dynamic programming must be over a baseline; never worse, where none is given."""

AIMS = {
    ("native", 16): 2.0,
    ("native", 8): 2.0,
    ("serial", 8): 1.10,
    ("serial", 4): 1.15,
    ("serial_prefetch", 8): 1.10,
    ("serial_prefetch", 4): 1.15,
}
"""By baseline and bandwidth."""

GAP_AIM = 0.5
ERROR_AIM = 0.05


@dataclass(frozen=True)
class Outcome:
    """A workload on one DRAM.

    Attributes
    ----------
    name
        The workload's name.
    bound
        Cycles that no plan can beat (`LowerBound`).
    measured
        What each of `SCHEDULERS` reached.
    """

    name: str
    bound: int
    measured: Mapping[str, Measured]

    def speedup(self, baseline: str) -> float:
        """Cycles of a baseline over those of dynamic programming."""
        return self.measured[baseline].cycles / self.measured["dp"].cycles

    @property
    def gap_closed(self) -> float:
        """Share of the distance of the serial plan with prefetch to the bound that dynamic programming removes."""
        serial = self.measured["serial_prefetch"].cycles
        return (serial - self.measured["dp"].cycles) / (serial - self.bound)


def measure_makespans() -> Iterator[Row]:
    """The rows of all DRAMs, then those of each workload."""
    for bandwidth in BANDWIDTHS:
        yield from _rows(bandwidth, outcomes(bandwidth))
    for bandwidth in BANDWIDTHS:
        for outcome in outcomes(bandwidth):
            yield from _workload_rows(bandwidth, outcome)


@cache
def outcomes(bandwidth: int) -> list[Outcome]:
    """All workloads on a DRAM, measured in one simulation."""
    memory = memory_of(bandwidth)
    plans = [
        Planned(f"{workload_name(names)} by {scheduler}", {name: network(name) for name in names}, stream)
        for names, streams in zip(WORKLOADS, all_plans()[bandwidth], strict=True)
        for scheduler, stream in streams.items()
    ]
    measured = iter(run_plans(plans, CONFIG, memory))
    return [
        Outcome(workload_name(names), _bound(names, bandwidth), {each: next(measured) for each in SCHEDULERS})
        for names in WORKLOADS
    ]


@cache
def all_plans() -> dict[int, list[dict[str, PlannedStream]]]:
    """By bandwidth, for each workload its plans."""
    for names in WORKLOADS:
        workload(names)  # so that the processes need not make the networks
    cases = [(names, bandwidth) for bandwidth in BANDWIDTHS for names in WORKLOADS]
    found = iter(in_parallel(_plans_of, cases))
    return {bandwidth: [next(found) for _ in WORKLOADS] for bandwidth in BANDWIDTHS}


def _plans_of(case: tuple[tuple[str, ...], int]) -> dict[str, PlannedStream]:
    names, bandwidth = case
    return plans_of(workload(names), {name: network(name) for name in names}, CONFIG, memory_of(bandwidth))


def _bound(names: tuple[str, ...], bandwidth: int) -> int:
    return lower_bound(Problem(workload(names), Machine.of(CONFIG, memory_of(bandwidth)))).cycles


def _rows(bandwidth: int, found: Sequence[Outcome]) -> Iterator[Row]:
    for baseline in BASELINES:
        yield from _speedup_rows(baseline, bandwidth, found)
    gap = sum(each.gap_closed for each in found) / len(found)
    yield Row(f"plan/gap_closed@{bandwidth}", round(gap, 3), "ratio", "higher", aim=GAP_AIM, source=_MEAN)
    for scheduler in SCHEDULERS:
        idle = sum(each.measured[scheduler].idle_lane_cycles for each in found)
        yield Row(f"plan/idle_lane_cycles/{scheduler}@{bandwidth}", idle, "cycles", "lower")
    errors = {each.name: abs(each.measured["dp"].prediction_error) for each in found}
    worst = max(errors, key=errors.__getitem__)
    name = f"plan/prediction_error@{bandwidth}"
    yield Row(name, round(errors[worst], 4), "ratio", "lower", aim=ERROR_AIM, source=f"the largest, of {worst}")
    yield Row(f"{name}/mean", round(sum(errors.values()) / len(errors), 4), "ratio", "lower", aim=ERROR_AIM)


_MEAN = "arithmetic mean of the workloads"


def _speedup_rows(baseline: str, bandwidth: int, found: Sequence[Outcome]) -> Iterator[Row]:
    """The geometric mean over a baseline, and the workload with the least."""
    name, floor = f"plan/dp_over_{baseline}@{bandwidth}", FLOORS.get(baseline, 1.0)
    speedups = {each.name: each.speedup(baseline) for each in found}
    mean = geometric_mean(list(speedups.values()))
    yield Row(name, round(mean, 3), "ratio", "higher", floor, AIMS.get((baseline, bandwidth)))
    least = min(speedups, key=speedups.__getitem__)
    below = sum(each < 1 for each in speedups.values())
    source = f"{least}; {below} of {len(found)} workloads are below 1.0" if below else least
    # Not rounded up to the floor.
    yield Row(f"{name}/least", math.floor(1000 * speedups[least]) / 1000, "ratio", "higher", 1.0, source=source)


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _workload_rows(bandwidth: int, outcome: Outcome) -> Iterator[Row]:
    def row(what: str, value: float, unit: str, better: str) -> Row:
        return Row(f"plan/{outcome.name}/{what}@{bandwidth}", value, unit, better)

    yield row("bound", outcome.bound, "cycles", "lower")
    for scheduler in SCHEDULERS:
        yield row(f"cycles_{scheduler}", outcome.measured[scheduler].cycles, "cycles", "lower")
    for baseline in BASELINES:
        yield row(f"dp_over_{baseline}", round(outcome.speedup(baseline), 3), "ratio", "higher")
    yield row("gap_closed", round(outcome.gap_closed, 3), "ratio", "higher")
