"""Proof of the counters' contracts: tokens, waits for them, and the counts of what is under way.

For every state that fulfils an invariant, which holds after reset and in the cycle after any in which it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from rtl_solver import Rtl, integer, prove, z3
from test_window_formal import transfer_invariant

from tessera.rtl.array.accumulators import Accumulators
from tessera.rtl.axi import address_layout
from tessera.rtl.config import NpuConfig
from tessera.rtl.control import queue
from tessera.rtl.control.queue import WaitCondition
from tessera.rtl.control.tokens import TokenCounters
from tessera.rtl.dma.block import BurstGate, OpenBlocks
from tessera.rtl.dma.load import ReadRequester, load_settings
from tessera.rtl.interfaces import layout_of
from tessera.rtl.isa import TOKEN_BITS, Unit, Wait
from tessera.rtl.window import is_inside

pytestmark = pytest.mark.formal

BITS = 16
"""Holds every count of what is under way, and the sums of such."""

UNITS = len(Unit)

Values = dict


def bit(vector: object, index: int) -> object:
    """Whether a bit is 1."""
    return z3.Extract(index, index, vector) == 1


def number(vector: object) -> object:
    """A count that does not wrap."""
    return integer(vector, BITS, signed=False)


def one_if(condition: object) -> object:
    """1 or 0."""
    return z3.If(condition, z3.BitVecVal(1, BITS), z3.BitVecVal(0, BITS))


def count_of(counts: object, unit: int) -> object:
    """The token count of a unit."""
    return z3.Extract(TOKEN_BITS * (unit + 1) - 1, TOKEN_BITS * unit, counts)


def test_tokens(tmp_path: Path) -> None:
    """A counter goes up by one when its unit completes an instruction, and by what is advanced; all start at 0."""
    rtl = Rtl(TokenCounters(), tmp_path)
    values, hardware = rtl.reset()
    prove(values["counts"] == 0, hardware)
    now, then, hardware = rtl.cycle()
    for unit in range(UNITS):
        before, after = (count_of(values["counts"], unit) for values in (now, then))
        advanced = before + count_of(now["advance"], unit)
        counted = z3.If(bit(now["done"], unit), advanced + 1, advanced)
        clear = z3.Or(now["clear"] == 1, now["rst"] == 1)
        prove(after == z3.If(clear, 0, counted), hardware)


def wait_field(values: Values, name: str) -> object:
    """A field of the instruction that waits."""
    layout = layout_of(Wait)
    low = layout[name].offset
    return z3.Extract(low + layout[name].width - 1, low, values["wait"])


def is_reached(values: Values, unit: int) -> object:
    """The unit has completed as many instructions as the wait asks for: counts are compared modulo their width."""
    ahead = count_of(values["counts"], unit) - count_of(wait_field(values, "counts"), unit)
    return z3.Not(bit(ahead, TOKEN_BITS - 1))


def passed_are_reached(values: Values) -> object:
    """Invariant: counts that have been ticked off are reached."""
    ticked = [z3.Implies(bit(values["passed"], unit), is_reached(values, unit)) for unit in range(UNITS)]
    return z3.Implies(values["enable"] == 1, z3.And(ticked))


def pending(values: Values) -> object:
    """Units whose counts have not been ticked off."""
    open_units = wait_field(values, "sources") & ~values["passed"]
    return sum((number(z3.Extract(unit, unit, open_units)) for unit in range(UNITS)), z3.BitVecVal(0, BITS))


def prove_wait(folder: Path) -> None:
    """A wait is over only when every count is reached, and soon when they are."""
    rtl = Rtl(WaitCondition(), folder)
    values, hardware = rtl.reset()
    prove(values["passed"] == 0, hardware)
    now, then, hardware = rtl.cycle()
    # What the queue keeps to, and what the stream checker proves of streams: a count does not run half its range ahead.
    goes_on = z3.And(now["enable"] == 1, now["over"] == 0)
    monotone = [z3.Implies(is_reached(now, unit), is_reached(then, unit)) for unit in range(UNITS)]
    stays = z3.And(now["wait"] == then["wait"], *monotone)
    starts = z3.Implies(z3.Not(goes_on), then["passed"] == 0)
    given = [*hardware, now["rst"] == 0, passed_are_reached(now)]
    prove(starts, given)
    prove(passed_are_reached(then), [*given, z3.Implies(goes_on, stays)])
    sources = wait_field(now, "sources")
    reached = z3.And([z3.Implies(bit(sources, unit), is_reached(now, unit)) for unit in range(UNITS)])
    prove(z3.Implies(now["over"] == 1, z3.And(now["enable"] == 1, reached)), given)
    progress = z3.ULT(pending(then), pending(now))
    prove(z3.Implies(z3.And(goes_on, reached), progress), [*given, z3.Implies(goes_on, stays)])


def test_waits(tmp_path: Path) -> None:
    prove_wait(tmp_path)


def without_wrapping(
    condition: WaitCondition, platform: object, elaborate: Callable = WaitCondition.elaborate
) -> Module:
    """A wait that takes every count that is larger as reached, even by more than half of the range."""
    with patch.object(queue.isa, "TOKEN_BITS", TOKEN_BITS + 1):
        return elaborate(condition, platform)


def test_a_wait_that_is_over_too_soon_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WaitCondition, "elaborate", without_wrapping)
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_wait(tmp_path)


def burst_beats(values: Values) -> object:
    """Beats of the burst on the address channel."""
    length = address_layout()["len"]
    return number(z3.Extract(length.offset + length.width - 1, length.offset, values["ar__payload"])) + 1


def has_room(values: Values) -> object:
    """The beats that are to come, and those of the burst on the address channel, are not too many."""
    beats = z3.If(values["ar__valid"] == 1, burst_beats(values), 0)
    return z3.ULE(number(values["outstanding"]) + beats, ReadRequester.OUTSTANDING_BEATS)


def credit_invariant(values: Values) -> object:
    """A burst that waits had room when it was offered, and has it still: beats arrive meanwhile, none is asked for."""
    fits = z3.ULE(number(values["outstanding"]), ReadRequester.OUTSTANDING_BEATS)
    return z3.And(fits, z3.Implies(values["bursts.gate.offered"] == 1, has_room(values)))


def prove_credit(folder: Path) -> None:
    """The read requester counts the beats that are to come, never more than it may ask for, without wrapping around."""
    rtl = Rtl(ReadRequester(NpuConfig.preset("tiny"), axi_id=1), folder)
    values, hardware = rtl.reset()
    prove(z3.And(values["outstanding"] == 0, values["bursts.gate.offered"] == 0), hardware)
    now, then, hardware = rtl.cycle()
    memory = z3.Implies(now["returned"] == 1, now["outstanding"] != 0)  # no more beats come than were asked for
    constant = now["windows"] == then["windows"]
    given = [*hardware, now["rst"] == 0, memory, constant, credit_invariant(now)]
    given.append(transfer_invariant(now, load_settings))  # proven in its own test
    prove(has_room(now), given)
    prove(credit_invariant(then), given)
    accepted = z3.And(now["ar__valid"] == 1, now["ar__ready"] == 1)
    asked = z3.If(accepted, burst_beats(now), 0)
    expected = number(now["outstanding"]) + asked - one_if(now["returned"] == 1)
    prove(number(then["outstanding"]) == expected, given)


def test_read_credit(tmp_path: Path) -> None:
    prove_credit(tmp_path)


def test_a_credit_that_is_too_large_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bursts that pass without a look at what is under way."""
    monkeypatch.setattr(BurstGate, "elaborate", without_credit)
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_credit(tmp_path)


def prove_counter(component: wiring.Component, register: str, up: str, down: str, most: int, folder: Path) -> None:
    """A register counts up and down between 0 and ``most``, if its inputs ask for nothing else."""
    rtl = Rtl(component, folder)
    values, hardware = rtl.reset()
    prove(values[register] == 0, hardware)
    now, then, hardware = rtl.cycle()
    count, rises, falls = number(now[register]), now[up] == 1, now[down] == 1
    given = [*hardware, now["rst"] == 0, z3.ULE(count, most), z3.Implies(falls, count != 0)]
    given.append(z3.Implies(rises, z3.Or(count != most, falls)))
    after = count + one_if(rises) - one_if(falls)
    prove(z3.And(number(then[register]) == after, z3.ULE(after, most)), given)


def without_credit(gate: BurstGate, platform: object, elaborate: Callable = BurstGate.elaborate) -> Module:
    """A gate that is always enabled."""
    m = elaborate(gate, platform)
    m.d.comb += [
        gate.passed.valid.eq(gate.bursts.valid & is_inside(gate.window, gate.bursts.payload.addr)),
        gate.bursts.ready.eq(gate.passed.ready & is_inside(gate.window, gate.bursts.payload.addr)),
    ]
    return m


def test_open_blocks(tmp_path: Path) -> None:
    prove_counter(OpenBlocks(), "count", "issued", "done", OpenBlocks.MOST, tmp_path)


def test_accumulator_memories(tmp_path: Path) -> None:
    """Of the two memories never more are reserved than there are: `free` says when one may be."""
    config = NpuConfig(name="few", rows=4, cols=4, lanes=1, activation_depths=(4,), accumulator_pixels=16)
    prove_counter(Accumulators(config), "reserved", "reserve", "drain__release", 2, tmp_path)
