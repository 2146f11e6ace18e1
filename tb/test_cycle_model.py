"""The cycle model: exact on single instructions, close on networks, and never against the machine's rules."""

from __future__ import annotations

import dataclasses
import gc
import itertools

import numpy as np
import pytest
from random_networks import NetworkGenerator, random_inputs, residual_network
from topologies import resnet18

from tessera.compiler.lowering import lower
from tessera.firmware.cosimulation import Options, Start, run_program, simulate
from tessera.rtl.config import NpuConfig, digits_of_depth
from tessera.rtl.isa import (
    Bundle,
    Depth,
    End,
    Fence,
    Instruction,
    LaneProgram,
    Load,
    LoadTarget,
    MemoryFormat,
    PostProcess,
    Source,
    Store,
    Unit,
    Wait,
    Window,
    encode_stream,
    units_of_mask,
)
from tessera.sim.cycles import Memory, Timing, predict
from tessera.sim.golden.network import IntegerNetwork, TensorType

DATA_ADDRESS = 1 << 16
"""DRAM address that stores write to, behind the code."""

TINY = NpuConfig.preset("tiny")
EDGE = NpuConfig.preset("edge")


def load(columns: int, depth: Depth = Depth.A8) -> Load:
    return Load(target=LoadTarget.ACTIVATIONS, lanes=15, columns=columns, memory_depth=depth, chip_depth=depth)


def float_load(columns: int, memory_format: MemoryFormat) -> Load:
    return dataclasses.replace(load(columns), memory_format=memory_format)


def float_store(columns: int, memory_format: MemoryFormat) -> Store:
    return dataclasses.replace(store(columns), memory_format=memory_format)


def weights(beats: int) -> Load:
    return Load(target=LoadTarget.WEIGHTS, lanes=15, columns=beats)


def table() -> Load:
    return Load(target=LoadTarget.TABLES, columns=TINY.table_block_beats)


def store(columns: int, rows: int = 1) -> Store:
    pitch = columns * TINY.pixel_bytes(8)
    fields = {"columns": columns, "rows": rows, "row_pitch": pitch, "chip_row_pitch": columns}
    return Store(lanes=3, address=DATA_ADDRESS, memory_depth=Depth.A8, chip_depth=Depth.A8, **fields)


def lane(side: int, steps: int) -> LaneProgram:
    shape = {"tile_height": side, "tile_width": side, "input_height": side, "input_width": side}
    return LaneProgram(lanes=3, depth=Depth.A8, channel_steps=steps, row_pitch=side, **shape)


def post(side: int, source: Source = Source.LANES, residual: int = 0) -> PostProcess:
    lanes = 3 if source is Source.LANES else 0
    tile = {"tile_height": side, "tile_width": side, "output_row_pitch": side}
    operand = {"residual": residual, "residual_lanes": 3, "residual_depth": Depth.A8, "residual_row_pitch": side}
    return PostProcess(
        source=source, lanes=lanes, output_base=100, output_lanes=3, output_depth=Depth.A8, **tile, **operand
    )


def window(side: int, kernel: int) -> Window:
    width = side + kernel - 1
    shape = {"input_height": width, "input_width": width, "row_pitch": width}
    kernels = {"kernel_height": kernel, "kernel_width": kernel, "tile_height": side, "tile_width": side}
    return Window(lanes=3, depth=Depth.A8, **shape, **kernels)


def single_instructions() -> list[list[Instruction]]:
    """Instructions of every kind, alone and in a row, to be separated by fences."""
    return [
        [weights(1)],
        [weights(40)],
        *[[load(16, depth)] for depth in (Depth.A4, Depth.A6, Depth.A8, Depth.A16)],
        [load(40), weights(8), load(8), weights(8)],
        *[[load(16), float_load(16, item), load(16)] for item in (MemoryFormat.FP16, MemoryFormat.FP32)],
        *[[store(16), float_store(16, item), store(16)] for item in (MemoryFormat.BF16, MemoryFormat.FP32)],
        [store(1)],
        [store(40)],
        [store(4, rows=4)],
        [store(40), store(40)],
        [lane(4, 1)],
        [post(4)],
        [lane(4, 3), post(4)],
        [lane(4, 3), lane(4, 3), post(4), post(4)],
        [lane(1, 5), lane(1, 5), post(1), post(1)],
        [lane(8, 2), post(8, residual=1)],
        [lane(4, 1), lane(4, 1), post(4, residual=1), post(4, residual=1)],
        [window(4, 1), post(4, Source.WINDOW), window(4, 1), post(4, Source.WINDOW)],
        [window(4, 2), post(4, Source.WINDOW), window(4, 2), post(4, Source.WINDOW)],
        [table()],
        [weights(8), table(), load(8)],
    ]


def ends(*instructions: Instruction) -> list[int]:
    """Completions of instructions that follow a fence, in cycles since the last completion before it.

    Before the fence a long store keeps the machine busy until the instruction fetch has become quiet.
    """
    prediction = predict([store(400), Fence(), *instructions, End()], TINY)
    return (prediction.end[2:-1] - prediction.end[0]).tolist()


def test_loads_follow_without_a_pause() -> None:
    """The data of loads follow each other, also where the latency is longer than a load."""
    assert np.diff(ends(weights(8), weights(4), weights(20))).tolist() == [4, 20]


def test_tiles_follow_without_a_pause() -> None:
    """A tile takes its steps times its pixels, and draining hides behind the next one."""
    first, second, *posts = ends(lane(4, 3), lane(4, 3), post(4), post(4))
    assert second - first == 48
    assert posts[1] - posts[0] == 48


def test_a_step_takes_at_least_rows_cycles() -> None:
    """A weight block is loaded in ``rows`` cycles."""
    first, second, *_ = ends(lane(1, 5), lane(1, 5), post(1), post(1))
    assert second - first == 5 * TINY.rows


def test_window_takes_a_cycle_per_position() -> None:
    """The kernel's area, per pixel."""
    times = [ends(window(4, kernel), post(4, Source.WINDOW))[1] for kernel in (2, 4)]
    assert times[1] - times[0] == 16 * (16 - 4)


def test_third_tile_waits_for_an_accumulator_memory() -> None:
    """A lane starts its third tile when the first one has been drained."""
    slow = post(8, residual=1)
    stream = [lane(8, 1), lane(8, 1), slow, lane(8, 1), slow, slow, End()]
    prediction = predict(stream, TINY, dispatch=False)
    assert prediction.start[3] >= prediction.start[2] + 63


def test_full_queue_holds_the_dispatch() -> None:
    """An instruction behind a full queue is pushed late, even if its own unit is idle."""
    busy = [weights(400)] * 12
    late = predict([*busy, lane(4, 1), post(4), End()], TINY)
    early = predict([lane(4, 1), post(4), *busy, End()], TINY)
    assert late.start[12] > early.start[0] + 1000


@pytest.mark.parametrize("latency", [10, 40, 200])
def test_memory_latency(latency: int) -> None:
    """A single load takes as much longer as the memory does."""
    stream = [store(400), Fence(), weights(1), End()]
    times = predict(stream, TINY, Memory(latency=latency)).end
    assert times[2] - times[0] == ends(weights(1))[0] - Memory.latency + latency


@pytest.mark.parametrize("bytes_per_cycle", [1, 2, 4])
def test_memory_bandwidth(bytes_per_cycle: int) -> None:
    """A long load is limited by the bandwidth."""
    prediction = predict([weights(400), End()], TINY, Memory(bytes_per_cycle=bytes_per_cycle))
    assert prediction.total == pytest.approx(400 * TINY.beat_bytes / bytes_per_cycle, rel=0.8, abs=2500)
    assert prediction.total >= 400 * TINY.beat_bytes / bytes_per_cycle


@pytest.mark.parametrize("seed", range(10))
def test_rules_of_the_machine(seed: int) -> None:
    """Units work on one instruction after another, waits are respected, and better circumstances never hurt much."""
    rng = np.random.default_rng(seed)
    stream = lower(NetworkGenerator(rng, EDGE).network(5), EDGE).instructions
    prediction = predict(stream, EDGE)
    completed: dict[Unit, list[int]] = {unit: [0] for unit in Unit}
    bound = dict.fromkeys(Unit, 0)
    for instruction, start, end in zip(stream, prediction.start, prediction.end, strict=True):
        if isinstance(instruction, Wait):
            awaited = max(completed[unit][instruction.counts[unit]] for unit in units_of_mask(instruction.sources))
            bound.update({unit: max(bound[unit], awaited) for unit in units_of_mask(instruction.targets)})
            continue
        for unit in instruction.units():
            assert start >= bound[unit]
            assert end >= completed[unit][-1]
            completed[unit].append(int(end))
    assert prediction.total >= max(prediction.busy[unit] for unit in Unit if unit not in (Unit.LOAD, Unit.STORE))
    assert predict(stream, EDGE, dispatch=False).total <= prediction.total
    assert predict(stream, EDGE, Memory(latency=400)).total > prediction.total


@pytest.mark.parametrize("depth, weight_depth", list(itertools.product((4, 8, 16), (4, 8))))
def test_utilisation_of_a_residual_network(depth: int, weight_depth: int) -> None:
    """Weight loads, draining and the ends of operations hide behind the lanes' work."""
    network = residual_network(depth, weight_depth)
    program = lower(network, EDGE)
    gangs = EDGE.lanes // digits_of_depth(depth)
    # Folded, it has the nine channels of three pixels, which are a full step and one that is almost idle at W8.
    first_layer = 32 * 32 * 2 * 3 * (2 if weight_depth == 8 else 1) // gangs
    others = network.macs - 32 * 32 * 16 * 27
    floor = first_layer + others / EDGE.macs_per_cycle(depth, weight_depth)
    assert floor < predict(program.instructions, EDGE).total < 1.08 * floor + 400


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_takes_a_cycle_per_column(stride: int) -> None:
    """A row of a depthwise tile takes as many cycles as it has input columns, for three kernel columns at once."""
    generator = NetworkGenerator(np.random.default_rng(0), EDGE)
    generator.tensors["x"] = TensorType(32, 24, 24, 8, True)
    generator.convolution("x", (3, 3), padding=False, stride=(stride, stride), groups=32, outputs=32)
    operation = generator.operations[0]
    network = IntegerNetwork("depthwise", generator.tensors, ("x",), (operation.output,), (operation,))
    stream = lower(network, EDGE).instructions
    rows = sum(program.tile_height for program in stream if isinstance(program, LaneProgram))
    columns = stride * (network.tensors[operation.output].width - 1) + 3
    busy = predict(stream, EDGE).busy
    assert sum(busy[Unit.lane(lane)] for lane in range(4)) == 2 * 3 * rows * columns


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_timing_is_that_of_the_rtl() -> None:
    """The constants that the RTL's blocks publish."""
    from tessera.rtl.array import Lane
    from tessera.rtl.control.fetch import InstructionFetch
    from tessera.rtl.control.queue import UnitQueue
    from tessera.rtl.dma.load import ReadRequester
    from tessera.rtl.ppu.activation import ActivationFunction, TableLookup
    from tessera.rtl.ppu.tile_source import TileSource
    from tessera.rtl.ppu.window import WindowReader

    timing = Timing()
    for config in (TINY, EDGE, NpuConfig.preset("server")):
        adders = (config.rows - 1).bit_length() + 1
        assert Lane(config, 0).finish_latency == timing.lane_finish + -(-adders // timing.adders_per_stage) + 1
        assert Lane(config, 0).start_latency == config.rows + timing.lane_start
        assert ActivationFunction.latency(config) - 1 == TableLookup.LATENCY == timing.lookup
    assert timing.fetch_bursts == InstructionFetch.PREFETCH_BURSTS
    assert timing.queue == UnitQueue.LATENCY
    assert timing.in_flight == UnitQueue.MAX_IN_FLIGHT
    assert timing.load_outstanding == ReadRequester.OUTSTANDING_BEATS
    assert timing.drain == TileSource.LANES_LATENCY
    assert timing.window == WindowReader.LATENCY
    gc.collect()  # so that the complaints about unused components come now


def measured_cycles(
    config: NpuConfig, networks: list[IntegerNetwork], rng: np.random.Generator, **memory: float
) -> list[tuple[int, int]]:
    """Cycles of the co-simulated RTL, and predicted ones, of each network."""
    pairs = []
    for network in networks:
        program = lower(network, config)
        inputs = {name: values[None] for name, values in random_inputs(rng, network).items()}
        run = run_program(program, inputs, Options(memory=memory)).runs[0]
        assumed = Memory(memory.get("read_latency", 40), memory.get("bandwidth"))
        pairs.append((run.cycles, predict(program.instructions, config, assumed).total))
    return pairs


@pytest.mark.cosim
def test_single_instructions_on_the_rtl() -> None:
    """Between fences every group of instructions takes as long as on the RTL, to two cycles."""
    groups = single_instructions()
    stream = [instruction for group in groups for instruction in (*group, Fence())] + [End()]
    code = encode_stream(stream)
    (result,), _ = simulate(TINY, [Start(((0, code),), 0, ())])
    measured = completions(result.trace, stream)
    predicted = predict(stream, TINY).end
    index = previous = 0
    for group in groups:
        index += len(group)
        spent = [times[index - 1] - (times[previous - 1] if previous else 0) for times in (measured, predicted)]
        assert abs(spent[0] - spent[1]) <= 2, f"{group}: {spent[0]} cycles on the RTL, {spent[1]} predicted"
        previous = index
        index += 1


@pytest.mark.cosim
def test_bundles_on_the_rtl() -> None:
    """A bundle costs its fetch and a dispatch, and waits for nothing."""
    for bundles in (0, 1, 40):
        stream = [load(30), *[Bundle(index=1)] * bundles, load(30), End()]
        [result], _ = simulate(TINY, [Start(((0x8000, encode_stream(stream)),), 0x8000, ())])
        assert abs(result.run.cycles - predict(stream, TINY).total) <= 2, bundles


def completions(trace: list[tuple[int, int]], stream: list[Instruction]) -> list[int]:
    """For each instruction when its last unit completed it; for a fence, that of the instruction before."""
    times = {unit: [cycle for cycle, mask in trace if mask >> unit & 1] for unit in Unit}
    taken = dict.fromkeys(Unit, 0)
    result: list[int] = []
    for instruction in stream:
        found = [times[unit][taken[unit]] for unit in instruction.units()]
        taken.update({unit: taken[unit] + 1 for unit in instruction.units()})
        result.append(max(found, default=result[-1] if result else 0))
    return result


@pytest.mark.cosim
def test_agrees_with_the_rtl() -> None:
    """Whole networks are predicted within 5 %, also with a slow memory."""
    rng = np.random.default_rng(0)
    networks = [residual_network(depth, weight_depth, side=16) for depth, weight_depth in ((8, 8), (4, 4), (16, 4))]
    for memory in ({}, {"read_latency": 150, "write_latency": 150, "bandwidth": 4}):
        for measured, predicted in measured_cycles(EDGE, networks, rng, **memory):
            assert predicted == pytest.approx(measured, rel=0.05)


@pytest.mark.cosim
def test_agrees_with_the_rtl_on_small_networks() -> None:
    """Small random networks, where every latency counts, are predicted within 5 % on average and 10 % each.

    What is missed are conflicts on the ports of the activation banks, mostly of two window readers in one bank.
    """
    rng = np.random.default_rng(3)
    networks = [NetworkGenerator(rng, TINY).network(5) for _ in range(12)]
    ratios = [predicted / measured for measured, predicted in measured_cycles(TINY, networks, rng)]
    assert min(ratios) > 0.9
    assert max(ratios) < 1.1
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


@pytest.mark.cosim
def test_agrees_with_the_rtl_on_tiled_networks() -> None:
    """Networks whose maps pass through buffers, and whose reductions are made in parts."""
    rng = np.random.default_rng(4)
    generator = NetworkGenerator(rng, TINY, max_channels=16)
    name = generator.tensor((16, 60, 60))
    for _ in range(2):
        name = generator.convolution(name, (3, 3), padding=True)
    chain = IntegerNetwork("chain", generator.tensors, ("input0",), (name,), tuple(generator.operations))
    for measured, predicted in measured_cycles(TINY, [chain, resnet18(40, width=8)], rng):
        assert predicted == pytest.approx(measured, rel=0.02)
