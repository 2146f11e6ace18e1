"""Proof that a gang multiplies as one wide machine.

To be shown, for a gang of 1, 2 or 4 lanes, signed or unsigned activations, and weights of 4 or 8 bits: after N steps

    combined == sum over steps t of activation[t] * weight[t]                                        (*)

where lane l multiplies digit l of each activation by the weight in a Micro-PE, adds the products in its accumulator,
and :class:`GangCombine` combines the lanes. A solver cannot do this at once, because that means comparing multipliers
of different widths. So (*) is cut where the values are named by a wire, and each piece is proven for all values of
its inputs (the premise that an earlier piece could give is not even used, so a piece holds more widely than needed):

1. *Product*: a Micro-PE's outputs, less their constant offsets, join to exactly digit * weight. [RTL, all inputs]
2. *Digits*: sum of digit[l] * 16 ** l, the top digit signed if the activation is, is exactly the activation.
3. *Accumulation*: N products, added in an accumulator of the machine's width, give exactly their sum. [N = 2 .. 4]
   This is arithmetic about the widths, not a proof of the RTL: that the adder trees and `Accumulators` add what they
   are given is covered by simulation (``test_array_multiplier``, ``test_array_accumulators``).
4. *Combination*: GangCombine gives exactly sum of accumulator[l] * 16 ** digit(l), for any accumulators whatever,
   with any values in the lanes that are not of the gang. [RTL, all inputs]
5. *Ring identity*: sum over l of (sum over t of d[t, l] * w[t]) * 16 ** l equals sum over t of (sum over l of
   d[t, l] * 16 ** l) * w[t], over the integers.

1 to 4 say "exactly": both sides are compared in a width in which neither can wrap, so they are statements about
integers. Then, over the integers, combined = sum of accumulator[l] * 16 ** l (4) = sum over l of (sum over t of
digit[t, l] * weight[t]) * 16 ** l (3, 1) = sum over t of (sum over l of digit[t, l] * 16 ** l) * weight[t] (5)
= sum over t of activation[t] * weight[t] (2). Nothing else is assumed. With W4, a Micro-PE adds two such products, of
different channels, which 1 shows separately and the sum over t covers as two steps. The rows of the array are steps,
too. Since 4 holds for all accumulators, (*) holds for every N that does not overflow an accumulator.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ppu_bench import gang_masks
from rtl_solver import Rtl, integer, prove, total, z3

from tessera.rtl.array.micro_pe import MicroPe, product_offset
from tessera.rtl.config import DIGIT_BITS, NpuConfig
from tessera.rtl.isa import lanes_of_mask
from tessera.rtl.ppu import GangCombine, combine

pytestmark = pytest.mark.formal

EDGE = NpuConfig.preset("edge")
CONFIGS = {
    "edge": EDGE,
    "wide_accumulators": replace(EDGE, accumulator_bits=32),
    "a8_of_four_lanes": replace(EDGE, activation_depths=(4, 8)),
    "a8_of_two_lanes": replace(EDGE, lanes=2, activation_depths=(8,)),
    "a4": replace(EDGE, lanes=1, activation_depths=(4,)),
}
PRODUCT_BITS = 16
"""Holds every product of a 5-bit and an 8-bit signed number."""

COMBINED_BITS = 52
"""Holds every combination of four accumulators of 32 bits."""

STEPS = (2, 3, 4)


def gangs(config: NpuConfig) -> list[int]:
    """Masks of all gangs of a configuration."""
    return [mask for size in (1, 2, 4) if size <= config.max_gang for mask in gang_masks(config, size)]


def prove_combination(rtl: Rtl, mask: int) -> None:
    """Piece 4 for one gang."""
    ports, hardware = rtl.instance()
    wanted = total(
        [
            integer(ports[f"sums__{lane}"], COMBINED_BITS) << DIGIT_BITS * digit
            for digit, lane in enumerate(lanes_of_mask(mask))
        ]
    )
    prove(integer(ports["combined"], COMBINED_BITS) == wanted, [*hardware, ports["lanes"] == mask])


@pytest.mark.parametrize("digit_signed", [0, 1], ids=["unsigned", "signed"])
def test_product(digit_signed: int, tmp_path: Path) -> None:
    """Piece 1, at every weight depth."""
    rtl = Rtl(MicroPe(), tmp_path)
    ports, hardware = rtl.instance()
    low, high = (integer(ports[name], PRODUCT_BITS, signed=False) for name in ("low", "high"))
    digit_low, digit_high = (
        integer(ports[name], PRODUCT_BITS, signed=bool(digit_signed)) for name in ("digit_low", "digit_high")
    )
    weight = ports["weight"]
    high -= product_offset(digit_signed, 1)
    given = [*hardware, ports["digit_signed"] == digit_signed]

    w8 = [*given, ports["is_w4"] == 0, digit_low == digit_high]
    product = low - product_offset(digit_signed, 0) + (high << DIGIT_BITS)
    prove(product == digit_low * integer(weight, PRODUCT_BITS), w8)

    w4 = [*given, ports["is_w4"] == 1]
    low -= product_offset(digit_signed, 1)
    prove(low == digit_low * integer(z3.Extract(3, 0, weight), PRODUCT_BITS), w4)
    prove(high == digit_high * integer(z3.Extract(7, 4, weight), PRODUCT_BITS), w4)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("gang", [1, 2, 4])
def test_digits(gang: int, signed: bool) -> None:
    """Piece 2."""
    activation = z3.BitVec("activation", DIGIT_BITS * gang)
    width = activation.size() + 1
    digits = [z3.Extract(DIGIT_BITS * i + 3, DIGIT_BITS * i, activation) for i in range(gang)]
    joined = total(
        [integer(digit, width, signed=signed and i == gang - 1) << DIGIT_BITS * i for i, digit in enumerate(digits)]
    )
    prove(joined == integer(activation, width, signed=signed), [])


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("bits", [16, 24, 32])
def test_accumulation(bits: int, steps: int) -> None:
    """Piece 3; a product lies between -15 * 128 and 15 * 127, both of which 12 bits hold."""
    products = [z3.BitVec(f"product_{step}", 12) for step in range(steps)]
    accumulator = total([integer(product, bits) for product in products])
    prove(integer(accumulator, 40) == total([integer(product, 40) for product in products]), [])


@pytest.mark.parametrize("name", CONFIGS)
def test_combination(name: str, tmp_path: Path) -> None:
    """Piece 4, for every gang of every kind of configuration."""
    rtl = Rtl(GangCombine(CONFIGS[name]), tmp_path)
    for mask in gangs(CONFIGS[name]):
        prove_combination(rtl, mask)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("gang", [1, 2, 4])
def test_ring_identity(gang: int, steps: int) -> None:
    """Piece 5."""
    weights = z3.Ints([f"weight_{t}" for t in range(steps)])
    digits = [z3.Ints([f"digit_{t}_{lane}" for lane in range(gang)]) for t in range(steps)]
    accumulators = [total([digits[t][lane] * weights[t] for t in range(steps)]) for lane in range(gang)]
    activations = [total([digits[t][lane] * 16**lane for lane in range(gang)]) for t in range(steps)]
    lanes_first = total([accumulators[lane] * 16**lane for lane in range(gang)])
    prove(lanes_first == total([activations[t] * weights[t] for t in range(steps)]), [])


@pytest.mark.parametrize("bits", [3, 5])
def test_a_wrong_shift_is_found(bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof fails, with a counterexample, when the hardware shifts by any other number of bits."""
    monkeypatch.setattr(combine, "DIGIT_BITS", bits)
    rtl = Rtl(GangCombine(EDGE), tmp_path)
    prove_combination(rtl, mask=0b0001)  # a single lane is not shifted
    for mask in (0b0011, 0b1100, 0b1111):
        with pytest.raises(AssertionError, match="disproved, for example by .*combined = "):
            prove_combination(rtl, mask)
