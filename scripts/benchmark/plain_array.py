"""The array to compare with: plain INT8 lanes without any other precision, at the same W8A8 rate as the NPU's lanes.

Two of them make ``2 * rows * cols`` products per cycle, as the NPU's four lanes do at W8A8. They have the NPU's own
address generators, weight loaders and accumulators, so that the ratio of the areas is what multi-precision costs: the
multiplication, its digit selection, the depthwise path, and the combination of the lanes.

Products are those that the synthesis tool makes of ``a * b``, or those of the NPU's Micro-PEs, widened to 8 bits.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.array.accumulators import Accumulators, accumulate_layout
from tessera.rtl.array.address_generator import AddressGenerator
from tessera.rtl.array.micro_pe import product_offset, unsigned_product
from tessera.rtl.array.weight_loader import WeightLoader
from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import BeatWrite, Drain, LaneRead, layout_of
from tessera.rtl.isa import LaneProgram

ACTIVATION_BITS = 8
WEIGHT_BITS = 8


class PlainArray(wiring.Component):
    """Sums over ``rows`` input channels of 8-bit activations times 8-bit weights, for ``cols`` output channels.

    Pipelined as the NPU's multiplier array: activations and products have registers, and so has every second level of
    adders.

    Parameters
    ----------
    config
        Sizes of the array.
    unsigned_products
        Products are made as in the Micro-PE, without signs, and not by the synthesis tool.

    Members
    -------
    valid, word, padding, pad, is_signed : In
        An activation word of ``rows`` channels; ``padding``: ``pad`` instead of the word.
    weights : In(8 * cols) x rows
        One cycle after ``word``.
    sums : Out(signed) x cols
        ``latency`` cycles after ``word``.
    """

    ADDERS_PER_STAGE = 2

    def __init__(self, config: NpuConfig, *, unsigned_products: bool):
        self._config = config
        self._unsigned_products = unsigned_products
        super().__init__(
            {
                "valid": In(1),
                "word": In(ACTIVATION_BITS * config.rows),
                "padding": In(1),
                "pad": In(ACTIVATION_BITS),
                "is_signed": In(1),
                "weights": In(WEIGHT_BITS * config.cols).array(config.rows),
                "sums": Out(signed(self.sum_bits)).array(config.cols),
            }
        )

    @property
    def sum_bits(self) -> int:
        """Width of a sum."""
        return ACTIVATION_BITS + WEIGHT_BITS + self._levels

    @property
    def _levels(self) -> int:
        return (self._config.rows - 1).bit_length()

    @property
    def latency(self) -> int:
        """Cycles from ``word`` to ``sums``."""
        return 2 + -(-self._levels // self.ADDERS_PER_STAGE)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        is_signed = Signal(self.latency - 1, reset_less=True)  # bit k: k + 1 cycles ago
        m.d.sync += is_signed.eq(Cat(self.is_signed, is_signed))
        activations = []
        for row in range(self._config.rows):
            activation = Signal(ACTIVATION_BITS, name=f"activation_{row}", reset_less=True)
            value = Mux(self.padding, self.pad, self.word.word_select(row, ACTIVATION_BITS))
            m.d.sync += activation.eq(Mux(self.valid, value, activation))
            activations.append(activation)
        for col in range(self._config.cols):
            products: list[Value] = []
            for row, activation in enumerate(activations):
                weight = self.weights[row].word_select(col, WEIGHT_BITS)
                product = self._product(activation, weight, is_signed[0])
                register = Signal(product.shape(), name=f"product_{row}_{col}", reset_less=True)
                m.d.sync += register.eq(product)
                products.append(register)
            total = Signal.like(self.sums[col], name=f"total_{col}", reset_less=True)
            m.d.sync += total.eq(self._sum(m, products, col) - self._offset(is_signed[-1]))
            m.d.comb += self.sums[col].eq(total)
        return m

    def _product(self, activation: Value, weight: Value, is_signed: Value) -> Value:
        if self._unsigned_products:
            return unsigned_product(activation, weight, is_signed, Const(1))
        return Cat(activation, activation[-1] & is_signed).as_signed() * weight.as_signed()

    def _offset(self, is_signed: Value) -> Value:
        """What the sum of the products has too much."""
        if not self._unsigned_products:
            return Const(0)
        unsigned, both = (self._config.rows * product_offset(flag, 1, bits=WEIGHT_BITS) for flag in (0, 1))
        return Mux(is_signed, both, unsigned)

    def _sum(self, m: Module, values: list[Value], col: int) -> Value:
        """The sum of the values; the register behind the last adder is left to the user."""
        level = 0
        while len(values) > 1:
            level += 1
            totals = []
            for index, (left, right) in enumerate(zip(values[::2], values[1::2], strict=True)):
                total = Signal((left + right).shape(), name=f"sum_{col}_{level}_{index}", reset_less=True)
                registered = level % self.ADDERS_PER_STAGE == 0 and len(values) > 2
                (m.d.sync if registered else m.d.comb).__iadd__(total.eq(left + right))
                totals.append(total)
            values = totals
        return values[0]


class PlainLane(wiring.Component):
    """A lane of 8-bit activations and weights alone; members as those of the NPU's `Lane`, parameters as those of
    `PlainArray`."""

    def __init__(self, config: NpuConfig, *, unsigned_products: bool):
        self._config = config
        self._unsigned_products = unsigned_products
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(LaneProgram))),
                "read": Out(LaneRead(config)),
                "weight_write": In(BeatWrite(config, beats=config.weight_beats)),
                "drain": In(Drain(config)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.weight_loader = loader = WeightLoader(self._config)
        m.submodules.address_generator = addresses = AddressGenerator(self._config, 0)
        m.submodules.array = array = PlainArray(self._config, unsigned_products=self._unsigned_products)
        m.submodules.accumulators = accumulators = Accumulators(self._config, width=array.sum_bits)
        wiring.connect(m, wiring.flipped(self.weight_write), loader.weight_write)
        wiring.connect(m, wiring.flipped(self.drain), accumulators.drain)
        m.d.comb += [
            self.program.ready.eq(loader.program.ready & addresses.program.ready),
            loader.program.valid.eq(self.program.valid & addresses.program.ready),
            addresses.program.valid.eq(self.program.valid & loader.program.ready),
            loader.program.payload.eq(self.program.payload),
            addresses.program.payload.eq(self.program.payload),
        ]
        word = addresses.word.payload
        begins_tile = word.first & word.first_step
        go = addresses.word.valid & (~word.first | loader.ready) & (~begins_tile | accumulators.free)
        issue = Signal()
        m.d.comb += [
            self.read.request.valid.eq(go & ~word.padding),
            self.read.request.payload.eq(word.address),
            issue.eq(go & (word.padding | self.read.request.ready)),
            addresses.word.ready.eq(issue),
            loader.take.eq(issue & word.first),
            accumulators.reserve.eq(issue & begins_tile),
        ]
        m.d.sync += self.done.eq(issue & word.last)
        m.d.sync += [array.valid.eq(issue), array.padding.eq(word.padding), array.is_signed.eq(word.digit_signed)]
        m.d.sync += array.pad.eq(word.pad)
        m.d.comb += array.word.eq(self.read.data)
        m.d.comb += [port.eq(block) for port, block in zip(array.weights, loader.weights, strict=True)]
        m.d.comb += [port.eq(total) for port, total in zip(accumulators.sums, array.sums, strict=True)]
        self._delay_control(m, issue, word, accumulators, array.latency)
        return m

    def _delay_control(self, m: Module, issue: Value, word: Value, accumulators: Accumulators, latency: int) -> None:
        valid: Value = issue
        control = Signal(accumulate_layout(self._config))
        m.d.comb += [control.pixel.eq(word.pixel), control.overwrite.eq(word.first_step), control.last.eq(word.last)]
        for cycle in range(latency + 1 - accumulators.SUMS_CYCLES):
            earlier, valid = valid, Signal(name=f"valid_{cycle}")
            undelayed, control = control, Signal.like(control, name=f"control_{cycle}", reset_less=True)
            m.d.sync += [valid.eq(earlier), control.eq(undelayed)]
        m.d.comb += [accumulators.valid.eq(valid), accumulators.control.eq(control)]
