"""The group ``adapt``: precision that follows the memory's bandwidth, on the RTL."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.adapt.latency import measure_front, measure_latency
from benchmark.adapt.networks import MAIN, RECORD
from benchmark.adapt.reaction import measure_reaction, measure_selects
from benchmark.adapt.runs import mismatches
from benchmark.adapt.targets import measure_targets
from benchmark.rows import Row


def measure_adapt() -> Iterator[Row]:
    """The group ``adapt``."""
    yield from measure_latency(MAIN)
    yield from measure_front(MAIN)
    yield from measure_reaction(MAIN)
    yield from measure_selects(MAIN)
    yield from measure_targets(MAIN)
    yield from measure_latency(RECORD)
    yield Row("adapt/monitor_mismatches", mismatches(), "windows", "lower", floor=0, aim=0)
