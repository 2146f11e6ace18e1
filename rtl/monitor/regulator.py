"""The bandwidth regulator: a limit on what the NPU asks of the memory."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from tessera.rtl.axi import address_layout
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.traffic import OWN_IDS, WINDOW_BYTES_BITS


class BurstRegulator(wiring.Component):
    """Passes bursts, or holds them back while too many bytes were asked for.

    The bytes of a burst that passes are charged in the cycle in which it is accepted, and at the end of each window the
    limit is taken off the charge again. A burst passes while the charge is below the limit. So the last burst of a
    window may go beyond the limit, for which the next windows make up:

    - In any n windows in a row less than n times the limit and one longest burst (`AXI_BURST_BYTES`) are asked for.
      What was asked for before a window may move in it.
    - Nobody waits for ever: a burst is held back for at most as many ends of windows as the limit fits into a longest
      burst, rounded up. A limit that was lowered covers more slowly what was charged before.

    Nothing is late: a burst that passes does so in the cycle in which it is offered. As AXI has it, a burst that has
    been offered stays so.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    limit : In(WINDOW_BYTES_BITS)
        Bytes per window; 0 for no limit.
    window_ends : In(1)
        This is the last cycle of a window.
    release : In(1)
        Everything passes; what would have been held back is not charged.
    bursts, passed : stream of address_layout
        What comes in, and what goes out.
    held : Out(1)
        A burst is held back in this cycle.
    """

    def __init__(self, config: NpuConfig):
        self._beat_bits = exact_log2(config.beat_bytes)
        super().__init__(
            {
                "limit": In(WINDOW_BYTES_BITS),
                "window_ends": In(1),
                "release": In(1),
                "bursts": In(stream.Signature(address_layout())),
                "passed": Out(stream.Signature(address_layout())),
                "held": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        charge = Signal(range((1 << WINDOW_BYTES_BITS) + AXI_BURST_BYTES))
        below, open_ = Signal(), Signal()
        offered = Signal()
        burst_bytes = Signal(range(AXI_BURST_BYTES + 1))
        m.d.comb += [
            below.eq(charge < self.limit),
            open_.eq(below | offered | self.release | (self.limit == 0)),
            self.passed.valid.eq(self.bursts.valid & open_),
            self.passed.payload.eq(self.bursts.payload),
            self.bursts.ready.eq(self.passed.ready & open_),
            self.held.eq(self.bursts.valid & ~open_),
            burst_bytes.eq((self.bursts.payload.len + 1) << self._beat_bits),
        ]
        m.d.sync += offered.eq(self.passed.valid & ~self.passed.ready)
        accepted = self.passed.valid & self.passed.ready & below  # nothing is below a limit of 0, which is none
        with m.If(self.window_ends | accepted):
            charged = self._rest(charge, below) + Mux(accepted, burst_bytes, 0)
            m.d.sync += charge.eq(Mux(self.limit.any(), charged, 0))
        return m

    def _rest(self, charge: Value, below: Value) -> Value:
        """What is left of the charge when a window has ended, or not."""
        return Mux(self.window_ends, Mux(below, 0, charge - self.limit), charge)


class BandwidthRegulator(wiring.Component):
    """A limit for each master inside the NPU, by its AXI identifier; see `BurstRegulator` for all the rest.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    limits : In(WINDOW_BYTES_BITS) x OWN_IDS
    window_ends, release : In(1)
    bursts, passed : streams of address_layout x OWN_IDS
    held : Out(OWN_IDS)
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        bursts = stream.Signature(address_layout())
        super().__init__(
            {
                "limits": In(WINDOW_BYTES_BITS).array(OWN_IDS),
                "window_ends": In(1),
                "release": In(1),
                "bursts": In(bursts).array(OWN_IDS),
                "passed": Out(bursts).array(OWN_IDS),
                "held": Out(OWN_IDS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for axi_id in range(OWN_IDS):
            m.submodules[f"regulator{axi_id}"] = regulator = BurstRegulator(self._config)
            connect(m, flipped(self.bursts[axi_id]), regulator.bursts)
            connect(m, regulator.passed, flipped(self.passed[axi_id]))
            m.d.comb += [
                regulator.limit.eq(self.limits[axi_id]),
                regulator.window_ends.eq(self.window_ends),
                regulator.release.eq(self.release),
                self.held[axi_id].eq(regulator.held),
            ]
        return m
