"""Broken streams on the RTL: always a documented error or a normal end, no access outside the windows, and a good
stream right after gives the right bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_faults import Case, good_windows, random_case
from random_streams import RandomStream, random_stream

from tessera.rtl import verilog
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import ErrorCode, Load, NanPolicy
from tessera.sim.cosim import CosimDesign, run_cosim
from tessera.sim.faults import Fault, scan
from tessera.sim.stream import StreamModel

TINY = NpuConfig.preset("tiny")

GOOD_SEEDS = range(400, 410)
"""Seeds of the good streams."""

STALLS = {"seed": 3, "ar": 0.3, "r": 0.4, "aw": 0.3, "w": 0.4, "b": 0.4, "register": 0.2}

DECIDABLE = {ErrorCode.BAD_OPCODE, ErrorCode.BAD_OPERAND, ErrorCode.WINDOW, ErrorCode.FETCH_ERROR}
"""Errors that the stream's bytes and its windows determine."""


def expected_memory(stream: RandomStream) -> tuple[np.ndarray, np.ndarray]:
    """DRAM after a good stream, and which of its bytes do not depend on what was in the banks before.

    Saturation hides much of what was there, so the banks are tried with every digit, then with random ones.
    """
    results = []
    for trial in range(24):
        rng = np.random.default_rng(trial)
        model = StreamModel(TINY, len(stream.dram))
        model.activations = rng.integers(0, 16, model.activations.shape, np.uint8)
        if trial < 16:
            model.activations[:] = trial
        model.write_memory(0, stream.dram)
        model.execute_code(stream.code_address, good_windows(stream))
        results.append(model.dram.copy())
    return results[0], np.all([result == results[0] for result in results], axis=0)


def possible_faults(case: Case, stream: RandomStream) -> tuple[Fault, ...]:
    """What the model says could stop the case."""
    memory = stream.dram[: stream.code_address] + case.code

    def read(address: int, length: int) -> bytes:
        return memory[address : address + length].ljust(length, b"\0")

    return scan(read, stream.code_address, TINY, case.windows).faults


def check_outcome(case: Case, stream: RandomStream, record: dict) -> str:
    """What is wrong with the outcome of a case; an empty text if nothing is."""
    outcome = record["outcome"]
    if record["violation"]:
        return record["violation"]
    if outcome == "hangs":
        return "the stream hangs"
    if not record.get("counts_add_up", True):
        return "the counts of the operations do not add up to the stream's"
    if not case.is_decidable:
        return ""
    faults = {(fault.code, fault.index) for fault in possible_faults(case, stream)}
    found = (record.get("code"), record.get("index"))
    if outcome == "end" and faults:
        return f"it ended, but the model finds {faults}"
    if outcome == "error" and found[0] != ErrorCode.WATCHDOG and found not in faults:
        return f"it was stopped by {found}, but the model finds {faults}"
    return ""


def run_cases(folder: Path, streams: list[RandomStream], cases: list[Case], stalls: dict) -> list[dict]:
    """Runs the cases in one simulation."""
    images = []
    for index, stream in enumerate(streams):
        (folder / f"image_{index}.bin").write_bytes(stream.dram)
        windows = good_windows(stream).as_dict()
        images.append({"file": f"image_{index}.bin", "code_address": stream.code_address, "windows": windows})
    described = []
    for index, case in enumerate(cases):
        (folder / f"code_{index}.bin").write_bytes(case.code)
        description = {"base": case.base, "windows": case.windows.as_dict(), "reset_after": case.reset_after}
        described.append({**description, "error_range": case.error_range})
    arguments = {"folder": str(folder), "images": images, "cases": described, "stalls": stalls}
    design = CosimDesign(verilog=[verilog.build(TINY)], axi_data_bits=TINY.axi_data_bits)
    job = "npu_fault_jobs:run_cases"
    return run_cosim(design, job, arguments=arguments, allow_axi_violations=True).value


def is_self_contained(stream: RandomStream) -> bool:
    """Whether no load may leave words in a bank as an earlier stream left them."""
    loads = [each for each in stream.instructions if isinstance(each, Load) and each.memory_format.is_float]
    return all(load.nan_policy is not NanPolicy.STOP_OPERATION for load in loads)


@pytest.mark.cosim
@pytest.mark.parametrize(
    ("first", "count", "stalls"),
    [pytest.param(0, 400, {}, id="no-stalls"), pytest.param(10_000, 200, STALLS, id="stalls")],
)
def test_broken_streams(first: int, count: int, stalls: dict, tmp_path: Path) -> None:
    """Hundreds of broken runs, each followed by a good one. A failure prints the seeds that repeat it."""
    streams = [stream for seed in GOOD_SEEDS if is_self_contained(stream := random_stream(TINY, seed))]
    cases = [random_case(TINY, streams, seed) for seed in range(first, first + count)]
    records = run_cases(tmp_path, streams, cases, stalls)
    expected = [expected_memory(stream) for stream in streams]
    wrong = []
    for index, (case, record) in enumerate(zip(cases, records, strict=True)):
        problem = check_outcome(case, streams[case.base], record)
        memory, determined = expected[record["follower"]]
        result = np.fromfile(tmp_path / f"result_{index}.bin", np.uint8)
        if record["after"]:
            problem += f"; the good stream after it: {record['after']}"
        elif np.any((result != memory) & determined):
            problem += "; the good stream after it gave wrong bytes"
        if problem:
            wrong.append(f"{case.name}: {problem} ({record})")
    assert not wrong, f"{len(wrong)} of {count} cases failed:\n" + "\n".join(wrong[:20])
    outcomes = {record["outcome"] for record in records}
    codes = {ErrorCode(record["code"]) for record in records if "code" in record}
    assert {"end", "error", "reset"} <= outcomes
    others = {ErrorCode.NONE, ErrorCode.NOT_A_NUMBER}  # test_npu_floats.py makes the latter
    assert codes >= set(ErrorCode) - others, "the cases do not reach every error"
