"""The host driver's work inside the simulator: starts streams one after another. Imported by the simulator only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tessera.firmware.bandwidth import Monitor, MonitorSettings, Regulator
from tessera.firmware.driver import Npu, NpuError, StreamState
from tessera.sim.adaptation import DepthSettings
from tessera.sim.contexts import Context, contexts_of, hull_of
from tessera.sim.cosim.bus import CosimBus
from tessera.sim.cosim.load_profile import LoadProfile
from tessera.sim.windows import MemoryWindows

REPORT_EVERY = 8
"""Starts between two reports of progress."""


async def run_starts(
    bus: CosimBus,
    *,
    data_file: str,
    result_file: str,
    starts: list[dict[str, Any]],
    memory: dict[str, Any],
    stalls: dict[str, Any],
    load: dict[str, Any] | None,
    monitor: dict[str, Any] | None,
    limits: dict[str, float | None],
    record_windows: bool,
    timeout_cycles: int,
) -> dict[str, Any]:
    """Runs every start of `tessera.firmware.cosimulation.simulate`; see there for the meaning.

    Returns the record of each start, with the counts of its operations, and of the first and those that ask for it the
    trace in cycles since its start; and the windows of the bandwidth monitor, in cycles of the simulation.

    ``data_file`` holds the bytes of all writes, ``result_file`` gets the bytes of all reads, both in order.
    """
    bus.configure_memory(**memory)
    bus.configure_stalls(**stalls)
    await _prepare_bus(bus, load, monitor, limits)
    if record_windows:
        await bus.start_windows()
    npu = Npu(bus)
    records: list[dict[str, Any]] = []
    with Path(data_file).open("rb") as data, Path(result_file).open("wb") as results:
        for index, start in enumerate(starts):
            for address, length in start["writes"]:
                await bus.write_memory(address, data.read(length))
            traced = index == 0 or start["traced"]
            if traced:
                await bus.start_trace()
            records.append(await _run(bus, npu, start, timeout_cycles))
            counts = await npu.operation_counts(start["operations"])
            records[-1]["operation_counts"] = [dataclasses.asdict(counts[number]) for number in start["operations"]]
            begin = bus.interrupt_cycle - records[-1].get("cycles", 0)
            trace = await bus.stop_trace() if traced else []
            records[-1]["trace"] = [(cycle - begin, mask) for cycle, mask in trace]
            selections = bus.selections if traced else []
            records[-1]["selections"] = [(cycle - begin, *words) for cycle, *words in selections]
            for address, length in start["reads"]:
                results.write(await bus.read_memory(address, length))
            if index % REPORT_EVERY == REPORT_EVERY - 1 or index == len(starts) - 1:
                bus.report_progress(done=index + 1, cycles=bus.cycles)
    return {"records": records, "windows": await bus.stop_windows() if record_windows else []}


async def _prepare_bus(
    bus: CosimBus, load: dict[str, Any] | None, monitor: dict[str, Any] | None, limits: dict[str, float | None]
) -> None:
    """Configures monitor and regulator, and lets the other masters begin."""
    if monitor is not None:
        await Monitor(bus).configure(MonitorSettings.from_dict(monitor))
    if limits:
        await Regulator(bus).limit(**limits)
    if load is not None:
        await bus.start_load(LoadProfile.from_dict(load))


async def _run(bus: CosimBus, npu: Npu, start: dict[str, Any], timeout_cycles: int) -> dict[str, Any]:
    """Runs a start to its end or pause."""
    windows = MemoryWindows.from_dict(start["windows"])
    contexts = contexts_of(windows)
    if start["contexts"] is not None:
        contexts = {int(number): Context.from_dict(values) for number, values in start["contexts"].items()}
    bus.configure_windows(hull_of(contexts, windows.code))
    if start["depths"] is not None:
        await npu.set_depths(DepthSettings.from_dict(start["depths"]))
    await npu.start(
        start["stream_address"],
        contexts=contexts,
        code=windows.code,
        watchdog_cycles=start["watchdog_cycles"],
        report_progress=False,
    )
    if start["pause_cycle"] is not None:
        await bus.wait_cycles(start["pause_cycle"])
        await npu.pause()
    state = await npu.wait(timeout_cycles)
    try:
        state.raise_error()
    except NpuError as error:
        return {"error": str(error), "state": _described(state)}
    return {**dataclasses.asdict(await npu.measurements()), "state": _described(state)}


def _described(state: StreamState) -> dict[str, Any]:
    """What JSON can carry of a state."""
    return {**dataclasses.asdict(state), "phase": state.phase.value}
