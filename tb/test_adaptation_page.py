"""The page, the trace and the command of adaptive runs, without a simulator."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import Command, tessera
from test_report import Page

from tessera.firmware.adaptation import Decision
from tessera.firmware.adaptation.report import AdaptationReport
from tessera.firmware.adaptation.timeline import AdaptationTimeline, BandwidthWindow, LayerTime
from tessera.firmware.adaptation.trace import adaptation_events

__all__ = ["tessera"]  # a fixture

MODELS = Path(__file__).resolve().parent.parent / "models"
LOWERED = Decision(1100, "lowered", "others leave <20%>", ("conv",), 16, 8)

TIMELINE = AdaptationTimeline(
    network="net",
    policy="sensitivity",
    bus_bytes=16.0,
    target_cycles=900,
    cycles=2000,
    layers=("conv", "fc"),
    inferences=((0, 800), (1000, 2000)),
    times=(
        LayerTime("conv", 16, 3, 10, 500),
        LayerTime("fc", 16, 3, 500, 800),
        LayerTime("conv", 8, 0, 1200, 1600),
        LayerTime("fc", 16, 0, 1600, 2000),
    ),
    windows=tuple(
        BandwidthWindow(256 * n, 256 * (n + 1), 16.0 if n < 4 else 3.2, 2.0, 3 if n < 4 else 0) for n in range(7)
    ),
    decisions=(
        Decision(0, "started", "policy sensitivity"),
        LOWERED,
        Decision(1700, "restored", "a new inference has its whole time yet", ("conv",), 8, 16),
        Decision(2000, "finished", "it took 1,000 cycles"),
    ),
)
NETWORK = {"name": "net", "bit_exact": True, "accuracy": 0.5}


def summary() -> dict[str, object]:
    return {"npu": "edge", "networks": [NETWORK], "adaptation": TIMELINE.to_json()}


def test_timelines_survive_json():
    assert AdaptationTimeline.from_json(json.loads(json.dumps(TIMELINE.to_json()))) == TIMELINE


def test_the_page_shows_bandwidth_section_and_depths():
    html = AdaptationReport(TIMELINE, "edge", NETWORK).html()
    page = Page(html)
    looks = [str(attributes.get("class", "")) for tag, attributes in page.elements if tag == "rect"]
    for look in {look.removeprefix("box ") for look in looks if look.startswith("box ")}:
        assert re.search(rf"\.{look}\b[^}}]*{{", html), f"{look} has no colour"
    assert looks.count("box depth16") == 2  # of the layer that stays, and of the other one until it is lowered
    assert looks.count("box depth8") == 1
    assert looks.count("box section3") == looks.count("box section0") == 1
    assert looks.count("box inference") == looks.count("box late") == 1
    assert looks.count("box lowered") == looks.count("box restored") == 1
    tips = page.texts["title"]
    assert "conv: 8 bits\n1,200 to 2,000, ran 1,200 to 1,600\nsection 0 at first" in tips
    assert "section 0\n1,024 to 1,792: 768 cycles" in tips
    assert any(tip.startswith("inference 1") and tip.endswith("more than the target of 900") for tip in tips)


def test_the_page_tells_what_is_not_markup():
    assert "others leave &lt;20%&gt;" in AdaptationReport(TIMELINE, "edge", NETWORK).html()


def test_a_page_without_windows_or_decisions():
    bare = replace(TIMELINE, windows=(), decisions=(), target_cycles=None)
    html = AdaptationReport(bare, "tiny", {"bit_exact": False}).html()
    Page(html)
    assert "DIFFERENT" in html and "Nothing was changed." in html


def test_the_trace_has_counters():
    events = adaptation_events(TIMELINE)["traceEvents"]
    counters = {name: [e for e in events if e["ph"] == "C" and e["name"] == name] for name in ("section", "depth")}
    assert [event["args"]["bits"] for event in counters["depth"]] == [16, 16, 8, 16]
    assert [event["args"]["section"] for event in counters["section"]] == [3, 3, 3, 3, 0, 0, 0]
    decisions = [event["name"] for event in events if event["ph"] == "i"]
    assert decisions == ["started", "lowered conv", "restored conv", "finished"]


def test_report_draws_the_summary(tessera: Command, tmp_path: Path):
    file, page, trace = tmp_path / "run.json", tmp_path / "page.html", tmp_path / "trace.json"
    file.write_text(json.dumps(summary()), encoding="utf-8")
    outcome = tessera("report", file, "--output", page, "--trace", trace)
    assert outcome.status == 0, outcome.err
    assert "<title>Tessera run: net</title>" in page.read_text(encoding="utf-8")
    assert json.loads(trace.read_text(encoding="utf-8")) == adaptation_events(TIMELINE)


@pytest.mark.parametrize("damage", ["times", "windows", "networks", "layers"])
def test_damaged_summaries_are_refused(tessera: Command, tmp_path: Path, damage: str):
    values = summary()
    part = values if damage == "networks" else values["adaptation"]
    part[damage] = [["x"]]
    file = tmp_path / "run.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    outcome = tessera("report", file, "--output", tmp_path / "page.html")
    assert outcome.status == 2
    assert outcome.err.startswith(f"tessera: {file} is no summary of an adaptive run that this version reads")


def test_summaries_are_drawn_alone(tessera: Command, tmp_path: Path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        file.write_text(json.dumps(summary()), encoding="utf-8")
    outcome = tessera("report", *files, "--output", tmp_path / "page.html")
    assert outcome.status == 2
    assert "is the summary of an adaptive run, which is drawn alone" in outcome.err


REFUSED = {
    "thresholds out of order": (["--thresholds", "1/4,1/2"], "the thresholds 0.25, 0.5 are out of order"),
    "no threshold": (["--thresholds", "high"], "--thresholds high: 'high' is no number"),
    "threshold beyond all numbers": (["--thresholds", "1e400"], "--thresholds 1e400: '1e400' is no number"),
    "too many thresholds": (["--thresholds", "0.8,0.6,0.4,0.2"], "there are 4 thresholds, which make 5 sections"),
    "window of zero": (["--window", "0"], "the monitor's window must be a power of two"),
    "window between powers": (["--window", "1000"], "the monitor's window must be a power of two"),
    "period of zero": (["--period-cycles", "0"], "period_cycles must be at least 1, not 0"),
    "polls that never come": (["--poll-cycles", "0"], "poll_cycles must be at least 1, not 0"),
    "polls too far apart": (["--poll-cycles", "5000000000"], "poll_cycles must be at most 4294967295, not 5000000000"),
    "hysteresis above all": (["--hysteresis", "0.3"], "the hysteresis is a share of the bus, from 0 to less than what"),
    "margin beyond the target": (["--margin", "2"], "margin is a share, from 0 to 1, not 2"),
    "margin that is no number": (["--margin", "nan"], "margin is a share, from 0 to 1, not nan"),
    "patience of nothing": (["--raise-after", "0"], "raise_after must be at least 1, not 0"),
    "foresight into the past": (["--foresight", "-1"], "foresight must be at least 0, not -1"),
    "saturation above one": (["--saturation-share", "5"], "saturation_share is a share, from 0 to 1, not 5"),
    "depths that rise": (["--section-depths", "4,6,8,16"], "the depths of the sections, 4, 6, 8, 16, must fall"),
    "depths for other sections": (["--section-depths", "16,4"], "3 thresholds make 4 sections, but there are 2 depths"),
    "no depths": (["--section-depths", "16,x"], "--section-depths 16,x: 'x' is no depth in bits"),
    "depth that does not exist": (["--depth", "5"], "the activation depth 5 does not exist"),
    "sampling that does not exist": (["--sampling", "never"], "'never' is not one of 'layer', 'period', 'run'"),
    "metric that does not exist": (["--limit", "heat=1"], "--limit heat=1: there is no metric 'heat'"),
    "limit that is no number": (["--limit", "stalls=much"], "--limit stalls=much: write numbers"),
    "two limits of a metric": (2 * ["--limit", "stalls=0.5"], "there is another one for the metric 'stalls'"),
    "log over the load": (["--load", "load.csv", "--log", "load.csv"], "cannot write load.csv: the command needs"),
    "release above the threshold": (["--limit", "stalls=0.3:0.5"], "the metric 'stalls' is released below 0.5"),
    "load above the bus": (["--load", "150%"], "--load 150%: the share of a step of a load profile is from 0 to 1"),
    "load that is not there": (["--load", "none.txt"], "--load none.txt: there is no file none.txt"),
    "target of nothing": (["--target", "0"], "the latency target must be 1 to 4294967295 cycles, not 0"),
    "float network": ([], "is a float network; quantise it with tessera quantize --adaptive DEPTHS first"),
}


@pytest.mark.parametrize(("options", "sentence"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_refused_before_anything_runs(tessera: Command, tmp_path: Path, options: list[str], sentence: str):
    samples = tmp_path / "samples.npz"
    samples.write_bytes(b"")
    outcome = tessera("adapt", MODELS / "digits_mlp.onnx", "--input", samples, *options)
    assert outcome.status == 2
    assert sentence in outcome.err


def test_a_load_profile_with_a_damaged_line(tessera: Command, tmp_path: Path):
    samples, load = tmp_path / "samples.npz", tmp_path / "load.txt"
    samples.write_bytes(b"")
    load.write_text("1000,0.5\n2000,half\n", encoding="utf-8")
    outcome = tessera("adapt", MODELS / "digits_mlp.onnx", "--input", samples, "--load", load)
    assert outcome.status == 2
    assert f"--load {load}: {load}, line 2:" in outcome.err
