"""The store engine: activation banks to DRAM."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from tessera.rtl import isa
from tessera.rtl.axi import AxiWrite, address_layout, response_layout
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.dma.block import (
    RowWalker,
    block_layout,
    by_memory_bits,
    check_axi_id,
    depths_of,
    element_bytes,
    element_parts,
    fork_program,
    max_parts,
    select_depth,
    settings_layout,
)
from tessera.rtl.dma.bursts import TransferBursts
from tessera.rtl.dma.pack import Packer
from tessera.rtl.dma.value_converter import ValueConverter, place_layout, values_layout
from tessera.rtl.dma.write_data import WriteData
from tessera.rtl.interfaces import CONVERSION_COUNT_BITS, GangRead, address_bits, bank_words, layout_of
from tessera.rtl.stream_fifo import StreamFifo
from tessera.rtl.window import context_windows_input

_BURST_BITS = address_bits(AXI_BURST_BYTES)


def store_settings() -> data.StructLayout:
    """The fields of :class:`isa.Store` that say what becomes of an element."""
    return settings_layout(isa.Store)


def element_layout(config: NpuConfig) -> data.StructLayout:
    """An element as it was read from the banks."""
    return data.StructLayout({"words": bank_words(config), "place": place_layout(), "settings": store_settings()})


class WriteRequester(wiring.Component):
    """Issues the write bursts of blocks and gathers the responses.

    At most ``OUTSTANDING_BURSTS`` bursts wait for their response. Neither a burst outside the window of its context is
    issued, nor one of a context that has failed: see `TransferBursts`.

    Parameters
    ----------
    config
        Sizes of the NPU.
    axi_id
        Identifier of the bursts.

    Members
    -------
    blocks : In(stream of block_layout)
    aw : Out(stream of address_layout)
    b : In(stream of response_layout)
        Responses, in the order of the bursts.
    accepted : Out(1)
        The burst at ``aw`` is accepted in this cycle.
    done : Out(1)
        1 in the cycle of a block's last response, or in which it is squashed.
    error : Out(1)
        1 in the cycle of a response of the oldest block that was an error.
    stop : In(1)
        No more bursts are issued while 1, except one that has been offered.
    windows, failed, outside, squash, squashed, ended
        See `TransferBursts`.
    drained : Out(1)
        While ``stop`` is 1: every burst has got its response.
    """

    OUTSTANDING_BURSTS = 16

    def __init__(self, config: NpuConfig, *, axi_id: int):
        self._config = config
        self._axi_id = axi_id
        super().__init__(
            {
                "blocks": In(stream.Signature(block_layout(store_settings()))),
                "aw": Out(stream.Signature(address_layout())),
                "b": In(stream.Signature(response_layout())),
                "accepted": Out(1),
                "done": Out(1),
                "error": Out(1),
                "windows": context_windows_input(),
                "failed": In(isa.CONTEXTS),
                "stop": In(1),
                "outside": Out(1),
                "squash": Out(1),
                "squashed": In(1),
                "ended": Out(1),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.bursts = bursts = TransferBursts(self._config, store_settings(), self._row_bytes)
        m.submodules.ends = ends = StreamFifo(1, depth=self.OUTSTANDING_BURSTS)
        connect(m, flipped(self.blocks), bursts.blocks)
        burst = bursts.bursts.payload
        m.d.comb += [
            bursts.enable.eq(ends.input.ready & ~self.stop),
            bursts.drained.eq(~ends.output.valid),
            bursts.windows.eq(self.windows),
            bursts.failed.eq(self.failed),
            bursts.done.eq(self.done),
            bursts.squashed.eq(self.squashed),
            self.aw.payload.id.eq(self._axi_id),
            self.aw.payload.addr.eq(burst.addr),
            self.aw.payload.len.eq(burst.len),
            self.aw.valid.eq(bursts.bursts.valid),
            bursts.bursts.ready.eq(self.aw.ready),
            self.accepted.eq(self.aw.valid & self.aw.ready),
            ends.input.payload.eq(burst.last),
            ends.input.valid.eq(self.accepted),
            self.outside.eq(bursts.outside),
            self.squash.eq(bursts.squash),
            self.ended.eq(bursts.ended),
            self.drained.eq(~ends.output.valid & ~bursts.offered),
            self.b.ready.eq(1),
            ends.output.ready.eq(self.b.valid),
            self.done.eq((self.b.valid & ends.output.payload) | self.squashed),
            self.error.eq(self.b.valid & self.b.payload.resp[1]),
        ]
        return m

    def _row_bytes(self, row: data.View) -> Value:
        return element_bytes(self._config, row.columns, row.settings)


class ElementFetcher(wiring.Component):
    """Reads the elements of blocks from the banks, one per cycle, three cycles before they can be taken.

    A block that is squashed ends with the next element, unless its last one has been read already.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    blocks : In(stream of block_layout)
        DRAM addresses and pitches modulo the longest burst.
    read : Out(GangRead)
    elements : Out(stream of element_layout)
    squash : In(1)
        The oldest block that the address side is not done with is to end; there is none before it whose elements have
        not been taken.
    ended : In(1)
        The address side is done with a block.
    """

    DEPTH = 4
    """Elements that are under way or waiting; three would do for one element per cycle."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "blocks": In(stream.Signature(block_layout(store_settings(), dram_bits=_BURST_BITS))),
                "read": Out(GangRead(config)),
                "elements": Out(stream.Signature(element_layout(config))),
                "squash": In(1),
                "ended": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.walker = walker = RowWalker(store_settings(), dram_bits=_BURST_BITS)
        m.submodules.queue = queue = StreamFifo(element_layout(self._config), depth=self.DEPTH)
        connect(m, flipped(self.blocks), walker.blocks)
        connect(m, queue.output, flipped(self.elements))
        row, active, first = Signal.like(walker.rows.payload, reset_less=True), Signal(), Signal(reset_less=True)
        request = self.read.request
        requested, row_ends, cut, offered = Signal(), Signal(), Signal(), Signal()
        m.d.sync += offered.eq(request.valid & ~request.ready)
        m.d.comb += [
            row_ends.eq(row.columns == 1),
            cut.eq(self._is_squashed(m, requested & row_ends & row.last) & ~(row_ends & row.last) & active & ~offered),
            requested.eq(request.valid & request.ready),
            request.payload.lanes.eq(row.settings.lanes),
            request.payload.address.eq(row.base),
            request.valid.eq(active & ~cut & self._has_room(m, requested)),
            walker.skip.eq(cut & ~row.last),
            walker.rows.ready.eq(~active | (requested & row_ends) | walker.skip),
        ]
        with m.If(walker.rows.ready):
            m.d.sync += [row.eq(walker.rows.payload), active.eq(walker.rows.valid), first.eq(1)]
        with m.Elif(cut):
            m.d.sync += row.columns.eq(1)
        with m.Elif(requested):
            m.d.sync += [row.columns.eq(row.columns - 1), row.base.eq(row.base + 1), first.eq(0)]
        element = queue.input.payload
        place, settings = Signal.like(element.place, reset_less=True), Signal.like(row.settings, reset_less=True)
        arrives = Signal()
        m.d.sync += [
            arrives.eq(requested),
            place.address.eq(row.address),
            place.first.eq(first),
            place.last.eq(row_ends),
            place.block_ends.eq(row_ends & row.last),
            place.context.eq(row.settings.context),
            settings.eq(row.settings),
        ]
        m.d.comb += [
            element.words.eq(self.read.words),
            element.place.eq(place),
            element.settings.eq(settings),
            queue.input.valid.eq(arrives),
        ]
        return m

    def _is_squashed(self, m: Module, last_requested: Value) -> Value:
        """Whether the present row belongs to a block that is squashed: then all blocks that the address side is done
        with have been read, and this is the next one if no more have."""
        ahead = Signal(2)  # the address side holds two blocks at most
        m.d.sync += ahead.eq(ahead + last_requested - self.ended)
        return self.squash & (ahead == 0)

    def _has_room(self, m: Module, requested: Value) -> Value:
        """Counts the places of the queue that are promised; a request needs one."""
        promised = Signal(range(self.DEPTH + 1))
        m.d.sync += promised.eq(promised + requested - (self.elements.valid & self.elements.ready))
        return promised != self.DEPTH


class DigitReader(wiring.Component):
    """Joins the digits of elements to values. Combinational, latency 0.

    Where an element in DRAM is longer than a beat, its two halves or four quarters follow each other in the low
    channels.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    elements : In(stream of element_layout)
    values : Out(stream of values_layout)
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "elements": In(stream.Signature(element_layout(config))),
                "values": Out(stream.Signature(values_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        element, settings = self.elements.payload, self.elements.payload.settings
        values, place = self.values.payload, self.values.payload.place
        part, last_part = Signal(range(max_parts(self._config))), Signal(range(max_parts(self._config)))
        ends = part == last_part
        m.d.comb += [
            last_part.eq(by_memory_bits(self._config, settings, lambda bits: element_parts(self._config, bits) - 1)),
            self.values.valid.eq(self.elements.valid),
            self.elements.ready.eq(self.values.ready & ends),
            values.settings.eq(settings),
            place.address.eq(element.place.address),
            place.first.eq(element.place.first & (part == 0)),
            place.last.eq(element.place.last & ends),
            place.block_ends.eq(element.place.block_ends & ends),
            place.context.eq(element.place.context),
        ]
        with m.If(self.values.valid & self.values.ready):
            m.d.sync += part.eq((part + 1) & last_part)
        digits = []
        for index, word in enumerate(self._digits_of_gang(m, element.words, settings.lanes)):
            digit = Signal(self._config.word_bits, name=f"digit_{index}")
            m.d.comb += digit.eq(self._from_part(word, part, last_part))
            digits.append(digit)
        for channel, value in enumerate(values["values"]):
            m.d.comb += value.eq(self._value(digits, channel, settings))
        return m

    def _from_part(self, word: Value, part: Value, last_part: Value) -> Value:
        """A word with its channels from part ``part`` on at the bottom: those of the other parts do not count."""
        quarter_bits = self._config.word_bits // 4
        first, second, third, fourth = (word.word_select(index, quarter_bits) for index in range(4))
        quarter = Cat(Mux(last_part == 3, part, part << 1), Const(0, 2))
        low = Mux(quarter[1], Mux(quarter[0], fourth, third), Mux(quarter[0], second, first))
        return Cat(low, Mux(quarter[1], fourth, second), third, fourth)

    def _digits_of_gang(self, m: Module, words: data.View, lanes: Value) -> list[Value]:
        """The words that hold digit 0, 1, ... of the gang ``lanes``.

        Digit 0 is in the gang's lowest lane; digit 1 in lane 1 or, for the upper gang of two, lane 3.
        """
        lowest = Signal(self._config.word_bits)
        choice = words[self._config.lanes - 1]
        for lane in reversed(range(self._config.lanes - 1)):
            choice = Mux(lanes[lane], words[lane], choice)
        m.d.comb += lowest.eq(choice)
        digits: list[Value] = [lowest, *list(words)[1 : self._config.max_gang]]
        if self._config.lanes == 4 and self._config.max_gang > 1:
            digits[1] = Mux(lanes[0], words[1], words[3])
        return digits

    def _value(self, digits: list[Value], channel: int, settings: data.View) -> Value:
        """The value of a channel at the depth on chip."""
        fields = {}
        for code in depths_of(self._config):
            field = Cat(word.word_select(channel, 4) for word in digits[: code.digits])
            fields[code] = Cat(field, field[-1] & settings.chip_signed).as_signed()
        return select_depth(settings.chip_depth, fields)


class StoreEngine(wiring.Component):
    """Executes :class:`isa.Store`.

    The address side issues the bursts of a block; the data side reads, converts and packs its elements. Bursts of
    the next ``BLOCKS_AHEAD`` instructions may be issued early; a burst's data never precede its address. One
    element per cycle where it is at most a beat, else one beat per cycle (16 bits, floating point), as long as bus and
    banks follow. No byte outside the rows is written.

    To abandon its instructions, the engine is told to ``stop``, and is reset when it is ``drained``. Those of a context
    that has ``failed`` complete without another burst; the beats that bursts under way lack write nothing.

    Parameters
    ----------
    config
        Sizes of the NPU. Depths that are not in it are not built; what a program that names one writes is undefined.
    axi_id
        Identifier of the write bursts.

    Members
    -------
    program : In(stream of layout_of(isa.Store))
        ``columns``, ``rows`` and ``planes`` are at least 1, ``lanes`` is one gang of ``chip_depth``.
    read : Out(GangRead)
        Activations.
    axi : Out(AxiWrite)
    done : Out(1)
        1 in the cycle in which the last response of an instruction arrives, or in which it is squashed.
    error : Out(1)
        1 when a response of the oldest instruction was a bus error, not later than its ``done``.
    underflows, overflows : Out
        Values that the conversion to floating point has turned into 0 or the largest number; to be added up in each
        cycle.
    operation : Out(OPERATION_BITS)
        The operation for which they are counted.
    windows : In(window_layout x contexts)
        Where the bursts of each context may go; constant while there are instructions.
    failed : In(contexts)
        Contexts that have failed; a bit falls only while there are no instructions.
    outside : Out(1)
        1 from when all instructions before one with a burst outside its window are done, until its context has failed;
        that burst, and the rest of its instruction, are never issued.
    stop : In(1)
        No more bursts are issued, and the beats that bursts lack write nothing, while 1.
    drained : Out(1)
        While ``stop`` is 1: every burst has got its response.

    Raises
    ------
    ValueError
        The identifier does not fit.
    """

    BLOCKS_AHEAD = 4
    """Instructions whose bursts may be issued before the data of the oldest of them are sent."""

    def __init__(self, config: NpuConfig, *, axi_id: int = 2):
        check_axi_id(axi_id)
        self._config = config
        self._axi_id = axi_id
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(isa.Store))),
                "read": Out(GangRead(config)),
                "axi": Out(AxiWrite(config)),
                "done": Out(1),
                "error": Out(1),
                "underflows": Out(CONVERSION_COUNT_BITS),
                "overflows": Out(CONVERSION_COUNT_BITS),
                "operation": Out(isa.OPERATION_BITS),
                "windows": context_windows_input(),
                "failed": In(isa.CONTEXTS),
                "outside": Out(1),
                "stop": In(1),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.requester = requester = WriteRequester(self._config, axi_id=self._axi_id)
        m.submodules.fetcher = fetcher = ElementFetcher(self._config)
        m.submodules.blocks = blocks = StreamFifo(fetcher.blocks.p.shape(), depth=self.BLOCKS_AHEAD)
        m.submodules.reader = reader = DigitReader(self._config)
        m.submodules.converter = converter = ValueConverter(self._config)
        m.submodules.packer = packer = Packer(self._config)
        m.submodules.data = beats = WriteData(self._config, bursts=requester.OUTSTANDING_BURSTS)
        fork_program(m, self.program, requester.blocks, blocks.input)
        connect(m, blocks.output, fetcher.blocks)
        connect(m, fetcher.read, flipped(self.read))
        connect(m, fetcher.elements, reader.elements)
        connect(m, reader.values, converter.values)
        connect(m, converter.chunks, packer.chunks)
        connect(m, requester.aw, flipped(self.axi.aw))
        connect(m, flipped(self.axi.b), requester.b)
        connect(m, packer.beats, beats.beats)
        connect(m, beats.w, flipped(self.axi.w))
        m.d.comb += [
            beats.burst.eq(requester.accepted),
            beats.burst_len.eq(requester.aw.payload.len),
            beats.stop.eq(self.stop),
            beats.failed.eq(self.failed),
            beats.squash.eq(requester.squash),
            fetcher.squash.eq(requester.squash),
            fetcher.ended.eq(requester.ended),
            requester.squashed.eq(beats.squashed),
            requester.windows.eq(self.windows),
            requester.failed.eq(self.failed),
            requester.stop.eq(self.stop),
            self.done.eq(requester.done),
            self.error.eq(requester.error),
            self.underflows.eq(converter.underflows),
            self.overflows.eq(converter.overflows),
            self.operation.eq(converter.operation),
            self.outside.eq(requester.outside),
            self.drained.eq(requester.drained),
        ]
        return m
