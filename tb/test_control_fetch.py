"""Instruction fetch against a memory model: order, bursts, errors, stop and restart, full speed."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator
from axi_models import ReadMemory

from tessera.rtl import isa
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.control.fetch import INSTRUCTIONS_PER_BURST, InstructionFetch

CONFIGS = {name: NpuConfig.preset(name) for name in ("tiny", "edge", "server")}
AXI_ID = 0


def random_words(rng, count):
    """Instructions of random bits that are no ``End``, then an ``End``."""
    words = []
    for _ in range(count - 1):
        word = rng.getrandbits(isa.INSTRUCTION_BITS) & ~0xFF
        words.append(word | isa.Wait.opcode)
    return [*words, isa.End.opcode]


def image(words, address, size=1 << 16):
    memory = bytearray(size)
    data = b"".join(word.to_bytes(isa.INSTRUCTION_BYTES, "little") for word in words)
    memory[address : address + len(data)] = data
    return bytes(memory)


def simulate(config, memory, bench, **options):
    dut = InstructionFetch(config, axi_id=AXI_ID)
    model = ReadMemory(dut.axi, memory, config.beat_bytes, **options)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_process(model.process)

    async def run(ctx):
        await bench(ctx, dut)

    sim.add_testbench(run)
    sim.run()
    return model


async def start(ctx, dut, address):
    ctx.set(dut.address, address)
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)


async def take(ctx, dut, rng, stall):
    while rng.random() < stall:
        await ctx.tick()
    ctx.set(dut.instructions.ready, 1)
    (payload,) = await ctx.tick().sample(dut.instructions.payload).until(dut.instructions.valid)
    ctx.set(dut.instructions.ready, 0)
    return payload


async def stop(ctx, dut):
    ctx.set(dut.stop, 1)
    await ctx.tick()
    ctx.set(dut.stop, 0)
    await ctx.tick().until(dut.idle)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CONFIGS)
def test_order_with_stalls(name, seed):
    """Every word arrives in order, from an unaligned burst on, whatever stalls."""
    rng = random.Random(seed)
    address = 0x1000 + rng.randrange(16) * isa.INSTRUCTION_BYTES
    words = random_words(rng, 90)
    received = []

    async def bench(ctx, dut):
        await start(ctx, dut, address)
        for _ in words:
            received.append(await take(ctx, dut, rng, stall=0.3))

    model = simulate(CONFIGS[name], image(words, address), bench, latency=rng.randrange(1, 60), stall=0.3, seed=seed)
    assert [item.word for item in received] == words
    assert not any(item.error for item in received)
    assert model.bursts[0][0] == address
    assert all(start % AXI_BURST_BYTES == 0 for start, _ in model.bursts[1:])


@pytest.mark.parametrize("name", CONFIGS)
def test_full_speed(name):
    """Once the first has arrived, instructions come as fast as the bus and the prefetched bursts allow."""
    config = CONFIGS[name]
    count = 200
    beats = isa.INSTRUCTION_BYTES // config.beat_bytes
    words = random_words(random.Random(0), count)
    cycles = 0

    async def bench(ctx, dut):
        nonlocal cycles
        await start(ctx, dut, 0)
        ctx.set(dut.instructions.ready, 1)
        await ctx.tick().until(dut.instructions.valid)
        for _ in range(count - 1):
            cycles += 1
            while not ctx.get(dut.instructions.valid):
                cycles += 1
                await ctx.tick()
            await ctx.tick()

    latency, pipeline = 40, 5
    simulate(config, image(words, 0), bench, latency=latency)
    round_trip = latency + INSTRUCTIONS_PER_BURST * beats + pipeline
    assert cycles <= count * max(beats, round_trip / (InstructionFetch.PREFETCH_BURSTS * INSTRUCTIONS_PER_BURST)) + 2


def test_error_belongs_to_its_instruction():
    config = CONFIGS["edge"]
    words = random_words(random.Random(1), 12)
    received = []

    async def bench(ctx, dut):
        await start(ctx, dut, 0)
        for _ in words:
            received.append(await take(ctx, dut, random.Random(0), stall=0))

    simulate(config, image(words, 0), bench, errors=frozenset({5 * isa.INSTRUCTION_BYTES + 3}))
    assert [item.error for item in received] == [index == 5 for index in range(12)]
    assert [item.word for item in received] == words


@pytest.mark.parametrize("seed", range(3))
def test_stop_and_restart(seed):
    """Nothing of a stopped stream is seen by the next one, even if its bursts were in flight."""
    rng = random.Random(seed)
    streams = [(0x0, random_words(rng, 60)), (0x2020, random_words(rng, 60)), (0x4000, random_words(rng, 3))]
    memory = bytearray(1 << 16)
    for address, words in streams:
        memory = bytearray(a | b for a, b in zip(memory, image(words, address), strict=True))
    received = []

    async def bench(ctx, dut):
        assert ctx.get(dut.idle)
        for address, words in streams:
            await start(ctx, dut, address)
            taken = [await take(ctx, dut, rng, stall=0.2) for _ in range(rng.randrange(1, len(words)))]
            received.append([item.word for item in taken])
            await stop(ctx, dut)

    simulate(CONFIGS["edge"], bytes(memory), bench, latency=25, stall=0.2, seed=seed)
    for (_, words), taken in zip(streams, received, strict=True):
        assert taken == words[: len(taken)]


def test_no_requests_after_the_end():
    """Reading stops after an end instruction: at most the bursts that were under way."""
    words = random_words(random.Random(2), 40)

    async def bench(ctx, dut):
        await start(ctx, dut, 0)
        ctx.set(dut.instructions.ready, 1)
        await ctx.tick().repeat(1000)

    model = simulate(CONFIGS["edge"], image(words, 0), bench, latency=2)
    assert len(model.bursts) <= 40 * isa.INSTRUCTION_BYTES // AXI_BURST_BYTES + InstructionFetch.PREFETCH_BURSTS
