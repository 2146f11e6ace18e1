"""Runs a job in a simulator, from an ordinary Python process."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.sim.cosim.build import TOP, CosimBuild, CosimDesign, build_simulation, tail
from tessera.sim.cosim.errors import CosimError
from tessera.sim.cosim.process import run_cocotb
from tessera.sim.cosim.toolchain import Simulator

JOB_VARIABLE = "TESSERA_COSIM_JOB"
"""Environment variable that names the job file to the simulator process."""

JOB_FILE = "job.json"
RESULT_FILE = "result.json"
PROGRESS_FILE = "progress.jsonl"
"""Files of a run: what to do, what came out, and what the job reported on the way, one JSON object per line."""


@dataclass(frozen=True)
class MemoryCounters:
    """Bytes that crossed the memory bus: whole beats, whatever the byte enables say."""

    npu_read_bytes: int
    npu_write_bytes: int
    traffic_bytes: int


@dataclass(frozen=True)
class CosimResult:
    """What came out of a run.

    Attributes
    ----------
    value
        What the job returned.
    cycles
        Clock cycles that were simulated, the initial reset included.
    seconds
        Wall-clock time of the job inside the simulator.
    counters
        Bytes moved during the whole run.
    axi_violations, axi_first_violation
        Cycles in which the NPU broke a rule of AXI, and the first of them in words.
    """

    value: Any
    cycles: int
    seconds: float
    counters: MemoryCounters
    axi_violations: int
    axi_first_violation: str

    @property
    def cycles_per_second(self) -> float:
        """Simulation speed."""
        return self.cycles / self.seconds if self.seconds > 0 else 0.0


def run_cosim(
    design: CosimDesign | CosimBuild,
    job: str,
    *,
    arguments: Mapping[str, Any] | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    waveform: Path | None = None,
    timeout_seconds: float | None = None,
    allow_axi_violations: bool = False,
    build_folder: Path | None = None,
) -> CosimResult:
    """Builds a simulation if need be, runs one job in it, and returns the job's value.

    Parameters
    ----------
    design
        What to simulate, or the result of ``build_simulation``.
    job
        ``"module:function"``: a coroutine function that gets a ``CosimBus`` and the arguments by name. The module
        must be importable with this process's ``sys.path``.
    arguments
        JSON values.
    on_progress
        Called with each object that the job gives to ``CosimBus.report_progress``.
    waveform
        File to write: ``.vcd`` with Verilator, ``.fst`` with Icarus. Needs ``CosimDesign.waves``.
    timeout_seconds
        Wall-clock limit of the run.
    allow_axi_violations
        Return normally even if the NPU broke a rule of AXI.
    build_folder
        As for ``build_simulation``.

    Raises
    ------
    CosimError
        The build failed, the job raised an exception or did not end, or the NPU broke a rule of AXI.
    """
    build = design if isinstance(design, CosimBuild) else build_simulation(design, build_folder)
    _check_waveform(build.design, waveform)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=build.folder))
    job_file = {"job": job, "arguments": dict(arguments or {}), "memory_bytes": build.design.memory_bytes}
    (folder / JOB_FILE).write_text(json.dumps(job_file), encoding="utf-8")
    code = _run(build, folder, waveform, timeout_seconds, on_progress)
    if code is None:
        raise _failure(folder, f"the job {job} did not end within {timeout_seconds} s")
    if waveform is not None:
        shutil.move(folder / _waveform_name(build.design), waveform)
    result = _read_result(folder, job)
    if result.axi_violations and not allow_axi_violations:
        raise CosimError(
            f"the NPU broke the rules of AXI in {result.axi_violations} cycles, first: {result.axi_first_violation}."
        )
    shutil.rmtree(folder)
    return result


def _run(
    build: CosimBuild,
    folder: Path,
    waveform: Path | None,
    timeout_seconds: float | None,
    on_progress: Callable[[dict[str, Any]], None] | None,
) -> int | None:
    icarus_waveform = waveform is not None and build.design.simulator is Simulator.ICARUS
    with (folder / PROGRESS_FILE).open("w+", encoding="utf-8") as progress:
        return run_cocotb(
            "run",
            {
                "simulator": build.design.simulator.value,
                "test_module": "tessera.sim.cosim.entry",
                "hdl_toplevel": TOP,
                "hdl_toplevel_lang": "verilog",
                "build_dir": str(build.folder),
                "test_dir": str(folder),
                "waves": waveform is not None,
                "plusargs": [f"+dumpfile_path={folder / _waveform_name(build.design)}"] if icarus_waveform else [],
                "timescale": ["1ns", "1ps"],
            },
            log=folder / "run.log",
            environment={
                **build.toolchain.apply_to(dict(os.environ)),
                JOB_VARIABLE: str(folder / JOB_FILE),
                "COCOTB_REWRITE_ASSERTION_FILES": "",  # rewriting asserts as pytest does slows every start
                "OPENBLAS_NUM_THREADS": "1",  # numpy's threads would wait in a loop beside the simulator
            },
            timeout_seconds=timeout_seconds,
            while_waiting=None if on_progress is None else _ProgressReader(progress.readline, on_progress),
        )


class _ProgressReader:
    """Passes on the lines that a growing file has got since the last call."""

    def __init__(self, readline: Callable[[], str], on_progress: Callable[[dict[str, Any]], None]):
        self._readline = readline
        self._on_progress = on_progress
        self._partial = ""

    def __call__(self) -> None:
        while text := self._readline():
            self._partial += text
            if self._partial.endswith("\n"):
                line, self._partial = self._partial, ""
                self._on_progress(json.loads(line))


def _waveform_name(design: CosimDesign) -> str:
    return "dump.vcd" if design.simulator is Simulator.VERILATOR else "dump.fst"


def _check_waveform(design: CosimDesign, waveform: Path | None) -> None:
    if waveform is None:
        return
    suffix = Path(_waveform_name(design)).suffix
    if waveform.suffix != suffix:
        raise CosimError(f"{design.simulator.value} writes {suffix} files; {waveform} must end in {suffix}.")
    if not design.waves:
        raise CosimError("the simulation was not built for waveforms; set CosimDesign.waves.")


def _read_result(folder: Path, job: str) -> CosimResult:
    path = folder / RESULT_FILE
    if not path.is_file():
        raise _failure(folder, f"the simulator ended before the job {job} did")
    result = json.loads(path.read_text(encoding="utf-8"))
    if "error" in result:
        raise CosimError(f"the job {job} failed: {result['error']}", details=result["traceback"])
    return CosimResult(**{**result, "counters": MemoryCounters(**result["counters"])})


def _failure(folder: Path, sentence: str) -> CosimError:
    log = folder / "run.log"
    return CosimError(f"{sentence}; the whole log is {log}.", details=tail(log))
