"""Timelines of plans as JSON values, as plan files and summaries of runs hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from tessera.compiler.planning import TaskId
from tessera.compiler.planning.plan_file import text, whole
from tessera.firmware.plans.timeline import PlanTimeline, TaskTime, TransferWork, Work


def timeline_to_json(timeline: PlanTimeline) -> dict[str, Any]:
    """As JSON values. All times are cycles.

    ``tasks`` are rows [job, inference, operation, bundle, lanes, activation bits, weight bits, start, end]. ``lanes``
    and ``slices`` have for each of them rows [start, end, index of the task]. ``transfers`` are rows [start, end, job,
    bytes, read].
    """
    index = {time.task: position for position, time in enumerate(timeline.tasks)}

    def rows(units: Sequence[Sequence[Work]]) -> list[list[list[int]]]:
        return [[[work.start, work.end, index[work.task]] for work in unit] for unit in units]

    return {
        "cycles": timeline.cycles,
        "tasks": [
            [time.task.job, time.task.inference, time.task.operation, time.bundle, list(time.lanes)]
            + [time.activation_bits, time.weight_bits, time.start, time.end]
            for time in timeline.tasks
        ],
        "lanes": rows(timeline.lanes),
        "slices": rows(timeline.slices),
        "transfers": [list(astuple(transfer)) for transfer in timeline.transfers],
    }


def timeline_from_json(values: Mapping[str, Any]) -> PlanTimeline:
    """The inverse of `timeline_to_json`; raises `KeyError`, `IndexError`, `TypeError` or `ValueError` for anything
    else."""
    cycles = whole(values["cycles"])

    def span(start: Any, end: Any) -> tuple[int, int]:
        if not whole(start) <= whole(end) <= cycles:
            raise ValueError(f"from {start} to {end} is not within {cycles} cycles")
        return start, end

    def task(row: Sequence[Any]) -> TaskTime:
        job, inference, operation, bundle, lanes, activation, weight, start, end = row
        own = TaskId(text(job), whole(inference), text(operation))
        bits = whole(activation), None if weight is None else whole(weight)
        return TaskTime(own, whole(bundle), tuple(whole(lane) for lane in lanes), *bits, *span(start, end))

    def transfer(row: Sequence[Any]) -> TransferWork:
        start, end, job, moved, read = row
        return TransferWork(*span(start, end), text(job), whole(moved), bool(read))

    tasks = tuple(map(task, values["tasks"]))

    def units(rows: Sequence[Sequence[Sequence[Any]]]) -> tuple[tuple[Work, ...], ...]:
        return tuple(
            tuple(Work(*span(start, end), tasks[whole(index)].task) for start, end, index in unit) for unit in rows
        )

    return PlanTimeline(
        cycles=cycles,
        tasks=tasks,
        lanes=units(values["lanes"]),
        slices=units(values["slices"]),
        transfers=tuple(map(transfer, values["transfers"])),
    )
