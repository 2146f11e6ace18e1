"""What the planner knows of networks: dependencies, costs on each number of lanes, and the task graph."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from random_networks import NetworkGenerator, residual_network
from test_lowering import convolution_network, post_processing

from tessera.compiler.integer import to_integer
from tessera.compiler.lowering.mapping import MappedNetwork, map_to_machine
from tessera.compiler.lowering.tiling import OUTPUT, operands
from tessera.compiler.mixed_precision.costs import transfer_bytes
from tessera.compiler.planning.costs import (
    CostTable,
    cycle_model,
    lanes_needed,
    network_costs,
    operation_costs,
    read_next,
    steps_of,
    task_graph,
    uniform_program,
)
from tessera.compiler.planning.dependencies import dependency_graph, optimisations
from tessera.compiler.planning.occupancy import LANE_CONFLICTS
from tessera.compiler.planning.operation_key import operation_key
from tessera.compiler.planning.tasks import Task, TaskGraph
from tessera.compiler.qonnx_reader import read_qonnx
from tessera.firmware.timeline import instruction_times
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import INSTRUCTION_BYTES, PPU_SLICES, Fence, Load, Store, Unit, Wait
from tessera.sim.cycles import Memory, predict
from tessera.sim.golden.network import Convolution, IntegerNetwork, Part, TensorType, Window
from tessera.sim.program import Program
from tessera.sim.tensor_layout import tensor_bytes

EDGE, TINY = NpuConfig.preset("edge"), NpuConfig.preset("tiny")
SMALL = replace(TINY, name="small", activation_bank_bytes=512)
"""Its banks hold 128 words, so that maps pass through buffers."""
MIXED = Path(__file__).resolve().parent.parent / "models" / "mixed"

START_UP = 32
"""Cycles at most that an operation takes before its lanes work at their pace."""


def random_mapped(seed: int, config: NpuConfig = TINY, operations: int = 6) -> MappedNetwork:
    """A random network in its form for a machine."""
    print(f"seed {seed}")
    return map_to_machine(NetworkGenerator(np.random.default_rng(seed), config).network(operations), config)


def one_by_one(graph: TaskGraph, lanes: int) -> int:
    """Cycles of a task graph whose tasks run one after another, each on the most lanes up to a number."""
    free, complete = 0, [0] * len(graph.tasks)
    for index, task in enumerate(graph.tasks):
        mode = [task.native, *(mode for mode in task.modes if mode.lanes <= lanes)][-1]
        begin = max([free, *(complete[before] for before in task.predecessors)])
        free = begin + mode.cycles
        complete[index] = free + mode.latency
    return max(complete)


@pytest.mark.parametrize(("depth", "weight_depth"), [(4, 4), (4, 8), (8, 8), (6, 4), (16, 8)])
def test_a_convolution_by_arithmetic(depth: int, weight_depth: int) -> None:
    """32 channels to 64 under 3 x 3 on 14 x 14 pixels, which are one tile."""
    network = convolution_network(TensorType(32, 16, 16, depth, True), 64, (3, 3), weight_depth)
    mapped = map_to_machine(network, EDGE)
    digits = {4: 1, 6: 2, 8: 2, 16: 4}[depth]
    steps = 9 * 32 // (EDGE.rows * (2 if weight_depth == 4 else 1))
    blocks = 64 // EDGE.cols
    costs = network_costs(mapped)["conv"]
    assert list(costs) == [lanes for lanes in (1, 2, 4) if lanes >= digits]
    for lanes, cost in costs.items():
        gangs = lanes // digits
        assert 0 <= cost.cycles - blocks * steps * 196 // gangs <= START_UP, lanes
        assert cost.post_cycles >= blocks * 196
        whole = blocks * steps * EDGE.weight_block_bytes
        assert cost.weight_bytes in {whole // groups for groups in range(1, gangs + 1)}
        instructions = sum(operation == "conv" for operation in uniform_program(mapped, lanes).operations)
        tensors = sum(tensor_bytes(tensor, EDGE) for tensor in network.tensors.values())
        assert cost.dram_bytes == tensors + whole + 64 * 8 + instructions * INSTRUCTION_BYTES


def test_post_processing_bounds_a_short_reduction() -> None:
    """With one step per tile both slices have as much to do as two lanes; four are kept waiting by them."""
    mapped = map_to_machine(convolution_network(TensorType(16, 32, 32, 4, True), 64, (1, 1), 4), EDGE)
    costs = network_costs(mapped)["conv"]
    least = 1024 * 64 // EDGE.cols // PPU_SLICES
    assert costs[2].cycles >= least
    assert least * 0.7 <= costs[4].cycles + costs[4].latency <= least * 1.2
    assert costs[1].cycles == pytest.approx(2 * least, rel=0.03)


def test_windows_need_no_lanes() -> None:
    """Both slices share a pooling: a cycle per position and block of channels, however many lanes there are."""
    shape = TensorType(64, 8, 8, 8, False)
    operation = Window("pool", "x", "y", "max", (2, 2), (2, 2), (0, 0, 0, 0), post_processing(64))
    tensors = {"x": shape, "y": TensorType(64, 4, 4, 8, False)}
    mapped = map_to_machine(IntegerNetwork("net", tensors, ("x",), ("y",), (operation,)), EDGE)
    assert lanes_needed(mapped, "pool") == 1
    costs = network_costs(mapped)
    positions = 16 * 4 * 64 // EDGE.cols
    for cost in costs["pool"].values():
        assert cost.post_cycles == positions
        assert 0 <= cost.cycles - positions // PPU_SLICES <= START_UP
        assert cost.weight_bytes == 0
    (task,) = task_graph(mapped, costs).tasks
    assert [mode.lanes for mode in task.modes] == [1]


@pytest.mark.parametrize("seed", range(6))
def test_costs_of_random_networks(seed: int) -> None:
    """The parts make the whole: one after another the tasks take as long as the stream, but for windows, which work
    beside lanes, and move what it moves."""
    mapped = random_mapped(seed)
    costs = network_costs(mapped)
    graph = task_graph(mapped, costs)
    assert [task.operation for task in graph.tasks] == list(mapped.operations)
    for task in graph.tasks:
        check_task(task, mapped, costs)
    for lanes in (1, 2, 4):
        program = uniform_program(mapped, lanes)
        total = max(cycle_model(program)[1])
        at = {name: by_lanes[max(lanes, min(by_lanes))] for name, by_lanes in costs.items()}
        beside = sum(at[name].cycles for name, each in mapped.operations.items() if isinstance(each, Window))
        latencies = sum(cost.latency for cost in at.values())
        alone = one_by_one(all_modes(graph, costs), lanes)
        assert alone - beside - latencies <= total + START_UP * len(at)
        assert total <= alone + START_UP * len(at)
        if lanes == 4:
            assert sum(cost.dram_bytes for cost in at.values()) == bytes_of(program)


def all_modes(graph: TaskGraph, costs: CostTable) -> TaskGraph:
    """The graph with the modes that are no faster than others, too."""
    tasks = []
    for task in graph.tasks:
        modes = [
            replace(task.native, lanes=lanes, cycles=cost.cycles, latency=cost.latency)
            for lanes, cost in sorted(costs[task.operation].items())
        ]
        tasks.append(replace(task, modes=tuple(modes)))
    return replace(graph, tasks=tuple(tasks))


def check_task(task: Task, mapped: MappedNetwork, costs: CostTable) -> None:
    """Modes use rising lanes and get faster; none is lost that does."""
    assert task.native.lanes == lanes_needed(mapped, task.operation)
    for fewer, more in pairwise(task.modes):
        assert fewer.lanes < more.lanes
        assert fewer.cycles + fewer.latency > more.cycles + more.latency
    fastest = min(cost.span for cost in costs[task.operation].values())
    assert task.fastest.cycles + task.fastest.latency == fastest
    assert task.buffer_words == mapped.tiling.operations[task.operation].words


def bytes_of(program: Program) -> int:
    """Bytes on the memory's bus of all instructions but the end."""
    transfers = [each for each in program.instructions if isinstance(each, Load | Store)]
    moved = sum(transfer_bytes(each, program.config) for each in transfers)
    return moved + (len(program.instructions) - 1) * INSTRUCTION_BYTES


@pytest.mark.parametrize("name", ["digits32_resnet8_30", "keywords_dscnn_50", "novelty_autoencoder_57"])
def test_serial_time_of_shipped_networks(name: str) -> None:
    """What the task graph says of a network alone is what the cycle model says of its stream, transfers included: no
    less than computing and moving take, and little more where bandwidth is plentiful."""
    mapped = map_to_machine(to_integer(read_qonnx(MIXED / f"{name}.onnx")), EDGE)
    graph = task_graph(mapped, network_costs(mapped))
    for lanes in (1, 4):
        program = uniform_program(mapped, lanes)
        computing = one_by_one(graph, lanes)
        assert computing == pytest.approx(max(cycle_model(program)[1]), rel=0.01)
        for bandwidth in (16, 8):
            total = predict(program.instructions, EDGE, Memory(bytes_per_cycle=bandwidth)).total
            moving = sum(max(task.dram_bytes / bandwidth, task.transfer_cycles) for task in graph.tasks)
            assert 0.98 * computing <= total
            assert total <= 1.05 * max(computing, moving) + graph_start(graph, bandwidth) + 200


def graph_start(graph: TaskGraph, bandwidth: float) -> float:
    """Cycles until the first task has all that it loads, and until the last is complete after its loads."""
    first, last = graph.tasks[0], graph.tasks[-1]
    return sum(max(task.dram_bytes / bandwidth, task.transfer_cycles) for task in (first, last)) + last.fastest.cycles


def test_traces_and_the_model_are_read_alike() -> None:
    """A trace of a machine that does what the cycle model says gives what the model's times give."""
    mapped = random_mapped(11)
    program = uniform_program(mapped, 2)
    ends = predict(program.instructions, TINY).end.tolist()
    completed: dict[Unit, int] = {}
    trace = []
    for index, (instruction, end) in enumerate(zip(program.instructions, ends, strict=True)):
        for unit in () if isinstance(instruction, Wait | Fence) else instruction.units():
            ends[index] = completed[unit] = max(end, completed.get(unit, 0))
            trace.append((completed[unit], 1 << unit))
    steps = steps_of(program)
    costs = operation_costs(steps, TINY, steps, ends, read_next(mapped))
    found = operation_costs(steps, TINY, steps, instruction_times(program, sorted(trace))[1], read_next(mapped))
    assert found == costs


def test_waits_for_transfers_do_not_count() -> None:
    """A layer of many weights: on a slow memory it takes as long as these, but keeps its lanes no longer."""
    mapped = map_to_machine(convolution_network(TensorType(256, 1, 1, 4, True), 512, weight_depth=8), EDGE)
    program = uniform_program(mapped, 1)
    steps, ideal = steps_of(program), network_costs(mapped)["conv"][1]
    for bandwidth in (16, 2):
        prediction = predict(program.instructions, EDGE, Memory(bytes_per_cycle=bandwidth))
        cost = operation_costs(steps, EDGE, steps, prediction.end.tolist(), {})["conv"]
        assert prediction.total >= 256 * 512 / bandwidth
        assert cost.cycles == pytest.approx(ideal.cycles, rel=1.2 / LANE_CONFLICTS)
    assert prediction.total > 3 * ideal.cycles


def test_the_backlog_of_others_does_not_count() -> None:
    """What a layer leaves to post-process keeps the next one waiting, which begins with a part of its output; but that
    is no part of the next one's cost."""
    wide = convolution_network(TensorType(16, 32, 32, 4, True), 64, weight_depth=4)
    next_one = convolution_network(TensorType(64, 32, 32, 4, True), 64, (3, 3), weight_depth=4, groups=64)
    second = replace(next_one.operations[0], name="second", input="y", output="z")
    tensors = wide.tensors | {"z": next_one.tensors["y"]}
    both = IntegerNetwork("both", tensors, ("x",), ("z",), (*wide.operations, second))
    program = uniform_program(map_to_machine(both, EDGE), 4)
    steps, ends = cycle_model(program)
    found = operation_costs(steps, EDGE, steps, ends, {})["second"].cycles
    alone = network_costs(map_to_machine(next_one, EDGE))["conv"][4].cycles
    assert found == pytest.approx(alone, abs=START_UP)


@pytest.mark.parametrize("seed", range(20, 32))
@pytest.mark.parametrize("config", [TINY, SMALL], ids=lambda config: config.name)
def test_dependencies_are_those_of_the_channels(seed: int, config: NpuConfig) -> None:
    """Operations that use a channel of one storage, of which one writes, are connected; and no others are adjacent."""
    mapped = random_mapped(seed, config)
    graph = dependency_graph(mapped)
    assert list(graph) == list(mapped.operations)
    assert nx.is_directed_acyclic_graph(graph)
    position = {name: index for index, name in enumerate(graph)}
    for first, second in combinations(graph, 2):
        if conflict(mapped, first, second):
            assert nx.has_path(graph, first, second)
        else:
            assert not graph.has_edge(first, second)
    for first, second, facts in graph.edges(data=True):
        assert position[first] < position[second]
        for tensor in facts["tensors"]:
            assert mapped.operations[first].output == tensor
        assert facts["bytes"] == sum(tensor_bytes(mapped.network.tensors[each], config) for each in facts["tensors"])


def conflict(mapped: MappedNetwork, first: str, second: str) -> bool:
    """Whether two operations use a channel in common, and one of them writes it."""
    uses = []
    for name in (first, second):
        channels: dict[str, set[tuple[str, int]]] = {OUTPUT: set(), "read": set()}
        for role, tensor in operands(mapped.operations[name]).items():
            root, block = mapped.storage.place(tensor)
            begin = block * mapped.config.word_digits
            used = {(root, begin + each) for each in range(mapped.network.tensors[tensor].channels)}
            channels[OUTPUT if role == OUTPUT else "read"] |= used
        uses.append(channels)
    one, other = uses
    return bool(one[OUTPUT] & (other[OUTPUT] | other["read"]) or one["read"] & other[OUTPUT])


def network_with_parts() -> IntegerNetwork:
    """Two convolutions make the halves of ``whole``, one reads it, and one reads the second half alone."""
    tensors = {"x": TensorType(8, 4, 4, 8, True), "whole": TensorType(16, 4, 4, 8, True)}
    tensors |= {name: TensorType(8, 4, 4, 8, True) for name in ("a", "b", "y", "z")}
    rng = np.random.default_rng(0)

    def pointwise(source: str, target: str) -> Convolution:
        shape = (tensors[target].channels, tensors[source].channels, 1, 1)
        weights = rng.integers(-8, 8, shape).astype(np.int8)
        post = post_processing(shape[0])
        return Convolution(f"to_{target}", source, target, weights, 8, (1, 1), (0, 0, 0, 0), (1, 1), 0, post)

    operations = (pointwise("x", "a"), pointwise("x", "b"), pointwise("whole", "y"), pointwise("b", "z"))
    parts = {"a": Part("whole", 0), "b": Part("whole", 8)}
    return IntegerNetwork("parts", tensors, ("x",), ("y", "z"), operations, parts)


def test_parts_depend_on_their_own_channels() -> None:
    mapped = map_to_machine(network_with_parts(), TINY)
    graph = dependency_graph(mapped)
    assert sorted(graph.edges) == [("to_a", "to_y"), ("to_b", "to_y"), ("to_b", "to_z")]
    for edge in graph.edges:
        assert graph.edges[edge]["words"] == 16
        assert graph.edges[edge]["bytes"] == 16 * TINY.pixel_bytes(8)
    tensors = {tensor.words: tensor for tensor in task_graph(mapped, network_costs(mapped)).tensors}
    assert tensors[32].writers == (0, 1)
    assert tensors[32].readers == (2, 3)


def test_memory_that_is_written_again_is_read_before() -> None:
    """A part that overlaps one that was read: the order matters, though no data pass."""
    network = network_with_parts()
    overlapping = replace(network.operations[0], name="again", output="c")
    # The second part moves to where the first is, which is written again after it was read.
    parts = {"a": Part("whole", 0), "b": Part("whole", 0), "c": Part("whole", 8)}
    tensors = network.tensors | {"c": network.tensors["a"]}
    to_a, to_b, to_y, to_z = network.operations
    operations = (to_b, to_z, to_a, overlapping, to_y)
    mapped = map_to_machine(network, TINY)
    written_twice = replace(mapped.network, tensors=tensors, parts=parts, operations=operations)
    mapped = replace(mapped, network=written_twice, storage=replace(mapped.storage, network=written_twice))
    graph = dependency_graph(mapped)
    assert graph.edges["to_b", "to_z"]["tensors"] == ("b",)
    assert graph.edges["to_z", "to_a"] == {"tensors": (), "bytes": 0, "words": 0}
    assert graph.has_edge("to_a", "to_y")
    assert graph.has_edge("again", "to_y")
    assert not graph.has_edge("to_b", "to_y")


def test_facts_of_operations() -> None:
    graph = dependency_graph(map_to_machine(residual_network(4, 4, side=16), EDGE))
    assert graph.nodes["block1b"] == {
        "kind": "convolution",
        "input": (32, 8, 8),
        "output": (32, 8, 8),
        "input_depth": 4,
        "output_depth": 4,
        "residual_depth": 4,
        "weight_depth": 4,
    }
    assert graph.nodes["pool"]["kind"] == "window"
    assert graph.nodes["pool"]["weight_depth"] is None


def test_optimisations_in_sentences() -> None:
    """Each is said of what it is, and of nothing else."""
    network = residual_network(4, 4, side=16)
    said = optimisations(map_to_machine(network, EDGE))
    assert "block1b: the addition of block1s is fused into its post-processing" in said
    assert "stem: its activation 0..15 is fused into its post-processing" in said
    assert "map block0a: 2,048 bytes stay on chip from block0a to block0b: no store, no load" in said
    assert not any("in parts" in sentence for sentence in said)
    small = optimisations(map_to_machine(network, replace(EDGE, name="small", activation_bank_bytes=4096)))
    assert any("do not fit on chip" in sentence for sentence in small)
    assert any("its weights are loaded once for" in sentence for sentence in small)
    parts = optimisations(map_to_machine(network_with_parts(), TINY))
    assert "map a: lies in whole: no copy" in parts
    assert "input x: 128 bytes are loaded once for 2 operations" in parts


def test_keys_are_of_what_matters() -> None:
    """Equal shapes have one key, whatever they hold; anything that changes the duration changes it."""
    mapped = map_to_machine(residual_network(4, 4, side=16), EDGE)
    other = map_to_machine(residual_network(4, 4, side=16, seed=5), EDGE)
    keys = {name: operation_key(mapped, name) for name in mapped.operations}
    assert keys == {name: operation_key(other, name) for name in other.operations}
    assert keys["block0a"] != keys["block0b"]
    deep = map_to_machine(residual_network(8, 4, side=16), EDGE)
    assert all(operation_key(deep, name) != key for name, key in keys.items())
    shapes = {"stride": (2, 2), "dilation": (2, 2), "groups": 2, "weight_depth": 8, "kernel": (3, 3)}
    source = TensorType(16, 12, 12, 8, True)
    plain = operation_key(map_to_machine(convolution_network(source, 16, weight_depth=4), EDGE), "conv")
    for name, value in shapes.items():
        options = {"weight_depth": 4, name: value}
        if name == "dilation":
            options["kernel"] = (2, 2)
        assert operation_key(map_to_machine(convolution_network(source, 16, **options), EDGE), "conv") != plain, name
