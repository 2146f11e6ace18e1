"""Three-dimensional blocks: the descriptor, its rows, and the bus bursts of a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa
from tessera.rtl.axi import address_layout
from tessera.rtl.config import AXI_ID_BITS, NpuConfig
from tessera.rtl.interfaces import address_bits, layout_of
from tessera.rtl.window import is_inside, window_input

BLOCK_FIELDS = (
    "address", "columns", "rows", "planes", "row_pitch", "plane_pitch",
    "base", "chip_row_pitch", "chip_plane_pitch",
)  # fmt: skip
"""Fields of :class:`isa.Load` and :class:`isa.Store` that say where the elements lie."""

FIELD_WIDTHS = {field.name: field.width for field in isa.fields_of(isa.Load)}
"""Widths of the fields of a DMA instruction (of a load, which has all that a store has), in bits."""

_DRAM_FIELDS = ("address", "row_pitch", "plane_pitch")


def settings_layout(instruction: type[isa.Instruction]) -> data.StructLayout:
    """The fields of a DMA instruction that say what becomes of an element: all but the block."""
    return data.StructLayout({name: field.shape for name, field in layout_of(instruction) if name not in BLOCK_FIELDS})


def block_layout(settings: ShapeLike, *, dram_bits: int = FIELD_WIDTHS["address"]) -> data.StructLayout:
    """The block of a DMA instruction, with what else is to be known about it.

    ``dram_bits`` is the number of low bits that are kept of DRAM addresses and pitches.
    """
    members = {
        name: min(FIELD_WIDTHS[name], dram_bits) if name in _DRAM_FIELDS else FIELD_WIDTHS[name]
        for name in BLOCK_FIELDS
    }
    return data.StructLayout({**members, "settings": settings})


def row_layout(settings: ShapeLike, *, dram_bits: int = FIELD_WIDTHS["address"]) -> data.StructLayout:
    """A row of a block: ``columns`` elements from DRAM address ``address`` and on-chip address ``base``.

    ``last`` marks the block's last row.
    """
    return data.StructLayout(
        {
            "address": dram_bits,
            "columns": FIELD_WIDTHS["columns"],
            "base": FIELD_WIDTHS["base"],
            "last": 1,
            "settings": settings,
        }
    )


def times(value: Value, factor: int) -> Value:
    """``value * factor`` as a sum of shifted values, so that no multiplier is built."""
    terms = [value << bit for bit in range(factor.bit_length()) if factor >> bit & 1]
    return sum(terms[1:], terms[0])


def depths_of(config: NpuConfig) -> tuple[isa.Depth, ...]:
    """The activation depths that the machine is built for."""
    return tuple(isa.Depth.of(bits) for bits in config.activation_depths)


def select_depth(depth: Value, choices: Mapping[isa.Depth, Value]) -> Value:
    """The value of the given depth. A depth without a value gives that of the last one."""
    *others, last = choices.items()
    selected = last[1]
    for code, value in reversed(others):
        selected = Mux(depth == code, value, selected)
    return selected


def by_memory_bits(config: NpuConfig, settings: data.View, choice: Callable[[int], Value | int]) -> Value:
    """``choice`` of the bits that a value has in DRAM by the fields of an :class:`isa.Transfer`."""
    selected = select_depth(settings.memory_depth, {code: choice(code.bits) for code in depths_of(config)})
    for bits in sorted({code.bits for code in config.memory_formats}):
        chosen = Cat(settings.memory_format == code for code in config.memory_formats if code.bits == bits).any()
        selected = Mux(chosen, choice(bits), selected)
    return selected


def element_bytes(config: NpuConfig, columns: Value, settings: data.View) -> Value:
    """Bytes of ``columns`` packed activation elements in DRAM."""
    return by_memory_bits(config, settings, lambda bits: times(columns, config.pixel_bytes(bits)))


def element_parts(config: NpuConfig, bits: int) -> int:
    """Beats' worth of an element whose values have ``bits`` bits in DRAM: a power of two."""
    return max(1, config.pixel_bytes(bits) // config.beat_bytes)


def max_parts(config: NpuConfig) -> int:
    """Parts of the longest element."""
    return element_parts(config, config.max_memory_bits)


def is_float(config: NpuConfig, settings: data.View) -> Value:
    """Whether the values in DRAM are floating-point numbers of a format that is built."""
    return Cat(Const(0, 1), *(settings.memory_format == code for code in config.memory_formats)).any()


class RowWalker(wiring.Component):
    """Walks the rows of a block: plane by plane, row by row. One row per cycle; a new block takes one more.

    Addresses wrap modulo their widths. ``rows`` and ``planes`` of a block are at least 1. A block ends early if its
    row is taken while ``skip`` is 1: that row is its last.

    Parameters
    ----------
    settings
        Shape of what accompanies the block unchanged.
    dram_bits
        Number of low bits that are kept of DRAM addresses.

    Members
    -------
    blocks : In(stream of block_layout)
    skip : In(1)
        The present row is the last one of its block.
    rows : Out(stream of row_layout)
    """

    def __init__(self, settings: ShapeLike, *, dram_bits: int = FIELD_WIDTHS["address"]):
        super().__init__(
            {
                "blocks": In(stream.Signature(block_layout(settings, dram_bits=dram_bits))),
                "skip": In(1),
                "rows": Out(stream.Signature(row_layout(settings, dram_bits=dram_bits))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        block = Signal.like(self.blocks.payload, reset_less=True)
        plane_address = Signal.like(block.address, reset_less=True)
        plane_base = Signal.like(block.base, reset_less=True)
        rows_left = Signal.like(block.rows, reset_less=True)
        m.d.comb += [
            self.blocks.ready.eq(~self.rows.valid),
            self.rows.payload.address.eq(block.address),
            self.rows.payload.columns.eq(block.columns),
            self.rows.payload.base.eq(block.base),
            self.rows.payload.last.eq(self.skip | ((rows_left == 1) & (block.planes == 1))),
            self.rows.payload.settings.eq(block.settings),
        ]
        active = Signal()
        m.d.comb += self.rows.valid.eq(active)
        next_address = Mux(rows_left == 1, plane_address + block.plane_pitch, block.address + block.row_pitch)
        next_base = Mux(rows_left == 1, plane_base + block.chip_plane_pitch, block.base + block.chip_row_pitch)
        with m.If(~active):
            m.d.sync += [
                active.eq(self.blocks.valid),
                block.eq(self.blocks.payload),
                plane_address.eq(self.blocks.payload.address),
                plane_base.eq(self.blocks.payload.base),
                rows_left.eq(self.blocks.payload.rows),
            ]
        with m.Elif(self.rows.ready):
            m.d.sync += [active.eq(~self.rows.payload.last), block.address.eq(next_address), block.base.eq(next_base)]
            with m.If(rows_left == 1):
                m.d.sync += [
                    plane_address.eq(next_address),
                    plane_base.eq(next_base),
                    rows_left.eq(block.rows),
                    block.planes.eq(block.planes - 1),
                ]
            with m.Else():
                m.d.sync += rows_left.eq(rows_left - 1)
        return m


def span_layout(config: NpuConfig) -> data.StructLayout:
    """A row of bytes in DRAM: first address, number of bytes (at least 1), whether it ends a block, and its context."""
    longest = ((1 << FIELD_WIDTHS["columns"]) - 1) * config.pixel_bytes(config.max_memory_bits)
    members = {
        "address": FIELD_WIDTHS["address"],
        "bytes": longest.bit_length(),
        "last": 1,
        "context": isa.CONTEXT_BITS,
    }
    return data.StructLayout(members)


def burst_layout() -> data.StructLayout:
    """An AXI address without its identifier, whether the burst ends a block, and its context."""
    members = {name: field.shape for name, field in address_layout() if name != "id"}
    return data.StructLayout({**members, "last": 1, "context": isa.CONTEXT_BITS})


class BurstSplitter(wiring.Component):
    """Covers spans of bytes with bursts. Latency 1 cycle, one burst per cycle.

    Bursts start at a multiple of the beat, have full-width beats, and end at a multiple of ``AXI_BURST_BYTES`` or
    with the span, so that none crosses 4 KiB. Every span has bursts of its own.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    spans : In(stream of span_layout)
    drop : In(1)
        The span that is split, if there is one, ends here.
    bursts : Out(stream of burst_layout)
    ends_block : Out(1)
        The span that is split ends a block.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "spans": In(stream.Signature(span_layout(config))),
                "drop": In(1),
                "bursts": Out(stream.Signature(burst_layout())),
                "ends_block": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat_bits = address_bits(self._config.beat_bytes)
        burst_beats = self._config.burst_beats
        span, burst = self.spans.payload, self.bursts.payload
        active = Signal()
        last = Signal(reset_less=True)
        context = Signal.like(span.context, reset_less=True)
        beat = Signal(len(span.address) - beat_bits, reset_less=True)
        beats = Signal(len(span.bytes) + 1 - beat_bits, reset_less=True)
        to_boundary = burst_beats - beat[: address_bits(burst_beats)]
        length = Signal(range(burst_beats + 1))
        final = Signal()
        m.d.comb += [
            final.eq(beats <= to_boundary),
            length.eq(Mux(final, beats, to_boundary)),
            burst.addr.eq(beat << beat_bits),
            burst.len.eq(length - 1),
            burst.last.eq(last & final),
            burst.context.eq(context),
            self.bursts.valid.eq(active),
            self.ends_block.eq(last),
            self.spans.ready.eq(~active | (final & self.bursts.ready) | self.drop),
        ]
        with m.If(self.spans.ready):
            m.d.sync += [
                active.eq(self.spans.valid),
                last.eq(span.last),
                context.eq(span.context),
                beat.eq(span.address >> beat_bits),
                beats.eq((span.address[:beat_bits] + span.bytes + self._config.beat_bytes - 1) >> beat_bits),
            ]
        with m.Elif(self.bursts.ready):
            m.d.sync += [beat.eq(beat + length), beats.eq(beats - length)]
        return m


class BurstGate(wiring.Component):
    """Passes the bursts that lie in a window. Combinational; latency 0.

    The first burst outside the window stays at the gate, and with it all that follow.

    Members
    -------
    window : In(window_layout)
        Constant while a burst is at the gate.
    enable : In(1)
        Bursts may pass. One that has been offered stays so, whatever ``enable`` becomes.
    bursts : In(stream of burst_layout)
    passed : Out(stream of burst_layout)
    outside : Out(1)
        1 while a burst outside the window is at the gate.
    offered : Out(1)
        1 while a burst must still be accepted: it was offered in the cycle before.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "window": window_input(),
                "enable": In(1),
                "bursts": In(stream.Signature(burst_layout())),
                "passed": Out(stream.Signature(burst_layout())),
                "outside": Out(1),
                "offered": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inside, open_ = Signal(), Signal()
        m.d.comb += [
            inside.eq(is_inside(self.window, self.bursts.payload.addr)),
            open_.eq(inside & (self.enable | self.offered)),
            self.passed.payload.eq(self.bursts.payload),
            self.passed.valid.eq(self.bursts.valid & open_),
            self.bursts.ready.eq(self.passed.ready & open_),
            self.outside.eq(self.bursts.valid & ~inside),
        ]
        m.d.sync += self.offered.eq(self.passed.valid & ~self.passed.ready)
        return m


class OpenBlocks(wiring.Component):
    """Counts the blocks that have all their bursts but are not done.

    A block with a burst outside the window is the oldest one in the engine when there are none.

    Members
    -------
    issued : In(1)
        The last burst of a block is accepted in this cycle.
    done : In(1)
        A block is done in this cycle.
    none : Out(1)
    """

    MOST = 63
    """Blocks that can be counted: more than the queues and pipelines of an engine hold together."""

    def __init__(self) -> None:
        super().__init__({"issued": In(1), "done": In(1), "none": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(range(self.MOST + 1))
        m.d.sync += count.eq(count + self.issued - self.done)
        m.d.comb += self.none.eq(count == 0)
        return m


def fork_program(m: Module, program: stream.Interface, addresses: stream.Interface, elements: stream.Interface) -> None:
    """Hands each program to the address side and to the data side at once, in a cycle in which both are ready."""
    both = addresses.ready & elements.ready
    m.d.comb += [
        program.ready.eq(both),
        addresses.valid.eq(program.valid & elements.ready),
        elements.valid.eq(program.valid & addresses.ready),
    ]
    for side in (addresses.payload, elements.payload):
        m.d.comb += [side[name].eq(program.payload[name]) for name in BLOCK_FIELDS]
        for name in dict(side.shape()["settings"].shape):
            m.d.comb += side.settings[name].eq(program.payload[name])


def check_axi_id(axi_id: int) -> None:
    """Raises `ValueError` if the identifier does not fit the bus."""
    if not 0 <= axi_id < 1 << AXI_ID_BITS:
        raise ValueError(f"the AXI identifier must be from 0 to {(1 << AXI_ID_BITS) - 1}, not {axi_id}")
