"""Depth conversion: rounding shift and saturation of all channels of a chunk."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.block import FIELD_WIDTHS, depths_of, select_depth
from tessera.rtl.dma.pipeline import connect_pipeline

VALUE_BITS = 17
"""Bits of a value before conversion: 16 bits, signed or not, in two's complement."""

RESULT_BITS = 16
"""Bits of a converted value."""


def unconverted_layout(config: NpuConfig, settings: ShapeLike) -> data.StructLayout:
    """Values of a pixel's channels with the conversion to be made: result depth and sign, right shift."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(signed(VALUE_BITS), config.word_digits),
            "depth": FIELD_WIDTHS["chip_depth"],
            "signed": 1,
            "shift": signed(isa.INTEGER_SHIFT_BITS),
            "settings": settings,
        }
    )


def converted_layout(config: NpuConfig, settings: ShapeLike) -> data.StructLayout:
    """Converted values: two's complement in ``RESULT_BITS`` bits, whatever the depth."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(RESULT_BITS, config.word_digits),
            "depth": FIELD_WIDTHS["chip_depth"],
            "settings": settings,
        }
    )


class DepthConverter(wiring.Component):
    """Makes ``saturate(round_half_even(value / 2 ** shift), depth)`` of every channel, exactly.

    Latency ``LATENCY`` cycles, one pixel per cycle. Three stages: the values are registered, then shifted, then
    rounded and saturated.

    Parameters
    ----------
    config
        Sizes of the NPU; limits to depths that are not in it are not built.
    settings
        Shape of what accompanies the values unchanged.

    Members
    -------
    input : In(stream of unconverted_layout)
    output : Out(stream of converted_layout)
    empty : Out(1)
        1 while nothing is inside.
    """

    LATENCY = 3

    def __init__(self, config: NpuConfig, settings: ShapeLike):
        self._config = config
        self._settings = settings
        super().__init__(
            {
                "input": In(stream.Signature(unconverted_layout(config, settings))),
                "output": Out(stream.Signature(converted_layout(config, settings))),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        moves, empty = connect_pipeline(m, self.input, self.output, self.LATENCY)
        m.d.comb += self.empty.eq(empty)
        values = Signal(self.input.payload.values.shape(), reset_less=True)
        conversion = self._follow(m, moves[0], self.input.payload)
        with m.If(moves[0]):
            m.d.sync += values.eq(self.input.payload.values)
        left_mask, sticky_mask = _masks(m, conversion.shift)
        channels = [_shift(value, conversion.shift, left_mask, sticky_mask) for value in values]
        shifted = [_ShiftedValue(channel) for channel in range(len(channels))]
        with m.If(moves[1]):
            for registers, parts in zip(shifted, channels):
                registers.load(m, *parts)
        conversion = self._follow(m, moves[1], conversion)
        low, high = depth_limits(m, depths_of(self._config), conversion.depth, conversion.signed)
        result = Signal(self.output.payload.values.shape(), reset_less=True)
        rounded = Cat(value.rounded(m, low, high)[:RESULT_BITS] for value in shifted)
        with m.If(moves[2]):
            m.d.sync += result.eq(rounded)
        conversion = self._follow(m, moves[2], conversion)
        m.d.comb += [
            self.output.payload.values.eq(result),
            self.output.payload.depth.eq(conversion.depth),
            self.output.payload.settings.eq(conversion.settings),
        ]
        return m

    def _follow(self, m: Module, move: Value, before: data.View) -> data.View:
        """A register stage of what accompanies the values."""
        names = ("depth", "signed", "shift", "settings")
        fields = dict(self.input.payload.shape())
        conversion = Signal(data.StructLayout({name: fields[name].shape for name in names}), reset_less=True)
        with m.If(move):
            m.d.sync += [conversion[name].eq(before[name]) for name in names]
        return conversion


class _ShiftedValue:
    """Registers of one channel between shifting and rounding, and the rounded value."""

    def __init__(self, channel: int):
        self._shifted = Signal(signed(VALUE_BITS + 1), name=f"shifted_{channel}", reset_less=True)
        self._sticky = Signal(name=f"sticky_{channel}", reset_less=True)
        self._lost = Signal(name=f"lost_{channel}", reset_less=True)
        self._negative = Signal(name=f"negative_{channel}", reset_less=True)
        self._rounded = Signal(signed(VALUE_BITS), name=f"rounded_{channel}")

    def load(self, m: Module, shifted: Value, sticky: Value, lost: Value, negative: Value) -> None:
        """Loads the registers with what :func:`_shift` returns."""
        m.d.sync += [
            self._shifted.eq(shifted),
            self._sticky.eq(sticky),
            self._lost.eq(lost),
            self._negative.eq(negative),
        ]

    def rounded(self, m: Module, low: Value, high: Value) -> Value:
        """The value rounded half to even and saturated to ``low .. high``."""
        half, odd = self._shifted[0], self._shifted[1]
        m.d.comb += self._rounded.eq((self._shifted >> 1) + (half & (self._sticky | odd)))
        beyond = Mux(self._negative, self._rounded < low, self._rounded > high)
        return Mux(self._lost | beyond, Mux(self._negative, low, high), self._rounded)


def _masks(m: Module, shift: Value) -> tuple[Signal, Signal]:
    """Bits of a value that a left shift must not lose, and bits below the half that a right shift drops."""
    left_mask = Signal(VALUE_BITS - 1)
    sticky_mask = Signal(VALUE_BITS - 3)
    with m.Switch(shift):
        for left in range(1, 17):
            with m.Case(-left):
                m.d.comb += left_mask.eq(((1 << left) - 1) << (16 - left))
        for right in range(2, 16):
            with m.Case(right):
                m.d.comb += sticky_mask.eq((1 << (right - 1)) - 1)
    return left_mask, sticky_mask


def depth_limits(m: Module, depths: tuple[isa.Depth, ...], depth: Value, is_signed: Value) -> tuple[Signal, Signal]:
    """Smallest and largest value of a depth."""
    low, high = Signal(signed(VALUE_BITS)), Signal(signed(VALUE_BITS))
    lows = {code: Mux(is_signed, -(1 << code.bits - 1), 0) for code in depths}
    highs = {code: Mux(is_signed, (1 << code.bits - 1) - 1, (1 << code.bits) - 1) for code in depths}
    m.d.comb += [low.eq(select_depth(depth, lows)), high.eq(select_depth(depth, highs))]
    return low, high


def _shift(value: Value, shift: Value, left_mask: Value, sticky_mask: Value) -> tuple[Value, Value, Value, Value]:
    """Shifts a value: the result with one bit of fraction, whether more fraction was dropped, whether a left shift
    lost bits, and the sign.
    """
    sign = value[-1]
    # 17 zeros below the value, shifted right by shift + 16, leave one bit of fraction.
    shifted = (value << 17) >> (shift + 16)[:5]
    lost = ((value ^ sign.replicate(VALUE_BITS)) & left_mask).any()
    return shifted, (value & sticky_mask).any(), lost, sign
