"""One slice of the post-processing unit."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import BeatWrite, Drain, GangRead, TableWrite, bank_write_layout, combined_sums, layout_of
from tessera.rtl.isa import PostProcess
from tessera.rtl.ppu.activation import ActivationFunction
from tessera.rtl.ppu.parameters import ParameterMemory
from tessera.rtl.ppu.requantizer import Requantizer
from tessera.rtl.ppu.residual import ResidualReader
from tessera.rtl.ppu.tile_source import TileSource
from tessera.rtl.ppu.writer import OutputWriter


class PostProcessSlice(wiring.Component):
    """Executes `PostProcess` programs; see there for what it computes. One pixel of ``cols`` channels per cycle.

    Five parts, joined by streams, take each program in their own time, so that tiles follow closely on each other:
    `TileSource`, `ResidualReader`, `Requantizer`, `ActivationFunction` and `OutputWriter`. A program sees the writes of
    those before it: its residual operand is read only after they have been accepted.

    Parameters
    ----------
    config
        Sizes.

    Members
    -------
    program : In(stream of PostProcess)
        The tiles; ``slice`` is ignored.
    drain : Out(Drain) x lanes
        The lanes' finished tiles; only those of the current program's lanes are touched.
    window : In(stream of combined_sums)
        The results of the slice's window reader.
    residual_read : Out(GangRead)
        Port of the banks for the residual operand.
    write : Out(stream of bank_write_layout)
        The activations.
    parameter_write : In(BeatWrite)
        Fills the parameter memory.
    table_write : In(TableWrite)
        Fills the table memory.
    done : Out(1)
        1 in the cycle in which the last write of a program is taken.
    saturations : Out(range(cols + 1))
        Channels saturated in this cycle.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(PostProcess))),
                "drain": Out(Drain(config)).array(config.lanes),
                "window": In(stream.Signature(combined_sums(config))),
                "residual_read": Out(GangRead(config)),
                "write": Out(stream.Signature(bank_write_layout(config))),
                "parameter_write": In(BeatWrite(config, beats=config.parameter_beats)),
                "table_write": In(TableWrite(config)),
                "done": Out(1),
                "saturations": Out(range(config.cols + 1)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a program's transfer, when idle, to its first write, if its operands wait and nothing stalls."""
        operands = max(TileSource.LANES_LATENCY, TileSource.WINDOW_LATENCY, ResidualReader.LATENCY)
        pixel = Requantizer.LATENCY + ActivationFunction.latency(self._config) + OutputWriter.LATENCY
        return max(operands, ParameterMemory.load_cycles(self._config)) + pixel

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.source = source = TileSource(self._config)
        m.submodules.residual = residual = ResidualReader(self._config)
        m.submodules.requantizer = requantizer = Requantizer(self._config)
        m.submodules.activation = activation = ActivationFunction(self._config)
        m.submodules.writer = writer = OutputWriter(self._config)
        for outer, inner in zip(self.drain, source.drain, strict=True):
            wiring.connect(m, inner, wiring.flipped(outer))
        wiring.connect(m, wiring.flipped(self.window), source.window)
        wiring.connect(m, residual.read, wiring.flipped(self.residual_read))
        wiring.connect(m, wiring.flipped(self.parameter_write), requantizer.parameter_write)
        wiring.connect(m, source.pixels, requantizer.pixels)
        wiring.connect(m, residual.residuals, requantizer.residuals)
        wiring.connect(m, wiring.flipped(self.table_write), activation.table_write)
        wiring.connect(m, requantizer.rounded, activation.rounded)
        wiring.connect(m, activation.activated, writer.activated)
        wiring.connect(m, writer.write, wiring.flipped(self.write))
        m.d.comb += [self.done.eq(writer.done), self.saturations.eq(writer.saturations)]

        writing = Signal()  # a program that all parts have taken is not done
        with m.If(self.done):
            m.d.sync += writing.eq(0)
        with m.If(self.program.valid & self.program.ready):
            m.d.sync += writing.eq(1)
        may_read = ~self.program.payload.residual | ~writing
        parts = (source, requantizer, activation, writer)
        self._fork(m, *((part.program, 1) for part in parts), (residual.program, may_read))
        return m

    def _fork(self, m: Module, *parts: tuple[stream.Interface, ValueLike]) -> None:
        """Hands each program to every part once, as soon as the part is ready and its condition holds."""
        taken = Signal(len(parts))
        now = Signal(len(parts))
        for index, (part, condition) in enumerate(parts):
            m.d.comb += [
                part.payload.eq(self.program.payload),
                part.valid.eq(self.program.valid & ~taken[index] & condition),
                now[index].eq(taken[index] | (part.ready & condition)),
            ]
        m.d.comb += self.program.ready.eq(now.all())
        with m.If(self.program.valid):
            m.d.sync += taken.eq(Mux(self.program.ready, 0, now))
