"""The Micro-PE: every digit with every weight, in every mode."""

from __future__ import annotations

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator, SimulatorContext

from tessera.rtl.array import MicroPe
from tessera.rtl.array.micro_pe import PRODUCT_BITS, product_offset


class MicroPes(wiring.Component):
    """A Micro-PE for each value of one digit, or of both; the other inputs are common. Keeps the simulation short."""

    def __init__(self, *, same_digit: bool):
        self.micro_pe = [MicroPe() for _ in range(16)]
        self.same_digit = same_digit
        super().__init__({"products": Out(16 * 2 * PRODUCT_BITS)})
        self.digit_low, self.digit_signed = Signal(4), Signal()
        self.weight, self.is_w4 = Signal(8), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for digit, micro_pe in enumerate(self.micro_pe):
            m.submodules[f"micro_pe_{digit}"] = micro_pe
            m.d.comb += [
                micro_pe.digit_low.eq(digit if self.same_digit else self.digit_low),
                micro_pe.digit_high.eq(digit),
                micro_pe.digit_signed.eq(self.digit_signed),
                micro_pe.weight.eq(self.weight),
                micro_pe.is_w4.eq(self.is_w4),
            ]
        m.d.comb += self.products.eq(Cat(Cat(micro_pe.low, micro_pe.high) for micro_pe in self.micro_pe))
        return m

    def values(self, ctx: SimulatorContext) -> list[tuple[int, int]]:
        """``low`` and ``high`` of each Micro-PE, without their offsets."""
        products = ctx.get(self.products).to_bytes(16 * 2, "little")
        digit_signed, is_w4 = ctx.get(self.digit_signed), ctx.get(self.is_w4)
        low_offset, high_offset = product_offset(digit_signed, is_w4), product_offset(digit_signed, 1)
        return [(low - low_offset, high - high_offset) for low, high in zip(products[::2], products[1::2], strict=True)]


def signed(value: int, bits: int) -> int:
    """The low bits of a value, read as two's complement."""
    value &= (1 << bits) - 1
    return value - (value >> (bits - 1) << bits)


def digit_value(digit: int, digit_signed: int) -> int:
    return signed(digit, 4) if digit_signed else digit


@pytest.mark.parametrize("digit_signed", [0, 1])
def test_w8(digit_signed: int) -> None:
    dut = MicroPes(same_digit=True)

    async def check(ctx: SimulatorContext) -> None:
        ctx.set(dut.digit_signed, digit_signed)
        ctx.set(dut.is_w4, 0)
        for weight in range(256):
            ctx.set(dut.weight, weight)
            for digit, (low, high) in enumerate(dut.values(ctx)):
                value = digit_value(digit, digit_signed)
                assert low == value * (weight & 15), (digit, weight)
                assert high == value * signed(weight >> 4, 4), (digit, weight)
                assert low + (high << 4) == value * signed(weight, 8), (digit, weight)

    simulate(dut, check)


@pytest.mark.parametrize("digit_signed", [0, 1])
def test_w4(digit_signed: int) -> None:
    dut = MicroPes(same_digit=False)

    async def check(ctx: SimulatorContext) -> None:
        ctx.set(dut.digit_signed, digit_signed)
        ctx.set(dut.is_w4, 1)
        for weight in range(256):
            ctx.set(dut.weight, weight)
            for digit_low in range(16):
                ctx.set(dut.digit_low, digit_low)
                expected_low = digit_value(digit_low, digit_signed) * signed(weight, 4)
                for digit_high, (low, high) in enumerate(dut.values(ctx)):
                    assert low == expected_low, (digit_low, digit_high, weight)
                    expected_high = digit_value(digit_high, digit_signed) * signed(weight >> 4, 4)
                    assert high == expected_high, (digit_low, digit_high, weight)

    simulate(dut, check)


def simulate(dut: MicroPes, check: object) -> None:
    simulator = Simulator(dut)
    simulator.add_testbench(check)
    simulator.run()
