"""Jobs of the tests of a whole NPU's control; they run inside the simulator."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

from tessera.firmware.driver import Npu, NpuError
from tessera.rtl import isa
from tessera.rtl.control.register_map import register_map
from tessera.rtl.isa import Depth, Unit
from tessera.sim.cosim.bus import CosimBus
from tessera.sim.cosim.errors import CosimError
from tessera.sim.windows import MemoryWindow, MemoryWindows

CODE, SOURCE, DESTINATION = 0x80000, 0x90000, 0xA0000
PIXELS = 64
TIMEOUT = 20_000
ABORT_TIMEOUT = 3_000_000
GANG = 0b0011


def counts(**values: int) -> tuple[int, ...]:
    """Token counts by the units' names."""
    return tuple(values.get(unit.name.lower(), 0) for unit in Unit)


def copy_stream() -> list[isa.Instruction]:
    """Copies `PIXELS` pixels of 8 bits through the banks of a gang."""
    pixels = {"columns": PIXELS, "lanes": GANG, "memory_depth": Depth.A8, "chip_depth": Depth.A8}
    return [
        isa.Load(target=isa.LoadTarget.ACTIVATIONS, address=SOURCE, **pixels),
        isa.Wait(targets=1 << Unit.STORE, sources=1 << Unit.LOAD, counts=counts(load=1)),
        isa.Store(address=DESTINATION, **pixels),
        isa.End(),
    ]


WATCHDOG = 3000
"""Cycles without progress; the longest instruction of the streams here takes less."""


def window_cases(beat_bytes: int) -> dict[str, MemoryWindows]:
    """Windows for the copy stream, by what they let through; its code takes half a block."""
    size = PIXELS * beat_bytes
    code, source = MemoryWindow(CODE, CODE + 0x100), MemoryWindow(SOURCE, SOURCE + size)
    destination = MemoryWindow(DESTINATION, DESTINATION + size)
    everything = {"code": code, "load": source, "store": destination}
    begin, end = 256, size - 256
    return {
        "all": MemoryWindows(**everything),
        "no code": MemoryWindows(**{**everything, "code": MemoryWindow(CODE + 0x100, CODE + 0x1000)}),
        "source's end": MemoryWindows(**{**everything, "load": MemoryWindow(SOURCE, SOURCE + end)}),
        "source's begin": MemoryWindows(**{**everything, "load": MemoryWindow(SOURCE + begin, SOURCE + size)}),
        "destination's end": MemoryWindows(**{**everything, "store": MemoryWindow(DESTINATION, DESTINATION + end)}),
        "destination's begin": MemoryWindows(
            **{**everything, "store": MemoryWindow(DESTINATION + begin, DESTINATION + size)}
        ),
        "nowhere": MemoryWindows(**{**everything, "store": MemoryWindow(DESTINATION + size, DESTINATION)}),
        "all again": MemoryWindows(**everything),
    }


LANE = isa.LaneProgram(lanes=0b1111, depth=Depth.A16, tile_height=4, tile_width=4, channel_steps=2)
WINDOW = isa.Window(slice=1, lanes=GANG, depth=Depth.A8, tile_height=30, tile_width=30)

HANGING: dict[str, list[isa.Instruction]] = {
    "wait for nothing": [
        isa.Wait(targets=1 << Unit.LANE1 | 1 << Unit.STORE, sources=1 << Unit.PPU0, counts=counts(ppu0=1)),
    ],
    "window without post-processing": [WINDOW],
    "tiles without post-processing": [LANE] * 4,
    "post-processing without tiles": [
        isa.PostProcess(slice=0, lanes=0b1111, tile_height=4, tile_width=4, output_lanes=1),
    ],
    "residual of a missing tile": [
        isa.PostProcess(
            slice=1, lanes=GANG, output_lanes=1, residual=1, residual_lanes=0b1100, residual_depth=Depth.A8
        ),
    ],
}
"""Streams that never end, because they break a rule of the instruction set. None of them writes a bank."""

CIRCLE: list[isa.Instruction] = [isa.Fence(), isa.Select(depths=0b1111, offsets=(-1, -1, 0, -1))]
"""A stream that selects itself for ever, and does nothing else."""


async def read_registers(bus: CosimBus) -> dict[str, int]:
    """All registers by name."""
    values = {}
    for name, register in register_map().items():
        words = [await bus.read_register(address) for address in register.words]
        values[name] = sum(word << 32 * index for index, word in enumerate(words))
    return values


async def registers(bus: CosimBus) -> dict[str, Any]:
    """Registers after reset, and the answer to an address without a register."""
    values = await read_registers(bus)
    try:
        await bus.read_register(0xF00)
    except CosimError as error:
        return {"values": values, "unmapped": str(error)}
    return {"values": values, "unmapped": ""}


async def copies(bus: CosimBus) -> dict[str, Any]:
    """Runs the copy stream, then with errors of the bus in each of its parts, then well again."""
    npu = Npu(bus)
    data = bytes(index * 7 % 251 for index in range(PIXELS * bus.word_bytes))
    await npu.load_stream(CODE, isa.encode_stream(copy_stream()))
    results = []
    ranges = {
        "none": (0, 0),
        "fetch": (CODE, CODE + 1),
        "read": (SOURCE + 64, SOURCE + 65),
        "write": (DESTINATION + 64, DESTINATION + 65),
        "none again": (0, 0),
    }
    for name, error_range in ranges.items():
        await bus.write_memory(SOURCE, data)
        await bus.write_memory(DESTINATION, bytes(len(data)))
        bus.configure_memory(error_range=error_range)
        results.append((name, await _try(npu, CODE), await bus.read_memory(DESTINATION, len(data)) == data))
        results[-1] += (bus.interrupt, (await read_registers(bus))["stream[0].status"])
    return {"results": results}


async def windows(bus: CosimBus) -> dict[str, Any]:
    """Runs the copy stream in each of the windows; what came of it, and how much of the copy arrived."""
    npu = Npu(bus)
    size = PIXELS * bus.word_bytes
    data = bytes(1 + index * 7 % 251 for index in range(size))
    await npu.load_stream(CODE, isa.encode_stream(copy_stream()))
    await bus.write_memory(SOURCE, data)
    results = {}
    for name, allowed in window_cases(bus.word_bytes).items():
        await bus.write_memory(DESTINATION, bytes(size))
        bus.configure_windows(allowed)
        outcome = await _try(npu, CODE, allowed)
        copied = await bus.read_memory(DESTINATION, size)
        arrived = next((index for index in range(size) if copied[index] != data[index]), size)
        results[name] = [outcome, arrived, not any(copied[arrived:])]
    return results


async def disturbances(bus: CosimBus, *, image_file: str, code_address: int, result_file: str) -> dict[str, Any]:
    """A reference stream, before and after each hanging, circling or bad stream; writes the memory after each reference
    run."""
    npu = Npu(bus)
    image = Path(image_file).read_bytes()
    outcomes: dict[str, Any] = {}
    with Path(result_file).open("wb") as results:
        for name in ("nothing", "circle", *HANGING):
            if name == "circle":
                outcomes[name] = await _expire(npu, CIRCLE)
            elif name in HANGING:
                stream = HANGING[name]
                outcomes[name] = [await _hang(bus, npu, stream), await _fail(npu, stream), await _expire(npu, stream)]
            await bus.write_memory(0, image)
            await npu.run(code_address, timeout_cycles=1_000_000)
            results.write(await bus.read_memory(0, len(image)))
    return outcomes


LEFT_OVER = [
    isa.LaneProgram(lanes=1 << lane, depth=Depth.A4, tile_height=2, tile_width=2, input_height=4, input_width=4)
    for lane in range(4)
    for _ in range(2)
]
"""Tiles that no post-process takes: a stream of these alone ends, though it breaks a rule of the instruction set."""


async def left_over_tiles(bus: CosimBus, *, image_file: str, code_address: int, result_file: str) -> str:
    """A stream that leaves tiles behind, then a reference stream, whose memory is written to a file."""
    npu = Npu(bus)
    image = Path(image_file).read_bytes()
    await npu.load_stream(CODE, isa.encode_stream([*LEFT_OVER, isa.End()]))
    outcome = await _try(npu, CODE)
    await bus.write_memory(0, image)
    await npu.run(code_address, timeout_cycles=1_000_000)
    Path(result_file).write_bytes(await bus.read_memory(0, len(image)))
    return outcome


async def aborts(
    bus: CosimBus, *, images: list[str], code_addresses: list[int], seed: int, cases: int, result_file: str
) -> list[dict[str, Any]]:
    """Stops streams at random cycles, in one of `_WAYS_TO_STOP`, under random stalls; runs stream 0 after each.

    The memory after each run of stream 0 is appended to a file. Returns what happened, case by case.
    """
    rng = random.Random(seed)
    npu = Npu(bus)
    data = [Path(image).read_bytes() for image in images]
    log = []
    with Path(result_file).open("wb") as results:
        for _ in range(cases):
            victim = rng.randrange(1, len(data))
            way = rng.choice(list(_WAYS_TO_STOP))
            _disturb(bus, rng)
            await bus.write_memory(0, data[victim])
            before = await _WAYS_TO_STOP[way](bus, npu, rng, code_addresses[victim], len(data[victim]))
            await npu.reset()
            stopped = await read_registers(bus)
            bus.configure_memory(error_range=(0, 0))
            await bus.write_memory(0, data[0])
            try:
                await npu.run(code_addresses[0], timeout_cycles=ABORT_TIMEOUT)
                outcome = "ended"
            except (NpuError, CosimError) as error:
                outcome = str(error)
                await npu.reset()
            results.write(await bus.read_memory(0, len(data[0])))
            after = stopped["stream[0].status"]
            log.append({"victim": victim, "way": way, "before": before, "after": after, "reference": outcome})
    return log


def _disturb(bus: CosimBus, rng: random.Random) -> None:
    """Random stalls and latencies."""
    shares = dict.fromkeys(("ar", "r", "aw", "w", "b", "register"), 0.0)
    if rng.random() < 0.6:
        shares = {name: rng.choice((0.0, 0.5, 0.9)) for name in shares}
        shares["register"] = rng.choice((0.0, 0.6))
    bus.configure_stalls(seed=rng.randrange(1, 200), **shares)
    bus.configure_memory(read_latency=rng.choice((2, 10, 100)), write_latency=rng.choice((2, 10, 300)))


async def _start(npu: Npu, address: int) -> None:
    """Starts a stream without waiting for it, which the driver has no need for."""
    await npu._write("irq_status", 3)
    await npu._write("irq_enable", 3)
    await npu._write("address", address)
    await npu._write("control", 1)


async def _run_a_while(bus: CosimBus, npu: Npu, rng: random.Random, address: int) -> None:
    await _start(npu, address)
    await bus.wait_cycles(rng.choice((1, 2, 3, rng.randrange(1, 200), rng.randrange(1, 6_000))))


async def _stop_by_reset(bus: CosimBus, npu: Npu, rng: random.Random, address: int, size: int) -> int:
    await _run_a_while(bus, npu, rng, address)
    return await npu._read("status")


async def _stop_by_bus_error(bus: CosimBus, npu: Npu, rng: random.Random, address: int, size: int) -> int:
    """An error response somewhere; the stream stops by itself, or is reset before."""
    first = rng.randrange(size)
    bus.configure_memory(error_range=(first, first + rng.choice((1, 64, 4096))))
    await _run_a_while(bus, npu, rng, address)
    if rng.random() < 0.5:
        await bus.wait_for_interrupt(ABORT_TIMEOUT)
    return await npu._read("status")


async def _stop_by_several_resets(bus: CosimBus, npu: Npu, rng: random.Random, address: int, size: int) -> int:
    """A reset during a reset, with and without a start in the same write."""
    await _run_a_while(bus, npu, rng, address)
    before = await npu._read("status")
    for control in (2, 3, 2):
        await npu._write("control", control)
    return before


async def _stop_after_second_start(bus: CosimBus, npu: Npu, rng: random.Random, address: int, size: int) -> int:
    """A start while the stream runs, which the NPU ignores (or accepts, if the stream has ended: of random code)."""
    await _run_a_while(bus, npu, rng, address)
    await npu._write("address", rng.randrange(size) & -isa.INSTRUCTION_BYTES)
    await npu._write("control", 1)
    await bus.wait_cycles(rng.randrange(1, 300))
    return await npu._read("status")


_WAYS_TO_STOP = {
    "reset": _stop_by_reset,
    "bus error": _stop_by_bus_error,
    "several resets": _stop_by_several_resets,
    "second start": _stop_after_second_start,
}


async def _hang(bus: CosimBus, npu: Npu, stream: list[isa.Instruction]) -> list[int]:
    """Starts a stream that hangs and resets it; status before and after, and the interrupt."""
    await npu.load_stream(CODE, isa.encode_stream([*stream, isa.End()]))
    with contextlib.suppress(CosimError):
        await npu.run(CODE, timeout_cycles=TIMEOUT)
    before = await read_registers(bus)
    await npu.reset()
    after = await read_registers(bus)
    return [before["stream[0].status"], after["stream[0].status"], int(bus.interrupt)]


async def _expire(npu: Npu, stream: list[isa.Instruction]) -> str:
    """A stream that hangs until the watchdog stops it."""
    await npu.load_stream(CODE, isa.encode_stream([*stream, isa.End()]))
    return await _try(npu, CODE, watchdog_cycles=WATCHDOG)


async def _fail(npu: Npu, stream: list[isa.Instruction]) -> str:
    """A stream that would hang, but has a bad instruction at its end."""
    await npu.load_stream(CODE, isa.encode_stream(stream) + b"\xff" * isa.INSTRUCTION_BYTES)
    return await _try(npu, CODE)


async def _try(npu: Npu, address: int, windows: MemoryWindows | None = None, watchdog_cycles: int = 0) -> str:
    try:
        result = await npu.run(address, timeout_cycles=TIMEOUT, windows=windows, watchdog_cycles=watchdog_cycles)
    except NpuError as error:
        return f"{error.code.name} at {error.index}"
    return f"{result.instructions} instructions, {result.read_beats} + {result.write_beats} beats"
