"""Jobs of the tests of bandwidth monitor, regulator and activity counters; they run inside the simulator."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from npu_control_jobs import CODE, SOURCE, copy_stream

from tessera.firmware.bandwidth import Findings, Monitor, MonitorSettings, Regulator
from tessera.firmware.driver import Npu, RunResult
from tessera.firmware.register_access import RegisterAccess
from tessera.rtl import isa
from tessera.rtl.control.register_map import register_map
from tessera.rtl.traffic import TrafficSource
from tessera.sim.cosim.bus import CosimBus
from tessera.sim.cosim.errors import CosimError
from tessera.sim.cosim.load_profile import LoadProfile

TIMEOUT = 200_000
COPIES = 8
"""Times that the data are copied in a run: enough traffic for several windows."""


async def prepare(bus: CosimBus) -> Npu:
    """A stream that copies the same data again and again."""
    await bus.write_memory(SOURCE, bytes(range(256)) * 2)
    *copy, end = copy_stream()
    load, wait, store = copy
    instructions: list[isa.Instruction] = []
    for number in range(COPIES):
        counts = tuple(number + 1 if unit is isa.Unit.LOAD else 0 for unit in isa.Unit)
        instructions += [load, isa.Wait(targets=wait.targets, sources=wait.sources, counts=counts), store]  # type: ignore[attr-defined]
    npu = Npu(bus)
    await npu.load_stream(CODE, isa.encode_stream([*instructions, end]))
    return npu


def described(findings: Findings) -> dict[str, Any]:
    """What JSON can carry of findings."""
    return {
        **asdict(findings),
        "bytes": [findings.bytes[source] for source in TrafficSource],
        "peaks": [findings.peaks[source] for source in TrafficSource],
    }


async def findings_while_running(bus: CosimBus, *, settings: dict[str, Any], seed: int, samples: int) -> dict[str, Any]:
    """Snapshots at any time under random load, and every window as the memory has counted it."""
    npu, monitor = await prepare(bus), Monitor(bus)
    bus.configure_memory(bandwidth=bus.word_bytes / 2)
    await bus.start_windows()
    await bus.start_load(LoadProfile.random(seed, cycles=(40, 900)))
    await monitor.configure(MonitorSettings.from_dict(settings))
    found = []
    for _ in range(samples):
        await npu.run(CODE, timeout_cycles=TIMEOUT)
        found.append(described(await monitor.findings()))
    return {"findings": found, "windows": await bus.stop_windows()}


async def settings_by_hand(bus: CosimBus) -> dict[str, Any]:
    """Settings that make no sense, written to the registers one by one: what is in force, and the flag."""
    monitor, registers = Monitor(bus), RegisterAccess(bus, "monitor")
    await monitor.configure(MonitorSettings(window=32, hysteresis=0.5))
    before = asdict(await monitor.in_force())
    outcomes = {}
    for name, writes in {
        "window of zero": [("control", {"enable": 1, "window": 0, "sections": 4})],
        "window too long": [("control", {"enable": 1, "window": 21, "sections": 4})],
        "one section": [("control", {"enable": 1, "window": 5, "sections": 1})],
        "thresholds out of order": [(f"threshold[{index}]", {"bytes": 9 - index}) for index in range(3)],
        "hysteresis above the peak": [("hysteresis", {"bytes": 1 << 20})],
    }.items():
        for register, values in writes:
            await registers.write_fields(register, **values)
        await registers.write_fields("irq_enable", error=1)
        await registers.write_fields("command", apply=1)
        flagged = (await registers.read_fields("status"))["error"], bus.interrupt
        same = asdict(await monitor.in_force()) == before
        await registers.write_fields("status", error=1)
        cleared = (await registers.read_fields("status"))["error"], bus.interrupt
        await registers.write_fields("irq_enable")
        await monitor.configure(MonitorSettings(window=32, hysteresis=0.5))
        outcomes[name] = [flagged, same, cleared]
    return outcomes


async def section_changes(bus: CosimBus) -> dict[str, Any]:
    """The interrupt at each change of the section, with a load that goes up and down."""
    monitor = Monitor(bus)
    await monitor.configure(MonitorSettings(window=64), interrupt=True)
    await bus.wait_cycles(300)
    seen = [[bus.interrupt, await monitor.section(), await monitor.acknowledge()]]
    for share in (0.4, 0.6, 0.9, 0.4, 0.0):
        bus.configure_memory(traffic_share=share)
        for _ in range(4):
            if not await bus.interrupt_within(300):
                break
            changed = await monitor.acknowledge()
        seen.append([bus.interrupt, await monitor.section(), changed])
    await monitor.disable()
    bus.configure_memory(traffic_share=1.0)
    await bus.wait_cycles(5_000)
    quiet = [bus.interrupt, await monitor.section()]
    bus.configure_memory(traffic_share=0.0)
    return {"seen": seen, "quiet": quiet}


async def limits(bus: CosimBus) -> dict[str, Any]:
    """Runs with and without limits: cycles, cycles in which bursts were held back, and the bytes of each window. Then a
    limit that hardly lets anything pass, a reset, and a run without."""
    npu, monitor, regulator = await prepare(bus), Monitor(bus), Regulator(bus)
    await monitor.configure(MonitorSettings(window=64))
    outcomes: dict[str, Any] = {}
    for name in ("none", "fetch", "load", "store", "none again"):
        rates: dict[str, float | None] = {"fetch": None, "load": None, "store": None}
        if name in rates:
            rates[name] = bus.word_bytes / 8
        await regulator.limit(**rates)
        await bus.start_windows()
        result = await npu.run(CODE, timeout_cycles=TIMEOUT, watchdog_cycles=1_000)
        windows = await bus.stop_windows()
        outcomes[name] = {"cycles": result.cycles, "held": await regulator.held_cycles(), "windows": windows}
    await regulator.limit(load=1e-9)
    outcomes["reset"] = await _reset_while_held(bus, npu)
    await regulator.limit(load=None)
    outcomes["after reset"] = (await npu.run(CODE, timeout_cycles=TIMEOUT)).cycles
    return outcomes


async def _reset_while_held(bus: CosimBus, npu: Npu) -> str:
    """Starts a run that is held back nearly for ever and resets it."""
    try:
        await npu.run(CODE, timeout_cycles=2_000, watchdog_cycles=500)
    except CosimError:
        before = bus.cycles
        await npu.reset()
        return "held back" if bus.cycles - before < 2_000 else "late"
    return "ended"


async def end_while_held(bus: CosimBus) -> dict[str, int]:
    """A run whose fetch is held back nearly always: cycles of the stream, and those until it has stopped."""
    npu, monitor, regulator = await prepare(bus), Monitor(bus), Regulator(bus)
    await monitor.configure(MonitorSettings(window=64))
    await regulator.limit(fetch=1 / 64)
    before = bus.cycles
    result = await npu.run(CODE, timeout_cycles=TIMEOUT)
    stopped = bus.cycles - before
    await regulator.limit(fetch=None)
    return {"cycles": result.cycles, "stopped": stopped}


async def activity(bus: CosimBus) -> dict[str, Any]:
    """What the counters say of a run, and what the stream's own do."""
    npu, monitor = await prepare(bus), Monitor(bus)
    runs = []
    for latency in (40, 200):
        bus.configure_memory(read_latency=latency)
        result: RunResult = await npu.run(CODE, timeout_cycles=TIMEOUT)
        runs.append({"cycles": result.cycles, "activity": asdict(await monitor.activity())})
    bus.configure_memory(read_latency=40)
    return {"runs": runs}


async def activity_of_streams(bus: CosimBus, images: list[str], code_addresses: list[int]) -> list[dict[str, Any]]:
    """What the counters say of streams, each in a file with the contents of the memory."""
    npu, monitor, found = Npu(bus), Monitor(bus), []
    for image, address in zip(images, code_addresses, strict=True):
        await bus.write_memory(0, Path(image).read_bytes())
        await npu.run(address, timeout_cycles=TIMEOUT)
        found.append(asdict(await monitor.activity()))
    return found


async def all_registers(bus: CosimBus) -> dict[str, int]:
    """The registers of monitor, regulator and activity after a reset."""
    access = RegisterAccess(bus)
    blocks = ("monitor.", "regulator.", "activity.")
    return {name: await access.read(name) for name in register_map() if name.startswith(blocks)}
