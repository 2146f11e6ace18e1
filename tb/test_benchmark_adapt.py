"""The benchmark's group ``adapt``: its page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

pytest.importorskip("matplotlib")

from benchmark.adapt.latency import DEPTHS, FRONT  # noqa: E402
from benchmark.adapt.pages import adapt_table, draw_adapt  # noqa: E402
from benchmark.adapt.runs import LOADS, POLICIES  # noqa: E402
from benchmark.rows import Row  # noqa: E402


def rows() -> list[Row]:
    """Made-up numbers of all rows that have tables of their own, and of one more."""
    found = [Row("adapt/unloaded_cycles", 100_000, "cycles", "lower")]
    for load in LOADS:
        for index, policy in enumerate(POLICIES):
            found.append(Row(f"adapt/latency_at_{load}/{policy}", load / 10 + index, "of unloaded", "lower"))
            found.append(Row(f"adapt/accuracy_drop_at_{load}/{policy}", index / 4, "points", "lower"))
    found += [Row(f"adapt/kilobytes_at_depth/{depth}", 64.0 * depth, "kB per inference", "lower") for depth in DEPTHS]
    for target in FRONT:
        found.append(Row(f"adapt/front_latency/{target}", target, "of unloaded", "lower"))
        found.append(Row(f"adapt/front_accuracy_drop/{target}", 2.2 - target, "points", "lower"))
    return found


def test_tables_and_arithmetic():
    """At 80 % 3.2 of 16 bytes are left, so 16 x 64 kB take 320,000 cycles, 3.2 times the latency without load."""
    lines = list(adapt_table(rows()))
    assert "| table | 5.00 | 7.50 | 10.00 | 11.20 |" in lines
    assert "| sensitivity | 0.75 | 0.75 | 0.75 | 0.75 |" in lines
    assert "| 16 | 1,024.0 | 3.20 |" in lines
    assert "| 1.45 | 1.45 | 0.75 |" in lines
    assert any(line.startswith("Arithmetic at 80 %: 3.2 of 16 bytes per cycle are left") for line in lines)
    assert sum("adapt/" in line for line in lines) == 1  # the rest has tables of its own


def test_a_group_that_was_not_measured_as_a_whole():
    some = rows()[:6]
    assert list(adapt_table(some))
    assert draw_adapt(some) is None
    without_front = [row for row in rows() if "front" not in row.name]
    assert list(adapt_table(without_front)) and draw_adapt(without_front) is not None
    assert draw_adapt(rows()) is not None
