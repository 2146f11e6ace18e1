"""The co-simulation toolchain: harness, memory model, bus, build cache and runner, with a copy engine as the NPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tessera.sim.cosim import CosimDesign, CosimError, Simulator, build_simulation, run_cosim
from tessera.sim.cosim.toolchain import find_toolchain

COPY_ENGINE = Path(__file__).parent / "verilog" / "copy_engine.v"
MEMORY_BYTES = 256 * 1024
BEAT = 16

SIMULATORS = list(Simulator)

pytestmark = pytest.mark.cosim


def design(simulator: Simulator, **options: Any) -> CosimDesign:
    return CosimDesign(
        verilog=[COPY_ENGINE], axi_data_bits=8 * BEAT, memory_bytes=MEMORY_BYTES, simulator=simulator, **options
    )


_observed: dict[Simulator, Any] = {}


@pytest.fixture(params=SIMULATORS, ids=lambda simulator: simulator.value)
def observed(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the job ``measure`` saw, once per simulator; JSON makes all keys text."""
    if request.param not in _observed:
        _observed[request.param] = run_cosim(design(request.param), "cosim_jobs:measure", timeout_seconds=300)
    return _observed[request.param].value


def test_memory_round_trip(observed: dict[str, Any]) -> None:
    assert observed["memory"]
    assert observed["peek"] == bytes(range(0x0D, 0x13)).hex()


def test_copy(observed: dict[str, Any]) -> None:
    copy = observed["copy"]
    assert copy["equal"]
    assert copy["checksum"] == copy["expected_checksum"]
    assert copy["read_bytes"] == copy["write_bytes"] == 0x1000
    assert copy["read_response"] == copy["write_response"] == 0


def test_byte_enables(observed: dict[str, Any]) -> None:
    assert observed["strobes"]


@pytest.mark.parametrize("width", [64, 256])
def test_other_bus_widths(width: int, tmp_path: Path) -> None:
    engine = tmp_path / "engine.v"
    engine.write_text(COPY_ENGINE.read_text().replace("parameter W = 128", f"parameter W = {width}"))
    wide = CosimDesign(verilog=[engine], axi_data_bits=width, memory_bytes=MEMORY_BYTES, simulator=Simulator.ICARUS)
    copy = run_cosim(wide, "cosim_jobs:copy").value
    assert copy["equal"]
    assert copy["checksum"] == copy["expected_checksum"]
    assert copy["read_bytes"] == copy["write_bytes"] == 0x1000


def test_read_latency_is_exact(observed: dict[str, Any]) -> None:
    # The engine counts from its start: two cycles until AR, `latency`, three more beats, one to see the last.
    assert observed["latency"] == {str(latency): latency + 6 for latency in (2, 40, 150)}


def test_write_latency_is_exact(observed: dict[str, Any]) -> None:
    cycles = observed["write_latency"]
    assert cycles["150"] - cycles["40"] == 110
    assert cycles["40"] - cycles["2"] == 38


@pytest.mark.parametrize("bandwidth", [16, 8, 2.5])
def test_bandwidth(observed: dict[str, Any], bandwidth: float) -> None:
    transfer = 24 * 256 / bandwidth
    cycles = observed["bandwidth"][str(bandwidth)]
    if bandwidth == BEAT:  # at full speed there is no gap, whatever the latency
        assert cycles == transfer + 200 + 2
    assert abs(cycles - 200 - transfer) <= 2 + BEAT / bandwidth  # the first beat of the bandwidth comes at any time


@pytest.mark.parametrize("kind", ["even", "random"])
def test_second_master_takes_its_share(observed: dict[str, Any], kind: str) -> None:
    traffic = observed["traffic"][kind]
    tolerance = 0.01 if kind == "even" else 0.15
    assert traffic["bytes"] == pytest.approx(0.25 * BEAT * traffic["cycles"], rel=tolerance)
    assert traffic["engine"] - 42 == pytest.approx(32 * 16 / 0.75, rel=tolerance)


def test_stalls_repeat_with_their_seed(observed: dict[str, Any]) -> None:
    runs = observed["stalls"]
    assert all(equal for seed in runs for _, equal in runs[seed])
    for seed in runs:
        assert runs[seed][0] == runs[seed][1]
        assert runs[seed][0][0] > 3 * 8 * 16  # a beat can be read in every fourth cycle
    assert runs["7"] != runs["8"]


def test_error_responses(observed: dict[str, Any]) -> None:
    assert observed["errors"] == {"read": 2, "write": 2, "stored": True, "behind": 3}


def test_refusals_are_sentences(observed: dict[str, Any]) -> None:
    assert observed["refusals"] == [
        "the write to register 0x700 was answered with SLVERR.",
        "the read from register 0x704 was answered with SLVERR.",
        "the interrupt did not rise within 20 cycles.",
        f"3 bytes at address 0x3fffe are not within the simulated memory of {MEMORY_BYTES} bytes; "
        "set CosimDesign.memory_bytes higher.",
    ]


def test_simulators_agree_to_the_cycle() -> None:
    if len(_observed) < len(SIMULATORS):
        pytest.skip("the tests of both simulators did not run in this process")
    verilator, icarus = (_observed[simulator] for simulator in SIMULATORS)
    assert verilator.value == icarus.value
    assert verilator.cycles == icarus.cycles
    assert verilator.counters == icarus.counters


@pytest.mark.parametrize(
    "fault, sentence",
    [
        (1, "AR: valid fell before ready"),
        (2, "AR: payload changed before ready"),
        (3, "W: last does not match the burst's length"),
        (4, "AR: burst crosses a 4 KiB boundary"),
    ],
)
def test_axi_violations_are_found(fault: int, sentence: str) -> None:
    with pytest.raises(CosimError, match=f"broke the rules of AXI in .* cycles, first: {sentence}"):
        run_cosim(design(Simulator.ICARUS), "cosim_jobs:break_rule", arguments={"fault": fault})


def test_axi_violations_can_be_allowed() -> None:
    result = run_cosim(
        design(Simulator.ICARUS), "cosim_jobs:break_rule", arguments={"fault": 3}, allow_axi_violations=True
    )
    assert result.axi_violations > 0
    assert result.axi_first_violation == "W: last does not match the burst's length"


def test_progress_and_failure_reach_the_caller() -> None:
    reports: list[dict[str, Any]] = []
    with pytest.raises(CosimError, match="the job cosim_jobs:report failed: ValueError: no more steps") as caught:
        run_cosim(design(Simulator.ICARUS), "cosim_jobs:report", arguments={"steps": 3}, on_progress=reports.append)
    assert reports == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert 'raise ValueError("no more steps")' in caught.value.details


def test_a_job_that_does_not_end_is_stopped() -> None:
    with pytest.raises(CosimError, match=r"the job cosim_jobs:never_end did not end within 3 s"):
        run_cosim(design(Simulator.ICARUS), "cosim_jobs:never_end", timeout_seconds=3)


def test_nothing_is_built_twice(tmp_path: Path) -> None:
    engine = tmp_path / "engine.v"
    shutil.copy(COPY_ENGINE, engine)
    small = CosimDesign(verilog=[engine], axi_data_bits=64, memory_bytes=4096, simulator=Simulator.ICARUS)
    first = build_simulation(small, tmp_path / "build")
    assert not first.reused
    second = build_simulation(small, tmp_path / "build")
    assert second.reused and second.folder == first.folder

    (first.folder / "complete.json").unlink()  # as if it had been interrupted
    assert not build_simulation(small, tmp_path / "build").reused

    engine.write_text(engine.read_text() + "// changed\n")
    changed = build_simulation(small, tmp_path / "build")
    assert not changed.reused and changed.folder != first.folder


def test_a_killed_build_does_not_disturb_the_next(tmp_path: Path) -> None:
    """A process is killed in the middle of its build; its compiler goes on, and the next build begins."""
    program = tmp_path / "build_once.py"
    program.write_text(
        "import sys, pathlib\n"
        "from tessera.sim.cosim import CosimDesign, Simulator, build_simulation\n"
        "verilog = [pathlib.Path(sys.argv[1])]\n"
        "design = CosimDesign(verilog=verilog, axi_data_bits=64, memory_bytes=4096, simulator=Simulator.ICARUS)\n"
        "build_simulation(design, pathlib.Path(sys.argv[2]))\n"
    )
    tools, folder = tmp_path / "tools", tmp_path / "build"
    tools.mkdir()
    # A compiler that says that it has begun, and writes its result when it is told to, wherever it was started.
    compiler = tools / "iverilog"
    begun, go_on, ended = (tmp_path / name for name in ("begun", "go_on", "ended"))
    for pipe in (begun, go_on, ended):
        os.mkfifo(pipe)
    compiler.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-V*|"") exec "$REAL" "$@";; esac\n'
        f'[ -n "$SLOW" ] && {{ echo > {begun}; cat {go_on} > /dev/null; }}\n'
        '"$REAL" "$@"; code=$?\n'
        f'[ -n "$SLOW" ] && echo > {ended}\n'
        "exit $code\n"
    )
    compiler.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "REAL": str(shutil.which("iverilog")),
    }
    command = [sys.executable, str(program), str(COPY_ENGINE), str(folder)]
    killed = subprocess.Popen(command, env={**environment, "SLOW": "1"})
    begun.read_text()
    killed.kill()
    killed.wait()
    subprocess.run(command, env=environment, check=True)
    built = [path for path in folder.iterdir() if (path / "complete.json").is_file()]
    before = {path: path.stat().st_mtime_ns for path in built[0].rglob("*")}
    go_on.write_text("\n")
    ended.read_text()
    assert len(built) == 1
    assert {path: path.stat().st_mtime_ns for path in built[0].rglob("*")} == before, "the killed build wrote into it"


def test_a_build_that_fails_shows_the_log(tmp_path: Path) -> None:
    broken = tmp_path / "broken.v"
    broken.write_text("module tessera(input clk);\n  this is not Verilog\nendmodule\n")
    small = CosimDesign(verilog=[broken], axi_data_bits=64, memory_bytes=4096, simulator=Simulator.ICARUS)
    with pytest.raises(CosimError, match="icarus could not build the simulation") as caught:
        build_simulation(small, tmp_path / "build")
    assert "broken.v" in caught.value.details


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CosimError, match="iverilog was not found.*type `sudo apt-get install iverilog`"):
        find_toolchain(Simulator.ICARUS, tools_folder=tmp_path)
    with pytest.raises(CosimError, match=r"g\+\+ was not found.*type `sudo apt-get install g\+\+`"):
        find_toolchain(Simulator.VERILATOR, tools_folder=tmp_path)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"axi_data_bits": 100}, "axi_data_bits must be 32, 64, 128, 256 or 512, not 100"),
        ({"memory_bytes": 5000}, "memory_bytes must be a power of two from 4096 on, not 5000"),
    ],
)
def test_wrong_designs_are_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CosimDesign(**{"verilog": [COPY_ENGINE], "axi_data_bits": 64, **options})


def test_missing_verilog_is_named(tmp_path: Path) -> None:
    with pytest.raises(CosimError, match=r"nothing\.v does not exist; `make verilog` writes the NPU's"):
        CosimDesign(verilog=[tmp_path / "nothing.v"], axi_data_bits=64)


def test_waveform(tmp_path: Path) -> None:
    traced = design(Simulator.ICARUS, waves=True)
    run_cosim(traced, "cosim_jobs:idle", arguments={"cycles": 10}, waveform=tmp_path / "wave.fst")
    assert (tmp_path / "wave.fst").stat().st_size > 0
    with pytest.raises(CosimError, match=r"icarus writes \.fst files; .*wave\.vcd must end in \.fst"):
        run_cosim(traced, "cosim_jobs:idle", arguments={"cycles": 10}, waveform=tmp_path / "wave.vcd")
    with pytest.raises(CosimError, match="the simulation was not built for waveforms"):
        run_cosim(design(Simulator.ICARUS), "cosim_jobs:idle", waveform=tmp_path / "wave.fst")


@pytest.mark.slow
def test_verilator_variants(tmp_path: Path) -> None:
    """cocotb's stock options and waveforms change the speed and nothing else."""
    fast = run_cosim(design(Simulator.VERILATOR), "cosim_jobs:idle", arguments={"cycles": 100_000})
    stock = run_cosim(design(Simulator.VERILATOR, stock_options=True), "cosim_jobs:idle", arguments={"cycles": 100_000})
    assert stock.cycles == fast.cycles
    wave = tmp_path / "wave.vcd"
    run_cosim(design(Simulator.VERILATOR, waves=True), "cosim_jobs:idle", arguments={"cycles": 10}, waveform=wave)
    assert "m_axi_araddr" in wave.read_text()
