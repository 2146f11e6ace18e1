"""What the DMA tests share: a DRAM with an AXI port in each direction, and the meaning of loads and stores."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from float_reference import to_integers, to_patterns

from tessera.rtl import isa
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.dma.block import FIELD_WIDTHS

DRAM_BASE = 0x9A_BCDE_0000
"""DRAM address of the first byte of the model: beyond 32 bits, and not at the top of anything."""

DRAM_BYTES = 1 << 16

Transfer = TypeVar("Transfer", isa.Load, isa.Store)


CONFIGS = {name: NpuConfig.preset(name) for name in ("tiny", "edge")} | {
    "one lane": NpuConfig(name="one", rows=4, cols=4, lanes=1, activation_depths=(4,), tables=0),
    "two lanes": NpuConfig(name="two", rows=4, cols=4, lanes=2, activation_depths=(6, 8), float_formats=("fp32",)),
    "half precision": NpuConfig(name="half", rows=4, cols=4, activation_depths=(8, 16), float_formats=("fp16", "bf16")),
}
"""Machines with different formats and widths, by name."""


class Inputs:
    """Sets the inputs of a design, but only where they change: every setting costs an evaluation of the design."""

    def __init__(self) -> None:
        self._values: dict[str, object] = {}

    def set(self, ctx: object, name: str, signal: object, value: object) -> None:
        """Gives ``signal`` a value; ``name`` identifies the signal."""
        if self._values.get(name) != value:
            self._values[name] = value
            ctx.set(signal, value)


class StreamMonitor:
    """Checks a stream's rules as seen by its receiver: once valid, it stays so, with the same payload."""

    def __init__(self, stream: object):
        self._stream = stream
        self._waiting: int | None = None

    def transfer(self, ctx: object, ready: bool) -> object:
        """The payload if there is a transfer in this cycle, else None."""
        valid = ctx.get(self._stream.valid)
        payload = ctx.get(self._stream.payload) if valid else None
        if self._waiting is not None:
            assert valid, "valid fell before the transfer"
            assert payload.as_bits() == self._waiting, "the payload changed before the transfer"
        self._waiting = payload.as_bits() if valid and not ready else None
        return payload if valid and ready else None


@dataclass
class Burst:
    """One burst: its first byte in the model's memory and its beats."""

    start: int
    beats: int
    arrived: int
    """Cycle of its address."""
    data: list[tuple[bytes, int]]


class Contexts:
    """Plays the contexts: each has a window that ends somewhere, and fails with the first error of its instructions.

    Parameters
    ----------
    engine
        The load or the store engine.
    limits
        Where the window of each context ends, a multiple of ``AXI_BURST_BYTES``; ``None`` for nowhere.
    contain
        Contexts whose errors are contained; the errors of others have no effect here.
    """

    def __init__(self, engine: object, limits: Sequence[int | None] = (None,) * isa.CONTEXTS, contain: int = 0):
        self._engine, self._contain = engine, contain
        self.limits = limits
        self.failed = 0
        self.failures: list[int] = []
        """Index of the instruction with which each context has failed, in that order."""

    def start(self, ctx: object) -> None:
        """Sets the windows."""
        for context, limit in enumerate(self.limits):
            if limit is not None:
                ctx.set(self._engine.windows[context], {"base": 0, "limit": limit // AXI_BURST_BYTES})

    def stops(self, ctx: object, context: int) -> bool:
        """Whether the oldest instruction, of a context, has a burst outside that is not contained."""
        return bool(ctx.get(self._engine.outside)) and not self._contain >> context & 1

    def observe(self, ctx: object, index: int, context: int, *, error: bool) -> None:
        """Takes note of this cycle's error of the oldest instruction, the ``index``-th one."""
        if (error or ctx.get(self._engine.outside)) and (self._contain & ~self.failed) >> context & 1:
            self.failed |= 1 << context
            self.failures.append(index)

    def drive(self, ctx: object) -> None:
        """Sets which contexts have failed, in the cycle after."""
        ctx.set(self._engine.failed, self.failed)


class Dram:
    """Memory with an AXI slave port per direction; ``drive`` and ``settle`` are called once per cycle.

    ``stall`` is the probability that a channel's handshake is refused in a cycle, ``latency`` the cycles from an
    address to its first beat (or from the last beat to the response). Bytes listed in ``broken`` answer with an error;
    ``stalls`` overrides ``stall`` for the channels that it names.
    """

    def __init__(
        self,
        config: NpuConfig,
        *,
        axi_id: int,
        rng: random.Random,
        read: object = None,
        write: object = None,
        stall: float = 0.0,
        latency: int = 3,
    ):
        self.config = config
        self.memory = bytearray(rng.randbytes(DRAM_BYTES))
        self.allows_silent_beats = False
        self.broken: set[int] = set()
        self.stalls: dict[str, float] = {}
        self.beats = {"read": 0, "write": 0}
        self.bursts = {"read": 0, "write": 0}
        self._axi_id, self._rng, self._stall, self._latency = axi_id, rng, stall, latency
        self._read, self._write = read, write
        self._cycle = 0
        self._reads: deque[Burst] = deque()
        self._writes: deque[Burst] = deque()
        self._responses: deque[tuple[int, int]] = deque()
        self._inputs = Inputs()
        self._presented = {"r": False, "b": False}
        self._ready: dict[str, bool] = {}
        self._monitors = {
            name: StreamMonitor(getattr(port, name))
            for port, names in ((read, ("ar",)), (write, ("aw", "w")))
            if port is not None
            for name in names
        }
        self.most_outstanding = 0

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return not (self._reads or self._writes or self._responses)

    def drive(self, ctx: object) -> None:
        """Sets this cycle's inputs of the engine."""
        for name in self._monitors:
            self._ready[name] = self._rng.random() >= self.stalls.get(name, self._stall)
            channel = getattr(self._read if name == "ar" else self._write, name)
            self._inputs.set(ctx, f"{name}.ready", channel.ready, self._ready[name])
        if self._read is not None:
            self._present(ctx, "r", self._read.r, self._next_beat())
        if self._write is not None:
            self._present(ctx, "b", self._write.b, self._next_response())

    def settle(self, ctx: object) -> None:
        """Takes note of this cycle's transfers."""
        if self._read is not None:
            if self._presented["r"] and ctx.get(self._read.r.ready):
                self._presented["r"] = False
                self._reads[0].data.pop(0)
                self.beats["read"] += 1
                if not self._reads[0].data:
                    self._reads.popleft()
            address = self._monitors["ar"].transfer(ctx, self._ready["ar"])
            if address is not None:
                self._reads.append(self._open(address, "read"))
                self.most_outstanding = max(self.most_outstanding, len(self._reads))
        if self._write is not None:
            if self._presented["b"] and ctx.get(self._write.b.ready):
                self._presented["b"] = False
                self._responses.popleft()
            beat = self._monitors["w"].transfer(ctx, self._ready["w"])
            address = self._monitors["aw"].transfer(ctx, self._ready["aw"])
            if beat is not None:
                self._write_beat(beat)
            if address is not None:
                self._writes.append(self._open(address, "write"))
        self._cycle += 1

    def _present(self, ctx: object, name: str, channel: object, payload: dict | None) -> None:
        if payload is not None and (self._presented[name] or self._rng.random() >= self._stall):
            self._presented[name] = True
            self._inputs.set(ctx, f"{name}.payload", channel.payload, payload)
        self._inputs.set(ctx, f"{name}.valid", channel.valid, self._presented[name])

    def _next_beat(self) -> dict | None:
        if not self._reads or self._cycle < self._reads[0].arrived + self._latency:
            return None
        content, resp = self._reads[0].data[0]
        last = len(self._reads[0].data) == 1
        data = int.from_bytes(content, "little")
        return {"id": self._axi_id, "data": data, "resp": resp, "last": last}

    def _next_response(self) -> dict | None:
        if not self._responses or self._cycle < self._responses[0][0] + self._latency:
            return None
        return {"id": self._axi_id, "resp": self._responses[0][1]}

    def _open(self, address: object, direction: str) -> Burst:
        """Checks a burst's address, and fetches its data if it is a read."""
        beat_bytes, beats = self.config.beat_bytes, address.len + 1
        assert address.id == self._axi_id
        assert address.addr % beat_bytes == 0, "the address is not a multiple of the beat"
        assert beats * beat_bytes <= AXI_BURST_BYTES
        assert address.addr // 4096 == (address.addr + beats * beat_bytes - 1) // 4096, "crosses 4 KiB"
        start = address.addr - DRAM_BASE
        assert start >= 0 and start + beats * beat_bytes <= DRAM_BYTES, "outside the memory"
        self.bursts[direction] += 1
        data = []
        for offset in range(start, start + beats * beat_bytes, beat_bytes):
            data.append((bytes(self.memory[offset : offset + beat_bytes]), self._response(offset)))
        return Burst(start, beats, self._cycle, data if direction == "read" else [])

    def _response(self, offset: int) -> int:
        touched = range(offset, offset + self.config.beat_bytes)
        return self._rng.choice((0b10, 0b11)) if self.broken.intersection(touched) else 0

    def _write_beat(self, beat: object) -> None:
        assert self._writes, "data before their address"
        burst = self._writes[0]
        offset = burst.start + len(burst.data) * self.config.beat_bytes
        content = beat.data.to_bytes(self.config.beat_bytes, "little")
        assert beat.strb or self.allows_silent_beats, "a beat that writes nothing"
        for index, byte in enumerate(content):
            if beat.strb >> index & 1:
                self.memory[offset + index] = byte
        burst.data.append((content, self._response(offset)))
        self.beats["write"] += 1
        assert beat.last == (len(burst.data) == burst.beats), "the last beat is not marked"
        if beat.last:
            self._writes.popleft()
            self._responses.append((self._cycle, max(resp for _, resp in burst.data)))


def column_pitch(program: isa.Load | isa.Store, element_bytes: int) -> int:
    """Bytes from the beginning of an element to that of the next one of its row."""
    overlaps = isinstance(program, isa.Load) and program.target == isa.LoadTarget.ACTIVATIONS
    return (overlaps and program.column_pitch) or element_bytes


def elements(program: isa.Load | isa.Store, element_bytes: int):
    """DRAM offset in the model and on-chip address of every element, in order."""
    for plane in range(program.planes):
        for row in range(program.rows):
            for column in range(program.columns):
                yield (
                    program.address - DRAM_BASE + plane * program.plane_pitch + row * program.row_pitch
                    + column * column_pitch(program, element_bytes),
                    program.base + plane * program.chip_plane_pitch + row * program.chip_row_pitch + column,
                )  # fmt: skip


def beats_of(config: NpuConfig, program: isa.Load | isa.Store, element_bytes: int) -> list[int]:
    """DRAM offset in the model of every bus beat, row by row."""
    beats = []
    for plane in range(program.planes):
        for row in range(program.rows):
            first = program.address - DRAM_BASE + plane * program.plane_pitch + row * program.row_pitch
            end = first + (program.columns - 1) * column_pitch(program, element_bytes) + element_bytes
            beats += range(first - first % config.beat_bytes, end, config.beat_bytes)
    return beats


def break_some(
    dram: Dram, rng: random.Random, programs: Sequence[isa.Load | isa.Store], element_bytes: Callable[[Any], int]
) -> list[int]:
    """Breaks a byte of every third program's memory; for each program 1 if it meets an error, else 0."""
    beats = [beats_of(dram.config, program, element_bytes(program)) for program in programs]
    for own in beats[::3]:
        dram.broken.add(rng.choice(own) + rng.randrange(dram.config.beat_bytes))
    return [int(meets_error(dram, own)) for own in beats]


def meets_error(dram: Dram, beats: Sequence[int]) -> bool:
    """Whether one of some beats has a byte that is broken."""
    return not {byte - byte % dram.config.beat_bytes for byte in dram.broken}.isdisjoint(beats)


ENDLESS = {
    **{name: (1 << FIELD_WIDTHS[name]) - 1 for name in ("rows", "planes")}, "chip_row_pitch": 0, "chip_plane_pitch": 0
}  # fmt: skip
"""A block of as many rows as there can be, which go to the same place on chip."""


def contain_failures(
    bench: Any, rng: random.Random, programs: Sequence[Transfer], element_bytes: Callable[[Any], int]
) -> list[Transfer]:
    """Lets some programs fail, by broken memory or by a window, in contexts that contain that; returns the programs.

    One of them may be such that it would not end if it were not squashed.
    """
    break_some(bench.dram, rng, programs[::3], element_bytes)
    limits = [None, None, *(DRAM_BASE + rng.randrange(1, DRAM_BYTES // AXI_BURST_BYTES) * AXI_BURST_BYTES,) * 2]
    rng.shuffle(limits)
    bench.contexts = Contexts(bench.engine, limits, contain=(1 << isa.CONTEXTS) - 1)
    programs = [replace(program, context=rng.randrange(isa.CONTEXTS)) for program in programs]
    if rng.random() < 0.5:
        index = rng.randrange(len(programs))
        context = next(index for index, limit in enumerate(limits) if limit is not None)
        programs[index] = replace(programs[index], context=context, row_pitch=DRAM_BYTES // 16, **ENDLESS)
    return programs


def failing_programs(
    bench: Any,
    programs: Sequence[Transfer],
    element_bytes: Callable[[Any], int],
    stops: Callable[[Any], bool] = lambda program: False,
) -> list[int]:
    """Index of the first program of each context that fails; ``stops`` says which ones do by their values."""
    failures: dict[int, int] = {}
    for index, program in enumerate(programs):
        size = element_bytes(program)
        if (
            is_outside(program, size, bench.contexts.limits[program.context])
            or meets_error(bench.dram, beats_of(bench.config, program, size))
            or stops(program)
        ):
            failures.setdefault(program.context, index)
    return sorted(failures.values())


def effective_programs(programs: Sequence[Transfer], failures: Sequence[int]) -> list[Transfer]:
    """The programs that have an effect: those before their context has failed, without those that made it fail."""
    failed_at = {programs[index].context: index for index in failures}
    return [program for index, program in enumerate(programs) if index < failed_at.get(program.context, len(programs))]


def touched(program: Transfer, element_bytes: int, limit: int | None) -> set[int]:
    """DRAM offsets in the model of the bytes of a program in its window, or more."""
    if program.planes == ENDLESS["planes"]:
        return set(range(program.address - DRAM_BASE, (limit or DRAM_BASE + DRAM_BYTES) - DRAM_BASE))
    return {offset + byte for offset, _ in elements(program, element_bytes) for byte in range(element_bytes)}


def is_outside(program: Transfer, element_bytes: int, limit: int | None) -> bool:
    """Whether a byte of a program lies behind its window."""
    rows = (program.rows - 1) * program.row_pitch + (program.planes - 1) * program.plane_pitch
    columns = (program.columns - 1) * column_pitch(program, element_bytes)
    return limit is not None and program.address + rows + columns + element_bytes > limit


def as_signed(value: int, bits: int) -> int:
    """The two's complement reading of ``bits`` bits."""
    return value - (value >> (bits - 1) << bits)


def convert(value: int, shift: int, bits: int, signed: int) -> int:
    """``saturate(round_half_even(value / 2 ** shift), bits)``."""
    if shift > 0:
        quotient, rest = divmod(value, 1 << shift)
        half = 1 << (shift - 1)
        value = quotient + (rest > half or (rest == half and quotient % 2 == 1))
    else:
        value <<= -shift
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return min(max(value, low), high)


def unpack(data: bytes, bits: int, signed: int) -> list[int]:
    """The values of an element in DRAM."""
    word = int.from_bytes(data, "little")
    fields = [word >> i & (1 << bits) - 1 for i in range(0, 8 * len(data), bits)]
    return [as_signed(field, bits) if signed else field for field in fields]


def pack(values: list[int], bits: int) -> bytes:
    """The bytes of an element in DRAM."""
    word = sum((value & (1 << bits) - 1) << bits * i for i, value in enumerate(values))
    return word.to_bytes(len(values) * bits // 8, "little")


def load_values(program: isa.Load, data: bytes) -> tuple[list[int], bool]:
    """The values on chip that an element in DRAM becomes, and whether it has NaN or infinity."""
    if not program.memory_format.is_float:
        values = unpack(data, program.memory_depth.bits, program.memory_signed)
        return [convert(x, program.shift, program.chip_depth.bits, program.chip_signed) for x in values], False
    patterns = np.array(unpack(data, program.memory_format.bits, 0))
    bits, signed = program.chip_depth.bits, program.chip_signed
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    values, special, *_ = to_integers(patterns, program.memory_format, program.shift, low, high)
    if program.nan_policy is isa.NanPolicy.REPLACE:
        values = np.where(special, min(max(program.nan_value, low), high), values)
    return values.tolist(), bool(special.any())


def stored_bytes(program: isa.Store, values: list[int]) -> bytes:
    """The bytes in DRAM that an element's values become."""
    if program.memory_format.is_float:
        patterns, *_ = to_patterns(np.array(values), program.shift, program.memory_format)
        return pack(patterns.tolist(), program.memory_format.bits)
    bits, signed = program.memory_depth.bits, program.memory_signed
    return pack([convert(value, program.shift, bits, signed) for value in values], bits)


def random_conversion(rng: random.Random, config: NpuConfig) -> dict[str, int]:
    """Format, depth and sign in DRAM and a shift, integers in half of the cases."""
    memory_format = isa.MemoryFormat.INTEGER
    if config.memory_formats and rng.random() < 0.5:
        memory_format = rng.choice(config.memory_formats)
    shift = rng.choice((0, 0, rng.randrange(-4, 9), rng.randrange(-16, 16)))
    if memory_format.is_float and rng.random() < 0.5:
        shift = rng.randrange(-128, 128)
    return {
        "memory_format": memory_format,
        "memory_depth": isa.Depth.of(rng.choice(config.activation_depths)),
        "memory_signed": rng.randrange(2),
        "shift": shift,
    }


def one_row(instruction: type[Transfer], columns: int, **fields: int) -> Transfer:
    """A load or store of one row of A8 activations of the first gang; ``fields`` overrides."""
    depth = isa.Depth.A8
    values = {"lanes": 3, "memory_depth": depth, "chip_depth": depth, "address": DRAM_BASE, "columns": columns}
    return instruction(**{**values, **fields})


def digit_word(values: list[int], digit: int) -> int:
    """The activation word that holds digit ``digit`` of every channel."""
    return sum((value >> 4 * digit & 15) << 4 * channel for channel, value in enumerate(values))


def digit_values(words: list[int], channels: int, signed: int) -> list[int]:
    """The values whose digits, lowest first, are in ``words``."""
    values = []
    for channel in range(channels):
        value = sum((word >> 4 * channel & 15) << 4 * digit for digit, word in enumerate(words))
        values.append(as_signed(value, 4 * len(words)) if signed else value)
    return values


def gangs_of(config: NpuConfig, depth: isa.Depth) -> list[int]:
    """Masks of the gangs that hold activations of a depth."""
    return [(1 << depth.digits) - 1 << lane for lane in range(0, config.lanes, depth.digits)]


def random_block(
    rng: random.Random, config: NpuConfig, *, element_bytes: int, chip_words: int, aligned: bool = False
) -> dict[str, int]:
    """Fields of a random block whose rows do not overlap in DRAM and that fits the model and ``chip_words``."""
    while True:
        columns = rng.choice((1, 2, 3, rng.randrange(1, 40)))
        rows, planes = rng.choice((1, 1, 2, 5)), rng.choice((1, 1, 3))
        row_bytes = columns * element_bytes
        row_pitch = row_bytes + rng.choice((0, 1, rng.randrange(64)))
        if aligned:
            row_pitch += -row_pitch % config.beat_bytes
        plane_pitch = rows * row_pitch + rng.choice((0, rng.randrange(64))) * (config.beat_bytes if aligned else 1)
        chip_row_pitch = columns + rng.randrange(3)
        chip_plane_pitch = rows * chip_row_pitch + rng.randrange(3)
        size, words = planes * plane_pitch, planes * chip_plane_pitch
        if size > DRAM_BYTES // 2 or words > chip_words:
            continue
        start = rng.randrange(DRAM_BYTES - size - config.beat_bytes)
        if aligned:
            start -= start % config.beat_bytes
        return {
            "columns": columns, "rows": rows, "planes": planes, "row_pitch": row_pitch, "plane_pitch": plane_pitch,
            "base": rng.randrange(chip_words - words + 1), "chip_row_pitch": chip_row_pitch,
            "chip_plane_pitch": chip_plane_pitch, "address": DRAM_BASE + start,
        }  # fmt: skip


def fields_for(program: isa.Instruction) -> dict[str, int]:
    """The fields of an instruction as the payload of a program stream."""
    return {field.name: int(getattr(program, field.name)) for field in isa.fields_of(type(program))}
