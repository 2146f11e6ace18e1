"""The activation function of a post-processing slice: clamp limits, and a function in a table."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import TableWrite, address_bits, layout_of
from tessera.rtl.isa import Depth, PostProcess, TableEntry
from tessera.rtl.ppu.requantizer import ROUNDED_BITS, rounded_layout


def activated_layout(config: NpuConfig) -> data.ArrayLayout:
    """Values of ``cols`` channels of one pixel behind the activation function."""
    return data.ArrayLayout(signed(ROUNDED_BITS), config.cols)


def lookup_layout(config: NpuConfig) -> data.StructLayout:
    """What goes with a pixel through the lookup: the fields of its program that say what is looked up, and how."""
    fields = layout_of(PostProcess)
    names = ("table", "table_index", "output_depth", "output_signed")
    return data.StructLayout({name: fields[name].shape for name in names})


class ActivationFunction(wiring.Component):
    """Clamps rounded values and, if the program has a table, looks the result up; one pixel per cycle.

    Parameters
    ----------
    config
        Sizes; without ``tables`` there are clamp limits alone.

    Members
    -------
    program : In(stream of PostProcess)
        The tiles. One is accepted when idle or together with the last pixel of the one before.
    rounded : In(stream of rounded_layout)
        The values.
    table_write : In(TableWrite)
        Fills the table memory.
    activated : Out(stream of activated_layout)
        The results, `latency` cycles after the values; looked up or not.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(PostProcess))),
                "rounded": In(stream.Signature(rounded_layout(config))),
                "table_write": In(TableWrite(config)),
                "activated": Out(stream.Signature(activated_layout(config))),
            }
        )

    @staticmethod
    def latency(config: NpuConfig) -> int:
        """Cycles from a pixel's values to its results."""
        return 1 + (TableLookup.LATENCY if config.tables else 0)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid = Signal(self.latency(self._config))  # bit i: register i + 1 holds a pixel
        busy, advance, taken = Signal(), Signal(), Signal()
        m.d.comb += [
            self.activated.valid.eq(valid[-1]),
            advance.eq(~valid[-1] | self.activated.ready),
            taken.eq(advance & busy & self.rounded.valid),
            self.rounded.ready.eq(taken),
            self.program.ready.eq(~busy | (taken & self.rounded.payload.last)),
        ]
        with m.If(advance):
            m.d.sync += valid.eq(Cat(taken, valid))
        new = self.program.payload
        low, high = (Signal.like(new[name], name=name, reset_less=True) for name in ("clamp_low", "clamp_high"))
        lookup = Signal(lookup_layout(self._config), reset_less=True)
        with m.If(self.program.ready):
            m.d.sync += [busy.eq(self.program.valid), low.eq(new.clamp_low), high.eq(new.clamp_high)]
            m.d.sync += [lookup[name].eq(new[name]) for name in lookup.shape().members]
        load = Signal.like(valid)  # registers without a pixel rest
        m.d.comb += load.eq(Mux(advance, Cat(taken, valid), 0))
        self._activate(m, load, low, high, lookup)
        return m

    def _activate(self, m: Module, load: Signal, low: Signal, high: Signal, lookup: data.View) -> None:
        """The first register of each channel, and its lookup."""
        settings = Signal.like(lookup, name="clamped_lookup", reset_less=True)
        with m.If(load[0]):
            m.d.sync += settings.eq(lookup)
        for channel, result in enumerate(self.activated.payload):
            rounded = self.rounded.payload.values[channel]
            clamped = Signal(signed(ROUNDED_BITS), name=f"clamped_{channel}", reset_less=True)
            with m.If(load[0]):
                m.d.sync += clamped.eq(Mux(rounded > high, high, Mux(rounded < low, low, rounded)))
            if not self._config.tables:
                m.d.comb += result.eq(clamped)
                continue
            m.submodules[f"lookup_{channel}"] = channel_lookup = TableLookup(self._config)
            wiring.connect(m, wiring.flipped(self.table_write), channel_lookup.table_write)
            m.d.comb += [
                channel_lookup.load.eq(load[1:]),
                channel_lookup.operand.eq(clamped),
                channel_lookup.settings.eq(settings),
                result.eq(channel_lookup.result),
            ]


class TableLookup(wiring.Component):
    """Evaluates the tabulated function for the values of one channel; up to one per cycle.

    ``result == round_half_even(interpolate(table, operand) / 2 ** (16 - output_depth))``, see `TableEntry`; without a
    table in the settings it is the operand. Each channel has a copy of the tables, since all look up at once.

    Parameters
    ----------
    config
        Sizes.

    Members
    -------
    load : In(LATENCY)
        Bit i: register i + 1 takes its next value. A register that is not needed may stay as it is.
    operand : In(signed(ROUNDED_BITS))
        With a table it must have ``TableEntry.OPERAND_BITS`` bits.
    settings : In(lookup_layout)
        Go with the operand.
    table_write : In(TableWrite)
        Fills the copy of the tables.
    result : Out(signed(ROUNDED_BITS))
        In register ``LATENCY``.
    """

    LATENCY = 3
    """Registers from ``operand`` to ``result``: the memory's, the interpolation's, and the rounding's."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "load": In(self.LATENCY),
                "operand": In(signed(ROUNDED_BITS)),
                "settings": In(lookup_layout(config)),
                "table_write": In(TableWrite(config)),
                "result": Out(signed(ROUNDED_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        operands = [Signal.like(self.operand, name=f"operand_{stage}", reset_less=True) for stage in (1, 2)]
        settings = [Signal.like(self.settings, name=f"settings_{stage}", reset_less=True) for stage in (1, 2)]
        base, slope = self._read(m)
        fraction = operands[0][: TableEntry.FRACTION_BITS]
        exact = Signal(signed(TableEntry.BASE_BITS + TableEntry.FRACTION_BITS + 2), reset_less=True)
        with m.If(self.load[0]):
            m.d.sync += [operands[0].eq(self.operand), settings[0].eq(self.settings)]
        with m.If(self.load[1]):
            sign = settings[0].output_signed & base[-1]
            start = Cat(Const(0, TableEntry.FRACTION_BITS), base, sign).as_signed()
            m.d.sync += [operands[1].eq(operands[0]), settings[1].eq(settings[0]), exact.eq(start + slope * fraction)]
        result = Signal.like(self.result, name="result_3", reset_less=True)
        m.d.comb += self.result.eq(result)
        with m.If(self.load[2]):
            m.d.sync += result.eq(Mux(settings[1].table, self._round(m, exact, settings[1].output_depth), operands[1]))
        return m

    def _read(self, m: Module) -> tuple[Value, Value]:
        """Base and slope of the operand's segment, in the register of the memory's read port."""
        entries = self._config.tables * TableEntry.SEGMENTS
        m.submodules.memory = memory = Memory(shape=8 * TableEntry.BYTES, depth=entries, init=[])
        read, write = memory.read_port(), memory.write_port()
        segment = self.operand[TableEntry.FRACTION_BITS : TableEntry.OPERAND_BITS]
        m.d.comb += [
            write.en.eq(self.table_write.enable),
            write.addr.eq(self.table_write.address),
            write.data.eq(self.table_write.data),
            read.en.eq(self.load[0]),
            read.addr.eq(Cat(segment, self.settings.table_index)[: address_bits(entries)]),
        ]
        return read.data[: TableEntry.BASE_BITS], read.data[TableEntry.BASE_BITS :].as_signed()

    def _round(self, m: Module, exact: Signal, depth: Value) -> Signal:
        """``exact`` at the output's depth, rounded half to even."""
        quotient = Signal(signed(ROUNDED_BITS))
        half, sticky = Signal(), Signal()
        with m.Switch(depth):
            for bits in self._config.activation_depths:
                shift = TableEntry.BASE_BITS + TableEntry.FRACTION_BITS - bits
                with m.Case(Depth.of(bits)):
                    m.d.comb += [
                        quotient.eq(exact >> shift),
                        half.eq(exact[shift - 1]),
                        sticky.eq(exact[: shift - 1].any()),
                    ]
        rounded = Signal(signed(ROUNDED_BITS))
        m.d.comb += rounded.eq(quotient + (half & (sticky | quotient[0])))
        return rounded
