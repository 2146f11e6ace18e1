"""Reading of whole activation values from the banks of a gang."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.data import ShapeLike
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import DIGIT_BITS, NpuConfig, digits_of_depth
from tessera.rtl.interfaces import GangRead, address_bits
from tessera.rtl.isa import Depth


def value_bits(config: NpuConfig) -> int:
    """Width of a signed integer that holds every activation of the deepest supported depth, signed or unsigned."""
    return DIGIT_BITS * config.max_gang + 1


def values_layout(config: NpuConfig) -> data.ArrayLayout:
    """Activations of ``cols`` channels of one pixel."""
    return data.ArrayLayout(signed(value_bits(config)), config.cols)


def fetch_layout(config: NpuConfig, tag: ShapeLike) -> data.StructLayout:
    """Half a word of one gang, to be read.

    ``skip``: nothing is read, the values are undefined. ``tag`` comes back with the values.
    """
    return data.StructLayout(
        {
            "lanes": config.lanes,
            "address": address_bits(config.activation_words),
            "half": 1,
            "depth": Depth,
            "signed": 1,
            "skip": 1,
            "tag": tag,
        }
    )


def fetched_layout(config: NpuConfig, tag: ShapeLike) -> data.StructLayout:
    """The values that were asked for, with the request's ``skip`` and ``tag``."""
    return data.StructLayout({"values": values_layout(config), "skip": 1, "tag": tag})


class GangFetch(wiring.Component):
    """Reads half words of a gang's banks and joins their digits to integers, in order.

    Requests are made ahead, only when there is room for the answer; one per cycle as long as the banks grant it.

    Parameters
    ----------
    config
        Sizes; only the activation depths that it names are built.
    tag
        Shape of what travels along with a request.

    Members
    -------
    request : In(stream of fetch_layout)
        What to read.
    read : Out(GangRead)
        Port of the banks.
    fetched : Out(stream of fetched_layout)
        The values, at the earliest ``LATENCY`` cycles after their request.
    """

    LATENCY = 3
    """Cycles from a request's transfer to its values, if the banks grant it at once."""

    ROOM = 4
    """Requests whose values have not been taken yet; a request occupies its place for at least 3 cycles."""

    def __init__(self, config: NpuConfig, tag: ShapeLike):
        self._config = config
        self._tag = tag
        super().__init__(
            {
                "request": In(stream.Signature(fetch_layout(config, tag))),
                "read": Out(GangRead(config)),
                "fetched": Out(stream.Signature(fetched_layout(config, tag))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        answer = Signal(fetched_layout(self._config, self._tag))
        m.submodules.fifo = fifo = SyncFIFO(width=len(answer.as_value()), depth=self.ROOM)
        request = self.request.payload
        room, arriving, answered = Signal(), Signal(), Signal()
        m.d.comb += [
            room.eq(fifo.level + arriving + answered < self.ROOM),
            self.read.request.valid.eq(self.request.valid & room & ~request.skip),
            self.read.request.payload.lanes.eq(request.lanes),
            self.read.request.payload.address.eq(request.address),
            self.request.ready.eq(room & (request.skip | self.read.request.ready)),
        ]
        asked = Signal.like(request, name="asked", reset_less=True)
        m.d.sync += [arriving.eq(self.request.valid & self.request.ready), answered.eq(arriving)]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += asked.eq(request)
        skip, tag = (Signal.like(asked[name], name=name, reset_less=True) for name in ("skip", "tag"))
        with m.If(arriving):
            m.d.sync += [skip.eq(asked.skip), tag.eq(asked.tag)]
        self._join_digits(m, asked, answer.values, enable=arriving)
        m.d.comb += [
            answer.skip.eq(skip),
            answer.tag.eq(tag),
            fifo.w_data.eq(answer),
            fifo.w_en.eq(answered),
            self.fetched.valid.eq(fifo.r_rdy),
            self.fetched.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.fetched.ready),
        ]
        return m

    def _join_digits(self, m: Module, asked: data.View, values: data.View, *, enable: Value) -> None:
        """Registers with ``values``: those in the words that have arrived."""
        half_bits = self._config.word_bits // 2
        halves = []
        for lane in range(self._config.lanes):
            half = Signal(half_bits, name=f"half_{lane}")
            m.d.comb += half.eq(self.read.words[lane].word_select(asked.half, half_bits))
            halves.append(half)
        planes = self._digit_planes(m, asked.lanes, halves)
        joined = [
            Signal(values.shape().elem_shape, name=f"value_{channel}", reset_less=True)
            for channel in range(self._config.cols)
        ]
        m.d.comb += [value.eq(register) for value, register in zip(values, joined, strict=True)]
        with m.If(enable), m.Switch(asked.depth):
            for bits in self._config.activation_depths:
                with m.Case(Depth.of(bits)):
                    for channel, register in enumerate(joined):
                        digits = [plane.word_select(channel, DIGIT_BITS) for plane in planes[: digits_of_depth(bits)]]
                        m.d.sync += register.eq(_extend(Cat(digits), asked.signed))

    def _digit_planes(self, m: Module, lanes: Value, halves: list[Signal]) -> list[Signal]:
        """Digit i of all channels, for each digit i of the largest gang: from the i-th lane of the mask."""
        planes = []
        for digit in range(self._config.max_gang):
            plane = Signal(len(halves[0]), name=f"plane_{digit}")
            smallest_gang = 1 << digit.bit_length()
            *others, highest = range(digit, self._config.lanes, smallest_gang)
            chosen: Value = halves[highest]
            for lane in reversed(others):
                chosen = Mux(lanes[lane], halves[lane], chosen)
            m.d.comb += plane.eq(chosen)
            planes.append(plane)
        return planes


def _extend(value: Value, is_signed: Value) -> Value:
    """``value``, read as two's complement or as unsigned, with one bit more."""
    return Cat(value, value[-1] & is_signed).as_signed()
