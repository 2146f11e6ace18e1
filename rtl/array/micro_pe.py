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
            self.low.eq(unsigned_product(self.digit_low, low, self.digit_signed, self.is_w4)),
            self.high.eq(unsigned_product(self.digit_high, high, self.digit_signed, Const(1))),
        ]
        return m


def unsigned_product(left: Value, right: Value, left_signed: Value, right_signed: Value) -> Value:
    """The product of two numbers of any widths, plus `product_offset`: never negative, and as wide as both together.

    The partial products of a top bit are inverted if it counts negative; that of both top bits, if one of them does.
    """
    left_top, right_top = len(left) - 1, len(right) - 1
    of_left = Mux(left[left_top], right[:right_top], 0) ^ left_signed.replicate(right_top)
    of_right = Mux(right[right_top], left, 0) ^ Cat(right_signed.replicate(left_top), left_signed ^ right_signed)
    total = left[:left_top] * right[:right_top] + (of_left << left_top) + (of_right << right_top)
    return total[: len(left) + len(right)]


def product_offset(left_signed: int, right_signed: int, *, bits: int = DIGIT_BITS) -> int:
    """What `unsigned_product` of two numbers of ``bits`` bits has too much."""
    top = 1 << bits - 1
    return (left_signed + right_signed) * top * (top - 1) + (left_signed ^ right_signed) * top * top
