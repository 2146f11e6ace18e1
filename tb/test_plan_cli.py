"""Several networks on the command line: plan, run and report, and every mistake as one sentence that leaves nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import MLP, SMALL_NPU, Command, Outcome, samples, tessera
from test_npu_cli import NETWORK_KEYS, RUN_KEYS, SLOT_KEYS

from tessera.compiler.planning.faults import DEFAULT_POLICY
from tessera.compiler.planning.plan_file import read_plan

__all__ = ["samples", "tessera"]

CNN = MLP.with_name("digits_cnn.onnx")

PLAN = ("plan", MLP, CNN, "--npu", "tiny", "-a", 4, "-w", 4, "--costs", "predicted")


def refused(outcome: Outcome, sentence: str) -> None:
    """One sentence with what is wrong, and exit status 2."""
    assert outcome.status == 2, outcome.out
    assert re.search(sentence, " ".join(outcome.err.split())), outcome.err
    assert outcome.err.count("\n") == 1


_stored: list[bytes] = []
"""The plan file of `stored`, once it was made."""


@pytest.fixture
def stored(tessera: Command, samples: Path, tmp_path: Path) -> Path:
    """A plan file of two networks; it is made once."""
    path = tmp_path / "plan.json"
    if not _stored:
        outcome = tessera(*PLAN, "-c", samples, "-o", path)
        assert outcome.status == 0, outcome.err
        _stored.append(path.read_bytes())
    path.write_bytes(_stored[0])
    return path


def test_plan(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Options of each network, bundles as text, and the result as JSON."""
    path = tmp_path / "result.json"
    options = ("--inferences", "digits_mlp=2", "--priority", "digits_cnn=2.5", "--deadline", "digits_mlp=900000")
    options += ("--arrival", "digits_cnn=10", "--objective", "weighted", "--bandwidth", 4, "--latency", 60)
    outcome = tessera(*PLAN, "-c", samples, *options, "--print", "--json", path)
    assert outcome.status == 0, outcome.err
    result = json.loads(path.read_text())
    mlp, cnn = result["networks"]
    assert (mlp["name"], mlp["inferences"], mlp["deadline"]) == ("digits_mlp", 2, 900000)
    assert (cnn["name"], cnn["priority"], cnn["arrival"]) == ("digits_cnn", 2.5, 10)
    plan = result["plan"]
    assert plan["memory"] == {"latency": 60, "bytes_per_cycle": 4}
    assert (plan["scheduler"], plan["objective"], plan["costs"]) == ("dp", "weighted_completion", "predicted")
    tasks = [
        (slot["network"], task["inference"], task["operation"])
        for bundle in plan["bundles"]
        for slot in bundle["slots"]
        for task in slot["tasks"]
    ]
    assert len(tasks) == len(set(tasks))
    for inference in range(2):
        operations = [operation for job, index, operation in tasks if (job, index) == ("digits_mlp", inference)]
        assert operations == ["linear1", "linear2", "classifier"]
    assert all(row["start"] < row["end"] <= result["predicted_cycles"] for row in result["networks"])
    lines = outcome.out.splitlines()
    assert sum(line.startswith("bundle ") for line in lines) == len(plan["bundles"])
    assert any("linear2 A4W4 (inference 1)" in line for line in lines)
    assert any("stay on chip" in line for line in lines)
    assert not any("LANE" in line or line.endswith("end") for line in lines)


@pytest.mark.parametrize("scheduler", ["dp", "greedy", "serial", "native"])
def test_schedulers(tessera: Command, samples: Path, tmp_path: Path, scheduler: str) -> None:
    """Every scheduler makes a plan that can be lowered."""
    path = tmp_path / "plan.json"
    assert tessera(*PLAN, "-c", samples, "--scheduler", scheduler, "-o", path).status == 0
    assert json.loads(path.read_text())["scheduler"] == scheduler


def test_one_network(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """One network is compiled as ever; asked for a plan, it is planned."""
    path = tmp_path / "plan.json"
    outcome = tessera("plan", MLP, "-c", samples, "--npu", "tiny", "--print")
    assert "program digits_mlp for tiny" in outcome.out
    outcome = tessera("plan", MLP, "-c", samples, "--npu", "tiny", "-o", path, "--print", "--verbose")
    assert outcome.status == 0, outcome.err
    assert "program of a plan for tiny" in outcome.out
    assert [network["name"] for network in json.loads(path.read_text())["networks"]] == ["digits_mlp"]


def test_one_file_twice(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """A network that is given twice has two names, which options take."""
    path = tmp_path / "plan.json"
    common = ("plan", MLP, MLP, "--npu", "tiny", "-c", samples, "-o", path)
    outcome = tessera(*common, "--priority", "digits_mlp-2=3")
    assert outcome.status == 0, outcome.err
    assert "is named digits_mlp-2, because there is another network digits_mlp" in outcome.out
    networks = {network["name"]: network for network in json.loads(path.read_text())["networks"]}
    assert networks.keys() == {"digits_mlp", "digits_mlp-2"}
    assert networks["digits_mlp-2"]["priority"] == 3


WRONG_PLANS: dict[str, tuple[list[object], str]] = {
    "no such scheduler": (["--scheduler", "best"], r"--scheduler best.*dp, greedy, serial, native"),
    "priority of no network": (["--priority", "other=2"], r"--priority other=2.*no network 'other'.*digits_mlp"),
    "priority without a name": (["--priority", "2"], r"--priority '2' has no name; write NAME=2"),
    "priority that is no number": (["--priority", "digits_cnn=high"], r"'high' is not a number"),
    "priority below 0": (["--priority", "digits_cnn=-1"], r"'digits_cnn' has the priority -1.*positive"),
    "priority beyond all": (["--priority", "digits_cnn=inf"], r"'digits_cnn' has the priority inf"),
    "priority given twice": (["--priority", "digits_cnn=1", "--priority", "digits_cnn=2"], r"there is another one"),
    "deadline in fractions": (["--deadline", "digits_cnn=1.5"], r"'1\.5' is not a whole number of cycles"),
    "deadline before arrival": (
        ["--deadline", "digits_cnn=100", "--arrival", "digits_cnn=200"],
        r"deadline at cycle 100, but arrives at 200",
    ),
    "deadline that cannot be met": (["--deadline", "digits_cnn=3"], r"cannot meet its deadline at cycle 3"),
    "arrival in the past": (["--arrival", "digits_mlp=-5"], r"arrives at cycle -5"),
    "no inferences": (["--inferences", "digits_mlp=0"], r"is to run 0 times; give at least 1"),
    "too many inferences": (["--inferences", "digits_mlp=1000000"], r"have 3,000,00\d operations.*at most 10,000"),
    "more than the bus": (["--bandwidth", 1000], r"--bandwidth 1000.*from 1/256 to"),
    "no bandwidth": (["--bandwidth", 0], r"--bandwidth 0"),
    "no such fault": (["--fault", "heat=limit"], r"there is no fault 'heat'; take one of overflow, underflow"),
    "rule for no operation": (["--fault", "digits_mlp:conv9:overflow=limit"], r"rules for 'conv9', but no such"),
}


@pytest.mark.parametrize("case", WRONG_PLANS)
def test_wrong_plans(tessera: Command, samples: Path, tmp_path: Path, case: str) -> None:
    """Options that make no sense are refused, and no file is written."""
    arguments, sentence = WRONG_PLANS[case]
    before = sorted(tmp_path.iterdir())
    outputs = ("-o", tmp_path / "plan.json", "--json", tmp_path / "result.json")
    refused(tessera(*PLAN, "-c", samples, *outputs, *arguments), sentence)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("option", ["-o", "--json"])
def test_samples_are_not_overwritten(tessera: Command, samples: Path, option: str) -> None:
    """What the ranges come from is read, so nothing is written there."""
    before = samples.read_bytes()
    refused(tessera(*PLAN, "-c", samples, option, samples), r"cannot write .*samples\.npz: the command needs that file")
    assert samples.read_bytes() == before


@pytest.mark.parametrize("bandwidth", [1 / 256, 0.005])
def test_slowest_memory(tessera: Command, samples: Path, bandwidth: float) -> None:
    """Every bandwidth that is offered can be planned with."""
    outcome = tessera(*PLAN, "-c", samples, "--bandwidth", bandwidth)
    assert outcome.status == 0, outcome.err


def test_too_many_networks(tessera: Command, samples: Path) -> None:
    """More networks than the machine has contexts."""
    refused(tessera("plan", *[MLP] * 5, "--npu", "tiny", "-c", samples), r"5 networks.*4 contexts.*at most 4")


Change = Callable[[dict[str, Any]], object]

FOREIGN_PLANS: dict[str, tuple[Change, list[object], str]] = {
    "other version": (
        lambda plan: plan.update(version="0.0.1-x"),
        [],
        r"made by version 0\.0\.1-x.*plan again with tessera plan",
    ),
    "other configuration": (
        lambda plan: plan.update(configuration="huge-1", npu="huge"),
        [],
        r"made for configuration 'huge' \(huge-1\), not for 'tiny'.*--npu",
    ),
    "other networks": (
        lambda plan: plan["networks"].pop(),
        [],
        r"is a plan for the networks digits_mlp, not for digits_mlp, digits_cnn",
    ),
    "changed network": (lambda plan: None, ["-w", 8], r"network 'digits_mlp' has changed since"),
    "other format": (lambda plan: plan.update(io_format="fp16"), [], r"in fp16; give --io-format fp16"),
    "a task left out": (
        lambda plan: plan["bundles"][-1]["slots"][0]["tasks"].pop(),
        [],
        r".",
    ),
    "an operation twice": (
        lambda plan: plan["bundles"].append(plan["bundles"][0]),
        [],
        r"bundle \d+.*operation",
    ),
    "lanes that are not there": (
        lambda plan: plan["bundles"][0]["slots"][0].update(lanes=[4, 5]),
        [],
        r"bundle 0.*lane",
    ),
    "a network that arrives later": (
        lambda plan: plan["networks"][-1].update(arrival=20),
        [],
        r"network 'digits_cnn' arrives at cycle 20, but a run begins with all networks",
    ),
    "a rule for no operation": (
        lambda plan: plan["networks"][0]["faults"].update(operations={"conv9": {}}),
        [],
        r"there are fault rules for 'conv9', but no such operation",
    ),
    "a rule for no fault": (
        lambda plan: plan["networks"][0]["faults"]["rules"].update(heat={"action": "limit"}),
        [],
        r"plan\.json cannot be used: there is no fault 'heat'; take one of",
    ),
    "a fault rule beside it": (lambda plan: None, ["--fault", "saturation=limit"], r"--fault does nothing beside"),
    "endless inferences": (
        lambda plan: plan["networks"][0].update(inferences=10**9),
        [],
        r"operations.*at most 10,000",
    ),
    "no plan": (lambda plan: plan.pop("bundles"), [], r"is no plan that this version reads.*tessera plan --output"),
    "a scheduler beside it": (lambda plan: None, ["--scheduler", "dp"], r"--scheduler does nothing beside --plan"),
}


@pytest.mark.parametrize("case", FOREIGN_PLANS)
def test_foreign_plans(tessera: Command, samples: Path, stored: Path, tmp_path: Path, case: str) -> None:
    """A plan for something else is refused before anything starts."""
    change, arguments, sentence = FOREIGN_PLANS[case]
    plan = json.loads(stored.read_text())
    change(plan)
    stored.write_text(json.dumps(plan))
    before = sorted(tmp_path.iterdir())
    run = ("run", MLP, CNN, "--npu", "tiny", "-a", 4, "-w", 4, "-c", samples, "-i", samples)
    refused(tessera(*run, "--plan", stored, "--json", tmp_path / "run.json", *arguments), sentence)
    assert sorted(tmp_path.iterdir()) == before


def test_fault_rules_in_plans(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """The plan file and the printed plan have every rule, and a file without rules has the defaults."""
    path = tmp_path / "plan.json"
    rules = ("--fault", "saturation=renormalise,above=0.5,attempts=2", "--fault", "digits_cnn:conv1:overflow=retry")
    outcome = tessera(*PLAN, "-c", samples, *rules, "--print", "-o", path)
    assert outcome.status == 0, outcome.err
    values = json.loads(path.read_text())
    mlp, cnn = (network["faults"] for network in values["networks"])
    assert mlp["rules"]["saturation"] == {"action": "renormalise", "above": 0.5, "attempts": 2}
    assert mlp["rules"]["bus error"] == {"action": "retry", "attempts": 1}
    assert (mlp["operations"], list(cnn["operations"])) == ({}, ["conv1"])
    assert "faults in digits_mlp: overflow: stop network; underflow: limit; saturation: renormalise" in outcome.out
    assert "faults in digits_cnn.conv1: overflow: retry (at most 1)" in outcome.out
    for network in values["networks"]:
        del network["faults"]
    path.write_text(json.dumps(values | {"schema": 1}))
    assert all(network.faults == DEFAULT_POLICY for network in read_plan(path)[0].networks)


@pytest.mark.cosim
def test_a_run_does_what_the_rules_say(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Inputs beyond the calibrated range: one network is repeated with larger scales, the other one fails alone."""
    small, plan, path = tmp_path / "small.npz", tmp_path / "plan.json", tmp_path / "run.json"
    inputs = np.random.default_rng(5).random((2, 1, 8, 8), np.float32)
    np.savez(small, input=0.3 * inputs)
    np.savez(samples, input=inputs, labels=np.zeros(2, np.int64))
    rules = ("--fault", "digits_mlp:saturation=renormalise", "--fault", "digits_cnn:saturation=stop-network")
    assert tessera(*PLAN, "-c", small, *rules, "-o", plan).status == 0
    run = ("run", MLP, CNN, "--npu", "tiny", "-a", 4, "-w", 4, "-c", small, "-i", samples, "--plan", plan)
    outcome = tessera(*run, "--json", path)
    assert outcome.status == 1
    assert "samples without a result, as the fault rules say: digits_cnn (2 samples)" in outcome.err
    mlp, cnn = json.loads(path.read_text())["networks"]
    assert mlp["bit_exact"] and not mlp["failed"] and mlp["answers"]
    assert all(answer["network"].endswith("doubled") for answer in mlp["answers"])
    assert "renormalise, it runs again" in mlp["answers"][0]["reasons"][0]
    assert cnn["failed"] == [0, 1] and cnn["accuracy"] == 0
    assert all("saturation of" in answer["reasons"][0] for answer in cnn["answers"])


def test_samples_that_are_too_few(tessera: Command, samples: Path) -> None:
    """A network needs a sample for each of its inferences."""
    run = ("run", MLP, CNN, "--npu", "tiny", "-c", samples, "-i", samples, "--costs", "predicted")
    refused(tessera(*run, "--inferences", "digits_cnn=7"), r"'digits_cnn' runs 7 times in the plan, but has 6 samples")


def test_report_of_a_plan(tessera: Command, stored: Path, tmp_path: Path) -> None:
    """A page and a trace of a plan alone."""
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    totals = tmp_path / "totals.json"
    outcome = tessera("report", stored, "-o", page, "--trace", trace, "--json", totals)
    assert outcome.status == 0, outcome.err
    plan, found = json.loads(stored.read_text()), json.loads(totals.read_text())
    assert found["planned"]["cycles"] == plan["timelines"]["planned"]["cycles"]
    assert {network["name"] for network in found["planned"]["networks"]} == {"digits_mlp", "digits_cnn"}
    assert page.read_text().startswith("<!DOCTYPE html>")
    processes = {event["pid"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert processes == {1}


def test_reports_that_cannot_be(tessera: Command, samples: Path, stored: Path, tmp_path: Path) -> None:
    """Files that are no plans, or of different plans, are refused, and no page is written."""
    page = tmp_path / "page.html"
    other = tmp_path / "other.json"
    assert tessera(*PLAN, "-c", samples, "--scheduler", "native", "-o", other).status == 0
    refused(tessera("report", stored, other, "-o", page), r"other\.json is of another plan than .*plan\.json")
    refused(tessera("report", tmp_path / "none.json", "-o", page), r"there is no file .*none\.json")
    refused(tessera("report", samples, "-o", page), r"samples\.npz is neither a plan nor the summary")
    other.write_text('{"networks": []}')
    refused(tessera("report", other, "-o", page), r"other\.json has no timelines of a plan")
    other.write_text('{"timelines": {"planned": {"cycles": "x"}}}')
    refused(tessera("report", other, "-o", page), r"neither a plan nor the summary")
    refused(tessera("report", stored, "-o", stored), r"cannot write .*plan\.json")
    assert not page.exists()


DAMAGES: dict[str, Change] = {
    "text for a priority": lambda plan: plan["networks"][0].update(priority="x"),
    "a number for a name": lambda plan: plan["networks"][0].update(name=1.5),
    "a list for an operation": lambda plan: plan["bundles"][0]["slots"][0]["tasks"][0].update(operation=[]),
    "an endless bundle": lambda plan: plan["bundles"][0].update(end=float("inf")),
    "a slot without tasks": lambda plan: plan["bundles"][0]["slots"][0].update(tasks=[]),
    "no latency": lambda plan: plan["memory"].update(latency=None),
    "a bandwidth of 0": lambda plan: plan["memory"].update(bytes_per_cycle=0),
    "half a surrogate": lambda plan: plan.update(npu="\ud800"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_plans(tessera: Command, samples: Path, stored: Path, tmp_path: Path, case: str) -> None:
    """Neither a run nor a report takes a plan whose values are of another kind."""
    plan = json.loads(stored.read_text())
    DAMAGES[case](plan)
    stored.write_text(json.dumps(plan))
    run = ("run", MLP, CNN, "--npu", "tiny", "-a", 4, "-w", 4, "-c", samples, "-i", samples)
    refused(tessera(*run, "--plan", stored), r"is no plan that this version reads")
    page = tmp_path / "page.html"
    refused(tessera("report", stored, "-o", page), r"is neither a plan nor the summary")
    assert not page.exists()


DAMAGED_TIMELINES: dict[str, Change] = {
    "none": lambda lines: lines.clear(),
    "text for a cycle": lambda lines: lines["planned"]["tasks"][0].__setitem__(8, "x"),
    "work behind the end": lambda lines: lines["planned"]["transfers"][0].__setitem__(1, 10**9),
    "work of no task": lambda lines: lines["planned"]["lanes"][0][0].__setitem__(2, -1),
    "a task of another network": lambda lines: lines["planned"]["tasks"][0].__setitem__(0, "other"),
    "bytes of another network": lambda lines: lines["planned"]["transfers"][0].__setitem__(2, "other"),
}


@pytest.mark.parametrize("case", DAMAGED_TIMELINES)
def test_damaged_timelines(tessera: Command, stored: Path, tmp_path: Path, case: str) -> None:
    """No page is made of times that cannot be."""
    plan, page = json.loads(stored.read_text()), tmp_path / "page.html"
    DAMAGED_TIMELINES[case](plan["timelines"])
    stored.write_text(json.dumps(plan))
    refused(tessera("report", stored, "-o", page), r"is neither a plan nor the summary")
    assert not page.exists()


DAMAGED_ROWS: dict[str, Change] = {
    "none": lambda run: run.pop("networks"),
    "one without a name": lambda run: run["networks"][0].pop("name"),
    "one of another network": lambda run: run["networks"][0].update(name="other"),
    "text for a row": lambda run: run["networks"].__setitem__(0, "row"),
    "a row too few": lambda run: run["networks"].pop(),
    "no comparison": lambda run: run["networks"][0].pop("bit_exact"),
    "text for an accuracy": lambda run: run["networks"][0].update(accuracy="high"),
    "more than all right": lambda run: run["networks"][0].update(accuracy=2.0),
}


@pytest.mark.parametrize("case", DAMAGED_ROWS)
def test_damaged_runs(tessera: Command, stored: Path, tmp_path: Path, case: str) -> None:
    """The summary of a run whose rows are of another kind makes no page."""
    plan, run, page = json.loads(stored.read_text()), tmp_path / "run.json", tmp_path / "page.html"
    summary: dict[str, Any] = {"plan": plan, "timelines": {"measured": plan["timelines"]["planned"]}}
    summary["networks"] = [{"name": row["name"], "bit_exact": True, "accuracy": 0.5} for row in plan["networks"]]
    run.write_text(json.dumps(summary))
    assert tessera("report", run, "-o", page).status == 0
    page.unlink()
    DAMAGED_ROWS[case](summary)
    run.write_text(json.dumps(summary))
    refused(tessera("report", run, "-o", page), r"is neither a plan nor the summary")
    assert not page.exists()


def test_standing_files_are_not_overwritten(
    tessera: Command, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the configuration nor the profile database, wherever it is, is written over by a result."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    npu = tmp_path / "own.toml"
    npu.write_text(SMALL_NPU)
    database = tmp_path / "tessera" / "profile.sqlite"
    plan = ("plan", MLP, "--npu", npu, "-c", samples)
    run = ("run", MLP, "--npu", npu, "-c", samples, "-i", samples)
    for option in ("-o", "--json"):
        refused(tessera(*plan, option, npu), r"cannot write .*own\.toml: the command needs that file")
        refused(tessera(*plan, option, database), r"cannot write .*profile\.sqlite: the command needs that file")
    for output in (npu, database, samples):
        refused(tessera(*run, "--json", output), r"cannot write .*: the command needs that file")
    for output in (npu, database):
        refused(tessera(*run, "--waves", output), r"cannot write .*: the command needs that file")
    refused(tessera("profile", MLP, "--npu", npu, "-c", samples, "--json", npu), r"the command needs that file")
    refused(tessera("verilog", "--npu", npu, "-o", npu), r"the command needs that file")
    refused(tessera("quantize", MLP, "--npu", npu, "-c", samples, "-o", npu), r"the command needs that file")


@pytest.mark.cosim
def test_run_and_report(tessera: Command, samples: Path, stored: Path, tmp_path: Path) -> None:
    """Two networks side by side on the RTL: bit-exact, with the plan's bundles, and a page with both timelines."""
    path, page = tmp_path / "run.json", tmp_path / "page.html"
    run = ("run", MLP, CNN, "--npu", "tiny", "-a", 4, "-w", 4, "-c", samples, "-i", samples, "-n", 2)
    outcome = tessera(*run, "--plan", stored, "--json", path)
    assert outcome.status == 0, outcome.err
    summary = json.loads(path.read_text())
    assert summary.keys() >= RUN_KEYS
    for network in summary["networks"]:
        assert network.keys() >= NETWORK_KEYS | {"accuracy"}
        assert (network["bit_exact"], network["samples"]) == (True, 2)
        assert network["accuracy"] == network["golden_accuracy"]
    assert summary["plan_cycles"] == pytest.approx(summary["predicted_cycles"], rel=0.1)
    plan = json.loads(stored.read_text())
    assert len(summary["bundles"]) == len(plan["bundles"])
    for found, planned in zip(summary["bundles"], plan["bundles"], strict=True):
        tasks = [
            (slot["network"], task["operation"], slot["lanes"]) for slot in planned["slots"] for task in slot["tasks"]
        ]
        assert [(slot["network"], slot["op"], slot["lanes"]) for slot in found["slots"]] == tasks
        assert all(slot.keys() >= SLOT_KEYS for slot in found["slots"])
        assert 0 <= found["start"] < found["end"] <= summary["plan_cycles"]
    outcome = tessera("report", stored, path, "-o", page)
    assert outcome.status == 0, outcome.err
    assert page.read_text().count("bit-exact") == 2


@pytest.mark.cosim
def test_more_networks_than_contexts(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Five networks run as two plans, the most urgent in the first; deadlines have no common clock."""
    path = tmp_path / "run.json"
    run = ("run", *[MLP] * 5, "--npu", "tiny", "-a", 4, "-w", 4, "-c", samples, "-n", 1, "--costs", "predicted")
    inputs = [f"digits_mlp-{number}={samples}" for number in range(2, 6)]
    arguments = ("-i", samples, *(part for text in inputs for part in ("-i", text)), "--priority", "digits_mlp-5=3")
    refused(tessera(*run, *arguments, "--deadline", "digits_mlp=9000"), r"networks beyond 4 are successive plans")
    outcome = tessera(*run, *arguments, "--json", path)
    assert outcome.status == 0, outcome.err
    summary = json.loads(path.read_text())
    rows = {row["name"]: row for row in summary["networks"]}
    assert len(rows) == 5 and all(row["bit_exact"] for row in rows.values())
    assert [rows[name]["plan"] for name in ("digits_mlp-5", "digits_mlp", "digits_mlp-4")] == [0, 0, 1]
    assert summary["plan_cycles"] == sum(each["plan_cycles"] for each in summary["plans"])
    assert 0 < summary["lane_utilization"] < 1


@pytest.mark.cosim
def test_run_plans_by_itself(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Without a plan file the networks are planned in passing, here on a slow memory, one of them twice as often."""
    path = tmp_path / "run.json"
    twice = tmp_path / "twice.npz"
    np.savez(twice, input=np.random.default_rng(3).random((2, 1, 8, 8), np.float32))
    run = (
        "run",
        MLP,
        MLP,
        "--npu",
        "tiny",
        "-a",
        4,
        "-w",
        4,
        "-c",
        samples,
        "-i",
        samples,
        "-i",
        f"digits_mlp-2={twice}",
    )
    outcome = tessera(*run, "--inferences", "digits_mlp=3", "--bandwidth", 2, "--costs", "predicted", "--json", path)
    assert outcome.status == 0, outcome.err
    summary = json.loads(path.read_text())
    assert [row["samples"] for row in summary["networks"]] == [6, 2]
    assert all(row["bit_exact"] for row in summary["networks"])
    assert summary["plan"]["memory"]["bytes_per_cycle"] == 2
    assert summary["plan_cycles"] == pytest.approx(summary["predicted_cycles"], rel=0.1)
