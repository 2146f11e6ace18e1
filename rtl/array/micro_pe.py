"""The smallest multiplier unit."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import DIGIT_BITS

PRODUCT_BITS = 2 * DIGIT_BITS
"""Width of the product of a digit and half a weight, offset included."""


class MicroPe(wiring.Component):
    """Multiplies an activation digit by an 8-bit weight, or two digits by two 4-bit weights; combinational.

    Each half of the weight has its product, which is made without signs: partial products that count negative
    are inverted instead (the method of Baugh and Wooley), so that an output is the product plus a constant,
    `product_offset`. At W8 both digit inputs carry the same digit, the low half of the weight is unsigned and the high
    half signed; at W4 both halves are signed weights of their own. Offsets and the shift between the halves are
    left to the user, because they are needed once per output channel and not once per product.

    Members
    -------
    digit_low, digit_high : In(4)
        The digits that meet the low and the high half of the weight.
    digit_signed : In(1)
        1: the digits are two's complement; 0: they are unsigned.
    weight : In(8)
        W8: a signed weight. W4: two signed weights, the one of ``digit_low`` in the low half.
    is_w4 : In(1)
        How ``weight`` is read.
    low : Out(8)
        ``digit_low`` times the low half of the weight, plus ``product_offset(digit_signed, is_w4)``.
    high : Out(8)
        ``digit_high`` times the high half of the weight, plus ``product_offset(digit_signed, 1)``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "digit_low": In(DIGIT_BITS),
                "digit_high": In(DIGIT_BITS),
                "digit_signed": In(1),
                "weight": In(8),
                "is_w4": In(1),
                "low": Out(PRODUCT_BITS),
                "high": Out(PRODUCT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low, high = self.weight[:DIGIT_BITS], self.weight[DIGIT_BITS:]
        m.d.comb += [
            self.low.eq(_product(self.digit_low, low, self.digit_signed, self.is_w4)),
            self.high.eq(_product(self.digit_high, high, self.digit_signed, Const(1))),
        ]
        return m


def product_offset(digit_signed: int, weight_signed: int) -> int:
    """What the product of a digit and half a weight has too much."""
    return {0: 0, 1: 120, 2: 112}[digit_signed + weight_signed]


def _product(digit: Value, weight: Value, digit_signed: Value, weight_signed: Value) -> Value:
    """The product of two numbers of 4 bits, plus `product_offset`.

    The partial products of a top bit are inverted if it counts negative; that of both top bits, if one of them does.
    """
    top = DIGIT_BITS - 1
    both = digit_signed ^ weight_signed
    of_digit = Mux(digit[top], weight[:top], 0) ^ digit_signed.replicate(top)
    of_weight = Mux(weight[top], digit, 0) ^ Cat(weight_signed.replicate(top), both)
    return (digit[:top] * weight[:top] + (of_digit << top) + (of_weight << top))[:PRODUCT_BITS]
