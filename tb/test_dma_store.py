"""The store engine against its definition, and that what is stored loads again."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import dma_model
import numpy as np
import pytest
from amaranth.sim import Simulator
from dma_model import (
    CONFIGS,
    DRAM_BASE,
    ENDLESS,
    Contexts,
    Dram,
    Inputs,
    StreamMonitor,
    beats_of,
    break_some,
    contain_failures,
    digit_values,
    digit_word,
    effective_programs,
    elements,
    failing_programs,
    fields_for,
    gangs_of,
    random_block,
    random_conversion,
    stored_bytes,
    touched,
)
from float_reference import to_patterns
from test_dma_load import LoadBench

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma import StoreEngine
from tessera.rtl.isa import Depth, MemoryFormat

CONFIGS = CONFIGS | {"four lanes of 4 bits": NpuConfig(name="four", rows=4, cols=4, lanes=4, activation_depths=(4,))}

AXI_ID = 2

CHIP_WORDS = 256
"""Words of each bank that the tests use."""


def reference(
    config: NpuConfig, memory: bytearray, banks: Sequence[Sequence[int]], programs: Sequence[isa.Store]
) -> bytearray:
    """The DRAM after the programs, from the definition of :class:`isa.Store`."""
    memory = bytearray(memory)
    for program in programs:
        lanes = isa.lanes_of_mask(program.lanes)
        size = config.pixel_bytes(program.memory_bits)
        for offset, address in elements(program, size):
            words = [banks[lane][address] for lane in lanes]
            values = digit_values(words, config.word_digits, program.chip_signed)
            memory[offset : offset + size] = stored_bytes(program, values)
    return memory


def expected_counts(
    config: NpuConfig, banks: Sequence[Sequence[int]], programs: Sequence[isa.Store]
) -> Counter[tuple[str, int]]:
    """Underflows and overflows of each operation."""
    counts: Counter[tuple[str, int]] = Counter()
    for program in programs:
        if program.memory_format.is_float:
            lanes = isa.lanes_of_mask(program.lanes)
            for _, address in elements(program, config.pixel_bytes(program.memory_bits)):
                words = [banks[lane][address] for lane in lanes]
                values = digit_values(words, config.word_digits, program.chip_signed)
                _, underflows, overflows = to_patterns(np.array(values), program.shift, program.memory_format)
                counts["underflows", program.operation] += int(underflows.sum())
                counts["overflows", program.operation] += int(overflows.sum())
    return +counts


class StoreBench:
    """Runs programs on the engine with a DRAM and banks that stall."""

    def __init__(self, config: NpuConfig, rng: random.Random, *, stall: float = 0.0, latency: int = 3):
        self.config, self.rng, self.stall = config, rng, stall
        self.engine = StoreEngine(config, axi_id=AXI_ID)
        self.dram = Dram(config, axi_id=AXI_ID, rng=rng, write=self.engine.axi, stall=stall, latency=latency)
        self.banks = [[rng.getrandbits(config.word_bits) for _ in range(CHIP_WORDS)] for _ in range(config.lanes)]
        self.cycles = 0
        self.errors: list[int] = []
        self.contexts = Contexts(self.engine)
        self.failing = 0  # whether the oldest program has met an error
        self.stop_after: int | None = None  # beats after which the engine is stopped, and given no more activations
        self.beat_cycles: list[int] = []
        self.counts: Counter[tuple[str, int]] = Counter()

    def run(self, programs: Sequence[isa.Store]) -> bytearray:
        """Executes the programs; returns the DRAM's content."""
        simulator = Simulator(self.engine)
        simulator.add_clock(1e-8)
        simulator.add_testbench(partial(self._testbench, programs=list(programs)))
        simulator.run()
        return self.dram.memory

    async def _testbench(self, ctx, programs: list[isa.Store]) -> None:
        monitor = StreamMonitor(self.engine.read.request)
        inputs = Inputs()
        waiting = [fields_for(program) for program in programs]
        limit = 2000 + 40 * sum(p.columns * p.rows * p.planes for p in programs)
        garbage = [self.rng.getrandbits(self.config.word_bits) for _ in range(self.config.lanes)]
        words = None
        self.contexts.start(ctx)
        stops = False
        while len(self.errors) < len(programs):
            assert self.cycles < limit, "the engine hangs"
            if self.contexts.stops(ctx, programs[len(self.errors)].context):
                break
            if stops and ctx.get(self.engine.drained):
                break
            stops = self.stop_after is not None and self.dram.beats["write"] >= self.stop_after
            inputs.set(ctx, "stop", self.engine.stop, stops)
            self.dram.allows_silent_beats = stops or self.contexts.failed
            inputs.set(ctx, "program.valid", self.engine.program.valid, bool(waiting))
            if waiting:
                inputs.set(ctx, "program.payload", self.engine.program.payload, waiting[0])
            inputs.set(ctx, "read.words", self.engine.read.words, words or garbage)
            ready = self.rng.random() >= self.stall and not stops
            inputs.set(ctx, "read.ready", self.engine.read.request.ready, ready)
            self.dram.drive(ctx)
            words = self._read(monitor.transfer(ctx, ready), garbage)
            self._observe(ctx, programs)
            if waiting and ctx.get(self.engine.program.ready):
                waiting.pop(0)
            await ctx.tick()
            self.contexts.drive(ctx)
            self.cycles += 1
        assert self.dram.idle
        for _ in range(10):
            self.dram.drive(ctx)
            assert not ctx.get(self.engine.done) and not ctx.get(self.engine.axi.aw.valid)
            await ctx.tick()

    def _read(self, request, garbage: list[int]) -> list[int] | None:
        """The words that the banks give in the cycle after a request; other lanes give anything."""
        if request is None:
            return None
        return [
            self.banks[lane][request.address % CHIP_WORDS] if request.lanes >> lane & 1 else garbage[lane]
            for lane in range(self.config.lanes)
        ]

    def _observe(self, ctx, programs: list[isa.Store]) -> None:
        beats = self.dram.beats["write"]
        done, error = ctx.get(self.engine.done), ctx.get(self.engine.error)
        for name in ("underflows", "overflows"):
            if count := ctx.get(getattr(self.engine, name)):
                self.counts[name, ctx.get(self.engine.operation)] += count
        self.dram.settle(ctx)
        if self.dram.beats["write"] > beats:
            self.beat_cycles.append(self.cycles)
        index = len(self.errors)
        self.failing |= error
        self.contexts.observe(ctx, index, programs[min(index, len(programs) - 1)].context, error=error)
        if done:
            self.errors.append(self.failing)
            self.failing = 0


def random_store(rng: random.Random, config: NpuConfig) -> isa.Store:
    """A random legal store."""
    chip_depth = Depth.of(rng.choice(config.activation_depths))
    conversion = random_conversion(rng, config)
    size = config.pixel_bytes(isa.Store(**conversion).memory_bits)
    return isa.Store(
        lanes=rng.choice(gangs_of(config, chip_depth)),
        chip_depth=chip_depth,
        chip_signed=rng.randrange(2),
        operation=rng.randrange(isa.OPERATIONS),
        **conversion,
        **random_block(rng, config, element_bytes=size, chip_words=CHIP_WORDS),
    )


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["free", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_stores(name: str, stall: float, seed: int) -> None:
    config = CONFIGS[name]
    rng = random.Random(f"{name} {stall} {seed}")
    bench = StoreBench(config, rng, stall=stall, latency=rng.choice((1, 10)))
    programs = [random_store(rng, config) for _ in range(8)]
    expected = reference(config, bench.dram.memory, bench.banks, programs)
    assert bench.run(programs) == expected
    assert not any(bench.errors)
    beats = sum(len(beats_of(config, program, config.pixel_bytes(program.memory_bits))) for program in programs)
    assert bench.dram.beats["write"] == beats
    assert bench.counts == expected_counts(config, bench.banks, programs)


def element_bytes(config: NpuConfig, program: isa.Store) -> int:
    """Bytes of a pixel of one channel block in DRAM."""
    return config.pixel_bytes(program.memory_bits)


@pytest.mark.parametrize("name", CONFIGS)
def test_random_bus_errors(name: str) -> None:
    """In every format and with stalls each error is reported with its instruction, and everything is written."""
    config = CONFIGS[name]
    rng = random.Random(f"errors {name}")
    bench = StoreBench(config, rng, stall=0.3, latency=rng.choice((1, 10)))
    programs = [random_store(rng, config) for _ in range(9)]
    errors = break_some(bench.dram, rng, programs, partial(element_bytes, config))
    expected = reference(config, bench.dram.memory, bench.banks, programs)
    assert bench.run(programs) == expected
    assert bench.errors == errors and 0 in errors


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["free", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_failed_contexts_touch_nothing(name: str, stall: float, seed: int) -> None:
    """Windows and bus errors fail contexts: others write what they should, and a failed one nothing but its own."""
    config = CONFIGS[name]
    rng = random.Random(f"contexts {name} {stall} {seed}")
    bench = StoreBench(config, rng, stall=stall, latency=rng.choice((1, 10, 40)))
    size = partial(element_bytes, config)
    programs = contain_failures(bench, rng, [random_store(rng, config) for _ in range(16)], size)
    before = bytearray(bench.dram.memory)
    failures = failing_programs(bench, programs, size)
    effective = effective_programs(programs, failures)
    expected = reference(config, before, bench.banks, effective)
    written = bench.run(programs)
    assert bench.contexts.failures == failures
    undefined = np.zeros(len(before), bool)
    for program in set(programs) - set(effective):  # later stores may have been under way when an earlier one failed
        undefined[list(touched(program, size(program), bench.contexts.limits[program.context]))] = True
    changed = np.frombuffer(written, np.uint8) != np.frombuffer(expected, np.uint8)
    assert not np.any(changed & ~undefined)


one_row = partial(dma_model.one_row, isa.Store)


def test_a_squashed_store_of_any_size_ends_at_once() -> None:
    """What would take days completes within its latency and a few cycles, wherever it is in the engine."""
    config = CONFIGS["edge"]
    good = [one_row(4, address=DRAM_BASE + 2048 + 64 * index, base=8 * index) for index in range(8)]
    endless = one_row(1, context=2, **{**ENDLESS, "row_pitch": 1 << 20, "plane_pitch": 1 << 30})
    endless = replace(endless, address=DRAM_BASE + 32, base=200)
    bench = StoreBench(config, random.Random(0))
    bench.contexts = Contexts(bench.engine, (None, None, DRAM_BASE + 1024, None), contain=0b1111)
    expected = reference(config, bench.dram.memory, bench.banks, good)
    written = bench.run([*good[:2], endless, good[2], endless, endless, *good[3:]])
    assert bench.contexts.failures == [2]
    assert written[2048:] == expected[2048:]
    assert bench.dram.bursts["write"] <= 8 + 4, "no burst of a later store of the context"
    assert bench.cycles < 400


def test_every_alignment() -> None:
    config = CONFIGS["edge"]
    rng = random.Random(0)
    cases = [(depth, offset) for depth in Depth for offset in range(config.beat_bytes)]
    rng.shuffle(cases)
    programs = [
        one_row(rng.choice((1, 2, 5)), lanes=15, address=DRAM_BASE + 512 * index + offset, base=8 * index % 128, rows=2,
                row_pitch=201, chip_row_pitch=5, chip_depth=Depth.A16, memory_depth=depth)
        for index, (depth, offset) in enumerate(cases)
    ]  # fmt: skip
    bench = StoreBench(config, rng)
    expected = reference(config, bench.dram.memory, bench.banks, programs)
    assert bench.run(programs) == expected


@pytest.mark.parametrize(
    "fields, cycles_per_element",
    [
        ({}, 1),
        ({"address": DRAM_BASE + 5}, 1),
        ({"memory_depth": Depth.A4}, 1),
        ({"memory_depth": Depth.A6, "address": DRAM_BASE + 3}, 1),
        ({"memory_depth": Depth.A16, "address": DRAM_BASE + 1}, 2),
        ({"memory_format": MemoryFormat.FP16, "address": DRAM_BASE + 1}, 2),
        ({"memory_format": MemoryFormat.FP32, "columns": 125, "shift": 3}, 4),
        ({"columns": 16, "rows": 16, "row_pitch": 512, "chip_row_pitch": 16}, 1),
    ],
    ids=["A8", "A8 unaligned", "A4", "A6 unaligned", "A16 unaligned", "FP16 unaligned", "FP32", "rows"],
)
def test_throughput_with_a_latency_of_40_cycles(fields: dict, cycles_per_element: int) -> None:
    check_throughput(CONFIGS["edge"], one_row(**{"columns": 250, **fields}), cycles_per_element)


@pytest.mark.parametrize("name", ["tiny", "server"])
def test_throughput_of_other_widths(name: str) -> None:
    check_throughput(NpuConfig.preset(name), one_row(250), 1)


def check_throughput(config: NpuConfig, program: isa.Store, cycles_per_element: int) -> None:
    """Runs one store without stalls; it must reach 95 % of the stated rate from its first beat on."""
    bench = StoreBench(config, random.Random(0), latency=40)
    expected = reference(config, bench.dram.memory, bench.banks, [program])
    assert bench.run([program]) == expected
    count = program.columns * program.rows
    duration = bench.beat_cycles[-1] - bench.beat_cycles[0] + 1
    assert duration * 0.95 <= count * cycles_per_element
    assert bench.beat_cycles[0] < 16


def test_stores_follow_each_other_without_waiting_for_responses() -> None:
    config = CONFIGS["edge"]
    programs = [one_row(16, base=16 * (index % 16), address=DRAM_BASE + 256 * index) for index in range(20)]
    bench = StoreBench(config, random.Random(0), latency=40)
    bench.run(programs)
    assert bench.beat_cycles[-1] - bench.beat_cycles[0] < 20 * 16 / 0.9


def test_data_wait_for_an_address_channel_that_stalls() -> None:
    config = CONFIGS["tiny"]
    program = one_row(100, address=DRAM_BASE + 3)
    bench = StoreBench(config, random.Random(0))
    bench.dram.stalls["aw"] = 0.98
    expected = reference(config, bench.dram.memory, bench.banks, [program])
    assert bench.run([program]) == expected


def test_a_window_ends_the_stores() -> None:
    """The first burst outside is reported once all stores before it are done; it and those behind it write nothing."""
    config = CONFIGS["edge"]
    programs = [one_row(20, address=DRAM_BASE + 1024 * index, base=32 * index) for index in range(6)]
    bench = StoreBench(config, random.Random(0))
    bench.contexts = Contexts(bench.engine, (DRAM_BASE + 4 * 1024, None, None, None))
    expected = reference(config, bench.dram.memory, bench.banks, programs[:4])
    assert bench.run(programs) == expected
    assert bench.errors == [0] * 4


def test_a_stop_ends_the_bursts_that_are_open() -> None:
    """Beats that they lack write nothing; then the engine says that it is drained, and nothing else has changed."""
    config = CONFIGS["edge"]
    programs = [one_row(60, address=DRAM_BASE + 1024 * index, base=64 * index) for index in range(3)]
    bench = StoreBench(config, random.Random(0))
    bench.stop_after = 21
    before = bytearray(bench.dram.memory)
    expected = reference(config, before, bench.banks, programs)
    written = bench.run(programs)
    changed = [index for index, (old, new) in enumerate(zip(before, written, strict=True)) if old != new]
    assert changed and all(written[index] == expected[index] for index in changed)
    assert max(changed) < 1024, "the second store has not begun"
    assert bench.dram.beats["write"] > 2 * bench.stop_after, "the bursts that had been issued are complete"


def test_bus_errors_are_reported_with_their_instruction() -> None:
    config = CONFIGS["edge"]
    programs = [one_row(40, address=DRAM_BASE + 1024 * index + 7, base=32 * index) for index in range(4)]
    bench = StoreBench(config, random.Random(0))
    bench.dram.broken = {1024 + 7 + 40 * 16 - 1, 2048 + 64}
    bench.run(programs)
    assert bench.errors == [0, 1, 1, 0]


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_an_identifier_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^the AXI identifier must be from 0 to 3, not -1$"):
        StoreEngine(CONFIGS["tiny"], axi_id=-1)
    gc.collect()  # so that the complaint about an unused component comes now


@pytest.mark.parametrize("depth", Depth)
@pytest.mark.parametrize("signed", [0, 1])
def test_what_is_stored_loads_again(depth: Depth, signed: int) -> None:
    """Both directions hold the same opinion of formats: a round trip through DRAM gives the same digits."""
    config = CONFIGS["tiny"]
    rng = random.Random(f"{depth} {signed}")
    low, high = (-(1 << depth.bits - 1), (1 << depth.bits - 1) - 1) if signed else (0, (1 << depth.bits) - 1)
    values = [[rng.randint(low, high) for _ in range(config.word_digits)] for _ in range(20)]
    common = {
        "lanes": (1 << depth.digits) - 1, "memory_depth": depth, "chip_depth": depth, "memory_signed": signed,
        "chip_signed": signed, "address": DRAM_BASE + 3, "columns": 5, "rows": 4, "row_pitch": 99, "chip_row_pitch": 5,
    }  # fmt: skip
    store = StoreBench(config, rng)
    for lane in range(depth.digits):
        store.banks[lane][: len(values)] = [digit_word(pixel, lane) for pixel in values]
    stored = store.run([isa.Store(**common)])
    load = LoadBench(config, rng)
    load.dram.memory[:] = stored
    chip = load.run([isa.Load(**common)])
    assert chip.activations == {
        (lane, address): store.banks[lane][address] for lane in range(depth.digits) for address in range(len(values))
    }
