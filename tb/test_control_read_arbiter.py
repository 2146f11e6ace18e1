"""The sharing of the AXI read channels: every reader gets its own data, in order, and its turn."""

from __future__ import annotations

import gc
import random
import re

import pytest
from amaranth.sim import Simulator
from axi_models import ReadMemory

from tessera.rtl.config import NpuConfig
from tessera.rtl.control.read_arbiter import AxiReadArbiter

CONFIG = NpuConfig.preset("edge")
IDS = (0, 1, 3)
REGION = 20 * 256
MEMORY = random.Random(0).randbytes(1 << 14)


def simulate(readers, *, stall, seed=0, latency=8):
    """Runs a bench per reader; returns the memory model."""
    dut = AxiReadArbiter(CONFIG, ids=IDS)
    model = ReadMemory(dut.axi, MEMORY, CONFIG.beat_bytes, latency=latency, stall=stall, seed=seed)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_process(model.process)
    for index, reader in enumerate(readers):
        for side in reader(dut.readers[index], IDS[index]):
            sim.add_testbench(side)
    sim.run()
    return model


def random_reader(rng, bursts, *, stall, received):
    """Issues bursts and accepts their beats, both with random pauses."""

    def sides(port, axi_id):
        async def ask(ctx):
            for address, count in bursts:
                while rng.random() < stall:
                    await ctx.tick()
                payload = {"id": axi_id, "addr": address, "len": count - 1}
                ctx.set(port.ar.payload, payload)
                ctx.set(port.ar.valid, 1)
                await ctx.tick().until(port.ar.ready)
                ctx.set(port.ar.valid, 0)

        async def take(ctx):
            for _ in range(sum(count for _, count in bursts)):
                while rng.random() < stall:
                    await ctx.tick()
                ctx.set(port.r.ready, 1)
                (beat,) = await ctx.tick().sample(port.r.payload).until(port.r.valid)
                ctx.set(port.r.ready, 0)
                received.append((beat.id, beat.data, beat.last))

        return ask, take

    return sides


@pytest.mark.parametrize("seed", range(3))
def test_each_reader_gets_its_own_data(seed):
    rng = random.Random(seed)
    bursts = [[(256 * rng.randrange(64), rng.randrange(1, 17)) for _ in range(12)] for _ in IDS]
    received = [[] for _ in IDS]
    readers = [random_reader(rng, own, stall=0.3, received=log) for own, log in zip(bursts, received, strict=True)]
    simulate(readers, stall=0.3, seed=seed)
    for axi_id, own, log in zip(IDS, bursts, received, strict=True):
        expected = []
        for address, count in own:
            for beat in range(count):
                place = address + beat * CONFIG.beat_bytes
                data = int.from_bytes(MEMORY[place : place + CONFIG.beat_bytes], "little")
                expected.append((axi_id, data, int(beat == count - 1)))
        assert log == expected


def test_full_speed_and_turns():
    """Readers that always ask are served in turn, a burst per cycle, and the beats come without a gap."""
    received = [[] for _ in IDS]
    bursts = [[(256 * index + REGION * reader, 4) for index in range(20)] for reader in range(len(IDS))]
    cycles = []

    def counting(reader):
        def sides(port, axi_id):
            async def ask(ctx):
                for address, count in bursts[reader]:
                    ctx.set(port.ar.payload, {"id": axi_id, "addr": address, "len": count - 1})
                    ctx.set(port.ar.valid, 1)
                    await ctx.tick().until(port.ar.ready)
                ctx.set(port.ar.valid, 0)

            async def take(ctx):
                ctx.set(port.r.ready, 1)
                cycle = 0
                while len(received[reader]) < 80:
                    _, _, valid, beat = await ctx.tick().sample(port.r.valid, port.r.payload)
                    cycle += 1
                    if valid:
                        received[reader].append(beat.data)
                        cycles.append(cycle)

            return ask, take

        return sides

    model = simulate([counting(reader) for reader in range(len(IDS))], stall=0)
    order = [start // REGION for start, _ in model.bursts[:30]]
    assert all(len(set(order[index : index + 3])) == 3 for index in range(27)), order
    assert max(cycles) - min(cycles) + 1 == 3 * 80


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_equal_or_wide_identifiers():
    message = "each reader must have an identifier of its own, but they are (1, 1)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AxiReadArbiter(CONFIG, ids=(1, 1))
    message = "identifiers must be from 0 to 3, but they are (0, 4)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AxiReadArbiter(CONFIG, ids=(0, 4))
    gc.collect()  # what is left of them says that it was never used: here, where that is expected
