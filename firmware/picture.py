"""Pictures of what happens over time, and the pages that they are on.

Pictures are SVG whose horizontal coordinates are percentages, so that a page magnifies them by their width alone;
without scripts all of it is there but the quick hover texts. A picture is a list of *panels*, one per timeline, each a
list of *tracks* (`Track`); what else happens over time is one more track.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

ZOOMS = (1, 4, 16, 64)
"""Magnifications that the page offers."""

LABEL_SHARE = 0.05
"""Share of the picture's width from which a box has room for its label."""

AXIS_HEIGHT, GAP = 26, 5
"""Heights in pixels: of the axis, and between tracks."""

LAST_TICK = 0.96
"""Share of the picture's width behind which a tick has no room for its label."""

TICKS = 8
"""Ticks of the axis, about."""


@dataclass(frozen=True)
class Box:
    """A rectangle in a track: its place in percent of the width, its look, its label with the least magnification at
    which there is room for it, and what is said of it."""

    x: float
    width: float
    look: str
    label: str
    zoom: int
    tip: str


@dataclass(frozen=True)
class Area:
    """A part of a stacked picture: the ``d`` of an SVG path in the units of its track, and its look."""

    path: str
    look: str


@dataclass(frozen=True)
class Track:
    """A row of a panel.

    Attributes
    ----------
    label, note
        What it shows, and a word on it.
    top, height
        In pixels, from the top of the panel.
    boxes
        Rectangles.
    areas, columns
        A stacked picture, and how many units it is wide; it is ``height`` high.
    limit
        Height in pixels, from its top, of the most that can be; none if ``None``.
    """

    label: str
    note: str
    top: int
    height: int
    boxes: tuple[Box, ...] = ()
    areas: tuple[Area, ...] = ()
    columns: int = 0
    limit: float | None = None


@dataclass(frozen=True)
class Panel:
    """The tracks of a timeline: its name, its height in pixels, where it ends in percent, and its bundles."""

    name: str
    height: int
    end: float
    tracks: tuple[Track, ...]
    bundles: tuple[Box, ...]


@dataclass(frozen=True)
class Scale:
    """Where cycles are in a picture of ``span`` cycles."""

    span: int

    def x(self, cycles: float) -> float:
        """Cycles as percent of the picture's width."""
        return 100 * cycles / self.span

    def zoom(self, cycles: float) -> int:
        """The least magnification at which something of so many cycles has room for a label; 0 for never."""
        return next((zoom for zoom in ZOOMS if zoom * cycles / self.span >= LABEL_SHARE), 0)


def ticks(span: int) -> Iterator[dict[str, Any]]:
    """Ticks of the axis for every magnification: at multiples of 1, 2 or 5 times a power of ten."""
    for zoom in ZOOMS:
        step = _round_step(span / TICKS / zoom)
        for cycles in range(0, round(span * LAST_TICK), step):
            yield {"x": Scale(span).x(cycles), "label": f"{cycles:,}", "zoom": zoom}


def render(template: str, **values: Any) -> str:
    """A page, of a template in this package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tessera.firmware"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["count"] = lambda value: f"{value:,.0f}"
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    environment.filters["place"] = lambda value: f"{value:.3f}".rstrip("0").rstrip(".")
    return environment.get_template(template).render(axis=AXIS_HEIGHT, zooms=ZOOMS, **values)


def steps_path(low: np.ndarray, high: np.ndarray, height: int) -> str:
    """An SVG path of the area between two step functions, 1000 units per step wide."""
    if not (high > low).any():
        return ""
    upper = "".join(f"L{index * 1000} {height - value:.2f}h1000" for index, value in enumerate(high))
    lower = "".join(f"L{(index + 1) * 1000} {height - low[index]:.2f}h-1000" for index in reversed(range(len(low))))
    return f"M0 {height - low[0]:.2f}{upper}{lower}Z"


def _round_step(step: float) -> int:
    """The next larger 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(max(1.0, step)))
    return next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= step)
