"""Addresses of a tile's pixels."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import address_bits, layout_of
from tessera.rtl.isa import PostProcess


def tile_layout(config: NpuConfig) -> data.StructLayout:
    """A rectangle of words: address of its first word, distance of its rows in words, and its sides in words."""
    fields = layout_of(PostProcess)
    return data.StructLayout(
        {
            "base": address_bits(config.activation_words),
            "row_pitch": fields["output_row_pitch"].shape,
            "height": fields["tile_height"].shape,
            "width": fields["tile_width"].shape,
        }
    )


class TileAddresses(wiring.Component):
    """Walks the words of a rectangle, row by row; one per cycle, without a pause between rectangles.

    Parameters
    ----------
    config
        Addresses wrap at its ``activation_words``.

    Members
    -------
    tile : In(stream of tile_layout)
        Rectangles. One is accepted when idle or together with the last address of the one before.
    address : Out(stream of ``address`` and ``last``)
        Addresses, from the cycle after the rectangle's transfer; ``last`` marks the last one of a rectangle.
    """

    def __init__(self, config: NpuConfig):
        bits = address_bits(config.activation_words)
        super().__init__(
            {
                "tile": In(stream.Signature(tile_layout(config))),
                "address": Out(stream.Signature(data.StructLayout({"address": bits, "last": 1}))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        new = self.tile.payload
        address, row = (Signal(len(new.base), name=name, reset_less=True) for name in ("position", "row"))
        pitch = Signal.like(new.row_pitch, name="pitch", reset_less=True)
        width, x = (Signal.like(new.width, name=name, reset_less=True) for name in ("width", "x"))
        y = Signal.like(new.height, name="y", reset_less=True)  # x and y count down to 1
        busy = Signal()
        m.d.comb += [
            self.address.valid.eq(busy),
            self.address.payload.address.eq(address),
            self.address.payload.last.eq((x == 1) & (y == 1)),
            self.tile.ready.eq(~busy | (self.address.ready & self.address.payload.last)),
        ]
        with m.If(self.tile.ready):
            m.d.sync += [busy.eq(self.tile.valid), address.eq(new.base), row.eq(new.base), pitch.eq(new.row_pitch)]
            m.d.sync += [width.eq(new.width), x.eq(new.width), y.eq(new.height)]
        with m.Elif(self.address.ready):
            with m.If(x == 1):
                m.d.sync += [x.eq(width), y.eq(y - 1), row.eq(row + pitch), address.eq(row + pitch)]
            with m.Else():
                m.d.sync += [x.eq(x - 1), address.eq(address + 1)]
        return m
