"""The group ``plan``: several networks at once, by every scheduler, on the RTL."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.plans.makespan import measure_makespans
from benchmark.plans.memory import measure_memory
from benchmark.plans.priorities import measure_weighted_completion
from benchmark.plans.response import measure_response
from benchmark.plans.seconds import measure_seconds
from benchmark.rows import Row


def measure_plans() -> Iterator[Row]:
    """The group ``plan``."""
    yield from measure_makespans()
    yield from measure_weighted_completion()
    yield from measure_memory()
    yield from measure_response()
    yield from measure_seconds()
