"""Sequencer: hands the instructions of one stream to the units' queues and stops the stream on an error."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa
from tessera.rtl.control.decoder import decoded_layout
from tessera.rtl.control.depth_selector import DepthChoice
from tessera.rtl.control.queue import WaitCondition
from tessera.rtl.control.tokens import token_counts
from tessera.rtl.interfaces import layout_of
from tessera.rtl.isa import INDEX_BITS

CODE_SHAPE = range(max(isa.ErrorCode) + 1)
"""Shape of an `isa.ErrorCode`."""


def failure_layout() -> data.StructLayout:
    """What stopped a stream: an `isa.ErrorCode` (``NONE``: nothing) and the index of the instruction."""
    return data.StructLayout({"code": CODE_SHAPE, "index": INDEX_BITS})


class Sequencer(wiring.Component):
    """Executes a stream in order, one instruction per cycle at best.

    - An instruction goes to the queues of all its units in one cycle, as soon as all of them have room.
    - ``Fence`` and ``End`` wait until every unit is idle.
    - After ``End`` the stream is done when the fetch's last burst has arrived.
    - ``Wait`` without targets waits until its counts are reached.
    - ``Select`` goes on at the segment of the depth that ``choice`` names. If the fetch has guessed it, the next
      instruction follows at once; if not, the fetch is redirected.
    - ``Bundle`` does the same if a pause has been asked for since the start, and then the stream is paused, not done;
      else it goes on at once.
    - After an error (a bad instruction, a failure that a bus unit reports, or the watchdog's alarm) or a reset, the
      queues are flushed, the bus units complete their bursts, and then the stream has stopped. Results of a stopped
      stream are undefined, and so are the on-chip memories.
    - Whenever a stream has stopped, all units are reset: nothing but the memories' contents outlives it.
    - If the bus does not let a stream stop, the watchdog's next alarm is reported as an error of the running stream.

    Members
    -------
    start
        Starts the stream when 1 for a cycle; ignored unless the stream has stopped.
    reset
        Stops the stream when 1 for a cycle, without an error; also clears ``done``, ``paused`` and ``failure``.
    pause
        Pauses the stream at its next bundle when 1 for a cycle; ignored unless the stream executes.
    decoded
        The instructions.
    clear
        The instruction in ``decoded``, and what follows from the fetch in this cycle, are not wanted.
    fetch_start, fetch_stop, fetch_idle, fetch_redirect, fetch_length
        Control of the instruction fetch (see `InstructionFetch`), whose ``target`` is ``index``.
    choice
        Asks for the depth of a ``Select``.
    decided
        The answer is carried out in this cycle.
    counts
        The token counters.
    push, room, idle
        Per unit: hand over the instruction in this cycle; its queue has room; queue and unit have nothing to do.
    bus_idle
        While ``flush`` is 1: nothing is under way on the bus for the units.
    bus_failure
        A failure that a bus unit reports in this cycle.
    expired
        The watchdog's alarm.
    flush, units_reset
        Drop the queues' contents, begin nothing on the bus any more; reset all units.
    index
        Index of the next instruction, which is the number of instructions executed in a stream without a ``Select``.
    bundle
        Index of the last bundle that was executed since the start; 0 before.
    running, done, paused, failure
        State of the stream: executing or stopping; ended by ``End`` since it was last started; paused at a bundle; what
        stopped it.
    executing
        1 from start to ``End`` or error: the cycles that count.
    ended, halted, failed
        Pulses when the stream has stopped after ``End``, at a bundle, or after an error; ``failed`` also when it cannot
        be stopped.
    """

    def __init__(self) -> None:
        units = len(isa.Unit)
        super().__init__(
            {
                "start": In(1),
                "reset": In(1),
                "pause": In(1),
                "decoded": In(stream.Signature(decoded_layout())),
                "fetch_start": Out(1),
                "fetch_stop": Out(1),
                "fetch_idle": In(1),
                "fetch_redirect": Out(1),
                "fetch_length": Out(isa.SEGMENT_LENGTH_BITS),
                "clear": Out(1),
                "choice": Out(DepthChoice()),
                "decided": Out(1),
                "counts": In(token_counts()),
                "push": Out(units),
                "room": In(units),
                "idle": In(units),
                "bus_idle": In(1),
                "bus_failure": In(failure_layout()),
                "expired": In(1),
                "flush": Out(1),
                "units_reset": Out(1),
                "index": Out(INDEX_BITS),
                "bundle": Out(isa.BUNDLE_BITS),
                "running": Out(1),
                "executing": Out(1),
                "done": Out(1),
                "paused": Out(1),
                "failure": Out(failure_layout()),
                "ended": Out(1),
                "halted": Out(1),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        abort, pausing = Signal(), Signal()
        stop = Signal()
        fail = Signal(failure_layout())
        accept = self._execute(m, fail, pausing)
        payload = self.decoded.payload
        distance = self._select(m, accept)
        ends = accept & (payload.end | (payload.bundle & pausing))
        m.d.comb += [
            self.running.eq(1),
            self.fetch_stop.eq(stop),
            stop.eq(self.executing & (ends | (fail.code != isa.ErrorCode.NONE) | self.reset)),
        ]
        m.d.sync += self.units_reset.eq(0)
        with m.FSM():
            with m.State("STOPPED"):
                m.d.comb += [self.running.eq(0), self.fetch_start.eq(self.start & ~self.reset)]
                with m.If(self.fetch_start):
                    m.d.sync += [self.index.eq(0), self.bundle.eq(0), self.done.eq(0), self.paused.eq(0)]
                    m.d.sync += [self.failure.eq(0), abort.eq(0), pausing.eq(0)]
                    m.next = "EXECUTE"
                with m.Elif(self.reset):
                    m.next = "STOPPING"
            with m.State("EXECUTE"):
                m.d.comb += self.executing.eq(1)
                m.d.sync += [self.index.eq(self.index + distance), pausing.eq(pausing | self.pause)]
                with m.If(accept & payload.bundle):
                    m.d.sync += self.bundle.eq(payload.operands)
                with m.If(stop):
                    m.d.sync += [self.failure.eq(fail), abort.eq(~ends), pausing.eq(payload.bundle)]
                    m.next = "STOPPING"
            with m.State("STOPPING"):
                m.d.comb += self.flush.eq(abort)
                with m.If(self.fetch_idle & (~abort | self.bus_idle) & ~self.reset):
                    m.d.comb += [
                        self.ended.eq(~abort & ~pausing),
                        self.halted.eq(~abort & pausing),
                        self.failed.eq(self.failure.code != isa.ErrorCode.NONE),
                    ]
                    m.d.sync += [self.done.eq(self.ended), self.paused.eq(self.halted), self.units_reset.eq(1)]
                    m.next = "STOPPED"
                with m.Elif(self.expired):
                    m.d.comb += self.failed.eq(1)
                    m.d.sync += abort.eq(1)
                    with m.If(self.failure.code == isa.ErrorCode.NONE):
                        m.d.sync += [self.failure.code.eq(isa.ErrorCode.WATCHDOG), self.failure.index.eq(self.index)]
        with m.If(self.reset):
            m.d.sync += [self.done.eq(0), self.paused.eq(0), self.failure.eq(0), abort.eq(1)]
        return m

    def _execute(self, m: Module, fail: data.View, pausing: Signal) -> Signal:
        """Takes the next instruction if it can be executed in this cycle; sets ``fail`` where the stream must stop."""
        payload = self.decoded.payload
        accept = Signal()
        with m.If(self.bus_failure.code != isa.ErrorCode.NONE):
            m.d.comb += fail.eq(self.bus_failure)
        with m.Elif(self.expired):
            m.d.comb += [fail.code.eq(isa.ErrorCode.WATCHDOG), fail.index.eq(self.index)]
        with m.Elif(self.executing & self.decoded.valid):
            with m.If(payload.code != isa.ErrorCode.NONE):
                m.d.comb += [fail.code.eq(payload.code), fail.index.eq(self.index)]
            with m.Elif(payload.fence | payload.end | (payload.bundle & pausing)):
                m.d.comb += accept.eq(self.idle.all())
            with m.Elif(payload.wait & ~payload.units.any()):
                m.d.comb += accept.eq(self._condition(m))
            with m.Elif((self.room | ~payload.units).all()):
                m.d.comb += [accept.eq(1), self.push.eq(payload.units)]
        m.d.comb += self.decoded.ready.eq(accept)
        return accept

    def _condition(self, m: Module) -> Value:
        """Whether a ``Wait`` of the sequencer itself is over."""
        payload = self.decoded.payload
        m.submodules.condition = condition = WaitCondition()
        m.d.comb += [
            condition.enable.eq(self.executing & self.decoded.valid & payload.wait & ~payload.units.any()),
            condition.wait.eq(payload.operands),
            condition.counts.eq(self.counts),
        ]
        return condition.over

    def _select(self, m: Module, accept: Signal) -> Value:
        """Goes on behind an instruction that is accepted; returns how far it is to the next one."""
        payload = self.decoded.payload
        select = data.View(layout_of(isa.Select), payload.operands[: layout_of(isa.Select).size])
        depth = self.choice.depth
        diverts = self.decided & (depth != payload.guess)
        m.d.comb += [
            self.choice.select.eq(select.as_value()[: len(self.choice.select.as_value())]),
            self.decided.eq(accept & payload.select),
            self.clear.eq(~self.executing | diverts | self.fetch_redirect),
        ]
        m.d.sync += [self.fetch_redirect.eq(diverts), self.fetch_length.eq(select.lengths[depth])]
        return Mux(self.decided, select.offsets[depth], accept)
