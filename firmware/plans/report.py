"""The page of a plan: lanes, slices and memory traffic over time, planned and measured, and tables of both.

One HTML file that needs nothing else; its pictures are described in `tessera.firmware.picture`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tessera.compiler.execution_plan import Bundle
from tessera.compiler.planning.plan_file import StoredPlan
from tessera.firmware.picture import AXIS_HEIGHT, GAP, Area, Box, Panel, Scale, Track, render, steps_path, ticks
from tessera.firmware.plans.text import depth_name
from tessera.firmware.plans.timeline import CODE, PlanTimeline, TaskTime, Work, within_bandwidth

COLOURS = 12
"""Networks with a colour of their own; more begin again."""

MERGED_SHARE = 1 / 4000
"""Share of the picture's width up to which a gap within a task is not drawn."""

DRAM_WINDOWS = 360
"""Windows of the picture of the memory traffic, about."""

LANE_HEIGHT, SLICE_HEIGHT, DRAM_HEIGHT = 26, 13, 72
"""Heights in pixels."""


@dataclass
class Report:
    """What a page is made of.

    Attributes
    ----------
    stored
        The plan.
    timelines
        ``"planned"``, ``"measured"``, or both in this order: tables of what came of networks are of the last one.
    networks
        What a run says of each network: rows of ``networks`` in its summary; empty without a run.
    """

    stored: StoredPlan
    timelines: Mapping[str, PlanTimeline]
    networks: Sequence[Mapping[str, Any]] = ()
    span: int = field(init=False)
    _scale: Scale = field(init=False)

    def __post_init__(self) -> None:
        self.span = max(1, *(timeline.cycles for timeline in self.timelines.values()))
        self._scale = Scale(self.span)

    def html(self) -> str:
        """The page."""
        return render(
            "plan_report.html",
            stored=self.stored,
            timelines=self.timelines,
            names=[network.name for network in self.stored.networks],
            looks=self._looks(),
            bits=sorted({time.activation_bits for each in self.timelines.values() for time in each.tasks}),
            panels=list(self._panels()),
            ticks=list(ticks(self.span)),
            totals=list(self._totals()),
            networks=list(self._network_rows()),
            bundles=list(self._bundle_rows()),
        )

    def _looks(self) -> dict[str, str]:
        """The class of each network's colour."""
        names = [network.name for network in self.stored.networks]
        return {name: f"n{index % COLOURS}" for index, name in enumerate(names)} | {CODE: "code"}

    # ------------------------------------------------------------------------------------------------------- pictures

    def _panels(self) -> Iterator[Panel]:
        for name, timeline in self.timelines.items():
            tracks, top = [], AXIS_HEIGHT
            for make, height in self._makers(timeline):
                tracks.append(make(top, height))
                top += height + GAP
            x, zoom = self._scale.x, self._scale.zoom
            bundles = tuple(
                Box(x(start), x(end - start), "", str(index), zoom(end - start), f"bundle {index}")
                for index, (start, end) in timeline.bundle_times().items()
            )
            yield Panel(name, top, x(timeline.cycles), tuple(tracks), bundles)

    def _makers(self, timeline: PlanTimeline) -> Iterator[tuple[Any, int]]:
        """For each track what makes it of its top and height, and its height."""
        tasks = {time.task: time for time in timeline.tasks}
        for index, works in enumerate(timeline.lanes):
            note = f"{1 - timeline.idle_cycles[index] / max(1, timeline.cycles):.0%}"
            boxes = tuple(self._boxes(works, tasks))
            yield self._track(f"lane {index}", note, boxes), LANE_HEIGHT
        for index, works in enumerate(timeline.slices):
            note = f"{sum(work.cycles for work in works) / max(1, timeline.cycles):.0%}"
            yield self._track(f"PPU {index}", note, tuple(self._boxes(works, tasks))), SLICE_HEIGHT
        yield self._dram(timeline), DRAM_HEIGHT

    @staticmethod
    def _track(label: str, note: str, boxes: tuple[Box, ...]) -> Any:
        return lambda top, height: Track(label, note, top, height, boxes)

    def _boxes(self, works: Sequence[Work], tasks: Mapping[Any, TaskTime]) -> Iterator[Box]:
        for start, end, busy, task in _merged(works, self.span * MERGED_SHARE):
            time = tasks[task]
            label = f"{task.operation} {depth_name(time)}"
            yield Box(
                self._scale.x(start),
                self._scale.x(end - start),
                f"{self._looks()[task.job]} a{time.activation_bits}",
                label,
                self._scale.zoom(end - start),
                _tip(time, start, end, busy),
            )

    def _dram(self, timeline: PlanTimeline) -> Any:
        window = max(1, -(-self.span // DRAM_WINDOWS))
        most = self.stored.memory.bytes_per_cycle or self.stored.bus_bytes
        moved = within_bandwidth(timeline.dram_windows(window), most * window)
        highest = max(np.sum(list(moved.values()), axis=0).max(), most * window)

        def make(top: int, height: int) -> Track:
            scale = (height - 4) / highest
            base = np.zeros(len(moved[CODE]))
            areas = []
            for job, own in moved.items():
                areas.append(Area(steps_path(base * scale, (base + own) * scale, height), self._looks()[job]))
                base = base + own
            limit = height - most * window * scale
            note = f"{timeline.dram_bytes() / max(1, timeline.cycles):.1f} B/cycle"
            tips = tuple(self._dram_tips(moved, window))
            return Track("DRAM", note, top, height, tips, tuple(areas), round(self.span / window * 1000), limit)

        return make

    def _dram_tips(self, moved: Mapping[str, np.ndarray], window: int) -> Iterator[Box]:
        for index in range(len(moved[CODE])):
            own = [f"{job or 'code'}: {values[index]:,.0f} bytes" for job, values in moved.items() if values[index]]
            if own:
                tip = "\n".join([f"cycles {index * window:,} to {(index + 1) * window:,}", *own])
                yield Box(self._scale.x(index * window), self._scale.x(window), "hit", "", 0, tip)

    # --------------------------------------------------------------------------------------------------------- tables

    def _totals(self) -> Iterator[dict[str, Any]]:
        """What is told in large figures: a title, and a value of each timeline."""

        def row(title: str, unit: str, values: Mapping[str, str]) -> dict[str, Any]:
            return {"title": title, "unit": unit, "values": values}

        each = self.timelines.items()
        yield row("Duration", "cycles", {name: f"{timeline.cycles:,}" for name, timeline in each})
        yield row("Lanes busy", "of all lane cycles", {name: f"{own.lane_utilization:.1%}" for name, own in each})
        yield row("Idle lanes", "lane cycles", {name: f"{sum(own.idle_cycles):,}" for name, own in each})
        yield row("DRAM read", "bytes", {name: f"{own.dram_bytes(read=True):,}" for name, own in each})
        yield row("DRAM written", "bytes", {name: f"{own.dram_bytes(read=False):,}" for name, own in each})

    def _network_rows(self) -> Iterator[dict[str, Any]]:
        found = {row["name"]: row for row in self.networks}
        latest = list(self.timelines.values())[-1]
        for network in self.stored.networks:
            ends = {name: timeline.job_end(network.name) for name, timeline in self.timelines.items()}
            yield {
                "network": network,
                "look": self._looks()[network.name],
                "ends": ends,
                "met": None if network.deadline is None else latest.job_end(network.name) <= network.deadline,
                "bytes": latest.dram_bytes(job=network.name),
                "lanes": _lane_cycles(latest, network.name),
                "run": found.get(network.name),
            }

    def _bundle_rows(self) -> Iterator[dict[str, Any]]:
        times = {name: timeline.bundle_times() for name, timeline in self.timelines.items()}
        depths = {time.task: depth_name(time) for own in self.timelines.values() for time in own.tasks}
        for index, bundle in enumerate(self.stored.plan.bundles):
            own = {name: found.get(index, (0, 0)) for name, found in times.items()}
            yield {"index": index, "times": own, "slots": list(self._slots(bundle, depths))}

    def _slots(self, bundle: Bundle, depths: Mapping[Any, str]) -> Iterator[dict[str, Any]]:
        for slot in bundle.slots:
            tasks = [f"{task.operation} {depths.get(task, '')}".strip() for task in slot.tasks]
            yield {"look": self._looks()[slot.job], "job": slot.job, "lanes": slot.lanes, "tasks": tasks}


def _merged(works: Sequence[Work], gap: float) -> Iterator[tuple[int, int, int, Any]]:
    """(start, end, cycles of work, task) of works that follow one another with small gaps."""
    current: tuple[int, int, int, Any] | None = None
    for work in works:
        if current is not None and current[3] == work.task and work.start - current[1] <= gap:
            current = (current[0], work.end, current[2] + work.cycles, work.task)
            continue
        if current is not None:
            yield current
        current = (work.start, work.end, work.cycles, work.task)
    if current is not None:
        yield current


def _tip(time: TaskTime, start: int, end: int, busy: int) -> str:
    inference = f", inference {time.task.inference}" if time.task.inference else ""
    lanes = f"lanes {', '.join(map(str, time.lanes))}" if time.lanes else "no lanes: a window"
    return "\n".join(
        (
            f"{time.task.job}: {time.task.operation}{inference}",
            f"{depth_name(time)}, {lanes}, bundle {time.bundle}",
            f"here {start:,} to {end:,}: {busy:,} of {end - start:,} cycles",
            f"as a whole {time.start:,} to {time.end:,}: {time.cycles:,} cycles",
        )
    )


def _lane_cycles(timeline: PlanTimeline, job: str) -> int:
    return sum(work.cycles for lane in timeline.lanes for work in lane if work.task.job == job)
