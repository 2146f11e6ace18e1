"""The floating-point converters of the DMA: random numbers, policies, counts, with stalls and at full speed.

`test_npu_floats` feeds them every FP16 and BF16 number.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.hdl import unsigned
from amaranth.lib import data
from block_simulation import simulate
from float_reference import to_integers, to_patterns

from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.float_to_integer import FloatToInteger
from tessera.rtl.dma.integer_to_float import IntegerToFloat
from tessera.rtl.isa import Depth, MemoryFormat, NanPolicy

ALL = ("fp16", "bf16", "fp32")
TINY = NpuConfig(name="tiny", rows=4, cols=4, float_formats=ALL)
EDGE = NpuConfig(name="edge", rows=8, cols=8, float_formats=ALL)
ONE_FORMAT = {name: NpuConfig(name=name, rows=4, cols=4, float_formats=(name,)) for name in ALL}
CONFIGS = {"tiny": TINY, "edge": EDGE} | ONE_FORMAT

SETTINGS = data.StructLayout({"lanes": 4, "tag": unsigned(16)})


@dataclass
class Element:
    """An element's numbers with their conversion. ``last`` ends a load."""

    memory_format: MemoryFormat
    patterns: list[int]
    shift: int
    depth: Depth
    signed: int
    policy: NanPolicy = NanPolicy.SATURATE
    value: int = 0
    last: int = 1

    def beats(self, config: NpuConfig) -> list[dict]:
        """Payloads of the converter."""
        bits = self.memory_format.bits
        word = sum(pattern << bits * index for index, pattern in enumerate(self.patterns))
        count = len(self.patterns) * bits // config.axi_data_bits
        return [
            {
                "data": word >> config.axi_data_bits * part & (1 << config.axi_data_bits) - 1,
                "memory_format": self.memory_format,
                "chip_depth": self.depth,
                "chip_signed": self.signed,
                "shift": self.shift,
                "nan_policy": self.policy,
                "nan_value": self.value,
                "part": part,
                "element_ends": part == count - 1,
                "last": self.last and part == count - 1,
            }
            for part in range(count)
        ]

    @property
    def limits(self) -> tuple[int, int]:
        """Range of the integers."""
        bits = self.depth.bits
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if self.signed else (0, (1 << bits) - 1)


class Reference:
    """What the converter makes of elements in turn."""

    def __init__(self) -> None:
        self.counts = np.zeros(3, int)
        self.stopped = False

    def convert(self, element: Element) -> tuple[list[int], int, int]:
        """Integers modulo 2 ** 16, whether they are written, and whether the stream stops."""
        found = to_integers(np.array(element.patterns), element.memory_format, element.shift, *element.limits)
        values, special = found[0], found[1]
        if element.policy is NanPolicy.REPLACE:
            values = np.where(special, np.clip(element.value, *element.limits), values)
        if not self.stopped:
            self.counts += [flags.sum() for flags in found[1:]]
        stops = element.policy in (NanPolicy.STOP_OPERATION, NanPolicy.STOP_STREAM)
        silent = self.stopped or (stops and bool(special.any()))
        self.stopped = silent and not element.last
        fatal = silent and bool(element.last) and element.policy is NanPolicy.STOP_STREAM
        return [int(value) & 0xFFFF for value in values], 0 if silent else 0b1111, int(fatal)


def run_loads(config: NpuConfig, elements: list[Element], rng: random.Random, stall: float) -> int:
    """Converts elements and compares everything with the reference; returns the cycles that it took."""
    dut = FloatToInteger(config, SETTINGS)
    reference = Reference()
    counts = np.zeros(3, int)
    beats = [
        {**beat, "settings": {"lanes": 0b1111, "tag": index % 65536}}
        for index, element in enumerate(elements)
        for beat in element.beats(config)
    ]
    cycles = 0

    async def feed(ctx) -> None:
        for beat in beats:
            while rng.random() < stall:
                ctx.set(dut.input.valid, 0)
                await ctx.tick()
            ctx.set(dut.input.valid, 1)
            ctx.set(dut.input.payload, beat)
            await ctx.tick().until(dut.input.ready)
        ctx.set(dut.input.valid, 0)

    async def count(ctx) -> None:
        ports = (dut.not_a_number, dut.underflows, dut.overflows)
        async for _, _, *values in ctx.tick().sample(*ports):
            counts[:] += values

    async def check(ctx) -> None:
        nonlocal cycles
        for index, element in enumerate(elements):
            while True:
                ctx.set(dut.output.ready, ready := rng.random() >= stall)
                _, _, valid, found, stop = await ctx.tick().sample(dut.output.valid, dut.output.payload, dut.stop)
                cycles += 1
                if ready and valid:
                    break
            values, lanes, fatal = reference.convert(element)
            assert (found.settings.tag, found.settings.lanes, stop) == (index % 65536, lanes, fatal), element
            assert found.depth == element.depth
            if lanes:
                assert list(found["values"]) == values, element
        ctx.set(dut.output.ready, 0)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.empty)

    simulate(dut, check, background=(count, feed), limit=40 * len(beats) + 100)
    assert counts.tolist() == reference.counts.tolist()
    return cycles


def random_pattern(rng: random.Random, memory_format: MemoryFormat, shift: int, depth: Depth) -> int:
    """A number near a half, near a limit of the result, a special one, or any."""
    special = ((1 << memory_format.exponent_bits) - 1) << memory_format.fraction_bits
    real = rng.choice(
        (
            rng.uniform(-2, 2) * 2.0 ** rng.randint(-3, depth.bits + 1),
            rng.randint(-20, 20) / 2,
            rng.choice((-1, 1)) * (2.0 ** (depth.bits - rng.randint(0, 1)) + rng.randint(-3, 3) / 2),
        )
    )
    exact = (
        np.ldexp(real, shift) if memory_format is not MemoryFormat.FP16 else np.clip(np.ldexp(real, shift), -6e4, 6e4)
    )
    near = np.array([np.clip(exact, -3e38, 3e38)], np.float32).view(np.uint32)[0]
    if memory_format is MemoryFormat.FP16:
        near = np.array([exact], np.float16).view(np.uint16)[0]
    elif memory_format is MemoryFormat.BF16:
        near >>= 16
    return rng.choices(
        (int(near), rng.getrandbits(memory_format.bits), special, special | 1 << memory_format.bits - 1, special | 1),
        (20, 6, 0.2, 0.2, 0.2),
    )[0]


def random_element(rng: random.Random, config: NpuConfig) -> Element:
    """Any conversion."""
    memory_format = rng.choice(config.memory_formats)
    depth = rng.choice(list(Depth))
    shift = rng.choice((0, rng.randint(-16, 16), rng.randint(-128, 127)))
    patterns = [random_pattern(rng, memory_format, shift, depth) for _ in range(config.word_digits)]
    return Element(
        memory_format, patterns, shift, depth, rng.randint(0, 1), value=rng.randint(-(1 << 16), (1 << 16) - 1)
    )


def random_loads(rng: random.Random, config: NpuConfig, count: int) -> list[Element]:
    """Blocks of a few elements each, with one policy."""
    elements: list[Element] = []
    while len(elements) < count:
        block = [random_element(rng, config) for _ in range(rng.choice((1, 2, 5)))]
        policy = rng.choice(list(NanPolicy))
        for element in block:
            element.policy, element.last = policy, int(element is block[-1])
        elements += block
    return elements


@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["free", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_loads(name: str, stall: float) -> None:
    config = CONFIGS[name]
    rng = random.Random(f"{name} {stall}")
    elements = random_loads(rng, config, 200)
    cycles = run_loads(config, elements, rng, stall)
    beats = sum(len(element.beats(config)) for element in elements)
    if not stall:
        assert cycles == beats + FloatToInteger.LATENCY, "a beat per cycle"


def test_subnormal_numbers_fill_the_range() -> None:
    """With a large enough scale the smallest FP16 numbers are the largest integers, and the next ones saturate."""
    rng = random.Random(0)
    elements = [
        Element(MemoryFormat.FP16, list(range(first, first + TINY.word_digits)), shift, Depth.A16, signed)
        for shift in range(-42, -26)
        for first in (0, 8, 0x3F8, 0x400)
        for signed in range(2)
    ]
    run_loads(TINY, elements, rng, stall=0.0)


def run_stores(
    config: NpuConfig, beats: list[tuple[MemoryFormat, int, list[int]]], rng: random.Random, stall: float
) -> int:
    """Converts beats of (format, shift, integers) and compares with the reference; returns the cycles it took."""
    dut = IntegerToFloat(config, unsigned(16))
    counts, expected_counts = np.zeros(2, int), np.zeros(2, int)
    cycles = 0

    async def feed(ctx) -> None:
        for index, (memory_format, shift, values) in enumerate(beats):
            while rng.random() < stall:
                ctx.set(dut.input.valid, 0)
                await ctx.tick()
            ctx.set(dut.input.valid, 1)
            payload = {"values": values, "memory_format": memory_format, "shift": shift, "settings": index % 65536}
            ctx.set(dut.input.payload, payload)
            await ctx.tick().until(dut.input.ready)
        ctx.set(dut.input.valid, 0)

    async def count(ctx) -> None:
        async for _, _, *values in ctx.tick().sample(dut.underflows, dut.overflows):
            counts[:] += values

    async def check(ctx) -> None:
        nonlocal cycles
        for index, (memory_format, shift, values) in enumerate(beats):
            while True:
                ctx.set(dut.output.ready, ready := rng.random() >= stall)
                _, _, valid, found = await ctx.tick().sample(dut.output.valid, dut.output.payload)
                cycles += 1
                if ready and valid:
                    break
            used = np.array(values[: config.axi_data_bits // memory_format.bits])
            patterns, underflow, overflow = to_patterns(used, shift, memory_format)
            expected_counts[:] += [underflow.sum(), overflow.sum()]
            word = sum(int(pattern) << memory_format.bits * index for index, pattern in enumerate(patterns))
            assert found.settings == index % 65536
            assert found.data == word, (memory_format, shift, values)
        ctx.set(dut.output.ready, 0)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.empty)

    simulate(dut, check, background=(count, feed), limit=40 * len(beats) + 100)
    assert counts.tolist() == expected_counts.tolist()
    return cycles


def random_integer(rng: random.Random) -> int:
    """Any activation, small ones and those with few bits often."""
    value = rng.choice((rng.randrange(1 << 16), rng.randrange(1 << rng.randint(0, 16)), 1 << rng.randrange(16)))
    return value if rng.random() < 0.5 else max(-value, -(1 << 15))


@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["free", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_stores(name: str, stall: float) -> None:
    config = CONFIGS[name]
    rng = random.Random(f"{name} {stall}")
    limits = {MemoryFormat.FP16: (-20, 45), MemoryFormat.BF16: (110, 127), MemoryFormat.FP32: (110, 127)}
    beats = []
    for _ in range(400):
        memory_format = rng.choice(config.memory_formats)
        shift = rng.choice((rng.randint(*limits[memory_format]), rng.randint(-128, 127)))
        width = config.axi_data_bits // min(item.bits for item in config.memory_formats)
        beats.append((memory_format, shift, [random_integer(rng) for _ in range(width)]))
    cycles = run_stores(config, beats, rng, stall)
    if not stall:
        assert cycles == len(beats) + IntegerToFloat.LATENCY, "a beat per cycle"
