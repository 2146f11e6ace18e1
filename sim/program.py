"""Programs: an encoded stream, the data it needs in DRAM, and where a host finds its inputs and outputs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Instruction, MemoryFormat, NanPolicy, encode_stream, format_instruction
from tessera.sim.golden.arithmetic import float_to_integer, integer_to_float
from tessera.sim.golden.network import TensorType
from tessera.sim.row_fold import RowFold
from tessera.sim.tensor_layout import (
    checked_integers,
    checked_shape,
    decode_floats,
    encode_floats,
    pack_float_tensor,
    pack_tensor,
    unpack_float_tensor,
    unpack_tensor,
)
from tessera.sim.windows import MemoryWindows, aligned_window


@dataclass(frozen=True)
class DramFormat:
    """What the values of a tensor in DRAM are.

    Attributes
    ----------
    memory_format
        Packed integers, or a floating-point format.
    scale_exponent
        A number in DRAM is the integer on chip times ``2 ** scale_exponent``; 0 for integers of the same depth.
    nan_policy
        Floating point: what a load makes of NaN and infinity.
    nan_value
        The integer that replaces them, with the policy REPLACE; saturated to the tensor's depth.
    """

    memory_format: MemoryFormat = MemoryFormat.INTEGER
    scale_exponent: int = 0
    nan_policy: NanPolicy = NanPolicy.STOP_STREAM
    nan_value: int = 0

    @property
    def is_float(self) -> bool:
        """True for floating point."""
        return self.memory_format.is_float

    def integers(self, values: np.ndarray, tensor: TensorType) -> np.ndarray:
        """The int64 integers that a load makes of finite real numbers, which are first rounded to the format."""
        patterns = encode_floats(values, self.memory_format)
        return float_to_integer(patterns, self.memory_format, self.scale_exponent, tensor.depth, tensor.signed).values

    def reals(self, integers: np.ndarray) -> np.ndarray:
        """The float32 numbers that a store makes of integers."""
        patterns = integer_to_float(integers, -self.scale_exponent, self.memory_format).patterns
        return decode_floats(patterns, self.memory_format)


@dataclass(frozen=True)
class DramTensor:
    """A tensor in DRAM.

    Attributes
    ----------
    type
        Shape and depth; the bytes are arranged as in `tessera.sim.tensor_layout`.
    address
        DRAM byte address of the first byte.
    size
        Number of bytes.
    format
        What the values are.
    """

    type: TensorType
    address: int
    size: int
    format: DramFormat = DramFormat()

    @property
    def chip_type(self) -> TensorType:
        """Type of what loads make of it on chip."""
        return self.type

    @property
    def memory_bits(self) -> int:
        """Bits of a value."""
        return self.format.memory_format.bits if self.format.is_float else self.type.depth

    def pack(self, values: np.ndarray, config: NpuConfig) -> bytes:
        """The bytes of an array (channels, height, width): integers, or real numbers if the format is floating point;
        raises `ValueError` if it does not fit.
        """
        if self.format.is_float:
            return pack_float_tensor(values, self.type, config, self.format.memory_format)
        return pack_tensor(values, self.type, config)

    def unpack(self, data: bytes, config: NpuConfig) -> np.ndarray:
        """The int64 or float32 array whose bytes are ``data``; inverse of `pack`."""
        if self.format.is_float:
            return unpack_float_tensor(data, self.type, config, self.format.memory_format)
        return unpack_tensor(data, self.type, config)


@dataclass(frozen=True)
class FoldedTensor(DramTensor):
    """An input in DRAM, windows of whose rows become pixels on chip.

    Attributes
    ----------
    fold
        The windows, and how the bytes are arranged.
    """

    fold: RowFold = field(kw_only=True)

    @property
    def chip_type(self) -> TensorType:
        return self.fold.on_chip

    @property
    def memory_bits(self) -> int:
        return self.fold.bits

    def pack(self, values: np.ndarray, config: NpuConfig) -> bytes:
        fill = np.array(self.fold.fill)
        if not self.format.is_float:
            return self.fold.pack(checked_integers(values, self.type), fill, config)
        patterns = encode_floats(checked_shape(values, self.type), self.format.memory_format)
        return self.fold.pack(patterns, encode_floats(self.format.reals(fill), self.format.memory_format), config)

    def unpack(self, data: bytes, config: NpuConfig) -> np.ndarray:
        patterns = self.fold.unpack(data, signed=self.type.signed and not self.format.is_float)
        return decode_floats(patterns, self.format.memory_format) if self.format.is_float else patterns


@dataclass(frozen=True)
class ConvertedTensor(DramTensor):
    """A tensor of integers in DRAM that has another depth on chip.

    Attributes
    ----------
    chip
        Its type there.
    """

    chip: TensorType = field(kw_only=True)

    @property
    def chip_type(self) -> TensorType:
        return self.chip


@dataclass(frozen=True)
class OnChipTensor:
    """Where a tensor, or a part of one, lies in the activation banks, at the same addresses in all lanes that hold it.

    Attributes
    ----------
    type
        Shape and depth of what is there.
    base
        Address of its first pixel of its first channel block, in words.
    row_pitch, block_pitch
        Distance of rows, and of channel blocks (0 if there is one alone), in words.
    words
        Words that it occupies in each bank.
    lanes
        Mask of the lanes that hold it: one or more complete gangs, each with all its digits.
    block, y, x
        Channel block, row and column of the tensor that come first; all 0 unless it is a part.
    """

    type: TensorType
    base: int
    row_pitch: int
    block_pitch: int
    words: int
    lanes: int
    block: int = 0
    y: int = 0
    x: int = 0

    def address(self, block: int, y: int, x: int) -> int:
        """Address of a pixel of a channel block of the whole tensor, in words."""
        return self.base + (block - self.block) * self.block_pitch + (y - self.y) * self.row_pitch + x - self.x


@dataclass(frozen=True)
class Program:
    """One network, ready to run on one NPU.

    Attributes
    ----------
    name
        Name of the network.
    config
        Configuration of the NPU that it was made for.
    lanes
        Indices of the lanes that it may use.
    instructions
        The stream, ending with ``End``.
    labels
        For each instruction what it is for, in words.
    operations
        For each instruction the name of the operation that it is a part of; empty where there is none.
    operation_numbers
        For each operation of the network the number for which its instructions are counted (see `CountedInstruction`).
    address
        DRAM byte address of ``image``.
    image
        The bytes that must be in DRAM before the start: weights, parameters and, last, the encoded stream.
    code_address
        DRAM byte address of the first instruction.
    inputs, outputs
        Tensors that the host writes before, and reads after the run.
    placement
        Every tensor that is on chip as a whole.
    streamed
        Every tensor that is in DRAM and passes through buffers on chip, in parts.
    end_address
        First DRAM byte address after all that the program uses.
    macs
        Multiply-accumulates of one run.
    """

    name: str
    config: NpuConfig
    lanes: tuple[int, ...]
    instructions: tuple[Instruction, ...]
    labels: tuple[str, ...]
    operations: tuple[str, ...]
    operation_numbers: dict[str, int]
    address: int
    image: bytes
    code_address: int
    inputs: dict[str, DramTensor]
    outputs: dict[str, DramTensor]
    placement: dict[str, OnChipTensor]
    streamed: dict[str, DramTensor]
    end_address: int
    macs: int

    @property
    def code(self) -> bytes:
        """The encoded stream."""
        return encode_stream(self.instructions)

    @property
    def windows(self) -> MemoryWindows:
        """Memory windows: all of the program's memory can be read, and that on the outputs' side of the code written.

        Raises
        ------
        ValueError
            There are outputs on both sides of the code.
        """
        written = (*self.outputs.values(), *self.streamed.values())
        tensors = (*self.inputs.values(), *written)
        begin = min(self.address, *(tensor.address for tensor in tensors)) if tensors else self.address
        everything = aligned_window(begin, self.end_address)
        code = aligned_window(self.code_address, self.address + len(self.image))
        for store in (aligned_window(begin, code.base), aligned_window(code.limit, everything.limit)):
            if all(store.contains(tensor.address, tensor.size) for tensor in written):
                break
        else:
            raise ValueError(
                f"program {self.name}: outputs lie on both sides of the code at {code.base:#x}..{code.limit:#x}, so "
                "no window has them all without the code; put the code at one end"
            )
        return MemoryWindows(code=code, load=everything, store=store)

    def format(self) -> str:
        """Placement and disassembly, each instruction under the operation and tile that it belongs to."""
        lines = [f"program {self.name} for {self.config.name}, lanes {', '.join(map(str, self.lanes))}"]
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            lines += [
                f"  {kind} {name}: {t.type} at DRAM {t.address:#x}, {t.size} bytes" for name, t in tensors.items()
            ]
        lines += [
            f"  tensor {name}: {t.type} at words {t.base}..{t.base + t.words - 1}" for name, t in self.placement.items()
        ]
        lines += [
            f"  tensor {name}: {t.type} streamed at DRAM {t.address:#x}, {t.size} bytes"
            for name, t in self.streamed.items()
        ]
        index = itertools.count()
        for label, group in itertools.groupby(zip(self.labels, self.instructions, strict=True), lambda pair: pair[0]):
            lines.append(f"{label}:" if label else "")
            lines += [f"{next(index):6d}  {format_instruction(instruction)}" for _, instruction in group]
        return "\n".join(lines)
