"""Counts of the bytes on the memory bus, window by window."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from tessera.rtl.config import AXI_ID_BITS, NpuConfig
from tessera.rtl.traffic import (
    MOST_WINDOW,
    OTHER_BYTES_BITS,
    OTHER_ID_BITS,
    OTHER_SOURCES,
    OWN_IDS,
    STORE_ID,
    WINDOW_BITS,
    WINDOW_BYTES_BITS,
    TrafficSource,
)


def traffic_layout() -> data.StructLayout:
    """What moves on the memory bus in a cycle: bytes of another master, a beat that the NPU reads or writes."""
    return data.StructLayout(
        {
            "other": 1,
            "other_id": OTHER_ID_BITS,
            "other_bytes": OTHER_BYTES_BITS,
            "read": 1,
            "read_id": AXI_ID_BITS,
            "write": 1,
        }
    )


class WindowTimer(wiring.Component):
    """Divides time into windows of ``2 ** window`` cycles.

    Members
    -------
    window : In(WINDOW_BITS)
        The length of the windows that begin from the next cycle on.
    restart : In(1)
        A window begins in the next cycle, and the current one has no end.
    last : Out(1)
        1 in the last cycle of a window, also in a cycle with ``restart``.
    """

    def __init__(self) -> None:
        super().__init__({"window": In(WINDOW_BITS), "restart": In(1), "last": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(MOST_WINDOW)  # cycles of the window after this one
        m.d.comb += self.last.eq(left == 0)
        with m.If(self.last | self.restart):
            m.d.sync += left.eq((Const(1, MOST_WINDOW + 1) << self.window) - 1)
        with m.Else():
            m.d.sync += left.eq(left - 1)
        return m


class ByteCounters(wiring.Component):
    """Bytes of each source in the last complete window, and the most in any since a clear.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    traffic : In(traffic_layout)
        What moves.
    last : In(1)
        This is the last cycle of a window: what moves in it still belongs to it.
    restart : In(1)
        What moved in the current window, this cycle included, is forgotten.
    clear_peaks : In(1)
        Sets the peaks to 0; that of a window that is complete in the same cycle is not kept either.
    counts : Out(WINDOW_BYTES_BITS) x sources
        Bytes of the last complete window, from the cycle after ``last`` on.
    peaks : Out(WINDOW_BYTES_BITS) x sources
        The most of such since the clear, that of ``counts`` included.
    """

    def __init__(self, config: NpuConfig):
        self._beat_bits = exact_log2(config.beat_bytes)
        super().__init__(
            {
                "traffic": In(traffic_layout()),
                "last": In(1),
                "restart": In(1),
                "clear_peaks": In(1),
                "counts": Out(data.ArrayLayout(WINDOW_BYTES_BITS, len(TrafficSource))),
                "peaks": Out(data.ArrayLayout(WINDOW_BYTES_BITS, len(TrafficSource))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fresh = Signal()  # the counts are new, and the peaks do not know it yet
        m.d.sync += fresh.eq(self.last & ~self.restart)
        for source in OTHER_SOURCES:
            moves = self.traffic.other & (self.traffic.other_id == source)
            shown = self._count(m, source, moves, self.traffic.other_bytes, bits=MOST_WINDOW + OTHER_BYTES_BITS)
            self._show(m, source, shown, fresh, unit_bits=0)
        for axi_id in range(OWN_IDS):
            is_write = axi_id == STORE_ID
            moves = self.traffic.write if is_write else self.traffic.read & (self.traffic.read_id == axi_id)
            source = TrafficSource.of_own(axi_id)
            # Beats are counted: fewer bits than bytes have.
            shown = self._count(m, source, moves, Const(1), bits=MOST_WINDOW + 1)
            self._show(m, source, shown, fresh, unit_bits=self._beat_bits)
        return m

    def _count(self, m: Module, source: TrafficSource, moves: Value, size: Value, *, bits: int) -> Signal:
        """Counts what a source moves; returns the count of the last complete window."""
        count = Signal(bits, name=f"{source.name.lower()}_count")
        shown = Signal(bits, name=f"{source.name.lower()}_shown")
        total = count + Mux(moves, size, 0)
        with m.If(self.restart | self.last):
            m.d.sync += count.eq(0)
        with m.Elif(moves):
            m.d.sync += count.eq(total)
        with m.If(self.last & ~self.restart):
            m.d.sync += shown.eq(total)
        return shown

    def _show(self, m: Module, source: TrafficSource, count: Signal, fresh: Value, *, unit_bits: int) -> None:
        """A source's count and its peak, which is what was kept, or the newest count until that is kept too."""
        peak = Signal.like(count, name=f"{source.name.lower()}_peak")
        higher = Signal(name=f"{source.name.lower()}_higher")
        m.d.comb += [
            higher.eq(fresh & (count > peak)),
            self.counts[source].eq(count << unit_bits),
            self.peaks[source].eq(Mux(higher, count, peak) << unit_bits),
        ]
        with m.If(self.clear_peaks):
            m.d.sync += peak.eq(0)
        with m.Elif(higher):
            m.d.sync += peak.eq(count)


class UsedBytes(wiring.Component):
    """Bytes of the sources that count as used, in the last complete window.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    traffic, last, restart
        As of `ByteCounters`.
    counted : In(sources)
        A bit per source: it counts.
    used : Out(WINDOW_BYTES_BITS)
        The bytes, from the cycle after ``last`` on.
    """

    def __init__(self, config: NpuConfig):
        self._beat_bytes = config.beat_bytes
        super().__init__(
            {
                "traffic": In(traffic_layout()),
                "last": In(1),
                "restart": In(1),
                "counted": In(len(TrafficSource)),
                "used": Out(WINDOW_BYTES_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        traffic, counted = self.traffic, self.counted
        own = counted[1 << OTHER_ID_BITS :]
        other = traffic.other & counted.bit_select(traffic.other_id, 1)
        read = traffic.read & own.bit_select(traffic.read_id, 1)
        beats = read + (traffic.write & own[STORE_ID])
        moved, count = Signal(OTHER_BYTES_BITS + 1), Signal(WINDOW_BYTES_BITS)
        m.d.comb += moved.eq(Mux(other, traffic.other_bytes, 0) + beats * self._beat_bytes)
        total = count + moved
        with m.If(self.last | self.restart):
            m.d.sync += count.eq(0)
        with m.Elif(Cat(other, beats).any()):
            m.d.sync += count.eq(total)
        with m.If(self.last & ~self.restart):
            m.d.sync += self.used.eq(total)
        return m
