"""Instruction queue of one unit."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.decoder import OPERAND_BITS
from tessera.rtl.control.tokens import token_counts
from tessera.rtl.interfaces import layout_of
from tessera.rtl.isa import INDEX_BITS


def instruction_of(unit: isa.Unit) -> type[isa.Instruction]:
    """The instruction that a unit executes."""
    name = unit.name.rstrip("0123456789")
    return {
        "LOAD": isa.Load, "STORE": isa.Store, "LANE": isa.LaneProgram, "WINDOW": isa.Window, "PPU": isa.PostProcess,
    }[name]  # fmt: skip


class UnitQueue(wiring.Component):
    """Holds a unit's instructions, executes its ``Wait`` and ``Advance``, and passes the others on in order.

    An instruction that is pushed reaches the unit ``LATENCY`` cycles later if the queue is empty. A ``Wait`` is over in
    the cycle in which the last of its counts is reached, but takes at least a cycle per unit that it names: one
    count is compared at a time. An ``Advance`` takes a cycle, and holds up what comes behind it only while another one
    is pending. At most ``MAX_IN_FLIGHT`` instructions are in the unit at a time.

    Parameters
    ----------
    config
        Sizes of the machine; the queue holds ``config.queue_depth`` instructions, and one at its head.
    unit
        The unit, which determines the instruction.

    Members
    -------
    push
        Takes ``operands`` (and ``wait``, ``advance``: they are those of a ``Wait`` or an ``Advance``; ``index``:
        position in the stream) in this cycle; only allowed while ``room`` is 1.
    flush
        Drops everything that is not on offer to the unit: ``program.valid`` and its payload stay as they are until the
        unit takes them.
    counts
        The token counters.
    program
        The instructions for the unit.
    done
        The unit completes its oldest instruction in this cycle.
    raised
        How far the unit's token counter is raised in this cycle by an ``Advance``.
    idle
        The queue is empty, the unit has completed everything, and no ``Advance`` is pending.
    active
        The unit has been offered, or has, instructions that it has not completed.
    oldest
        Index of the oldest instruction that the unit has accepted and not completed.
    operation, context, finished
        Its fields of these names; 0 for a unit whose instructions have none.
    """

    LATENCY = 2
    MAX_IN_FLIGHT = 8

    def __init__(self, config: NpuConfig, unit: isa.Unit):
        self._unit = unit
        self._depth = config.queue_depth
        self._program = layout_of(instruction_of(unit))
        super().__init__(
            {
                "push": In(1),
                "operands": In(OPERAND_BITS),
                "wait": In(1),
                "advance": In(1),
                "index": In(INDEX_BITS),
                "room": Out(1),
                "flush": In(1),
                "counts": In(token_counts()),
                "program": Out(stream.Signature(self._program)),
                "done": In(1),
                "raised": Out(isa.TOKEN_BITS),
                "idle": Out(1),
                "active": Out(1),
                "oldest": Out(INDEX_BITS),
                "operation": Out(isa.OPERATION_BITS),
                "context": Out(isa.CONTEXT_BITS),
                "finished": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wait, advance = layout_of(isa.Wait), layout_of(isa.Advance)
        operands = max(self._program.size, wait.size, advance.size)
        entry = data.StructLayout({"operands": operands, "wait": 1, "advance": 1, "index": INDEX_BITS})
        fifo = SyncFIFO(width=entry.size, depth=self._depth)
        m.submodules.fifo = ResetInserter(self.flush)(fifo)
        kept = [name for name in ("operation", "context", "finished") if name in self._program.members]
        fields = Cat(self.program.payload[name] for name in kept)
        m.submodules.in_flight = in_flight = SyncFIFO(width=INDEX_BITS + len(fields), depth=self.MAX_IN_FLIGHT)
        m.submodules.condition = condition = WaitCondition()
        m.submodules.pending = pending = PendingAdvance(in_flight=self.MAX_IN_FLIGHT)
        pushed = Signal(entry)
        head = Signal(entry)
        head_valid = Signal()
        leaves = Signal()
        accepted = Signal()
        m.d.comb += [
            pushed.operands.eq(self.operands),
            pushed.wait.eq(self.wait),
            pushed.advance.eq(self.advance),
            pushed.index.eq(self.index),
            fifo.w_data.eq(pushed),
            fifo.w_en.eq(self.push),
            self.room.eq(fifo.w_rdy),
            self.program.payload.eq(head.operands),
            self.program.valid.eq(head_valid & ~head.wait & ~head.advance & in_flight.w_rdy),
            accepted.eq(self.program.valid & self.program.ready),
            condition.wait.eq(head.operands),
            condition.counts.eq(self.counts),
            condition.enable.eq(head_valid & head.wait),
            pending.amount.eq(data.View(advance, head.operands[: advance.size]).counts[self._unit]),
            pending.take.eq(head_valid & head.advance & pending.free),
            pending.under_way.eq(in_flight.level),
            pending.done.eq(self.done),
            self.raised.eq(pending.raised),
            leaves.eq(accepted | condition.over | pending.take),
            fifo.r_en.eq(~head_valid | leaves),
            in_flight.w_data.eq(Cat(head.index, fields)),
            in_flight.w_en.eq(accepted),
            in_flight.r_en.eq(self.done),
            Cat(self.oldest, *(getattr(self, name) for name in kept)).eq(in_flight.r_data),
            self.active.eq(in_flight.r_rdy | self.program.valid),
            self.idle.eq(~fifo.r_rdy & ~head_valid & ~in_flight.r_rdy & pending.free),
        ]
        with m.If(fifo.r_en):
            m.d.sync += [head.eq(fifo.r_data), head_valid.eq(fifo.r_rdy & ~self.flush)]
        with m.Elif(self.flush & ~self.program.valid):
            m.d.sync += head_valid.eq(0)
        return m


class PendingAdvance(wiring.Component):
    """Keeps an ``Advance`` until what came before it in its unit is complete.

    Parameters
    ----------
    in_flight
        Instructions at most that the unit has accepted and not completed.

    Members
    -------
    free
        None is kept.
    take, amount
        An ``Advance`` comes in this cycle; only allowed while ``free`` is 1.
    under_way
        Instructions that the unit has accepted and not completed; with ``take`` all of them came before.
    done
        The unit completes its oldest instruction in this cycle.
    raised
        The amount, in the first cycle after the last completion before it, but not before the cycle after ``take``;
        else 0.
    """

    def __init__(self, *, in_flight: int):
        super().__init__(
            {
                "free": Out(1),
                "take": In(1),
                "amount": In(isa.TOKEN_BITS),
                "under_way": In(range(in_flight + 1)),
                "done": In(1),
                "raised": Out(isa.TOKEN_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        before = Signal.like(self.under_way)  # of those under way: the ones that came before the kept Advance
        kept = Signal()
        kept_amount = Signal(isa.TOKEN_BITS)
        m.d.comb += self.free.eq(~kept)
        with m.If(kept & (before == 0)):
            m.d.comb += self.raised.eq(kept_amount)
            m.d.sync += kept.eq(0)
        with m.Elif(kept):
            m.d.sync += before.eq(before - self.done)
        with m.If(self.take):
            m.d.sync += [kept.eq(1), kept_amount.eq(self.amount), before.eq(self.under_way - self.done)]
        return m


class WaitCondition(wiring.Component):
    """Compares the counts of a ``Wait``, one per cycle, lowest unit first.

    Ten comparators per queue would find the end of a wait no earlier, if it names one unit as most do, and would
    take a good part of a simulation's time.

    Members
    -------
    enable, wait
        ``wait`` is to be executed; both stay as they are until ``over``, or the wait is given up.
    counts
        The token counters.
    over
        The last count is reached in this cycle.
    """

    def __init__(self) -> None:
        super().__init__(
            {"enable": In(1), "wait": In(layout_of(isa.Wait)), "counts": In(token_counts()), "over": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        passed = Signal(len(isa.Unit))
        pending = Signal.like(passed)
        current = Signal.like(passed)
        ahead = Signal(isa.TOKEN_BITS)
        reached = Signal()
        with m.If(self.enable):
            m.d.comb += [
                pending.eq(self.wait.sources & ~passed),
                current.eq(pending & -pending),
                reached.eq(~ahead[-1]),
                self.over.eq((pending == 0) | (reached & (pending == current))),
            ]
            with m.Switch(current):
                for unit in isa.Unit:
                    with m.Case(1 << unit):
                        m.d.comb += ahead.eq(self.counts[unit] - self.wait.counts[unit])
        with m.If(~self.enable | self.over):
            m.d.sync += passed.eq(0)
        with m.Elif(reached):
            m.d.sync += passed.eq(passed | current)
        return m
