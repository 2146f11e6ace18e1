"""Runs of adaptive networks as traces for Perfetto and Chrome, in the format of `tessera.firmware.plans.trace`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tessera.firmware.adaptation.timeline import AdaptationTimeline
from tessera.firmware.plans.trace import trace_file

_INFERENCES, _LAYERS, _DECISIONS = 1, 2, 3
"""Numbers of the threads."""

_PROCESS = 1


def adaptation_events(timeline: AdaptationTimeline) -> dict[str, Any]:
    """The trace of a run as JSON values: threads of inferences, layers and decisions, counters of the bytes per cycle
    that others left and that the NPU moved, of the section, and of the depth of the layer that runs."""
    return trace_file([*_metadata(timeline), *_slices(timeline), *_marks(timeline), *_counters(timeline)])


def _metadata(timeline: AdaptationTimeline) -> Iterator[dict[str, Any]]:
    name = f"{timeline.network}, policy {timeline.policy}"
    yield {"ph": "M", "pid": _PROCESS, "tid": 0, "name": "process_name", "args": {"name": name}}
    for thread, label in ((_INFERENCES, "inferences"), (_LAYERS, "layers"), (_DECISIONS, "decisions")):
        yield {"ph": "M", "pid": _PROCESS, "tid": thread, "name": "thread_name", "args": {"name": label}}


def _slices(timeline: AdaptationTimeline) -> Iterator[dict[str, Any]]:
    for index, (start, end) in enumerate(timeline.inferences):
        yield _slice(_INFERENCES, start, end, f"inference {index}", {})
    for time in timeline.times:
        args = {"depth": time.depth, "section": time.section}
        yield _slice(_LAYERS, time.start, time.end, f"{time.layer} A{time.depth}", args)


def _slice(thread: int, start: int, end: int, name: str, args: dict[str, Any]) -> dict[str, Any]:
    common = {"ph": "X", "pid": _PROCESS, "tid": thread, "cat": "adaptation"}
    return {**common, "ts": start, "dur": end - start, "name": name, "args": args}


def _marks(timeline: AdaptationTimeline) -> Iterator[dict[str, Any]]:
    for decision in timeline.decisions:
        name = f"{decision.kind} {', '.join(decision.layers)}".strip()
        common = {"ph": "i", "s": "t", "pid": _PROCESS, "tid": _DECISIONS, "cat": "adaptation"}
        yield {**common, "ts": decision.cycle, "name": name, "args": decision.as_dict()}


def _counters(timeline: AdaptationTimeline) -> Iterator[dict[str, Any]]:
    common = {"ph": "C", "pid": _PROCESS, "tid": 0}
    for window in timeline.windows:
        rates = {"available": round(window.available, 3), "own": round(window.own, 3)}
        yield {**common, "ts": window.start, "name": "bytes per cycle", "args": rates}
        yield {**common, "ts": window.start, "name": "section", "args": {"section": window.section}}
    for time in timeline.times:
        yield {**common, "ts": time.start, "name": "depth", "args": {"bits": time.depth}}
