"""The weight bank of a lane and the registers of the weight block that the array works with."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import BeatWrite, address_bits, layout_of
from tessera.rtl.isa import LaneProgram


class WeightLoader(wiring.Component):
    """Brings the weight blocks of a program, one after another, from the weight bank to the array.

    A block is loaded word by word into the *next* block's registers while the array works with the *current*
    ones; ``rows`` cycles per block, without a pause between blocks nor between programs. Addresses run on from
    the end of the bank to its beginning, so a program's weights may wrap around.

    Parameters
    ----------
    config
        Sizes of the bank and of a block.

    Members
    -------
    program : In(stream of LaneProgram)
        Accepted when the last beat of the previous program's weights is read.
    weight_write : In(BeatWrite)
        Fills the bank.
    ready : Out(1)
        The next block can be taken. Stays 1 until it is taken.
    take : In(1)
        The next block becomes the current one ``TAKE_CYCLES`` cycles later. Only allowed while ``ready``.
    weights : Out(8 * cols) x rows
        The current block: the weight word of each row, the byte of output channel 0 lowest.
    """

    TAKE_CYCLES = 2
    """Cycles from ``take`` to the first cycle in which ``weights`` is the block that was taken."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(LaneProgram))),
                "weight_write": In(BeatWrite(config, beats=config.weight_beats)),
                "ready": Out(1),
                "take": In(1),
                "weights": Out(8 * config.cols).array(config.rows),
            }
        )

    @property
    def start_latency(self) -> int:
        """Cycles from the transfer of a program, when idle, to the first cycle with ``ready``."""
        return self._config.rows + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, cols = self._config.rows, self._config.cols
        m.submodules.reader = reader = WeightReader(self._config)
        wiring.connect(m, wiring.flipped(self.program), reader.program)
        wiring.connect(m, wiring.flipped(self.weight_write), reader.weight_write)

        loaded = Signal(range(rows + 1))
        swap = Signal()
        m.d.sync += swap.eq(self.take)
        m.d.comb += [
            reader.word.ready.eq(swap | (loaded != rows)),
            self.ready.eq(((loaded == rows) & ~swap) | ((loaded == rows - 1) & reader.word.valid)),
        ]
        shift = reader.word.valid & reader.word.ready
        m.d.sync += loaded.eq(Mux(swap, 0, loaded) + shift)

        current = [Signal(8 * cols, name=f"current_{row}", reset_less=True) for row in range(rows)]
        following = [Signal(8 * cols, name=f"next_{row}", reset_less=True) for row in range(rows)]
        m.d.comb += [port.eq(word) for port, word in zip(self.weights, current, strict=True)]
        with m.If(swap):
            m.d.sync += [word.eq(next_word) for word, next_word in zip(current, following, strict=True)]
        with m.If(shift):
            m.d.sync += [word.eq(above) for word, above in zip(following, [*following[1:], reader.word.payload])]
        return m


class WeightReader(wiring.Component):
    """The weight bank, and a reader that makes a stream of weight words of each program's blocks.

    Parameters
    ----------
    config
        Sizes of the bank and of a block.

    Members
    -------
    program : In(stream of LaneProgram)
        Accepted when the last beat of the previous program's weights is read.
    weight_write : In(BeatWrite)
        Fills the bank.
    word : Out(stream of 8 * cols)
        The weight words, one per cycle; the first is valid two cycles after its program's transfer.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(LaneProgram))),
                "weight_write": In(BeatWrite(config, beats=config.weight_beats)),
                "word": Out(stream.Signature(8 * config.cols)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.bank = bank = Memory(
            shape=unsigned(config.axi_data_bits),
            depth=config.weight_beats,
            init=[],
            attrs={"no_rw_check": 1},  # no stream reads what it writes; spares the logic for that on an FPGA
        )
        write, read = bank.write_port(), bank.read_port()
        m.d.comb += [
            write.en.eq(self.weight_write.enable),
            write.addr.eq(self.weight_write.address),
            write.data.eq(self.weight_write.data),
        ]

        valid, upper = Signal(), Signal()
        m.d.comb += [
            self.word.valid.eq(valid),
            self.word.payload.eq(read.data.word_select(upper, 8 * config.cols)),
        ]
        with m.If(self.word.valid & self.word.ready):
            m.d.sync += upper.eq(~upper)
        room = ~valid | (self.word.ready & upper)

        address = Signal(address_bits(config.weight_beats), reset_less=True)
        busy, last = Signal(), Signal()
        m.d.comb += [read.en.eq(busy & room), read.addr.eq(address)]
        with m.If(room):
            m.d.sync += valid.eq(busy)
        with m.If(read.en):
            m.d.sync += address.eq(address + 1)
        m.d.comb += self.program.ready.eq(~busy | (room & last))
        with m.If(self.program.ready):
            m.d.sync += [busy.eq(self.program.valid), address.eq(self.program.payload.weight_base)]
        self._count_beats(m, advance=read.en, last=last)
        return m

    def _count_beats(self, m: Module, *, advance: Value, last: Signal) -> None:
        """Sets ``last`` while the beat to read is the program's last, with nested counters that run down to 0.

        The number of blocks is a product of three fields; counters spare the multiplication.
        """
        beats = Const(self._config.weight_block_beats)
        program = self.program.payload
        lengths = (beats, program.channel_steps, program.kernel_width, program.kernel_height)
        ends = Const(1)
        for name, length in zip(("beat", "s", "kx", "ky"), lengths, strict=True):
            left = Signal(len(length), name=f"{name}_left", reset_less=True)
            start = length - 1
            if length is not beats:
                start = Signal.like(left, name=f"{name}_start", reset_less=True)
                with m.If(self.program.ready):
                    m.d.sync += start.eq(length - 1)
            with m.If(advance & ends):
                m.d.sync += left.eq(Mux(left == 0, start, left - 1))
            with m.If(self.program.ready):
                m.d.sync += left.eq(length - 1)
            ends = ends & (left == 0)
        m.d.comb += last.eq(ends)
