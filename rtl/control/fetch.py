"""Instruction fetch: reads an instruction stream from DRAM ahead of its execution."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from tessera.rtl import isa
from tessera.rtl.axi import AxiRead
from tessera.rtl.config import AXI_ADDRESS_BITS, AXI_BURST_BYTES, NpuConfig
from tessera.rtl.window import is_inside, window_input

INSTRUCTIONS_PER_BURST = AXI_BURST_BYTES // isa.INSTRUCTION_BYTES


def fetched_layout() -> data.StructLayout:
    """An instruction as it was read.

    ``error`` is 1 if the bus answered with an error to one of its beats, ``outside`` if it lies outside the code window
    and was not read.
    """
    return data.StructLayout({"word": isa.INSTRUCTION_BITS, "error": 1, "outside": 1})


class InstructionFetch(wiring.Component):
    """Reads instructions from rising addresses and offers them in order.

    Up to ``PREFETCH_BURSTS`` bursts are in flight or stored: with a 128-bit bus and a memory latency of 40 cycles an
    instruction every 2.6 cycles, several times what streams use. More would hold up the first loads. Reading runs
    ahead of execution, past the end of the stream by at most that much: it stops asking for more once an end
    instruction has arrived. An error response is no error by itself; it is passed on with its instruction and counts
    when that one is executed. Nothing is read outside the window; an instruction that lies there comes marked as such.

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

        running = Signal()
        fifo = SyncFIFOBuffered(width=fetched_layout().size, depth=depth)
        m.submodules.fifo = ResetInserter(~running)(fifo)
        last_seen = Signal()
        with m.If(self.start):
            m.d.sync += [running.eq(1), last_seen.eq(0)]
        with m.Elif(self.stop):
            m.d.sync += running.eq(0)
        with m.Elif(fifo.w_en & (assembler.instruction.word[: isa.OPCODE_BITS] == isa.End.opcode)):
            m.d.sync += last_seen.eq(1)

        inside = Signal()
        in_flight = self._issue_bursts(m, enable=running & ~last_seen & ~self.stop, inside=inside, depth=depth)
        # All that was asked for has been executed, and what follows lies outside.
        outside = running & ~last_seen & ~inside & (in_flight == 0) & (fifo.level == 0)
        m.d.comb += [
            self.idle.eq(~running & (in_flight == 0)),
            self.axi.r.ready.eq(1),
            assembler.clear.eq(self.start),
            assembler.enable.eq(self.axi.r.valid & running),
            assembler.beat.eq(self.axi.r.payload.data),
            assembler.error.eq(self.axi.r.payload.resp[1]),
            fifo.w_data.eq(assembler.instruction),
            fifo.w_en.eq(assembler.done),
            self.instructions.payload.eq(fifo.r_data),
            self.instructions.payload.outside.eq(outside),
            self.instructions.valid.eq(fifo.r_rdy | outside),
            fifo.r_en.eq(self.instructions.ready),
        ]
        return m

    def _issue_bursts(self, m: Module, *, enable: Value, inside: Signal, depth: int) -> Signal:
        """Issues a burst whenever the store has room for it; returns the number of bursts in flight.

        ``inside`` says that the next burst lies in the window.
        """
        beats = isa.INSTRUCTION_BYTES // self._config.beat_bytes
        address = Signal(AXI_ADDRESS_BITS, name="next_address")
        reserved = Signal(range(depth + 1))
        in_flight = Signal(range(self.PREFETCH_BURSTS + 1))
        ar = self.axi.ar

        # A burst ends at the next multiple of its size, so only the first one of a stream is shorter.
        first = address[exact_log2(isa.INSTRUCTION_BYTES) : exact_log2(AXI_BURST_BYTES)]
        count = Signal(range(INSTRUCTIONS_PER_BURST + 1))
        room = Signal()
        issue = Signal()
        m.d.comb += [
            count.eq(INSTRUCTIONS_PER_BURST - first),
            room.eq((reserved + count <= depth) & (in_flight != self.PREFETCH_BURSTS)),
            inside.eq(is_inside(self.window, address)),
            issue.eq(enable & room & inside & (~ar.valid | ar.ready)),
        ]
        with m.If(ar.ready):
            m.d.sync += ar.valid.eq(0)
        with m.If(issue):
            m.d.sync += [
                ar.valid.eq(1),
                ar.payload.id.eq(self._axi_id),
                ar.payload.addr.eq(address),
                ar.payload.len.eq(count * beats - 1),
                address.eq((address & -AXI_BURST_BYTES) + AXI_BURST_BYTES),
            ]
        taken = self.instructions.valid & self.instructions.ready & ~self.instructions.payload.outside
        landed = self.axi.r.valid & self.axi.r.payload.last
        m.d.sync += in_flight.eq(in_flight + issue - landed)
        m.d.sync += reserved.eq(reserved + Mux(issue, count, 0) - taken)
        with m.If(self.start):
            m.d.sync += [address.eq(self.address), reserved.eq(0)]
        return in_flight


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
