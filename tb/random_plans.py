"""Execution plans made by hand and at random, of small random networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from random_networks import NetworkGenerator, random_values

from tessera.compiler.lowering.builder import LaneSet
from tessera.compiler.lowering.mapping import MappedNetwork, map_network
from tessera.compiler.lowering.plan import DramLayout, lower_plan
from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.planning import Bundle, ExecutionPlan, Slot, TaskId
from tessera.rtl.config import NpuConfig, digits_of_depth
from tessera.sim.cycles import DEFAULT_MEMORY, Memory
from tessera.sim.golden.network import Convolution, IntegerNetwork

Partition = tuple[tuple[int, ...], ...]

PARTITIONS: dict[str, Partition] = {
    "4": ((0, 1, 2, 3),),
    "2+2": ((0, 1), (2, 3)),
    "2+1+1": ((0, 1), (2,), (3,)),
    "1+1+2": ((0,), (1,), (2, 3)),
    "1+1+1+1": ((0,), (1,), (2,), (3,)),
}
"""Every way to divide the lanes among the slots of a bundle."""


@dataclass(frozen=True)
class PlanCase:
    """A plan's program, its networks, as they were and as they are lowered, and samples for one run: for each job and
    input (inferences, C, H, W)."""

    plan: ExecutionPlan
    program: PlanProgram
    networks: Mapping[str, IntegerNetwork]
    mapped: Mapping[str, MappedNetwork]
    inputs: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def resident_words(self) -> int:
        """Words of all tensors that are ever on chip as a whole."""
        names = [name for name in self.program.placement.ranges if not name.role]
        return sum(self.mapped[name.job].storage.words(name.name) for name in names)


def make_case(
    rng: np.random.Generator,
    plan: ExecutionPlan,
    networks: Mapping[str, IntegerNetwork],
    mapped: Mapping[str, MappedNetwork],
    memory: Memory = DEFAULT_MEMORY,
    dram: DramLayout | None = None,
) -> PlanCase:
    """Lowers a plan and draws its inputs; raises `CompilerError` if the networks do not fit together."""
    config = next(iter(mapped.values())).config
    program = lower_plan(plan, mapped, config, memory=memory, dram=dram)
    inputs = {
        name: {
            each: np.stack([random_values(rng, networks[name].tensors[each]) for _ in job.tensors])
            for each in networks[name].inputs
        }
        for name, job in program.jobs.items()
    }
    return PlanCase(plan, program, networks, mapped, inputs)


def map_networks(networks: Mapping[str, IntegerNetwork], config: NpuConfig) -> dict[str, MappedNetwork]:
    """The networks in the form in which they are lowered; raises `CompilerError` if one does not fit."""
    lanes = LaneSet(config, tuple(range(config.lanes)))
    return {name: map_network(network, lanes, {}) for name, network in networks.items()}


def networks_for(rng: np.random.Generator, config: NpuConfig, partition: Partition) -> dict[str, IntegerNetwork]:
    """A random network for each slot of a partition, with depths that its lanes can run."""
    return {
        f"net{index}": NetworkGenerator(rng, config, lanes).network(int(rng.integers(1, 6)))
        for index, lanes in enumerate(partition)
    }


def side_by_side(
    rng: np.random.Generator, mapped: Mapping[str, MappedNetwork], partition: Partition, *, prefetch: bool
) -> ExecutionPlan:
    """Each network on lanes of its own, one to three operations in a slot, until all have ended."""
    queues = {name: [TaskId(name, 0, operation) for operation in each.operations] for name, each in mapped.items()}
    bundles = []
    while any(queues.values()):
        slots = []
        for lanes, queue in zip(partition, queues.values(), strict=True):
            count = int(rng.integers(1, 4))
            if queue:
                slots.append(Slot(lanes, tuple(queue[:count])))
                del queue[:count]
        bundles.append(Bundle(tuple(slots)))
    return ExecutionPlan("by hand", tuple(bundles), prefetch, 0)


def random_plan(
    rng: np.random.Generator,
    mapped: Mapping[str, MappedNetwork],
    inferences: Mapping[str, int],
    *,
    prefetch: bool,
    done: Collection[TaskId] = (),
) -> ExecutionPlan:
    """Bundles drawn at random: any partition, any of the jobs on any of its slots, one to three operations each, of
    those that are not ``done``.

    Inferences of a job follow one another.
    """
    queues = {
        name: [TaskId(name, index, each) for index in range(inferences[name]) for each in mapped[name].operations]
        for name in mapped
    }
    queues = {name: [task for task in queue if task not in done] for name, queue in queues.items()}
    bundles = []
    while any(queues.values()):
        partition = list(PARTITIONS.values())[int(rng.integers(len(PARTITIONS)))]
        jobs = [name for name in rng.permutation(list(queues)) if queues[name]]
        slots = []
        for lanes in partition:
            able = [name for name in jobs if _lanes_needed(mapped[name], queues[name][0]) <= len(lanes)]
            if able:
                jobs.remove(able[0])
                slots.append(_take(rng, mapped[able[0]], queues[able[0]], lanes))
        if slots:
            bundles.append(Bundle(tuple(slots)))
    return ExecutionPlan("random", tuple(bundles), prefetch, 0)


def _take(rng: np.random.Generator, mapped: MappedNetwork, queue: list[TaskId], lanes: Sequence[int]) -> Slot:
    """A slot with the first one to three tasks of a queue, as far as its lanes can run them."""
    tasks = [queue.pop(0)]
    for _ in range(int(rng.integers(3))):
        if queue and _lanes_needed(mapped, queue[0]) <= len(lanes):
            tasks.append(queue.pop(0))
    return Slot(tuple(lanes), tuple(tasks))


def _lanes_needed(mapped: MappedNetwork, task: TaskId) -> int:
    """Lanes of a whole gang for an operation; windows, which use no multipliers, run anywhere."""
    operation = mapped.operations[task.operation]
    if not isinstance(operation, Convolution):
        return 1
    return digits_of_depth(mapped.network.tensors[operation.input].depth)
