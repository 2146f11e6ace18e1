"""Proof of the queues' contracts: what goes in comes out, in order and once, and nothing is taken that has no room.

A queue is shown to behave as a list does, whatever its two sides do. For every state that fulfils an invariant:

1. It offers the list's first item if there is one, and takes an item if there is room.
2. In the next cycle the list is the same without the item that was given and with the item that was taken.

The invariant holds after reset, when the list is empty, and in the cycle after any in which it holds. So the queue
never loses, repeats or reorders items, and never holds more than its room. Payloads are only moved, so that few bits
stand for any number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from amaranth.hdl import Module, Mux
from amaranth.lib import fifo, wiring
from rtl_solver import Rtl, integer, prove, z3

from tessera.rtl import skid_buffer
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.queue import UnitQueue
from tessera.rtl.isa import Unit
from tessera.rtl.skid_buffer import SkidBuffer
from tessera.rtl.stream_fifo import StreamFifo

pytestmark = pytest.mark.formal

PAYLOAD_BITS = 3

BITS = 8
"""Holds numbers of items and indices."""

Values = dict


@dataclass(frozen=True)
class Queue:
    """How the list is held in a queue's registers.

    Attributes
    ----------
    capacity
        Items for which there is room.
    count
        Their number.
    items
        The registers that hold the items from the first on; those behind the last one may hold anything.
    invariant
        What holds in every state that can be reached.
    """

    capacity: int
    count: Callable[[Values], object]
    items: Callable[[Values], list]
    invariant: Callable[[Values], object]


def fifo_queue(depth: int, prefix: str) -> Queue:
    """A memory, its level, and the addresses of the first item and of the next one."""

    def number(values: Values, name: str) -> object:
        return integer(values[f"{prefix}.{name}"], BITS, signed=False)

    def place(values: Values, distance: object) -> object:
        return z3.URem(number(values, "r_port__addr") + distance, depth)

    def item(values: Values, index: int) -> object:
        found = values[f"{prefix}.storage[0]"]
        for word in range(1, depth):
            found = z3.If(place(values, index) == word, values[f"{prefix}.storage[{word}]"], found)
        return found

    return Queue(
        depth,
        count=lambda values: number(values, "level"),
        items=lambda values: [item(values, index) for index in range(depth)],
        invariant=lambda values: z3.And(
            z3.ULE(number(values, "level"), depth),
            z3.ULT(number(values, "r_port__addr"), depth),
            number(values, "w_port__addr") == place(values, number(values, "level")),
        ),
    )


SKID_BUFFER = Queue(
    2,
    count=lambda values: (
        integer(values["output__valid"], BITS, signed=False) + integer(values["held_valid"], BITS, signed=False)
    ),
    items=lambda values: [values["output__payload"], values["held"]],
    invariant=lambda values: z3.Implies(values["held_valid"] == 1, values["output__valid"] == 1),
)


def prove_queue(component: wiring.Component, queue: Queue, folder: Path) -> None:
    """The invariant and both parts of the contract."""
    rtl = Rtl(component, folder, memories=True)
    values, hardware = rtl.reset()
    prove(z3.And(queue.invariant(values), queue.count(values) == 0), hardware)
    now, then, hardware = rtl.cycle()
    given = [*hardware, queue.invariant(now), now["rst"] == 0]
    prove(queue.invariant(then), given)
    prove(offers(now, queue), given)
    prove(follows(now, then, queue), given)


def offers(now: Values, queue: Queue) -> object:
    """Part 1."""
    count = queue.count(now)
    return z3.And(
        (now["output__valid"] == 1) == (count != 0),
        (now["input__ready"] == 1) == z3.ULT(count, queue.capacity),
        z3.Implies(count != 0, now["output__payload"] == queue.items(now)[0]),
    )


def follows(now: Values, then: Values, queue: Queue) -> object:
    """Part 2."""
    given = z3.And(now["output__valid"] == 1, now["output__ready"] == 1)
    taken = z3.And(now["input__valid"] == 1, now["input__ready"] == 1)
    left = z3.If(given, queue.count(now) - 1, queue.count(now))
    before = queue.items(now)
    claims = [queue.count(then) == left + z3.If(taken, z3.BitVecVal(1, BITS), z3.BitVecVal(0, BITS))]
    for index, item in enumerate(queue.items(then)):
        after_given = before[index + 1] if index + 1 < queue.capacity else now["input__payload"]
        kept = z3.If(given, after_given, before[index])
        expected = z3.If(z3.ULT(index, left), kept, now["input__payload"])
        claims.append(z3.Implies(z3.ULT(index, queue.count(then)), item == expected))
    return z3.And(claims)


@pytest.mark.parametrize("depth", [2, 3, 4, 8, 16])
def test_stream_fifo(depth: int, tmp_path: Path) -> None:
    prove_queue(StreamFifo(PAYLOAD_BITS, depth=depth), fifo_queue(depth, "queue"), tmp_path)


def test_skid_buffer(tmp_path: Path) -> None:
    prove_queue(SkidBuffer(PAYLOAD_BITS), SKID_BUFFER, tmp_path)


def test_a_unit_has_no_more_instructions_than_its_queue_remembers(tmp_path: Path) -> None:
    """The instructions in a unit are counted without overflow, nor underflow if the unit completes only what it has."""
    queue = UnitQueue(NpuConfig.preset("tiny"), Unit.STORE)
    memory = fifo_queue(UnitQueue.MAX_IN_FLIGHT, "in_flight")
    rtl = Rtl(queue, tmp_path, memories=True)
    values, hardware = rtl.reset()
    prove(z3.And(memory.invariant(values), memory.count(values) == 0), hardware)
    now, then, hardware = rtl.cycle()
    in_flight = memory.count(now)
    given = [*hardware, memory.invariant(now), now["rst"] == 0, z3.Implies(now["done"] == 1, in_flight != 0)]
    accepted = z3.And(now["program__valid"] == 1, now["program__ready"] == 1)
    one, none = z3.BitVecVal(1, BITS), z3.BitVecVal(0, BITS)
    prove(z3.And(memory.invariant(then), z3.Implies(accepted, z3.ULT(in_flight, UnitQueue.MAX_IN_FLIGHT))), given)
    completed = z3.If(now["done"] == 1, one, none)
    prove(memory.count(then) == in_flight + z3.If(accepted, one, none) - completed, given)
    oldest = z3.Concat(now["finished"], now["context"], now["operation"], now["oldest"])
    prove(z3.Implies(in_flight != 0, oldest == memory.items(now)[0]), given)


def test_a_wrong_order_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A skid buffer that lets new items pass the one that it holds."""
    monkeypatch.setattr(skid_buffer, "Mux", lambda condition, held, new: Mux(condition, new, held))
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_queue(SkidBuffer(PAYLOAD_BITS), SKID_BUFFER, tmp_path)


class EagerFifo(fifo.SyncFIFO):
    """Says that it has room when it is full."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.w_rdy.eq(1)
        return m


def test_an_item_without_room_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fifo, "SyncFIFO", EagerFifo)
    with pytest.raises(AssertionError, match="disproved, for example by "):
        prove_queue(StreamFifo(PAYLOAD_BITS, depth=4), fifo_queue(4, "queue"), tmp_path)
