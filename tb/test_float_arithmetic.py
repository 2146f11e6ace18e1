"""The models' floating-point arithmetic against numpy's: every FP16 and BF16 number, and many FP32 ones."""

from __future__ import annotations

import numpy as np
import pytest
from float_reference import FORMATS, numbers, to_integers, to_patterns

from tessera.rtl.config import ACTIVATION_DEPTHS, NpuConfig
from tessera.rtl.isa import MemoryFormat
from tessera.sim.golden.arithmetic import depth_range, float_to_integer, integer_to_float
from tessera.sim.golden.network import TensorType
from tessera.sim.tensor_layout import (
    decode_floats,
    encode_floats,
    pack_float_tensor,
    tensor_bytes,
    unpack_float_tensor,
)

SHIFTS = (-128, -30, -14, -8, -1, 0, 1, 5, 15, 40, 127)

INTEGERS = np.arange(-(1 << 15), 1 << 16)
"""Every activation, signed or not."""


def patterns_of(memory_format: MemoryFormat) -> np.ndarray:
    """Every pattern of 16 bits; of FP32 random ones, and all that a 16-bit format can express with their neighbours."""
    every = np.arange(1 << 16)
    if memory_format is not MemoryFormat.FP32:
        return every
    rng = np.random.default_rng(0)
    near = (every << 16)[:, None] + np.arange(-1, 2)
    return np.concatenate([rng.integers(0, 1 << 32, 200_000), near.ravel() % (1 << 32)])


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_float_to_integer(memory_format: MemoryFormat, signed: bool) -> None:
    patterns = patterns_of(memory_format)
    for depth in ACTIVATION_DEPTHS:
        for shift in SHIFTS:
            found = float_to_integer(patterns, memory_format, shift, depth, signed)
            expected = to_integers(patterns, memory_format, shift, *depth_range(depth, signed))
            for got, wanted in zip(vars(found).values(), expected, strict=True):
                np.testing.assert_array_equal(got, wanted, f"{depth} bits, shift {shift}")


@pytest.mark.parametrize("memory_format", FORMATS)
def test_integer_to_float(memory_format: MemoryFormat) -> None:
    happened = np.zeros(2, int)
    for shift in (*range(-128, 128, 5), *SHIFTS):
        found = integer_to_float(INTEGERS, shift, memory_format)
        expected = to_patterns(INTEGERS, shift, memory_format)
        for got, wanted in zip(vars(found).values(), expected, strict=True):
            np.testing.assert_array_equal(got, wanted, f"shift {shift}")
        happened += [found.underflow.sum(), found.overflow.sum()]
    # FP32 and BF16 hold 2 ** -127 exactly, as subnormal numbers.
    assert happened[1] > 0
    assert (happened[0] > 0) == (memory_format is MemoryFormat.FP16)


def test_the_way_back_is_exact_where_the_fraction_has_room() -> None:
    for shift in (-20, 0, 7):
        patterns = integer_to_float(INTEGERS, shift, MemoryFormat.FP32).patterns
        assert np.array_equal(numbers(patterns, MemoryFormat.FP32), INTEGERS / 2.0**shift)
        signed = float_to_integer(patterns, MemoryFormat.FP32, -shift, 16, True).values
        assert np.array_equal(signed, np.clip(INTEGERS, -(1 << 15), (1 << 15) - 1))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_encode_floats(memory_format: MemoryFormat) -> None:
    """Every number comes back; what lies between two goes to the nearer one, and half-way to the even one."""
    patterns = patterns_of(memory_format)
    values = decode_floats(patterns, memory_format)
    kept = np.isfinite(values)
    np.testing.assert_array_equal(values[kept].astype(np.float64), numbers(patterns, memory_format)[kept])
    np.testing.assert_array_equal(encode_floats(values, memory_format)[kept], patterns[kept])
    assert np.isnan(decode_floats(encode_floats(np.array([np.nan]), memory_format), memory_format)).all()
    rounded = {
        MemoryFormat.FP16: [1026, 2048, 2052, 257, 259, -257, np.inf],
        MemoryFormat.BF16: [1024, 2048, 2048, 256, 260, -256, 2.0**100],
        MemoryFormat.FP32: [1025.5, 2049, 2051, 257, 259, -257, 2.0**100],
    }[memory_format]
    encoded = encode_floats(np.array([1025.5, 2049, 2051, 257, 259, -257, 2.0**100]), memory_format)
    np.testing.assert_array_equal(decode_floats(encoded, memory_format), rounded)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_float_tensor_layout(memory_format: MemoryFormat) -> None:
    config = NpuConfig.preset("tiny")
    tensor = TensorType(channels=11, height=3, width=2, depth=8, signed=True)
    rng = np.random.default_rng(1)
    values = decode_floats(encode_floats(rng.normal(size=tensor.shape), memory_format), memory_format)
    data = pack_float_tensor(values, tensor, config, memory_format)
    size = memory_format.bits // 8
    assert len(data) == tensor_bytes(tensor, config, memory_format) == 2 * 6 * 8 * size
    np.testing.assert_array_equal(unpack_float_tensor(data, tensor, config, memory_format), values)
    channel, y, x = 9, 2, 1
    start = ((channel // 8 * 6 + y * 2 + x) * 8 + channel % 8) * size
    pattern = int.from_bytes(data[start : start + size], "little")
    assert numbers(np.array([pattern]), memory_format)[0] == values[channel, y, x]
    with pytest.raises(ValueError, match=r"^the tensor has the shape \(11, 3, 2\), not \(1, 3, 2\)$"):
        pack_float_tensor(values[:1], tensor, config, memory_format)
