"""The load engine against its definition: every depth, alignment and shape, with and without stalls."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import dma_model
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
    digit_word,
    effective_programs,
    elements,
    failing_programs,
    fields_for,
    gangs_of,
    load_values,
    random_block,
    random_conversion,
)

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma import LoadEngine
from tessera.rtl.isa import Depth, LoadTarget, MemoryFormat, NanPolicy, TableEntry

AXI_ID = 1


class Chip:
    """The on-chip memories as a load leaves them: what was written, by memory, lane and address."""

    def __init__(self) -> None:
        self.activations: dict[tuple[int, int], int] = {}
        self.beats: dict[tuple[str, int, int], int] = {}


def reference(config: NpuConfig, dram: Dram, programs: Sequence[isa.Load]) -> Chip:
    """What the programs write, from the definition of :class:`isa.Load`."""
    chip = Chip()
    for program in programs:
        stops = program.nan_policy in (NanPolicy.STOP_OPERATION, NanPolicy.STOP_STREAM)
        lanes = [lane for lane in isa.lanes_of_mask(program.lanes) if lane < config.lanes]
        size = element_bytes(config, program)
        for offset, address in elements(program, size):
            data = dram.memory[offset : offset + size]
            if program.target == LoadTarget.ACTIVATIONS:
                values, special = load_values(program, data)
                if special and stops:
                    break
                for lane in lanes:
                    word = digit_word(values, lane % program.chip_depth.digits)
                    chip.activations[lane, address] = word
            elif program.target == LoadTarget.WEIGHTS:
                for lane in lanes:
                    chip.beats["weights", lane, address] = int.from_bytes(data, "little")
            elif program.target == LoadTarget.TABLES:
                for index in range(config.beat_entries):
                    entry = data[index * TableEntry.BYTES : (index + 1) * TableEntry.BYTES]
                    chip.beats["tables", 0, address * config.beat_entries + index] = int.from_bytes(entry, "little")
            else:
                chip.beats["parameters", 0, address] = int.from_bytes(data, "little")
    return chip


def element_bytes(config: NpuConfig, program: isa.Load) -> int:
    if program.target == LoadTarget.ACTIVATIONS:
        return config.pixel_bytes(program.memory_bits)
    return config.beat_bytes


def expected_stops(config: NpuConfig, dram: Dram, programs: Sequence[isa.Load]) -> list[int]:
    """Which programs find NaN or infinity that stops the stream."""
    stops = []
    for program in programs:
        size = element_bytes(config, program)
        may_stop = program.target == LoadTarget.ACTIVATIONS and program.nan_policy == NanPolicy.STOP_STREAM
        places = (offset for offset, _ in elements(program, size))
        stops.append(int(may_stop and any(load_values(program, dram.memory[at : at + size])[1] for at in places)))
    return stops


class LoadBench:
    """Runs programs on the engine with a DRAM and banks that stall."""

    def __init__(self, config: NpuConfig, rng: random.Random, *, stall: float = 0.0, latency: int = 3):
        self.config, self.rng, self.stall = config, rng, stall
        self.engine = LoadEngine(config, axi_id=AXI_ID)
        self.dram = Dram(config, axi_id=AXI_ID, rng=rng, read=self.engine.axi, stall=stall, latency=latency)
        self.chip = Chip()
        self.cycles = 0
        self.errors: list[int] = []
        self.stops: list[int] = []
        self.contexts = Contexts(self.engine)
        self.failing = 0  # whether the oldest program has met an error
        self.write_cycles: list[int] = []

    def run(self, programs: Sequence[isa.Load]) -> Chip:
        """Executes the programs; checks that each is completed, in order and after its last write."""
        simulator = Simulator(self.engine)
        simulator.add_clock(1e-8)
        simulator.add_testbench(partial(self._testbench, programs=list(programs)))
        simulator.run()
        return self.chip

    async def _testbench(self, ctx, programs: list[isa.Load]) -> None:
        self._monitor = StreamMonitor(self.engine.write)
        inputs = Inputs()
        waiting = [fields_for(program) for program in programs]
        limit = 2000 + 40 * sum(p.columns * p.rows * p.planes for p in programs)
        self.contexts.start(ctx)
        while len(self.errors) < len(programs):
            if self.contexts.stops(ctx, programs[len(self.errors)].context):
                break
            assert self.cycles < limit, "the engine hangs"
            inputs.set(ctx, "program.valid", self.engine.program.valid, bool(waiting))
            if waiting:
                inputs.set(ctx, "program.payload", self.engine.program.payload, waiting[0])
            self.dram.drive(ctx)
            ready = self.rng.random() >= self.stall
            inputs.set(ctx, "write.ready", self.engine.write.ready, ready)
            self._observe(ctx, ready, programs)
            self.dram.settle(ctx)
            if waiting and ctx.get(self.engine.program.ready):
                waiting.pop(0)
            await ctx.tick()
            self.contexts.drive(ctx)
            self.cycles += 1
        assert self.dram.idle
        for _ in range(10):
            self.dram.drive(ctx)
            assert not ctx.get(self.engine.done) and not ctx.get(self.engine.write.valid)
            await ctx.tick()

    def _observe(self, ctx, ready: bool, programs: list[isa.Load]) -> None:
        written = self._monitor.transfer(ctx, ready)
        if written is not None:
            self.write_cycles.append(self.cycles)
            self._write_activations(written)
        for lane, port in enumerate(self.engine.weight_write):
            self._write_beat(ctx, port, ("weights", lane))
        self._write_beat(ctx, self.engine.parameter_write, ("parameters", 0))
        self._write_beat(ctx, self.engine.table_write, ("tables", 0))
        index, not_a_number = len(self.errors), ctx.get(self.engine.not_a_number)
        error = ctx.get(self.engine.error)
        self.failing |= error
        self.contexts.observe(ctx, index, programs[min(index, len(programs) - 1)].context, error=error or not_a_number)
        if ctx.get(self.engine.done):
            self.errors.append(self.failing)
            self.stops.append(not_a_number)
            self.failing = 0
            if not self.contexts.failed:
                self._check_complete(programs[: len(self.errors)])
        else:
            assert not not_a_number

    def _write_activations(self, write) -> None:
        half = self.config.word_bits // 2
        mask = sum(((1 << half) - 1) << half * i for i in range(2) if write.halves >> i & 1)
        for lane in range(self.config.lanes):
            if write.lanes >> lane & 1:
                before = self.chip.activations.get((lane, write.address), 0)
                word = before & ~mask | write.words[lane] & mask
                self.chip.activations[lane, write.address] = word

    def _write_beat(self, ctx, port, where: tuple[str, int]) -> None:
        if ctx.get(port.enable):
            if not self.write_cycles or self.write_cycles[-1] != self.cycles:
                self.write_cycles.append(self.cycles)
            self.chip.beats[(*where, ctx.get(port.address))] = ctx.get(port.data)

    def _check_complete(self, programs: list[isa.Load]) -> None:
        """When an instruction is done its last element is on the chip, if nothing may have stopped it."""
        *_, (_, address) = elements(programs[-1], 1)
        stops = programs[-1].memory_format.is_float and programs[-1].nan_policy >= NanPolicy.STOP_OPERATION
        if programs[-1].target == LoadTarget.ACTIVATIONS and programs[-1].lanes and not stops:
            assert (isa.lanes_of_mask(programs[-1].lanes)[0], address) in self.chip.activations


def random_load(rng: random.Random, config: NpuConfig) -> isa.Load:
    """A random legal load."""
    others = (LoadTarget.WEIGHTS, LoadTarget.PARAMETERS, *(LoadTarget.TABLES,) * bool(config.tables))
    target = rng.choice((LoadTarget.ACTIVATIONS,) * 5 + others)
    chip_depth = Depth.of(rng.choice(config.activation_depths))
    conversion = random_conversion(rng, config)
    activations = target == LoadTarget.ACTIVATIONS
    size = config.pixel_bytes(isa.Load(**conversion).memory_bits) if activations else config.beat_bytes
    words = {
        LoadTarget.ACTIVATIONS: config.activation_words,
        LoadTarget.WEIGHTS: config.weight_beats,
        LoadTarget.PARAMETERS: config.parameter_beats,
        LoadTarget.TABLES: config.table_beats,
    }[target]
    if size <= config.beat_bytes and rng.random() < 0.3:
        conversion["column_pitch"] = rng.randrange(1, size + 1)
    gangs = gangs_of(config, chip_depth)
    lanes = sum(rng.sample(gangs, rng.randrange(1, len(gangs) + 1)))
    return isa.Load(
        target=target,
        lanes=lanes,
        chip_depth=chip_depth,
        chip_signed=rng.randrange(2),
        nan_policy=rng.choice(list(NanPolicy)),
        nan_value=rng.randint(-(1 << 16), (1 << 16) - 1),
        **conversion,
        **random_block(rng, config, element_bytes=size, chip_words=min(words, 256), aligned=not activations),
    )


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["free", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_loads(name: str, stall: float, seed: int) -> None:
    config = CONFIGS[name]
    rng = random.Random(f"{name} {stall} {seed}")
    bench = LoadBench(config, rng, stall=stall, latency=rng.choice((1, 10)))
    programs = [random_load(rng, config) for _ in range(10)]
    chip = bench.run(programs)
    expected = reference(config, bench.dram, programs)
    assert chip.activations == expected.activations
    assert chip.beats == expected.beats
    assert not any(bench.errors)
    assert bench.stops == expected_stops(config, bench.dram, programs)
    beats = sum(len(beats_of(config, program, element_bytes(config, program))) for program in programs)
    assert bench.dram.beats["read"] == beats


@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["free", "stalls"])
@pytest.mark.parametrize("name", ["tiny", "edge"])
def test_tables(name: str, stall: float) -> None:
    """The entries of a beat are written one by one, between loads of other memories."""
    config = CONFIGS[name]
    rng = random.Random(f"{name} {stall}")
    beats = rng.randint(2, 9)
    tables = isa.Load(target=LoadTarget.TABLES, address=DRAM_BASE, columns=beats, base=config.table_block_beats)
    others = [
        isa.Load(target=LoadTarget.PARAMETERS, address=DRAM_BASE, columns=5),
        isa.Load(target=LoadTarget.WEIGHTS, lanes=1, address=DRAM_BASE, columns=5),
    ]
    programs = [others[0], tables, one_row(3), replace(tables, base=1), others[1]]
    bench = LoadBench(config, rng, stall=stall)
    chip = bench.run(programs)
    expected = reference(config, bench.dram, programs)
    assert chip.beats == expected.beats
    assert chip.activations == expected.activations


def test_formats_that_alternate() -> None:
    """A short load of integers right behind one of floating point waits for it, and is done once."""
    config = CONFIGS["edge"]
    rng = random.Random("alternate")
    programs = [
        one_row(rng.randint(1, 2), base=4 * index, memory_format=memory_format, nan_policy=NanPolicy.SATURATE)
        for index in range(8)
        for memory_format in (rng.choice(config.memory_formats), MemoryFormat.INTEGER)
    ]
    bench = LoadBench(config, rng)
    chip = bench.run(programs)
    assert chip.activations == reference(config, bench.dram, programs).activations
    assert not any(bench.errors)


@pytest.mark.parametrize("name", CONFIGS)
def test_random_bus_errors(name: str) -> None:
    """In every format and with stalls each error is reported with its instruction, and the others are right."""
    config = CONFIGS[name]
    rng = random.Random(f"errors {name}")
    bench = LoadBench(config, rng, stall=0.3, latency=rng.choice((1, 10)))
    programs = [random_load(rng, config) for _ in range(9)]
    errors = break_some(bench.dram, rng, programs, partial(element_bytes, config))
    chip, expected = bench.run(programs), reference(config, bench.dram, programs)
    assert bench.errors == errors and 0 in errors
    undefined = {
        address for program, error in zip(programs, errors, strict=True) for _, address in elements(program, 1) if error
    }
    for found, right in ((chip.activations, expected.activations), (chip.beats, expected.beats)):
        assert [found.get(key) for key in right if key[-1] not in undefined] == [
            word for key, word in right.items() if key[-1] not in undefined
        ]


def chip_places(config: NpuConfig, program: isa.Load) -> set[tuple]:
    """Keys of `Chip` that a program writes."""
    if program.planes == ENDLESS["planes"]:
        program = replace(program, rows=1, planes=1)
    addresses = [address for _, address in elements(program, 1)]
    lanes = isa.lanes_of_mask(program.lanes)
    if program.target is LoadTarget.TABLES:
        entries = range(config.beat_entries)
        return {("tables", 0, address * config.beat_entries + entry) for address in addresses for entry in entries}
    if program.target is LoadTarget.PARAMETERS:
        return {("parameters", 0, address) for address in addresses}
    if program.target is LoadTarget.WEIGHTS:
        return {("weights", lane, address) for address in addresses for lane in lanes}
    return {(lane, address) for address in addresses for lane in lanes}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stall", [0.0, 0.4], ids=["free", "stalls"])
@pytest.mark.parametrize("name", CONFIGS)
def test_failed_contexts_touch_nothing(name: str, stall: float, seed: int) -> None:
    """Windows, bus errors and NaN fail contexts: nothing of them is written any more, and the others are right."""
    config = CONFIGS[name]
    rng = random.Random(f"contexts {name} {stall} {seed}")
    bench = LoadBench(config, rng, stall=stall, latency=rng.choice((1, 10, 40)))
    size = partial(element_bytes, config)
    programs = contain_failures(bench, rng, [random_load(rng, config) for _ in range(16)], size)
    chip = bench.run(programs)
    assert bench.contexts.failures == failing_programs(
        bench, programs, size, lambda program: 1 in expected_stops(config, bench.dram, [program])
    )
    expected = reference(config, bench.dram, effective_programs(programs, bench.contexts.failures))
    undefined = [chip_places(config, programs[index]) for index in bench.contexts.failures]
    for found, right in ((chip.activations, expected.activations), (chip.beats, expected.beats)):
        keys = {key for key in (*found, *right) if not any(key in places for places in undefined)}
        assert {key: found.get(key) for key in keys} == {key: right.get(key) for key in keys}


one_row = partial(dma_model.one_row, isa.Load)


def test_a_squashed_load_of_any_size_ends_at_once() -> None:
    """What would take days completes within its latency and a few cycles, wherever it is in the engine."""
    config = CONFIGS["edge"]
    good = [one_row(4, address=DRAM_BASE + 64 * index, base=8 * index) for index in range(8)]
    endless = one_row(1, context=2, **{**ENDLESS, "row_pitch": 1 << 20, "plane_pitch": 1 << 30})
    endless = replace(endless, address=DRAM_BASE + 32, base=200)
    bench = LoadBench(config, random.Random(0))
    bench.contexts = Contexts(bench.engine, (None, None, DRAM_BASE + 1024, None), contain=0b1111)
    programs = [*good[:2], endless, good[2], endless, endless, *good[3:]]
    chip = bench.run(programs)
    assert bench.contexts.failures == [2]
    right = reference(config, bench.dram, good).activations
    assert {key: chip.activations[key] for key in right} == right
    assert bench.cycles < 400


def test_every_alignment() -> None:
    config = CONFIGS["edge"]
    rng = random.Random(0)
    cases = [(depth, offset) for depth in Depth for offset in range(config.beat_bytes)]
    rng.shuffle(cases)
    programs = [
        one_row(rng.choice((1, 2, 5)), lanes=15, address=DRAM_BASE + 512 * index + offset, base=16 * index, rows=2,
                row_pitch=201, chip_row_pitch=8, memory_depth=depth, chip_depth=Depth.A16, memory_signed=1,
                chip_signed=1)
        for index, (depth, offset) in enumerate(cases)
    ]  # fmt: skip
    bench = LoadBench(config, rng)
    assert bench.run(programs).activations == reference(config, bench.dram, programs).activations


@pytest.mark.parametrize(
    "fields, cycles_per_element",
    [
        ({}, 1),
        ({"address": DRAM_BASE + 5}, 1),
        ({"memory_depth": Depth.A4}, 1),
        ({"memory_depth": Depth.A6, "address": DRAM_BASE + 3}, 1),
        ({"memory_depth": Depth.A16, "address": DRAM_BASE + 1}, 2),
        ({"memory_format": MemoryFormat.BF16, "address": DRAM_BASE + 1}, 2),
        ({"memory_format": MemoryFormat.FP32, "columns": 125, "shift": 120}, 4),
        ({"target": LoadTarget.WEIGHTS, "lanes": 15}, 1),
        ({"target": LoadTarget.PARAMETERS, "columns": 128}, 1),
        ({"target": LoadTarget.TABLES, "columns": 64}, 4),
        ({"column_pitch": 3, "address": DRAM_BASE + 14}, 1),
        ({"memory_depth": Depth.A6, "column_pitch": 12, "address": DRAM_BASE + 14}, 1),
        ({"columns": 16, "rows": 15, "row_pitch": 512, "chip_row_pitch": 16}, 1),
        ({"columns": 1, "rows": 200, "row_pitch": 32, "chip_row_pitch": 1}, 1),
    ],
    ids=[
        "A8",
        "A8 unaligned",
        "A4",
        "A6 unaligned",
        "A16 unaligned",
        "BF16 unaligned",
        "FP32",
        "weights",
        "parameters",
        "tables",
        "overlapping",
        "A6 with its own pitch",
        "rows",
        "pixels",
    ],
)
def test_throughput_with_a_latency_of_40_cycles(fields: dict, cycles_per_element: int) -> None:
    check_throughput(CONFIGS["edge"], one_row(**{"columns": 250, **fields}), cycles_per_element)


@pytest.mark.parametrize("name", ["tiny", "server"])
def test_throughput_of_other_widths(name: str) -> None:
    check_throughput(NpuConfig.preset(name), one_row(250), 1)


def check_throughput(config: NpuConfig, program: isa.Load, cycles_per_element: int) -> None:
    """Runs one load without stalls; it must reach 95 % of the stated rate once data arrive."""
    bench = LoadBench(config, random.Random(0), latency=40)
    chip = bench.run([program])
    assert chip.activations == reference(config, bench.dram, [program]).activations
    count = program.columns * program.rows
    duration = bench.write_cycles[-1] - bench.write_cycles[0] + 1
    assert duration * 0.95 <= count * cycles_per_element
    assert bench.write_cycles[0] < 40 + 16


def test_bursts_run_ahead_across_instructions() -> None:
    config = CONFIGS["edge"]
    programs = [one_row(16, base=16 * index, address=DRAM_BASE + 256 * index) for index in range(20)]
    bench = LoadBench(config, random.Random(0), latency=40)
    bench.run(programs)
    assert bench.dram.most_outstanding >= 4
    assert bench.write_cycles[-1] - bench.write_cycles[0] < 20 * 16 / 0.9


def test_a_window_ends_the_loads() -> None:
    """The first burst outside is reported once all loads before it are done; it and those behind it read nothing."""
    config = CONFIGS["edge"]
    programs = [one_row(20, address=DRAM_BASE + 1024 * index, base=32 * index) for index in range(6)]
    bench = LoadBench(config, random.Random(0))
    bench.contexts = Contexts(bench.engine, (DRAM_BASE + 4 * 1024, None, None, None))
    chip = bench.run(programs)
    assert chip.activations == reference(config, bench.dram, programs[:4]).activations
    assert bench.errors == [0] * 4


def test_bus_errors_are_reported_with_their_instruction() -> None:
    config = CONFIGS["edge"]
    programs = [
        one_row(20, address=DRAM_BASE + 1024 * index + 7, target=LoadTarget.ACTIVATIONS, base=32 * index)
        for index in range(4)
    ]
    programs[2] = one_row(20, address=DRAM_BASE + 2048, target=LoadTarget.WEIGHTS)
    bench = LoadBench(config, random.Random(0))
    bench.dram.broken = {1024 + 7 + 20 * 16 - 1, 2048 + 64}
    bench.run(programs)
    assert bench.errors == [0, 1, 1, 0]


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_an_identifier_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^the AXI identifier must be from 0 to 3, not 4$"):
        LoadEngine(CONFIGS["tiny"], axi_id=4)
    gc.collect()  # so that the complaint about an unused component comes now
