"""Folded inputs: what they compute, what they save, how they lie in DRAM, and where they are not made."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from random_networks import NetworkGenerator, random_inputs, random_values

from tessera.compiler.lowering import lower
from tessera.compiler.lowering.folding import fold_inputs
from tessera.compiler.lowering.reduction import map_reduction
from tessera.compiler.stream_checker import check_program
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Load, LoadTarget, MemoryFormat
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import Convolution, IntegerNetwork, TensorType
from tessera.sim.program import DramFormat, FoldedTensor, Program
from tessera.sim.row_fold import RowFold
from tessera.sim.stream import StreamModel

TINY = NpuConfig.preset("tiny")
EDGE = NpuConfig.preset("edge")

FLOATS = [MemoryFormat.FP16, MemoryFormat.BF16, MemoryFormat.FP32]


def stem(rng: np.random.Generator, config: NpuConfig, source: TensorType, **facts: object) -> IntegerNetwork:
    """A convolution of the network's input; its kernel, stride and padding are random where not given."""
    generator = NetworkGenerator(rng, config)
    generator.tensors["x"] = source
    kernel = tuple(int(rng.integers(1, min(side, 5) + 1)) for side in (source.height, source.width))
    generator.convolution("x", **{"kernel": kernel, "padding": True, **facts})
    (operation,) = generator.operations
    return IntegerNetwork("stem", generator.tensors, ("x",), (operation.output,), (operation,))


def padded_with_zero(network: IntegerNetwork) -> IntegerNetwork:
    """The network with a padding that every format represents."""
    (operation,) = network.operations
    return dataclasses.replace(network, operations=(dataclasses.replace(operation, pad_value=0),))


def agree(program: Program, network: IntegerNetwork, rng: np.random.Generator) -> None:
    """The stream is proven, and computes what the golden model does."""
    check_program(program)
    inputs = random_inputs(rng, network)
    given = dict(inputs)
    if program.inputs["x"].format.is_float:
        # A float16 has 11 bits, a bfloat16 8: use what both represent exactly.
        inputs["x"] = inputs["x"] & ~0xFF if network.tensors["x"].depth == 16 else inputs["x"]
        given["x"] = program.inputs["x"].format.reals(inputs["x"])
    outputs = StreamModel(program.config).run(program, given)
    for name, expected in evaluate(network, inputs).items():
        if name in outputs:
            np.testing.assert_array_equal(outputs[name], expected)


@pytest.mark.parametrize("seed", range(60))
def test_random_first_layers(seed: int) -> None:
    """Any shape, depth, padding and format; every input whose convolution gets shorter is folded."""
    rng = np.random.default_rng(seed)
    config = (TINY, EDGE)[seed % 2]
    depth = int(rng.choice([4, 6, 8, 16]))
    sides = rng.integers(3, 20, 2)
    network = stem(rng, config, TensorType(int(rng.integers(1, 5)), *map(int, sides), depth, bool(rng.integers(2))))
    formats = {}
    if seed % 3 == 0:
        formats["x"] = DramFormat(FLOATS[seed // 3 % 3], int(rng.integers(-3, 4)))
    program = lower(network, config, io_formats=formats)
    (before,), (after,) = network.operations, fold_inputs(network, config, formats).network.operations
    if isinstance(program.inputs["x"], FoldedTensor):
        assert map_reduction(after, config).steps < map_reduction(before, config).steps
    else:
        assert after is before
    agree(program, network, rng)


@pytest.mark.parametrize("depth", [4, 8, 16])
@pytest.mark.parametrize("memory_format", [MemoryFormat.INTEGER, *FLOATS])
def test_images(depth: int, memory_format: MemoryFormat) -> None:
    """Three channels, a kernel of 7 x 7 and a stride of 2 take three words a window; in bands on ``tiny``."""
    rng = np.random.default_rng(depth)
    source = TensorType(3, 40, 60, depth, False)
    network = padded_with_zero(stem(rng, TINY, source, kernel=(7, 7), stride=(2, 2), dilation=(1, 1)))
    program = lower(network, TINY, io_formats={"x": DramFormat(memory_format)})
    assert isinstance(program.inputs["x"], FoldedTensor)
    assert program.inputs["x"].chip_type.channels == 21
    agree(program, network, rng)


def test_rows_are_read_once() -> None:
    """The loads of an image with windows of a beat move little more than its bytes."""
    network = stem(
        np.random.default_rng(0), EDGE, TensorType(3, 96, 96, 8, True), kernel=(3, 3), stride=(2, 2), dilation=(1, 1)
    )
    program = lower(network, EDGE)
    image = program.inputs["x"]
    loads = [i for i in program.instructions if isinstance(i, Load) and i.target is LoadTarget.ACTIVATIONS]
    moved = sum(load.rows * ((load.columns - 1) * load.column_pitch + EDGE.pixel_bytes(8)) for load in loads)
    assert image.size < 1.1 * 96 * 96 * 3
    assert moved < 1.15 * image.size


def test_kernel_that_covers_the_map_sees_a_vector() -> None:
    """A fully connected layer on a map of one channel has as many steps as on a vector."""
    network = stem(np.random.default_rng(0), EDGE, TensorType(1, 28, 28, 8, False), kernel=(28, 28), padding=False)
    program = lower(network, EDGE)
    assert program.inputs["x"].chip_type.shape == (784, 1, 1)
    agree(program, network, np.random.default_rng(0))


def test_is_not_made_for_other_readers() -> None:
    """An input with two readers, one that is added to its own convolution, one that is an output, and one of a
    dilated, a grouped or a wide convolution."""
    rng = np.random.default_rng(0)
    network = stem(rng, EDGE, TensorType(3, 9, 9, 8, True), kernel=(3, 3), dilation=(1, 1))
    (first,) = network.operations
    twice = dataclasses.replace(first, name="again", output="y")
    tensors = network.tensors | {"y": network.tensors[first.output]}
    wide = stem(rng, EDGE, TensorType(16, 9, 9, 8, True), kernel=(3, 3), dilation=(1, 1))
    assert fold_inputs(network, EDGE, {}).folds
    same = stem(rng, EDGE, TensorType(3, 9, 9, 8, True), kernel=(1, 3), stride=(1, 1), dilation=(1, 1), outputs=3)
    (operation,) = same.operations
    post = dataclasses.replace(operation.post, residual="x", residual_shift=int(operation.post.shift.min()))
    padded = dataclasses.replace(operation, post=post, padding=(0, 1, 0, 1))
    for kept in (
        dataclasses.replace(same, operations=(padded,)),
        dataclasses.replace(network, tensors=tensors, operations=(first, twice), outputs=(first.output, "y")),
        dataclasses.replace(network, outputs=(first.output, "x")),
        stem(rng, EDGE, TensorType(3, 9, 9, 8, True), kernel=(3, 3), dilation=(1, 1), groups=3),
        stem(rng, EDGE, TensorType(3, 9, 9, 8, True), kernel=(3, 3), dilation=(1, 2)),
        wide,
    ):
        assert not fold_inputs(kept, EDGE, {}).folds


def test_rewritten_network_has_a_meaning() -> None:
    """The folded network is a valid one, and computes the same from the folded pixels."""
    rng = np.random.default_rng(3)
    source = TensorType(3, 12, 15, 8, True)
    network = stem(rng, EDGE, source, kernel=(3, 5), stride=(1, 2), dilation=(1, 1))
    folded = fold_inputs(network, EDGE, {})
    folded.network.verify()
    (before,), (after,), fold = network.operations, folded.network.operations, folded.folds["x"]
    assert isinstance(before, Convolution) and isinstance(after, Convolution)
    values = random_values(rng, source)
    rows = np.pad(values, ((0, 0), (0, 0), (fold.left, fold.right)), constant_values=before.pad_value)
    width = folded.network.tensors["x"].width
    taps = [rows[:, :, column : column + (width - 1) * fold.stride + 1 : fold.stride] for column in range(fold.kernel)]
    expected = evaluate(network, {"x": values})[before.output]
    np.testing.assert_array_equal(evaluate(folded.network, {"x": np.concatenate(taps)})[before.output], expected)


@pytest.mark.parametrize("bits", [4, 6, 8, 16, 32])
@pytest.mark.parametrize("signed", [False, True])
def test_layout(bits: int, signed: bool) -> None:
    """Packing is reversible; pixels follow one another, channel 0 lowest, between margins."""
    tensor = TensorType(3, 4, 5, bits, signed)
    fold = RowFold(tensor, rows=4, kernel=3, stride=2, left=2, right=1, fill=5, bits=bits)
    low = -(1 << bits - 1) if signed else 0
    values = np.random.default_rng(0).integers(low, low + (1 << bits), tensor.shape)
    data = fold.pack(values, np.array(fold.fill), TINY)
    assert len(data) == fold.size(TINY)
    np.testing.assert_array_equal(fold.unpack(data, signed=signed), values)
    row = int.from_bytes(data[fold.row_bytes : 2 * fold.row_bytes], "little")
    fields = [row >> bits * index & (1 << bits) - 1 for index in range(8 * 3)]
    margin = [5, 5, 5]
    pixels = [int(value) & (1 << bits) - 1 for value in values[:, 1].T.ravel()]
    assert fields == [*margin, *margin, *pixels, *margin]
