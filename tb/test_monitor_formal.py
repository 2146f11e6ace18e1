"""Proofs of bandwidth monitor and regulator: no byte is lost or counted twice, limits hold, nobody waits for ever.

For every state that fulfils an invariant, which holds after reset and in the cycle after any in which it holds. Sums
over time are ghosts: numbers beside the hardware, of which only the changes are known.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.hdl import Module, Mux, Signal, Value
from rtl_solver import Rtl, integer, prove, total, z3

from tessera.rtl.axi import address_layout
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.monitor.counters import ByteCounters, UsedBytes, WindowTimer, traffic_layout
from tessera.rtl.monitor.regulator import BurstRegulator
from tessera.rtl.monitor.section import HIGHEST_SECTION, SectionRule
from tessera.rtl.monitor.settings import MonitorSettings, settings_layout
from tessera.rtl.traffic import (
    LEAST_SECTIONS,
    LEAST_WINDOW,
    MOST_SECTIONS,
    MOST_WINDOW,
    OTHER_BYTES_BITS,
    OTHER_ID_BITS,
    OWN_IDS,
    THRESHOLDS,
    WINDOW_BYTES_BITS,
    TrafficSource,
)

pytestmark = pytest.mark.formal

CONFIG = NpuConfig.preset("tiny")
BITS = 40
"""Holds every sum here without wrapping, but for ghosts, which may wrap: they are compared for equality only."""

Values = dict


def field(vector: object, layout: object, name: str, index: int | None = None) -> object:
    """A field of a structure, or an element of one that is an array, as a wide number."""
    low, shape = layout[name].offset, layout[name].shape
    width = layout[name].width
    if index is not None:
        width //= shape.length
        low += index * width
    return integer(z3.Extract(low + width - 1, low, vector), BITS, signed=False)


def traffic(values: Values, name: str) -> object:
    return field(values["traffic"], traffic_layout(), name)


def element(vector: object, index: int) -> object:
    """A count among those of all sources."""
    low = index * WINDOW_BYTES_BITS
    return integer(z3.Extract(low + WINDOW_BYTES_BITS - 1, low, vector), BITS, signed=False)


def moved(values: Values, source: TrafficSource) -> object:
    """Bytes of a source in a cycle, as the ports describe them."""
    if not source.is_own:
        mine = z3.And(traffic(values, "other") == 1, traffic(values, "other_id") == int(source))
        return z3.If(mine, traffic(values, "other_bytes"), 0)
    if source is TrafficSource.STORE:
        mine = traffic(values, "write") == 1
    else:
        axi_id = source - (1 << OTHER_ID_BITS)
        mine = z3.And(traffic(values, "read") == 1, traffic(values, "read_id") == axi_id)
    return z3.If(mine, z3.BitVecVal(CONFIG.beat_bytes, BITS), 0)


def number(values: Values, name: str) -> object:
    return integer(values[name], BITS, signed=False)


def ghosts(*names: str) -> list:
    return [z3.BitVec(name, BITS) for name in names]


MOST_PER_CYCLE = (1 << OTHER_BYTES_BITS) - 1


def test_windows_have_their_length(tmp_path: Path) -> None:
    """After a window's last cycle, or a restart, the next last cycle comes 2**window cycles later."""
    rtl = Rtl(WindowTimer(), tmp_path)
    now, then, hardware = rtl.cycle()
    left, length = (integer(now[name], BITS, signed=False) for name in ("left", "window"))
    given = [*hardware, now["rst"] == 0, z3.ULE(length, MOST_WINDOW), z3.UGE(length, LEAST_WINDOW)]
    prove((now["last"] == 1) == (left == 0), given)
    begins = z3.Or(now["last"] == 1, now["restart"] == 1)
    cycles = z3.BitVecVal(1, BITS) << length
    prove(integer(then["left"], BITS, signed=False) == z3.If(begins, cycles - 1, left - 1), given)


def prove_bytes(component: Callable[[NpuConfig], ByteCounters], folder: Path) -> None:
    """What has moved since a restart is what the complete windows and the present one have counted, for each source."""
    rtl = Rtl(component(CONFIG), folder)
    values, hardware = rtl.reset()
    for source in TrafficSource:
        prove(values[f"{source.name.lower()}_count"] == 0, hardware)
    now, then, hardware = rtl.cycle()
    everything, complete, limit = ghosts("everything", "complete", "limit")
    for source in TrafficSource:
        unit, most = (CONFIG.beat_bytes, CONFIG.beat_bytes) if source.is_own else (1, MOST_PER_CYCLE)
        count, after = (number(values, f"{source.name.lower()}_count") * unit for values in (now, then))
        shown, shown_after = (element(values["counts"], source) for values in (now, then))
        # Before its last cycle the longest window has not counted more than the most per cycle: the limit, which rises
        # by that in each cycle.
        in_time = [z3.ULE(limit, most * ((1 << MOST_WINDOW) - 1)), z3.ULE(count, limit)]
        given = [*hardware, now["rst"] == 0, everything == complete + count, *in_time]
        ends, goes_on = z3.And(now["last"] == 1, now["restart"] == 0), z3.And(now["last"] == 0, now["restart"] == 0)
        total_after = everything + moved(now, source)
        complete_after = z3.If(ends, complete + shown_after, complete)
        prove(z3.Implies(now["restart"] == 0, total_after == complete_after + after), given)
        prove(z3.Implies(z3.Not(ends), shown_after == shown), given)
        prove(z3.Implies(z3.Not(goes_on), after == 0), given)
        prove(z3.ULE(after, limit + most), given)


def test_no_byte_is_lost_or_counted_twice(tmp_path: Path) -> None:
    prove_bytes(ByteCounters, tmp_path)


def test_peaks(tmp_path: Path) -> None:
    """A peak is never below the newest count, and what it was before only a clear takes away."""
    rtl = Rtl(ByteCounters(CONFIG), tmp_path)
    now, then, hardware = rtl.cycle()
    given = [*hardware, now["rst"] == 0, now["clear_peaks"] == 0]
    for source in TrafficSource:
        peak, after = (element(values["peaks"], source) for values in (now, then))
        newest = element(then["counts"], source)
        ends = z3.And(now["last"] == 1, now["restart"] == 0)
        prove(after == z3.If(z3.And(ends, z3.UGT(newest, peak)), newest, peak), given)


def test_used_bytes(tmp_path: Path) -> None:
    """What has moved of the sources that count, across the ends of windows."""
    rtl = Rtl(UsedBytes(CONFIG), tmp_path)
    values, hardware = rtl.reset()
    prove(values["count"] == 0, hardware)
    now, then, hardware = rtl.cycle()
    everything, complete, limit = ghosts("everything", "complete", "limit")
    count, after = (integer(values["count"], BITS, signed=False) for values in (now, then))
    most = MOST_PER_CYCLE + 2 * CONFIG.beat_bytes
    in_time = [z3.ULE(limit, most * ((1 << MOST_WINDOW) - 1)), z3.ULE(count, limit)]
    own = z3.ULT(traffic(now, "read_id"), OWN_IDS - 1)  # nobody but fetch and loads reads
    given = [*hardware, now["rst"] == 0, everything == complete + count, *in_time, own]
    counts = [z3.Extract(source, source, now["counted"]) == 1 for source in TrafficSource]
    used = total([z3.If(counts[source], moved(now, source), 0) for source in TrafficSource])
    ends = z3.And(now["last"] == 1, now["restart"] == 0)
    shown = integer(then["used"], BITS, signed=False)
    prove(z3.Implies(now["restart"] == 0, everything + used == z3.If(ends, complete + shown, complete) + after), given)
    prove(z3.Implies(z3.Not(ends), then["used"] == now["used"]), given)
    prove(z3.ULE(after, limit + most), given)


class LosesTheLast(ByteCounters):
    """Counters that forget what moves in a window's last cycle."""

    def _count(self, m: Module, source: TrafficSource, moves: Value, size: Value, *, bits: int) -> Signal:
        return super()._count(m, source, moves & ~self.last, size, bits=bits)


def test_a_lost_beat_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_bytes(LosesTheLast, tmp_path)


# ------------------------------------------------------------------------------------------------------------ settings


def make_sense(settings: object) -> object:
    """The conditions that `MonitorSettings` describes."""
    layout = settings_layout()
    window, sections, peak, hysteresis = (
        field(settings, layout, name) for name in ("window", "sections", "peak", "hysteresis")
    )
    thresholds = [field(settings, layout, "thresholds", index) for index in range(THRESHOLDS)]
    in_order = [
        z3.Implies(z3.UGE(sections, MOST_SECTIONS - index), z3.ULE(thresholds[index], thresholds[index + 1]))
        for index in range(THRESHOLDS - 1)
    ]
    return z3.And(
        z3.UGE(window, LEAST_WINDOW),
        z3.ULE(window, MOST_WINDOW),
        z3.UGE(sections, LEAST_SECTIONS),
        z3.ULE(sections, MOST_SECTIONS),
        *in_order,
        z3.ULT(thresholds[-1] + hysteresis, peak),
    )


def test_settings_in_force_make_sense(tmp_path: Path) -> None:
    """Always, whatever is written; they change only when something is applied, and what is refused changes nothing."""
    rtl = Rtl(MonitorSettings(CONFIG), tmp_path)
    values, hardware = rtl.reset()
    prove(make_sense(values["settings"]), hardware)
    now, then, hardware = rtl.cycle()
    given = [*hardware, now["rst"] == 0, make_sense(now["settings"])]
    prove(make_sense(then["settings"]), given)
    prove(z3.Implies(now["applied"] == 0, then["settings"] == now["settings"]), given)
    prove((now["applied"] == 1) == z3.And(now["checked"] == 1, now["refused"] == 0), given)
    prove(z3.Implies(now["refused"] == 1, now["checked"] == 1), given)
    prove(then["checked"] == now["apply"], given)


def test_sections(tmp_path: Path) -> None:
    """A free bus leads to the highest section from any; sections that are left out are never reached; and a section
    rises only above the threshold and the hysteresis, and falls only below the threshold."""
    rtl = Rtl(SectionRule(), tmp_path)
    now, then, hardware = rtl.cycle()
    layout, left = settings_layout(), integer(now["left"], BITS, signed=False)
    given = [*hardware, now["rst"] == 0, now["clear"] == 0, now["cancel"] == 0, make_sense(now["settings"])]
    compares = [*given, now["compare"] == 1]
    section, after = (integer(values["section"], BITS, signed=False) for values in (now, then))
    peak, hysteresis = (field(now["settings"], layout, name) for name in ("peak", "hysteresis"))
    lowest = MOST_SECTIONS - field(now["settings"], layout, "sections")
    prove(z3.Implies(left == peak, after == HIGHEST_SECTION), compares)
    prove(z3.And(z3.UGE(after, lowest), z3.ULE(after, HIGHEST_SECTION)), compares)
    prove(z3.Implies(now["compare"] == 0, after == section), given)
    for index in range(THRESHOLDS):
        threshold = field(now["settings"], layout, "thresholds", index)
        rises = z3.And(z3.ULE(section, index), z3.UGT(after, index), z3.ULE(lowest, index))
        falls = z3.And(z3.UGT(section, index), z3.ULE(after, index))
        prove(z3.Implies(rises, z3.UGT(left, threshold + hysteresis)), compares)
        reached = [field(now["settings"], layout, "thresholds", lower) for lower in range(index + 1)]
        below = z3.Or([z3.And(z3.UGE(z3.BitVecVal(i, BITS), lowest), z3.ULE(left, t)) for i, t in enumerate(reached)])
        prove(z3.Implies(falls, below), compares)


# ----------------------------------------------------------------------------------------------------------- regulator


def burst_bytes(values: Values) -> object:
    return (field(values["bursts__payload"], address_layout(), "len") + 1) * CONFIG.beat_bytes


def prove_regulator(component: Callable[[NpuConfig], BurstRegulator], folder: Path) -> None:
    """With a limit that stays: its bound, the end of every wait, and that bursts pass once, as AXI has it."""
    rtl = Rtl(component(CONFIG), folder)

    def is_sound(values: Values) -> object:
        """The charge is at most a longest burst above a limit that was not reached; an offer is below the limit."""
        charge, limit = number(values, "charge"), number(values, "limit")
        below = z3.ULT(charge, limit + AXI_BURST_BYTES)
        return z3.And(below, z3.Implies(values["offered"] == 1, z3.Or(limit == 0, z3.ULT(charge, limit))))

    values, hardware = rtl.reset()
    prove(is_sound(values), hardware)
    now, then, hardware = rtl.cycle()
    charge, after, limit = number(now, "charge"), number(then, "charge"), number(now, "limit")
    legal = [z3.ULE(burst_bytes(now), AXI_BURST_BYTES), now["release"] == 0, now["limit"] == then["limit"]]
    given = [*hardware, now["rst"] == 0, *legal, is_sound(now)]
    accepted = z3.And(now["passed__valid"] == 1, now["passed__ready"] == 1)
    prove(accepted == z3.And(now["bursts__valid"] == 1, now["bursts__ready"] == 1), given)
    prove(z3.Implies(now["passed__valid"] == 1, now["passed__payload"] == now["bursts__payload"]), given)
    prove(is_sound(then), given)
    # What is asked for raises the charge, which nothing but the limit at the end of a window lowers. Summed up over n
    # windows, with n - 1 ends between them: asked <= (n - 1) * limit + charge < n * limit + a longest burst.
    asked = z3.If(accepted, burst_bytes(now), 0)
    covered = z3.If(now["window_ends"] == 1, limit, 0)
    prove(z3.ULE(charge + asked, after + covered), [*given, limit != 0])
    held = now["held"] == 1
    prove(held == z3.And(now["bursts__valid"] == 1, now["passed__valid"] == 0), given)
    prove(z3.Implies(held, z3.And(limit != 0, z3.UGE(charge, limit))), given)
    prove(z3.Implies(held, after == z3.If(now["window_ends"] == 1, charge - limit, charge)), given)
    stays = z3.And(then["bursts__valid"] == 1, then["bursts__payload"] == now["bursts__payload"])
    waits = z3.And(now["passed__valid"] == 1, now["passed__ready"] == 0, stays)
    kept = z3.And(then["passed__valid"] == 1, then["passed__payload"] == now["passed__payload"])
    prove(z3.Implies(waits, kept), given)
    prove(z3.Implies(z3.And(then["release"] == 1, then["bursts__valid"] == 1), then["passed__valid"] == 1), given)


def test_regulator(tmp_path: Path) -> None:
    prove_regulator(BurstRegulator, tmp_path)


def test_offers_stay_even_if_the_limit_changes(tmp_path: Path) -> None:
    rtl = Rtl(BurstRegulator(CONFIG), tmp_path)
    now, then, hardware = rtl.cycle()
    waits = z3.And(now["passed__valid"] == 1, now["passed__ready"] == 0, then["bursts__valid"] == 1)
    prove(z3.Implies(waits, then["passed__valid"] == 1), [*hardware, now["rst"] == 0])


class Forgetful(BurstRegulator):
    """A regulator whose charge begins at 0 in each window."""

    def _rest(self, charge: Value, below: Value) -> Value:
        return Mux(self.window_ends, 0, charge)


def test_a_forgetful_regulator_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_regulator(Forgetful, tmp_path)
