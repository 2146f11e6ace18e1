"""The benchmark's pictures."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.rows import Row

PEER, WIDE, NARROW = "#80868b", "#1f6feb", "#2da44e"
"""Colours of a peer and of our two precisions."""

BAR = 0.26
"""Height of a bar, in distances of networks."""


def draw_cycles(rows: list[Row]) -> Figure | None:
    """Bars of the networks with a peer: the peer's cycles, and ours at W8A8 and W4A4 with their aims."""
    ours = _by_network(rows, "cycles/", with_floor=True)
    if not ours:
        return None
    axes = _axes(list(ours), "thousand cycles of one inference on edge (128 MACs per cycle at W8A8)")
    for index, modes in enumerate(ours.values()):
        _bar(axes, index - BAR, modes["w8a8"].floor + 1, PEER, "Ethos-U55-128 (Vela's estimate)")
        for offset, mode, colour in ((0, "w8a8", WIDE), (BAR, "w4a4", NARROW)):
            row = modes[mode]
            _bar(axes, index + offset, row.measured, colour, f"Tessera {mode.upper()}")
            if row.aim is not None:
                height = (index + offset - BAR / 2, index + offset + BAR / 2)
                label = "aim" if index == offset == 0 else None
                axes.plot([row.aim / 1000] * 2, height, color="black", linewidth=1.5, label=label)
    return _finished(axes)


def draw_utilization(rows: list[Row]) -> Figure | None:
    """Bars of all networks: the share of the multiplications that the machine could have made."""
    ours = _by_network(rows, "utilization/")
    if not ours:
        return None
    axes = _axes(list(ours), "% of the multipliers used, from the first fetch to the last store")
    for index, modes in enumerate(ours.values()):
        for offset, mode, colour in ((-BAR / 2, "w8a8", WIDE), (BAR / 2, "w4a4", NARROW)):
            _bar(axes, index + offset, modes[mode].measured * 100_000, colour, f"Tessera {mode.upper()}")
    return _finished(axes)


def draw_area(rows: list[Row]) -> Figure | None:
    """Bars of the lookup tables of each design, rows of the form ``area/<design>/luts``."""
    designs = [row for row in rows if row.name.endswith("/luts") and row.name.count("/") == 2]
    if not designs:
        return None
    axes = _axes(
        [row.name.split("/")[1] for row in designs], "thousand LUTs on an ECP5, carry cells counted as two", 0.3
    )
    for index, row in enumerate(designs):
        _bar(axes, index, row.measured, PEER if "plain" in row.name else WIDE, "", height=3 * BAR)
    return axes.get_figure(root=True)


def _by_network(rows: list[Row], prefix: str, *, with_floor: bool = False) -> dict[str, dict[str, Row]]:
    """Rows of the form ``<prefix><network>/<mode>``, of networks with both precisions."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.name.startswith(prefix) and (row.floor is not None or not with_floor):
            network, _, mode = row.name.removeprefix(prefix).partition("/")
            found.setdefault(network, {})[mode] = row
    return {network: modes for network, modes in found.items() if {"w8a8", "w4a4"} <= modes.keys()}


def _axes(names: Sequence[str], label: str, height: float = 0.62) -> Axes:
    """Axes with a line for each name, from the top down."""
    figure = Figure(figsize=(8, 1.0 + height * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.1)
    return axes


def _bar(axes: Axes, position: float, value: float, colour: str, label: str, height: float = BAR) -> None:
    """A horizontal bar of ``value / 1000`` with its number in it; a label enters the legend once."""
    known = {text for _, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = label if label and label not in known else None
    bars = axes.barh(position, value / 1000, height=height, color=colour, label=shown)
    axes.bar_label(bars, fmt="%.1f", label_type="center", color="white", fontsize=7)


def _finished(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure
