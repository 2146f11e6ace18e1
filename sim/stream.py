"""The stream model: executes an encoded instruction stream, one by one, with the RTL's bits.

The memories are numpy arrays, and an instruction is a handful of array operations. Instructions take effect
in stream order, so the result is the RTL's for every stream whose waits are sufficient (the stream checker
proves that).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tessera.rtl.config import DIGIT_BITS, PARAMETER_BYTES_PER_CHANNEL, NpuConfig
from tessera.rtl.isa import (
    CONTEXTS,
    DEPTHWISE_TAPS,
    FINISHED_BITS,
    OPERATIONS,
    PPU_SLICES,
    Advance,
    Bundle,
    ChannelParameters,
    CountedInstruction,
    Depth,
    End,
    ErrorCode,
    Fence,
    Instruction,
    LaneProgram,
    Load,
    LoadTarget,
    NanPolicy,
    PostProcess,
    Reduction,
    Select,
    Source,
    Store,
    TableEntry,
    Wait,
    WeightDepth,
    Window,
    format_instruction,
    lanes_of_mask,
)
from tessera.rtl.legality import IllegalInstruction, check
from tessera.sim.contexts import Context, ContextState, all_contexts, contexts_of
from tessera.sim.counts import Counts
from tessera.sim.faults import Fault, scan, window_violation
from tessera.sim.golden.arithmetic import (
    convert_depth,
    float_to_integer,
    integer_to_float,
    join_digits,
    look_up,
    round_half_even_shift,
    saturate,
    split_digits,
)
from tessera.sim.program import Program
from tessera.sim.segments import Decisions
from tessera.sim.tensor_layout import pack_integers, unpack_integers
from tessera.sim.transfers import column_pitch, element_bytes
from tessera.sim.windows import MemoryWindows

_DIGIT_MASK = (1 << DIGIT_BITS) - 1


class StreamError(RuntimeError):
    """An instruction that cannot be executed; the message names it and says why."""


class StreamStopped(StreamError):
    """The machine would stop the stream with an error: ``code``, at the instruction ``index`` (-1: not known)."""

    def __init__(self, code: ErrorCode, message: str, index: int = -1):
        super().__init__(message)
        self.code = code
        self.index = index


class StreamFault(StreamError):
    """A stream that the NPU stops with an error.

    Attributes
    ----------
    fault
        The first fault in the order of the stream.
    faults
        All that could stop it, see `tessera.sim.faults.Scan`.
    """

    def __init__(self, faults: tuple[Fault, ...]):
        self.faults = faults
        self.fault = faults[0]
        name = self.fault.code.name.lower().replace("_", " ")
        super().__init__(f"instruction {self.fault.index}: {name}: {self.fault.reason}")


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
    tables
        Bytes (uint8) of the table memories; both slices hold the same.
    tiles
        For each lane its finished tiles, oldest first: int64 arrays of shape (pixels, cols).
    open_tiles
        For each lane the sums so far of a tile whose last program was partial, or ``None``.
    windows
        For each slice the results of its window reader that were not yet taken, like ``tiles``.
    operation_counts
        For each of the ``OPERATIONS`` operations what was counted since `clear_counts`.
    context_states
        For each context what became of it since the last start. After an error, what the context's own transfers did to
        its own memory before is the machine's affair: units run concurrently, and only other contexts are bit-exact.
    """

    def __init__(self, config: NpuConfig, dram_bytes: int = 0):
        self.config = config
        self.dram = np.zeros(dram_bytes, np.uint8)
        self.activations = np.zeros((config.lanes, config.activation_words, config.word_digits), np.uint8)
        self.weights = np.zeros((config.lanes, config.weight_bank_bytes), np.uint8)
        self.parameters = np.zeros(config.parameter_bytes, np.uint8)
        self.tables = np.zeros(config.table_beats * config.beat_bytes, np.uint8)
        self.tiles: list[deque[np.ndarray]] = [deque() for _ in range(config.lanes)]
        self.open_tiles: list[np.ndarray | None] = [None] * config.lanes
        self.windows: list[deque[np.ndarray]] = [deque() for _ in range(PPU_SLICES)]
        self._contexts = (Context(),) * CONTEXTS
        self.context_states = [ContextState()] * CONTEXTS
        self.clear_counts()
        self._execute: dict[type[Instruction], Callable[..., None]] = {
            Load: self._load,
            Store: self._store,
            LaneProgram: self._lane,
            Window: self._window,
            PostProcess: self._post,
        }

    @property
    def counts(self) -> Counts:
        """What was counted of all operations since `clear_counts`."""
        return sum(self.operation_counts, Counts())

    def clear_counts(self) -> None:
        """Sets all counts to 0."""
        self.operation_counts = [Counts()] * OPERATIONS

    def run(
        self, program: Program, inputs: dict[str, np.ndarray], decisions: Decisions | None = None
    ) -> dict[str, np.ndarray]:
        """Writes the program and its inputs to DRAM, executes the stream, and reads the outputs.

        Parameters
        ----------
        program
            A program for this configuration.
        inputs
            For each input of the program an array (channels, height, width): integers, or real numbers if it is
            floating point in DRAM.
        decisions
            What each ``Select`` chooses; may be left out if there is none.

        Returns
        -------
        For each output of the program an int64 or float32 array (channels, height, width).
        """
        if program.end_address > len(self.dram):
            self.dram = np.concatenate([self.dram, np.zeros(program.end_address - len(self.dram), np.uint8)])
        self.write_memory(program.address, program.image)
        for name, tensor in program.inputs.items():
            self.write_memory(tensor.address, tensor.pack(inputs[name], self.config))
        self.execute_code(program.code_address, program.windows, decisions=decisions)
        return {
            name: tensor.unpack(self.read_memory(tensor.address, tensor.size), self.config)
            for name, tensor in program.outputs.items()
        }

    def write_memory(self, address: int, data: bytes) -> None:
        """Writes bytes to DRAM."""
        self.dram[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def read_memory(self, address: int, length: int) -> bytes:
        """Reads bytes from DRAM."""
        return self.dram[address : address + length].tobytes()

    def execute_code(
        self,
        address: int,
        windows: MemoryWindows | None = None,
        contexts: Mapping[int, Context] | None = None,
        *,
        pause_after: int | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        """Executes the encoded stream at a DRAM byte address, as a start of the NPU does.

        Tiles and window results of earlier streams are dropped; counts begin at 0.

        Parameters
        ----------
        windows
            Where instructions may lie, and where context 0 may load and store if no contexts are given; ``None``:
            everywhere.
        contexts
            The contexts by their numbers; those that are not named may transfer nothing.
        pause_after
            The stream pauses when so many instructions have been executed, the last of them a ``Bundle``.
        decisions
            What each ``Select`` chooses; may be left out if there is none.

        Raises
        ------
        ValueError
            ``pause_after`` is not behind a ``Bundle``.
        DecisionError
            There is no variant for a decision, or no decision for a ``Select``.
        StreamFault
            An instruction stops the stream; those before it have been executed.
        StreamError
            An instruction cannot be executed.
        """
        windows = windows or MemoryWindows()
        contexts = contexts_of(windows) if contexts is None else contexts
        found = scan(self.read_memory, address, self.config, windows, contexts, decisions)
        self.begin(contexts)
        faults = tuple(fault for fault in found.faults if pause_after is None or fault.step < pause_after)
        self.execute(found.instructions[: faults[0].step if faults else pause_after], found.indices)
        if faults:
            raise StreamFault(faults)
        if pause_after is not None:
            if not isinstance(found.instructions[pause_after - 1], Bundle):
                raise ValueError(f"a stream cannot pause after {pause_after} instructions, as the last is no bundle")
            self.stop()

    def begin(self, contexts: Mapping[int, Context]) -> None:
        """What a start of the NPU does before the first instruction; `step` does the rest.

        Tiles and window results of earlier streams are dropped; counts begin at 0.
        """
        self._contexts = all_contexts(contexts)
        self.context_states = [ContextState()] * CONTEXTS
        self.stop()
        self.clear_counts()

    def stop(self) -> None:
        """What units hold when a stream stops does not outlive it."""
        for queue in (*self.tiles, *self.windows):
            queue.clear()
        self.open_tiles = [None] * self.config.lanes

    def execute(self, stream: Sequence[Instruction], indices: Sequence[int] | None = None) -> None:
        """Executes instructions in the given order; raises `StreamError` where one cannot be, and `StreamStopped` where
        the machine would stop with an error.

        ``indices``, those of the instructions and perhaps of more, may be left out for a stream without a ``Select``.
        """
        for index, instruction in zip(range(len(stream)) if indices is None else indices, stream):
            try:
                self.step(instruction, index)
            except StreamStopped as stop:
                text = f"instruction {index}: {format_instruction(instruction)}: {stop}"
                raise StreamStopped(stop.code, text, index) from None
            except (StreamError, IndexError) as error:
                text = f"instruction {index}: {format_instruction(instruction)}: {error}"
                raise StreamError(text) from None

    def step(self, instruction: Instruction, index: int = 0) -> None:
        """Executes one instruction, the ``index``-th of its stream.

        What the sequencer and the queues execute changes nothing here, but the end drops the tiles and windows that
        nothing has taken.

        Raises
        ------
        StreamError
            The configuration does not execute the instruction, or what it works on does not allow it.
        """
        try:
            check(instruction, self.config)
        except IllegalInstruction as error:
            raise StreamError(str(error)) from None
        if isinstance(instruction, End):
            self.stop()
        elif isinstance(instruction, Load | Store):
            self._transfer(instruction, index)
        elif not isinstance(instruction, Wait | Advance | Fence | Bundle | Select):
            self._execute[type(instruction)](instruction)

    def _transfer(self, transfer: Load | Store, index: int) -> None:
        """Executes a load or store in its context, unless that has failed."""
        context, state = self._contexts[transfer.context], self.context_states[transfer.context]
        if state.failed:
            return
        error = ErrorCode.NONE
        if context.contain and window_violation(transfer, self.config, context):
            error = ErrorCode.WINDOW
        else:
            try:
                self._execute[type(transfer)](transfer)
            except StreamStopped as stop:
                if not context.contain:
                    raise
                error = stop.code
        if error is not ErrorCode.NONE:
            state = replace(state, error=error, error_index=index)
        elif isinstance(transfer, Store) and transfer.finished:
            state = replace(state, finished=(state.finished + 1) % (1 << FINISHED_BITS))
        self.context_states[transfer.context] = state

    def _count(self, instruction: CountedInstruction, counts: Counts) -> None:
        self.operation_counts[instruction.operation] += counts

    def _load(self, load: Load) -> None:
        chip = block_addresses(
            load.base, load.columns, load.rows, load.planes, load.chip_row_pitch, load.chip_plane_pitch
        )
        if load.target is LoadTarget.ACTIVATIONS:
            data = self.dram[self._dram_addresses(load)]
            if load.memory_format.is_float:
                self._load_floats(load, data, chip)
                return
            values = unpack_integers(data, load.memory_depth.bits, bool(load.memory_signed))
            values = convert_depth(values, load.shift, load.chip_depth.bits, bool(load.chip_signed))
            self._write_activations(load, chip, values)
            return
        beats = self.dram[self._dram_addresses(load)]
        memories = [self.tables if load.target is LoadTarget.TABLES else self.parameters]
        if load.target is LoadTarget.WEIGHTS:
            memories = [self.weights[lane] for lane in lanes_of_mask(load.lanes)]
        for memory in memories:
            memory.reshape(-1, self.config.beat_bytes)[chip] = beats

    def _write_activations(self, load: Load, chip: np.ndarray, values: np.ndarray) -> None:
        digits = split_digits(values, load.chip_depth.bits)
        for lane in lanes_of_mask(load.lanes):
            self.activations[lane, chip] = digits[lane % load.chip_depth.digits]

    def _load_floats(self, load: Load, data: np.ndarray, chip: np.ndarray) -> None:
        """Converts and writes element by element in the order of the block, up to one that stops the load."""
        patterns = unpack_integers(data, load.memory_format.bits, False).reshape(-1, self.config.word_digits)
        depth, signed = load.chip_depth.bits, bool(load.chip_signed)
        found = float_to_integer(patterns, load.memory_format, load.shift, depth, signed)
        elements = converted = len(patterns)
        if load.nan_policy in (NanPolicy.STOP_OPERATION, NanPolicy.STOP_STREAM) and found.special.any():
            elements = int(found.special.any(axis=1).argmax())
            converted = elements + 1
        values = found.values
        if load.nan_policy is NanPolicy.REPLACE:
            values = np.where(found.special, saturate(load.nan_value, depth, signed), values)
        counted = (found.special, found.underflow, found.overflow)
        special, underflows, overflows = (int(flags[:converted].sum()) for flags in counted)
        self._count(load, Counts(not_a_number=special, underflows=underflows, overflows=overflows))
        self._write_activations(load, chip.ravel()[:elements], values[:elements])
        if elements < len(patterns) and load.nan_policy is NanPolicy.STOP_STREAM:
            raise StreamStopped(ErrorCode.NOT_A_NUMBER, "it loads NaN or infinity, and its policy is STOP_STREAM")

    def _store(self, store: Store) -> None:
        chip = block_addresses(
            store.base, store.columns, store.rows, store.planes, store.chip_row_pitch, store.chip_plane_pitch
        )
        words = self.activations[self._gang(store.lanes, store.chip_depth)][:, chip]
        values = join_digits(words, bool(store.chip_signed))
        if store.memory_format.is_float:
            made = integer_to_float(values, store.shift, store.memory_format)
            self._count(store, Counts(underflows=int(made.underflow.sum()), overflows=int(made.overflow.sum())))
            self.dram[self._dram_addresses(store)] = pack_integers(made.patterns, store.memory_format.bits)
            return
        values = convert_depth(values, store.shift, store.memory_depth.bits, bool(store.memory_signed))
        self.dram[self._dram_addresses(store)] = pack_integers(values, store.memory_depth.bits)

    def _dram_addresses(self, transfer: Load | Store) -> np.ndarray:
        """Byte addresses of a transfer, shape (planes, rows, columns, bytes per element)."""
        columns = column_pitch(transfer, self.config) * np.arange(transfer.columns)
        rows = block_addresses(
            transfer.address, 1, transfer.rows, transfer.planes, transfer.row_pitch, transfer.plane_pitch
        )
        element = np.arange(element_bytes(transfer, self.config))
        addresses = rows[..., None] + np.add.outer(columns, element)
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
        weights = self._weight_matrix(program, lane)
        before = self.open_tiles[lane]
        if before is not None and len(before) != len(matrix):
            raise StreamError(f"it adds a tile of {len(matrix)} pixels to an open one of {len(before)}")
        self._count(program, Counts(overflow=self._overflows(program, matrix, weights, before) << lane))
        self._accumulate(program, lane, self._sum_products(program, matrix, weights).astype(np.int64))

    def _accumulate(self, program: LaneProgram, lane: int, sums: np.ndarray) -> None:
        """Adds sums to the lane's open tile, if there is one, and finishes it unless the program is partial."""
        before = self.open_tiles[lane]
        if before is not None:
            sums = sums + before
        total = _wrap(sums, self.config.accumulator_bits)
        self.open_tiles[lane] = total if program.partial else None
        if not program.partial:
            self.tiles[lane].append(total)

    def _sum_products(self, program: LaneProgram, digits: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sums in float64 (exact), shape (pixels, cols), of digits (pixels, positions, channels)."""
        if not program.depthwise:
            return digits.reshape(len(digits), -1).astype(np.float64) @ weights
        used = self._depthwise_weights(weights)
        return np.einsum("ptc,tc->pc", digits.astype(np.float64), used.reshape(-1, self.config.cols))

    def _depthwise_weights(self, weights: np.ndarray) -> np.ndarray:
        """The weights that a depthwise program uses, shape (steps, taps, cols)."""
        return weights.reshape(-1, self.config.rows, self.config.cols)[:, :DEPTHWISE_TAPS]

    def _overflows(
        self, program: LaneProgram, digits: np.ndarray, weights: np.ndarray, before: np.ndarray | None
    ) -> bool:
        """Whether the sum of the first steps, for any number of them, leaves the range of the accumulators.

        Takes what `_sum_products` takes, and the sums of the lane's open tile; the products of a step are added at
        once, and exactly.
        """
        total = np.zeros((len(digits), self.config.cols)) if before is None else before.astype(np.float64)
        limit = 1 << self.config.accumulator_bits - 1
        if program.depthwise:
            weights = self._depthwise_weights(weights).reshape(-1, self.config.cols)
        if np.abs(total).max() + _DIGIT_MASK * np.abs(weights).sum(axis=0).max(initial=0) < limit:
            return False
        steps = program.kernel_height * program.kernel_width * program.channel_steps
        operands = digits if program.depthwise else digits.reshape(len(digits), -1)
        for part, block in zip(np.split(operands, steps, axis=1), np.split(weights, steps), strict=True):
            values = part.astype(np.float64)
            total += np.einsum("ptc,tc->pc", values, block) if program.depthwise else values @ block
            if total.min() < -limit or total.max() >= limit:
                return True
        return False

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
        if any(state.failed for state in self.context_states):
            shift = _possible_shifts(post, shift)
        else:
            _check_shifts(post, shift)
        total = (sums + bias) * multiplier
        if post.residual:
            residual = self._residual(post)
            total += (residual * post.residual_multiplier) << (shift - post.residual_shift)
        values = np.clip(round_half_even_shift(total, shift), post.clamp_low, post.clamp_high)
        if post.table:
            base, slope = self._table(post)
            values = look_up(values, base, slope, post.output_depth.bits)
        outputs = saturate(values, post.output_depth.bits, bool(post.output_signed))
        self._count(post, Counts(saturations=int(np.count_nonzero(outputs != values))))
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

    def _table(self, post: PostProcess) -> tuple[np.ndarray, np.ndarray]:
        """Base and slope of the segments of a post-process's table, int64 arrays."""
        size = TableEntry.SEGMENTS * TableEntry.BYTES
        data = self.tables[post.table_index * size : (post.table_index + 1) * size]
        base, slope = data.view("<i2" if post.output_signed else "<u2"), data.view("<i2")
        return base[0::2].astype(np.int64), slope[1::2].astype(np.int64)

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


def _check_shifts(post: PostProcess, shifts: np.ndarray) -> None:
    """Raises `StreamError` if a channel's shift, which is data, is beyond what the post-processing unit computes."""
    most, alignment = ChannelParameters.MAX_SHIFT, ChannelParameters.MAX_RESIDUAL_ALIGNMENT
    if shifts.max() > most:
        raise StreamError(
            f"a channel of parameter block {post.parameter_block} has the shift {shifts.max()}, but it must be at most "
            f"{most}; load other parameters"
        )
    least = post.residual_shift
    if post.residual and not least <= shifts.min() <= shifts.max() <= least + alignment:
        raise StreamError(
            f"parameter block {post.parameter_block} has shifts {shifts.min()}..{shifts.max()}, but with "
            f"residual_shift = {least} they must be {least}..{least + alignment}; change either"
        )


def _possible_shifts(post: PostProcess, shifts: np.ndarray) -> np.ndarray:
    """Shifts that can be computed with, for parameters that a failed context may not have loaded."""
    least = post.residual_shift if post.residual else 0
    most = least + ChannelParameters.MAX_RESIDUAL_ALIGNMENT if post.residual else ChannelParameters.MAX_SHIFT
    return np.clip(shifts, least, most)


def _wrap(values: np.ndarray, bits: int) -> np.ndarray:
    """Two's complement of ``bits`` bits, as an accumulator that overflows holds it."""
    half = 1 << bits - 1
    return (values + half & (1 << bits) - 1) - half
