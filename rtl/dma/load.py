"""The load engine: DRAM to on-chip memories."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from tessera.rtl import isa
from tessera.rtl.axi import AxiRead, address_layout, read_layout
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.block import (
    RowWalker,
    block_layout,
    by_memory_bits,
    check_axi_id,
    depths_of,
    element_bytes,
    element_parts,
    fork_program,
    select_depth,
    settings_layout,
    times,
)
from tessera.rtl.dma.bursts import TransferBursts
from tessera.rtl.dma.chunk_converter import ChunkConverter, write_settings
from tessera.rtl.dma.convert import RESULT_BITS, converted_layout
from tessera.rtl.dma.unpack import Unpacker, chunk_layout
from tessera.rtl.interfaces import (
    CONVERSION_COUNT_BITS,
    BeatWrite,
    TableWrite,
    address_bits,
    bank_write_layout,
    layout_of,
)
from tessera.rtl.stream_fifo import StreamFifo
from tessera.rtl.window import context_windows_input


def load_settings() -> data.StructLayout:
    """The fields of :class:`isa.Load` that say what becomes of an element."""
    return settings_layout(isa.Load)


class ReadRequester(wiring.Component):
    """Issues the read bursts of blocks, as far ahead of the data as ``OUTSTANDING_BEATS`` allows.

    Neither a burst outside the window of its context is issued, nor one of a context that has failed: see
    `TransferBursts`.

    Parameters
    ----------
    config
        Sizes of the NPU.
    axi_id
        Identifier of the bursts.

    Members
    -------
    blocks : In(stream of block_layout)
    ar : Out(stream of address_layout)
    returned : In(1)
        1 in each cycle in which a beat of read data is accepted.
    done : In(1)
        1 in each cycle in which a block is done.
    stop : In(1)
        No more bursts are issued while 1, except one that has been offered.
    windows, failed, outside, squash, squashed
        See `TransferBursts`.
    drained : Out(1)
        While ``stop`` is 1: everything that was asked for has arrived.
    """

    OUTSTANDING_BEATS = 128
    """Largest number of beats that were asked for and have not arrived: four bursts of the narrowest bus."""

    def __init__(self, config: NpuConfig, *, axi_id: int):
        self._config = config
        self._axi_id = axi_id
        super().__init__(
            {
                "blocks": In(stream.Signature(block_layout(load_settings()))),
                "ar": Out(stream.Signature(address_layout())),
                "returned": In(1),
                "done": In(1),
                "windows": context_windows_input(),
                "failed": In(isa.CONTEXTS),
                "stop": In(1),
                "outside": Out(1),
                "squash": Out(1),
                "squashed": In(1),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.bursts = bursts = TransferBursts(self._config, load_settings(), self._row_bytes)
        connect(m, flipped(self.blocks), bursts.blocks)
        outstanding = Signal(range(self.OUTSTANDING_BEATS + 1))
        burst, accepted = bursts.bursts.payload, Signal()
        room = outstanding + burst.len < self.OUTSTANDING_BEATS
        m.d.comb += [
            bursts.enable.eq(room & ~self.stop),
            bursts.drained.eq(outstanding == 0),
            bursts.windows.eq(self.windows),
            bursts.failed.eq(self.failed),
            bursts.done.eq(self.done),
            bursts.squashed.eq(self.squashed),
            self.ar.payload.id.eq(self._axi_id),
            self.ar.payload.addr.eq(burst.addr),
            self.ar.payload.len.eq(burst.len),
            self.ar.valid.eq(bursts.bursts.valid),
            bursts.bursts.ready.eq(self.ar.ready),
            accepted.eq(self.ar.valid & self.ar.ready),
            self.outside.eq(bursts.outside),
            self.squash.eq(bursts.squash),
            self.drained.eq((outstanding == 0) & ~bursts.offered),
        ]
        m.d.sync += outstanding.eq(outstanding + Mux(accepted, burst.len + 1, 0) - self.returned)
        return m

    def _row_bytes(self, row: data.View) -> Value:
        """DRAM bytes from a row's first to its last."""
        config, settings = self._config, row.settings
        copied = times(row.columns, config.beat_bytes)
        packed = element_bytes(config, row.columns, settings)
        pitch = settings.column_pitch[: config.beat_bytes.bit_length()]  # what overlaps is at most a beat
        overlapping = (row.columns - 1) * pitch + element_bytes(config, Const(1), settings)
        activations = Mux(settings.column_pitch == 0, packed, overlapping)
        return Mux(settings.target == isa.LoadTarget.ACTIVATIONS, activations, copied)


class ElementReader(wiring.Component):
    """Turns the beats of blocks into chunks with their on-chip addresses.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    blocks : In(stream of block_layout)
        DRAM addresses and pitches modulo the beat.
    beats : In(stream of read_layout)
    chunks : Out(stream of chunk_layout)
    squash, squashed
        The present block is to end, does so in this cycle (see `Unpacker`).
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        self._offset_bits = address_bits(config.beat_bytes)
        super().__init__(
            {
                "blocks": In(stream.Signature(block_layout(load_settings(), dram_bits=self._offset_bits))),
                "beats": In(stream.Signature(read_layout(config))),
                "chunks": Out(stream.Signature(chunk_layout(config, load_settings()))),
                "squash": In(1),
                "squashed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.walker = walker = RowWalker(load_settings(), dram_bits=self._offset_bits)
        m.submodules.unpacker = unpacker = Unpacker(self._config, load_settings())
        connect(m, flipped(self.blocks), walker.blocks)
        connect(m, flipped(self.beats), unpacker.beats)
        connect(m, unpacker.chunks, flipped(self.chunks))
        row, chunks = walker.rows.payload, unpacker.rows.payload
        copied = row.settings.target != isa.LoadTarget.ACTIVATIONS
        config, beat_bytes = self._config, self._config.beat_bytes
        size = by_memory_bits(config, row.settings, lambda bits: min(config.pixel_bytes(bits), beat_bytes))
        count = by_memory_bits(config, row.settings, lambda bits: times(row.columns, element_parts(config, bits)))
        last_part = by_memory_bits(config, row.settings, lambda bits: element_parts(config, bits) - 1)
        m.d.comb += [
            chunks.offset.eq(row.address),
            chunks.chunk_bytes.eq(Mux(copied, beat_bytes, size)),
            chunks.pitch.eq(
                Mux(copied | (row.settings.column_pitch == 0), chunks.chunk_bytes, row.settings.column_pitch)
            ),
            chunks.last_part.eq(Mux(copied, 0, last_part)),
            chunks.chunks.eq(Mux(copied, row.columns, count)),
            chunks.base.eq(row.base),
            chunks.last.eq(row.last),
            chunks.settings.eq(row.settings),
            unpacker.rows.valid.eq(walker.rows.valid),
            walker.rows.ready.eq(unpacker.rows.ready),
            walker.skip.eq(unpacker.skip),
            unpacker.squash.eq(self.squash),
            self.squashed.eq(unpacker.squashed),
        ]
        return m


class DigitWriter(wiring.Component):
    """Splits converted values into the digits of each lane. Combinational; latency 0.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    input : In(stream of converted_layout(config, write_settings()))
        Where two chunks make an element, the values of either half are in the low channels.
    write : Out(stream of bank_write_layout)
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "input": In(stream.Signature(converted_layout(config, write_settings()))),
                "write": Out(stream.Signature(bank_write_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        source, settings, write = self.input.payload, self.input.payload.settings, self.write.payload
        m.d.comb += [
            self.write.valid.eq(self.input.valid),
            self.input.ready.eq(self.write.ready),
            write.lanes.eq(settings.lanes),
            write.address.eq(settings.address),
            write.halves.eq(Mux(settings.pairs, Mux(settings.half, 0b10, 0b01), 0b11)),
        ]
        cols = self._config.cols
        low = list(source.values)[:cols]
        values = [*low]
        for channel in range(cols, self._config.word_digits):
            value = Signal(RESULT_BITS, name=f"value_{channel}")
            m.d.comb += value.eq(Mux(settings.pairs, low[channel - cols], source.values[channel]))
            values.append(value)
        for lane in range(self._config.lanes):
            m.d.comb += write.words[lane].eq(Cat(self._digit(lane, value, source.depth) for value in values))
        return m

    def _digit(self, lane: int, value: Value, depth: Value) -> Value:
        return select_depth(depth, {code: value.word_select(lane % code.digits, 4) for code in depths_of(self._config)})


class LoadEngine(wiring.Component):
    """Executes :class:`isa.Load`.

    The address side issues the bursts of a block; the data side follows through its own queue of blocks, so that
    bursts of the next ``BLOCKS_AHEAD`` instructions may be under way while the data of one arrive. One element
    per cycle where it is at most a beat, else one beat per cycle (16 bits, floating point), as long as the bus
    delivers.

    Rows may begin at any byte in DRAM, those of weights and parameters too; where they begin at a multiple of the beat,
    as the instruction check asks of weights and parameters, they need no extra bus beat.

    To abandon its instructions, the engine is told to ``stop``, and is reset when it is ``drained``. Those of a context
    that has ``failed`` complete without another burst and without another write.

    Parameters
    ----------
    config
        Sizes of the NPU. Depths that are not in it are not built; what a program that names one writes is
        undefined, but it ends.
    axi_id
        Identifier of the read bursts.

    Members
    -------
    program : In(stream of layout_of(isa.Load))
        ``columns``, ``rows`` and ``planes`` are at least 1.
    axi : Out(AxiRead)
        Beats must arrive in the order of the bursts.
    write : Out(stream of bank_write_layout)
        Activations.
    weight_write : Out(BeatWrite) x lanes
        Weights.
    parameter_write : Out(BeatWrite)
        Parameters, for both slices.
    table_write : Out(TableWrite)
        Tables of activation functions, for both slices.
    done : Out(1)
        1 in the cycle in which the last word or beat of an instruction is written, or would be.
    error : Out(1)
        1 when a beat of the oldest instruction came with a bus error, not later than its ``done``. What it writes is
        undefined.
    not_a_number : Out(1)
        1 together with ``done`` if the instruction found NaN or infinity and its policy is to stop the stream.
    specials, underflows, overflows : Out
        Values that the conversion from floating point has found to be NaN or infinity, turned into 0, and saturated;
        to be added up in each cycle. Those of an instruction come after the ``done`` of the one before, and not after
        its own.
    windows : In(window_layout x contexts)
        Where the bursts of each context may go; constant while there are instructions.
    failed : In(contexts)
        Contexts that have failed; a bit falls only while there are no instructions.
    outside : Out(1)
        1 from when all instructions before one with a burst outside its window are done, until its context has failed;
        that burst, and the rest of its instruction, are never issued.
    stop : In(1)
        No more bursts are issued, and data are dropped, while 1.
    drained : Out(1)
        While ``stop`` is 1: no data are to come.

    Raises
    ------
    ValueError
        The identifier does not fit.
    """

    BLOCKS_AHEAD = 8
    """Instructions whose bursts may be issued before the data of the oldest of them has arrived."""

    def __init__(self, config: NpuConfig, *, axi_id: int = 1):
        check_axi_id(axi_id)
        self._config = config
        self._axi_id = axi_id
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(isa.Load))),
                "axi": Out(AxiRead(config)),
                "write": Out(stream.Signature(bank_write_layout(config))),
                "weight_write": Out(BeatWrite(config, beats=config.weight_beats)).array(config.lanes),
                "parameter_write": Out(BeatWrite(config, beats=config.parameter_beats)),
                "table_write": Out(TableWrite(config)),
                "done": Out(1),
                "error": Out(1),
                "not_a_number": Out(1),
                "specials": Out(CONVERSION_COUNT_BITS),
                "underflows": Out(CONVERSION_COUNT_BITS),
                "overflows": Out(CONVERSION_COUNT_BITS),
                "windows": context_windows_input(),
                "failed": In(isa.CONTEXTS),
                "outside": Out(1),
                "stop": In(1),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.requester = requester = ReadRequester(self._config, axi_id=self._axi_id)
        m.submodules.reader = reader = ElementReader(self._config)
        m.submodules.blocks = blocks = StreamFifo(reader.blocks.p.shape(), depth=self.BLOCKS_AHEAD)
        m.submodules.beats = beats = StreamFifo(read_layout(self._config), depth=2)
        m.submodules.converter = converter = ChunkConverter(self._config)
        m.submodules.writer = writer = DigitWriter(self._config)
        fork_program(m, self.program, requester.blocks, blocks.input)
        connect(m, blocks.output, reader.blocks)
        connect(m, requester.ar, flipped(self.axi.ar))
        connect(m, beats.output, reader.beats)
        m.d.comb += [
            beats.input.payload.eq(self.axi.r.payload),
            beats.input.valid.eq(self.axi.r.valid & ~self.stop),
            self.axi.r.ready.eq(beats.input.ready | self.stop),
            requester.returned.eq(self.axi.r.valid & self.axi.r.ready),
            requester.done.eq(self.done),
            requester.windows.eq(self.windows),
            requester.failed.eq(self.failed),
            requester.stop.eq(self.stop),
            requester.squashed.eq(reader.squashed),
            reader.squash.eq(requester.squash),
            self.outside.eq(requester.outside),
            self.drained.eq(requester.drained),
        ]
        copied = self._route(m, reader.chunks, converter)
        connect(m, converter.output, writer.input)
        written = converter.output.valid & converter.output.ready
        result, chunk = converter.output.payload.settings, reader.chunks.payload
        self._write(m, writer.write, failed=self.failed.bit_select(result.context, 1))
        m.d.comb += [
            self.done.eq((written & result.last) | (copied & chunk.last)),
            self.error.eq((written & result.error) | (copied & chunk.error)),
            self.not_a_number.eq(written & result.last & converter.stop),
            self.specials.eq(converter.not_a_number),
            self.underflows.eq(converter.underflows),
            self.overflows.eq(converter.overflows),
        ]
        return m

    def _write(self, m: Module, words: stream.Interface, *, failed: Value) -> None:
        """Writes words to the banks; those of a failed context are dropped, but an offer stays until it is accepted."""
        offered, dropped = Signal(), Signal()
        m.d.sync += offered.eq(self.write.valid & ~self.write.ready)
        m.d.comb += [
            dropped.eq(failed & ~offered),
            self.write.payload.eq(words.payload),
            self.write.valid.eq(words.valid & ~dropped),
            words.ready.eq(self.write.ready | dropped),
        ]

    def _route(self, m: Module, chunks: stream.Interface, converter: ChunkConverter) -> Signal:
        """Sends activations to the converter and beats to the other memories; returns when the latter.

        Beats wait until the converter is empty, so that instructions complete in order.
        """
        chunk, settings = chunks.payload, chunks.payload.settings
        is_activation = settings.target == isa.LoadTarget.ACTIVATIONS
        copied, copying, complete, kept = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            kept.eq(~self.failed.bit_select(settings.context, 1)),
            copying.eq(chunks.valid & ~is_activation & converter.empty),
            complete.eq(self._write_tables(m, chunk, enable=copying, kept=kept)),
            copied.eq(copying & complete),
            chunks.ready.eq(Mux(is_activation, converter.chunks.ready, converter.empty & complete)),
            converter.chunks.payload.eq(chunk),
            converter.chunks.valid.eq(chunks.valid & is_activation),
        ]
        to_weights = copied & kept & (settings.target == isa.LoadTarget.WEIGHTS)
        to_parameters = copied & kept & (settings.target == isa.LoadTarget.PARAMETERS)
        ports = [(port, to_weights & settings.lanes[lane]) for lane, port in enumerate(self.weight_write)]
        for port, enable in [*ports, (self.parameter_write, to_parameters)]:
            m.d.comb += [port.enable.eq(enable), port.address.eq(chunk.address), port.data.eq(chunk.data)]
        return copied

    def _write_tables(self, m: Module, chunk: data.View, *, enable: Value, kept: Value) -> Value:
        """Writes a beat of tables entry by entry; returns whether this cycle is the last (or only) one of a beat.

        Where the entries are not to be ``kept``, it only takes as long.
        """
        if not self._config.tables:
            return Const(1)
        entries = self._config.beat_entries
        is_table = chunk.settings.target == isa.LoadTarget.TABLES
        entry = Signal(range(entries))
        m.d.comb += [
            self.table_write.enable.eq(enable & is_table & kept),
            self.table_write.address.eq(chunk.address * entries + entry),
            self.table_write.data.eq(chunk.data.word_select(entry, len(self.table_write.data))),
        ]
        with m.If(enable & is_table):
            m.d.sync += entry.eq(entry + 1)
        return ~is_table | (entry == entries - 1)
