"""The plan that is used: the best of several plans' streams."""

from __future__ import annotations

import numpy as np
import pytest
from random_networks import NetworkGenerator
from random_plans import map_networks
from test_lowering import convolution_network

from tessera.compiler.lowering.plan_memory import PlacementError
from tessera.compiler.planning import Job, Objective, Workload
from tessera.compiler.planning.costs import network_costs, task_graph
from tessera.compiler.planning.selection import StreamPlanner
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import Memory
from tessera.sim.golden.network import IntegerNetwork, TensorType

TINY = NpuConfig.preset("tiny")
SEEDS = range(2)


def planner_of(networks: dict[str, IntegerNetwork], memory: Memory) -> tuple[StreamPlanner, Workload]:
    mapped = map_networks(networks, TINY)
    jobs = tuple(Job(name, task_graph(own, network_costs(own)), 2) for name, own in mapped.items())
    return StreamPlanner(TINY, mapped, memory), Workload(jobs)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_stream_is_slower_than_the_serial_one(seed: int) -> None:
    """By the cycle model, which knows the machine better than the schedulers do."""
    rng = np.random.default_rng(seed)
    networks = {name: NetworkGenerator(rng, TINY, max_side=8).network(4) for name in ("one", "other")}
    planner, workload = planner_of(networks, Memory(bytes_per_cycle=float(rng.choice([2, 4, 8]))))
    for objective in (Objective.MAKESPAN, Objective.WEIGHTED_COMPLETION):
        serial, dp = (planner.plan(workload, scheduler, objective) for scheduler in ("serial", "dp"))
        if objective is Objective.MAKESPAN:
            assert dp.cycles <= serial.cycles
        else:
            assert sum(dp.completions.values()) <= sum(serial.completions.values())


def test_a_network_that_takes_nearly_all_of_the_banks() -> None:
    """Plans that would leave a part of them free are not offered; they are no error either."""
    network = convolution_network(TensorType(16, 31, 31, 8, True), 16)
    planner, workload = planner_of({"large": network}, Memory())
    (job,) = workload.jobs
    assert job.graph.words_during(0, 1) > 0.875 * TINY.activation_words
    assert planner.plan(workload).cycles > 0


def test_tensors_that_cannot_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is about all of the banks, not about the part of them that was tried last."""

    def fails(*arguments: object, **options: object) -> None:
        raise PlacementError("the tensors do not fit")

    planner, workload = planner_of({"large": convolution_network(TensorType(16, 31, 31, 8, True), 16)}, Memory())
    monkeypatch.setattr("tessera.compiler.planning.selection.lower_plan", fails)
    with pytest.raises(PlacementError, match="do not fit"):
        planner.plan(workload, "serial")
