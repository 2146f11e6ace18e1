"""What operations cost on how many lanes: by the cycle model, or from times measured on the machine.

A network is lowered once for each number of lanes, with every operation on that many (or on more, where its depth needs
them), and the costs are read off the instructions of each operation and the cycles in which they ended. The cycle model
is asked about the stream *without its transfers*, so that the costs are those of an operation whose data are there in
time; of a measured stream, the times in which a unit was told to wait do not count.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx

from tessera.compiler.lowering import lower
from tessera.compiler.lowering.builder import LaneSet, Step
from tessera.compiler.lowering.mapping import MappedNetwork, map_network
from tessera.compiler.lowering.placement import tensor_lifetimes
from tessera.compiler.lowering.synchronise import synchronise_steps
from tessera.compiler.lowering.tiling import OUTPUT, operands
from tessera.compiler.mixed_precision.costs import transfer_bytes
from tessera.compiler.planning.dependencies import dependency_graph
from tessera.compiler.planning.tasks import Mode, Task, TaskGraph, Tensor
from tessera.rtl.config import NpuConfig, digits_of_depth
from tessera.rtl.isa import (
    INSTRUCTION_BYTES,
    CountedInstruction,
    Fence,
    LaneProgram,
    Load,
    LoadTarget,
    PostProcess,
    Source,
    Store,
    Wait,
    Window,
    lanes_of_mask,
)
from tessera.sim.cycles import predict
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.occupancy import lane_cycles, post_cycles, starts
from tessera.sim.program import DramFormat, Program


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
    """

    cycles: int
    latency: int
    post_cycles: int
    weight_bytes: int
    dram_bytes: int

    @property
    def span(self) -> int:
        """Cycles from its beginning until its output is complete."""
        return self.cycles + self.latency


CostTable = Mapping[str, Mapping[int, Cost]]
"""By operation, by number of lanes: 1, 2 and 4, without those that its depth does not allow."""


def lane_counts(config: NpuConfig) -> list[int]:
    """The numbers of lanes on which operations can be run: the powers of two up to all."""
    return [1 << exponent for exponent in range(config.lanes.bit_length())]


def lanes_needed(network: IntegerNetwork, operation: str) -> int:
    """The fewest lanes that an operation can run on: one for each digit of its input."""
    return digits_of_depth(network.tensors[network.operation(operation).input].depth)


def predicted_costs(
    network: IntegerNetwork, config: NpuConfig, io_formats: Mapping[str, DramFormat] | None = None
) -> dict[str, dict[int, Cost]]:
    """Costs of a network's operations by the cycle model.

    Parameters
    ----------
    network
        The network. The operations are those that it has when it is lowered, copies of the compiler included.
    config
        The machine.
    io_formats
        What inputs and outputs are in DRAM, by name, as for `lower`.

    Raises
    ------
    CompilerError
        The network does not fit the machine.
    """
    mapped = map_network(network, LaneSet(config, tuple(range(config.lanes))), io_formats or {})
    graph = dependency_graph(mapped)
    found: dict[str, dict[int, Cost]] = defaultdict(dict)
    for lanes in lane_counts(config):
        program = lower(network, config, width=lanes, io_formats=io_formats)
        alone = without_transfers(program)
        ends = predict(alone.instructions, config, dispatch=False).end.tolist()
        for name, cost in operation_costs(program, alone, ends, graph).items():
            if lanes >= lanes_used(program, name):
                found[name][lanes] = cost
    return dict(found)


def lanes_used(program: Program, operation: str) -> int:
    """Lanes of each gang that works on an operation."""
    return max(
        len(lanes_of_mask(instruction.lanes))
        for instruction, name in zip(program.instructions, program.operations, strict=True)
        if name == operation and isinstance(instruction, LaneProgram | Window)
    )


def without_transfers(program: Program) -> Program:
    """The instructions of a program that work on what is on chip, with the waits that they need."""
    steps = [
        Step(instruction, label, operation)
        for instruction, label, operation in zip(program.instructions, program.labels, program.operations, strict=True)
        if not isinstance(instruction, Load | Store | Wait | Fence)
    ]
    steps = synchronise_steps(steps, program.config)
    return replace(
        program,
        instructions=tuple(step.instruction for step in steps),
        labels=tuple(step.label for step in steps),
        operations=tuple(step.operation for step in steps),
    )


def operation_costs(program: Program, timed: Program, ends: Sequence[int], graph: nx.DiGraph) -> dict[str, Cost]:
    """Costs of a program's operations on the lanes on which it runs them.

    Parameters
    ----------
    program
        The program, for what is moved.
    timed
        The program whose times are known: the same, or it `without_transfers`.
    ends
        For each instruction of ``timed`` the cycle in which it had finished.
    graph
        The dependency graph of its network.
    """
    times, weights, traffic = _times(timed, ends), _weight_bytes(program), _traffic(program)
    latencies = _latencies(times, graph)
    return {
        name: Cost(each.cycles, latencies[name], each.posts, weights.get(name, 0), traffic[name])
        for name, each in times.items()
    }


@dataclass
class _Times:
    """When an operation worked.

    Attributes
    ----------
    units
        Cycles for which it kept each of its lanes, or of the slices that read its windows.
    posts
        Cycles for which it kept post-processing slices, in all.
    summed, complete
        When its last lane program, or window, and when its last post-process ended.
    """

    units: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    posts: int = 0
    summed: int = 0
    complete: int = 0

    @property
    def cycles(self) -> int:
        """Cycles for which it kept the unit that had most to do."""
        return max(self.units.values())


def _latencies(times: Mapping[str, _Times], graph: nx.DiGraph) -> dict[str, int]:
    """What the reader of each operation's output waited for it, as far as it shows: if the reader came next."""
    names = list(graph)
    latencies = {}
    for name, following in zip(names, [*names[1:], ""]):
        latency = times[name].complete - times[name].summed
        if following in graph.successors(name):
            waited = times[following].summed - times[following].cycles - times[name].summed
            latency = max(0, min(latency, waited))
        latencies[name] = latency
    return latencies


def _times(program: Program, ends: Sequence[int]) -> dict[str, _Times]:
    """When the operations of a program worked."""
    begun = starts(program.instructions, program.config, ends)
    backlog = _Backlog(program, ends)
    windows: dict[int, deque[tuple[int, int]]] = defaultdict(deque)
    times: dict[str, _Times] = defaultdict(_Times)
    for instruction, name, start, end in zip(program.instructions, program.operations, begun, ends, strict=True):
        if isinstance(instruction, LaneProgram):
            start = max(start, backlog.before(end - lane_cycles(instruction, program.config), name))
            for lane in lanes_of_mask(instruction.lanes):
                times[name].units[lane] += end - start
            times[name].summed = max(times[name].summed, end)
        elif isinstance(instruction, Window):
            windows[instruction.slice].append((start, instruction.kernel_height * instruction.kernel_width))
        elif isinstance(instruction, PostProcess):
            positions = 1
            if instruction.source is Source.WINDOW:
                read, positions = windows[instruction.slice].popleft()
                times[name].units[instruction.slice] += end - max(start, read)
                times[name].summed = max(times[name].summed, end)
            times[name].posts += post_cycles(instruction, positions, program.config)
            times[name].complete = max(times[name].complete, end)
    return times


class _Backlog:
    """What an operation's lanes wait for that is not its own: post-processing that earlier operations have left."""

    def __init__(self, program: Program, ends: Sequence[int]):
        posts = sorted(
            (end, name)
            for instruction, name, end in zip(program.instructions, program.operations, ends, strict=True)
            if isinstance(instruction, PostProcess)
        )
        self._ends = [end for end, _ in posts]
        self._names = [name for _, name in posts]
        self._other = [-1] * len(posts)  # the last one before each that belongs to another operation
        for index in range(1, len(posts)):
            same = self._names[index] == self._names[index - 1]
            self._other[index] = self._other[index - 1] if same else index - 1

    def before(self, cycle: int, operation: str) -> int:
        """The last cycle, up to a given one, in which a post-process of another operation ended; 0 if none did."""
        index = bisect_right(self._ends, cycle) - 1
        if index >= 0 and self._names[index] == operation:
            index = self._other[index]
        return self._ends[index] if index >= 0 else 0


def _weight_bytes(program: Program) -> dict[str, int]:
    """Bytes that are loaded into a lane's weight bank, at most, by operation."""
    found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for instruction, name in zip(program.instructions, program.operations, strict=True):
        if isinstance(instruction, Load) and instruction.target is LoadTarget.WEIGHTS:
            for lane in lanes_of_mask(instruction.lanes):
                found[name][lane] += instruction.columns * program.config.beat_bytes
    return {name: max(lanes.values()) for name, lanes in found.items()}


def _traffic(program: Program) -> dict[str, int]:
    """Bytes on the memory's bus, by operation."""
    found: dict[str, int] = defaultdict(int)
    for instruction, name in zip(program.instructions, owners(program), strict=True):
        found[name] += INSTRUCTION_BYTES
        if isinstance(instruction, Load | Store):
            found[name] += transfer_bytes(instruction, program.config)
    return found


def owners(program: Program) -> list[str]:
    """The operation that each instruction of a program counts with: also loads of inputs and stores of outputs, which
    are not a part of it. A wait counts with what it is for, the end with the last operation."""
    return list(_owners_backwards(program))[::-1]


def _owners_backwards(program: Program) -> Iterator[str]:
    names = list(program.operation_numbers)
    position = len(names) - 1
    for instruction, name in zip(reversed(program.instructions), reversed(program.operations), strict=True):
        if name:
            position = names.index(name)
        elif isinstance(instruction, CountedInstruction):
            numbered = [index for index, each in enumerate(names) if _number(program, each) == instruction.operation]
            position = min(numbered, key=lambda index: abs(index - position))
        yield names[position]


def _number(program: Program, operation: str) -> int:
    return program.operation_numbers[operation]


def task_graph(mapped: MappedNetwork, costs: CostTable) -> TaskGraph:
    """The tasks of one inference: the operations of a network as it is lowered, in their order.

    Parameters
    ----------
    mapped
        The network in its form for the machine.
    costs
        Costs of its operations.
    """
    network = mapped.network
    graph = dependency_graph(mapped)
    index = {operation.name: position for position, operation in enumerate(network.operations)}
    tasks = []
    for operation in network.operations:
        by_lanes = costs[operation.name]
        modes = tuple(_modes(by_lanes))
        tasks.append(
            Task(
                operation.name,
                modes,
                tuple(sorted(index[name] for name in graph.predecessors(operation.name))),
                by_lanes[modes[-1].lanes].dram_bytes,
                mapped.tiling.operations[operation.name].words,
            )
        )
    return TaskGraph(tuple(tasks), tuple(_tensors(mapped)))


def _modes(costs: Mapping[int, Cost]) -> Iterator[Mode]:
    """The modes that have their output complete sooner than all with fewer lanes."""
    best = None
    for lanes, cost in sorted(costs.items()):
        if best is None or cost.span < best:
            best = cost.span
            yield Mode(lanes, cost.cycles, cost.latency, cost.post_cycles, cost.weight_bytes)


def _tensors(mapped: MappedNetwork) -> Iterator[Tensor]:
    """The roots of storage that are resident, with those that write and read them or parts of them."""
    network, root = mapped.network, mapped.storage.root
    for life in tensor_lifetimes(network, mapped.config):
        if life.name not in mapped.tiling.resident:
            continue
        writers, readers = [], []
        for index, operation in enumerate(network.operations):
            named = operands(operation)
            if root(named.pop(OUTPUT)) == life.name:
                writers.append(index)
            if any(root(each) == life.name for each in named.values()):
                readers.append(index)
        yield Tensor(life.words, tuple(writers), tuple(readers))
