"""The join of a gang's digits: the only place where lanes are shifted and added to each other."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import DIGIT_BITS, NpuConfig


class GangCombine(wiring.Component):
    """Combines the accumulators of one output channel over the lanes of a gang; combinational.

    ``combined == sum of sums[l] << 4 * (l mod gang)`` over the lanes l of the mask, exactly, where ``gang`` is the
    number of lanes in the mask. Multiplication distributes over addition, so this is the sum of products of the whole
    activations, although each lane has only seen one digit of them.

    Parameters
    ----------
    config
        Only the gangs that its activation depths need are built.

    Members
    -------
    lanes : In(lanes)
        Mask of one gang: 1, 2 or 4 adjacent lanes, the first a multiple of the gang's size. Other masks give an
        undefined result.
    sums : In(signed(accumulator_bits)) x lanes
        The accumulators.
    combined : Out(signed(combined_bits))
        The sum, never rounded nor wrapped.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "lanes": In(config.lanes),
                "sums": In(signed(config.accumulator_bits)).array(config.lanes),
                "combined": Out(signed(config.combined_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        terms = []
        for lane in range(self._config.lanes):
            term = Signal(signed(self._config.accumulator_bits), name=f"term_{lane}")
            m.d.comb += term.eq(Mux(self.lanes[lane], self.sums[lane], 0))
            terms.append(term)
        size = 1
        while len(terms) > 1:
            terms = [
                self._join(m, low, high, first=2 * size * index, size=size)
                for index, (low, high) in enumerate(zip(terms[::2], terms[1::2], strict=True))
            ]
            size *= 2
        m.d.comb += self.combined.eq(terms[0])
        return m

    def _join(self, m: Module, low: Signal, high: Signal, *, first: int, size: int) -> Signal:
        """Sum of two neighbours of ``size`` lanes each, beginning at lane ``first``.

        If the gang contains both, the higher one is ``size`` digits above the lower one; else one of them is 0.
        """
        digits = size if 2 * size <= self._config.max_gang else 0
        width = min(max(len(low), len(high) + digits * DIGIT_BITS) + 1, self._config.combined_bits)
        total = Signal(signed(width), name=f"join_{size}_{first}")
        if digits:
            both = self.lanes[first] & self.lanes[first + size]
            high = high << Mux(both, digits * DIGIT_BITS, 0)
        m.d.comb += total.eq(low + high)
        return total
