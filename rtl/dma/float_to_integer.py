"""Loads from floating point: the numbers of a beat to integers, and the integers of several beats to an element."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.block import FIELD_WIDTHS, depths_of, max_parts
from tessera.rtl.dma.convert import RESULT_BITS, VALUE_BITS, converted_layout, depth_limits
from tessera.rtl.dma.pipeline import connect_pipeline, count_ones, registered, shift_right
from tessera.rtl.isa import MemoryFormat, NanPolicy

_FRACTION_BITS = max(item.fraction_bits for item in MemoryFormat)
_EXPONENT_BITS = max(item.exponent_bits for item in MemoryFormat)

_LEADING_ZEROS = MemoryFormat.FP16.fraction_bits
"""Most leading zeros that a significand may have and the number still be in range: those of a subnormal FP16 number.
The other formats' subnormal numbers are far below one half with every shift."""

_TOP = RESULT_BITS + _LEADING_ZEROS
"""Weight of a significand's leading bit, as a power of two, from which on every number but 0 saturates."""

_SHIFTED_BITS = _TOP + 1
"""Bits of a magnitude with one bit of fraction."""


def numbers_of_beat(config: NpuConfig) -> int:
    """Numbers of the narrowest floating-point format in a beat: the channels of a converter."""
    return config.axi_data_bits // min(item.bits for item in config.memory_formats)


def formats_of_number(config: NpuConfig, number: int) -> tuple[MemoryFormat, ...]:
    """The formats that are built in which a beat has a number of that index."""
    return tuple(item for item in config.memory_formats if (number + 1) * item.bits <= config.axi_data_bits)


def float_beat_layout(config: NpuConfig, settings: ShapeLike) -> data.StructLayout:
    """A beat of numbers with the conversion to be made: the fields of :class:`isa.Load` of the same names.

    ``part`` counts the beats of an element; ``element_ends`` marks the last of them, ``last`` the last of a block.
    """
    names = ("memory_format", "chip_depth", "chip_signed", "nan_policy")
    return data.StructLayout(
        {
            "data": config.axi_data_bits,
            **{name: FIELD_WIDTHS[name] for name in names},
            "shift": signed(FIELD_WIDTHS["shift"]),
            "nan_value": signed(FIELD_WIDTHS["nan_value"]),
            "part": range(max_parts(config)),
            "element_ends": 1,
            "last": 1,
            "settings": settings,
        }
    )


@dataclass
class _Number:
    """A number between two stages of its pipeline: what it is, and its significand, shifted or not."""

    negative: Value
    special: Value
    nan: Value
    nonzero: Value
    huge: Value
    bits: Value
    sticky: Value
    distance: Value

    def registered(self, m: Module, move: Value, name: str) -> _Number:
        """The same after a register stage."""
        return _Number(*(registered(m, move, value, f"{name}_{part}") for part, value in vars(self).items()))


@dataclass(frozen=True)
class _Integer:
    """A converted number, and what happened to it."""

    value: Value
    special: Value
    underflow: Value
    overflow: Value


class FloatToInteger(wiring.Component):
    """Makes ``saturate(round_half_even(x / 2 ** shift), chip_depth)`` of every number x of an element, exactly, and
    what the policy says of NaN and infinity.

    Takes a beat per cycle; latency ``LATENCY`` cycles from an element's last beat to the element. Three stages:
    significand and distance of the shift; shift; round, saturate and join to an element.

    Parameters
    ----------
    config
        Sizes of the NPU; formats that are not in it are not built.
    settings
        Shape of what accompanies the numbers unchanged; its member ``lanes`` becomes 0 in elements that the policy
        keeps from being written.

    Members
    -------
    input : In(stream of float_beat_layout)
    output : Out(stream of converted_layout)
    empty : Out(1)
        1 while nothing is inside.
    stop : Out(1)
        1 together with a block's last element if the policy ``STOP_STREAM`` applies.
    not_a_number, underflows, overflows : Out
        Numbers of a beat that were NaN or infinity, became 0, or were saturated; each beat in a cycle of its own.
    """

    LATENCY = 3

    def __init__(self, config: NpuConfig, settings: ShapeLike):
        self._config = config
        self._numbers = numbers_of_beat(config)
        counts = range(self._numbers + 1)
        super().__init__(
            {
                "input": In(stream.Signature(float_beat_layout(config, settings))),
                "output": Out(stream.Signature(converted_layout(config, settings))),
                "empty": Out(1),
                "stop": Out(1),
                "not_a_number": Out(counts),
                "underflows": Out(counts),
                "overflows": Out(counts),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat = self.input.payload
        beats, joined = stream.Signature(beat.shape()).create(), Signal()
        moves, empty = connect_pipeline(m, self.input, beats, self.LATENCY - 1)
        origin = self._distance_origin(beat)
        numbers = [self._decode(beat, number, origin) for number in range(self._numbers)]
        numbers = [item.registered(m, moves[0], f"decoded_{index}") for index, item in enumerate(numbers)]
        first = registered(m, moves[0], beat, "first")
        numbers = [self._shift(m, item, index) for index, item in enumerate(numbers)]
        numbers = [item.registered(m, moves[1], f"shifted_{index}") for index, item in enumerate(numbers)]
        second = registered(m, moves[1], first, "second")
        low, high = depth_limits(m, depths_of(self._config), second.chip_depth, second.chip_signed)
        replacement = self._replacement(m, second, low, high)
        integers = [self._round(m, item, low, high, replacement, index) for index, item in enumerate(numbers)]
        m.d.comb += [
            beats.ready.eq(~self.output.valid | self.output.ready),
            joined.eq(beats.valid & beats.ready),
            self.empty.eq(empty & ~self.output.valid),
        ]
        self._join(m, joined, second, integers)
        stopped = self._stop(m, joined, second, Cat(item.special for item in integers).any())
        for port, name in (
            (self.not_a_number, "special"),
            (self.underflows, "underflow"),
            (self.overflows, "overflow"),
        ):
            flags = [getattr(item, name) for item in integers]
            m.d.comb += port.eq(count_ones(m, joined & ~stopped, flags, f"count_{name}"))
        return m

    def _distance_origin(self, beat: data.View) -> Value:
        """The distance of the right shift of a significand, less its (biased) exponent."""
        origin: Value = Const(0)
        for code in self._config.memory_formats:
            origin = Mux(beat.memory_format == code, _TOP - 1 + code.bias, origin)
        return (origin + beat.shift).as_signed()

    def _decode(self, beat: data.View, number: int, origin: Value) -> _Number:
        """Takes a number of a beat apart."""
        exponent, fraction = Const(0, _EXPONENT_BITS), Const(0, _FRACTION_BITS)
        negative, special = Const(0, 1), Const(0, 1)
        for code in formats_of_number(self._config, number):
            chosen = beat.memory_format == code
            pattern = beat.data.word_select(number, code.bits)
            own_exponent = pattern[code.fraction_bits : -1]
            own_fraction = Cat(Const(0, _FRACTION_BITS - code.fraction_bits), pattern[: code.fraction_bits])
            exponent = Mux(chosen, own_exponent, exponent)
            fraction = Mux(chosen, own_fraction, fraction)
            negative = Mux(chosen, pattern[-1], negative)
            special = Mux(chosen, own_exponent.all(), special)
        normal = exponent.any()
        distance = (origin - Cat(exponent[0] | ~normal, exponent[1:])).as_signed()
        return _Number(
            negative=negative,
            special=special,
            nan=fraction.any(),
            nonzero=normal | fraction.any(),
            huge=distance < 0,
            bits=Cat(fraction, normal),
            sticky=Const(0, 1),
            distance=distance,
        )

    def _shift(self, m: Module, number: _Number, index: int) -> _Number:
        """Shifts a significand to a magnitude with one bit of fraction."""
        padding = _SHIFTED_BITS - len(number.bits)
        used = _SHIFTED_BITS.bit_length()
        value = Cat(Const(0, padding), number.bits)
        shifted, sticky = shift_right(m, value, number.distance[:used], _SHIFTED_BITS, f"step_{index}")
        vanishes = number.distance[used:-1].any()
        return _Number(
            negative=number.negative,
            special=number.special,
            nan=number.nan,
            nonzero=number.nonzero,
            huge=number.huge,
            bits=Mux(vanishes, 0, shifted),
            sticky=sticky,
            distance=Const(0, 0),
        )

    def _replacement(self, m: Module, beat: data.View, low: Value, high: Value) -> Value:
        """What the policy ``REPLACE`` puts in place of NaN and infinity."""
        value = Signal(signed(VALUE_BITS), name="replacement")
        m.d.comb += value.eq(Mux(beat.nan_value < low, low, Mux(beat.nan_value > high, high, beat.nan_value)))
        return Cat(value, beat.nan_policy == NanPolicy.REPLACE)

    def _round(self, m: Module, number: _Number, low: Value, high: Value, replacement: Value, index: int) -> _Integer:
        """Rounds half to even, applies the sign, and saturates; NaN becomes 0 and infinity a limit, or both what
        replaces them.

        The sign goes before the rounding: ``-(q + 1)`` is ``~q`` and ``-q`` is ``~q + 1``.
        """
        quotient, half = number.bits[1 : VALUE_BITS + 1], number.bits[0]
        above = number.bits[VALUE_BITS + 1 :].any() | number.huge
        round_up = half & (number.sticky | quotient[0])
        rounded = Signal(signed(VALUE_BITS + 2), name=f"rounded_{index}")
        flipped = Cat(quotient ^ number.negative.replicate(len(quotient)), number.negative).as_signed()
        m.d.comb += rounded.eq(flipped + (round_up ^ number.negative))
        beyond = (above & number.nonzero) | Mux(number.negative, rounded < low, rounded > high)
        limit = Mux(number.negative, low, high)
        special_value = Mux(replacement[-1], replacement[:-1], Mux(number.nan, 0, limit))
        value = Mux(number.special, special_value, Mux(beyond, limit, rounded))
        return _Integer(
            value=value[:RESULT_BITS],
            special=number.special,
            underflow=number.nonzero & ~number.special & ~above & (rounded == 0),
            overflow=beyond & ~number.special,
        )

    def _join(self, m: Module, joined: Value, beat: data.View, integers: list[_Integer]) -> None:
        """Puts the integers of a beat in their place in the element, which is complete with the last of them."""
        valid = Signal()
        element = Signal(self.output.payload.shape(), reset_less=True)
        with m.If(joined):
            m.d.sync += [
                valid.eq(beat.element_ends),
                element.depth.eq(beat.chip_depth),
                element.settings.eq(beat.settings),
            ]
        with m.Elif(self.output.ready):
            m.d.sync += valid.eq(0)
        for channel, register in enumerate(element["values"]):
            value: Value = Const(0, RESULT_BITS)
            part: Value = Const(0)
            for bits in sorted({code.bits for code in self._config.memory_formats}):
                in_beat = self._config.axi_data_bits // bits
                chosen = Cat(
                    beat.memory_format == code for code in self._config.memory_formats if code.bits == bits
                ).any()
                value = Mux(chosen, integers[channel % in_beat].value, value)
                part = Mux(chosen, channel // in_beat, part)
            with m.If(joined & (beat.part == part)):
                m.d.sync += register.eq(value)
        m.d.comb += [self.output.valid.eq(valid), self.output.payload.eq(element)]

    def _stop(self, m: Module, joined: Value, beat: data.View, special: Value) -> Value:
        """Follows the policies that stop; returns whether an earlier element has stopped the load.

        From the first element with NaN or infinity to the end of the block, no lane is written.
        """
        stopped, found = Signal(), Signal()
        silent, fatal = Signal(reset_less=True), Signal(reset_less=True)
        policy = beat.nan_policy
        stops = (policy == NanPolicy.STOP_OPERATION) | (policy == NanPolicy.STOP_STREAM)
        now = stopped | (stops & (found | special))
        with m.If(joined):
            m.d.sync += [
                found.eq(~beat.element_ends & (found | special)),
                stopped.eq(~beat.last & Mux(beat.element_ends, now, stopped)),
                silent.eq(now),
                fatal.eq(now & beat.last & (policy == NanPolicy.STOP_STREAM)),
            ]
        with m.If(silent):
            m.d.comb += self.output.payload.settings.lanes.eq(0)
        m.d.comb += self.stop.eq(self.output.valid & fatal)
        return stopped
