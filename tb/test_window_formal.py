"""Proof of window safety: no burst has a beat outside the memory window, whatever the operands.

For the load engine's and the store engine's address side, from the operands of an instruction to the address channel,
and for the instruction fetch:

1. *Safety*: whenever the address channel is valid, its burst lies wholly in the window (of a transfer: in that of its
   context), and does not cross 4 KiB.
2. *Stability*: an address that is offered stays as it is until it is accepted, whatever ``stop`` does, and whichever
   contexts fail.
3. *Squashing*: no burst is offered for a context that has failed, except one that was offered before.

Both are shown for every state that fulfils an invariant, and the invariant by induction: it holds after reset, and in
the cycle after any in which it holds. So they hold in every cycle, for every instruction that the decoder lets through
(its rows have at least one element, see `tessera.rtl.legality`) and for all windows that are constant while the unit
works, and contexts that stay failed, which `InstructionStream` sees to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.lib import data
from rtl_solver import Rtl, integer, prove, z3

from tessera.rtl.axi import address_layout
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.control.fetch import InstructionFetch
from tessera.rtl.dma import block, load, store
from tessera.rtl.dma.block import block_layout
from tessera.rtl.dma.bursts import TransferBursts
from tessera.rtl.isa import CONTEXT_BITS, CONTEXTS, INSTRUCTION_BYTES
from tessera.rtl.window import window_layout

pytestmark = pytest.mark.formal

CONFIGS = {name: NpuConfig.preset(name) for name in ("tiny", "edge", "server")}

BITS = 44
"""Holds every address, and that behind the last one."""

Values = dict


def field(vector: object, layout: data.StructLayout, name: str) -> object:
    """A field of a packed structure, as a bit vector."""
    low, width = layout[name].offset, layout[name].width
    return z3.Extract(low + width - 1, low, vector)


def number(vector: object, layout: data.StructLayout, name: str) -> object:
    """A field as an integer that does not wrap."""
    return integer(field(vector, layout, name), BITS, signed=False)


def is_safe(values: Values, channel: str, beat_bytes: int, window: object) -> object:
    """The burst on the address channel, if there is one, lies in the window and in a page."""
    payload = values[f"{channel}__payload"]
    first = number(payload, address_layout(), "addr")
    last = first + (number(payload, address_layout(), "len") + 1) * beat_bytes - 1
    base, limit = (number(window, window_layout(), name) * AXI_BURST_BYTES for name in ("base", "limit"))
    inside = z3.And(z3.UGE(first, base), z3.ULT(last, limit), z3.UGE(last, first))
    page = z3.LShR(first, 12) == z3.LShR(last, 12)
    return z3.Implies(values[f"{channel}__valid"] == 1, z3.And(inside, page))


def stays(now: Values, then: Values, channel: str) -> object:
    """The address channel keeps an offer that was not accepted."""
    waits = z3.And(now[f"{channel}__valid"] == 1, now[f"{channel}__ready"] == 0, now["rst"] == 0)
    kept = z3.And(then[f"{channel}__valid"] == 1, then[f"{channel}__payload"] == now[f"{channel}__payload"])
    return z3.Implies(waits, kept)


def has_columns(values: Values, settings: Callable[[], data.StructLayout]) -> object:
    """The unit is only given blocks that the decoder lets through."""
    layout = block_layout(settings())
    return z3.Implies(values["blocks__valid"] == 1, field(values["blocks__payload"], layout, "columns") != 0)


def transfer_invariant(values: Values, settings: Callable[[], data.StructLayout]) -> object:
    """The block that is walked has columns, the row that is split has beats left."""
    columns = field(values["bursts.walker.block"], block_layout(settings()), "columns")
    return z3.And(
        z3.Implies(values["bursts.walker.rows__valid"] == 1, columns != 0),
        z3.Implies(values["bursts.splitter.bursts__valid"] == 1, values["bursts.splitter.beats"] != 0),
        context_invariant(values, settings),
    )


def window_of_burst(values: Values) -> object:
    """The window of the context of the burst that is split off."""
    size, context = window_layout().size, values["bursts.splitter.context"]
    windows = [z3.Extract(size * (index + 1) - 1, size * index, values["windows"]) for index in range(CONTEXTS)]
    chosen = windows[0]
    for index in range(1, CONTEXTS):
        chosen = z3.If(context == index, windows[index], chosen)
    return chosen


def has_failed(values: Values) -> object:
    """The context of the burst that is split off has failed."""
    return z3.Extract(0, 0, z3.LShR(values["failed"], z3.ZeroExt(CONTEXTS - CONTEXT_BITS, context_of(values)))) == 1


def context_of(values: Values) -> object:
    """The context of the burst that is split off."""
    return values["bursts.splitter.context"]


def context_invariant(values: Values, settings: Callable[[], data.StructLayout]) -> object:
    """The gate looks at the window of the burst's context; a row that is not the last is followed by one of the same
    context; and what is squashed is a burst of a context that has failed, and was not offered.
    """
    layout = block_layout(settings())
    low = layout["settings"].offset + settings()["context"].offset
    walked = z3.Extract(low + CONTEXT_BITS - 1, low, values["bursts.walker.block"])
    active = values["bursts.splitter.bursts__valid"] == 1
    follows = z3.And(values["bursts.walker.rows__valid"] == 1, walked == context_of(values))
    squashes = z3.And(active, has_failed(values), values["bursts.gate.offered"] == 0)
    return z3.And(
        z3.Implies(active, values["bursts.window"] == window_of_burst(values)),
        z3.Implies(z3.And(active, values["bursts.splitter.last"] == 0), follows),
        z3.Implies(values["bursts.fsm_state"] != 0, squashes),
        z3.Implies(values["bursts.gate.offered"] == 1, active),
        values["bursts.fsm_state"] != 3,
    )


REQUESTERS = {
    "load": (load.ReadRequester, "ar", load.load_settings),
    "store": (store.WriteRequester, "aw", store.store_settings),
}


def prove_transfers(rtl: Rtl, config: NpuConfig, channel: str, settings: Callable[[], data.StructLayout]) -> None:
    """Invariant, safety and stability of an address side."""
    values, hardware = rtl.reset()
    prove(transfer_invariant(values, settings), hardware)
    now, then, hardware = rtl.cycle()
    given = [*hardware, has_columns(now, settings), transfer_invariant(now, settings)]
    given += [now["windows"] == then["windows"], now["failed"] & ~then["failed"] == 0]
    prove(transfer_invariant(then, settings), given)
    prove(is_safe(now, channel, config.beat_bytes, window_of_burst(now)), given)
    offers = z3.And(now[f"{channel}__valid"] == 1, has_failed(now))
    prove(z3.Implies(offers, now["bursts.gate.offered"] == 1), given)
    prove(stays(now, then, channel), [*given, *credit_invariant(now, channel)])


def credit_invariant(values: Values, channel: str) -> list:
    """What the other side of the bus keeps to: no more beats come back than were asked for."""
    if channel == "aw":
        return []
    return [z3.Implies(values["outstanding"] == 0, values["returned"] == 0)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("unit", REQUESTERS)
def test_transfers_stay_in_their_window(unit: str, name: str, tmp_path: Path) -> None:
    requester, channel, settings = REQUESTERS[unit]
    rtl = Rtl(requester(CONFIGS[name], axi_id=1), tmp_path)
    prove_transfers(rtl, CONFIGS[name], channel, settings)


def is_aligned(address: object) -> object:
    """A byte address at which an instruction may begin."""
    return z3.URem(address, INSTRUCTION_BYTES) == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_fetch_stays_in_its_window(name: str, tmp_path: Path) -> None:
    """Its address is in a register, so safety itself is the invariant; and that instructions are aligned."""
    config = CONFIGS[name]
    rtl = Rtl(InstructionFetch(config, axi_id=0), tmp_path)
    values, hardware = rtl.reset()
    prove(z3.And(values["axi__ar__valid"] == 0, is_aligned(values["requests.next_address"])), hardware)
    now, then, hardware = rtl.cycle()
    given = [*hardware, now["window"] == then["window"], is_safe(now, "axi__ar", config.beat_bytes, now["window"])]
    given += [is_aligned(now["address"]), is_aligned(now["requests.next_address"])]
    prove(is_aligned(then["requests.next_address"]), given)
    prove(is_safe(then, "axi__ar", config.beat_bytes, then["window"]), given)
    prove(stays(now, then, "axi__ar"), given)


@pytest.mark.parametrize("unit", REQUESTERS)
def test_a_gate_that_looks_at_too_little_is_found(unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison with the limit there is a counterexample."""
    monkeypatch.setattr(block, "is_inside", lambda window, address: address[8:] >= window.base)
    requester, channel, settings = REQUESTERS[unit]
    rtl = Rtl(requester(CONFIGS["tiny"], axi_id=1), tmp_path)
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_transfers(rtl, CONFIGS["tiny"], channel, settings)


@pytest.mark.parametrize("unit", REQUESTERS)
def test_a_window_of_another_context_is_found(unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every context has the window of the first one there is a counterexample."""
    monkeypatch.setattr(TransferBursts, "_window_of", lambda bursts, context: bursts.windows[0])
    requester, channel, settings = REQUESTERS[unit]
    rtl = Rtl(requester(CONFIGS["tiny"], axi_id=1), tmp_path)
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_transfers(rtl, CONFIGS["tiny"], channel, settings)
