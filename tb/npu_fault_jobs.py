"""Job of the fuzz tests of faults; it runs inside the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tessera.firmware.driver import Npu, NpuError, NpuStuckError
from tessera.rtl.control.register_map import register_map
from tessera.rtl.isa import OPERATIONS
from tessera.sim.cosim.bus import CosimBus
from tessera.sim.cosim.errors import CosimError
from tessera.sim.counts import Counts
from tessera.sim.windows import MemoryWindows

WATCHDOG = 2000
"""Cycles without progress: far more than the memory's latency, and than the reference streams' longest instruction."""

TIMEOUT = 20_000
"""Cycles after which a stream that still moves is reset by the host."""

REFERENCE_TIMEOUT = 500_000

COUNTS_EVERY = 10
"""Cases of which one has its counts compared: they are many registers."""


async def run_cases(
    bus: CosimBus,
    *,
    folder: str,
    images: list[dict[str, Any]],
    cases: list[dict[str, Any]],
    stalls: dict[str, Any],
) -> list[dict[str, Any]]:
    """Runs every broken case, and after each a good stream.

    ``images`` are good streams by file, code address and windows; ``cases`` say which image's memory they use. After
    each case ``folder/result_<case>.bin`` holds the good stream's memory. Returns for each case its outcome in words,
    error code and index, the image that followed, what the bus's checker has seen, and for some whether the operations'
    counts add up to the stream's.
    """
    bus.configure_stalls(**stalls)
    npu = Npu(bus)
    memories = [(Path(folder) / image["file"]).read_bytes() for image in images]
    records: list[dict[str, Any]] = []
    seen = 0
    for number, case in enumerate(cases):
        image = images[case["base"]]
        memory = memories[case["base"]]
        code = (Path(folder) / f"code_{number}.bin").read_bytes()
        await bus.write_memory(0, memory[: image["code_address"]] + code)
        windows = MemoryWindows.from_dict(case["windows"])
        bus.configure_windows(windows)
        bus.configure_memory(error_range=tuple(case["error_range"]))
        record = await _run_case(bus, npu, image["code_address"], windows, case["reset_after"])
        if number % COUNTS_EVERY == 0:
            parts = await npu.operation_counts(range(OPERATIONS))
            record["counts_add_up"] = sum(parts.values(), Counts()) == await npu.counts()
        violations, seen = bus.axi_violations - seen, bus.axi_violations
        record["violation"] = bus.axi_first_violation if violations else ""
        bus.configure_memory(error_range=(0, 0))
        follower = (number * 7 + case["base"]) % len(images)
        record["follower"] = follower
        record["after"] = await _run_good(bus, npu, images[follower], memories[follower])
        result = await bus.read_memory(0, len(memories[follower]))
        (Path(folder) / f"result_{number}.bin").write_bytes(result)
        records.append(record)
    return records


async def _run_case(bus: CosimBus, npu: Npu, address: int, windows: MemoryWindows, reset_after: int) -> dict[str, Any]:
    """The outcome: ``end``, ``error``, ``reset`` by the host, or ``moves`` on (and is then reset)."""
    try:
        await npu.run(address, timeout_cycles=reset_after or TIMEOUT, windows=windows, watchdog_cycles=WATCHDOG)
    except NpuError as error:
        return {"outcome": "error", "code": int(error.code), "index": error.index}
    except NpuStuckError:
        await bus.reset()
        return {"outcome": "hangs"}
    except CosimError:
        if reset_after:
            await npu.reset()
            return {"outcome": "reset"}
        record = await _late_outcome(bus)
        await npu.reset()
        return record
    return {"outcome": "end"}


async def _late_outcome(bus: CosimBus) -> dict[str, Any]:
    """What becomes of a stream that has not ended in time, while a silent one would meet the watchdog."""
    before = await _read(bus, "read_beats"), await _read(bus, "write_beats")
    await bus.wait_cycles(2 * WATCHDOG)
    if bus.interrupt:
        code, index = await _read(bus, "error"), await _read(bus, "error_index")
        return {"outcome": "error", "code": code, "index": index} if code else {"outcome": "end"}
    moved = before != (await _read(bus, "read_beats"), await _read(bus, "write_beats"))
    return {"outcome": "moves" if moved else "hangs"}


async def _read(bus: CosimBus, name: str) -> int:
    return await bus.read_register(register_map()[f"stream[0].{name}"].address)


async def _run_good(bus: CosimBus, npu: Npu, image: dict[str, Any], memory: bytes) -> str:
    """Runs a good stream in its own memory; an empty text, or what went wrong."""
    await bus.write_memory(0, memory)
    windows = MemoryWindows.from_dict(image["windows"])
    bus.configure_windows(windows)
    try:
        await npu.run(
            image["code_address"], timeout_cycles=REFERENCE_TIMEOUT, windows=windows, watchdog_cycles=20 * WATCHDOG
        )
    except (NpuError, NpuStuckError, CosimError) as error:
        await bus.reset()  # so that the next case is not blamed
        return str(error)
    return ""
