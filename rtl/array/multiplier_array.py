"""The Micro-PEs of one lane and the adder trees that sum their products."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.array.micro_pe import PRODUCT_BITS, MicroPe, product_offset
from tessera.rtl.config import DIGIT_BITS, NpuConfig
from tessera.rtl.isa import DEPTHWISE_TAPS, WeightDepth


def digit_control_layout() -> data.StructLayout:
    """How the digits of an activation word are used.

    ``upper``: a W8 step takes digits rows .. 2 * rows - 1 of the word. ``padding``: every digit is ``pad`` instead
    of the word's. ``digit_signed`` and ``weight_depth``: see `MicroPe`. ``depthwise``: see `MultiplierArray`; W8 only.
    """
    return data.StructLayout(
        {"upper": 1, "padding": 1, "pad": DIGIT_BITS, "digit_signed": 1, "weight_depth": 1, "depthwise": 1}
    )


def sum_bits(config: NpuConfig) -> int:
    """Width of the sum of the products of one word for one output channel: rows times -1920..1905, signed."""
    return 12 + (config.rows - 1).bit_length()


def _sum_offset(config: NpuConfig, digit_signed: int, is_w4: int) -> int:
    """What the sum of the products of one word for one output channel has too much."""
    low, high = product_offset(digit_signed, is_w4), product_offset(digit_signed, 1)
    return config.rows * (low + (high if is_w4 else high << DIGIT_BITS))


@dataclass(frozen=True)
class DigitPair:
    """The digits that a Micro-PE multiplies with the low and with the high half of its weight; the same at W8."""

    low: Value
    high: Value

    @classmethod
    def zero(cls) -> DigitPair:
        """No digits."""
        return cls(Const(0, DIGIT_BITS), Const(0, DIGIT_BITS))

    def where(self, condition: Value, other: DigitPair) -> DigitPair:
        """The other pair where the condition is 1, else this one."""
        return DigitPair(Mux(condition, other.low, self.low), Mux(condition, other.high, self.high))


class MultiplierArray(wiring.Component):
    """Multiplies the digits of an activation word by a weight block, and sums over the input channels.

    For each output channel c::

        W8:  sums[c] = sum over r of digit[upper * rows + r] * weight[r][c]
        W4:  sums[c] = sum over r of digit[r] * weight_low[r][c] + digit[rows + r] * weight_high[r][c]
        depthwise: sums[c] = sum over t < DEPTHWISE_TAPS of digit_t[upper * rows + c] * weight[t][c]

    where digit_t are those of this word (the last t) and of the words before it, of which there must be as many.

    A pipeline without flow control: a word goes in and its sums come out every cycle, ``latency`` cycles later. Without
    a word its registers rest, which saves energy, and most of the time that a simulation spends on an idle lane. The
    products with the low and with the high halves of the weights have an adder tree each, of numbers without signs; one
    shift per output channel joins the trees' results at W8, and one subtraction takes the offsets of all products away.

    Parameters
    ----------
    config
        Sizes of the array; weight depths that it does not name are not built.

    Members
    -------
    valid : In(1)
        There is a word.
    word : In(word_bits)
        The activation word.
    control : In(digit_control_layout)
        In the same cycle as ``word``.
    weights : In(8 * cols) x rows
        The weight block, ``WEIGHT_CYCLES`` after ``word``.
    sums : Out(signed(sum_bits)) x cols
        ``latency`` cycles after ``word``; undefined if there was none.
    """

    WEIGHT_CYCLES = 1
    """Cycles from a word to the weights that it meets."""

    ADDERS_PER_STAGE = 2
    """Adders between two pipeline registers."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "valid": In(1),
                "word": In(config.word_bits),
                "control": In(digit_control_layout()),
                "weights": In(8 * config.cols).array(config.rows),
                "sums": Out(signed(sum_bits(config))).array(config.cols),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``word`` to ``sums``: digit selection, products, and the stages of the trees and the join."""
        adders = (self._config.rows - 1).bit_length() + 1
        return 2 + -(-adders // self.ADDERS_PER_STAGE)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        digits = self._select_digits(m)
        last = self.latency - 1
        valid = self._delay(m, self.valid, "valid", last)
        digit_signed = self._delay(m, self.control.digit_signed, "digit_signed", last)
        is_w4 = self._delay(m, self._is_w4(), "is_w4", last)
        offset = Signal(sum_bits(config), reset_less=True)
        m.d.sync += offset.eq(self._offset(digit_signed[last - 1], is_w4[last - 1]))
        for col in range(config.cols):
            lows, highs = [], []
            for row in range(config.rows):
                m.submodules[f"micro_pe_{row}_{col}"] = micro_pe = MicroPe()
                low = Signal(PRODUCT_BITS, name=f"low_{row}_{col}", reset_less=True)
                high = Signal(PRODUCT_BITS, name=f"high_{row}_{col}", reset_less=True)
                m.d.comb += [
                    micro_pe.digit_low.eq(digits[row][col].low),
                    micro_pe.digit_high.eq(digits[row][col].high),
                    micro_pe.digit_signed.eq(digit_signed[1]),
                    micro_pe.weight.eq(self.weights[row].word_select(col, 8)),
                    micro_pe.is_w4.eq(is_w4[1]),
                ]
                # Multiplexers hold the registers, since hundreds of `If` make slower simulators.
                m.d.sync += [low.eq(Mux(valid[1], micro_pe.low, low)), high.eq(Mux(valid[1], micro_pe.high, high))]
                lows.append(low)
                highs.append(high)
            total = self._sum_column(m, col, lows, highs, valid, is_w4=is_w4[last])
            m.d.sync += self.sums[col].eq(Mux(valid[last], total - offset, self.sums[col]))
        return m

    def _is_w4(self) -> Value:
        """The weights that meet the word are of 4 bits."""
        if len(self._config.weight_depths) == 1:
            return Const(self._config.weight_depths == (4,), 1)
        return self.control.weight_depth == WeightDepth.W4

    def _offset(self, digit_signed: Value, is_w4: Value) -> Value:
        """What a sum of products has too much, see `product_offset`."""
        return Mux(
            is_w4,
            Mux(digit_signed, _sum_offset(self._config, 1, 1), _sum_offset(self._config, 0, 1)),
            Mux(digit_signed, _sum_offset(self._config, 1, 0), _sum_offset(self._config, 0, 0)),
        )

    def _select_digits(self, m: Module) -> list[list[DigitPair]]:
        """The registered digits of each row and column.

        Only in the first ``DEPTHWISE_TAPS`` rows does each column have its own; in a depthwise step the pairs of a
        column are a shift register there, from the last row to the first.
        """
        config, depthwise = self._config, self.control.depthwise
        selected = self._select_half(m)
        if 8 not in config.weight_depths:
            return [[self._register(m, f"{row}", selected[row])] * config.cols for row in range(config.rows)]
        columns = []
        for col in range(config.cols):
            newest, taps = selected[col], []
            for row in reversed(range(DEPTHWISE_TAPS)):
                taps.append(self._register(m, f"{row}_{col}", selected[row].where(depthwise, newest)))
                newest = taps[-1]
            columns.append(taps[::-1])
        shared = [
            [self._register(m, f"{row}", selected[row].where(depthwise, DigitPair.zero()))] * config.cols
            for row in range(DEPTHWISE_TAPS, config.rows)
        ]
        return [*map(list, zip(*columns, strict=True)), *shared]

    def _select_half(self, m: Module) -> list[DigitPair]:
        """The digits of each row, or padding."""
        rows, is_w4 = self._config.rows, self._is_w4()
        selected = []
        for row in range(rows):
            lower_half = self.word.word_select(row, DIGIT_BITS)
            upper_half = self.word.word_select(rows + row, DIGIT_BITS)
            pair = DigitPair(
                Signal(DIGIT_BITS, name=f"selected_low_{row}"), Signal(DIGIT_BITS, name=f"selected_high_{row}")
            )
            for digit, upper in ((pair.low, self.control.upper & ~is_w4), (pair.high, self.control.upper | is_w4)):
                m.d.comb += digit.eq(Mux(self.control.padding, self.control.pad, Mux(upper, upper_half, lower_half)))
            selected.append(pair)
        return selected

    def _register(self, m: Module, name: str, pair: DigitPair) -> DigitPair:
        """The pair that came with the latest word."""
        low = Signal(DIGIT_BITS, name=f"digit_low_{name}", reset_less=True)
        high = Signal(DIGIT_BITS, name=f"digit_high_{name}", reset_less=True)
        m.d.sync += [low.eq(Mux(self.valid, pair.low, low)), high.eq(Mux(self.valid, pair.high, high))]
        return DigitPair(low, high)

    def _sum_column(
        self, m: Module, col: int, lows: list[Signal], highs: list[Signal], valid: list[Value], *, is_w4: Value
    ) -> Value:
        """Sums the products of an output channel by two trees of adders, and joins the two results.

        ``valid`` has an element for every cycle since the word.
        """
        low = self._sum_tree(m, f"low_sum_{col}", lows, valid)
        high = self._sum_tree(m, f"high_sum_{col}", highs, valid)
        return low + Mux(is_w4, high, high << DIGIT_BITS)

    def _sum_tree(self, m: Module, name: str, values: list[Signal], valid: list[Value]) -> Signal:
        """The sum of unsigned values; every ``ADDERS_PER_STAGE``-th level of adders is registered.

        ``valid`` has an element for every cycle since the word.
        """
        level = 0
        while len(values) > 1:
            level += 1
            stage, unregistered = divmod(level, self.ADDERS_PER_STAGE)
            pairs = list(zip(values[::2], values[1::2], strict=True))
            values = [
                Signal(len(values[0]) + 1, name=f"{name}_{level}_{index}", reset_less=True)
                for index in range(len(pairs))
            ]
            for total, (left, right) in zip(values, pairs, strict=True):
                if unregistered:
                    m.d.comb += total.eq(left + right)
                else:
                    m.d.sync += total.eq(Mux(valid[1 + stage], left + right, total))
        return values[0]

    @staticmethod
    def _delay(m: Module, value: Value, name: str, cycles: int) -> list[Value]:
        """``value`` delayed by 0 .. ``cycles`` cycles; what is constant needs no registers."""
        delayed = [value]
        for cycle in range(1, cycles + 1):
            if not isinstance(value, Const):
                value = Signal(name=f"{name}_{cycle}", reset_less=True)
                m.d.sync += value.eq(delayed[-1])
            delayed.append(value)
        return delayed
