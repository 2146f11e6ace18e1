"""The stream model: executes an encoded instruction stream, one by one, with the RTL's bits.

The memories are numpy arrays, and an instruction is a handful of array operations. Instructions take effect
in stream order, so the result is the RTL's for every stream whose waits are sufficient (the stream checker
proves that).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from tessera.rtl.config import DIGIT_BITS, PARAMETER_BYTES_PER_CHANNEL, NpuConfig
from tessera.rtl.isa import (
    DEPTHWISE_TAPS,
    PPU_SLICES,
    ChannelParameters,
    Depth,
    End,
    Fence,
    Instruction,
    LaneProgram,
    Load,
    LoadTarget,
    PostProcess,
    Reduction,
    Source,
    Store,
    Wait,
    WeightDepth,
    Window,
    decode_stream,
    format_instruction,
    lanes_of_mask,
)
from tessera.sim.golden.arithmetic import (
    convert_depth,
    join_digits,
    round_half_even_shift,
    saturate,
    split_digits,
)
from tessera.sim.program import Program
from tessera.sim.tensor_layout import pack_integers, pack_tensor, unpack_integers, unpack_tensor

_DIGIT_MASK = (1 << DIGIT_BITS) - 1


class StreamError(RuntimeError):
    """An instruction that cannot be executed; the message names it and says why."""


class StreamModel:
    """State of one NPU and of its DRAM.

    Parameters
    ----------
    config
        Sizes of the NPU.
    dram_bytes
        Size of the DRAM in bytes; `run` enlarges it as a program needs.

    Attributes
    ----------
    dram
        The DRAM, a uint8 array.
    activations
        Digits (uint8), shape (lanes, activation words, word digits).
    weights
        Bytes (uint8), shape (lanes, weight bank bytes).
    parameters
        Bytes (uint8) of the parameter memories; both slices hold the same.
    tiles
        For each lane its finished tiles, oldest first: int64 arrays of shape (pixels, cols).
    open_tiles
        For each lane the sums so far of a tile whose last program was partial, or ``None``.
    windows
        For each slice the results of its window reader that were not yet taken, like ``tiles``.
    saturations
        Channels of output pixels that were saturated so far.
    """

    def __init__(self, config: NpuConfig, dram_bytes: int = 0):
        self.config = config
        self.dram = np.zeros(dram_bytes, np.uint8)
        self.activations = np.zeros((config.lanes, config.activation_words, config.word_digits), np.uint8)
        self.weights = np.zeros((config.lanes, config.weight_bank_bytes), np.uint8)
        self.parameters = np.zeros(config.parameter_bytes, np.uint8)
        self.tiles: list[deque[np.ndarray]] = [deque() for _ in range(config.lanes)]
        self.open_tiles: list[np.ndarray | None] = [None] * config.lanes
        self.windows: list[deque[np.ndarray]] = [deque() for _ in range(PPU_SLICES)]
        self.saturations = 0
        self._execute: dict[type[Instruction], Callable[..., None]] = {
            Load: self._load,
            Store: self._store,
            LaneProgram: self._lane,
            Window: self._window,
            PostProcess: self._post,
        }

    def run(self, program: Program, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Writes the program and its inputs to DRAM, executes the stream, and reads the outputs.

        Parameters
        ----------
        program
            A program for this configuration.
        inputs
            For each input of the program an integer array (channels, height, width).

        Returns
        -------
        For each output of the program an int64 array (channels, height, width).
        """
        if program.end_address > len(self.dram):
            self.dram = np.concatenate([self.dram, np.zeros(program.end_address - len(self.dram), np.uint8)])
        self.write_memory(program.address, program.image)
        for name, tensor in program.inputs.items():
            self.write_memory(tensor.address, pack_tensor(inputs[name], tensor.type, self.config))
        code = self.read_memory(program.code_address, len(program.image) + program.address - program.code_address)
        self.execute(decode_stream(code))
        return {
            name: unpack_tensor(self.read_memory(tensor.address, tensor.size), tensor.type, self.config)
            for name, tensor in program.outputs.items()
        }

    def write_memory(self, address: int, data: bytes) -> None:
        """Writes bytes to DRAM."""
        self.dram[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def read_memory(self, address: int, length: int) -> bytes:
        """Reads bytes from DRAM."""
        return self.dram[address : address + length].tobytes()

    def execute(self, stream: Sequence[Instruction]) -> None:
        """Executes instructions in the given order; raises `StreamError` where one cannot be."""
        for index, instruction in enumerate(stream):
            try:
                self.step(instruction)
            except (StreamError, IndexError) as error:
                text = f"instruction {index}: {format_instruction(instruction)}: {error}"
                raise StreamError(text) from None

    def step(self, instruction: Instruction) -> None:
        """Executes one instruction. Waits, fences and the end change no memory."""
        if not isinstance(instruction, Wait | Fence | End):
            self._execute[type(instruction)](instruction)

    def _load(self, load: Load) -> None:
        chip = block_addresses(
            load.base, load.columns, load.rows, load.planes, load.chip_row_pitch, load.chip_plane_pitch
        )
        if load.target is LoadTarget.ACTIVATIONS:
            values = unpack_integers(
                self.dram[self._dram_addresses(load)], load.memory_depth.bits, bool(load.memory_signed)
            )
            values = convert_depth(values, load.shift, load.chip_depth.bits, bool(load.chip_signed))
            digits = split_digits(values, load.chip_depth.bits)
            for lane in lanes_of_mask(load.lanes):
                self.activations[lane, chip] = digits[lane % load.chip_depth.digits]
            return
        beats = self.dram[self._dram_addresses(load)]
        memories = [self.parameters]
        if load.target is LoadTarget.WEIGHTS:
            memories = [self.weights[lane] for lane in lanes_of_mask(load.lanes)]
        for memory in memories:
            memory.reshape(-1, self.config.beat_bytes)[chip] = beats

    def _store(self, store: Store) -> None:
        chip = block_addresses(
            store.base, store.columns, store.rows, store.planes, store.chip_row_pitch, store.chip_plane_pitch
        )
        words = self.activations[self._gang(store.lanes, store.chip_depth)][:, chip]
        values = join_digits(words, bool(store.chip_signed))
        values = convert_depth(values, store.shift, store.memory_depth.bits, bool(store.memory_signed))
        self.dram[self._dram_addresses(store)] = pack_integers(values, store.memory_depth.bits)

    def _dram_addresses(self, transfer: Load | Store) -> np.ndarray:
        """Byte addresses of a transfer, shape (planes, rows, columns, bytes per element)."""
        activations = isinstance(transfer, Store) or transfer.target is LoadTarget.ACTIVATIONS
        size = self.config.pixel_bytes(transfer.memory_depth.bits) if activations else self.config.beat_bytes
        rows = block_addresses(
            transfer.address, 1, transfer.rows, transfer.planes, transfer.row_pitch, transfer.plane_pitch
        )
        addresses = rows[..., None] + np.arange(transfer.columns * size).reshape(transfer.columns, size)
        if addresses[-1, -1, -1, -1] >= len(self.dram):
            raise StreamError(
                f"it reaches DRAM address {addresses.max():#x}, but the DRAM has {len(self.dram):#x} bytes"
            )
        return addresses

    def _lane(self, program: LaneProgram) -> None:
        for lane in self._gang(program.lanes, program.depth):
            self.compute_tile(program, lane)

    def compute_tile(self, program: LaneProgram, lane: int) -> None:
        """Does one lane's part of a lane program: appends the sums to its finished tiles, or keeps a partial
        one's."""
        addresses, inside = window_addresses(program)
        first, per_step = 0, 2 * self.config.rows
        if program.weight_depth is WeightDepth.W8:
            first, per_step = program.half * self.config.rows, self.config.rows
        stop = first + program.channel_steps * per_step
        blocks = -(-stop // self.config.word_digits)
        addresses = addresses[..., None] + program.block_pitch * np.arange(blocks)
        position = lane % program.depth.digits
        digits = self.activations[lane, np.where(inside[..., None], addresses, 0)]
        digits[~inside] = program.pad >> DIGIT_BITS * position & _DIGIT_MASK
        matrix = digits.reshape(*inside.shape, -1)[..., first:stop].astype(np.int64)
        if program.signed and position == program.depth.digits - 1:
            matrix -= (matrix >> DIGIT_BITS - 1) << DIGIT_BITS
        sums = self._sum_products(program, matrix, self._weight_matrix(program, lane))
        self._accumulate(program, lane, sums.astype(np.int64))

    def _accumulate(self, program: LaneProgram, lane: int, sums: np.ndarray) -> None:
        """Adds sums to the lane's open tile, if there is one, and finishes it unless the program is partial."""
        before = self.open_tiles[lane]
        if before is not None:
            if before.shape != sums.shape:
                raise StreamError(f"it adds a tile of {len(sums)} pixels to an open one of {len(before)}")
            sums = sums + before
        total = _wrap(sums, self.config.accumulator_bits)
        self.open_tiles[lane] = total if program.partial else None
        if not program.partial:
            self.tiles[lane].append(total)

    def _sum_products(self, program: LaneProgram, digits: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sums in float64 (exact), shape (pixels, cols), of digits (pixels, positions, channels)."""
        if not program.depthwise:
            return digits.reshape(len(digits), -1).astype(np.float64) @ weights
        used = weights.reshape(-1, self.config.rows, self.config.cols)[:, :DEPTHWISE_TAPS]
        return np.einsum("ptc,tc->pc", digits.astype(np.float64), used.reshape(-1, self.config.cols))

    def _weight_matrix(self, program: LaneProgram, lane: int) -> np.ndarray:
        """Weights of a tile as float64 (exact), shape (steps * operands per step, cols)."""
        rows, cols = self.config.rows, self.config.cols
        steps = program.kernel_height * program.kernel_width * program.channel_steps
        start = program.weight_base * self.config.beat_bytes
        stop = start + steps * rows * cols
        if stop > self.config.weight_bank_bytes:
            raise StreamError(
                f"its weights end at byte {stop} of a weight bank of {self.config.weight_bank_bytes} bytes"
            )
        block = self.weights[lane, start:stop].view(np.int8).reshape(steps, rows, cols)
        if program.weight_depth is WeightDepth.W4:
            block = np.concatenate([(block << DIGIT_BITS) >> DIGIT_BITS, block >> DIGIT_BITS], axis=1)
        return block.reshape(-1, cols).astype(np.float64)

    def _window(self, window: Window) -> None:
        addresses, inside = window_addresses(window)
        cols = self.config.cols
        words = self.activations[self._gang(window.lanes, window.depth)][:, np.where(inside, addresses, 0)]
        values = join_digits(words[..., window.half * cols : (window.half + 1) * cols], bool(window.signed))
        outside = ~inside[..., None]
        if window.reduction is Reduction.SUM:
            results = np.where(outside, 0, values).sum(axis=1)
        else:
            results = np.where(outside, np.iinfo(np.int64).min, values).max(axis=1)
            results[~inside.any(axis=1)] = 0
        self.windows[window.slice].append(results)

    def _post(self, post: PostProcess) -> None:
        sums = self._combine(post)
        parameters = self._channel_parameters(post.parameter_block)
        bias, multiplier, shift = parameters
        total = (sums + bias) * multiplier
        if post.residual:
            residual = self._residual(post)
            total += (residual * post.residual_multiplier) << (shift - post.residual_shift)
        values = np.clip(round_half_even_shift(total, shift), post.clamp_low, post.clamp_high)
        outputs = saturate(values, post.output_depth.bits, bool(post.output_signed))
        self.saturations += int(np.count_nonzero(outputs != values))
        digits = split_digits(outputs, post.output_depth.bits)
        addresses = self._tile_addresses(post, post.output_base, post.output_row_pitch)
        half = slice(post.output_half * self.config.cols, (post.output_half + 1) * self.config.cols)
        for lane in lanes_of_mask(post.output_lanes):
            self.activations[lane, addresses, half] = digits[lane % post.output_depth.digits]

    def _combine(self, post: PostProcess) -> np.ndarray:
        """The tile's sums, int64 of shape (pixels, cols)."""
        lanes = lanes_of_mask(post.lanes)
        queues = [self.windows[post.slice]] if post.source is Source.WINDOW else [self.tiles[lane] for lane in lanes]
        if not all(queues):
            raise StreamError("its source has no finished tile")
        tiles = [queue.popleft() for queue in queues]
        pixels = post.tile_height * post.tile_width
        for tile in tiles:
            if len(tile) != pixels:
                raise StreamError(f"it takes a tile of {pixels} pixels, but the finished tile has {len(tile)}")
        if post.source is Source.WINDOW:
            return tiles[0]
        shifted = [tile << DIGIT_BITS * (lane % len(lanes)) for lane, tile in zip(lanes, tiles, strict=True)]
        return np.sum(shifted, axis=0)

    def _channel_parameters(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bias, multiplier and shift of a block of ``cols`` channels, int64 arrays of length ``cols``."""
        size = self.config.cols * PARAMETER_BYTES_PER_CHANNEL
        data = self.parameters[block * size : (block + 1) * size].tobytes()
        channels = [
            ChannelParameters.decode(data[start : start + PARAMETER_BYTES_PER_CHANNEL])
            for start in range(0, len(data), PARAMETER_BYTES_PER_CHANNEL)
        ]
        if len(channels) != self.config.cols:
            raise StreamError(f"parameter block {block} is outside the memory of {self.config.parameter_blocks} blocks")
        return (
            np.array([channel.bias for channel in channels], np.int64),
            np.array([channel.multiplier for channel in channels], np.int64),
            np.array([channel.shift for channel in channels], np.int64),
        )

    def _residual(self, post: PostProcess) -> np.ndarray:
        addresses = self._tile_addresses(post, post.residual_base, post.residual_row_pitch)
        words = self.activations[self._gang(post.residual_lanes, post.residual_depth)][:, addresses]
        cols = self.config.cols
        half = words[..., post.residual_half * cols : (post.residual_half + 1) * cols]
        return join_digits(half, bool(post.residual_signed))

    @staticmethod
    def _tile_addresses(post: PostProcess, base: int, row_pitch: int) -> np.ndarray:
        return block_addresses(base, post.tile_width, post.tile_height, 1, row_pitch, 0).ravel()

    @staticmethod
    def _gang(mask: int, depth: Depth) -> list[int]:
        lanes = list(lanes_of_mask(mask))
        if len(lanes) != depth.digits:
            raise StreamError(f"a gang of {depth.bits}-bit activations has {depth.digits} lanes, not {len(lanes)}")
        return lanes


def block_addresses(base: int, columns: int, rows: int, planes: int, row_pitch: int, plane_pitch: int) -> np.ndarray:
    """Addresses of a 3-D block, shape (planes, rows, columns)."""
    plane, row, column = np.ogrid[:planes, :rows, :columns]
    return base + plane * plane_pitch + row * row_pitch + column


def window_addresses(program: LaneProgram | Window) -> tuple[np.ndarray, np.ndarray]:
    """Addresses under the kernel of every pixel of a tile, in channel block 0.

    Returns
    -------
    Addresses (words) and whether they lie inside the input, both of shape (pixels, kernel positions).
    """
    rows, columns = kernel_offsets(program)
    y = program.origin_y + np.add.outer(program.stride_y * np.arange(program.tile_height), rows)
    x = program.origin_x + np.add.outer(program.stride_x * np.arange(program.tile_width), columns)
    inside = ((y >= 0) & (y < program.input_height))[:, None, :, None] & ((x >= 0) & (x < program.input_width))[:, None]
    addresses = program.input_base + (y * program.row_pitch)[:, None, :, None] + x[:, None]
    shape = (program.tile_height * program.tile_width, -1)
    return addresses.reshape(shape), inside.reshape(shape)


def kernel_offsets(program: LaneProgram | Window) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns under the kernel, from those of its first position."""
    rows, columns = np.arange(program.kernel_height), np.arange(program.kernel_width)
    if isinstance(program, Window):
        return rows, columns
    rows, columns = program.dilation_y * rows, program.dilation_x * columns
    if program.depthwise:
        columns = np.add.outer(columns, np.arange(DEPTHWISE_TAPS)).ravel()
    return rows, columns


def _wrap(values: np.ndarray, bits: int) -> np.ndarray:
    """Two's complement of ``bits`` bits, as an accumulator that overflows holds it."""
    half = 1 << bits - 1
    return (values + half & (1 << bits) - 1) - half
