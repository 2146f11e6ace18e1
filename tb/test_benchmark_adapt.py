"""The benchmark's group ``adapt``: what counts as a reaction and as a wrong window, and its page."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

pytest.importorskip("matplotlib")

from benchmark.adapt import reaction, runs  # noqa: E402
from benchmark.adapt.latency import DEPTHS, FRONT  # noqa: E402
from benchmark.adapt.pages import adapt_table, draw_adapt  # noqa: E402
from benchmark.adapt.runs import LOADS, POLICIES  # noqa: E402
from benchmark.rows import Row  # noqa: E402

from tessera.firmware.adaptation.scenario import SelectEvent  # noqa: E402
from tessera.rtl.traffic import TrafficSource  # noqa: E402
from tessera.sim.cosim.traffic import TrafficWindow  # noqa: E402

WINDOW, BEAT_BYTES = 100, 16
LAYERS = ("first", "pinned", "third", "fourth")
ENDS = dict(zip(LAYERS, (300, 450, 600, 800), strict=True))


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


def window(cycle: int, section: int = 3, *, others: int = 0, **changes: object) -> TrafficWindow:
    """A window in which others have moved so many bytes, and the NPU some."""
    moved = tuple(others if source is TrafficSource.OTHER1 else 48 * source.is_own for source in TrafficSource)
    values = {"available": max(0, WINDOW * BEAT_BYTES - others), "monitored": moved} | changes
    return TrafficWindow(cycle, section, moved=moved, **values)


def reactions(
    monkeypatch: pytest.MonkeyPatch, *depths: int, sections: tuple[int, ...] = (3, 0)
) -> list[tuple[int, int]]:
    """Layers that choose at 50, 250, 400 and 550, where the section changes at 200; the second has 8 bits only."""

    def nearest(layer: str, depth: int) -> int:
        return 8 if layer == "pinned" else depth

    network = SimpleNamespace(program=SimpleNamespace(network=SimpleNamespace(layers=LAYERS, nearest=nearest)))
    events = zip((50, 250, 400, 550), LAYERS, depths, strict=True)
    run = SimpleNamespace(
        inferences=(SimpleNamespace(begin=0, end=1000),),
        selects=tuple(SelectEvent(cycle, layer, depth, 0) for cycle, layer, depth in events),
        windows=tuple(window(100 * (index + 1), section) for index, section in enumerate(sections)),
    )
    work = {name: SimpleNamespace(end=end) for name, end in ENDS.items()}
    monkeypatch.setattr(reaction, "_work", lambda *_: work)
    return list(reaction._reactions(network, run))


def test_the_first_choice_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer with one depth says nothing; the first and the second still work when the section changes."""
    assert reactions(monkeypatch, 16, 8, 4, 4) == [(1, 3)]


def test_late_choices_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reactions(monkeypatch, 16, 8, 16, 4) == [(2, 4)]
    assert reactions(monkeypatch, 16, 8, 16, 16) == [(3, 4)]


def test_changes_that_nobody_can_follow_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one ends before a layer chooses to which it makes a difference."""
    assert reactions(monkeypatch, 16, 8, 16, 16, sections=(3, 0, 3)) == [(1, 2)]


def test_wrong_windows() -> None:
    """Another count, other bytes that are left, and a window that is not there count once each."""
    right = [window(100), window(200, others=320), window(300, others=5000)]
    assert runs.wrong_windows(right, WINDOW, BEAT_BYTES) == 0
    assert runs.wrong_windows([right[0], right[2]], WINDOW, BEAT_BYTES) == 1
    assert runs.wrong_windows([right[0], window(200, others=320, available=1600)], WINDOW, BEAT_BYTES) == 1
    assert runs.wrong_windows([window(100, monitored=(0,) * len(TrafficSource))], WINDOW, BEAT_BYTES) == 1
