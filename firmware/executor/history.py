"""What has run: the parts of plans from a start to an end or a pause, with the times of their instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tessera.compiler.execution_plan import Bundle
from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.firmware.executor.segment import Segment


@dataclass(frozen=True, eq=False)
class Executed:
    """A part of a plan that has run.

    Attributes
    ----------
    start, cycles
        Cycle of the bus at which it was started, and how long it ran.
    program
        The instructions that were executed, without the data that they load.
    ends
        For each of them the cycle since the start at which it had finished.
    bundles
        The bundles that have ended, with planned cycles since the start.
    requests
        By job the request that it belongs to.
    """

    start: int
    cycles: int
    program: PlanProgram
    ends: tuple[int, ...]
    bundles: tuple[Bundle, ...]
    requests: Mapping[str, str]


def executed_part(program: PlanProgram, count: int) -> PlanProgram:
    """The first ``count`` instructions of a program, without the data that they load."""
    return replace(
        program,
        instructions=program.instructions[:count],
        labels=program.labels[:count],
        tasks=program.tasks[:count],
        bundles=program.bundles[:count],
        jobs={name: replace(job, data=b"") for name, job in program.jobs.items()},
    )


def make_executed(
    segment: Segment, part: PlanProgram, ends: tuple[int, ...], *, start: int, cycles: int, bundles: int
) -> Executed:
    """What has run of a segment, of which ``bundles`` have ended."""
    done = tuple(
        replace(bundle, start=max(0, bundle.start - segment.start), end=max(0, bundle.end - segment.start))
        for bundle in segment.plan.bundles[:bundles]
    )
    requests = {name: work.request.name for name, work in segment.works.items()}
    return Executed(start, cycles, part, ends, done, requests)
