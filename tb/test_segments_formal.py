"""Proofs about streams of segments: an ``Advance`` counts once and never early; no segment is read past its length.

Each claim holds in every state that fulfils an invariant, which holds after reset and in the cycle after any in which
it holds.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import data
from amaranth.utils import exact_log2
from rtl_solver import Rtl, integer, prove, z3

from tessera.rtl.axi import address_layout
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.control import fetch
from tessera.rtl.control.fetch import BurstRequests
from tessera.rtl.control.queue import PendingAdvance
from tessera.rtl.isa import INSTRUCTION_BYTES
from tessera.rtl.window import window_layout

pytestmark = pytest.mark.formal

TINY = NpuConfig.preset("tiny")

BITS = 8
"""Holds numbers of instructions and bursts, and their sums."""

IN_FLIGHT = 8

BURSTS = 3

Values = dict


def number(values: Values, name: str) -> object:
    return integer(values[name], BITS, signed=False)


def one_if(condition: object) -> object:
    return z3.If(condition, z3.BitVecVal(1, BITS), z3.BitVecVal(0, BITS))


def unit_goes_on(now: Values, then: Values) -> list:
    """The unit completes only what it has accepted, and accepts no more than it has room for."""
    accepted = z3.BitVec("accepted", 1) == 1
    done = now["done"] == 1
    under_way = number(now, "under_way")
    return [
        z3.ULE(under_way, IN_FLIGHT),
        z3.Implies(done, under_way != 0),
        z3.Implies(accepted, z3.And(z3.ULT(under_way, IN_FLIGHT), now["take"] == 0)),
        number(then, "under_way") == under_way + one_if(accepted) - one_if(done),
        z3.Implies(now["take"] == 1, now["free"] == 1),
        now["rst"] == 0,
    ]


def prove_advance(component: PendingAdvance, folder: Path) -> None:
    """An observer notes at ``take`` how many instructions are under way; from then on each completion is of one of
    them, as the unit completes in order, until none is left. The amount is counted then and only then."""
    rtl = Rtl(component, folder)
    values, hardware = rtl.reset()
    prove(z3.And(values["free"] == 1, values["raised"] == 0), hardware)
    now, then, hardware = rtl.cycle()
    observed, amount = z3.BitVec("observed", BITS), z3.BitVec("amount_taken", now["amount"].size())
    kept = now["free"] == 0

    def agrees(values: Values, observed: object, amount: object) -> object:
        """The component keeps what the observer has noted."""
        before = number(values, "before")
        same = z3.And(
            before == observed, z3.ULE(observed, number(values, "under_way")), values["kept_amount"] == amount
        )
        return z3.Implies(values["free"] == 0, same)

    given = [*hardware, *unit_goes_on(now, then), agrees(now, observed, amount)]
    over = z3.And(kept, observed == 0)
    done = one_if(now["done"] == 1)
    prove(now["raised"] == z3.If(over, amount, 0), given)  # once, and not before the last completion
    prove((then["free"] == 1) == z3.Or(over, z3.And(now["free"] == 1, now["take"] == 0)), given)
    noted = z3.If(now["take"] == 1, number(now, "under_way") - done, observed - done)
    amount = z3.If(now["take"] == 1, now["amount"], amount)
    prove(agrees(then, noted, amount), given)


def test_advance(tmp_path: Path) -> None:
    prove_advance(PendingAdvance(in_flight=IN_FLIGHT), tmp_path)


class EarlyAdvance(PendingAdvance):
    """Counts when it comes."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        with m.If(self.take):
            m.d.comb += self.raised.eq(self.amount)
        return m


def test_an_early_advance_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_advance(EarlyAdvance(in_flight=IN_FLIGHT), tmp_path)


def prove_bounds(component: BurstRequests, folder: Path) -> None:
    """No burst beyond the length or outside the window; what is not wanted is among the bursts under way, and all that
    is wanted is kept."""
    rtl = Rtl(component, folder)
    values, hardware = rtl.reset()
    prove(sound(values), hardware)
    now, then, hardware = rtl.cycle()
    landed = now["landed"] == 1
    given = [*hardware, sound(now), now["rst"] == 0, z3.Implies(landed, number(now, "in_flight") != 0)]
    given.append(z3.Implies(now["seek"] == 1, now["enable"] == 0))
    asked = number(then, "in_flight") - number(now, "in_flight") + one_if(landed)
    prove(z3.And(sound(then), z3.ULE(asked, 1)), given)
    issued = asked == 1
    length = now["left"].size()
    used = z3.If(issued, z3.ZeroExt(length - BITS, requested_by(then)), z3.BitVecVal(0, length))
    bounded = z3.And(now["limited"] == 1, now["seek"] == 0)
    # What is left of a segment falls by what is asked for, from its length on, and never below 0.
    prove(z3.Implies(bounded, z3.And(z3.UGE(now["left"], used), then["left"] == now["left"] - used)), given)
    prove(z3.Implies(bounded, then["limited"] == 1), given)
    sought = z3.And(then["left"] == now["length"], (then["limited"] == 1) == (now["length"] != 0), z3.Not(issued))
    prove(z3.Implies(now["seek"] == 1, sought), given)
    prove(z3.Implies(issued, z3.And(is_inside(now), now["enable"] == 1)), given)
    prove(z3.Implies(issued, address_of(then) == now["next_address"]), given)
    wanted = number(now, "in_flight") - number(now, "unwanted")
    lost = z3.And(landed, number(now, "unwanted") == 0)
    kept = z3.If(now["drop"] == 1, z3.BitVecVal(0, BITS), wanted + asked - one_if(lost))
    prove(number(then, "in_flight") - number(then, "unwanted") == kept, given)


def is_inside(values: Values) -> object:
    """The next burst lies in the window."""
    layout = window_layout()
    base, limit = (field(values["window"], layout, name) for name in ("base", "limit"))
    low = AXI_BURST_BYTES.bit_length() - 1
    block = z3.Extract(values["next_address"].size() - 1, low, values["next_address"])
    return z3.And(z3.UGE(block, base), z3.ULT(z3.ZeroExt(limit.size() - block.size(), block), limit))


def address_of(values: Values) -> object:
    """The address that is asked for."""
    return field(values["ar__payload"], address_layout(), "addr")


def requested_by(values: Values) -> object:
    """The instructions that the burst asks for."""
    beats = z3.ZeroExt(1, field(values["ar__payload"], address_layout(), "len")) + 1
    return z3.Extract(BITS - 1, 0, z3.LShR(beats, exact_log2(INSTRUCTION_BYTES // TINY.beat_bytes)))


def field(vector: object, layout: data.StructLayout, name: str) -> object:
    low = layout[name].offset
    return z3.Extract(low + layout[name].width - 1, low, vector)


def sound(values: Values) -> object:
    unwanted, in_flight = number(values, "unwanted"), number(values, "in_flight")
    return z3.And(z3.ULE(unwanted, in_flight), z3.ULE(in_flight, BURSTS))


def test_bounds_of_the_fetch(tmp_path: Path) -> None:
    prove_bounds(BurstRequests(TINY, axi_id=0, instructions=24, bursts=BURSTS), tmp_path)


def test_a_read_outside_the_window_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "is_inside", lambda window, address: window.base != address)
    component = BurstRequests(TINY, axi_id=0, instructions=24, bursts=BURSTS)
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_bounds(component, tmp_path)
