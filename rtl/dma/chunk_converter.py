"""The conversion of loads: chunks of activations as they were in DRAM to values on chip."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.block import FIELD_WIDTHS, depths_of, is_float, select_depth, settings_layout
from tessera.rtl.dma.convert import DepthConverter, converted_layout
from tessera.rtl.dma.float_to_integer import FloatToInteger
from tessera.rtl.dma.unpack import chunk_layout
from tessera.rtl.interfaces import CONVERSION_COUNT_BITS


def write_settings() -> data.StructLayout:
    """Where a converted chunk goes."""
    return data.StructLayout(
        {
            "lanes": isa.MAX_LANES,
            "address": FIELD_WIDTHS["base"],
            "half": 1,
            "pairs": 1,
            "last": 1,
            "error": 1,
            "context": isa.CONTEXT_BITS,
        }
    )


class ChunkConverter(wiring.Component):
    """Converts the chunks of activations, in order: integers with a `DepthConverter`, floating point with a
    `FloatToInteger` if the configuration has formats.

    One chunk per cycle; a change between the two waits until the other is empty. A chunk of integers gives an element,
    or half of one; of floating-point numbers, all chunks of an element give one element.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    chunks : In(stream of chunk_layout)
    output : Out(stream of converted_layout(config, write_settings()))
    empty : Out(1)
        1 while nothing is inside.
    stop, not_a_number, underflows, overflows : Out
        See `FloatToInteger`.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "chunks": In(stream.Signature(chunk_layout(config, settings_layout(isa.Load)))),
                "output": Out(stream.Signature(converted_layout(config, write_settings()))),
                "empty": Out(1),
                "stop": Out(1),
                "not_a_number": Out(CONVERSION_COUNT_BITS),
                "underflows": Out(CONVERSION_COUNT_BITS),
                "overflows": Out(CONVERSION_COUNT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.integers = integers = DepthConverter(self._config, write_settings())
        chunk = self.chunks.payload
        self._feed_integers(m, chunk, integers.input.payload)
        if not self._config.float_formats:
            connect(m, integers.output, flipped(self.output))
            m.d.comb += [
                integers.input.valid.eq(self.chunks.valid),
                self.chunks.ready.eq(integers.input.ready),
                self.empty.eq(integers.empty),
            ]
            return m
        m.submodules.floats = floats = FloatToInteger(self._config, write_settings())
        self._feed_floats(m, chunk, floats.input.payload)
        to_floats = is_float(self._config, chunk.settings)
        from_floats = floats.output.valid
        m.d.comb += [
            integers.input.valid.eq(self.chunks.valid & ~to_floats & floats.empty),
            floats.input.valid.eq(self.chunks.valid & to_floats & integers.empty),
            self.chunks.ready.eq(
                Mux(to_floats, floats.input.ready & integers.empty, integers.input.ready & floats.empty)
            ),
            self.output.payload.eq(Mux(from_floats, floats.output.payload, integers.output.payload)),
            self.output.valid.eq(from_floats | integers.output.valid),
            floats.output.ready.eq(self.output.ready),
            integers.output.ready.eq(self.output.ready),
            self.empty.eq(integers.empty & floats.empty),
            self.stop.eq(floats.stop),
            self.not_a_number.eq(floats.not_a_number),
            self.underflows.eq(floats.underflows),
            self.overflows.eq(floats.overflows),
        ]
        return m

    def _place(self, m: Module, chunk: data.View, place: data.View, *, pairs: Value | int) -> None:
        m.d.comb += [
            place.lanes.eq(chunk.settings.lanes),
            place.address.eq(chunk.address),
            place.half.eq(chunk.part != 0),
            place.pairs.eq(pairs),
            place.last.eq(chunk.last),
            place.error.eq(chunk.error),
            place.context.eq(chunk.settings.context),
        ]

    def _feed_integers(self, m: Module, chunk: data.View, target: data.View) -> None:
        """Unpacks the channels of a chunk of packed integers."""
        settings = chunk.settings
        self._place(m, chunk, target.settings, pairs=settings.memory_depth == isa.Depth.A16)
        m.d.comb += [
            target.depth.eq(settings.chip_depth),
            target.signed.eq(settings.chip_signed),
            target.shift.eq(settings.shift),
        ]
        for channel, value in enumerate(target["values"]):
            fields = {}
            for code in depths_of(self._config):
                if (channel + 1) * code.bits <= self._config.axi_data_bits:
                    field = chunk.data.word_select(channel, code.bits)
                    fields[code] = Cat(field, field[-1] & settings.memory_signed).as_signed()
            if fields:  # else no depth has this channel in a beat: the converter makes 0 of it, and nobody reads that
                m.d.comb += value.eq(select_depth(settings.memory_depth, fields))

    def _feed_floats(self, m: Module, chunk: data.View, target: data.View) -> None:
        settings = chunk.settings
        self._place(m, chunk, target.settings, pairs=0)
        for name in ("memory_format", "chip_depth", "chip_signed", "nan_policy", "nan_value", "shift"):
            m.d.comb += target[name].eq(settings[name])
        for name in ("data", "part", "element_ends", "last"):
            m.d.comb += target[name].eq(chunk[name])
