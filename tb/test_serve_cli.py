"""Scenarios on the command line: requests that come and change while others run, and every mistake as a sentence."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import MLP, Command, samples, tessera
from test_plan_cli import refused

__all__ = ["samples", "tessera"]

CNN = MLP.with_name("digits_cnn.onnx")

NETWORKS = f"""
[network.mlp]
file = "{MLP}"
calibration = "samples.npz"

[network.cnn]
file = "{CNN}"
calibration = "samples.npz"
faults = ["saturation=limit", "conv1:overflow=retry"]
"""

REQUESTS = """
[[request]]
name = "large"
network = "cnn"
input = "samples.npz"
samples = 3

[[request]]
name = "urgent"
network = "mlp"
input = "samples.npz"
samples = 1
arrival = 1500
priority = 50
deadline = 20000

[[request]]
name = "dropped"
network = "cnn"
input = "samples.npz"
"""

CHANGES = """
[[change]]
request = "dropped"
cycle = 2000
cancel = true

[[change]]
request = "large"
cycle = 1800
priority = 2.5
"""


def write(folder: Path, text: str) -> Path:
    """A scenario file."""
    path = folder / "scenario.toml"
    path.write_text(text)
    return path


def check_result(result: dict[str, Any]) -> None:
    """The urgent request is served first, one is cancelled, and all that is there is right."""
    large, urgent, dropped = result["requests"]
    assert [row["status"] for row in (large, urgent, dropped)] == ["done", "done", "cancelled"]
    assert all(row["bit_exact"] for row in (large, urgent))
    assert (large["failed"], urgent["failed"], len(dropped["failed"])) == ([], [], 6)
    assert urgent["arrival"] == 1500 < urgent["started"] < urgent["ended"] < large["ended"]
    assert urgent["latency"] == urgent["ended"] - 1500 and not urgent["missed"]
    kinds = [event["kind"] for event in result["log"]]
    assert {"arrived", "planned", "paused", "changed", "ended"} <= set(kinds)


def test_on_the_models(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Without a simulator, with a page that has a lane of time for each request."""
    path, page = tmp_path / "serve.json", tmp_path / "page.html"
    scenario = write(tmp_path, NETWORKS + REQUESTS + CHANGES)
    outcome = tessera("serve", scenario, "--npu", "tiny", "--models", "--json", path)
    assert outcome.status == 0, outcome.err
    assert "3 requests on tiny, models" in outcome.out
    result = json.loads(path.read_text())
    check_result(result)
    assert "accuracy" in result["requests"][0]
    faults = {row["name"]: row["faults"] for row in result["plan"]["networks"]}
    assert faults["large"]["operations"]["conv1"]["overflow"]["action"] == "retry"
    measured = result["timelines"]["measured"]
    tasks = [tuple(row[:3]) for row in measured["tasks"]]
    assert len(tasks) == len(set(tasks))
    assert {name for name, _, _ in tasks} == {row["name"] for row in result["networks"]}
    planned = [tuple(task.values()) for bundle in result["plan"]["bundles"] for task in bundle["slots"][0]["tasks"]]
    assert set(planned) <= {row[1:3] for row in tasks}
    for unit in (*measured["lanes"], *measured["slices"]):
        assert all(before[1] <= after[0] for before, after in pairwise(unit))
    outcome = tessera("report", path, "-o", page)
    assert outcome.status == 0, outcome.err
    assert page.read_text().count("bit-exact") >= 2


@pytest.mark.cosim
def test_on_the_rtl(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """The same in co-simulation, on a slow memory; what was measured goes to the profile database."""
    path, database = tmp_path / "serve.json", tmp_path / "profile.sqlite"
    scenario = write(tmp_path, NETWORKS + REQUESTS + CHANGES)
    options = ("--npu", "tiny", "--bandwidth", 2, "--database", database)
    outcome = tessera("serve", scenario, *options, "--json", path)
    assert outcome.status == 0, outcome.err
    result = json.loads(path.read_text())
    check_result(result)
    assert result["simulator"] == "verilator" and database.is_file()
    assert tessera("report", path, "-o", tmp_path / "page.html").status == 0


def test_failures_are_told(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """A request that fails ends the command with an error, and the others are there."""
    np.savez(tmp_path / "far.npz", input=np.full((1, 1, 8, 8), 9.0, np.float32))
    text = NETWORKS.replace("saturation=limit", "saturation=stop-network") + REQUESTS
    path = tmp_path / "serve.json"
    scenario = write(tmp_path, text.replace('input = "samples.npz"\nsamples = 3', 'input = "far.npz"'))
    outcome = tessera("serve", scenario, "--npu", "tiny", "--models", "--json", path)
    assert outcome.status == 1
    assert "requests have failed: large (saturation of" in outcome.err
    statuses = {row["name"]: row["status"] for row in json.loads(path.read_text())["requests"]}
    assert (statuses["large"], statuses["urgent"]) == ("failed", "done")


WRONG: dict[str, tuple[str, str, list[object], str]] = {
    "no TOML": ("[network", "[network.", [], r"scenario\.toml is no TOML file: "),
    "no requests": ("[[request]]", "[[change]]", [], r"the scenario has no 'request'; it needs network, request"),
    "an unknown part": ("[network.mlp]", "[plan]\n[network.mlp]", [], r"the scenario has 'plan', which means nothing"),
    "an unknown key": ("arrival =", "start =", [], r"request 1 has 'start', which means nothing; it can have name"),
    "no name": ('name = "urgent"\n', "", [], r"request 1 has no 'name'; it needs name, network, input"),
    "text for a cycle": ("arrival = 1500", 'arrival = "x"', [], r"arrival of request 1 is 'x'; give a whole number"),
    "a truth for a cycle": ("arrival = 1500", "arrival = true", [], r"arrival of request 1 is True; give a whole"),
    "the past": ("arrival = 1500", "arrival = -1", [], r"arrival of request 1 is -1; give a whole number from 0"),
    "two of a name": ('"urgent"', '"large"', [], r"several requests are named 'large'"),
    "no such network": ('"mlp"', '"mlq"', [], r"'urgent' is for the network 'mlq'; there are mlp, cnn"),
    "no such request": (
        'request = "dropped"',
        'request = "x"',
        [],
        r"for the request 'x'; there are large",
    ),
    "a change of nothing": ("cancel = true", "", [], r"'dropped' at cycle 2000 must have either a priority or cancel"),
    "no priority": ("priority = 50", "priority = 0", [], r"'urgent' has the priority 0; give a positive number"),
    "an endless priority": ("priority = 2.5", "priority = inf", [], r"'large' cannot have the priority inf"),
    "deadline in the past": ("deadline = 20000", "deadline = 9", [], r"deadline at cycle 9, but arrives at 1500"),
    "too many samples": ("samples = 3", "samples = 7", [], r"'large' is for 7 samples, but .* has 6; give 1 to 6"),
    "no such file": ('"samples.npz"\nsamples = 3', '"none.npz"', [], r"there is no file .*none\.npz"),
    "no such fault": ("saturation=limit", "heat=limit", [], r"there is no fault 'heat'"),
    "no such operation": ("conv1:", "conv9:", [], r"there are fault rules for 'conv9', but no such operation"),
    "too little DRAM": ("", "", ["--dram", 4096], r"the networks together need .* bytes of DRAM"),
    "no such scheduler": ("", "", ["--scheduler", "best"], r"there is no scheduler 'best'; take one of dp,"),
    "a database of models": ("", "", ["--database", "x.sqlite"], r"--database does nothing beside --models"),
    "the scenario as output": ("", "", ["--json", "SCENARIO"], r"cannot write .*scenario\.toml: the command needs"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_scenarios(tessera: Command, samples: Path, tmp_path: Path, case: str) -> None:
    """What makes no sense is refused in a sentence before anything runs, and no file is written."""
    old, new, arguments, sentence = WRONG[case]
    text = NETWORKS + REQUESTS + CHANGES
    assert old in text
    scenario = write(tmp_path, text.replace(old, new) if old != "[[request]]" else NETWORKS + CHANGES)
    before = sorted(tmp_path.iterdir())
    options = ["--json", tmp_path / "serve.json", *(scenario if each == "SCENARIO" else each for each in arguments)]
    refused(tessera("serve", scenario, "--npu", "tiny", "--models", *options), sentence)
    assert sorted(tmp_path.iterdir()) == before
