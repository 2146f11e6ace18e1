"""The host driver's work inside the simulator: starts streams one after another. Imported by the simulator only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tessera.firmware.driver import Npu, NpuError
from tessera.sim.cosim.bus import CosimBus
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
    timeout_cycles: int,
) -> dict[str, Any]:
    """Runs every start of `tessera.firmware.cosimulation.simulate`; see there for the meaning.

    Returns the record of each start, with the counts of its operations, and the trace of the first one in cycles since
    its start.

    ``data_file`` holds the bytes of all writes, ``result_file`` gets the bytes of all reads, both in order.
    """
    bus.configure_memory(**memory)
    bus.configure_stalls(**stalls)
    npu = Npu(bus)
    records: list[dict[str, Any]] = []
    trace: list[tuple[int, int]] = []
    with Path(data_file).open("rb") as data, Path(result_file).open("wb") as results:
        for index, start in enumerate(starts):
            for address, length in start["writes"]:
                await bus.write_memory(address, data.read(length))
            if index == 0:
                await bus.start_trace()
            windows = MemoryWindows.from_dict(start["windows"])
            bus.configure_windows(windows)
            limits = {"timeout_cycles": timeout_cycles, "watchdog_cycles": start["watchdog_cycles"]}
            records.append(await _run(npu, start["stream_address"], windows, limits))
            counts = await npu.operation_counts(start["operations"])
            records[-1]["operation_counts"] = [dataclasses.asdict(counts[number]) for number in start["operations"]]
            if index == 0:
                begin = bus.interrupt_cycle - records[0].get("cycles", 0)
                trace = [(cycle - begin, mask) for cycle, mask in await bus.stop_trace()]
            for address, length in start["reads"]:
                results.write(await bus.read_memory(address, length))
            if index % REPORT_EVERY == REPORT_EVERY - 1 or index == len(starts) - 1:
                bus.report_progress(done=index + 1, cycles=bus.cycles)
    return {"records": records, "trace": trace}


async def _run(npu: Npu, stream_address: int, windows: MemoryWindows, limits: dict[str, int]) -> dict[str, Any]:
    try:
        result = await npu.run(stream_address, windows=windows, **limits)
    except NpuError as error:
        return {"error": str(error)}
    return dataclasses.asdict(result)
