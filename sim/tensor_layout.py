"""How activation tensors lie in DRAM.

The order is ``[channel blocks][height][width][word_digits]``, packed at the tensor's depth. A channel block
is ``word_digits`` channels of the configuration; the channels that fill the last block are 0. Within a pixel,
channel 0 has the lowest bits; bytes are little endian. A tensor of floating-point numbers lies in the same order, with
2 or 4 bytes per channel.

An input with few channels can lie as ``[height][width][channels]`` instead, see `tessera.sim.row_fold`.
"""

from __future__ import annotations

import numpy as np

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import MemoryFormat
from tessera.sim.golden.arithmetic import round_half_even_shift
from tessera.sim.golden.network import TensorType


def tensor_bytes(tensor: TensorType, config: NpuConfig, memory_format: MemoryFormat = MemoryFormat.INTEGER) -> int:
    """DRAM bytes of a tensor."""
    pixels = config.channel_blocks(tensor.channels) * tensor.height * tensor.width
    return pixels * config.pixel_bytes(memory_format.bits if memory_format.is_float else tensor.depth)


def pack_tensor(values: np.ndarray, tensor: TensorType, config: NpuConfig) -> bytes:
    """The DRAM bytes of an integer array of shape (channels, height, width).

    Raises
    ------
    ValueError
        The shape is not the tensor's, or a value is outside its range.
    """
    return pack_integers(_pixels(checked_integers(values, tensor), config), tensor.depth).tobytes()


def unpack_tensor(data: bytes, tensor: TensorType, config: NpuConfig) -> np.ndarray:
    """The int64 array (channels, height, width) whose DRAM bytes are ``data``; inverse of `pack_tensor`.

    Raises
    ------
    ValueError
        The number of bytes is not that of the tensor.
    """
    packed = _packed_pixels(data, tensor, config, MemoryFormat.INTEGER)
    return _planes(unpack_integers(packed, tensor.depth, tensor.signed), tensor)


def pack_float_tensor(values: np.ndarray, tensor: TensorType, config: NpuConfig, memory_format: MemoryFormat) -> bytes:
    """The DRAM bytes of an array (channels, height, width) of real numbers, each rounded to the format as
    `encode_floats` does.

    Raises
    ------
    ValueError
        The shape is not the tensor's.
    """
    patterns = encode_floats(checked_shape(values, tensor), memory_format)
    return pack_integers(_pixels(patterns, config), memory_format.bits).tobytes()


def unpack_float_tensor(data: bytes, tensor: TensorType, config: NpuConfig, memory_format: MemoryFormat) -> np.ndarray:
    """The float32 array (channels, height, width) whose DRAM bytes are ``data``, exactly.

    Raises
    ------
    ValueError
        The number of bytes is not that of the tensor.
    """
    packed = _packed_pixels(data, tensor, config, memory_format)
    return _planes(decode_floats(unpack_integers(packed, memory_format.bits, False), memory_format), tensor)


def checked_integers(values: np.ndarray, tensor: TensorType) -> np.ndarray:
    """The values as int64; raises `ValueError` if the shape is not the tensor's or a value is outside its range."""
    values = checked_shape(values, tensor)
    low, high = tensor.range
    if values.min() < low or values.max() > high:
        raise ValueError(f"values {values.min()}..{values.max()} are outside {low}..{high}, the range of {tensor}")
    return values.astype(np.int64)


def checked_shape(values: np.ndarray, tensor: TensorType) -> np.ndarray:
    """The values as an array; raises `ValueError` if the shape is not the tensor's."""
    values = np.asarray(values)
    if values.shape != tensor.shape:
        raise ValueError(f"the tensor has the shape {tensor.shape}, not {values.shape}")
    return values


def encode_floats(values: np.ndarray, memory_format: MemoryFormat) -> np.ndarray:
    """Bit patterns (int64) of the numbers of a format that are nearest to ``values`` as float32, half to even.

    As in IEEE 754, what is too large becomes infinity; NaN stays NaN.
    """
    with np.errstate(over="ignore"):
        single = np.asarray(values).astype(np.float32)
        if memory_format is MemoryFormat.FP16:
            return single.astype(np.float16).view(np.uint16).astype(np.int64)
    patterns = single.view(np.uint32).astype(np.int64)
    if memory_format is MemoryFormat.FP32:
        return patterns
    quiet_nan = patterns >> 16 | 1 << MemoryFormat.BF16.fraction_bits - 1
    return np.where(np.isnan(single), quiet_nan, round_half_even_shift(patterns, 16))


def decode_floats(patterns: np.ndarray, memory_format: MemoryFormat) -> np.ndarray:
    """The float32 numbers of a format's bit patterns; inverse of `encode_floats`."""
    if memory_format is MemoryFormat.FP16:
        return patterns.astype(np.uint16).view(np.float16).astype(np.float32)
    return (patterns << 32 - memory_format.bits).astype(np.uint32).view(np.float32)


def _pixels(values: np.ndarray, config: NpuConfig) -> np.ndarray:
    """(channels, height, width) as [channel blocks][height][width][word_digits]; 0 in the channels that fill up."""
    channels, height, width = values.shape
    blocks = config.channel_blocks(channels)
    padded = np.zeros((blocks * config.word_digits, height, width), values.dtype)
    padded[:channels] = values
    return padded.reshape(blocks, config.word_digits, height, width).transpose(0, 2, 3, 1)


def _planes(pixels: np.ndarray, tensor: TensorType) -> np.ndarray:
    """Inverse of `_pixels`."""
    return pixels.transpose(0, 3, 1, 2).reshape(-1, tensor.height, tensor.width)[: tensor.channels].copy()


def _packed_pixels(data: bytes, tensor: TensorType, config: NpuConfig, memory_format: MemoryFormat) -> np.ndarray:
    """The bytes of a tensor by channel block, row and column, after a check of their number."""
    size = tensor_bytes(tensor, config, memory_format)
    if len(data) != size:
        raise ValueError(f"{tensor} has {size} bytes, not {len(data)}")
    blocks = config.channel_blocks(tensor.channels)
    return np.frombuffer(data, np.uint8).reshape(blocks, tensor.height, tensor.width, -1)


def pack_integers(values: np.ndarray, depth: int) -> np.ndarray:
    """Packs the last axis of an integer array: ``depth`` bits each, element 0 lowest; returns bytes (uint8)."""
    bits = (np.asarray(values, np.int64)[..., None] >> np.arange(depth) & 1).astype(np.uint8)
    return np.packbits(bits.reshape(*bits.shape[:-2], -1), axis=-1, bitorder="little")


def unpack_integers(data: np.ndarray, depth: int, signed: bool) -> np.ndarray:
    """The int64 integers of ``depth`` bits packed in the last axis of a byte array, as many as are whole; inverse of
    `pack_integers`.
    """
    bits = np.unpackbits(data, axis=-1, count=data.shape[-1] * 8 // depth * depth, bitorder="little")
    bits = bits.reshape(*bits.shape[:-1], -1, depth)
    weights = 1 << np.arange(depth, dtype=np.int64)
    if signed:
        weights[-1] = -weights[-1]
    return bits.astype(np.int64) @ weights
