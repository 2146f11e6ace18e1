"""The group ``plan`` in the benchmark's page: tables and a picture."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmark.plans.makespan import BANDWIDTHS, BASELINES
from benchmark.plans.runs import SCHEDULERS
from benchmark.plans.workloads import INFERENCES, SHORT_NAMES, WORKLOADS, workload_name
from benchmark.rows import Row
from benchmark.tables import rows_table

COLOURS = {"native": "#80868b", "serial": "#d97706", "serial_prefetch": "#1f6feb", "greedy": "#2da44e"}
"""Of the baselines in the picture."""

TICKS = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0)

_NAMES = {workload_name(names) for names in WORKLOADS}

Table = Mapping[str, Mapping[str, float]]
"""By workload, by what was measured, one DRAM's numbers."""


def plans_table(rows: list[Row]) -> Iterator[str]:
    """Lines of the page: the rows over all workloads, what the names mean, and a table per DRAM."""
    yield from rows_table([row for row in rows if _parse(row) is None])
    yield ""
    runs = ", ".join(f"`{short}` {name} ({INFERENCES[short[0]]}x)" for short, name in SHORT_NAMES.items())
    yield f"Networks, and how often each runs: {runs}."
    for bandwidth, table in _tables(rows).items():
        yield from ("", f"Cycles with a DRAM of {bandwidth} bytes/cycle, and the speed-ups of `dp`:", "")
        yield f"| workload | bound | {' | '.join(SCHEDULERS)} | {' | '.join(f'over {each}' for each in BASELINES)} |"
        yield f"|---|{'--:|' * (1 + len(SCHEDULERS) + len(BASELINES))}"
        for name, measured in table.items():
            cycles = [f"{measured[what]:,}" for what in ("bound", *(f"cycles_{each}" for each in SCHEDULERS))]
            ratios = [f"{measured[f'dp_over_{each}']:.3f}" for each in BASELINES]
            yield f"| {name} | {' | '.join([*cycles, *ratios])} |"


def draw_plans(rows: list[Row]) -> Figure | None:
    """For each DRAM and workload the speed-up of dynamic programming over each baseline."""
    tables = _tables(rows)
    if not tables:
        return None
    names = list(next(iter(tables.values())))
    figure = Figure(figsize=(10, 1.6 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (bandwidth, table) in zip(panels, tables.items(), strict=True):
        _draw_panel(axes, table)
        axes.set_title(f"DRAM of {bandwidth} bytes/cycle", fontsize=9)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(BASELINES), frameon=False, fontsize=8)
    figure.supxlabel("speed-up of dynamic programming over each baseline, measured on the RTL", fontsize=9)
    return figure


def _draw_panel(axes: Axes, table: Table) -> None:
    for baseline in BASELINES:
        values = [measured[f"dp_over_{baseline}"] for measured in table.values()]
        axes.plot(values, range(len(values)), "o", color=COLOURS[baseline], label=f"over {baseline}", markersize=5)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.3)


def _tables(rows: Sequence[Row]) -> dict[int, Table]:
    """What was measured of each workload, by DRAM; without workloads of which something is missing."""
    found: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        parsed = _parse(row)
        if parsed is not None:
            workload, what, bandwidth = parsed
            found[bandwidth][workload][what] = row.measured
    needed = {"bound", *(f"cycles_{each}" for each in SCHEDULERS), *(f"dp_over_{each}" for each in BASELINES)}
    whole = {
        bandwidth: {name: own for name, own in table.items() if needed <= own.keys()}
        for bandwidth, table in sorted(found.items(), reverse=True)
    }
    return {bandwidth: table for bandwidth, table in whole.items() if table and bandwidth in BANDWIDTHS}


def _parse(row: Row) -> tuple[str, str, int] | None:
    """Workload, what was measured, and bytes per cycle of a row of one workload."""
    found = re.fullmatch(r"plan/([^/]+)/(\w+)@(\d+)", row.name)
    if found is None or found[1] not in _NAMES:
        return None
    return found[1], found[2], int(found[3])
