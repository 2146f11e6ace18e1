"""Networks of every size: maps, weights and reductions larger than what holds them on chip."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from agreement import assert_programs_agree
from racing_model import RacingModel
from random_networks import NetworkGenerator, random_inputs, random_values
from topologies import TOPOLOGIES, mobilenet_v2, resnet18

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering import lower
from tessera.compiler.lowering.regions import Box, Part, Span, boxes, input_box, parts, piece_lengths
from tessera.compiler.lowering.tiling import weight_parts
from tessera.compiler.stream_checker import check_program
from tessera.firmware.cosimulation import Options
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth, LaneProgram, Load, LoadTarget, Store
from tessera.sim.footprint import Access, Memory, Region, Space
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import Convolution, IntegerNetwork, PostProcessing, TensorType, Window, output_map
from tessera.sim.golden.taps import taps
from tessera.sim.ordering import StreamOrder
from tessera.sim.program import Program
from tessera.sim.stream import StreamModel

TINY = NpuConfig.preset("tiny")
EDGE = NpuConfig.preset("edge")


def post(channels: int, shift: int = 12, **fields: object) -> PostProcessing:
    """Scales sums down by 2 ** (shift - 8)."""
    return PostProcessing(
        np.arange(channels, dtype=np.int64),
        np.full(channels, 256, np.int64),
        np.full(channels, shift, np.int64),
        **fields,
    )


def convolution(name: str, source: str, shape: tuple[int, int, int, int], **fields: object) -> Convolution:
    """A convolution with random weights of the given shape, small enough for every accumulator."""
    weights = np.random.default_rng(len(name)).integers(-8, 8, shape).astype(np.int8)
    defaults = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "pad_value": 0, "post": post(shape[0])}
    return Convolution(name, source, name, weights, **{"weight_depth": 8, **defaults, **fields})


def chain(source: TensorType, *operations: Convolution | Window, outputs: tuple[str, ...] = ()) -> IntegerNetwork:
    """A network of these operations with the input ``x``; all tensors have its depth and sign."""
    tensors = {"x": source}
    for operation in operations:
        given = tensors[operation.input]
        channels = operation.output_channels if isinstance(operation, Convolution) else given.channels
        height, width = output_map(operation, given)
        tensors[operation.output] = dataclasses.replace(source, channels=channels, height=height, width=width)
    network = IntegerNetwork("net", tensors, ("x",), outputs or (operations[-1].output,), operations)
    network.verify()
    return network


def run_and_compare(network: IntegerNetwork, config: NpuConfig, racing: int = 0) -> Program:
    """Golden model and stream model agree, also in random orders of the units, and the stream is proven."""
    program = lower(network, config)
    check_program(program)
    inputs = random_inputs(np.random.default_rng(1), network)
    expected = evaluate(network, inputs)
    models = [StreamModel(config), *(RacingModel(config, np.random.default_rng(seed)) for seed in range(racing))]
    for model in models:
        outputs = model.run(program, inputs)
        for name in network.outputs:
            np.testing.assert_array_equal(outputs[name], expected[name])
    return program


def refusal(network: IntegerNetwork, config: NpuConfig) -> str:
    """Why the network is refused; empty if it is not."""
    try:
        lower(network, config)
    except CompilerError as error:
        return str(error)
    return ""


def small_memories(rng: np.random.Generator) -> NpuConfig:
    """The tiny machine with random memories, down to the smallest that are allowed."""
    sizes = {"activation_bank_bytes": (9, 13), "weight_bank_bytes": (5, 11), "parameter_bytes": (6, 10)}
    return dataclasses.replace(TINY, **{name: 1 << int(rng.integers(*bits)) for name, bits in sizes.items()})


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_random_networks(first: int) -> None:
    """Random networks on machines with random small memories; what is refused has a window that cannot be cut."""
    compiled = streamed = 0
    for seed in range(first, first + 20):
        rng = np.random.default_rng(seed)
        config = small_memories(rng)
        generator = NetworkGenerator(rng, config, max_side=16, max_channels=int(rng.choice([4, 12, 30])))
        network = generator.network(int(rng.integers(1, 6)), inputs=int(rng.integers(1, 3)))
        print(f"seed {seed}")
        if refusal(network, config):
            assert "operation 'window" in refusal(network, config)
            continue
        compiled += 1
        streamed += bool(run_and_compare(network, config).streamed)
    assert compiled > 12
    assert streamed > 2


@pytest.mark.parametrize("seed", range(300, 306))
def test_large_maps(seed: int) -> None:
    """Maps that need three to eight banks, of every depth; units in random order."""
    rng = np.random.default_rng(seed)
    config = dataclasses.replace(TINY, activation_bank_bytes=1024)
    generator = NetworkGenerator(rng, config, max_channels=20)
    network = generator.large_network(int(rng.integers(1, 4)), times=int(rng.integers(3, 9)))
    program = run_and_compare(network, config, racing=1)
    assert "input0" in program.streamed


def test_multiple_inputs_and_outputs() -> None:
    """Streamed tensors that several operations read, and that are outputs too."""
    first = convolution("first", "x", (9, 5, 3, 3), padding=(1, 1, 1, 1))
    residual = post(9, residual="first", residual_multiplier=900, residual_shift=10)
    second = convolution("second", "first", (9, 9, 1, 1), post=residual)
    third = Window("third", "second", "third", "max", (2, 3), (2, 1), (0, 1, 1, 0), post(9))
    network = chain(TensorType(5, 50, 60, 8, True), first, second, third, outputs=("first", "third", "second"))
    program = run_and_compare(network, TINY, racing=2)
    assert set(program.streamed) >= {"first", "second"}


@pytest.mark.parametrize(
    ("source", "shape", "fields"),
    [
        (TensorType(4, 1, 9000, 8, True), (4, 4, 1, 5), {}),  # wider than an instruction can address
        (TensorType(4, 9000, 1, 4, True), (4, 4, 5, 1), {"stride": (2, 1)}),
        (TensorType(120, 6, 90, 8, False), (9, 120, 3, 3), {}),  # a row of the input does not fit
        (TensorType(40, 34, 34, 8, True), (9, 40, 3, 3), {"dilation": (15, 15)}),  # nor does what one pixel needs
        (TensorType(3, 40, 40, 8, True), (5, 3, 33, 32), {}),  # more kernel positions than an instruction has
        (TensorType(3, 5, 200, 16, True), (5, 3, 3, 3), {"padding": (9, 2, 0, 7)}),  # bands of padding alone
        (TensorType(5000, 1, 1, 8, True), (7, 5000, 1, 1), {}),  # more weights than a bank holds
        (TensorType(2100, 1, 1, 4, True), (7, 2100, 1, 1), {"weight_depth": 4}),
        (TensorType(20, 20, 3, 8, True), (500, 20, 2, 2), {"stride": (3, 1)}),  # an output of many channels
    ],
)
def test_shapes(source: TensorType, shape: tuple[int, int, int, int], fields: dict[str, object]) -> None:
    """Each needs another kind of cut."""
    config = dataclasses.replace(TINY, activation_bank_bytes=4096)
    run_and_compare(chain(source, convolution("y", "x", shape, **fields)), config, racing=1)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("depth", "signed"), [(4, False), (4, True), (8, True), (16, True)])
def test_largest_sums(depth: int, signed: bool, sign: int) -> None:
    """The proof that no accumulator overflows is right at its limit: what it accepts is exact on the worst inputs, and
    one more unit of weight is refused. Weights of both signs count apart."""
    config = dataclasses.replace(TINY, accumulator_bits=16)
    limit = ((1 << 15) - 1) // 15
    weights = np.array(
        [sign * each for each in (*[127] * 17, limit - 17 * 127, *[-127] * 17, -limit + 17 * 127)], np.int8
    )
    source = TensorType(len(weights), 1, 1, depth, signed)
    operation = dataclasses.replace(
        convolution("y", "x", (1, len(weights), 1, 1), post=post(1, shift=14)), weights=weights.reshape(1, -1, 1, 1)
    )
    network = chain(source, operation)
    program = lower(network, config)
    low, high = source.range
    for kept, others in itertools.product((low, high, 0, -1 if signed else 1), repeat=2):
        values = np.where(weights > 0, kept, others).reshape(source.shape)
        output = StreamModel(config).run(program, {"x": values})["y"]
        np.testing.assert_array_equal(output, evaluate(network, {"x": values})["y"])
    weights[17] += sign
    with pytest.raises(CompilerError, match="accumulators of 17 bits"):
        lower(network, config)


def test_window_is_cut_in_channels() -> None:
    """A pooling of a whole map that does not fit with all its channels."""
    config = dataclasses.replace(TINY, activation_bank_bytes=2048)
    pooling = Window("y", "x", "y", "sum", (20, 20), (1, 1), (0, 0, 0, 0), post(30))
    program = run_and_compare(chain(TensorType(30, 20, 20, 8, True), pooling), config)
    assert all(load.planes == 1 for load in program.instructions if isinstance(load, Load))


def loads(program: Program, target: LoadTarget, operation: str) -> list[Load]:
    """The loads of a kind that belong to an operation."""
    pairs = zip(program.instructions, program.operations, strict=True)
    return [each for each, name in pairs if isinstance(each, Load) and each.target is target and name == operation]


def test_weights_stay_for_all_bands() -> None:
    """Weights that fit half the bank are loaded once, however many bands there are; others once per band."""
    few = chain(TensorType(8, 90, 90, 8, True), convolution("y", "x", (8, 8, 3, 3)))
    program = run_and_compare(few, TINY)
    assert len({load.address for load in loads(program, LoadTarget.WEIGHTS, "y")}) == len(
        loads(program, LoadTarget.WEIGHTS, "y")
    )
    many = chain(TensorType(16, 60, 60, 8, True), convolution("y", "x", (64, 16, 3, 3)))
    program = run_and_compare(many, TINY)
    addresses = [load.address for load in loads(program, LoadTarget.WEIGHTS, "y")]
    assert len(addresses) > len(set(addresses))
    assert len(program.image) < 2 * many.operations[0].weights.size + len(program.code)


def test_only_what_does_not_fit_is_streamed() -> None:
    """The tensors at the start are too large; the others stay, and cause no traffic."""
    stem = convolution("stem", "x", (8, 8, 3, 3), stride=(2, 2))
    middle = convolution("middle", "stem", (8, 8, 3, 3), stride=(2, 2))
    last = convolution("last", "middle", (8, 8, 3, 3))
    network = chain(TensorType(8, 100, 100, 8, True), stem, middle, last)
    program = run_and_compare(network, TINY, racing=1)
    assert list(program.streamed) == ["x"]
    assert set(program.placement) == {"stem", "middle", "last"}
    stored = sum(each.columns * each.rows * each.planes for each in program.instructions if isinstance(each, Store))
    assert stored == 22 * 22


def test_loads_hide_behind_computing() -> None:
    """While a band is computed the next one is loaded: its loads stand in front of the last lane programs before it."""
    network = chain(TensorType(16, 64, 64, 8, True), convolution("y", "x", (16, 16, 3, 3), padding=(1, 1, 1, 1)))
    program = lower(network, TINY)
    kinds = [
        "load" if isinstance(each, Load) and each.target is LoadTarget.ACTIVATIONS else "lane"
        for each in program.instructions
        if isinstance(each, LaneProgram) or (isinstance(each, Load) and each.target is LoadTarget.ACTIVATIONS)
    ]
    last_load = max(index for index, kind in enumerate(kinds) if kind == "load")
    bands = len([1 for before, after in itertools.pairwise(kinds) if (before, after) == ("load", "lane")])
    assert bands > 3
    assert "lane" in kinds[:last_load]
    assert kinds[last_load:].count("lane") > kinds.count("lane") // (2 * bands)


def test_refusal_of_a_window_in_a_streamed_network() -> None:
    """What cannot be cut is named, also behind what can."""
    pooling = Window("pool", "conv", "pool", "max", (90, 90), (1, 1), (0, 0, 0, 0), post(4))
    network = chain(TensorType(4, 90, 90, 8, True), convolution("conv", "x", (4, 4, 1, 1)), pooling)
    with pytest.raises(CompilerError) as caught:
        lower(network, TINY)
    assert str(caught.value) == (
        "operation 'pool': one output pixel of 8 channels needs 32404 bytes in each lane (conv 32400, pool 4), but "
        "activation_bank_bytes = 16384; use a larger activation_bank_bytes or a smaller kernel"
    )


@pytest.mark.parametrize("seed", range(40))
def test_input_box(seed: int) -> None:
    """An input box has what the taps of its output box meet, and is no larger than their extent."""
    rng = np.random.default_rng(seed)
    kernel, stride, dilation = ([int(each) for each in rng.integers(1, 4, 2)] for _ in range(3))
    padding = tuple(int(each) for each in rng.integers(0, 6, 4))
    height, width = (int(each) for each in rng.integers(7, 20, 2))
    source = TensorType(20, height, width, 8, True)
    operation = convolution("y", "x", (4, 20, *kernel), stride=tuple(stride), dilation=tuple(dilation), padding=padding)
    out_height, out_width = output_map(operation, source)
    positions = np.pad(np.arange(1, height * width + 1).reshape(height, width), np.reshape(padding, (2, 2), order="F"))
    y, x = int(rng.integers(out_height)), int(rng.integers(out_width))
    rows, columns = Span(y, int(rng.integers(1, out_height - y + 1))), Span(x, int(rng.integers(1, out_width - x + 1)))
    ky, kx = int(rng.integers(kernel[0])), int(rng.integers(kernel[1]))
    part = Part(Span(1, 3), Span(ky, kernel[0] - ky), Span(kx, kernel[1] - kx))
    met = {
        int(position)
        for row, column, view in taps(
            positions, (out_height, out_width), operation.kernel, operation.stride, operation.dilation
        )
        if row >= ky and column >= kx
        for position in view[rows.start : rows.stop, columns.start : columns.stop].ravel()
        if position
    }
    box = input_box(operation, source, Box(Span(0, 1), rows, columns), part, TINY)
    assert box.blocks == Span(0, 2)
    assert min(box.rows.start, box.columns.start) >= 0
    assert box.rows.stop <= height
    assert box.columns.stop <= width
    for position in met:
        assert box.rows.start <= (position - 1) // width < box.rows.stop
        assert box.columns.start <= (position - 1) % width < box.columns.stop
    assert box.rows.size <= (rows.size - 1) * stride[0] + (part.rows.size - 1) * dilation[0] + 1
    assert box.columns.size <= (columns.size - 1) * stride[1] + (part.columns.size - 1) * dilation[1] + 1


@pytest.mark.parametrize("seed", range(20))
def test_pieces(seed: int) -> None:
    """Boxes and parts cover everything once; the lengths that are tried include one and the whole."""
    sizes = [int(each) for each in np.random.default_rng(seed).integers(1, 30, 6)]
    whole = Box(Span(2, sizes[0]), Span(5, sizes[1]), Span(0, sizes[2]))
    covered = np.zeros((40, 40, 40), int)
    for box in boxes(whole, *sizes[3:]):
        assert all(
            span.size <= longest for span, longest in zip((box.blocks, box.rows, box.columns), sizes[3:], strict=True)
        )
        covered[
            box.blocks.start : box.blocks.stop, box.rows.start : box.rows.stop, box.columns.start : box.columns.stop
        ] += 1
    assert (covered[2 : 2 + sizes[0], 5 : 5 + sizes[1], : sizes[2]] == 1).all()
    assert covered.sum() == whole.words
    reduction = Part(whole.blocks, whole.rows, whole.columns)
    assert len(parts(reduction, *sizes[3:])) == len(list(boxes(whole, *sizes[3:])))
    assert {1, sizes[0]} <= set(piece_lengths(sizes[0]))


@pytest.mark.parametrize("weight_depth", [4, 8])
@pytest.mark.parametrize("seed", range(10))
def test_weight_parts(weight_depth: int, seed: int) -> None:
    """The weights of every part fit half the bank (or are one word's), and one instruction can make it."""
    rng = np.random.default_rng(seed)
    config = dataclasses.replace(TINY, weight_bank_bytes=1 << int(rng.integers(5, 13)))
    shape = (3, int(rng.integers(1, 3000)), *(int(each) for each in rng.integers(1, rng.choice([2, 12, 40]), 2)))
    operation = convolution("y", "x", shape, weight_depth=weight_depth)
    found = weight_parts(operation, config)
    assert (
        sum(part.count for part in found)
        == -(-shape[1] // (config.rows * (2 if weight_depth == 4 else 1))) * shape[2] * shape[3]
    )
    for part in found:
        beats = part.count * config.weight_block_beats
        assert beats <= config.weight_beats // 2 or (part.count == 1 and beats <= config.weight_beats)
        assert max(part.rows.size, part.columns.size) <= 31


def test_dram_hazards_are_exact() -> None:
    """A load of rows that no store before writes does not wait, although their extents overlap."""
    order = StreamOrder(TINY)

    def transfer(kind: type[Load] | type[Store], first_row: int, lanes: int, base: int) -> Load | Store:
        size = TINY.pixel_bytes(8)
        return kind(
            lanes=lanes, address=first_row * 10 * size, columns=20, planes=3, plane_pitch=100 * size, base=base,
            chip_plane_pitch=20, memory_depth=Depth.A8, chip_depth=Depth.A8,
        )  # fmt: skip

    order.append(transfer(Store, 4, 3, 0))
    assert not order.hazards(transfer(Load, 2, 12, 0))
    assert not order.hazards(transfer(Load, 6, 12, 0))
    for row in (3, 4, 5):
        hazards = order.hazards(transfer(Load, row, 12, 0))
        assert [hazard.access.space.memory for hazard in hazards] == [Memory.DRAM]


@pytest.mark.parametrize("seed", range(30))
def test_dram_hazards_of_random_regions(seed: int) -> None:
    """Regions conflict exactly if they have a byte in common, and the latest of several is found."""
    rng = np.random.default_rng(seed)

    def region() -> Region:
        columns, rows, row_pitch, planes, plane_pitch = (int(each) for each in rng.integers(1, [6, 5, 20, 4, 70]))
        return Region(int(rng.integers(150)), columns, rows, row_pitch, planes, plane_pitch)

    def addresses(region: Region) -> set[int]:
        return {address for start, stop in region.ranges() for address in range(start, stop)}

    stores = [region() for _ in range(4)]
    order = StreamOrder(TINY)
    store = Store(lanes=3, memory_depth=Depth.A8, chip_depth=Depth.A8)
    with pytest.MonkeyPatch.context() as patch:
        for each in stores:
            access = Access(store.units()[0], Space(Memory.DRAM), each, True)
            patch.setattr("tessera.sim.ordering.footprint", lambda *_, access=access: [access])
            order.append(store)
        load = Load(lanes=3, memory_depth=Depth.A8, chip_depth=Depth.A8)
        wanted = region()
        access = Access(load.units()[0], Space(Memory.DRAM), wanted, False)
        patch.setattr("tessera.sim.ordering.footprint", lambda *_: [access])
        found = [hazard.count for hazard in order.hazards(load)]
    meeting = [index + 1 for index, each in enumerate(stores) if addresses(each) & addresses(wanted)]
    assert found == meeting[-1:]


@pytest.mark.parametrize(
    ("network", "partial"),
    [
        (resnet18(40, width=8), True),
        (resnet18(48, depth=4, weight_depth=4, width=16), True),
        (mobilenet_v2(64, width=0.1), False),  # its reductions are short
    ],
    ids=["resnet18", "resnet18-4bit", "mobilenet_v2"],
)
def test_topologies(network: IntegerNetwork, partial: bool) -> None:
    """Well-known networks, scaled down, on a machine whose memories are scaled down too."""
    config = dataclasses.replace(EDGE, activation_bank_bytes=4096, weight_bank_bytes=2048)
    program = run_and_compare(network, config)
    assert any(getattr(each, "partial", 0) for each in program.instructions) == partial
    assert len(program.streamed) > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_full_size(name: str) -> None:
    """They compile at 224 x 224 for `edge`, and the streams are proven."""
    check_program(lower(TOPOLOGIES[name](224), EDGE))


@pytest.mark.cosim
def test_large_networks_on_the_rtl() -> None:
    """golden = stream model = RTL where maps are several times larger than the banks, and weights than theirs."""
    cases = {}
    for seed in range(400, 406):
        rng = np.random.default_rng(seed)
        network = NetworkGenerator(rng, TINY, max_channels=16).large_network(2, times=int(rng.integers(2, 4)))
        cases[f"seed {seed}"] = network
    cases["resnet18"] = resnet18(48, width=8)
    deep = convolution("y", "x", (5, 600, 3, 3), padding=(1, 1, 1, 1))
    cases["weights"] = chain(TensorType(600, 5, 6, 8, True), deep)
    dilated = convolution("y", "x", (5, 40, 3, 3), dilation=(15, 15))
    cases["dilated"] = chain(TensorType(40, 33, 40, 8, True), dilated)
    rng = np.random.default_rng(7)
    agreeing = {
        name: (
            network,
            lower(network, TINY),
            {"x" if "x" in network.inputs else "input0": random_values(rng, network.tensors[network.inputs[0]])[None]},
        )
        for name, network in cases.items()
    }
    assert sum(bool(program.streamed) for _, program, _ in agreeing.values()) > 5
    assert_programs_agree(TINY, agreeing, Options())


@pytest.mark.cosim
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_full_size_on_the_rtl(name: str) -> None:
    """golden = stream model = RTL of the well-known networks at 224 x 224."""
    network = TOPOLOGIES[name](224)
    inputs = {"x": random_values(np.random.default_rng(0), network.tensors["x"])[None]}
    assert_programs_agree(EDGE, {name: (network, lower(network, EDGE), inputs)}, Options())
