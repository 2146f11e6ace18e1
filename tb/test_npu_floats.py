"""Floating point in DRAM on the whole NPU: every FP16 and BF16 number, every integer, and loads that stop."""

from __future__ import annotations

import random

import numpy as np
import pytest
from agreement import counts_problem
from float_reference import FORMATS, numbers, to_integers, to_patterns

from tessera.compiler.lowering.synchronise import synchronise
from tessera.firmware.cosimulation import Start, simulate
from tessera.firmware.driver import NpuError
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    OPERATIONS,
    Depth,
    End,
    ErrorCode,
    Instruction,
    Load,
    MemoryFormat,
    NanPolicy,
    Store,
    encode_stream,
)
from tessera.sim.counts import Counts
from tessera.sim.stream import StreamModel, StreamStopped

pytestmark = pytest.mark.cosim

TINY = NpuConfig.preset("tiny")
EVERY_LANE = (1 << TINY.lanes) - 1
SOURCE, RESULT, CODE = 0x1_0000, 0x8_0000, 0xF_0000
COLUMNS = TINY.activation_words // 2
"""Elements that a load and a store of these tests move."""

CHUNK = COLUMNS * TINY.word_digits
"""Numbers that they move."""

OPERATION = OPERATIONS - 1
"""Operation for which they count."""

MOVE = {"operation": OPERATION, "lanes": EVERY_LANE, "columns": COLUMNS}
"""Fields of theirs."""


def start(stream: list[Instruction], patterns: np.ndarray, memory_format: MemoryFormat | None) -> Start:
    """A run of a stream on numbers (or, without a format, 16-bit integers) at `SOURCE`; reads the results."""
    bits = 32 if memory_format is MemoryFormat.FP32 else 16
    data = patterns.astype(f"<u{bits // 8}").tobytes()
    code = encode_stream(synchronise([*stream, End()], TINY))
    writes = ((SOURCE, data), (RESULT, bytes(CHUNK * 4)), (CODE, code))
    return Start(writes, CODE, ((RESULT, CHUNK * 4),), operations=(OPERATION,))


def chunks(values: np.ndarray) -> list[np.ndarray]:
    """The values by `CHUNK`, filled up with zeros."""
    padded = np.concatenate([values, np.zeros(-len(values) % CHUNK, values.dtype)])
    return list(padded.reshape(-1, CHUNK))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_every_number_is_loaded(memory_format: MemoryFormat) -> None:
    """All FP16 and BF16 numbers, and FP32 numbers at random, with shifts that bring them into the range of integers."""
    rng = np.random.default_rng(int(memory_format))
    patterns = np.arange(1 << 16)
    if memory_format is MemoryFormat.FP32:
        patterns = rng.integers(0, 1 << 32, 1 << 16)
    cases, starts = [], []
    for shift, signed in ((-5, 1), (3, 0), (116, 1)):
        for part in chunks(patterns):
            common = {**MOVE, "chip_depth": Depth.A16, "chip_signed": signed}
            load = Load(address=SOURCE, memory_format=memory_format, shift=shift, **common)
            store = Store(address=RESULT, memory_depth=Depth.A16, memory_signed=signed, **common)
            cases.append((shift, signed, part))
            starts.append(start([load, store], part, memory_format))
    results, _ = simulate(TINY, starts)
    for (shift, signed, part), result in zip(cases, results, strict=True):
        low, high = (-(1 << 15), (1 << 15) - 1) if signed else (0, (1 << 16) - 1)
        x = numbers(part, memory_format)
        values, *flags = to_integers(part, memory_format, shift, low, high)
        values = np.where(np.isinf(x), np.where(x > 0, high, low), values)
        stored = np.frombuffer(result.reads[0], "<i2" if signed else "<u2")[:CHUNK]
        np.testing.assert_array_equal(stored, values, f"shift {shift}")
        assert result.run is not None, result.error
        assert result.run.counts == Counts(0, *(int(flag.sum()) for flag in flags))
        assert result.operation_counts == {OPERATION: result.run.counts}


@pytest.mark.parametrize("memory_format", FORMATS)
def test_every_integer_is_stored(memory_format: MemoryFormat) -> None:
    cases, starts = [], []
    for shift in (0, 9, -4, 22, 127):
        for signed in (0, 1):
            for part in chunks(np.arange(1 << 16)):
                common = {**MOVE, "chip_depth": Depth.A16, "chip_signed": signed}
                load = Load(address=SOURCE, memory_depth=Depth.A16, memory_signed=signed, **common)
                store = Store(address=RESULT, memory_format=memory_format, shift=shift, **common)
                cases.append((shift, part - (part >> 15 << 16) if signed else part))
                starts.append(start([load, store], part, None))
    results, _ = simulate(TINY, starts)
    for (shift, values), result in zip(cases, results, strict=True):
        patterns, underflow, overflow = to_patterns(values, shift, memory_format)
        stored = np.frombuffer(result.reads[0], f"<u{memory_format.bits // 8}")[:CHUNK]
        np.testing.assert_array_equal(stored, patterns, f"shift {shift}")
        assert result.run is not None, result.error
        assert result.run.counts == Counts(underflows=int(underflow.sum()), overflows=int(overflow.sum()))
        assert result.operation_counts == {OPERATION: result.run.counts}


def stopping_stream(rng: random.Random, policy: NanPolicy, memory_format: MemoryFormat) -> list[Instruction]:
    """A load with a policy between harmless ones, and a store of everything."""
    common = {"lanes": EVERY_LANE, "chip_depth": Depth.A16, "chip_signed": 1}
    size = TINY.pixel_bytes(memory_format.bits)
    pitches = {"columns": 7, "rows": 5, "row_pitch": 7 * size + rng.choice((0, 1)), "chip_row_pitch": 7}
    pitches["nan_policy"] = policy
    return [
        Load(address=SOURCE, memory_depth=Depth.A16, columns=40, **common),
        Load(operation=1, address=SOURCE + 3, memory_format=memory_format, shift=-3, **pitches, **common),
        Load(address=SOURCE, memory_depth=Depth.A16, columns=2, base=40, **common),
        Store(address=RESULT, memory_depth=Depth.A16, columns=42, **common),
    ]


def stop_of(model: StreamModel, stream: list[Instruction]) -> StreamStopped | None:
    """Executes a stream on the model; what stopped it, if anything did."""
    try:
        model.execute(stream)
    except StreamStopped as stop:
        return stop
    return None


def test_policies_that_stop() -> None:
    """Loads whose numbers have NaN or infinity at a random place, or none: model and RTL stop at the same element, with
    the same counts; a stream that was stopped does no harm to the next one.
    """
    cases, starts = [], []
    for seed in range(40):
        rng = random.Random(seed)
        memory_format = FORMATS[seed % 3]
        policy = (NanPolicy.STOP_OPERATION, NanPolicy.STOP_STREAM)[seed // 3 % 2]
        stream = stopping_stream(rng, policy, memory_format)
        count = 40 * TINY.word_digits
        exponents = (1 << memory_format.exponent_bits) - 1 << memory_format.fraction_bits
        # Mostly ordinary numbers: a bit of the exponent is 0. Bytes are shifted by 3, so a few are anything.
        content = np.array([rng.getrandbits(memory_format.bits) & ~(exponents & -exponents) for _ in range(count)])
        data = bytearray(rng.randbytes(3) + content.astype(f"<u{memory_format.bits // 8}").tobytes())
        for _ in range(rng.choice((0, 1, 3))):
            position = 3 + rng.randrange(count) * memory_format.bits // 8
            special = exponents | rng.choice((0, 1)) | rng.choice((0, 1)) << memory_format.bits - 1
            data[position : position + memory_format.bits // 8] = special.to_bytes(memory_format.bits // 8, "little")
        code = encode_stream(synchronise([*stream, End()], TINY))
        writes = ((SOURCE, bytes(data)), (RESULT, bytes(0x1000)), (CODE, code))
        cases.append((synchronise([*stream, End()], TINY), writes))
        starts.append(Start(writes, CODE, ((RESULT, 0x1000),), operations=(0, 1)))
    results, _ = simulate(TINY, starts)
    model = StreamModel(TINY, 1 << 20)
    outcomes = set()
    for seed, ((stream, writes), result) in enumerate(zip(cases, results, strict=True)):
        for address, content in writes:
            model.write_memory(address, content)
        model.clear_counts()
        stop = stop_of(model, stream)
        if stop is not None:
            assert stop.code is ErrorCode.NOT_A_NUMBER
            assert result.run is None, f"seed {seed}: the RTL does not stop"
            assert result.error == str(NpuError(stop.code, stop.index)), f"seed {seed}"
            assert not counts_problem(model, result), f"seed {seed}: {counts_problem(model, result)}"
            outcomes.add("stream stopped")
            continue
        assert result.run is not None, f"seed {seed}: {result.error}"
        assert result.reads[0] == model.read_memory(RESULT, 0x1000), f"seed {seed}"
        assert not counts_problem(model, result), f"seed {seed}: {counts_problem(model, result)}"
        outcomes.add("load stopped" if model.counts.not_a_number else "nothing found")
    assert outcomes == {"stream stopped", "load stopped", "nothing found"}
