"""Counters of what the units do, from which software estimates occupancy and power."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import PPU_SLICES

ACTIVITY_BITS = 32
"""Bits of a counter; counts are modulo 2 to the power of this."""


UNIT_COUNTS = ("cycles", "bus_stalls", "bank_reads", "bank_writes", "pixels", "waiting_tiles")
"""Counts that the NPU has once; ``multiplying`` it has for each lane."""


def activity_layout(lanes: int) -> data.StructLayout:
    """The counts.

    - ``cycles``: cycles in which the stream is executed
    - ``multiplying``: for each lane the cycles in which an activation word enters its multipliers
    - ``bus_stalls``: cycles in which a burst or write data wait for the bus, or read data are due and none come
    - ``bank_reads``, ``bank_writes``: words read from and written to the lanes' activation banks
    - ``pixels``: pixels of ``cols`` channels that the post-processing writes
    - ``waiting_tiles``: sum over the cycles of the lanes in which a finished tile waits
    """
    return data.StructLayout(
        {**dict.fromkeys(UNIT_COUNTS, ACTIVITY_BITS), "multiplying": data.ArrayLayout(ACTIVITY_BITS, lanes)}
    )


class ActivityCounters(wiring.Component):
    """Counts since the start of a stream.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    clear : In(1)
        Sets all counts to 0.
    cycles, bus_stalls : In(1)
    multiplying : In(1) x lanes
    bank_reads, bank_writes : In(range(2 * lanes + 1))
    pixels : In(range(PPU_SLICES + 1))
    waiting_tiles : In(range(lanes + 1))
        By how much each count rises in this cycle.
    counts : Out(activity_layout)
    """

    def __init__(self, config: NpuConfig):
        accesses = In(range(2 * config.lanes + 1))
        super().__init__(
            {
                "clear": In(1),
                "cycles": In(1),
                "bus_stalls": In(1),
                "multiplying": In(1).array(config.lanes),
                "bank_reads": accesses,
                "bank_writes": accesses,
                "pixels": In(range(PPU_SLICES + 1)),
                "waiting_tiles": In(range(config.lanes + 1)),
                "counts": Out(activity_layout(config.lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pairs = [(self.counts[name], getattr(self, name)) for name in UNIT_COUNTS]
        pairs += list(zip(self.counts.multiplying, self.multiplying, strict=True))
        for count, increment in pairs:
            with m.If(increment != 0):
                m.d.sync += count.eq(count + increment)
        with m.If(self.clear):
            m.d.sync += self.counts.eq(0)
        return m


class BusStalls(wiring.Component):
    """Finds the cycles in which the NPU waits for the memory bus.

    Parameters
    ----------
    in_flight
        Read bursts at most under way.

    Members
    -------
    waits : In(1)
        A burst or write data are offered and not accepted.
    asked, answered : In(1)
        A read burst is accepted; the last beat of one comes.
    beat : In(1)
        Read data come.
    stalled : Out(1)
        The cycle before was such a cycle: something waited, or read data were due and none came.
    """

    def __init__(self, *, in_flight: int):
        self._in_flight = in_flight
        super().__init__({"waits": In(1), "asked": In(1), "answered": In(1), "beat": In(1), "stalled": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        in_flight = Signal(range(self._in_flight + 1))
        with m.If(self.asked != self.answered):
            m.d.sync += in_flight.eq(in_flight + self.asked - self.answered)
        m.d.sync += self.stalled.eq(self.waits | in_flight.any() & ~self.beat)
        return m
