"""Where a post-processing slice takes its sums from."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import Drain, combined_sums, layout_of
from tessera.rtl.isa import PostProcess, Source
from tessera.rtl.ppu.combine import GangCombine


def pixel_layout(config: NpuConfig) -> data.StructLayout:
    """The sums of one pixel; ``last`` marks the last pixel of a tile."""
    return data.StructLayout({"sums": combined_sums(config), "last": 1})


class TileSource(wiring.Component):
    """Reads the sums of each tile, pixel by pixel: from the accumulators of a gang, or from the window reader.

    One pixel per cycle. A tile of a gang begins only when all of the gang's lanes have finished it; they get their
    memory back in the cycle in which the last pixel's sums leave it.

    Parameters
    ----------
    config
        Sizes.

    Members
    -------
    program : In(stream of PostProcess)
        The tiles. One is accepted when idle or together with the last pixel's sums of the one before.
    drain : Out(Drain) x lanes
        The lanes' finished tiles.
    window : In(stream of combined_sums)
        The window reader's results.
    pixels : Out(stream of pixel_layout)
        The sums: of the lanes ``LANES_LATENCY`` cycles after the program, if the lanes have finished.
    """

    LANES_LATENCY = 3
    """Cycles from a program's transfer to the first pixel, from lanes that have finished."""

    WINDOW_LATENCY = 2
    """Cycles from a program's transfer to the first pixel, from results that wait."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(PostProcess))),
                "drain": Out(Drain(config)).array(config.lanes),
                "window": In(stream.Signature(combined_sums(config))),
                "pixels": Out(stream.Signature(pixel_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        new = self.program.payload
        busy = Signal()
        source = Signal(Source, reset_less=True)
        lanes = Signal(self._config.lanes, reset_less=True)
        accepted, room, taken, last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.program.ready.eq(~busy | (taken & last)),
            accepted.eq(self.program.valid & self.program.ready),
            room.eq(~self.pixels.valid | self.pixels.ready),
        ]
        with m.If(self.program.ready):
            m.d.sync += [busy.eq(self.program.valid), source.eq(new.source), lanes.eq(new.lanes)]
        self._count(m, accepted=accepted, taken=taken, last=last)

        from_window = Signal()
        m.d.comb += from_window.eq(busy & (source == Source.WINDOW))
        read = Signal()  # the sums at the drain ports are those of a pixel that has not been taken
        self._drain(m, lanes, busy & ~from_window, accepted=accepted, read=read, room=room, last=last)
        m.d.comb += [
            self.window.ready.eq(from_window & room),
            taken.eq(room & Mux(from_window, self.window.valid, read)),
        ]
        valid = Signal()
        m.d.comb += self.pixels.valid.eq(valid)
        with m.If(room):
            m.d.sync += valid.eq(taken)
        self._combine(m, lanes, from_window=from_window, taken=taken, last=last)
        return m

    def _count(self, m: Module, *, accepted: Value, taken: Value, last: Signal) -> None:
        """Counts the pixels that are taken."""
        new = self.program.payload
        width, x = (Signal.like(new.tile_width, name=name, reset_less=True) for name in ("width", "x"))
        y = Signal.like(new.tile_height, name="y", reset_less=True)  # x and y run down to 1
        m.d.comb += last.eq((x == 1) & (y == 1))
        with m.If(accepted):
            m.d.sync += [width.eq(new.tile_width), x.eq(new.tile_width), y.eq(new.tile_height)]
        with m.Elif(taken):
            m.d.sync += x.eq(x - 1)
            with m.If(x == 1):
                m.d.sync += [x.eq(width), y.eq(y - 1)]

    def _drain(
        self, m: Module, lanes: Signal, draining: Value, *, accepted: Value, read: Signal, room: Value, last: Value
    ) -> None:
        """Reads ahead by one pixel: ``read`` says that the drain ports show a pixel's sums."""
        pixel = Signal.like(self.drain[0].pixel, name="pixel", reset_less=True)
        full, enable, release = Signal(), Signal(), Signal()
        m.d.comb += [
            full.eq(draining),
            release.eq(read & room & last),
            enable.eq(full & (~read | room) & ~(read & last)),
        ]
        for lane, drain in enumerate(self.drain):
            with m.If(lanes[lane] & ~drain.full):
                m.d.comb += full.eq(0)
            m.d.comb += [
                drain.pixel.eq(pixel),
                drain.enable.eq(enable & lanes[lane]),
                drain.release.eq(release & lanes[lane]),
            ]
        with m.If(accepted):
            m.d.sync += pixel.eq(0)
        with m.Elif(enable):
            m.d.sync += pixel.eq(pixel + 1)
        with m.If(enable):
            m.d.sync += read.eq(1)
        with m.Elif(room):
            m.d.sync += read.eq(0)

    def _combine(self, m: Module, lanes: Signal, *, from_window: Value, taken: Value, last: Value) -> None:
        """The output register: the gang's sums, combined, or the window reader's."""
        last_taken = Signal(reset_less=True)
        m.d.comb += self.pixels.payload.last.eq(last_taken)
        with m.If(taken):
            m.d.sync += last_taken.eq(last)
        for channel in range(self._config.cols):
            m.submodules[f"combine_{channel}"] = combine = GangCombine(self._config)
            m.d.comb += combine.lanes.eq(lanes)
            m.d.comb += [port.eq(drain.sums[channel]) for port, drain in zip(combine.sums, self.drain, strict=True)]
            total = Signal.like(combine.combined, name=f"sum_{channel}", reset_less=True)
            m.d.comb += self.pixels.payload.sums[channel].eq(total)
            with m.If(taken):
                m.d.sync += total.eq(Mux(from_window, self.window.payload[channel], combine.combined))
