"""The cocotb test that every co-simulation runs: it calls the job that the job file names.

Imported inside the simulator only.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

import cocotb

from tessera.sim.cosim.bus import CosimBus
from tessera.sim.cosim.runner import JOB_VARIABLE, PROGRESS_FILE, RESULT_FILE


@cocotb.test()
async def run_job(dut: Any) -> None:
    """Resets the NPU, runs the job, and writes its value or its exception to the result file."""
    gc.freeze()  # what is imported by now stays anyway, and looking through it takes a tenth of a run
    job_path = Path(os.environ[JOB_VARIABLE])
    try:
        result = await _result_of(json.loads(job_path.read_text(encoding="utf-8")), dut, job_path.parent)
    except Exception as error:  # the parent process reports whatever the job raised
        result = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    (job_path.parent / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")


async def _result_of(job: dict[str, Any], dut: Any, folder: Path) -> dict[str, Any]:
    module, _, function = job["job"].partition(":")
    run = getattr(importlib.import_module(module), function)
    with (folder / PROGRESS_FILE).open("a", encoding="utf-8") as progress:
        bus = CosimBus(dut, memory_bytes=job["memory_bytes"], folder=folder, progress=progress)
        start = time.perf_counter()
        await bus.reset()
        value = await run(bus, **job["arguments"])
        seconds = time.perf_counter() - start
    return {
        "value": value,
        "cycles": bus.cycles,
        "seconds": seconds,
        "counters": dataclasses.asdict(bus.counters()),
        "axi_violations": bus.axi_violations,
        "axi_first_violation": bus.axi_first_violation,
    }
