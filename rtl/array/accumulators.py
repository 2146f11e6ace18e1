"""The accumulators of a lane."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory, ReadPort
from amaranth.lib.wiring import In, Out

from tessera.rtl.array.multiplier_array import sum_bits
from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import Drain, address_bits


def accumulate_layout(config: NpuConfig) -> data.StructLayout:
    """What to do with a word's sums.

    ``pixel``: the output pixel that they belong to. ``overwrite``: they are the first of
    the tile. ``last``: they are the last of the tile.
    """
    return data.StructLayout({"pixel": address_bits(config.accumulator_pixels), "overwrite": 1, "last": 1})


class Accumulators(wiring.Component):
    """Two memories of accumulators: tiles alternate between them, so one accumulates while the other is drained.

    Each memory holds ``cols`` sums of ``accumulator_bits`` for each pixel of a tile; sums wrap. Reading, adding to
    and writing a pixel's accumulators takes ``ACCUMULATE_CYCLES``: the same pixel may come again after that many
    cycles, and another one in every cycle.

    Parameters
    ----------
    config
        Sizes of the memories.
    width
        Bits of the sums; default those of the multiplier array.

    Members
    -------
    valid : In(1)
        There are sums; ``SUMS_CYCLES`` before they come.
    control : In(accumulate_layout)
        What to do with them; together with ``valid``.
    sums : In(signed(width)) x cols
        Sums of ``cols`` output channels, ``SUMS_CYCLES`` after their ``valid``.
    reserve : In(1)
        A tile begins; only allowed while ``free``. Its sums may follow at any time, after those of the tiles before.
    free : Out(1)
        Fewer than two tiles are reserved and not yet released. Stays 1 until ``reserve``.
    drain : In(Drain)
        ``full`` rises ``FULL_CYCLES`` after the tile's last ``valid``.
    overflow : Out(1)
        1, ``OVERFLOW_CYCLES`` after its ``valid``, if a sum has wrapped.
    """

    SUMS_CYCLES = 2
    """Cycles from ``valid`` to the sums: what they are added to is read, and goes through a register."""

    FULL_CYCLES = 3
    """Cycles from the last ``valid`` of a tile to the first cycle with ``drain.full``."""

    OVERFLOW_CYCLES = 4
    """Cycles from sums' ``valid`` to their ``overflow``."""

    def __init__(self, config: NpuConfig, *, width: int | None = None):
        self._config = config
        super().__init__(
            {
                "valid": In(1),
                "control": In(accumulate_layout(config)),
                "sums": In(signed(width or sum_bits(config))).array(config.cols),
                "reserve": In(1),
                "free": Out(1),
                "drain": In(Drain(config)),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reserved = Signal(range(3))
        m.d.sync += reserved.eq(reserved + self.reserve - self.drain.release)
        m.d.comb += self.free.eq(reserved != 2)

        working, draining = Signal(), Signal()
        full = Signal(2)
        with m.If(self.valid & self.control.last):
            m.d.sync += working.eq(~working)
        read_valid, read_control, read_memory = self._register(m, "read", self.valid, self.control, working)
        valid, control, memory = self._register(m, "sums", read_valid, read_control, read_memory)
        with m.If(self.drain.release):
            m.d.sync += [draining.eq(~draining), full.bit_select(draining, 1).eq(0)]
        with m.If(valid & control.last):
            m.d.sync += full.bit_select(memory, 1).eq(1)
        m.d.comb += self.drain.full.eq(full.bit_select(draining, 1))

        stored = Signal(self._config.cols * self._config.accumulator_bits, reset_less=True)
        totals = self._add(m, stored, enable=valid)
        reads = []
        for index in range(2):
            m.submodules[f"memory_{index}"] = bank = Memory(
                shape=unsigned(len(totals)),
                depth=self._config.accumulator_pixels,
                init=[],
                attrs={"no_rw_check": 1},  # never reads what it writes; spares the logic for that on an FPGA
            )
            read, write = bank.read_port(), bank.write_port()
            m.d.comb += [
                read.addr.eq(Mux(full[index], self.drain.pixel, self.control.pixel)),
                read.en.eq(Mux(full[index], self.drain.enable, self.valid)),
                write.addr.eq(control.pixel),
                write.en.eq(valid & (memory == index)),
                write.data.eq(totals),
            ]
            reads.append(read)
        with m.If(read_valid):
            m.d.sync += stored.eq(Mux(read_control.overwrite, 0, Mux(read_memory, reads[1].data, reads[0].data)))
        self._drain(m, reads, memory=draining)
        return m

    @staticmethod
    def _register(
        m: Module, name: str, valid: Value, control: data.View, memory: Value
    ) -> tuple[Signal, data.View, Signal]:
        """What is known about sums, a cycle later."""
        later_valid, later_memory = Signal(name=f"{name}_valid"), Signal(name=f"{name}_memory", reset_less=True)
        later_control = Signal.like(control, name=f"{name}_control", reset_less=True)
        m.d.sync += [later_valid.eq(valid), later_control.eq(control), later_memory.eq(memory)]
        return later_valid, later_control, later_memory

    def _add(self, m: Module, stored: Value, *, enable: Value) -> Value:
        """The new totals; a sum has wrapped if both of its terms have the sign that it has not.

        The signs are looked at only after a register, so that the adders' path does not grow.
        """
        bits, cols = self._config.accumulator_bits, self._config.cols
        totals = Signal(cols * bits)
        old, new, total = (Signal(cols, name=f"{name}_signs", reset_less=True) for name in ("old", "new", "total"))
        enabled = Signal()
        for col, value in enumerate(self.sums):
            m.d.comb += totals.word_select(col, bits).eq(stored.word_select(col, bits).as_signed() + value)
        m.d.sync += [
            enabled.eq(enable),
            old.eq(Cat(stored.word_select(col, bits)[-1] for col in range(cols))),
            new.eq(Cat(value[-1] for value in self.sums)),
            total.eq(Cat(totals.word_select(col, bits)[-1] for col in range(cols))),
            self.overflow.eq(enabled & (~(old ^ new) & (old ^ total)).any()),
        ]
        return totals

    def _drain(self, m: Module, reads: list[ReadPort], *, memory: Signal) -> None:
        """Gives the sums that were read to the drain port, and holds them there after the memory has been released."""
        fresh, source = Signal(), Signal(reset_less=True)
        read_data, held = Signal.like(reads[0].data), Signal.like(reads[0].data, reset_less=True)
        m.d.sync += fresh.eq(self.drain.enable)
        with m.If(self.drain.enable):
            m.d.sync += source.eq(memory)
        m.d.comb += read_data.eq(Mux(source, reads[1].data, reads[0].data))
        with m.If(fresh):
            m.d.sync += held.eq(read_data)
        m.d.comb += self.drain.sums.as_value().eq(Mux(fresh, read_data, held))
