"""The conversion of stores: values on chip to the bytes of chunks in DRAM."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.dma.block import depths_of, is_float, select_depth, settings_layout
from tessera.rtl.dma.convert import VALUE_BITS, DepthConverter
from tessera.rtl.dma.integer_to_float import IntegerToFloat
from tessera.rtl.dma.pack import packed_layout
from tessera.rtl.interfaces import CONVERSION_COUNT_BITS, address_bits


def place_layout() -> data.StructLayout:
    """Place of an element or chunk in its row: DRAM address of the row modulo the longest burst, marks of the row's
    first and last and of the block's last, and its context.
    """
    return data.StructLayout(
        {
            "address": address_bits(AXI_BURST_BYTES),
            "first": 1,
            "last": 1,
            "block_ends": 1,
            "context": isa.CONTEXT_BITS,
        }
    )


def numbers_settings() -> data.StructLayout:
    """What accompanies floating-point numbers: their place, and the operation for which they are counted."""
    return data.StructLayout({"place": place_layout(), "operation": isa.OPERATION_BITS})


def values_layout(config: NpuConfig) -> data.StructLayout:
    """Values of a chunk, in the first of ``values``."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(signed(VALUE_BITS), config.word_digits),
            "place": place_layout(),
            "settings": settings_layout(isa.Store),
        }
    )


class ValueConverter(wiring.Component):
    """Converts the values of chunks, in order: to integers with a `DepthConverter`, to floating point with an
    `IntegerToFloat` if the configuration has formats.

    One chunk per cycle; a change between the two waits until the other is empty.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    values : In(stream of values_layout)
    chunks : Out(stream of packed_layout)
    underflows, overflows : Out
        See `IntegerToFloat`.
    operation : Out(OPERATION_BITS)
        The operation for which they are counted.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "values": In(stream.Signature(values_layout(config))),
                "chunks": Out(stream.Signature(packed_layout(config))),
                "underflows": Out(CONVERSION_COUNT_BITS),
                "overflows": Out(CONVERSION_COUNT_BITS),
                "operation": Out(isa.OPERATION_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.integers = integers = DepthConverter(self._config, place_layout())
        source, settings = self.values.payload, self.values.payload.settings
        m.d.comb += [
            integers.input.payload["values"].eq(source["values"]),
            integers.input.payload.depth.eq(settings.memory_depth),
            integers.input.payload.signed.eq(settings.memory_signed),
            integers.input.payload.shift.eq(settings.shift),
            integers.input.payload.settings.eq(source.place),
        ]
        packed = self._pack_integers(m, integers.output.payload)
        if not self._config.float_formats:
            m.d.comb += [
                integers.input.valid.eq(self.values.valid),
                self.values.ready.eq(integers.input.ready),
                self.chunks.payload.eq(packed),
                self.chunks.valid.eq(integers.output.valid),
                integers.output.ready.eq(self.chunks.ready),
            ]
            return m
        m.submodules.floats = floats = IntegerToFloat(self._config, numbers_settings())
        target = floats.input.payload
        to_floats, from_floats = is_float(self._config, settings), floats.output.valid
        m.d.comb += [
            *(target["values"][index].eq(source["values"][index]) for index in range(len(target["values"]))),
            target.memory_format.eq(settings.memory_format),
            target.shift.eq(settings.shift),
            target.settings.place.eq(source.place),
            target.settings.operation.eq(settings.operation),
            integers.input.valid.eq(self.values.valid & ~to_floats & floats.empty),
            floats.input.valid.eq(self.values.valid & to_floats & integers.empty),
            self.values.ready.eq(
                Mux(to_floats, floats.input.ready & integers.empty, integers.input.ready & floats.empty)
            ),
            self.chunks.payload.eq(Mux(from_floats, self._pack_floats(m, floats.output.payload), packed)),
            self.chunks.valid.eq(from_floats | integers.output.valid),
            floats.output.ready.eq(self.chunks.ready),
            integers.output.ready.eq(self.chunks.ready),
            self.underflows.eq(floats.underflows),
            self.overflows.eq(floats.overflows),
            self.operation.eq(floats.output.payload.settings.operation),
        ]
        return m

    def _pack_integers(self, m: Module, source: data.View) -> data.View:
        """The bytes of a chunk of converted integers."""
        chunk = self.chunks.signature.create(path=("packed_integers",)).payload
        packed, sizes = {}, {}
        for code in depths_of(self._config):
            sizes[code] = min(self._config.pixel_bytes(code.bits), self._config.beat_bytes)
            channels = 8 * sizes[code] // code.bits
            packed[code] = Cat(value[: code.bits] for value in list(source["values"])[:channels])
        m.d.comb += [
            chunk.data.eq(select_depth(source.depth, packed)),
            chunk.chunk_bytes.eq(select_depth(source.depth, sizes)),
            *(chunk[name].eq(source.settings[name]) for name, _ in place_layout()),
        ]
        return chunk

    def _pack_floats(self, m: Module, source: data.View) -> data.View:
        """The bytes of a beat of numbers."""
        chunk = self.chunks.signature.create(path=("packed_floats",)).payload
        m.d.comb += [
            chunk.data.eq(source.data),
            chunk.chunk_bytes.eq(self._config.beat_bytes),
            *(chunk[name].eq(source.settings.place[name]) for name, _ in place_layout()),
        ]
        return chunk
