"""The group ``adapt`` in the benchmark's page: tables, arithmetic and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.adapt.latency import DEPTHS, FRONT
from benchmark.adapt.networks import MAIN, RECORD
from benchmark.adapt.runs import AIM, AIMED_LOAD, LOADS, POLICIES
from benchmark.rows import Row
from benchmark.tables import rows_table
from tessera.rtl.config import NpuConfig

COLOURS = {"fixed16": "#80868b", "fixed8": "#d97706", "table": "#2da44e", "sensitivity": "#1f6feb"}

_GRIDS = ("latency_at", "accuracy_drop_at", "front_", "kilobytes_at_depth")
"""Beginnings of the names of rows that have a table of their own."""


def adapt_table(rows: list[Row]) -> Iterator[str]:
    """Lines of the page."""
    yield from rows_table([row for row in rows if not _own_table(row)])
    measured = {row.name: row.measured for row in rows}
    for case in (MAIN, RECORD):
        for what, title in (("latency_at", "latency over that without load"), ("accuracy_drop_at", "points lost")):
            yield from _grid(measured, case.prefix, what, f"`{case.name}`: {title}, by percent of the bus taken")
    yield from _arithmetic(measured)
    yield from _front(measured)


def _own_table(row: Row) -> bool:
    name = row.name.removeprefix("adapt/").removeprefix(RECORD.prefix)
    return name.startswith(_GRIDS)


def _grid(measured: Mapping[str, float], prefix: str, what: str, title: str) -> Iterator[str]:
    names = {(load, policy): f"adapt/{prefix}{what}_{load}/{policy}" for load in LOADS for policy in POLICIES}
    if not all(name in measured for name in names.values()):
        return
    yield from ("", f"{title}:", "", f"| policy | {' | '.join(f'{load} %' for load in LOADS)} |")
    yield f"|---|{'--:|' * len(LOADS)}"
    for policy in POLICIES:
        yield f"| {policy} | {' | '.join(f'{measured[names[load, policy]]:.2f}' for load in LOADS)} |"


def _arithmetic(measured: Mapping[str, float]) -> Iterator[str]:
    """What no policy can beat: the bytes of an inference over what others leave of the bus."""
    alone = measured.get("adapt/unloaded_cycles")
    if alone is None or any(f"adapt/kilobytes_at_depth/{depth}" not in measured for depth in DEPTHS):
        return
    bus = NpuConfig.preset("edge").beat_bytes
    left = bus * (1 - AIMED_LOAD / 100)
    yield from (
        "",
        f"Arithmetic at {AIMED_LOAD} %: {left:g} of {bus} bytes per cycle are left, and the aim of {AIM:g} is "
        f"{AIM * alone:,.0f} cycles, in which {AIM * alone * left / 1000:,.0f} kB can be moved. All layers at one "
        "depth move:",
        "",
        "| depth | kB per inference | at least, of unloaded |",
        "|--:|--:|--:|",
    )
    for depth in DEPTHS:
        moved = measured[f"adapt/kilobytes_at_depth/{depth}"]
        yield f"| {depth} | {moved:,.1f} | {1000 * moved / left / alone:.2f} |"


def _front(measured: Mapping[str, float]) -> Iterator[str]:
    names = [(f"adapt/front_latency/{target}", f"adapt/front_accuracy_drop/{target}") for target in FRONT]
    if not all(name in measured for pair in names for name in pair):
        return
    yield from ("", f"The policy `sensitivity` at {AIMED_LOAD} % with other latency targets:", "")
    yield from ("| target, of unloaded | latency, of unloaded | points lost |", "|--:|--:|--:|")
    for target, (latency, drop) in zip(FRONT, names, strict=True):
        yield f"| {target:g} | {measured[latency]:.2f} | {measured[drop]:.2f} |"


def draw_adapt(rows: list[Row]) -> Figure | None:
    """For each policy the latency over that without load, by the load; and the front of latency against accuracy."""
    measured = {row.name: row.measured for row in rows}
    names = {policy: [f"adapt/latency_at_{load}/{policy}" for load in LOADS] for policy in POLICIES}
    if not all(name in measured for own in names.values() for name in own):
        return None
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes, front = figure.subplots(1, 2)
    for policy, own in names.items():
        axes.plot(LOADS, [measured[name] for name in own], "o-", color=COLOURS[policy], label=policy, markersize=4)
    axes.axhline(AIM, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="% of the bus that others take", ylabel="latency over that without load", xticks=LOADS)
    axes.legend(frameon=False, fontsize=8)
    _draw_front(front, measured)
    for each in (axes, front):
        each.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_front(axes: Axes, measured: Mapping[str, float]) -> None:
    points: Sequence[tuple[float, float]] = [
        (measured[f"adapt/front_latency/{target}"], measured[f"adapt/front_accuracy_drop/{target}"])
        for target in FRONT
        if f"adapt/front_latency/{target}" in measured
    ]
    if points:
        axes.plot(*zip(*points), "o-", color=COLOURS["sensitivity"], label="sensitivity", markersize=4)
    for policy in POLICIES:
        found = [measured.get(f"adapt/{what}_{AIMED_LOAD}/{policy}") for what in ("latency_at", "accuracy_drop_at")]
        if None not in found and policy != "sensitivity":
            axes.plot(*found, "s", color=COLOURS[policy], label=policy, markersize=5)
    axes.axvline(AIM, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel=f"latency over that without load, at {AIMED_LOAD} %", ylabel="points lost")
    axes.legend(frameon=False, fontsize=8)
