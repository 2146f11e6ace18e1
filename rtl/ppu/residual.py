"""The residual operand of a post-processing slice."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import GangRead, layout_of
from tessera.rtl.isa import PostProcess
from tessera.rtl.ppu.fetch import GangFetch, values_layout
from tessera.rtl.ppu.tile_addresses import TileAddresses


class ResidualReader(wiring.Component):
    """Reads the residual operand of each tile that has one, ahead of its use; one pixel per cycle.

    Parameters
    ----------
    config
        Sizes.

    Members
    -------
    program : In(stream of PostProcess)
        The tiles; one without a residual operand is accepted and ignored.
    read : Out(GangRead)
        Port of the banks.
    residuals : Out(stream of values_layout)
        The operands, at the earliest ``LATENCY`` cycles after the program's transfer.
    """

    LATENCY = 1 + GangFetch.LATENCY
    """Cycles from a program's transfer to its first operand, if the banks grant it at once."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(PostProcess))),
                "read": Out(GangRead(config)),
                "residuals": Out(stream.Signature(values_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.addresses = addresses = TileAddresses(self._config)
        m.submodules.fetch = fetch = GangFetch(self._config, tag=0)
        new, tile, request = self.program.payload, addresses.tile.payload, fetch.request.payload
        m.d.comb += [
            addresses.tile.valid.eq(self.program.valid & new.residual),
            self.program.ready.eq(addresses.tile.ready),
            tile.base.eq(new.residual_base),
            tile.row_pitch.eq(new.residual_row_pitch),
            tile.height.eq(new.tile_height),
            tile.width.eq(new.tile_width),
            fetch.request.valid.eq(addresses.address.valid),
            addresses.address.ready.eq(fetch.request.ready),
            request.address.eq(addresses.address.payload.address),
        ]
        for name in ("lanes", "half", "depth", "signed"):
            register = Signal.like(request[name], name=name, reset_less=True)
            m.d.comb += request[name].eq(register)
            with m.If(self.program.valid & self.program.ready):
                m.d.sync += register.eq(new[f"residual_{name}"])
        wiring.connect(m, fetch.read, wiring.flipped(self.read))
        m.d.comb += [
            self.residuals.valid.eq(fetch.fetched.valid),
            self.residuals.payload.eq(fetch.fetched.payload.values),
            fetch.fetched.ready.eq(self.residuals.ready),
        ]
        return m
