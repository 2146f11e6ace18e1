"""Jobs of the tests of the co-simulation toolchain; they run inside the simulator with ``copy_engine.v`` as the NPU."""

from __future__ import annotations

import random
from typing import Any

from tessera.sim.cosim.bus import CosimBus
from tessera.sim.cosim.errors import CosimError

CONTROL, SOURCE, DESTINATION, BURSTS, BEATS, MODE, FAULT, CHECKSUM, RESPONSES, CYCLES = range(0, 0x28, 4)

READ_ONLY, COPY, COPY_LOWER_HALVES = 0, 1, 3


async def start(bus: CosimBus, *, source: int, destination: int, bursts: int, beats: int, mode: int) -> None:
    """Starts the engine."""
    for register, value in (
        (SOURCE, source),
        (DESTINATION, destination),
        (BURSTS, bursts),
        (BEATS, beats),
        (MODE, mode),
        (CONTROL, 1),
    ):
        await bus.write_register(register, value)


async def run_engine(bus: CosimBus, *, mode: int, bursts: int, beats: int = 16, source: int = 0x1000) -> dict[str, Any]:
    """Runs the engine to its end; returns what its registers say."""
    await start(bus, source=source, destination=0x20000, bursts=bursts, beats=beats, mode=mode)
    await bus.wait_for_interrupt(timeout_cycles=1_000_000)
    responses = await bus.read_register(RESPONSES)
    await bus.write_register(CONTROL, 2)
    return {
        "cycles": await bus.read_register(CYCLES),
        "checksum": await bus.read_register(CHECKSUM),
        "read_response": responses & 3,
        "write_response": responses >> 2,
    }


async def idle(bus: CosimBus, cycles: int) -> int:
    """Lets the clock run; returns the cycles that passed."""
    start_cycle = bus.cycles
    await bus.wait_cycles(cycles)
    return bus.cycles - start_cycle


async def measure(bus: CosimBus) -> dict[str, Any]:
    """One run through everything that the memory model and the bus can do; returns what was observed."""
    return {
        "memory": await _memory_round_trips(bus),
        "peek": await _short_accesses(bus),
        "copy": await copy(bus),
        "strobes": await _strobes(bus),
        "latency": {latency: await _latency(bus, latency) for latency in (2, 40, 150)},
        "write_latency": {latency: await _write_latency(bus, latency) for latency in (2, 40, 150)},
        "bandwidth": {bandwidth: await _bandwidth(bus, bandwidth) for bandwidth in (16, 8, 2.5)},
        "traffic": {kind: await _traffic(bus, random_beats=kind == "random") for kind in ("even", "random")},
        "stalls": {seed: await _stalls(bus, seed) for seed in (7, 8)},
        "errors": await _errors(bus),
        "refusals": await _refusals(bus),
    }


async def _memory_round_trips(bus: CosimBus) -> bool:
    """Blocks of every alignment and odd lengths come back, and their neighbours stay."""
    generator = random.Random(1)
    base = 0x3000
    expected = bytearray(generator.randbytes(0x800))
    await bus.write_memory(base, expected)
    for offset in range(17):
        data = generator.randbytes(generator.choice((1, 5, 64, 150)))
        await bus.write_memory(base + 61 * offset, data)
        expected[61 * offset : 61 * offset + len(data)] = data
    return await bus.read_memory(base, len(expected)) == expected


async def _short_accesses(bus: CosimBus) -> str:
    await bus.write_memory(0x4000, bytes(range(32)))
    return (await bus.read_memory(0x400D, 6)).hex()


async def copy(bus: CosimBus) -> dict[str, Any]:
    """Copies 4 KiB; returns what was observed."""
    data = random.Random(2).randbytes(0x1000)
    await bus.write_memory(0x1000, data)
    before = bus.counters()
    beat_bytes = bus.word_bytes
    result = await run_engine(bus, mode=COPY, bursts=0x1000 // (16 * beat_bytes))
    after = bus.counters()
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), beat_bytes)]
    return {
        **result,
        "equal": await bus.read_memory(0x20000, len(data)) == data,
        "expected_checksum": sum(words) % 2**32,
        "read_bytes": after.npu_read_bytes - before.npu_read_bytes,
        "write_bytes": after.npu_write_bytes - before.npu_write_bytes,
    }


async def _strobes(bus: CosimBus) -> bool:
    """Bytes whose enable is not set stay."""
    await bus.write_memory(0x20000, b"\xee" * 64)
    await run_engine(bus, mode=COPY_LOWER_HALVES, bursts=1, beats=4)
    source = await bus.read_memory(0x1000, 64)
    expected = b"".join(source[i : i + 8] + b"\xee" * 8 for i in range(0, 64, 16))
    return await bus.read_memory(0x20000, 64) == expected


async def _latency(bus: CosimBus, latency: int) -> int:
    """Engine cycles of one read burst of four beats."""
    bus.configure_memory(read_latency=latency)
    result = await run_engine(bus, mode=READ_ONLY, bursts=1, beats=4)
    bus.configure_memory(read_latency=40)
    return result["cycles"]


async def _write_latency(bus: CosimBus, latency: int) -> int:
    """Engine cycles of copying one beat."""
    bus.configure_memory(write_latency=latency)
    result = await run_engine(bus, mode=COPY, bursts=1, beats=1)
    bus.configure_memory(write_latency=40)
    return result["cycles"]


async def _bandwidth(bus: CosimBus, bandwidth: float) -> int:
    """Engine cycles of 24 read bursts of 256 bytes with a latency of 200, which needs 13 bursts in flight."""
    bus.configure_memory(bandwidth=bandwidth, read_latency=200)
    result = await run_engine(bus, mode=READ_ONLY, bursts=24)
    bus.configure_memory(bandwidth=16, read_latency=40)
    return result["cycles"]


async def _traffic(bus: CosimBus, *, random_beats: bool) -> dict[str, int]:
    """Engine cycles of 32 read bursts and the second master's bytes while it takes a quarter of the bandwidth."""
    bus.configure_memory(traffic_share=0.25, traffic_random=random_beats)
    before = bus.cycles, bus.counters().traffic_bytes
    result = await run_engine(bus, mode=READ_ONLY, bursts=32)
    after = bus.cycles, bus.counters().traffic_bytes
    bus.configure_memory(traffic_share=0, traffic_random=False)
    return {"engine": result["cycles"], "cycles": after[0] - before[0], "bytes": after[1] - before[1]}


async def _stalls(bus: CosimBus, seed: int) -> list[Any]:
    """Two copies with stalls everywhere and the same seed: cycles, equal data."""
    observed = []
    for _ in range(2):
        await bus.write_memory(0x20000, bytes(0x800))
        bus.configure_stalls(seed=0)
        await bus.reset()
        bus.configure_stalls(seed=seed, ar=0.75, r=0.75, aw=0.75, w=0.75, b=0.75, register=0.75)
        result = await run_engine(bus, mode=COPY, bursts=8)
        bus.configure_stalls()
        equal = await bus.read_memory(0x20000, 0x800) == await bus.read_memory(0x1000, 0x800)
        observed.append([result["cycles"], equal])
    return observed


async def _errors(bus: CosimBus) -> dict[str, Any]:
    """Responses of accesses to a range that answers with SLVERR and behind the memory."""
    bus.configure_memory(error_range=(0x1100, 0x1200))
    read = await run_engine(bus, mode=READ_ONLY, bursts=4)
    bus.configure_memory(error_range=(0x20010, 0x20020))
    await bus.write_memory(0x20000, b"\xee" * 48)
    write = await run_engine(bus, mode=COPY, bursts=1, beats=3)
    bus.configure_memory(error_range=(0, 0))
    behind = await run_engine(bus, mode=READ_ONLY, bursts=1, source=bus.memory_bytes)
    source = await bus.read_memory(0x1000, 48)
    return {
        "read": read["read_response"],
        "write": write["write_response"],
        "stored": (await bus.read_memory(0x20000, 48)) == source[:16] + b"\xee" * 16 + source[32:],
        "behind": behind["read_response"],
    }


async def _refusals(bus: CosimBus) -> list[str]:
    """The sentences of what goes wrong."""
    sentences = []
    for attempt in (
        bus.write_register(0x700, 1),
        bus.read_register(0x704),
        bus.wait_for_interrupt(timeout_cycles=20),
        bus.write_memory(bus.memory_bytes - 2, b"123"),
    ):
        try:
            await attempt
        except CosimError as error:
            sentences.append(str(error))
    return sentences


async def break_rule(bus: CosimBus, fault: int) -> None:
    """Runs the engine with a fault while the memory stalls."""
    bus.configure_stalls(ar=0.5, aw=0.5)
    await bus.write_register(FAULT, fault)
    await start(bus, source=0x1E00, destination=0x20000, bursts=4, beats=16, mode=COPY)
    await bus.wait_cycles(500)


async def report(bus: CosimBus, steps: int) -> None:
    """Reports progress and then fails."""
    for step in range(steps):
        bus.report_progress(step=step)
        await bus.wait_cycles(10)
    raise ValueError("no more steps")


async def never_end(bus: CosimBus) -> None:
    """Runs for ever."""
    while True:
        await bus.wait_cycles(1000)
