"""The benchmark's page: its record, tables and pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytest.importorskip("matplotlib", reason="the benchmark's pictures need matplotlib")
sys.path.insert(0, str(ROOT / "scripts"))

from benchmark.page import write_page  # noqa: E402
from benchmark.refinements import DEPTHS, NETWORKS, VARIANTS  # noqa: E402
from benchmark.rows import Row  # noqa: E402

DESCRIPTIONS = {"sim_speed": "Speed.", "cycles": "Cycles.", "area": "Area."}

CYCLES = [
    Row("cycles/net/w8a8", 900, "cycles", "lower", floor=1000, aim=950),
    Row("cycles/net/w4a4", 500, "cycles", "lower", floor=1000, aim=400),
    Row("utilization/net/w8a8", 0.9, "ratio", "higher"),
    Row("utilization/net/w4a4", 0.5, "ratio", "higher"),
    Row("cycles/other/w8a8", 7, "cycles", "lower"),
]
AREA = [Row("area/lanes/luts", 12345, "cells", "lower"), Row("area/ratio", 1.2, "ratio", "lower", source="of two runs")]


def test_tables_and_pictures(tmp_path: Path) -> None:
    """Every row is in a table with its verdict, and every picture that is named exists."""
    page = write_page(tmp_path, {"cycles": CYCLES, "area": AREA}, DESCRIPTIONS).read_text(encoding="utf-8")
    assert "| `cycles/net/w8a8` | 900 | cycles | 1,000 | 950 | reached |" in page
    assert "| `cycles/net/w4a4` | 500 | cycles | 1,000 | 400 | missed |" in page
    assert "| `cycles/other/w8a8` | 7 | cycles |  |  |  |" in page
    assert "`area/ratio`: of two runs" in page
    pictures = {path.name for path in tmp_path.glob("*.svg")}
    assert pictures == {"benchmark-cycles.svg", "benchmark-utilization.svg", "benchmark-area.svg"}
    assert all(f"]({name})" in page for name in pictures)


def test_a_group_is_renewed_alone(tmp_path: Path) -> None:
    """The rows of other groups stay; the page is the same whatever was measured first."""
    write_page(tmp_path, {"area": AREA}, DESCRIPTIONS)
    both = write_page(tmp_path, {"cycles": CYCLES}, DESCRIPTIONS).read_text(encoding="utf-8")
    assert both.index("## cycles") < both.index("## area")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_page(tmp_path, {"cycles": CYCLES}, DESCRIPTIONS)
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    renewed = write_page(tmp_path, {"area": AREA[:1]}, DESCRIPTIONS).read_text(encoding="utf-8")
    assert "area/ratio" not in renewed and "cycles/net/w4a4" in renewed


def test_missing_rows_leave_out_their_picture(tmp_path: Path) -> None:
    """A group without the rows of a picture has a page without it."""
    page = write_page(tmp_path, {"cycles": CYCLES[-1:], "sim_speed": []}, DESCRIPTIONS).read_text(encoding="utf-8")
    assert "svg" not in page and not list(tmp_path.glob("*.svg"))


def test_floors_and_aims() -> None:
    """A floor and an aim are met by equality, in the direction that is better."""
    assert Row("a", 10, "x", "lower", floor=10, aim=10).reached
    assert not Row("a", 11, "x", "lower", floor=10).holds
    assert Row("a", 11, "x", "higher", floor=10).holds
    assert not Row("a", 9, "x", "higher", aim=10).reached
    assert Row("a", 9, "x", "higher").reached


def test_refinements_are_a_table_per_network(tmp_path: Path) -> None:
    """A line for each variant, with what was measured at each depth."""
    rows = [
        Row(f"refinements/{network}/w{weights}a{activations}/{variant}/{quality}", value, unit, "higher")
        for network in NETWORKS
        for weights, activations in DEPTHS
        for variant in VARIANTS
        for quality, value, unit in (("accuracy", weights, "%"), ("agreement", activations, "%"), ("noise", 9.5, "dB"))
    ]
    page = write_page(tmp_path, {"refinements": rows}, {"refinements": "Refinements."}).read_text(encoding="utf-8")
    assert page.count("| all | 4.00 %, 4.00 %, 9.5 dB | 4.00 %, 8.00 %, 9.5 dB | 8.00 %, 8.00 %, 9.5 dB |") == len(
        NETWORKS
    )
    assert page.count("| without rounding |") == page.count("| only scale search |") == len(NETWORKS)
