"""The compiler's back end: partition, placement, programs, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from random_networks import NetworkGenerator, random_inputs

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering import lower
from tessera.compiler.lowering.builder import Step
from tessera.compiler.lowering.partition import Work, Workers, choose_partition
from tessera.compiler.lowering.placement import Lifetime, Ring, place, tensor_lifetimes
from tessera.compiler.lowering.synchronise import synchronise_steps
from tessera.compiler.stream_checker import check_program
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    OPERATIONS,
    CountedInstruction,
    End,
    Fence,
    Instruction,
    LaneProgram,
    Load,
    LoadTarget,
    PostProcess,
    Store,
    Wait,
)
from tessera.sim.cycles import Prediction
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import (
    Convolution,
    IntegerNetwork,
    PostProcessing,
    TensorType,
    Window,
    output_map,
)
from tessera.sim.stream import StreamModel
from tessera.sim.tensor_layout import pack_tensor, tensor_bytes, unpack_tensor

TINY = NpuConfig.preset("tiny")
EDGE = NpuConfig.preset("edge")


def post_processing(channels: int, shift: int = 12) -> PostProcessing:
    """Scales sums down by 2 ** (shift - 8)."""
    return PostProcessing(
        np.arange(channels, dtype=np.int64),
        np.full(channels, 256, np.int64),
        np.full(channels, shift, np.int64),
    )


def convolution_network(
    source: TensorType,
    outputs: int,
    kernel: tuple[int, int] = (1, 1),
    weight_depth: int = 8,
    dilation: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    seed: int = 0,
) -> IntegerNetwork:
    """One convolution without padding."""
    limit = 1 << (weight_depth - 1)
    shape = (outputs, source.channels // groups, *kernel)
    weights = np.random.default_rng(seed).integers(-limit, limit, shape).astype(np.int8)
    operation = Convolution(
        "conv", "x", "y", weights, weight_depth, stride, (0, 0, 0, 0), dilation, 0, post_processing(outputs), groups
    )
    target = TensorType(outputs, *output_map(operation, source), source.depth, True)
    return IntegerNetwork("net", {"x": source, "y": target}, ("x",), ("y",), (operation,))


def run_and_compare(network: IntegerNetwork, config: NpuConfig, **options: object) -> None:
    """Golden model and stream model agree, and the stream is proven."""
    program = lower(network, config, **options)
    check_program(program)
    inputs = random_inputs(np.random.default_rng(1), network)
    outputs = StreamModel(config).run(program, inputs)
    expected = evaluate(network, inputs)
    for name in network.outputs:
        np.testing.assert_array_equal(outputs[name], expected[name])


@pytest.mark.parametrize(
    ("depth", "lanes"),
    [(4, (0,)), (4, (2, 3)), (4, (0, 1, 2)), (4, None), (8, (0, 1)), (8, None), (16, None)],
)
def test_spread_over_gangs(depth: int, lanes: tuple[int, ...] | None) -> None:
    """A convolution gives the same on 1, 2, 3 and 4 gangs, and keeps all of them busy."""
    network = convolution_network(TensorType(20, 12, 11, depth, True), 13, (3, 3))
    run_and_compare(network, EDGE, lanes=lanes)
    program = lower(network, EDGE, lanes=lanes)
    used = {i.lanes for i in program.instructions if isinstance(i, LaneProgram)}
    assert sum(used) == sum(1 << lane for lane in lanes or range(4))


@pytest.mark.parametrize(
    ("source", "outputs", "kernel"),
    [
        (TensorType(8, 1, 700, 8, True), 5, (1, 3)),  # wider than a tile
        (TensorType(3, 40, 41, 4, False), 4, (2, 2)),  # many tiles
        (TensorType(16, 2, 2, 8, True), 300, (2, 2)),  # more parameters than the memory holds
        (
            TensorType(200, 1, 1, 8, False),
            30,
            (1, 1),
        ),  # a block of weights takes more than a quarter of the bank
        (TensorType(1, 9, 9, 16, True), 1, (1, 1)),
        (TensorType(17, 5, 3, 6, True), 9, (5, 3)),  # the kernel is the whole map
    ],
)
def test_shapes(source: TensorType, outputs: int, kernel: tuple[int, int]) -> None:
    """Shapes that need several tiles, several rounds, or hardly anything."""
    run_and_compare(convolution_network(source, outputs, kernel), TINY)


def test_dilation() -> None:
    """A dilated kernel."""
    run_and_compare(convolution_network(TensorType(5, 9, 11, 8, True), 6, (3, 2), dilation=(3, 7)), TINY)


@pytest.mark.parametrize("depth", [4, 8, 16])
@pytest.mark.parametrize("weight_depth", [4, 8])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "depthwise"),
    [
        ((3, 3), (1, 1), (1, 1), True),
        ((3, 3), (2, 2), (2, 1), True),
        ((1, 2), (1, 1), (1, 1), True),
        ((2, 7), (1, 2), (1, 1), True),
        ((3, 1), (1, 1), (1, 1), False),  # a column of its own takes no fewer cycles
        ((3, 3), (1, 3), (1, 1), False),
        ((3, 3), (1, 1), (1, 2), False),
    ],
)
def test_depthwise(
    depth: int,
    weight_depth: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    depthwise: bool,
) -> None:
    """Depthwise programs where they are faster, dense ones with zeros elsewhere."""
    source = TensorType(21, 9, 17, depth, True)
    network = convolution_network(source, 21, kernel, weight_depth, dilation, stride, groups=21)
    run_and_compare(network, TINY)
    programs = [program for program in lower(network, TINY).instructions if isinstance(program, LaneProgram)]
    assert {bool(program.depthwise) for program in programs} == {depthwise}


def test_depthwise_loads_the_beats_that_it_uses() -> None:
    """Of the four beats of a weight block the two with the rows of the three taps; another network's weights may lie in
    the others."""
    network = convolution_network(TensorType(40, 9, 17, 8, True), 40, (5, 5), groups=40)
    run_and_compare(network, EDGE)
    program = lower(network, EDGE)
    loads = [load for load in program.instructions if isinstance(load, Load) and load.target is LoadTarget.WEIGHTS]
    elements = sum(load.columns * load.rows * load.planes for load in loads)
    assert elements == 2 * 40 // EDGE.cols * 5 * 2  # five kernel rows of two groups of columns
    assert {load.chip_row_pitch for load in loads} == {EDGE.weight_block_beats}


def test_depthwise_needs_8_bit_weights() -> None:
    """A machine without them multiplies by zeros."""
    config = dataclasses.replace(TINY, name="w4", weight_depths=(4,))
    run_and_compare(convolution_network(TensorType(9, 5, 6, 8, True), 9, (3, 3), 4, groups=9), config)


@pytest.mark.parametrize("weight_depth", [4, 8])
@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(2, 1, 3), (3, 7, 2), (2, 16, 16), (5, 3, 5), (2, 24, 1)])
def test_groups(weight_depth: int, groups: int, inputs: int, outputs: int) -> None:
    """Groups that are parts of a word, several words, and neither."""
    source = TensorType(groups * inputs, 4, 3, 8, True)
    run_and_compare(convolution_network(source, groups * outputs, (2, 2), weight_depth, groups=groups), TINY)


def test_groups_read_their_own_channels_alone() -> None:
    """The steps of a group are those of its channels."""
    network = convolution_network(TensorType(32, 4, 4, 8, True), 32, groups=4)
    programs = [program for program in lower(network, TINY).instructions if isinstance(program, LaneProgram)]
    assert {program.channel_steps for program in programs} == {2}


@pytest.mark.parametrize("weight_depth", [4, 8])
@pytest.mark.parametrize("channels", [1, 4, 5, 8, 9, 15, 16, 17, 24, 33])
def test_channel_steps(weight_depth: int, channels: int) -> None:
    """Every remainder of the channels of a step."""
    run_and_compare(convolution_network(TensorType(channels, 2, 3, 8, True), 3, (2, 1), weight_depth), TINY)


def test_minimal_configuration() -> None:
    """One lane, one depth, and the smallest memories."""
    config = NpuConfig(
        name="least",
        rows=4,
        cols=4,
        lanes=1,
        activation_depths=(4,),
        weight_depths=(4,),
        activation_bank_bytes=512,
        weight_bank_bytes=32,
        parameter_bytes=64,
        accumulator_bits=16,
        accumulator_pixels=8,
        queue_depth=2,
    )
    run_and_compare(convolution_network(TensorType(9, 3, 5, 4, True), 11, weight_depth=4), config)


def test_weights_are_loaded_while_the_lanes_work() -> None:
    """The loads of later operations stand in front of the lane programs that hide them."""
    rng = np.random.default_rng(5)
    generator = NetworkGenerator(rng, EDGE, max_side=16, max_channels=32)
    source = generator.tensor((16, 16, 16))
    for _ in range(3):
        source = generator.convolution(source, (3, 3), padding=False, stride=(1, 1))
    network = IntegerNetwork("chain", generator.tensors, ("input0",), (source,), tuple(generator.operations))
    program = lower(network, EDGE)
    labels = [label.split()[0] for label in program.labels]
    loads = [
        index
        for index, instruction in enumerate(program.instructions)
        if isinstance(instruction, Load) and instruction.target is LoadTarget.WEIGHTS and labels[index] == "conv1"
    ]
    computing = [
        index
        for index, instruction in enumerate(program.instructions)
        if isinstance(instruction, LaneProgram) and labels[index] == "conv0"
    ]
    assert max(loads) < max(computing)
    assert not any(isinstance(instruction, Fence) for instruction in program.instructions)


def test_program_is_deterministic_and_relocatable() -> None:
    """The same network gives the same bytes; another address shifts everything."""
    network = convolution_network(TensorType(9, 6, 7, 8, True), 12, (3, 3))
    first, second = lower(network, TINY), lower(network, TINY)
    assert first == second
    moved = lower(network, TINY, dram_address=0x12345)
    assert min(moved.address, *(t.address for t in moved.inputs.values())) >= 0x12345
    assert moved.end_address - moved.address == first.end_address - first.address
    run_and_compare(network, TINY, dram_address=0x12345)


def test_output_that_is_read_and_input_that_is_output() -> None:
    """A tensor may be an output and an operand; an input may be an output."""
    kind = TensorType(5, 4, 4, 8, True)
    window = Window("w0", "x", "a", "sum", (1, 1), (1, 1), (0, 0, 0, 0), post_processing(5, 8))
    second = dataclasses.replace(window, name="w1", input="a", output="b")
    network = IntegerNetwork("net", {"x": kind, "a": kind, "b": kind}, ("x",), ("x", "a", "b"), (window, second))
    run_and_compare(network, TINY)


def test_instructions_count_for_their_operation() -> None:
    """Operations are numbered in order, again from 0 when the counters are used up; an input's load counts with the
    operation that reads it first, an output's store with the one that writes it last.
    """
    count = OPERATIONS + 3
    names = [f"w{index}" for index in range(count)]
    kind = TensorType(4, 2, 2, 8, True)
    one = Window("w0", "x", "w0", "sum", (1, 1), (1, 1), (0, 0, 0, 0), post_processing(4, 8))
    windows = [
        dataclasses.replace(one, name=name, input=source, output=name)
        for source, name in itertools.pairwise(["x", *names])
    ]
    network = IntegerNetwork("net", dict.fromkeys(["x", *names], kind), ("x",), (names[-1],), tuple(windows))
    program = lower(network, TINY)
    assert program.operation_numbers == {name: index % OPERATIONS for index, name in enumerate(names)}
    counted = [each for each in program.instructions if isinstance(each, CountedInstruction)]
    assert all(
        each.operation == program.operation_numbers[name]
        for each, name in zip(program.instructions, program.operations, strict=True)
        if name and isinstance(each, CountedInstruction)
    )
    stores = {each.operation for each in counted if isinstance(each, Store)}
    inputs = {each.operation for each in counted if isinstance(each, Load) and each.target is LoadTarget.ACTIVATIONS}
    assert (inputs, stores) == ({0}, {(count - 1) % OPERATIONS})
    assert {each.operation for each in counted} == set(range(OPERATIONS))


def test_format() -> None:
    """The printed program names inputs, outputs, operations with their tiles, and every instruction."""
    program = lower(convolution_network(TensorType(9, 6, 7, 8, True), 12, (3, 3)), TINY)
    text = program.format()
    assert text.startswith("program net for tiny, lanes 0, 1, 2, 3\n  input x: 9x6x7 s8 at DRAM 0x0, 383 bytes\n")
    assert "conv block 0 rows 0.." in text
    assert text.count("lane   ") == sum(isinstance(i, LaneProgram) for i in program.instructions)
    numbers = [line.split()[0] for line in text.splitlines() if line[:6].strip().isdigit()]
    assert numbers == [str(index) for index in range(len(program.instructions))]


class TestRefusals:
    """Every refusal says what is needed, what is there, and what to do."""

    def refuse(self, network: IntegerNetwork, sentence: str, config: NpuConfig = TINY, **options: object) -> None:
        with pytest.raises(CompilerError) as caught:
            lower(network, config, **options)
        assert str(caught.value) == sentence

    def test_activations(self) -> None:
        """A window is not cut, so its input must fit, and so must the output."""
        pooling = Window("pool", "x", "y", "sum", (70, 60), (1, 1), (0, 0, 0, 0), post_processing(16))
        tensors = {"x": TensorType(16, 70, 60, 8, True), "y": TensorType(16, 1, 1, 8, True)}
        self.refuse(
            IntegerNetwork("net", tensors, ("x",), ("y",), (pooling,)),
            "operation 'pool': one output pixel of 8 channels needs 16804 bytes in each lane (x 16800, y 4), but "
            "activation_bank_bytes = 16384; use a larger activation_bank_bytes or a smaller kernel",
        )

    def test_gang(self) -> None:
        self.refuse(
            convolution_network(TensorType(4, 1, 1, 8, True), 4),
            "network 'net' on 'tiny': tensor 'x' has 8 bits and needs a gang of 2 adjacent lanes whose first "
            "index is a multiple of 2, but the lanes are 1, 2; use more lanes or a lower depth",
            lanes=(1, 2),
        )

    def test_no_such_lane(self) -> None:
        self.refuse(
            convolution_network(TensorType(4, 1, 1, 8, True), 4),
            "lane 4 was asked for, but configuration 'tiny' has the lanes 0..3; choose among those",
            lanes=(0, 4),
        )

    def test_no_lanes(self) -> None:
        self.refuse(
            convolution_network(TensorType(4, 1, 1, 8, True), 4),
            "no lanes were given; a program needs at least one",
            lanes=(),
        )

    def test_depth(self) -> None:
        config = NpuConfig(name="low", rows=4, cols=4, lanes=2, activation_depths=(4, 8), activation_bank_bytes=4096)
        self.refuse(
            convolution_network(TensorType(4, 1, 1, 6, True), 4),
            "network 'net' on 'low': tensor 'x' has 6 bits, but the machine has activations of 4, 8; "
            "quantise it to one of these depths",
            config,
        )

    def test_accumulator(self) -> None:
        config = NpuConfig(name="narrow", rows=4, cols=4, accumulator_bits=16)
        network = convolution_network(TensorType(100, 1, 1, 8, True), 4)
        weights = network.operations[0].weights.astype(int)
        weights = np.maximum(weights.clip(0).sum(axis=(1, 2, 3)), -weights.clip(max=0).sum(axis=(1, 2, 3)))
        self.refuse(
            network,
            "network 'net' on 'narrow': operation 'conv': its sums need accumulators of 17 bits, but the machine has "
            f"16: the weights of one sign of output channel {weights.argmax()} add to a magnitude of {weights.max()}, "
            f"and 15 x {weights.max()} = {15 * weights.max()} is not less than 2 ** 15 = 32768; use 4-bit weights, "
            f"fewer input channels, or a configuration with accumulator_bits >= 17",
            config,
        )

    def test_kernel(self) -> None:
        pooling = Window("pool", "x", "y", "max", (256, 1), (1, 1), (0, 0, 0, 0), post_processing(1))
        tensors = {"x": TensorType(1, 256, 1, 8, True), "y": TensorType(1, 1, 1, 8, True)}
        with pytest.raises(CompilerError, match="kernel is 256 x 1, but an instruction has at most 255 x 255"):
            lower(IntegerNetwork("net", tensors, ("x",), ("y",), (pooling,)), TINY)

    def test_dilation(self) -> None:
        with pytest.raises(CompilerError, match="dilation is 16 x 1, but an instruction has at most 15 x 15"):
            lower(convolution_network(TensorType(1, 33, 1, 8, True), 1, (2, 1), dilation=(16, 1)), TINY)

    def test_encoding(self) -> None:
        """What no check foresees is still named with its operation."""
        network = convolution_network(TensorType(1, 8, 8, 8, True), 1, (2, 2))
        operation = dataclasses.replace(network.operations[0], padding=(5000, 0, 0, 0))
        tensors = network.tensors | {"y": TensorType(1, 5007, 7, 8, True)}
        config = dataclasses.replace(TINY, activation_bank_bytes=1 << 18)
        with pytest.raises(CompilerError, match="operation 'conv' cannot be encoded: lane: origin_y = -5000"):
            lower(dataclasses.replace(network, tensors=tensors, operations=(operation,)), config)


@pytest.mark.parametrize("seed", range(20))
def test_partition_covers_everything_once(seed: int) -> None:
    """The tiles are a partition of the pixels, within the limits; every block and tile has a worker."""
    rng = np.random.default_rng(seed)
    work = Work(*(int(value) for value in rng.integers(1, [80, 600, 9, 40])))
    workers = Workers(int(rng.choice([1, 2, 3, 4])), 2, int(rng.choice([64, 256])), 511, int(rng.choice([1, 8])))
    partition = choose_partition(work, workers)
    covered = np.zeros((work.height, work.width), int)
    for tile in partition.tiles:
        covered[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
        assert tile.pixels <= workers.max_pixels
        assert max(tile.height, tile.width) <= workers.max_side
    assert (covered == 1).all()
    assert partition.pixel_groups * partition.channel_groups <= workers.count


def test_partition_prefers_what_is_faster() -> None:
    """Many pixels are divided by rows, a vector by channels."""
    workers = Workers(count=4, slices=2, max_pixels=256, max_side=511, min_cycles=8)
    assert choose_partition(Work(32, 32, 1, 18), workers).pixel_groups == 4
    assert choose_partition(Work(1, 1, 8, 18), workers).channel_groups == 4
    both = choose_partition(Work(4, 4, 2, 18), workers)
    assert (both.pixel_groups, both.channel_groups) == (2, 2)


@pytest.mark.parametrize("seed", range(20))
def test_placement(seed: int) -> None:
    """In the smallest bank that is accepted, tensors that are alive together never overlap, and lie inside."""
    generator = NetworkGenerator(np.random.default_rng(seed), TINY, max_channels=20)
    network = generator.network(25, inputs=2)
    lifetimes = tensor_lifetimes(network, TINY)
    size, placement = next((1 << bits, bases) for bits in range(20) if (bases := place(lifetimes, 1 << bits)))
    for life in lifetimes:
        assert placement[life.name] + life.words <= size
    for one, other in itertools.combinations(lifetimes, 2):
        a, b = placement[one.name], placement[other.name]
        apart = a + one.words <= b or b + other.words <= a
        together = set(range(one.first, one.last + 1)) & set(range(other.first, other.last + 1))
        assert apart or not together


@pytest.mark.parametrize("seed", range(12))
def test_tight_memories(seed: int) -> None:
    """The smallest memories that a network fits give the same result."""
    rng = np.random.default_rng(seed)
    network = NetworkGenerator(rng, TINY, max_channels=20).network(6)
    config = TINY
    for field, least in (("activation_bank_bytes", 512), ("weight_bank_bytes", 32), ("parameter_bytes", 64)):
        for size in (1 << bits for bits in range(least.bit_length() - 1, 15)):
            try:
                smaller = dataclasses.replace(config, **{field: size})
                lower(network, smaller)
            except CompilerError:
                continue
            config = smaller
            break
    assert config.activation_bank_bytes < TINY.activation_bank_bytes
    run_and_compare(network, config)


def test_ring() -> None:
    """Pieces follow each other and never wrap around the end."""
    ring = Ring(10)
    assert [ring.allocate(4) for _ in range(4)] == [0, 4, 0, 4]
    assert ring.allocate(10) == 0


def test_shares_of_a_ring() -> None:
    """Users at the same time have nothing in common, wherever the ring goes on, if there is an address for each."""
    rng = np.random.default_rng(3)
    for _ in range(300):
        first = int(rng.integers(0, 9))
        ring = Ring(int(rng.integers(1, 40)), first)
        for _ in range(4):
            needed = rng.integers(0, 30, rng.integers(1, 5)).tolist()
            shares = ring.shares(needed)
            taken = [address for own in shares for address in range(own.allocate(0), own.allocate(0) + own.size)]
            assert all(first <= address < first + ring.size for address in taken)
            assert [own.size for own in shares] == [
                min(each, own.most) for each, own in zip(needed, shares, strict=True)
            ]
            assert len(taken) == len(set(taken)) or ring.size < len(needed)


def test_fence_in_long_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fences bound the distance of waits, and never part a window from its post-process."""
    monkeypatch.setattr("tessera.compiler.lowering.synchronise.FENCE_INTERVAL", 3)
    generator = NetworkGenerator(np.random.default_rng(2), TINY)
    network = generator.network(8)
    program = lower(network, TINY)
    assert any(isinstance(instruction, Fence) for instruction in program.instructions)
    run_and_compare(network, TINY)


def test_waits_are_labelled() -> None:
    """A wait belongs to the instruction that needs it."""
    program = lower(convolution_network(TensorType(9, 6, 7, 8, True), 12, (3, 3)), TINY)
    steps = list(zip(program.instructions, program.labels, strict=True))
    for (first, label), (second, following) in itertools.pairwise(steps):
        if isinstance(first, Wait):
            assert label == following
            assert not isinstance(second, Wait | End)
    again = synchronise_steps([Step(i, label) for i, label in steps if not isinstance(i, Wait)], TINY)
    assert [step.instruction for step in again] == list(program.instructions)


@pytest.mark.parametrize("preset", ["tiny", "edge", "server"])
@pytest.mark.parametrize("depth", [4, 6, 8, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_tensor_layout(preset: str, depth: int, signed: bool) -> None:
    """Packing is reversible; a pixel's channels are contiguous, channel 0 lowest."""
    config = NpuConfig.preset(preset)
    tensor = TensorType(config.word_digits + 3, 3, 5, depth, signed)
    low, high = tensor.range
    values = np.random.default_rng(0).integers(low, high + 1, tensor.shape)
    data = pack_tensor(values, tensor, config)
    assert len(data) == tensor_bytes(tensor, config)
    np.testing.assert_array_equal(unpack_tensor(data, tensor, config), values)
    pixel = int.from_bytes(data[config.pixel_bytes(depth) : 2 * config.pixel_bytes(depth)], "little")
    assert pixel & (1 << depth) - 1 == values[0, 0, 1] & (1 << depth) - 1


def test_tensor_layout_refuses() -> None:
    """Wrong shapes, ranges and sizes."""
    tensor = TensorType(3, 2, 2, 4, False)
    with pytest.raises(ValueError, match=r"the tensor has the shape \(3, 2, 2\), not \(3, 2, 1\)"):
        pack_tensor(np.zeros((3, 2, 1), int), tensor, TINY)
    with pytest.raises(ValueError, match=r"values 0..16 are outside 0..15"):
        pack_tensor(np.full((3, 2, 2), 16) * np.eye(2, dtype=int), tensor, TINY)
    with pytest.raises(ValueError, match="has 16 bytes, not 3"):
        unpack_tensor(b"abc", tensor, TINY)


def test_every_post_process_keeps_its_lanes_slice() -> None:
    """Within an operation a gang always drains through the same slice, so no wait is needed between slices."""
    program = lower(convolution_network(TensorType(16, 16, 16, 4, True), 16, (3, 3)), EDGE)
    pairs = {(i.lanes, i.slice) for i in program.instructions if isinstance(i, PostProcess)}
    assert len({lanes for lanes, _ in pairs}) == len(pairs)
    assert {index for _, index in pairs} == {0, 1}


@pytest.mark.parametrize("seed", range(8))
def test_schedule_does_not_depend_on_times(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever starts are predicted, the stream is legal and computes the same."""
    rng = np.random.default_rng(seed)

    def nonsense(stream: list[Instruction], *_: object, **__: object) -> Prediction:
        times = rng.integers(0, 1000, len(stream))
        return Prediction(1000, times, times, {})

    monkeypatch.setattr("tessera.compiler.lowering.schedule.predict", nonsense)
    run_and_compare(NetworkGenerator(rng, TINY).network(5), TINY)


def test_stretches_of_time_are_placed_alone() -> None:
    """What can be placed alone can be placed one after another, whatever strategy each needs."""
    rng = np.random.default_rng(11)
    print("seed 11")
    lives, first, placeable = [], 0, 0
    while placeable < 40:
        starts = np.sort(rng.integers(0, 6, 8))
        stretch = [
            Lifetime((placeable, index), int(rng.integers(1, 40)), first + int(start), first + int(start) + 3)
            for index, start in enumerate(starts)
        ]
        if place(stretch, 100) is not None:
            lives += stretch
            placeable += 1
            first += 16
    bases = place(lives, 100)
    assert bases is not None
    for life, other in itertools.combinations(lives, 2):
        if life.meets(other):
            assert bases[life.name] + life.words <= bases[other.name] or (
                bases[other.name] + other.words <= bases[life.name]
            )
