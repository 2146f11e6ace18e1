"""Rows of networks whose tensors do not fit the activation banks, so that they pass through buffers."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark import topologies
from benchmark.plans.runs import Planned, memory_of, run_plans
from benchmark.plans.workloads import CONFIG, Network, make_network
from benchmark.rows import Row
from benchmark.runs import quantize_seeded, seeded_file
from tessera.compiler.planning import Job, Workload
from tessera.compiler.planning.selection import StreamPlanner

MEMORY = memory_of(8)

NETWORKS = {"mobilenet_v1_128": (128, 8, 8), "mobilenet_v1_160": (160, 4, 4)}
"""MobileNetV1 of width 0.25 with seeded weights: side of the images, depths of weights and activations."""

SCHEDULERS = ("serial", "dp")


def measure_memory() -> Iterator[Row]:
    """Cycles and DRAM traffic side by side (``dp``), against one operation at a time with prefetch (``serial``)."""
    networks = {name: _network(name) for name in NETWORKS}
    workload = Workload(tuple(Job(name, own.graph) for name, own in networks.items()))
    planner = StreamPlanner(CONFIG, {name: own.mapped for name, own in networks.items()}, MEMORY)
    plans = [Planned(f"{name} of large networks", networks, planner.plan(workload, name)) for name in SCHEDULERS]
    serial, dp = run_plans(plans, CONFIG, MEMORY)
    streamed = ", ".join(f"{len(own.mapped.streamed)} tensors of {name}" for name, own in networks.items())
    source = f"{streamed} pass through buffers"
    yield Row("plan/memory/dp_over_serial_prefetch@8", _ratio(serial.cycles, dp.cycles), "ratio", "higher", 1.0)
    yield Row("plan/memory/traffic_dp_over_serial@8", _ratio(dp.dram_bytes, serial.dram_bytes), "ratio", "lower")
    for name, each in zip(SCHEDULERS, (serial, dp), strict=True):
        yield Row(f"plan/memory/cycles_{name}@8", each.cycles, "cycles", "lower")
        yield Row(f"plan/memory/dram_bytes_{name}@8", each.dram_bytes, "bytes", "lower", source=source)


def _ratio(one: int, other: int) -> float:
    return round(one / other, 3)


def _network(name: str) -> Network:
    side, weight_depth, activation_depth = NETWORKS[name]
    path = seeded_file(name, topologies.mobilenet_v1(side))
    return make_network(quantize_seeded(path, weight_depth, activation_depth), samples=1)
