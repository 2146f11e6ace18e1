"""Durations measured on the RTL, and what the commands make of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from random_networks import residual_network
from test_cli import MLP, Command, samples, tessera

from tessera.compiler.lowering.mapping import map_to_machine
from tessera.compiler.planning.costs import network_costs
from tessera.compiler.planning.durations import known_durations, observations
from tessera.compiler.planning.occupancy import LANE_START_UP
from tessera.compiler.planning.profile_database import DurationSource, ProfileDatabase
from tessera.firmware.cosimulation import Inferences
from tessera.firmware.profiling import rtl_clock
from tessera.rtl.config import NpuConfig
from tessera.sim.program import Program

__all__ = ["samples", "tessera"]

pytestmark = pytest.mark.cosim

DISTURBANCE = 0.4
"""Part by which an operation may take longer than predicted: by conflicts on the ports of the banks, and where tiles
are so short that their instructions come too late."""


def test_measured_is_predicted(tmp_path: Path) -> None:
    """On every number of lanes. The database then knows by how much predictions are off, and says no less."""
    config = NpuConfig.preset("tiny")
    mapped = map_to_machine(residual_network(4, 4, side=16, channels=8), config)
    cycles: list[int] = []

    def on_run(program: Program, inferences: Inferences) -> None:
        cycles.append(inferences.runs[0].cycles)

    predicted, measured = network_costs(mapped), network_costs(mapped, rtl_clock(on_run=on_run))
    assert cycles == sorted(cycles, reverse=True)
    assert [list(each) for each in measured.values()] == [list(each) for each in predicted.values()]
    pairs = [(real, predicted[name][lanes]) for name, each in measured.items() for lanes, real in each.items()]
    for real, guess in pairs:
        print(real.cycles, guess.cycles)
        assert 0.95 * guess.cycles - LANE_START_UP <= real.cycles <= (1 + DISTURBANCE) * guess.cycles + LANE_START_UP
        assert (real.dram_bytes, real.weight_bytes) == (guess.dram_bytes, guess.weight_bytes)
    assert np.median([abs(real.cycles / guess.cycles - 1) for real, guess in pairs]) < 0.02
    with ProfileDatabase(tmp_path / "profile.sqlite", config) as database:
        database.record(DurationSource.PREDICTED, observations(mapped, predicted))
        database.record(DurationSource.MEASURED, observations(mapped, measured))
        known = known_durations(mapped, database, DurationSource.PREDICTED, predicted)
    within = [
        abs(measured[name][lanes].cycles / each.cost.cycles - 1) <= each.margin
        for name, by_lanes in known.items()
        for lanes, each in by_lanes.items()
    ]
    assert np.mean(within) >= 0.8


def test_profile_and_run_fill_the_database(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """What `profile` and `run` measure is kept, and shown by a profile that only predicts."""
    database, path = tmp_path / "profile.sqlite", tmp_path / "profile.json"
    common = ("--npu", "tiny", "--database", database)
    assert tessera("run", MLP, "-c", samples, "-i", samples, "-n", 1, *common).status == 0
    outcome = tessera("profile", MLP, "-c", samples, *common, "--source", "predicted", "--json", path)
    assert outcome.status == 0, outcome.err
    (network,) = json.loads(path.read_text())["networks"]
    assert {row["lanes"] for row in network["by_lanes"] if row["times"] == 1} == {4}
    outcome = tessera("profile", MLP, "-c", samples, *common, "--json", path)
    assert outcome.status == 0, outcome.err
    (network,) = json.loads(path.read_text())["networks"]
    assert {(row["lanes"], row["times"]) for row in network["by_lanes"]} == {(2, 1), (4, 2)}
    for row in network["by_lanes"]:
        assert row["measured"] == pytest.approx(row["predicted"], rel=0.05, abs=10)
        assert 0 <= row["margin"] < 0.1
    with ProfileDatabase(database, NpuConfig.preset("tiny")) as opened:
        runs = opened.runs()
    assert [run.networks for run in runs] == [("digits_mlp",)] * 2
    assert runs[0].cycles == runs[1].cycles == network["cycles"]


def test_a_run_does_without_the_users_database(
    tessera: Command, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was not asked for, and cannot be made, is mentioned; one that was asked for must be there."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    command = ("run", MLP, "-c", samples, "-i", samples, "-n", 1, "--npu", "tiny")
    outcome = tessera(*command)
    assert outcome.status == 0, outcome.err
    assert "The command goes on without it." in outcome.out
    outcome = tessera(*command, "--database", tmp_path / "file" / "profile.sqlite")
    assert outcome.status == 2
    assert "cannot be made" in outcome.err
