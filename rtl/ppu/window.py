"""The window reader: pooling, and copying of activations into the post-processing unit."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import GangRead, combined_sums, layout_of
from tessera.rtl.isa import Reduction, Window
from tessera.rtl.ppu.fetch import GangFetch, fetch_layout, fetched_layout, value_bits

COORDINATE_BITS = 16
"""Width of signed input coordinates: every program's lie between -4096 and 20190."""

AREA_BITS = 16
"""Bits of the number of positions of the largest window."""


def position_tag() -> data.StructLayout:
    """What a position is to its window: its ``first`` or ``last`` position; ``end``: the last one of the program."""
    return data.StructLayout({"first": 1, "last": 1, "end": 1, "reduction": Reduction})


class WindowReader(wiring.Component):
    """Executes `Window` programs: reads every position of every window, and reduces each window to one result.

    One position per cycle, those outside the input (which are not read) included, without a pause between windows
    or programs. The sum and the maximum of a window that lies outside the input entirely are 0.

    Parameters
    ----------
    config
        Sizes; only the activation depths that it names are built.

    Members
    -------
    program : In(stream of Window)
        What to read; ``slice`` is ignored.
    read : Out(GangRead)
        Port of the banks.
    sums : Out(stream of combined_sums)
        The results, pixel by pixel; of a window of one position ``LATENCY`` cycles after the program's transfer, if
        the banks grant the read at once.
    done : Out(1)
        1 in the cycle in which the last result of a program is taken.
    """

    LATENCY = 3 + GangFetch.LATENCY
    """Cycles from a program's transfer to the result of a first window of one position."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(Window))),
                "read": Out(GangRead(config)),
                "sums": Out(stream.Signature(combined_sums(config))),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.positions = positions = WindowPositions(self._config)
        m.submodules.fetch = fetch = GangFetch(self._config, position_tag())
        m.submodules.reducer = reducer = WindowReducer(self._config)
        wiring.connect(m, wiring.flipped(self.program), positions.program)
        wiring.connect(m, positions.position, fetch.request)
        wiring.connect(m, fetch.read, wiring.flipped(self.read))
        wiring.connect(m, fetch.fetched, reducer.fetched)
        wiring.connect(m, reducer.sums, wiring.flipped(self.sums))
        m.d.comb += self.done.eq(reducer.done)
        return m


class WindowPositions(wiring.Component):
    """Walks the positions of a program's windows: loops ty, tx, ky, kx, innermost last; one per cycle.

    Parameters
    ----------
    config
        Addresses wrap at its ``activation_words``.

    Members
    -------
    program : In(stream of Window)
        Accepted when idle or together with the last step of the one before.
    position : Out(stream of fetch_layout)
        The positions, from 2 cycles after the program's transfer, with `position_tag`; ``skip`` marks those outside
        the input.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(Window))),
                "position": Out(stream.Signature(fetch_layout(config, position_tag()))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        program = Signal.like(self.program.payload, name="current", reset_less=True)
        busy, valid, room, step, end = Signal(), Signal(), Signal(), Signal(), Signal()
        position = Signal.like(self.position.payload, name="held", reset_less=True)
        m.d.comb += [
            self.position.valid.eq(valid),
            self.position.payload.eq(position),
            room.eq(~valid | self.position.ready),
            step.eq(busy & room),
            self.program.ready.eq(~busy | (room & end)),
        ]
        with m.If(self.program.ready):
            m.d.sync += [busy.eq(self.program.valid), program.eq(self.program.payload)]
        y, x = self._walk(m, program, position.tag, step=step, end=end)
        with m.If(room):
            m.d.sync += valid.eq(busy)
            m.d.sync += [position[name].eq(program[name]) for name in ("lanes", "half", "depth", "signed")]
            m.d.sync += [
                position.tag.reduction.eq(program.reduction),
                position.address.eq(program.input_base + y * program.row_pitch + x),
                position.skip.eq((y < 0) | (y >= program.input_height) | (x < 0) | (x >= program.input_width)),
            ]
        return m

    def _walk(
        self, m: Module, program: data.View, tag: data.View, *, step: Value, end: Signal
    ) -> tuple[Signal, Signal]:
        """Counts through the loops; registers the flags of the position in ``tag``; returns its coordinates."""
        new = self.program.payload
        names = ("tile_height", "tile_width", "kernel_height", "kernel_width")
        # The counters run down to 1.
        ty, tx, ky, kx = (Signal.like(new[name], name=f"{name}_left", reset_less=True) for name in names)
        coordinate = signed(COORDINATE_BITS)
        y, x, window_y, window_x = (
            Signal(coordinate, name=name, reset_less=True) for name in ("y", "x", "window_y", "window_x")
        )
        first = Signal(reset_less=True)
        last_column, last_row = Signal(), Signal()
        m.d.comb += [
            last_column.eq(kx == 1),
            last_row.eq(ky == 1),
            end.eq(last_column & last_row & (tx == 1) & (ty == 1)),
        ]
        with m.If(step):
            m.d.sync += [tag.first.eq(first), tag.last.eq(last_column & last_row), tag.end.eq(end)]
        with m.If(self.program.ready):
            m.d.sync += [ty.eq(new.tile_height), tx.eq(new.tile_width), first.eq(1)]
            m.d.sync += [ky.eq(new.kernel_height), kx.eq(new.kernel_width)]
            m.d.sync += [value.eq(new.origin_y) for value in (y, window_y)]
            m.d.sync += [value.eq(new.origin_x) for value in (x, window_x)]
        with m.Elif(step):
            m.d.sync += [first.eq(last_column & last_row), kx.eq(kx - 1), x.eq(x + 1)]
            with m.If(last_column):
                m.d.sync += [kx.eq(program.kernel_width), x.eq(window_x), ky.eq(ky - 1), y.eq(y + 1)]
            with m.If(last_column & last_row):
                m.d.sync += [ky.eq(program.kernel_height), y.eq(window_y), tx.eq(tx - 1)]
                m.d.sync += [value.eq(window_x + program.stride_x) for value in (x, window_x)]
                with m.If(tx == 1):
                    m.d.sync += [tx.eq(program.tile_width), ty.eq(ty - 1)]
                    m.d.sync += [value.eq(program.origin_x) for value in (x, window_x)]
                    m.d.sync += [value.eq(window_y + program.stride_y) for value in (y, window_y)]
        return y, x


class WindowReducer(wiring.Component):
    """Reduces the values of each window to their sum or maximum, one position per cycle.

    Parameters
    ----------
    config
        Sizes.

    Members
    -------
    fetched : In(stream of fetched_layout)
        The values, with `position_tag`.
    sums : Out(stream of combined_sums)
        The result of each window, from the cycle after its last position.
    done : Out(1)
        1 in the cycle in which the last result of a program is taken.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "fetched": In(stream.Signature(fetched_layout(config, position_tag()))),
                "sums": Out(stream.Signature(combined_sums(config))),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fetched, tag = self.fetched.payload, self.fetched.payload.tag
        valid, end = Signal(), Signal(reset_less=True)
        empty = Signal(reset_less=True)  # no position of this window has been inside the input so far
        fresh = Signal()
        m.d.comb += [
            self.sums.valid.eq(valid),
            self.fetched.ready.eq(~valid | self.sums.ready),
            self.done.eq(valid & self.sums.ready & end),
            fresh.eq(tag.first | empty),
        ]
        with m.If(self.fetched.ready):
            m.d.sync += valid.eq(self.fetched.valid & tag.last)
        with m.If(self.fetched.ready & self.fetched.valid):
            m.d.sync += [end.eq(tag.end), empty.eq(fresh & fetched.skip)]
        for channel in range(self._config.cols):
            result = Signal(signed(value_bits(self._config) + AREA_BITS), name=f"result_{channel}", reset_less=True)
            m.d.comb += self.sums.payload[channel].eq(result)
            with m.If(self.fetched.ready & self.fetched.valid):
                self._reduce(m, result, fetched.values[channel], fresh=fresh)
        return m

    def _reduce(self, m: Module, result: Signal, value: Value, *, fresh: Value) -> None:
        """``result`` becomes the reduction of what it was and ``value``."""
        fetched = self.fetched.payload
        with m.If(fetched.skip):
            m.d.sync += result.eq(Mux(fetched.tag.first, 0, result))
        with m.Elif(fetched.tag.reduction == Reduction.MAX):
            m.d.sync += result.eq(Mux(fresh | (value > result), value, result))
        with m.Else():
            m.d.sync += result.eq(Mux(fresh, 0, result) + value)
