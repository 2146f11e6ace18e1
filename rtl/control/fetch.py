"""Instruction fetch: reads an instruction stream from DRAM ahead of its execution."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from tessera.rtl import isa
from tessera.rtl.adaptation import DEPTH_BITS
from tessera.rtl.axi import AxiRead
from tessera.rtl.config import AXI_ADDRESS_BITS, AXI_BURST_BYTES, NpuConfig
from tessera.rtl.control.depth_selector import DepthChoice
from tessera.rtl.interfaces import layout_of
from tessera.rtl.window import is_inside, window_input

INSTRUCTIONS_PER_BURST = AXI_BURST_BYTES // isa.INSTRUCTION_BYTES

_ALIGNMENT = exact_log2(isa.INSTRUCTION_BYTES)
"""Bits of an address inside an instruction."""


def fetched_layout() -> data.StructLayout:
    """An instruction as it was read.

    ``error`` is 1 if the bus answered with an error to one of its beats, ``outside`` if it lies outside the code window
    or behind its segment and was not read. ``guess`` is the depth for which the fetch has read on behind a ``Select``.
    """
    return data.StructLayout({"word": isa.INSTRUCTION_BITS, "error": 1, "outside": 1, "guess": DEPTH_BITS})


class InstructionFetch(wiring.Component):
    """Reads instructions ahead of their execution and offers them in order.

    Up to ``PREFETCH_BURSTS`` bursts are in flight or stored: with a 128-bit bus and a memory latency of 40 cycles an
    instruction every 2.6 cycles, several times what streams use. More would hold up the first loads. Reading runs
    ahead of execution, past the end of the stream by at most that much: it stops asking for more once an end
    instruction has arrived. An error response is no error by itself; it is passed on with its instruction and counts
    when that one is executed. Nothing is read outside the window; an instruction that lies there comes marked as such.

    Behind a ``Select`` the fetch reads on at the segment that would be chosen when it arrives, and says so in
    ``guess``. Where another one is chosen in the end, ``redirect`` drops what was read and begins there. Of a segment
    whose length is known no more is asked for; bursts that are under way when they are not wanted any more are dropped
    as they come.

    Parameters
    ----------
    config
        Sizes of the machine.
    axi_id
        Identifier of the read bursts.

    Members
    -------
    start
        Begins at ``address`` when 1 for a cycle; only allowed while ``idle``.
    address
        DRAM byte address of the first instruction, a multiple of ``isa.INSTRUCTION_BYTES``.
    window
        Where instructions may lie; constant while not ``idle``.
    choice
        Asks for the depth of a ``Select`` that arrives.
    redirect, target, length
        Goes on at the instruction with index ``target``, in a segment of ``length`` instructions (0: not known), when 1
        for a cycle; nothing that was read before is offered any more from the next cycle on.
    stop
        Ends the reading and drops what has been read, when 1 for a cycle.
    idle
        1 while stopped and no burst is in flight.
    axi
        Read channels; data is always accepted at once.
    instructions
        The instructions, in order.
    """

    PREFETCH_BURSTS = 3

    def __init__(self, config: NpuConfig, *, axi_id: int):
        self._config = config
        self._axi_id = axi_id
        super().__init__(
            {
                "start": In(1),
                "address": In(AXI_ADDRESS_BITS),
                "window": window_input(),
                "choice": Out(DepthChoice()),
                "redirect": In(1),
                "target": In(isa.INDEX_BITS),
                "length": In(isa.SEGMENT_LENGTH_BITS),
                "stop": In(1),
                "idle": Out(1),
                "axi": Out(AxiRead(config)),
                "instructions": Out(stream.Signature(fetched_layout())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.PREFETCH_BURSTS * INSTRUCTIONS_PER_BURST
        m.submodules.assembler = assembler = InstructionAssembler(self._config)
        m.submodules.requests = requests = BurstRequests(
            self._config, axi_id=self._axi_id, instructions=depth, bursts=self.PREFETCH_BURSTS
        )
        wiring.connect(m, wiring.flipped(self.axi.ar), requests.ar)

        running, last_seen = Signal(), Signal()
        fifo = SyncFIFOBuffered(width=fetched_layout().size, depth=depth)
        m.submodules.fifo = ResetInserter(~running | self.redirect)(fifo)
        arrived = Signal(fetched_layout())
        m.d.comb += [arrived.eq(assembler.instruction), arrived.guess.eq(self.choice.depth)]
        word = arrived.word
        turns = fifo.w_en & (word[: isa.OPCODE_BITS] == isa.Select.opcode)
        with m.If(self.start):
            m.d.sync += [running.eq(1), last_seen.eq(0)]
        with m.Elif(self.stop):
            m.d.sync += running.eq(0)
        with m.Elif(self.redirect):
            m.d.sync += last_seen.eq(0)
        with m.Elif(fifo.w_en & (word[: isa.OPCODE_BITS] == isa.End.opcode)):
            m.d.sync += last_seen.eq(1)

        seeks = self._follow(m, requests, word, step=fifo.w_en, turns=turns)
        wanted = running & ~last_seen & ~seeks
        # All that was asked for has been executed, and what follows lies outside.
        outside = wanted & ~requests.inside & (requests.in_flight == 0) & (fifo.level == 0)
        taken = self.instructions.valid & self.instructions.ready & ~outside
        m.d.comb += [
            requests.enable.eq(wanted & ~self.stop),
            requests.window.eq(self.window),
            requests.stored.eq(fifo.level),
            requests.taken.eq(taken),
            requests.landed.eq(self.axi.r.valid & self.axi.r.payload.last),
            requests.drop.eq(turns | self.redirect),
            self.idle.eq(~running & (requests.in_flight == 0)),
            self.axi.r.ready.eq(1),
            assembler.clear.eq(self.start | self.redirect),
            assembler.enable.eq(self.axi.r.valid & running & (requests.unwanted == 0)),
            assembler.beat.eq(self.axi.r.payload.data),
            assembler.error.eq(self.axi.r.payload.resp[1]),
            fifo.w_data.eq(arrived),
            fifo.w_en.eq(assembler.done),
            self.instructions.payload.eq(fifo.r_data),
            self.instructions.payload.outside.eq(outside),
            self.instructions.valid.eq(fifo.r_rdy | outside),
            fifo.r_en.eq(self.instructions.ready),
        ]
        return m

    def _follow(self, m: Module, requests: BurstRequests, word: Value, *, step: Value, turns: Value) -> Signal:
        """Follows the instructions that arrive and asks for those that come next.

        Returns a signal that is 1 in the cycle after a ``Select`` has arrived or the fetch was redirected.
        """
        seeks = Signal()
        base = Signal(AXI_ADDRESS_BITS - _ALIGNMENT)
        index = Signal(isa.INDEX_BITS)  # of the next instruction to arrive
        length = Signal(isa.SEGMENT_LENGTH_BITS)
        select = data.View(layout_of(isa.Select), word[isa.OPCODE_BITS :][: layout_of(isa.Select).size])
        m.d.comb += self.choice.select.eq(select.as_value()[: len(self.choice.select.as_value())])
        m.d.sync += seeks.eq(turns | self.redirect)
        with m.If(self.redirect):
            m.d.sync += [index.eq(self.target), length.eq(self.length)]
        with m.Elif(turns):
            m.d.sync += [
                index.eq(index + select.offsets[self.choice.depth]),
                length.eq(select.lengths[self.choice.depth]),
            ]
        with m.Elif(step):
            m.d.sync += index.eq(index + 1)
        place = (base + index.as_signed())[: len(base)]
        m.d.comb += [
            requests.seek.eq(seeks | self.start),
            requests.address.eq(Mux(self.start, self.address, Cat(Const(0, _ALIGNMENT), place))),
            requests.length.eq(Mux(self.start, 0, length)),
        ]
        with m.If(self.start):
            m.d.sync += [base.eq(self.address[_ALIGNMENT:]), index.eq(0)]
        return seeks


class BurstRequests(wiring.Component):
    """Asks for bursts of instructions whenever the store has room for them.

    Parameters
    ----------
    config
        Sizes of the machine.
    axi_id
        Identifier of the bursts.
    instructions, bursts
        Instructions that the store has room for, and bursts at most under way.

    Members
    -------
    ar
        The requests.
    enable
        Bursts may be asked for.
    seek, address, length
        Goes on at a byte address, with at most ``length`` instructions (0: any number), when 1 for a cycle in which
        ``enable`` is 0.
    window
        Where bursts may lie.
    stored, taken
        Instructions in the store; one of them leaves it in this cycle.
    landed
        The oldest burst under way ends in this cycle.
    drop
        The bursts that are under way after this cycle are not wanted.
    inside
        The next burst lies in the window and within the length.
    in_flight, unwanted
        Bursts under way; the oldest of them, that are not wanted.
    """

    def __init__(self, config: NpuConfig, *, axi_id: int, instructions: int, bursts: int):
        self._config = config
        self._axi_id = axi_id
        self._instructions = instructions
        self._bursts = bursts
        super().__init__(
            {
                "ar": Out(AxiRead(config).members["ar"].signature),
                "enable": In(1),
                "seek": In(1),
                "address": In(AXI_ADDRESS_BITS),
                "length": In(isa.SEGMENT_LENGTH_BITS),
                "window": window_input(),
                "stored": In(range(instructions + 1)),
                "taken": In(1),
                "landed": In(1),
                "drop": In(1),
                "inside": Out(1),
                "in_flight": Out(range(bursts + 1)),
                "unwanted": Out(range(bursts + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beats = isa.INSTRUCTION_BYTES // self._config.beat_bytes
        address = Signal(AXI_ADDRESS_BITS, name="next_address")
        left = Signal(isa.SEGMENT_LENGTH_BITS)
        limited = Signal()
        reserved = Signal.like(self.stored)

        # A burst ends at the next multiple of its size or with the segment.
        first = address[_ALIGNMENT : exact_log2(AXI_BURST_BYTES)]
        most, count = Signal(range(INSTRUCTIONS_PER_BURST + 1)), Signal(range(INSTRUCTIONS_PER_BURST + 1))
        room, issue = Signal(), Signal()
        m.d.comb += [
            most.eq(INSTRUCTIONS_PER_BURST - first),
            count.eq(Mux(limited & (left < most), left, most)),
            room.eq((reserved + count <= self._instructions) & (self.in_flight != self._bursts)),
            self.inside.eq(is_inside(self.window, address) & ~(limited & (left == 0))),
            issue.eq(self.enable & room & self.inside & (~self.ar.valid | self.ar.ready)),
        ]
        with m.If(self.ar.ready):
            m.d.sync += self.ar.valid.eq(0)
        with m.If(issue):
            m.d.sync += [
                self.ar.valid.eq(1),
                self.ar.payload.id.eq(self._axi_id),
                self.ar.payload.addr.eq(address),
                self.ar.payload.len.eq(count * beats - 1),
                address.eq((address & -AXI_BURST_BYTES) + AXI_BURST_BYTES),
                left.eq(left - count),
            ]
        in_flight = self.in_flight + issue - self.landed
        m.d.sync += [
            self.in_flight.eq(in_flight),
            self.unwanted.eq(Mux(self.drop, in_flight, self.unwanted - (self.landed & self.unwanted.any()))),
            reserved.eq(reserved + Mux(issue, count, 0) - self.taken),
        ]
        with m.If(self.seek):
            m.d.sync += [
                address.eq(self.address),
                left.eq(self.length),
                limited.eq(self.length.any()),
                reserved.eq(self.stored - self.taken),
            ]
        return m


class InstructionAssembler(wiring.Component):
    """Joins the beats of an instruction, first beat lowest.

    Members
    -------
    clear
        The next beat is the first one of an instruction.
    enable, beat, error
        A beat arrives in this cycle; ``error``: with an error response.
    done, instruction
        1 in the cycle of an instruction's last beat, and the whole instruction.
    """

    def __init__(self, config: NpuConfig):
        self._beats = isa.INSTRUCTION_BYTES // config.beat_bytes
        super().__init__(
            {
                "clear": In(1),
                "enable": In(1),
                "beat": In(config.axi_data_bits),
                "error": In(1),
                "done": Out(1),
                "instruction": Out(fetched_layout()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        earlier = Signal(isa.INSTRUCTION_BITS - len(self.beat), reset_less=True)
        earlier_error = Signal()
        index = Signal(range(self._beats))
        word = Cat(earlier, self.beat)
        last = index == self._beats - 1
        m.d.comb += [
            self.instruction.word.eq(word),
            self.instruction.error.eq(earlier_error | self.error),
            self.done.eq(self.enable & last),
        ]
        with m.If(self.enable):
            m.d.sync += [
                earlier.eq(word[len(self.beat) :]),
                earlier_error.eq((earlier_error | self.error) & ~last),
                index.eq(Mux(last, 0, index + 1)),
            ]
        with m.If(self.clear):
            m.d.sync += [index.eq(0), earlier_error.eq(0)]
        return m
