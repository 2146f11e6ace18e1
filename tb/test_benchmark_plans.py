"""The benchmark's group of plans: its workloads, its numbers and its part of the page."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

pytest.importorskip("matplotlib", reason="the benchmark's pictures need matplotlib")
sys.path.insert(0, str(ROOT / "scripts"))

from benchmark.page import write_page  # noqa: E402
from benchmark.plans import makespan, response  # noqa: E402
from benchmark.plans.makespan import BASELINES, Outcome, measure_makespans  # noqa: E402
from benchmark.plans.runs import SCHEDULERS, Measured, Planned  # noqa: E402
from benchmark.plans.seconds import large_workload  # noqa: E402
from benchmark.plans.workloads import CONFIG, SHORT_NAMES, WORKLOADS  # noqa: E402

from tessera.firmware.cosimulation import Options  # noqa: E402
from tessera.firmware.modelled.bus import ModelBus  # noqa: E402
from tessera.firmware.scenarios.scenario import Scenario, ScenarioResult, play  # noqa: E402


def test_workloads_are_balanced() -> None:
    """What their description says: all networks are there equally often, alone with each other and with all kinds."""
    assert [len(names) for names in WORKLOADS] == [2] * 4 + [3] * 4 + [4] * 4
    pairs, threes, fours = ([names for names in WORKLOADS if len(names) == size] for size in (2, 3, 4))
    assert Counter(name for names in pairs for name in names) == dict.fromkeys(SHORT_NAMES, 1)
    kinds = [{name[0] for name in names} for names in threes]
    assert sorted(map(sorted, kinds)) == sorted(map(list, combinations("akmr", 3)))
    assert Counter(name for names in fours for name in names) == dict.fromkeys(SHORT_NAMES, 2)
    assert sorted(len({name[0] for name in names}) for names in fours) == [2, 2, 4, 4]
    assert all(len(set(names)) == len(names) for names in WORKLOADS)


@pytest.mark.parametrize(("networks", "operations"), [(2, 100), (12, 1000)])
def test_large_workloads(networks: int, operations: int) -> None:
    """They have the size that they are named after, nearly."""
    jobs = large_workload(networks, operations).jobs
    assert len({job.name for job in jobs}) == networks
    assert sum(job.inferences * len(job.graph.tasks) for job in jobs) == pytest.approx(operations, rel=0.15)


def outcome(name: str, bound: int, **cycles: int) -> Outcome:
    """A workload that took so many cycles, predicted with an error of a tenth."""
    stream = SimpleNamespace(cycles=0.9 * cycles["dp"], program=SimpleNamespace(instructions=(), config=CONFIG))
    planned = Planned(name, {}, stream)
    runs = {each: SimpleNamespace(cycles=count) for each, count in cycles.items()}
    return Outcome(name, bound, {each: Measured(planned, run) for each, run in runs.items()})


CYCLES = {"native": 400, "serial": 150, "serial_prefetch": 120, "greedy": 110, "dp": 100}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[makespan.Row]:
    """The rows of two workloads, one of which is worse by dynamic programming, on one DRAM."""
    found = [outcome("r30+k45", 90, **CYCLES), outcome("r35+a57", 50, **{**CYCLES, "serial_prefetch": 99})]
    monkeypatch.setattr(makespan, "BANDWIDTHS", (8,))
    monkeypatch.setattr(makespan, "outcomes", lambda bandwidth: found)
    return list(measure_makespans())


def test_rows(rows: list[makespan.Row]) -> None:
    """Means, the least, and a workload that is worse: it is told, and fails the run."""
    by_name = {row.name: row for row in rows}
    assert by_name["plan/dp_over_native@8"].measured == 4.0
    assert by_name["plan/dp_over_serial_prefetch@8"].measured == pytest.approx(np.sqrt(1.2 * 0.99), abs=1e-3)
    least = by_name["plan/dp_over_serial_prefetch@8/least"]
    assert least.measured == 0.99 and not least.holds
    assert least.source == "r35+a57; 1 of 2 workloads are below 1.0"
    assert by_name["plan/gap_closed@8"].measured == pytest.approx((20 / 30 - 1 / 49) / 2, abs=1e-3)
    assert by_name["plan/prediction_error@8"].measured == pytest.approx(0.1)
    assert by_name["plan/idle_lane_cycles/dp@8"].measured == 2 * CONFIG.lanes * 100
    assert by_name["plan/r30+k45/cycles_greedy@8"].measured == 110


def test_page(rows: list[makespan.Row], tmp_path: Path) -> None:
    """A line per workload instead of one per row, and the picture."""
    page = write_page(tmp_path, {"plan": rows}, {"plan": "Plans."}).read_text(encoding="utf-8")
    assert "| r30+k45 | 90 | 400 | 150 | 120 | 110 | 100 | 4.000 | 1.500 | 1.200 | 1.100 |" in page
    assert "`plan/r30+k45/" not in page
    assert "| `plan/dp_over_serial_prefetch@8/least` | 0.99 | ratio | 1.0 |  | below the floor |" in page
    assert "](benchmark-plan.svg)" in page and (tmp_path / "benchmark-plan.svg").is_file()
    assert set(BASELINES) < set(SCHEDULERS)


def test_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the modelled machine: all is right, and an urgent network answers sooner if it need not wait for a network."""

    def simulate(scenario: Scenario, options: Options) -> tuple[ScenarioResult, None]:
        bus = ModelBus(scenario.config, scenario.dram.limit, response.MEMORY)
        return asyncio.run(play(scenario, bus)), None

    monkeypatch.setattr(response, "simulate_scenario", simulate)
    monkeypatch.setattr(response, "ARRIVALS", 2)
    monkeypatch.setattr(response, "LARGE_INFERENCES", 2)
    found = {row.name.removeprefix("plan/response/"): row.measured for row in response.measure_response()}
    assert 1 <= found["replanned/median"] < found["after_network/median"]
    assert found["alone"] > 0
