"""The page of the benchmark: its record, tables and pictures.

The record, ``benchmark.json``, keeps the rows of every group from the run that measured it last, so that a run of one
group leaves the others as they are. The page and the pictures are made from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmark.adapt.pages import adapt_table, draw_adapt
from benchmark.pictures import draw_area, draw_cycles, draw_utilization
from benchmark.plans.pages import draw_plans, plans_table
from benchmark.refinements import refinements_table
from benchmark.rows import Row
from benchmark.tables import rows_table

RECORD = "benchmark.json"
PAGE = "benchmark.md"

PICTURES: Mapping[str, dict[str, tuple[str, Callable[[list[Row]], Figure | None]]]] = {
    "cycles": {
        "benchmark-cycles.svg": ("Cycles of one inference", draw_cycles),
        "benchmark-utilization.svg": ("Use of the multipliers", draw_utilization),
    },
    "area": {"benchmark-area.svg": ("LUTs on an ECP5", draw_area)},
    "adapt": {"benchmark-adapt.svg": ("Latency under load, and the front of latency against accuracy", draw_adapt)},
    "plan": {"benchmark-plan.svg": ("Speed-ups of plans by dynamic programming", draw_plans)},
}
"""The pictures of a group: file, caption, and what draws it (``None`` if rows are missing)."""

TABLES: Mapping[str, Callable[[list[Row]], Iterator[str]]] = {
    "refinements": refinements_table,
    "plan": plans_table,
    "adapt": adapt_table,
}
"""What makes the lines of a group's table, where one line per row would be too many."""

_INTRODUCTION = """\
# Benchmark

Written by `make bench PAGE=docs` from what that run measured; `make bench ONLY=GROUP PAGE=docs` renews one group. A
*floor* must hold, or the command ends with exit status 1; an *aim* is what we are after.
"""


def write_page(folder: Path, groups: Mapping[str, list[Row]], descriptions: Mapping[str, str]) -> Path:
    """Renews the groups in a folder's record, then its page and pictures; returns the path of the page.

    Parameters
    ----------
    folder
        Where the files are, or will be.
    groups
        The rows that were measured, by group.
    descriptions
        What each group measures, in the order of the page; groups that were never measured are left out.
    """
    record = _read(folder / RECORD) | dict(groups)
    record = {name: record[name] for name in descriptions if name in record}
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: [row.to_json() for row in rows] for name, rows in record.items()}
    (folder / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    lines = [_INTRODUCTION]
    for name, rows in record.items():
        lines += [f"## {name}", "", f"`make bench ONLY={name}`", "", descriptions[name], ""]
        lines += [*_pictures(folder, name, rows), *TABLES.get(name, rows_table)(rows), ""]
    page = folder / PAGE
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return page


def _read(path: Path) -> dict[str, list[Row]]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: [Row(**row) for row in rows] for name, rows in content.items()}


def _pictures(folder: Path, group: str, rows: list[Row]) -> Iterator[str]:
    """Draws a group's pictures; yields the lines that show them."""
    for file, (caption, draw) in PICTURES.get(group, {}).items():
        figure = draw(rows)
        if figure is not None:
            # A picture of the same rows is the same file.
            with mpl.rc_context({"svg.hashsalt": file, "svg.fonttype": "none"}):
                figure.savefig(folder / file, metadata={"Date": None})
            yield from (f"![{caption}]({file})", "")
