"""Bias, multiplication, residual addition and rounding of the sums."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import BeatWrite, layout_of
from tessera.rtl.isa import ChannelParameters, PostProcess
from tessera.rtl.ppu.fetch import value_bits, values_layout
from tessera.rtl.ppu.parameters import ParameterMemory
from tessera.rtl.ppu.tile_source import pixel_layout

MAX_TOTAL_BITS = 64
"""Width that always holds a total.

With 32-bit accumulators, the widest, |sum + bias| < 2 ** 45 (four digits weigh 4369 in all), so |total| < 2 ** 62.
"""

ROUNDED_BITS = layout_of(PostProcess)["clamp_low"].shape.width + 1
"""Width of a rounded value. One bit more than a clamp limit: what does not fit lies beyond either limit."""


def rounded_layout(config: NpuConfig) -> data.StructLayout:
    """Rounded ``values`` of ``cols`` channels of one pixel; ``last`` marks the last pixel of a tile."""
    return data.StructLayout({"values": data.ArrayLayout(signed(ROUNDED_BITS), config.cols), "last": 1})


class ChannelPipeline(wiring.Component):
    """Requantises the sums of one output channel; up to one per cycle.

    ``rounded == round_half_even(total / 2 ** shift)`` with
    ``total = (sum + bias) * multiplier + ((residual * residual_multiplier) << (shift - residual_shift))``, where a
    result outside ``ROUNDED_BITS`` becomes the largest or smallest number of that width.

    Parameters
    ----------
    config
        Sizes.

    Members
    -------
    load : In(LATENCY)
        Bit i: register i + 1 takes its next value. A register that is not needed may stay as it is.
    sum, residual : In(signed)
        Operands; 0 for no residual. They enter the first register.
    bias, multiplier, shift, residual_multiplier, residual_shift : In
        Parameters; the same for all sums that are in registers 1 .. ``LAST_PARAMETER_STAGE``. ``shift <= 47`` and
        ``0 <= shift - residual_shift <= 15``.
    rounded : Out(signed(ROUNDED_BITS))
        The result, in register ``LATENCY``.
    """

    LATENCY = 5
    """Registers from ``sum`` to ``rounded``."""

    LAST_PARAMETER_STAGE = 3
    """The last register after which a parameter is used."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "load": In(self.LATENCY),
                "sum": In(signed(config.combined_bits)),
                "residual": In(signed(value_bits(config))),
                "bias": In(signed(ChannelParameters.BIAS_BITS)),
                "multiplier": In(ChannelParameters.MULTIPLIER_BITS),
                "shift": In(ChannelParameters.SHIFT_BITS),
                "residual_multiplier": In(ChannelParameters.MULTIPLIER_BITS),
                "residual_shift": In(ChannelParameters.SHIFT_BITS),
                "rounded": Out(signed(ROUNDED_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        biased = Signal(signed(self._config.combined_bits), reset_less=True)
        residual = Signal.like(self.residual, name="residual_1", reset_less=True)
        product = Signal(signed(min(len(biased) + ChannelParameters.MULTIPLIER_BITS, MAX_TOTAL_BITS)), reset_less=True)
        residual_product = Signal(signed(len(residual) + ChannelParameters.MULTIPLIER_BITS), reset_less=True)
        total = Signal(signed(min(len(product) + 1, MAX_TOTAL_BITS)), reset_less=True)
        alignment = Signal(range(ChannelParameters.MAX_RESIDUAL_ALIGNMENT + 1))
        m.d.comb += alignment.eq(self.shift - self.residual_shift)
        with m.If(self.load[0]):
            m.d.sync += [biased.eq(self.sum + self.bias), residual.eq(self.residual)]
        with m.If(self.load[1]):
            m.d.sync += product.eq(biased * self.multiplier)
            m.d.sync += residual_product.eq(residual * self.residual_multiplier)
        with m.If(self.load[2]):
            m.d.sync += total.eq(product + (residual_product << alignment))
        self._round(m, total)
        return m

    def _round(self, m: Module, total: Signal) -> None:
        """Registers 4 and 5: shift, then round half to even."""
        quotient = Signal(signed(len(total)), reset_less=True)
        half = Signal(reset_less=True)  # the bit below the point
        sticky = Signal(reset_less=True)  # any lower bit is 1
        below_half = Signal(ChannelParameters.MAX_SHIFT)
        m.d.comb += below_half.eq(
            Const((1 << len(below_half)) - 1, len(below_half)) >> (len(below_half) + 1 - self.shift).as_unsigned()[:6]
        )
        rounded = Signal.like(self.rounded, name="result", reset_less=True)
        m.d.comb += self.rounded.eq(rounded)
        fits, up = Signal(), Signal()
        high_bits = quotient[ROUNDED_BITS - 2 :]
        m.d.comb += [
            fits.eq(high_bits.all() | ~high_bits.any()),
            up.eq(half & (sticky | quotient[0])),
        ]
        lowest, highest = -(1 << (ROUNDED_BITS - 1)), (1 << (ROUNDED_BITS - 1)) - 1
        with m.If(self.load[3]):
            m.d.sync += Cat(half, quotient).eq(Cat(Const(0, 1), total).as_signed() >> self.shift)
            m.d.sync += sticky.eq((total & below_half).any())
        with m.If(self.load[4]):
            with m.If(fits):
                m.d.sync += rounded.eq(quotient[: ROUNDED_BITS - 1].as_signed() + up)
            with m.Else():
                m.d.sync += rounded.eq(Mux(quotient[-1], lowest, highest))


class Requantizer(wiring.Component):
    """Turns sums into rounded integers, one pixel of ``cols`` channels per cycle; see :class:`ChannelPipeline`.

    The parameters of the next tile are read when the last pixel of a tile has used those of its own, while that
    pixel goes on.

    Parameters
    ----------
    config
        Sizes.

    Members
    -------
    program : In(stream of PostProcess)
        The tiles.
    parameter_write : In(BeatWrite)
        Fills the parameter memory.
    pixels : In(stream of pixel_layout)
        The sums.
    residuals : In(stream of values_layout)
        The residual operands of the tiles that have them.
    rounded : Out(stream of rounded_layout)
        The results.
    """

    LATENCY = ChannelPipeline.LATENCY
    """Cycles from a pixel's sums to its results."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(PostProcess))),
                "parameter_write": In(BeatWrite(config, beats=config.parameter_beats)),
                "pixels": In(stream.Signature(pixel_layout(config))),
                "residuals": In(stream.Signature(values_layout(config))),
                "rounded": Out(stream.Signature(rounded_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.parameters = parameters = ParameterMemory(self._config)
        wiring.connect(m, wiring.flipped(self.program), parameters.program)
        wiring.connect(m, wiring.flipped(self.parameter_write), parameters.parameter_write)
        new = self.program.payload
        names = ("residual", "residual_multiplier", "residual_shift")
        residual, residual_multiplier, residual_shift = registers = [
            Signal.like(new[name], name=name, reset_less=True) for name in names
        ]
        with m.If(self.program.valid & self.program.ready):
            m.d.sync += [register.eq(new[name]) for name, register in zip(names, registers, strict=True)]

        load = Signal(self.LATENCY)
        self._control(m, parameters, load=load, residual=residual)
        for channel in range(self._config.cols):
            m.submodules[f"channel_{channel}"] = pipeline = ChannelPipeline(self._config)
            m.d.comb += [
                pipeline.load.eq(load),
                pipeline.sum.eq(self.pixels.payload.sums[channel]),
                pipeline.residual.eq(Mux(residual, self.residuals.payload[channel], 0)),
                pipeline.bias.eq(parameters.bias[channel]),
                pipeline.multiplier.eq(parameters.multiplier[channel]),
                pipeline.shift.eq(parameters.shift[channel]),
                pipeline.residual_multiplier.eq(residual_multiplier),
                pipeline.residual_shift.eq(residual_shift),
                self.rounded.payload.values[channel].eq(pipeline.rounded),
            ]
        return m

    def _control(self, m: Module, parameters: ParameterMemory, *, load: Signal, residual: Signal) -> None:
        """Joins pixels, residuals and parameters, and tracks what is in the pipeline's registers."""
        advance, taken = Signal(), Signal()
        valid = Signal(self.LATENCY)  # bit i: register i + 1 holds a pixel
        last = Signal(self.LATENCY)  # bit i: it is a tile's last pixel
        closed = Signal()  # the last pixel of the tile whose parameters are loaded has been taken
        m.d.comb += [
            self.rounded.valid.eq(valid[-1]),
            self.rounded.payload.last.eq(last[-1]),
            advance.eq(~valid[-1] | self.rounded.ready),
            taken.eq(advance & parameters.loaded & ~closed & self.pixels.valid & (~residual | self.residuals.valid)),
            self.pixels.ready.eq(taken),
            self.residuals.ready.eq(taken & residual),
            parameters.release.eq(advance & last[ChannelPipeline.LAST_PARAMETER_STAGE - 1]),
            load.eq(Mux(advance, Cat(taken, valid), 0)),  # registers without a pixel rest
        ]
        with m.If(advance):
            m.d.sync += [
                valid.eq(Cat(taken, valid)),
                last.eq(Cat(taken & self.pixels.payload.last, last)),
            ]
        with m.If(parameters.release):
            m.d.sync += closed.eq(0)
        with m.If(taken & self.pixels.payload.last):
            m.d.sync += closed.eq(1)
