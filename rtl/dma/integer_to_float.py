"""Stores to floating point: integers to the numbers of a beat."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.block import FIELD_WIDTHS
from tessera.rtl.dma.convert import VALUE_BITS
from tessera.rtl.dma.float_to_integer import formats_of_number, numbers_of_beat
from tessera.rtl.dma.pipeline import connect_pipeline, count_ones, registered, shift_right
from tessera.rtl.isa import MemoryFormat

_MAGNITUDE_BITS = VALUE_BITS - 1

_EXPONENT_BITS = (_MAGNITUDE_BITS + (1 << FIELD_WIDTHS["shift"] - 1) + max(f.bias for f in MemoryFormat)).bit_length()
"""Bits of a biased exponent, those that are too large included."""


def integers_layout(config: NpuConfig, settings: ShapeLike) -> data.StructLayout:
    """The integers of a beat with the conversion to be made: the fields of :class:`isa.Store` of the same names."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(signed(VALUE_BITS), numbers_of_beat(config)),
            "memory_format": FIELD_WIDTHS["memory_format"],
            "shift": signed(FIELD_WIDTHS["shift"]),
            "settings": settings,
        }
    )


def numbers_layout(config: NpuConfig, settings: ShapeLike) -> data.StructLayout:
    """A beat of floating-point numbers."""
    return data.StructLayout({"data": config.axi_data_bits, "settings": settings})


@dataclass
class _Number:
    """A number between two stages of its pipeline.

    ``bits`` is its magnitude, then its significand with the leading one (of normal numbers) as its top bit and one bit
    more than the widest fraction; ``exponent`` is biased, 0 for subnormal numbers.
    """

    negative: Value
    nonzero: Value
    bits: Value
    sticky: Value
    exponent: Value
    distance: Value

    def registered(self, m: Module, move: Value, name: str) -> _Number:
        """The same after a register stage."""
        return _Number(*(registered(m, move, value, f"{name}_{part}") for part, value in vars(self).items()))


@dataclass(frozen=True)
class _Rounded:
    """A number's bit pattern, in as many bits as its widest format has, and what happened to it."""

    pattern: Value
    underflow: Value
    overflow: Value


def significand_bits(config: NpuConfig, number: int) -> int:
    """Bits of a number's significand before rounding: the leading one, the widest fraction, and a bit below."""
    return 2 + max(code.fraction_bits for code in formats_of_number(config, number))


class IntegerToFloat(wiring.Component):
    """Makes of every integer x the number nearest to ``x / 2 ** shift``, half to even, subnormal numbers included; what
    would be rounded to infinity becomes the largest finite number.

    Latency ``LATENCY`` cycles, one beat per cycle. Four stages: magnitude; leading zeros and exponent; shift; round.

    Parameters
    ----------
    config
        Sizes of the NPU; formats that are not in it are not built.
    settings
        Shape of what accompanies the integers unchanged.

    Members
    -------
    input : In(stream of integers_layout)
        Where a format has fewer numbers in a beat than there are values, the first ones count.
    output : Out(stream of numbers_layout)
    empty : Out(1)
        1 while nothing is inside.
    underflows, overflows : Out
        Integers of a beat that were not 0 and became 0, or became the largest number; each beat in a cycle of its own.
    """

    LATENCY = 4

    def __init__(self, config: NpuConfig, settings: ShapeLike):
        self._config = config
        self._numbers = numbers_of_beat(config)
        counts = range(self._numbers + 1)
        super().__init__(
            {
                "input": In(stream.Signature(integers_layout(config, settings))),
                "output": Out(stream.Signature(numbers_layout(config, settings))),
                "empty": Out(1),
                "underflows": Out(counts),
                "overflows": Out(counts),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        moves, empty = connect_pipeline(m, self.input, self.output, self.LATENCY)
        beat = self.input.payload
        numbers = [self._magnitude(value) for value in beat["values"]]
        numbers = [item.registered(m, moves[0], f"magnitude_{index}") for index, item in enumerate(numbers)]
        room = registered(m, moves[0], self._room(beat), "room")
        numbers = [self._normalise(item, room, index) for index, item in enumerate(numbers)]
        numbers = [item.registered(m, moves[1], f"normalised_{index}") for index, item in enumerate(numbers)]
        numbers = [self._shift(m, item, index) for index, item in enumerate(numbers)]
        numbers = [item.registered(m, moves[2], f"shifted_{index}") for index, item in enumerate(numbers)]
        memory_format, settings = beat.memory_format, beat.settings
        for stage in range(self.LATENCY - 1):
            memory_format = registered(m, moves[stage], memory_format, f"format_{stage}")
        for stage in range(self.LATENCY):
            settings = registered(m, moves[stage], settings, f"settings_{stage}")
        rounded = [self._round(m, item, memory_format, index) for index, item in enumerate(numbers)]
        m.d.comb += [
            self.empty.eq(empty),
            self.output.payload.data.eq(registered(m, moves[3], self._beat(rounded, memory_format), "data")),
            self.output.payload.settings.eq(settings),
        ]
        for port, name in ((self.underflows, "underflow"), (self.overflows, "overflow")):
            flags = [getattr(item, name) for item in rounded]
            m.d.comb += port.eq(count_ones(m, moves[3], flags, f"count_{name}"))
        return m

    def _magnitude(self, value: Value) -> _Number:
        negative = value[-1]
        magnitude = Mux(negative, -value, value)[:_MAGNITUDE_BITS]
        none = Const(0, 0)
        return _Number(negative, value.any(), magnitude, sticky=none, exponent=none, distance=none)

    def _room(self, beat: data.View) -> Value:
        """How far a magnitude may be shifted to the left: then its top bit is worth the format's least normal number.

        A number with no more leading zeros is normal, and its biased exponent is what remains of the room, and 1.
        """
        room: Value = Const(0)
        for code in self._config.memory_formats:
            room = Mux(beat.memory_format == code, _MAGNITUDE_BITS - 2 + code.bias, room)
        return (room - beat.shift).as_signed()

    def _normalise(self, number: _Number, room: Value, index: int) -> _Number:
        """Finds exponent and distance: to the left until the leading one is at the top or the room is used up."""
        zeros: Value = Const(_MAGNITUDE_BITS - 1)
        for bit in range(_MAGNITUDE_BITS):
            zeros = Mux(number.bits[bit], _MAGNITUDE_BITS - 1 - bit, zeros)
        vanished = significand_bits(self._config, index) + 1
        used_up = Mux(room < -vanished, -vanished, room)
        normal = zeros <= room
        farthest = _MAGNITUDE_BITS - 1
        width = (farthest + vanished).bit_length()
        return _Number(
            negative=number.negative,
            nonzero=number.nonzero,
            bits=number.bits,
            sticky=number.sticky,
            exponent=Mux(normal & number.nonzero, room - zeros + 1, 0)[:_EXPONENT_BITS],
            distance=Mux(normal, farthest - zeros, farthest - used_up)[:width],
        )

    def _shift(self, m: Module, number: _Number, index: int) -> _Number:
        """Shifts a magnitude to a significand: from its leftmost place back to the right."""
        kept = significand_bits(self._config, index)
        significand, sticky = shift_right(
            m, Cat(Const(0, kept - 1), number.bits), number.distance, kept, f"step_{index}"
        )
        return _Number(
            number.negative, number.nonzero, significand, sticky, exponent=number.exponent, distance=Const(0, 0)
        )

    def _round(self, m: Module, number: _Number, memory_format: Value, index: int) -> _Rounded:
        """Rounds half to even; carries from the fraction into the exponent are right, to infinity too."""
        formats = formats_of_number(self._config, index)
        truncated, round_up, chosen = Const(0, 0), Const(0, 0), {}
        for code in formats:
            chosen[code] = memory_format == code
            below = len(number.bits) - 1 - code.fraction_bits
            half, rest = number.bits[below - 1], number.bits[: below - 1].any() | number.sticky
            truncated = Mux(chosen[code], Cat(number.bits[below:-1], number.exponent), truncated)
            round_up = Mux(chosen[code], half & (rest | number.bits[below]), round_up)
        magnitude = Signal(_EXPONENT_BITS + max(code.fraction_bits for code in formats), name=f"rounded_{index}")
        m.d.comb += magnitude.eq(truncated + round_up)
        pattern, overflow = Const(0, 0), Const(0, 1)
        for code in formats:
            exponent = magnitude[code.fraction_bits :]
            beyond = exponent[: code.exponent_bits].all() | exponent[code.exponent_bits :].any()
            largest = ((1 << code.exponent_bits) - 1 << code.fraction_bits) - 1
            finite = Mux(beyond, largest, magnitude[: code.bits - 1])
            pattern = Mux(chosen[code], Cat(finite[: code.bits - 1], number.negative), pattern)
            overflow = Mux(chosen[code], beyond, overflow)
        underflow = number.nonzero & ~magnitude.any() & Cat(chosen.values()).any()
        return _Rounded(pattern, underflow, overflow)

    def _beat(self, numbers: list[_Rounded], memory_format: Value) -> Value:
        """The numbers side by side, as many as a beat has."""
        result: Value = Const(0, self._config.axi_data_bits)
        for bits in sorted({code.bits for code in self._config.memory_formats}):
            chosen = Cat(memory_format == code for code in self._config.memory_formats if code.bits == bits).any()
            patterns = (item.pattern[:bits] for item in numbers[: self._config.axi_data_bits // bits])
            result = Mux(chosen, Cat(patterns), result)
        return result
