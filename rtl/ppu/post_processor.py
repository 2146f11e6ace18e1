"""The post-processing unit."""

from __future__ import annotations

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import BeatWrite, Drain, GangRead, TableWrite, bank_write_layout, layout_of
from tessera.rtl.isa import PPU_SLICES, PostProcess, Window
from tessera.rtl.ppu.slice import PostProcessSlice
from tessera.rtl.ppu.window import WindowReader


class PostProcessor(wiring.Component):
    """The slices with their window readers. Each lane's drain port belongs to the slice whose program names the lane.

    A stream never gives one lane to both slices at once, so there is nothing to arbitrate.

    Parameters
    ----------
    config
        Sizes.

    Members
    -------
    program : In(stream of PostProcess) x PPU_SLICES
        The slices' programs.
    window_program : In(stream of Window) x PPU_SLICES
        The window readers' programs.
    drain : Out(Drain) x lanes
        The lanes' finished tiles.
    window_read, residual_read : Out(GangRead) x PPU_SLICES
        Ports of the banks.
    write : Out(stream of bank_write_layout) x PPU_SLICES
        The activations.
    parameter_write : In(BeatWrite)
        Fills the parameter memories of both slices alike.
    table_write : In(TableWrite)
        Fills the table memories of both slices alike.
    done, window_done : Out(1) x PPU_SLICES
        1 for a cycle when a slice or window reader has completed a program.
    saturations : Out(range(cols + 1)) x PPU_SLICES
        Channels saturated in this cycle, of the oldest program that the slice has not completed.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(PostProcess))).array(PPU_SLICES),
                "window_program": In(stream.Signature(layout_of(Window))).array(PPU_SLICES),
                "drain": Out(Drain(config)).array(config.lanes),
                "window_read": Out(GangRead(config)).array(PPU_SLICES),
                "residual_read": Out(GangRead(config)).array(PPU_SLICES),
                "write": Out(stream.Signature(bank_write_layout(config))).array(PPU_SLICES),
                "parameter_write": In(BeatWrite(config, beats=config.parameter_beats)),
                "table_write": In(TableWrite(config)),
                "done": Out(1).array(PPU_SLICES),
                "window_done": Out(1).array(PPU_SLICES),
                "saturations": Out(range(config.cols + 1)).array(PPU_SLICES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slices = []
        for index in range(PPU_SLICES):
            m.submodules[f"window{index}"] = window = WindowReader(self._config)
            m.submodules[f"slice{index}"] = part = PostProcessSlice(self._config)
            slices.append(part)
            wiring.connect(m, wiring.flipped(self.program[index]), part.program)
            wiring.connect(m, wiring.flipped(self.window_program[index]), window.program)
            wiring.connect(m, window.sums, part.window)
            wiring.connect(m, window.read, wiring.flipped(self.window_read[index]))
            wiring.connect(m, part.residual_read, wiring.flipped(self.residual_read[index]))
            wiring.connect(m, part.write, wiring.flipped(self.write[index]))
            for inner, outer in (
                (part.parameter_write, self.parameter_write),
                (part.table_write, self.table_write),
            ):
                m.d.comb += [
                    inner.enable.eq(outer.enable),
                    inner.address.eq(outer.address),
                    inner.data.eq(outer.data),
                ]
            m.d.comb += [
                self.done[index].eq(part.done),
                self.window_done[index].eq(window.done),
                self.saturations[index].eq(part.saturations),
            ]
        self._route_drains(m, slices)
        return m

    def _route_drains(self, m: Module, slices: list[PostProcessSlice]) -> None:
        """Both slices see the lanes; only the slice that names a lane drives its port."""
        for lane, outer in enumerate(self.drain):
            ports = [part.drain[lane] for part in slices]
            for port in ports:
                m.d.comb += [port.full.eq(outer.full), port.sums.eq(outer.sums)]
            first, second = ports
            m.d.comb += [
                outer.enable.eq(first.enable | second.enable),
                outer.release.eq(first.release | second.release),
                outer.pixel.eq(Mux(second.enable, second.pixel, first.pixel)),
            ]
