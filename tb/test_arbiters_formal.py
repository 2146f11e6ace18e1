"""Proof of the arbiters' contracts: one grant at a time, to a requester only, and nobody waits for ever.

For every state that fulfils an invariant, which holds after reset and in the cycle after any in which it holds. Waiting
is bounded by a measure of the state, a number that falls in every cycle in which a requester waits: who has waited as
many cycles as the measure's largest value has been granted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.hdl import Mux, Value
from rtl_solver import Rtl, integer, prove, z3

from tessera.rtl.axi import read_layout
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.read_arbiter import AxiReadArbiter
from tessera.rtl.memory import arbiter
from tessera.rtl.memory.arbiter import ReadArbiter, RoundRobin
from tessera.rtl.memory.banks import GANG_READERS, WRITERS

pytestmark = pytest.mark.formal

BITS = 10
"""Holds every measure."""

Values = dict


def bit(vector: object, index: int) -> object:
    """Whether a bit is 1."""
    return z3.Extract(index, index, vector) == 1


def at_most_one(vector: object) -> object:
    """No two bits are 1."""
    return vector & (vector - 1) == 0


def is_turn_mask(preferred: object) -> object:
    """The ones of ``preferred`` are its highest bits: those whose turn comes before the others'."""
    return preferred | (preferred - 1) == -1 if preferred.size() > 1 else z3.BoolVal(True)


def turns_before(preferred: object, index: int) -> object:
    """Requesters whose turn comes before that of the one with this index: from the lowest preferred one, round."""
    count = preferred.size()
    first = z3.BitVecVal(0, BITS)
    for start in reversed(range(count)):
        first = z3.If(bit(preferred, start), z3.BitVecVal(start, BITS), first)
    return z3.URem(z3.BitVecVal(index + count, BITS) - first, count)


def is_granted_once(requests: object, grant: object) -> object:
    """One grant, to a requester, if there is a request."""
    return z3.And(at_most_one(grant), grant & ~requests == 0, (grant != 0) == (requests != 0))


def prove_round_robin(count: int, folder: Path) -> None:
    """A request that stays is granted within ``count`` cycles: the measure is below that."""
    rtl = Rtl(RoundRobin(count), folder)
    values, hardware = rtl.reset()
    prove(is_turn_mask(values["preferred"]), hardware)
    now, then, hardware = rtl.cycle()
    given = [*hardware, now["rst"] == 0, is_turn_mask(now["preferred"])]
    prove(is_turn_mask(then["preferred"]), given)
    prove(is_granted_once(now["requests"], now["grant"]), given)
    for index in range(count):
        waits = z3.And(bit(now["requests"], index), z3.Not(bit(now["grant"], index)))
        before, after = (turns_before(values["preferred"], index) for values in (now, then))
        prove(z3.And(z3.ULT(before, count), z3.Implies(waits, z3.ULT(after, before))), given)


@pytest.mark.parametrize("count", [2, len(WRITERS), 8])
def test_round_robin(count: int, tmp_path: Path) -> None:
    prove_round_robin(count, tmp_path)


def read_arbiter_invariant(values: Values) -> object:
    return z3.And(is_turn_mask(values["preferred"]), z3.ULE(values["refused"], ReadArbiter.PATIENCE))


def lanes_of(values: Values, reader: int, lanes: int) -> object:
    """The lanes that a gang reader wants."""
    return z3.Extract(lanes * (reader + 1) - 1, lanes * reader, values["gang_lanes"])


def cycles_before(values: Values, reader: int) -> object:
    """Cycles that a gang reader may still have to wait: its turns, and the patience that is left of the first."""
    patience = z3.BitVecVal(ReadArbiter.PATIENCE, BITS)
    return turns_before(values["preferred"], reader) * (patience + 1) + patience - refusals(values)


def refusals(values: Values) -> object:
    """Cycles for which the lanes have refused the gang reader whose turn it is."""
    return integer(values["refused"], BITS, signed=False)


def prove_read_arbiter(lanes: int, readers: int, folder: Path) -> None:
    """Grants, what they take from the lanes, and the bounds that `ReadArbiter` gives."""
    rtl = Rtl(ReadArbiter(lanes=lanes, readers=readers), folder)
    values, hardware = rtl.reset()
    prove(read_arbiter_invariant(values), hardware)
    now, then, hardware = rtl.cycle()
    given = [*hardware, now["rst"] == 0, read_arbiter_invariant(now)]
    prove(read_arbiter_invariant(then), given)
    grant, requests = now["gang_grant"], now["gang_requests"]
    prove(z3.And(at_most_one(grant), grant & ~requests == 0), given)
    granted = [z3.If(bit(grant, reader), lanes_of(now, reader, lanes), 0) for reader in range(readers)]
    taken = granted[0]
    for mask in granted[1:]:
        taken = taken | mask
    prove(now["taken"] == taken, given)
    lane_loses = now["taken"] & now["lane_requests"] != 0
    prove(z3.Implies(lane_loses, z3.And(now["refused"] == ReadArbiter.PATIENCE, then["refused"] == 0)), given)
    prove(z3.ULE(refusals(then), refusals(now) + 1), given)  # so no lane loses again before as many cycles
    for reader in range(readers):
        waits = z3.And(bit(requests, reader), z3.Not(bit(grant, reader)))
        before, after = (cycles_before(values, reader) for values in (now, then))
        bound = readers * (ReadArbiter.PATIENCE + 1)
        prove(z3.And(z3.ULT(before, bound), z3.Implies(waits, z3.ULT(after, before))), given)


@pytest.mark.parametrize("lanes, readers", [(1, 2), (4, len(GANG_READERS))])
def test_read_arbiter(lanes: int, readers: int, tmp_path: Path) -> None:
    prove_read_arbiter(lanes, readers, tmp_path)


def identifier(payload: object, layout: object) -> object:
    """Field ``id`` of an AXI payload."""
    low = layout["id"].offset
    return z3.Extract(low + layout["id"].width - 1, low, payload)


def prove_axi_arbiter(ids: tuple[int, ...], folder: Path) -> None:
    """Bursts go to the shared port one at a time, unchanged, and stay there; beats go to whom they name."""
    config, count = NpuConfig.preset("tiny"), len(ids)
    rtl = Rtl(AxiReadArbiter(config, ids=ids), folder, memories=True)
    values, hardware = rtl.reset()
    prove(z3.And(values["axi__ar__valid"] == 0, z3.ULT(previous(values), count)), hardware)
    now, then, hardware = rtl.cycle()
    given = [*hardware, now["rst"] == 0, z3.ULT(previous(now), count)]
    prove(z3.ULT(previous(then), count), given)
    accepted = [now[f"readers__{i}__ar__valid"] & now[f"readers__{i}__ar__ready"] == 1 for i in range(count)]
    prove(z3.AtMost(*accepted, 1), given)
    waits = z3.And(now["axi__ar__valid"] == 1, now["axi__ar__ready"] == 0)
    offer = then["axi__ar__valid"] == 1
    stays = z3.And(offer, then["axi__ar__payload"] == now["axi__ar__payload"])
    prove(z3.If(waits, z3.And(stays, z3.Not(z3.Or(accepted))), offer == z3.Or(accepted)), given)
    for i in range(count):
        passed = z3.And(offer, then["axi__ar__payload"] == now[f"readers__{i}__ar__payload"])
        prove(z3.Implies(accepted[i], passed), given)
        before, after = (turns_after(previous(values), i, count) for values in (now, then))
        loses = z3.And(now[f"readers__{i}__ar__valid"] == 1, z3.Not(accepted[i]), z3.Not(waits))
        prove(z3.And(z3.ULT(before, count), z3.Implies(loses, z3.ULT(after, before))), given)
        mine = identifier(now[f"readers__{i}__r__payload"], read_layout(config)) == ids[i]
        prove(z3.Implies(now[f"readers__{i}__r__valid"] == 1, mine), given)


def previous(values: Values) -> object:
    """The reader that went last."""
    return integer(values["previous"], BITS, signed=False)


def turns_after(last: object, index: int, count: int) -> object:
    """Readers whose turn comes before that of the one with this index: from the one after the last one, round."""
    return z3.URem(z3.BitVecVal(index + 2 * count - 1, BITS) - last, count)


@pytest.mark.parametrize("ids", [(0, 1), (0, 1, 3)], ids=["two", "three"])
def test_axi_read_arbiter(ids: tuple[int, ...], tmp_path: Path) -> None:
    prove_axi_arbiter(ids, tmp_path)


def everyone_preferred(requests: Value, preferred: Value) -> Value:
    """A choice of several at a time."""
    return Mux((requests & preferred).any(), requests & preferred, requests)


def all_but(chosen: Value) -> Value:
    """Turns in which the lowest two requesters alternate."""
    return ~chosen


@pytest.mark.parametrize("function, wrong", [("first_from", everyone_preferred), ("above", all_but)])
def test_wrong_choices_are_found(
    function: str, wrong: Callable[..., Value], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arbiter, function, wrong)
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_round_robin(3, tmp_path)
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_read_arbiter(4, 3, tmp_path)
