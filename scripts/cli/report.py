"""``tessera report``: a page and a trace of a plan and of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.cli.console import UsageError, check_output, console, write_file, write_json
from tessera.cli.options import JsonOption
from tessera.compiler.errors import check_file
from tessera.compiler.planning.plan_file import StoredPlan, text
from tessera.firmware.adaptation.report import AdaptationReport
from tessera.firmware.adaptation.timeline import AdaptationTimeline
from tessera.firmware.adaptation.trace import adaptation_events
from tessera.firmware.plans.report import Report
from tessera.firmware.plans.timeline import CODE, PlanTimeline
from tessera.firmware.plans.timeline_json import timeline_from_json
from tessera.firmware.plans.trace import trace_events

TIMELINES = ("planned", "measured")
"""Timelines that a report shows."""


def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="A plan (tessera plan --output), the summary of its run (tessera run --json), or both; or the summary "
            "of a scenario (tessera serve --json) or of an adaptive run."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, one HTML file.", metavar="FILE")] = Path(
        "report.html"
    ),
    trace: Annotated[Path | None, typer.Option("--trace", help="A trace for Perfetto, JSON.", metavar="FILE")] = None,
    json: JsonOption = None,
) -> None:
    """Draw a plan, its run, a scenario that the executor ran, or an adaptive run as one HTML page."""
    check_output(output, *files)
    check_output(trace, *files, output)
    check_output(json, *files, output, trace)
    adaptive = read_adaptive(files)
    if adaptive is not None:
        write_file(output, adaptive.html().encode())
        console.print(f"page: {output}", soft_wrap=True)
        _write_values(trace, "trace", adaptation_events(adaptive.timeline))
        _write_values(json, "", {"npu": adaptive.npu, "network": adaptive.network})
        return
    page = read_report(files)
    write_file(output, page.html().encode())
    console.print(f"page: {output}", soft_wrap=True)
    _write_values(trace, "trace", trace_events(page.timelines))
    _write_values(json, "", {"npu": page.stored.npu} | {name: _totals(own) for name, own in page.timelines.items()})


def _write_values(path: Path | None, what: str, values: dict[str, Any]) -> None:
    """Writes JSON values, if there is a file for them, and says so if it is ``what`` was asked for."""
    if path is not None:
        write_json(path, values)
        if what:
            console.print(f"{what}: {path}", soft_wrap=True)


def _totals(timeline: PlanTimeline) -> dict[str, Any]:
    """What a timeline comes to, for programs."""
    return {
        "cycles": timeline.cycles,
        "lane_utilization": round(timeline.lane_utilization, 4),
        "idle_lane_cycles": sum(timeline.idle_cycles),
        "dram_read_bytes": timeline.dram_bytes(read=True),
        "dram_write_bytes": timeline.dram_bytes(read=False),
        "networks": [{"name": job, "end": timeline.job_end(job)} for job in timeline.jobs],
    }


def read_report(files: Sequence[Path]) -> Report:
    """What plan files and summaries of runs of one plan say.

    Raises
    ------
    CompilerError
        A file does not exist.
    UsageError
        A file is neither, or they are of different plans.
    """
    stored: StoredPlan | None = None
    timelines: dict[str, PlanTimeline] = {}
    networks: list[Mapping[str, Any]] = []
    for file in files:
        values, found, own = _read(file)
        if stored is not None and found.plan != stored.plan:
            raise UsageError(f"{file} is of another plan than {files[0]}; give files of one plan")
        stored, timelines = found, timelines | own
        networks = values["networks"] if "measured" in own else networks
    assert stored is not None
    return Report(stored, {name: timelines[name] for name in TIMELINES if name in timelines}, networks)


def read_adaptive(files: Sequence[Path]) -> AdaptationReport | None:
    """What the summary of an adaptive run says; ``None`` if the first file is none.

    Raises
    ------
    CompilerError
        A file does not exist.
    UsageError
        There are several files, or the summary is damaged.
    """
    for file in files:
        check_file(file)
    try:
        values = loads(files[0].read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError):
        return None
    if not isinstance(values, dict) or "adaptation" not in values:
        return None
    if len(files) > 1:
        raise UsageError(f"{files[0]} is the summary of an adaptive run, which is drawn alone; leave out the others")
    try:
        [network] = values["networks"]
        timeline = AdaptationTimeline.from_json(values["adaptation"])
        return AdaptationReport(timeline, str(values["npu"]), {**network, "bit_exact": network["bit_exact"]})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        raise UsageError(
            f"{files[0]} is no summary of an adaptive run that this version reads; make one with tessera adapt --json"
        ) from None


def _check_names(stored: StoredPlan, timelines: Mapping[str, PlanTimeline]) -> None:
    """Raises `ValueError` if there is no timeline, or one has networks that the plan does not have."""
    names = {network.name for network in stored.networks}
    owners = {each.job for own in timelines.values() for each in own.transfers} - {CODE}
    if not timelines or len(names) < len(stored.networks) or any({*own.jobs} != names for own in timelines.values()):
        raise ValueError("the timelines are not of the networks of the plan")
    if not owners <= names or any(task.job not in names for task in stored.plan.tasks):
        raise ValueError("networks that are not among those of the plan")


def _check_rows(stored: StoredPlan, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises `ValueError` if there is not a row for each network of the plan, or one is of another kind."""
    if sorted(text(row["name"]) for row in rows) != sorted(network.name for network in stored.networks):
        raise ValueError("the rows are not of the networks of the plan")
    for row in rows:
        if not isinstance(row["bit_exact"], bool) or not 0 <= row.get("accuracy", 0.0) <= 1:
            raise ValueError(f"the row of {row['name']} is no result")


def _read(file: Path) -> tuple[dict[str, Any], StoredPlan, dict[str, PlanTimeline]]:
    check_file(file)
    try:
        values = loads(file.read_text(encoding="utf-8"))
        if "timelines" not in values:
            raise UsageError(
                f"{file} has no timelines of a plan; make a plan with tessera plan --output, or run one with tessera "
                "run --json or tessera serve --json"
            )
        stored = StoredPlan.from_json(values.get("plan", values))
        timelines = {
            name: timeline_from_json(values["timelines"][name]) for name in TIMELINES if name in values["timelines"]
        }
        _check_names(stored, timelines)
        if "measured" in timelines:
            _check_rows(stored, values["networks"])
        return values, stored, timelines
    except UsageError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, OSError):
        raise UsageError(
            f"{file} is neither a plan nor the summary of a plan's run that this version reads; make one with tessera "
            "plan --output or tessera run --json"
        ) from None
