"""Tensors of few channels, whose pixels follow one another in DRAM, so that windows of a row become words on chip.

The order in DRAM is ``[rows][pixels of a row][channels]`` without gaps, channel 0 of the first pixel lowest; a row
ends at a whole byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tessera.rtl.config import NpuConfig
from tessera.sim.golden.network import TensorType
from tessera.sim.tensor_layout import pack_integers, unpack_integers


@dataclass(frozen=True)
class RowFold:
    """How windows of the rows of a tensor become its pixels on chip.

    The pixel x on chip has the channels of ``kernel`` adjacent pixels, from pixel ``x * stride`` of the row with its
    margins on; the channels that fill its last block are whatever follows in DRAM.

    Attributes
    ----------
    tensor
        Type of the tensor in DRAM.
    rows
        Rows that the tensor is divided into: its height, or 1 if it is a single row.
    kernel, stride
        Pixels of a window, and their distance.
    left, right
        Pixels of the margins.
    fill
        Integer that the margins hold.
    bits
        Bits of a value in DRAM: those of its floating-point format, or at least the tensor's depth.
    """

    tensor: TensorType
    rows: int
    kernel: int
    stride: int
    left: int
    right: int
    fill: int
    bits: int

    @property
    def row(self) -> int:
        """Pixels of a row in DRAM, margins included."""
        return self.left + self.tensor.height * self.tensor.width // self.rows + self.right

    @property
    def on_chip(self) -> TensorType:
        """Type of the tensor that loads make on chip."""
        channels, width = self.kernel * self.tensor.channels, (self.row - self.kernel) // self.stride + 1
        return replace(self.tensor, channels=channels, height=self.rows, width=width)

    @property
    def row_bytes(self) -> int:
        """Distance of rows in DRAM."""
        return -(-self.row * self.tensor.channels * self.bits // 8)

    @property
    def column_bytes(self) -> int:
        """Distance of windows in DRAM, a whole number of bytes where there are several."""
        return self.stride * self.tensor.channels * self.bits // 8

    def size(self, config: NpuConfig) -> int:
        """DRAM bytes, to the end of what the last window's load reads."""
        chip = self.on_chip
        element = config.channel_blocks(chip.channels) * config.pixel_bytes(self.bits)
        last_row = max(self.row_bytes, (chip.width - 1) * self.column_bytes + element)
        return (chip.height - 1) * self.row_bytes + last_row

    def pack(self, values: np.ndarray, fill: np.ndarray, config: NpuConfig) -> bytes:
        """The DRAM bytes of integers or bit patterns, an int64 array (channels, height, width), between margins of the
        value ``fill``; 0 behind the last row."""
        pixels = values.reshape(self.tensor.channels, self.rows, -1).transpose(1, 2, 0)
        pixels = np.pad(pixels, ((0, 0), (self.left, self.right), (0, 0)), constant_values=fill.item())
        data = pack_integers(pixels.reshape(self.rows, -1), self.bits).tobytes()
        return data.ljust(self.size(config), b"\0")

    def unpack(self, data: bytes, *, signed: bool) -> np.ndarray:
        """The int64 array whose bytes are ``data``; inverse of `pack`."""
        channels, height, width = self.tensor.shape
        rows = np.frombuffer(data, np.uint8)[: self.rows * self.row_bytes].reshape(self.rows, -1)
        first = self.left * channels
        pixels = unpack_integers(rows, self.bits, signed)[:, first : first + height * width // self.rows * channels]
        return pixels.reshape(-1, channels).T.reshape(self.tensor.shape)
