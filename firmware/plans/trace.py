"""Timelines of plans as traces that Perfetto and Chrome's tracing view open.

The Trace Event Format: a process per timeline, a thread per lane, post-processing slice and direction of the DMA, a
complete event for everything that worked, and a counter for the bytes on the memory's bus. The format counts
microseconds; here one of them is a cycle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tessera.firmware.plans.text import depth_name
from tessera.firmware.plans.timeline import CODE, PlanTimeline, TransferWork, Work

COUNTER_WINDOWS = 500
"""Windows into which a plan is divided for the counter of DRAM bytes, about."""

_FIRST_LANE, _FIRST_SLICE, _LOADS, _STORES = 1, 101, 201, 202
"""Numbers of the threads."""


def trace_events(timelines: Mapping[str, PlanTimeline]) -> dict[str, Any]:
    """The trace of some timelines, by their names, as JSON values."""
    events: list[dict[str, Any]] = []
    for process, (name, timeline) in enumerate(timelines.items(), start=1):
        events += _metadata(process, name, timeline)
        events += _works(process, timeline, timeline.lanes, _FIRST_LANE, "lane")
        events += _works(process, timeline, timeline.slices, _FIRST_SLICE, "post-processing")
        events += [_transfer(process, each) for each in timeline.transfers if each.job != CODE]
        events += _counters(process, timeline)
    return trace_file(events)


def trace_file(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Events whose times are cycles, as the contents of a trace file."""
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"unit of time": "1 us is 1 cycle"}}


def _metadata(process: int, name: str, timeline: PlanTimeline) -> Iterator[dict[str, Any]]:
    threads = {_FIRST_LANE + index: f"lane {index}" for index in range(len(timeline.lanes))}
    threads |= {_FIRST_SLICE + index: f"post-processing {index}" for index in range(len(timeline.slices))}
    threads |= {_LOADS: "loads", _STORES: "stores"}
    yield {"ph": "M", "pid": process, "tid": 0, "name": "process_name", "args": {"name": name}}
    yield {"ph": "M", "pid": process, "tid": 0, "name": "process_sort_index", "args": {"sort_index": process}}
    for thread, label in threads.items():
        yield {"ph": "M", "pid": process, "tid": thread, "name": "thread_name", "args": {"name": label}}
        yield {"ph": "M", "pid": process, "tid": thread, "name": "thread_sort_index", "args": {"sort_index": thread}}


def _works(
    process: int, timeline: PlanTimeline, units: Sequence[Sequence[Work]], first: int, category: str
) -> Iterator[dict[str, Any]]:
    tasks = {time.task: time for time in timeline.tasks}
    for index, unit in enumerate(units):
        for work in unit:
            time = tasks[work.task]
            yield {
                "ph": "X",
                "pid": process,
                "tid": first + index,
                "ts": work.start,
                "dur": work.cycles,
                "cat": category,
                "name": f"{work.task.job}.{work.task.operation}",
                "args": {
                    "network": work.task.job,
                    "inference": work.task.inference,
                    "bundle": time.bundle,
                    "depths": depth_name(time),
                    "lanes": list(time.lanes),
                },
            }


def _transfer(process: int, transfer: TransferWork) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": process,
        "tid": _LOADS if transfer.read else _STORES,
        "ts": transfer.start,
        "dur": transfer.end - transfer.start,
        "cat": "dma",
        "name": f"{'load' if transfer.read else 'store'} {transfer.job}",
        "args": {"network": transfer.job, "bytes": transfer.bytes},
    }


def _counters(process: int, timeline: PlanTimeline) -> Iterator[dict[str, Any]]:
    """Bytes per cycle on the memory's bus, a value for each window, and 0 at the end."""
    window = max(1, -(-timeline.cycles // COUNTER_WINDOWS))
    bytes_of = timeline.dram_windows(window)
    count = len(bytes_of[CODE])
    for index in range(count + 1):
        values = {job or "code": round(own[index] / window, 3) if index < count else 0 for job, own in bytes_of.items()}
        common = {"ph": "C", "pid": process, "tid": 0, "name": "DRAM bytes per cycle"}
        yield {**common, "ts": index * window, "args": values}
