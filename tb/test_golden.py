"""The golden model: arithmetic against fractions, operations against loops, and its refusals."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.rtl.config import ACTIVATION_DEPTHS
from tessera.sim.golden import (
    Convolution,
    IntegerNetwork,
    NetworkError,
    PostProcessing,
    TensorType,
    Window,
    convert_depth,
    depth_range,
    evaluate,
    join_digits,
    round_half_even_shift,
    saturate,
    split_digits,
)
from tessera.sim.golden.evaluate import operation_sums
from tessera.sim.golden.network import CLAMP_RANGE, equal_networks, output_map

SHIFTS = st.integers(0, 60)
VALUES = st.integers(-(2**61), 2**61 - 1)


@given(VALUES, SHIFTS)
def test_rounding_is_half_to_even(x: int, shift: int) -> None:
    expected = round(Fraction(x, 2**shift))  # Python rounds fractions half to even
    assert round_half_even_shift(x, shift) == expected
    assert round_half_even_shift(np.array([x]), np.array([shift]))[0] == expected
    assert round_half_even_shift(np.array([x], dtype=object), shift)[0] == expected


@pytest.mark.parametrize("halves, expected", [(1, 0), (3, 2), (5, 2), (-1, 0), (-3, -2), (-5, -2), (2, 1), (-2, -1)])
def test_ties(halves: int, expected: int) -> None:
    assert round_half_even_shift(halves, 1) == expected


@given(st.integers(-(2**20), 2**20), st.integers(0, 20))
def test_negative_shift_multiplies(x: int, shift: int) -> None:
    assert round_half_even_shift(x, -shift) == x << shift
    assert round_half_even_shift(np.array(x), np.array([-shift, 0])).tolist() == [x << shift, x]


@given(st.integers(-(2**100), 2**100), st.integers(0, 90))
def test_integers_beyond_64_bits(x: int, shift: int) -> None:
    assert round_half_even_shift(x, shift) == round(Fraction(x, 2**shift))


@pytest.mark.parametrize("depth", ACTIVATION_DEPTHS)
@pytest.mark.parametrize("signed", [False, True])
def test_saturation(depth: int, signed: bool) -> None:
    low, high = depth_range(depth, signed)
    assert high - low == 2**depth - 1
    values = np.array([low - 1, low, 0, high, high + 1, -(2**40), 2**40])
    once = saturate(values, depth, signed)
    assert once.tolist() == [low, low, 0, high, high, low, high]
    assert np.array_equal(saturate(once, depth, signed), once)
    assert [saturate(int(value), depth, signed) for value in values] == once.tolist()


@given(st.integers(-(2**31), 2**31), st.integers(-16, 15), st.sampled_from(ACTIVATION_DEPTHS), st.booleans())
def test_depth_conversion(x: int, shift: int, depth: int, signed: bool) -> None:
    low, high = depth_range(depth, signed)
    exact = round(Fraction(x) / Fraction(2) ** shift)
    assert convert_depth(x, shift, depth, signed) == min(max(exact, low), high)


@pytest.mark.parametrize("depth", ACTIVATION_DEPTHS)
@pytest.mark.parametrize("signed", [False, True])
def test_digits_join_to_the_value(depth: int, signed: bool) -> None:
    low, high = depth_range(depth, signed)
    values = np.arange(low, high + 1, max(1, (high - low) // 4096))
    digits = split_digits(values, depth)
    assert digits.shape == ({4: 1, 6: 2, 8: 2, 16: 4}[depth], len(values))
    assert digits.max() <= 15
    assert np.array_equal(join_digits(digits, signed), values)


def test_six_bits_are_the_digits_of_eight() -> None:
    assert split_digits(-1, 6).tolist() == [15, 15]
    assert split_digits(63, 6).tolist() == [15, 3]


def post(channels: int, **changes: object) -> PostProcessing:
    """Post-processing that hands the sums through."""
    plain = PostProcessing(
        bias=np.zeros(channels, np.int64),
        multiplier=np.full(channels, 1 << 15),
        shift=np.full(channels, 15),
    )
    return replace(plain, **changes)


def one_operation(operation: Convolution | Window, source: TensorType, depth: int = 16) -> IntegerNetwork:
    """The network that consists of one operation."""
    channels = operation.output_channels if isinstance(operation, Convolution) else source.channels
    target = TensorType(channels, *output_map(operation, source), depth, signed=True)
    tensors = {"x": source, "y": target}
    if operation.post.residual is not None:
        tensors["r"] = replace(target, depth=8)
    inputs = tuple(name for name in tensors if name != "y")
    return IntegerNetwork("one", tensors, inputs, ("y",), (operation,))


def convolution(rng: np.random.Generator, channels: int, **changes: object) -> Convolution:
    """A random convolution from x to y with 3 output channels, or as many per group."""
    kernel = tuple(rng.integers(1, 4, 2))
    groups = int(changes.get("groups", 1))
    plain = Convolution(
        name="op",
        input="x",
        output="y",
        weights=rng.integers(-128, 128, (3 * groups, channels // groups, *kernel)).astype(np.int8),
        weight_depth=8,
        stride=tuple(rng.integers(1, 4, 2).tolist()),
        padding=tuple(rng.integers(0, 3, 4).tolist()),
        dilation=tuple(rng.integers(1, 3, 2).tolist()),
        pad_value=int(rng.integers(-8, 8)),
        post=post(3 * groups),
    )
    return replace(plain, **changes)


def naive_sums(operation: Convolution | Window, source: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Sums or maxima of one sample by loops over Python integers."""
    result = np.zeros(shape, dtype=object)
    for k, oy, ox in np.ndindex(*shape):
        terms = []
        for ky, kx in np.ndindex(*operation.kernel):
            y = oy * operation.stride[0] + ky * operation.dilation[0] - operation.padding[0]
            x = ox * operation.stride[1] + kx * operation.dilation[1] - operation.padding[1]
            inside = 0 <= y < source.shape[1] and 0 <= x < source.shape[2]
            if isinstance(operation, Window):
                terms += [int(source[k, y, x])] if inside else []
            else:
                inputs = operation.weights.shape[1]
                group = slice(k // (shape[0] // operation.groups) * inputs, None)
                pixel = source[group, y, x][:inputs] if inside else np.full(inputs, operation.pad_value)
                terms += [int(a) * int(w) for a, w in zip(pixel, operation.weights[k, :, ky, kx], strict=True)]
        is_max = isinstance(operation, Window) and operation.reduction == "max"
        result[k, oy, ox] = max(terms) if is_max else sum(terms)
    return result


@pytest.mark.parametrize("seed", range(12))
def test_convolution_equals_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    source = TensorType(groups * int(rng.integers(1, 5)), 7, 6, 8, signed=True)
    operation = convolution(rng, source.channels, groups=groups)
    network = one_operation(operation, source)
    network.verify()
    values = rng.integers(*source.range, source.shape, endpoint=True)
    sums = operation_sums(operation, values[np.newaxis], source)[0]
    expected = naive_sums(operation, values, network.tensors["y"].shape)
    assert np.array_equal(sums, expected)
    assert np.array_equal(
        evaluate(network, {"x": values})["y"], np.clip(expected.astype(np.int64), -(2**15), 2**15 - 1)
    )


@pytest.mark.parametrize("reduction", ["sum", "max"])
@pytest.mark.parametrize("seed", range(6))
def test_window_equals_loops(seed: int, reduction: str) -> None:
    rng = np.random.default_rng(seed)
    source = TensorType(2, 7, 6, 8, signed=bool(seed % 2))
    kernel = tuple(rng.integers(1, 5, 2).tolist())
    padding = tuple(int(rng.integers(0, side)) for side in 2 * kernel)
    stride = tuple(rng.integers(1, 4, 2).tolist())
    operation = Window("op", "x", "y", reduction, kernel, stride, padding, post(2))
    network = one_operation(operation, source)
    network.verify()
    values = rng.integers(*source.range, source.shape, endpoint=True)
    expected = naive_sums(operation, values, network.tensors["y"].shape)
    assert np.array_equal(evaluate(network, {"x": values})["y"], expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_large_sums_are_exact(depth: int) -> None:
    """Sums beyond what float32 holds (8 bits here) and close to what float64 would need checking for (16 bits)."""
    source = TensorType(300, 3, 3, depth, signed=False)
    weights = np.full((1, 300, 3, 3), 127, np.int8)
    weights[0, 0, 0, 0] = 126
    operation = Convolution("op", "x", "y", weights, 8, (1, 1), (0, 0, 0, 0), (1, 1), 0, post(1))
    values = np.full((1, *source.shape), source.range[1])
    assert operation_sums(operation, values, source).item() == source.range[1] * (127 * 2700 - 1)


@pytest.mark.parametrize("seed", range(5))
def test_post_processing_equals_fractions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = TensorType(3, 4, 4, 8, signed=True)
    shift = rng.integers(12, 28, 3)
    operation = convolution(
        rng,
        3,
        post=PostProcessing(
            bias=rng.integers(-(2**20), 2**20, 3),
            multiplier=rng.integers(0, 2**16, 3),
            shift=shift,
            clamp_low=-100,
            clamp_high=500,
            residual="r",
            residual_multiplier=int(rng.integers(0, 2**16)),
            residual_shift=int(shift.min()),
        ),
    )
    network = one_operation(operation, source, depth=8)
    network.verify()
    inputs = {name: rng.integers(-128, 128, network.tensors[name].shape) for name in network.inputs}
    saturations: dict[str, int] = {}
    values = evaluate(network, inputs, saturations=saturations)["y"]
    sums = naive_sums(operation, inputs["x"], values.shape)
    saturated = 0
    for index in np.ndindex(*values.shape):
        expected, clamped = exact_post(operation.post, index[0], sums[index], int(inputs["r"][index]))
        saturated += clamped != expected
        assert values[index] == expected
    assert saturations == {"op": saturated}


def exact_post(post: PostProcessing, channel: int, total: int, residual: int) -> tuple[int, int]:
    """Output in 8 bits signed, and the value before saturation."""
    scale = Fraction(int(post.multiplier[channel]), 2 ** int(post.shift[channel]))
    value = (total + int(post.bias[channel])) * scale
    value += residual * Fraction(post.residual_multiplier, 2**post.residual_shift)
    clamped = min(max(round(value), post.clamp_low), post.clamp_high)
    return min(max(clamped, -128), 127), clamped


def test_a_batch_equals_its_samples() -> None:
    rng = np.random.default_rng(0)
    source = TensorType(3, 5, 5, 8, signed=True)
    network = one_operation(convolution(rng, 3), source)
    batch = rng.integers(-128, 128, (4, *source.shape))
    together = evaluate(network, {"x": batch})["y"]
    for sample, values in zip(batch, together, strict=True):
        assert np.array_equal(evaluate(network, {"x": sample})["y"], values)


def test_macs_count_convolutions() -> None:
    rng = np.random.default_rng(0)
    operation = convolution(rng, 3, stride=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1))
    network = one_operation(operation, TensorType(3, 8, 8, 8, signed=True))
    target = network.tensors["y"]
    assert network.macs == operation.weights.size * target.height * target.width
    assert network.operation("op") is operation


def test_equality_sees_every_integer() -> None:
    source = TensorType(3, 5, 5, 8, signed=True)
    network, twin = (one_operation(convolution(np.random.default_rng(3), 3), source) for _ in range(2))
    assert equal_networks(network, twin)
    weights = twin.operations[0].weights.copy()
    weights[0, 0, 0, 0] ^= 1
    changed = replace(twin, operations=(replace(twin.operations[0], weights=weights),))
    assert not equal_networks(network, changed)


def test_format() -> None:
    operation = Convolution(
        "conv",
        "x",
        "y",
        np.ones((4, 3, 3, 3), np.int8),
        8,
        (2, 2),
        (1, 1, 1, 1),
        (1, 1),
        0,
        post(4, clamp_low=0),
    )
    assert one_operation(operation, TensorType(3, 5, 5, 4, signed=False)).format() == (
        "integer network one\n"
        "  input  x: 3x5x5 u4\n"
        "  y: 4x3x3 s16 = convolution W8 conv(x) kernel 3x3, stride 2x2, padding (1, 1, 1, 1), macs 972, "
        f"clamp 0..{CLAMP_RANGE[1]}\n"
        "  output y: 4x3x3 s16"
    )


def broken(**changes: object) -> IntegerNetwork:
    """A sound convolution with one thing changed."""
    operation = Convolution("op", "x", "y", np.ones((2, 3, 1, 1), np.int8), 4, (1, 1), (0, 0, 0, 0), (1, 1), 0, post(2))
    return one_operation(replace(operation, **changes), TensorType(3, 4, 4, 8, signed=False))


REFUSALS = {
    "bias": (broken(post=post(2, bias=np.array([0, 1 << 30]))), "bias 0..1073741824 is outside"),
    "multiplier": (
        broken(post=post(2, multiplier=np.array([0, 65536]))),
        "multiplier 0..65536 is outside 0..65535",
    ),
    "shift": (broken(post=post(2, shift=np.array([0, 48]))), "shift 0..48 is outside 0..47"),
    "length": (broken(post=post(3)), "bias must be an int64 array of shape (2,), not int64 of (3,)"),
    "clamp": (broken(post=post(2, clamp_low=5, clamp_high=4)), "clamp limits 5..4 must rise and lie within"),
    "alignment": (
        broken(post=post(2, shift=np.array([15, 31]), residual="r", residual_shift=15)),
        "shift 31 and residual shift 15 differ by 16, which is outside 0..15",
    ),
    "weights": (broken(weights=np.full((2, 3, 1, 1), 8, np.int8)), "weights 8..8 are outside -8..7"),
    "weight type": (
        broken(weights=np.ones((2, 3, 1, 1), np.int16)),
        "must be an int8 array of 4 dimensions, not int16",
    ),
    "weight depth": (broken(weight_depth=5), "weights have 5 bits, but depths are 4, 8"),
    "channels": (broken(weights=np.ones((2, 4, 1, 1), np.int8)), "do not fit an input of 3 channels"),
    "pad value": (broken(pad_value=-1), "pad value -1 is outside the input's range 0..255"),
    "stride": (broken(dilation=(0, 1)), "dilation (0, 1) must be at least 1"),
    "unknown input": (broken(input="z"), "'z' is read before it is computed"),
    "computed twice": (broken(output="x"), "its output 'x' is computed twice"),
}


@pytest.mark.parametrize("network, sentence", REFUSALS.values(), ids=REFUSALS.keys())
def test_verifier_refuses(network: IntegerNetwork, sentence: str) -> None:
    broken().verify()
    with pytest.raises(NetworkError) as caught:
        network.verify()
    assert str(caught.value).startswith("network 'one': operation 'op': ")
    assert sentence in str(caught.value)


def test_verifier_refuses_tensors() -> None:
    network = broken()
    for change, sentence in (
        ({"x": TensorType(3, 4, 4, 5, signed=False)}, "tensor 'x' has 5 bits, but depths are 4, 6, 8, 16"),
        ({"y": TensorType(2, 4, 5, 8, signed=False)}, "has the shape (2, 4, 5), but must have (2, 4, 4)"),
        (
            {"x": TensorType(3, 0, 4, 8, signed=False)},
            "has the shape (3, 0, 4), but each side must be at least 1",
        ),
    ):
        with pytest.raises(NetworkError) as caught:
            replace(network, tensors={**network.tensors, **change}).verify()
        assert sentence in str(caught.value)
    with pytest.raises(NetworkError, match="output 'w' is never computed"):
        replace(network, tensors={**network.tensors, "w": network.tensors["x"]}, outputs=("w",)).verify()


def test_window_refuses_empty_windows() -> None:
    operation = Window("op", "x", "y", "max", (2, 2), (1, 1), (2, 0, 0, 0), post(3))
    with pytest.raises(NetworkError, match=r"padding 2 \(top\) must be less than the window's side 2"):
        one_operation(operation, TensorType(3, 4, 4, 8, signed=True)).verify()


@pytest.mark.parametrize(
    "inputs, sentence",
    [
        ({}, "network 'one' needs the input 'x', which is not given"),
        ({"x": np.zeros((3, 4, 4), int), "z": np.zeros(1, int)}, "network 'one' has no input 'z'; it has x"),
        ({"x": np.zeros((3, 4, 4))}, "input 'x' must hold integers, not float64; quantise it first"),
        (
            {"x": np.zeros((3, 4, 5), int)},
            "input 'x' has the shape (3, 4, 5), but the network takes (3, 4, 4)",
        ),
        ({"x": np.full((3, 4, 4), 256)}, "input 'x' has values 256..256, outside 0..255"),
    ],
    ids=["missing", "unknown", "float", "shape", "range"],
)
def test_inputs_are_refused(inputs: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(NetworkError) as caught:
        evaluate(broken(), inputs)
    assert str(caught.value) == sentence


def test_clamp_range_is_that_of_the_instruction() -> None:
    assert CLAMP_RANGE == (-(2**16), 2**16 - 1)
