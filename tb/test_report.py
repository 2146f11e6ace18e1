"""The page and the trace of a plan."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from test_plan_timeline import TINY, case_of

from tessera.compiler.planning import Objective, TaskId
from tessera.compiler.planning.operation_key import configuration_key
from tessera.compiler.planning.plan_file import StoredNetwork, StoredPlan, current_version, fingerprint
from tessera.firmware.plans.report import Report
from tessera.firmware.plans.timeline import PlanTimeline, predicted_timeline
from tessera.firmware.plans.trace import trace_events
from tessera.sim.cycles import Memory

VOID = {"meta", "input"}
"""Elements of the page that have no end."""

LEFT_OPEN = {"td", "th"}
"""Elements that the next one ends."""


class Page(HTMLParser):
    """What is on a page: every element with its attributes, and the texts of some; checks the nesting."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"title": [], "text": [], "h1": []}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in LEFT_OPEN and self._open[-1] in LEFT_OPEN:
            self._open.pop()
        if tag not in VOID:
            self._open.append(tag)
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self._open[-1] in LEFT_OPEN and self._open[-1] != tag:
            self._open.pop()
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.texts.keys() & set(self._open):
            self.texts[tag][-1] += data

    def of(self, tag: str, look: str | None = None) -> list[dict[str, str | None]]:
        """Attributes of the elements of a kind, of all or of those that have a class."""
        own = [attributes for found, attributes in self.elements if found == tag]
        return [each for each in own if look is None or look in (each.get("class") or "").split(" ")]


def stored_plan(seed: int = 0, **network: Any) -> StoredPlan:
    """The plan of `case_of` as a plan file holds it."""
    case = case_of(seed)
    networks = tuple(
        StoredNetwork(name, f"{name}.onnx", fingerprint(own), 2, **network) for name, own in case.networks.items()
    )
    key = configuration_key(TINY)
    return StoredPlan(
        *(current_version(), key, "tiny", "integer", TINY.beat_bytes, Memory(), Objective.MAKESPAN, "predicted"),
        networks,
        case.plan,
    )


def slower(timeline: PlanTimeline, cycles: int) -> PlanTimeline:
    """The same, with idle cycles at its end."""
    return dataclasses.replace(timeline, cycles=timeline.cycles + cycles)


def test_page_needs_nothing_else() -> None:
    """No address, and nothing that would be loaded."""
    html = Report(stored_plan(), {"planned": predicted_timeline(case_of(0).program)}).html()
    for tag, attributes in Page(html).elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert not attributes.keys() & {"src", "href", "srcset", "data", "xlink:href"}, tag
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp|import\(", html)


def test_page_shows_all() -> None:
    """Every task of every timeline is drawn where it worked, within the picture, and every bundle is in the table."""
    predicted = predicted_timeline(case_of(0).program)
    timelines = {"planned": predicted, "measured": slower(predicted, 1000)}
    page = Page(Report(stored_plan(), timelines).html())
    assert len(page.of("svg", "panel")) == 2
    for box in page.of("svg"):
        if "x" in box and "width" in box:
            x, width = (float(str(box[side]).rstrip("%")) for side in ("x", "width"))
            assert x >= 0 and width >= 0
            assert x + width <= 100.01
    tips = "\n".join(page.texts["title"])
    for time in predicted.tasks:
        inference = f", inference {time.task.inference}" if time.task.inference else ""
        assert f"{time.task.job}: {time.task.operation}{inference}\n" in tips
        assert f"as a whole {time.start:,} to {time.end:,}: {time.cycles:,} cycles" in tips
    assert sum(tag == "tr" for tag, _ in page.elements) == 2 + len(stored_plan().networks) + len(
        case_of(0).plan.bundles
    )
    # The longer timeline fills the width, the other one its share of it.
    share = 100 * predicted.cycles / (predicted.cycles + 1000)
    ends = {float(str(own["width"]).rstrip("%")) for own in page.of("rect", "track")}
    assert sorted(ends) == pytest.approx([share, 100.0], abs=1e-3)


def test_result_and_deadline() -> None:
    """What a run found stands beside the plan."""
    predicted = predicted_timeline(case_of(0).program)
    rows = [{"name": "first", "bit_exact": True, "accuracy": 0.975}, {"name": "second", "bit_exact": False}]
    html = Report(stored_plan(deadline=10), {"measured": predicted}, rows).html()
    assert "bit-exact, 97.5% right" in html
    assert "DIFFERENT" in html
    assert html.count("10 missed") == 2
    assert "10,000,000 met" in Report(stored_plan(deadline=10_000_000), {"planned": predicted}).html()


@pytest.mark.parametrize(("late", "word"), [("planned", "met"), ("measured", "missed")])
def test_deadline_is_judged_by_the_measured_end(late: str, word: str) -> None:
    """Where a run says when a network ended, the prediction does not count."""
    early = predicted_timeline(case_of(0).program)
    deadline = max(early.job_end(job) for job in early.jobs)
    tasks = tuple(dataclasses.replace(time, end=time.end + deadline) for time in early.tasks)
    delayed = dataclasses.replace(slower(early, deadline), tasks=tasks)
    timelines = {"planned": early, "measured": early} | {late: delayed}
    html = Report(stored_plan(deadline=deadline), timelines).html()
    assert html.count(f"{deadline:,} {word}") == len(early.jobs)


def test_names_are_text() -> None:
    """A name is shown as it is, whatever it contains."""
    odd = '<b>"&x'
    stored, case = stored_plan(), case_of(0)

    def renamed(task: TaskId) -> TaskId:
        return dataclasses.replace(task, job=odd) if task.job == "first" else task

    predicted = predicted_timeline(case.program)
    tasks = tuple(dataclasses.replace(time, task=renamed(time.task)) for time in predicted.tasks)
    units = {
        name: tuple(
            tuple(dataclasses.replace(work, task=renamed(work.task)) for work in unit)
            for unit in getattr(predicted, name)
        )
        for name in ("lanes", "slices")
    }
    transfers = tuple(
        dataclasses.replace(each, job=odd if each.job == "first" else each.job) for each in predicted.transfers
    )
    bundles = tuple(
        dataclasses.replace(
            bundle,
            slots=tuple(dataclasses.replace(slot, tasks=tuple(map(renamed, slot.tasks))) for slot in bundle.slots),
        )
        for bundle in stored.plan.bundles
    )
    networks = (dataclasses.replace(stored.networks[0], name=odd), stored.networks[1])
    stored = dataclasses.replace(stored, networks=networks, plan=dataclasses.replace(stored.plan, bundles=bundles))
    timeline = dataclasses.replace(predicted, tasks=tasks, transfers=transfers, **units)
    page = Page(Report(stored, {"planned": timeline}).html())
    assert page.texts["h1"] == [f"{odd}second"]


def test_trace_keeps_the_format() -> None:
    """The fields that the Trace Event Format asks for, with events of a thread that do not overlap."""
    predicted = predicted_timeline(case_of(0).program)
    trace = json.loads(json.dumps(trace_events({"planned": predicted, "measured": slower(predicted, 1000)})))
    assert trace["displayTimeUnit"] in ("ms", "ns")
    kinds = {"M": {"name", "args"}, "X": {"name", "cat", "ts", "dur", "args"}, "C": {"name", "ts", "args"}}
    for event in trace["traceEvents"]:
        assert event.keys() == {"ph", "pid", "tid"} | kinds[event["ph"]]
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in trace["traceEvents"]
        if event["name"] == "thread_name"
    }
    expected = [*(f"lane {index}" for index in range(4)), "post-processing 0", "post-processing 1", "loads", "stores"]
    assert [name for (process, _), name in names.items() if process == 1] == expected
    assert len(names) == 2 * len(expected)
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    for thread in names:
        own = sorted(
            (event["ts"], event["ts"] + event["dur"]) for event in complete if (event["pid"], event["tid"]) == thread
        )
        assert own
        assert all(before[1] <= after[0] for before, after in pairwise(own)), names[thread]


def test_trace_counts_all_bytes() -> None:
    """The counter, over the time for which it has each value, is the traffic."""
    predicted = predicted_timeline(case_of(0).program)
    counters = [event for event in trace_events({"planned": predicted})["traceEvents"] if event["ph"] == "C"]
    total = sum(sum(before["args"].values()) * (after["ts"] - before["ts"]) for before, after in pairwise(counters))
    assert total == pytest.approx(predicted.dram_bytes(), rel=0.01)
    assert not any(counters[-1]["args"].values())
