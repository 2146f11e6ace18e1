"""What operations cost on how many lanes: by the cycle model, or from times measured on the machine.

A network is lowered once for each number of lanes, with every operation on that many (or on more, where its depth needs
them), and the costs are read off the instructions of each operation and the cycles in which they ended. The cycle model
is asked about the stream *without its transfers*, so that the costs are those of an operation whose data are there in
time; of a measured stream, the times in which a unit was told to wait do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tessera.compiler.execution_plan import Bundle, ExecutionPlan, Slot, TaskId
from tessera.compiler.lowering.mapping import MappedNetwork, place_tensors
from tessera.compiler.lowering.plan import lower_plan
from tessera.compiler.lowering.tiling import OUTPUT, operands
from tessera.compiler.planning.dependencies import dependency_graph
from tessera.compiler.planning.occupancy import Occupancy, Owner, StreamStep, occupancies, traffic, without_transfers
from tessera.compiler.planning.tasks import Mode, Task, TaskGraph, Tensor
from tessera.rtl.config import NpuConfig, digits_of_depth
from tessera.rtl.isa import Bundle as BundleMark
from tessera.rtl.isa import Instruction, Store, encode_stream
from tessera.sim.cycles import predict
from tessera.sim.golden.network import Window
from tessera.sim.program import Program


@dataclass(frozen=True)
class Cost:
    """What an operation takes on a number of lanes.

    Attributes
    ----------
    cycles
        For which it keeps its lanes if all that it loads is there in time, waiting for its own post-processing to free
        accumulators included; a window operation: for which its slices work on it.
    latency
        Cycles from the end of that for which an operation that reads its output, if that is the next, waits for it. The
        reader's first tiles often need what has long been post-processed, so these are fewer than until the output is
        complete.
    post_cycles
        Cycles for which it keeps post-processing slices, added up over them.
    weight_bytes
        Bytes that are loaded into the weight bank of each of its lanes, at most.
    dram_bytes
        Bytes on the memory's bus, its instructions included.
    load_cycles
        Cycles that its loads take however fast the memory is.
    """

    cycles: int
    latency: int
    post_cycles: int
    weight_bytes: int
    dram_bytes: int
    load_cycles: int

    @property
    def span(self) -> int:
        """Cycles from its beginning until a reader of its output may begin."""
        return self.cycles + self.latency


CostTable = Mapping[str, Mapping[int, Cost]]
"""By operation, by number of lanes: 1, 2 and 4, without those that its depth does not allow."""


def lane_counts(config: NpuConfig) -> list[int]:
    """The numbers of lanes on which operations can be run: the powers of two up to all."""
    return [1 << exponent for exponent in range(config.lanes.bit_length())]


def lanes_needed(mapped: MappedNetwork, operation: str) -> int:
    """The fewest lanes that an operation can run on: one for each digit of its input; a window uses none, so 1."""
    found = mapped.operations[operation]
    return 1 if isinstance(found, Window) else digits_of_depth(mapped.network.tensors[found.input].depth)


def uniform_plan(mapped: MappedNetwork, lanes: int) -> ExecutionPlan:
    """The plan of one inference that runs one operation after another on the first ``lanes`` lanes, or on those that
    its depth needs if they are more. The job has the name of the network."""
    bundles = []
    for operation in mapped.operations:
        width = max(lanes, lanes_needed(mapped, operation))
        task = TaskId(mapped.network.name, 0, operation)
        bundles.append(Bundle((Slot(tuple(range(width)), (task,)),)))
    return ExecutionPlan("uniform", tuple(bundles), prefetch=True, cycles=0)


def uniform_program(mapped: MappedNetwork, lanes: int) -> Program:
    """The program of one network that a `uniform_plan` becomes; raises `CompilerError` if an operation cannot be
    encoded."""
    name, config = mapped.network.name, mapped.config
    plan = lower_plan(uniform_plan(mapped, lanes), {name: mapped}, config)
    job = plan.jobs[name]
    kept = [index for index, each in enumerate(plan.instructions) if not isinstance(each, BundleMark)]
    instructions = tuple(_unmarked(plan.instructions[index]) for index in kept)
    image = job.data.ljust(plan.code_address - job.data_address, b"\0") + encode_stream(instructions)
    roots = {each.name: where for each, where in plan.placement.ranges.items() if not each.role}
    placement = place_tensors(mapped, roots)
    tensors = job.tensors[0]
    return Program(
        name=name,
        config=config,
        lanes=tuple(range(config.lanes)),
        instructions=instructions,
        labels=tuple(plan.labels[index] for index in kept),
        operations=tuple(task.operation if (task := plan.tasks[index]) else "" for index in kept),
        operation_numbers={task.operation: number for task, number in plan.numbers.items()},
        address=job.data_address,
        image=image,
        code_address=plan.code_address,
        inputs={each: tensors[each] for each in job.inputs},
        outputs={each: tensors[each] for each in job.outputs},
        placement=placement,
        streamed={each: tensor for each, tensor in tensors.items() if each not in placement},
        end_address=plan.end_address,
        macs=mapped.macs,
    )


def _unmarked(instruction: Instruction) -> Instruction:
    """A store without its word to the host that its network has finished."""
    return replace(instruction, finished=0) if isinstance(instruction, Store) else instruction


Clock = Callable[[Program], tuple[Sequence[StreamStep], Sequence[int]]]
"""Finds how long a program's instructions take: the steps that were timed, and the cycle in which each had finished."""


def cycle_model(program: Program) -> tuple[Sequence[StreamStep], Sequence[int]]:
    """The times by the cycle model of what works on the chip, as if all that is loaded were there."""
    steps = without_transfers(steps_of(program), program.config)
    return steps, predict([step.instruction for step in steps], program.config, dispatch=False).end.tolist()


def steps_of(program: Program) -> list[StreamStep]:
    """The instructions of a program with the operations that they belong to."""
    owners = zip(program.instructions, program.labels, program.operations, strict=True)
    return [StreamStep(instruction, label, owner=operation or None) for instruction, label, operation in owners]


def network_costs(mapped: MappedNetwork, clock: Clock = cycle_model) -> dict[str, dict[int, Cost]]:
    """Costs of a network's operations on every number of lanes.

    Parameters
    ----------
    mapped
        The network in its form for the machine; its operations include copies that the compiler adds.
    clock
        Where the times are from.

    Raises
    ------
    CompilerError
        An operation cannot be encoded.
    """
    chain = read_next(mapped)
    found: dict[str, dict[int, Cost]] = {operation: {} for operation in mapped.operations}
    for lanes in lane_counts(mapped.config):
        program = uniform_program(mapped, lanes)
        costs = operation_costs(steps_of(program), mapped.config, *clock(program), chain)
        for operation, cost in costs.items():
            if lanes >= lanes_needed(mapped, operation):
                found[operation][lanes] = cost
    return found


def read_next(mapped: MappedNetwork) -> dict[str, str]:
    """By operations the one that comes next, if it reads what they write."""
    graph = dependency_graph(mapped)
    return {name: after for name, after in pairwise(graph) if graph.has_edge(name, after)}


def operation_costs(
    program: Sequence[StreamStep],
    config: NpuConfig,
    timed: Sequence[StreamStep],
    ends: Sequence[int],
    readers: Mapping[Owner, Owner],
) -> dict[Owner, Cost]:
    """Costs of operations, by the owners of their steps, on the lanes on which they run.

    Parameters
    ----------
    program
        The stream, for what is moved.
    config
        The machine.
    timed
        The steps whose times are known: the stream, or it `without_transfers`.
    ends
        For each of these the cycle in which it had finished.
    readers
        By operations the one that came next, if it reads what they write.
    """
    moved, times = traffic(program, config), occupancies(timed, config, ends)
    return {
        owner: Cost(
            each.cycles,
            _latency(each, times.get(readers.get(owner))),
            each.post_cycles,
            moved[owner].weight_bytes,
            moved[owner].dram_bytes,
            moved[owner].load_cycles,
        )
        for owner, each in times.items()
    }


def _latency(operation: Occupancy, reader: Occupancy | None) -> int:
    """What the reader waited for the operation, as far as the reader came next."""
    complete = operation.complete - operation.summed
    if reader is None:
        return complete
    return max(0, min(complete, reader.summed - reader.cycles - operation.summed))


def task_graph(mapped: MappedNetwork, costs: CostTable) -> TaskGraph:
    """The tasks of one inference: the operations of a network as it is lowered, in their order.

    Parameters
    ----------
    mapped
        The network in its form for the machine.
    costs
        Costs of its operations.
    """
    graph = dependency_graph(mapped)
    index = {name: position for position, name in enumerate(mapped.operations)}
    tasks = []
    for name in mapped.operations:
        modes = tuple(_modes(costs[name]))
        before = tuple(sorted(index[each] for each in graph.predecessors(name)))
        cost, words = costs[name][modes[-1].lanes], mapped.tiling.operations[name].words
        tasks.append(Task(name, modes, before, cost.dram_bytes, words, cost.load_cycles))
    return TaskGraph(tuple(tasks), tuple(_tensors(mapped)))


def _modes(costs: Mapping[int, Cost]) -> Iterator[Mode]:
    """The modes that are faster than all with fewer lanes."""
    best = None
    for lanes, cost in sorted(costs.items()):
        if best is None or cost.span < best:
            best = cost.span
            yield Mode(lanes, cost.cycles, cost.latency, cost.post_cycles, cost.weight_bytes)


def _tensors(mapped: MappedNetwork) -> Iterator[Tensor]:
    """The roots of storage that are resident, with those that write and read them or parts of them."""
    storage = mapped.storage
    for name in dict.fromkeys(map(storage.root, mapped.network.tensors)):
        if name not in mapped.tiling.resident:
            continue
        writers, readers = [], []
        for index, operation in enumerate(mapped.network.operations):
            roots = {role: storage.root(each) for role, each in operands(operation).items()}
            if roots.pop(OUTPUT) == name:
                writers.append(index)
            if name in roots.values():
                readers.append(index)
        yield Tensor(storage.words(name), tuple(writers), tuple(readers))
