"""The page of a run of an adaptive network: the bandwidth, its section, and the depth of each layer over time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tessera.firmware.adaptation.timeline import AdaptationTimeline, BandwidthWindow, LayerTime
from tessera.firmware.picture import AXIS_HEIGHT, GAP, Area, Box, Panel, Scale, Track, render, steps_path, ticks

COLUMNS = 480
"""Columns of the picture of the bandwidth, at most."""

MARK_SHARE = 1 / 400
"""Width of the mark of a decision, as a share of the picture's width."""

INFERENCE_HEIGHT, BANDWIDTH_HEIGHT, SECTION_HEIGHT, LAYER_HEIGHT, MARK_HEIGHT, LAYER_GAP = 16, 84, 22, 13, 13, 2
"""Heights in pixels."""


@dataclass
class AdaptationReport:
    """What a page is made of.

    Attributes
    ----------
    timeline
        The run.
    npu
        Name of the machine.
    network
        What the summary says of the network: its row of ``networks``.
    """

    timeline: AdaptationTimeline
    npu: str
    network: dict[str, Any]
    _scale: Scale = field(init=False)

    def __post_init__(self) -> None:
        self._scale = Scale(max(1, self.timeline.cycles))

    def html(self) -> str:
        """The page."""
        return render(
            "adaptation_report.html",
            timeline=self.timeline,
            npu=self.npu,
            network=self.network,
            sections=sorted({window.section for window in self.timeline.windows}, reverse=True),
            panels=[self._panel()],
            ticks=list(ticks(self._scale.span)),
            totals=list(self._totals()),
            layers=list(self._layer_rows()),
            changes=[each for each in self.timeline.decisions if each.is_change],
        )

    # -------------------------------------------------------------------------------------------------------- picture

    def _panel(self) -> Panel:
        tracks: list[Track] = []
        top = AXIS_HEIGHT
        for track, gap in self._tracks():
            tracks.append(replace(track, top=top))
            top += track.height + gap
        return Panel("measured", top, 100.0, tuple(tracks), ())

    def _tracks(self) -> Iterator[tuple[Track, int]]:
        """The tracks without their places, each with the gap behind it."""
        yield (
            Track("inferences", str(len(self.timeline.inferences)), 0, INFERENCE_HEIGHT, tuple(self._inferences())),
            GAP,
        )
        if self.timeline.windows:
            yield self._bandwidth(), GAP
            yield Track("section", "", 0, SECTION_HEIGHT, tuple(self._sections())), GAP
        yield Track("decisions", "", 0, MARK_HEIGHT, tuple(self._marks())), GAP
        for layer in self.timeline.layers:
            boxes = tuple(self._strip(list(self.timeline.of_layer(layer))))
            yield Track(layer, "", 0, LAYER_HEIGHT, boxes), LAYER_GAP

    def _inferences(self) -> Iterator[Box]:
        target = self.timeline.target_cycles
        for index, (start, end) in enumerate(self.timeline.inferences):
            late = target is not None and end - start > target
            verdict = "" if target is None else f"\n{'more than' if late else 'within'} the target of {target:,}"
            tip = f"inference {index}\n{start:,} to {end:,}: {end - start:,} cycles{verdict}"
            yield self._box(start, end, "late" if late else "inference", str(index), tip)

    def _box(self, start: int, end: int, look: str, label: str, tip: str) -> Box:
        scale = self._scale
        return Box(scale.x(start), scale.x(end - start), look, label, scale.zoom(end - start), tip)

    def _bandwidth(self) -> Track:
        """What others left, and before it what the NPU moved, in bytes per cycle."""
        timeline = self.timeline
        edges = np.linspace(0, timeline.cycles, min(COLUMNS, len(timeline.windows)) + 1)
        available, own = (_means(timeline.windows, name, edges) for name in ("available", "own"))
        highest = max(timeline.bus_bytes, available.max(), own.max())
        scale = (BANDWIDTH_HEIGHT - 4) / highest
        areas = tuple(
            Area(steps_path(np.zeros(len(values)), values * scale, BANDWIDTH_HEIGHT), look)
            for values, look in ((available, "available"), (own, "own"))
        )
        tips = tuple(
            self._box(
                round(start),
                round(end),
                "hit",
                "",
                f"{start:,.0f} to {end:,.0f}, bytes per cycle:\n{free:.1f} available, {used:.1f} moved by the NPU",
            )
            for (start, end), free, used in zip(itertools.pairwise(edges), available, own, strict=True)
        )
        note = f"{np.mean(available):.1f} B/cycle"
        limit = BANDWIDTH_HEIGHT - timeline.bus_bytes * scale
        columns = 1000 * len(available)
        return Track("available", note, 0, BANDWIDTH_HEIGHT, tips, areas, columns, limit)

    def _sections(self) -> Iterator[Box]:
        """Runs of windows of one section."""
        windows, first = self.timeline.windows, 0
        for index in range(1, len(windows) + 1):
            if index == len(windows) or windows[index].section != windows[first].section:
                start, end, section = windows[first].start, windows[index - 1].end, windows[first].section
                tip = f"section {section}\n{start:,} to {end:,}: {end - start:,} cycles"
                yield self._box(start, end, f"section{section}", str(section), tip)
                first = index

    def _marks(self) -> Iterator[Box]:
        """The decisions."""
        width = 100 * MARK_SHARE
        for decision in self.timeline.decisions:
            if decision.is_change:
                change = f"{', '.join(decision.layers)}: {decision.before} to {decision.after} bits\n"
                tip = f"{decision.kind} at {decision.cycle:,}\n{change if decision.layers else ''}{decision.reason}"
                yield Box(min(self._scale.x(decision.cycle), 100 - width), width, decision.kind, "", 0, tip)

    def _strip(self, times: Sequence[LayerTime]) -> Iterator[Box]:
        """The depth of a layer from each choice that changes it to the next one."""
        first = 0
        for index in range(1, len(times) + 1):
            if index == len(times) or times[index].depth != times[first].depth:
                time, end = times[first], self.timeline.cycles if index == len(times) else times[index].start
                count = index - first
                ran = f"chosen {count} times" if count > 1 else f"ran {time.start:,} to {time.end:,}"
                span = f"{time.start:,} to {end:,}, {ran}\nsection {time.section} at first"
                tip = f"{time.layer}: {time.depth} bits\n{span}"
                yield self._box(time.start, end, f"depth{time.depth}", str(time.depth), tip)
                first = index

    # --------------------------------------------------------------------------------------------------------- tables

    def _totals(self) -> Iterator[dict[str, Any]]:
        """What is told in large figures: a title, a unit, and the value."""
        timeline = self.timeline
        lengths = [end - start for start, end in timeline.inferences]

        def row(title: str, unit: str, value: str) -> dict[str, Any]:
            return {"title": title, "unit": unit, "value": value}

        yield row("Inference", "cycles, mean", f"{np.mean(lengths):,.0f}")
        yield row("Longest", "cycles", f"{max(lengths):,}")
        if timeline.target_cycles is not None:
            met = np.mean([length <= timeline.target_cycles for length in lengths])
            yield row("Within the target", f"of {timeline.target_cycles:,} cycles", f"{met:.0%}")
        if timeline.windows:
            available = np.mean([window.available for window in timeline.windows])
            yield row("Available", f"of {timeline.bus_bytes:g} bytes per cycle, mean", f"{available:.1f}")
        if timeline.times:
            mean = np.mean([time.depth for time in timeline.times])
            yield row("Depth", "bits, mean of all choices", f"{mean:.1f}")
        pairs = itertools.chain.from_iterable(map(itertools.pairwise, self._by_layer()))
        changes = sum(before.depth != after.depth for before, after in pairs)
        yield row("Changes", f"of {len(timeline.times):,} choices", f"{changes:,}")

    def _by_layer(self) -> list[list[LayerTime]]:
        return [list(self.timeline.of_layer(layer)) for layer in self.timeline.layers]

    def _layer_rows(self) -> Iterator[dict[str, Any]]:
        """For each layer how often it ran at each depth, and its cycles."""
        for layer, own in zip(self.timeline.layers, self._by_layer(), strict=True):
            if own:
                counts = {depth: sum(time.depth == depth for time in own) for depth in self.timeline.depths}
                cycles = float(np.mean([time.end - time.start for time in own]))
                yield {"layer": layer, "counts": counts, "cycles": cycles, "times": len(own)}


def _means(windows: Sequence[BandwidthWindow], name: str, edges: np.ndarray) -> np.ndarray:
    """The means of a quantity of windows between edges in cycles; that of the window before where there is none."""
    values = np.array([getattr(window, name) for window in windows])
    places = np.searchsorted(edges, [(window.start + window.end) / 2 for window in windows], side="right") - 1
    places = np.clip(places, 0, len(edges) - 2)
    sums = np.bincount(places, values, len(edges) - 1)
    counts = np.bincount(places, minlength=len(edges) - 1)
    means, last = np.zeros(len(sums)), values[0]
    for index, (total, count) in enumerate(zip(sums, counts, strict=True)):
        last = means[index] = total / count if count else last
    return means
