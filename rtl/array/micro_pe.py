"""The smallest multiplier unit."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import DIGIT_BITS, NpuConfig
from tessera.rtl.isa import WeightDepth


class MicroPe(wiring.Component):
    """Multiplies one activation digit by an 8-bit weight, or two digits by two 4-bit weights; combinational.

    At W8 both digit inputs carry the same digit, and ``digit x weight == low + (high << 4)``; at W4 there are two
    independent products and their sum is ``low + high``. The shift is left to the user, because it is needed once
    per output channel and not once per product.

    Parameters
    ----------
    config
        Only the weight depths that it names are built; ``weight_depth`` is ignored if there is just one.

    Members
    -------
    digit_low, digit_high : In(4)
        The digits that meet the low and the high half of the weight.
    digit_signed : In(1)
        1: the digits are two's complement; 0: they are unsigned.
    weight : In(8)
        W8: a signed weight. W4: two signed weights, the one of ``digit_low`` in the low half.
    weight_depth : In(WeightDepth)
        How ``weight`` is read.
    low : Out(signed(9))
        ``digit_low`` times the low half of the weight, which is unsigned at W8 and signed at W4; -120..225.
    high : Out(signed(8))
        ``digit_high`` times the high half of the weight, which is signed; -120..105.
    """

    LOW_BITS = 9
    """Width of ``low``."""

    HIGH_BITS = 8
    """Width of ``high``."""

    def __init__(self, config: NpuConfig):
        self._weight_depths = config.weight_depths
        super().__init__(
            {
                "digit_low": In(DIGIT_BITS),
                "digit_high": In(DIGIT_BITS),
                "digit_signed": In(1),
                "weight": In(8),
                "weight_depth": In(WeightDepth),
                "low": Out(signed(self.LOW_BITS)),
                "high": Out(signed(self.HIGH_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low_weight_signed = {
            (8,): Const(0, 1),
            (4,): Const(1, 1),
            (4, 8): self.weight_depth == WeightDepth.W4,
        }[self._weight_depths]
        m.d.comb += [
            self.low.eq(
                _extend(self.digit_low, self.digit_signed) * _extend(self.weight[:DIGIT_BITS], low_weight_signed)
            ),
            self.high.eq(_extend(self.digit_high, self.digit_signed) * self.weight[DIGIT_BITS:].as_signed()),
        ]
        return m


def _extend(value: Value, is_signed: Value) -> Value:
    """``value``, read as two's complement or as unsigned, with one bit more."""
    return Cat(value, value[-1] & is_signed).as_signed()
