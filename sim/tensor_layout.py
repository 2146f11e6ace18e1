"""How activation tensors lie in DRAM.

The order is ``[channel blocks][height][width][word_digits]``, packed at the tensor's depth. A channel block
is ``word_digits`` channels of the configuration; the channels that fill the last block are 0. Within a pixel,
channel 0 has the lowest bits; bytes are little endian.
"""

from __future__ import annotations

import numpy as np

from tessera.rtl.config import NpuConfig
from tessera.sim.golden.network import TensorType


def tensor_bytes(tensor: TensorType, config: NpuConfig) -> int:
    """DRAM bytes of a tensor."""
    pixels = config.channel_blocks(tensor.channels) * tensor.height * tensor.width
    return pixels * config.pixel_bytes(tensor.depth)


def pack_tensor(values: np.ndarray, tensor: TensorType, config: NpuConfig) -> bytes:
    """The DRAM bytes of an integer array of shape (channels, height, width).

    Raises
    ------
    ValueError
        The shape is not the tensor's, or a value is outside its range.
    """
    values = np.asarray(values)
    low, high = tensor.range
    if values.shape != tensor.shape:
        raise ValueError(f"the tensor has the shape {tensor.shape}, not {values.shape}")
    if values.min() < low or values.max() > high:
        raise ValueError(f"values {values.min()}..{values.max()} are outside {low}..{high}, the range of {tensor}")
    blocks = config.channel_blocks(tensor.channels)
    padded = np.zeros((blocks * config.word_digits, tensor.height, tensor.width), np.int64)
    padded[: tensor.channels] = values
    pixels = padded.reshape(blocks, config.word_digits, tensor.height, tensor.width).transpose(0, 2, 3, 1)
    return pack_integers(pixels, tensor.depth).tobytes()


def unpack_tensor(data: bytes, tensor: TensorType, config: NpuConfig) -> np.ndarray:
    """The int64 array (channels, height, width) whose DRAM bytes are ``data``; inverse of `pack_tensor`.

    Raises
    ------
    ValueError
        The number of bytes is not that of the tensor.
    """
    if len(data) != tensor_bytes(tensor, config):
        raise ValueError(f"{tensor} has {tensor_bytes(tensor, config)} bytes, not {len(data)}")
    blocks = config.channel_blocks(tensor.channels)
    packed = np.frombuffer(data, np.uint8).reshape(blocks, tensor.height, tensor.width, -1)
    pixels = unpack_integers(packed, tensor.depth, tensor.signed)
    return pixels.transpose(0, 3, 1, 2).reshape(-1, tensor.height, tensor.width)[: tensor.channels].copy()


def pack_integers(values: np.ndarray, depth: int) -> np.ndarray:
    """Packs the last axis of an integer array: ``depth`` bits each, element 0 lowest; returns bytes (uint8)."""
    bits = (np.asarray(values, np.int64)[..., None] >> np.arange(depth) & 1).astype(np.uint8)
    return np.packbits(bits.reshape(*bits.shape[:-2], -1), axis=-1, bitorder="little")


def unpack_integers(data: np.ndarray, depth: int, signed: bool) -> np.ndarray:
    """The int64 integers of ``depth`` bits packed in the last axis of a byte array; inverse of `pack_integers`."""
    bits = np.unpackbits(data, axis=-1, bitorder="little")
    bits = bits.reshape(*bits.shape[:-1], -1, depth)
    weights = 1 << np.arange(depth, dtype=np.int64)
    if signed:
        weights[-1] = -weights[-1]
    return bits.astype(np.int64) @ weights
