"""From a lane program to the stream of activation words that its tile reads.

Three stages, joined by streams: `TileSetup` multiplies what has to be multiplied, `StepGenerator` makes the steps
(kernel row, kernel column, channel step), and `PixelGenerator` makes the words of each step. Addresses and
coordinates are otherwise only ever added to.
"""

from __future__ import annotations

from itertools import product

from amaranth.hdl import Const, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import ACCUMULATE_CYCLES, DIGIT_BITS, NpuConfig, digits_of_depth
from tessera.rtl.interfaces import address_bits, layout_of
from tessera.rtl.isa import DEPTHWISE_TAPS, Depth, LaneProgram, WeightDepth
from tessera.rtl.skid_buffer import SkidBuffer

COORDINATE_BITS = 15
"""Width of signed input coordinates: every program's lie between -4096 and 12195."""


def tile_layout(config: NpuConfig) -> data.StructLayout:
    """What the generators need of a program, for one lane.

    The first members are named as in `LaneProgram`, and wrap at the size of the bank where they are addresses.
    ``start``: address of the first pixel's word at kernel position (0, 0), channel step 0. ``stride_pitch``,
    ``dilation_pitch``: address distance of the pixel one row, and the kernel position one row, further down.
    ``pad``: the lane's digit of the pad value. ``digit_signed``: the lane's digit is signed. ``pixels``: number of the
    tile's pixels, but at most ``ACCUMULATE_CYCLES``.
    """
    address = address_bits(config.activation_words)
    program = layout_of(LaneProgram)
    copied = (
        "weight_depth", "input_height", "input_width", "origin_y", "origin_x", "stride_y", "stride_x", "dilation_y",
        "dilation_x", "kernel_height", "kernel_width", "channel_steps", "tile_height", "tile_width", "half",
        "depthwise", "partial",
    )  # fmt: skip
    return data.StructLayout(
        {name: program[name].shape for name in copied}
        | {"block_pitch": address, "start": address, "stride_pitch": address, "dilation_pitch": address}
        | {"pad": DIGIT_BITS, "digit_signed": 1, "pixels": range(ACCUMULATE_CYCLES + 1)}
    )


def step_layout(config: NpuConfig) -> data.StructLayout:
    """A step of a tile: one kernel position and channel step, for all pixels.

    ``address``, ``y``, ``x``: of the first pixel's word. ``upper``: take the upper half of the words (W8).
    ``first``: first step of the tile. ``last``: last step of the program, which ``partial`` says is not the tile's last
    program. The others are the tile's, see `tile_layout`.
    """
    tile = tile_layout(config)
    copied = (
        "weight_depth", "input_height", "input_width", "stride_y", "stride_x", "stride_pitch", "tile_height",
        "tile_width", "pad", "digit_signed", "depthwise", "partial", "pixels",
    )  # fmt: skip
    coordinate = signed(COORDINATE_BITS)
    return data.StructLayout(
        {name: tile[name].shape for name in copied}
        | {"address": address_bits(config.activation_words), "y": coordinate, "x": coordinate}
        | {"upper": 1, "first": 1, "last": 1}
    )


def word_layout(config: NpuConfig) -> data.StructLayout:
    """One activation word of one step: where it is and what it is for.

    ``padding``: the pixel lies outside the input, nothing is read. ``pixel``: output pixel of the tile. ``complete``:
    the pixel's sums can be made, always except in depthwise programs, where a pixel needs several words.
    ``first``: the word begins a step, so a new weight block. ``first_step``: the word's step is the tile's first.
    ``last``: the word is the program's last. ``finishes``: it is the tile's last too. ``pixels``: see `tile_layout`.
    The others are those of `digit_control_layout`.
    """
    return data.StructLayout(
        {
            "address": address_bits(config.activation_words),
            "padding": 1,
            "pixel": address_bits(config.accumulator_pixels),
            "complete": 1,
            "first": 1,
            "first_step": 1,
            "last": 1,
            "finishes": 1,
            "pixels": range(ACCUMULATE_CYCLES + 1),
            "upper": 1,
            "pad": DIGIT_BITS,
            "digit_signed": 1,
            "weight_depth": 1,
            "depthwise": 1,
        }
    )


def copy_members(domain: object, target: data.View, source: data.View) -> None:
    """Assigns, in a clock domain of a module, the members of ``target`` that ``source`` has by the same name."""
    for name, _ in target.shape():
        if name in source.shape().members:
            domain += target[name].eq(source[name])


class Countdown:
    """A counter that runs down to 1, and a register that says that it is there: nobody waits for a comparison.

    Attributes
    ----------
    last
        1 while the counter is at 1.
    """

    def __init__(self, name: str, width: int):
        self._left = Signal(width, name=name, reset_less=True)
        self.last = Signal(name=f"{name}_last", reset_less=True)

    def load(self, start: Value) -> list[object]:
        """Begins at ``start``, which is 1 or more."""
        return [self._left.eq(start), self.last.eq(start == 1)]

    def count(self) -> list[object]:
        """One less; undefined from 1 until the next `load`."""
        return [self._left.eq(self._left - 1), self.last.eq(self._left == 2)]


class AddressGenerator(wiring.Component):
    """Makes the stream of activation words of each program's tile: loops ky, kx, s, ty, tx, innermost last.

    One word per cycle, without a pause between steps nor between programs when each program's tile has at least 4 words
    and the next program is waiting. Accepts a program while it still works on the one before.

    Parameters
    ----------
    config
        Sizes of the bank and of a tile.
    index
        Index of the lane, which makes its digit: ``index mod digits(depth)``.

    Members
    -------
    program : In(stream of LaneProgram)
        The tiles.
    word : Out(stream of word_layout)
        The words.
    """

    START_LATENCY = 5
    """Cycles from the transfer of a program, when idle, to its first word."""

    def __init__(self, config: NpuConfig, index: int):
        self._config = config
        self._index = index
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(LaneProgram))),
                "word": Out(stream.Signature(word_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.setup = setup = TileSetup(self._config, self._index)
        m.submodules.steps = steps = StepGenerator(self._config)
        m.submodules.pixels = pixels = PixelGenerator(self._config)
        wiring.connect(m, wiring.flipped(self.program), setup.program)
        # The buffer keeps the way from a tile's last word to the program's sender out of a cycle.
        m.submodules.tiles = tiles = SkidBuffer(tile_layout(self._config))
        wiring.connect(m, setup.tile, tiles.input)
        wiring.connect(m, tiles.output, steps.tile)
        wiring.connect(m, steps.step, pixels.step)
        wiring.connect(m, pixels.word, wiring.flipped(self.word))
        return m


class TileSetup(wiring.Component):
    """Turns a program into the constants of its tile for one lane; a pipeline register.

    Parameters
    ----------
    config
        Sizes of the bank, and the activation depths that are built.
    index
        Index of the lane.

    Members
    -------
    program : In(stream of LaneProgram)
        Programs.
    tile : Out(stream of tile_layout)
        Their constants, one cycle later.
    """

    def __init__(self, config: NpuConfig, index: int):
        self._config = config
        self._index = index
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(LaneProgram))),
                "tile": Out(stream.Signature(tile_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid = Signal()
        tile = Signal(tile_layout(self._config), reset_less=True)
        m.d.comb += [
            self.program.ready.eq(~valid | self.tile.ready),
            self.tile.valid.eq(valid),
            self.tile.payload.eq(tile),
        ]
        with m.If(self.program.ready):
            m.d.sync += valid.eq(self.program.valid)
            self._compute(m, tile)
        return m

    def _compute(self, m: Module, tile: data.View) -> None:
        program = self.program.payload
        copy_members(m.d.sync, tile, program)
        m.d.sync += [
            tile.start.eq(program.input_base + program.origin_y * program.row_pitch + program.origin_x),
            tile.stride_pitch.eq(program.stride_y * program.row_pitch),
            tile.dilation_pitch.eq(program.dilation_y * program.row_pitch),
        ]
        m.d.sync += tile.pixels.eq(ACCUMULATE_CYCLES)
        for height, width in product(range(1, ACCUMULATE_CYCLES), repeat=2):
            if height * width < ACCUMULATE_CYCLES:
                with m.If((program.tile_height == height) & (program.tile_width == width)):
                    m.d.sync += tile.pixels.eq(height * width)
        with m.Switch(program.depth):
            for bits in self._config.activation_depths:
                digits = digits_of_depth(bits)
                digit = self._index % digits
                with m.Case(Depth.of(bits)):
                    m.d.sync += [
                        tile.pad.eq(program.pad.word_select(digit, DIGIT_BITS)),
                        tile.digit_signed.eq(program.signed if digit == digits - 1 else 0),
                    ]


class StepGenerator(wiring.Component):
    """Makes the steps of each program: loops ky, kx, s, innermost last.

    Remembers whether the program before was partial, which makes the next one go on with the same tile.

    Parameters
    ----------
    config
        Sizes of the bank, and the weight depths that are built.

    Members
    -------
    tile : In(stream of tile_layout)
        A tile is accepted together with its last step.
    step : Out(stream of step_layout)
        The steps; the first is valid one cycle after its tile.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "tile": In(stream.Signature(tile_layout(config))),
                "step": Out(stream.Signature(step_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tile, step = self.tile.payload, self.step.payload
        copy_members(m.d.comb, step, tile)
        walking, first = Signal(), Signal(reset_less=True)
        open_tile = Signal()  # the program before was partial
        ky = Countdown("ky", len(tile.kernel_height))
        kx = Countdown("kx", len(tile.kernel_width))
        s = Countdown("s", len(tile.channel_steps))
        m.d.comb += [
            self.step.valid.eq(walking),
            self.tile.ready.eq(walking & self.step.ready & step.last),
            step.first.eq(first),
            step.last.eq(ky.last & kx.last & s.last),
        ]
        with m.If(~walking):
            m.d.sync += [walking.eq(self.tile.valid), first.eq(~open_tile)]
            m.d.sync += [*ky.load(tile.kernel_height), *kx.load(tile.kernel_width), *s.load(tile.channel_steps)]
        with m.Elif(self.step.ready):
            m.d.sync += [walking.eq(~step.last), first.eq(0)]
            with m.If(step.last):
                m.d.sync += open_tile.eq(tile.partial)
            with m.If(~s.last):
                m.d.sync += s.count()
            with m.Elif(~kx.last):
                m.d.sync += [*s.load(tile.channel_steps), *kx.count()]
            with m.Else():
                m.d.sync += [*s.load(tile.channel_steps), *kx.load(tile.kernel_width), *ky.count()]
        self._walk(m, begin=~walking, next_channels=~s.last, next_column=~kx.last)
        return m

    def _walk(self, m: Module, *, begin: Value, next_channels: Value, next_column: Value) -> None:
        """Address and coordinates of the step's first pixel."""
        tile, step = self.tile.payload, self.step.payload
        names = ("address", "y", "x", "upper")
        address, y, x, upper = (Signal.like(step[name], name=name, reset_less=True) for name in names)
        m.d.comb += [step[name].eq(value) for name, value in zip(names, (address, y, x, upper), strict=True)]
        row = Signal.like(address, reset_less=True)  # address at kx = 0, s = 0
        position = Signal.like(address, reset_less=True)  # address at s = 0
        word_done: Value = {
            (8,): upper,
            (4,): Const(1, 1),
            (4, 8): upper | (tile.weight_depth == WeightDepth.W4),
        }[self._config.weight_depths]
        with m.If(begin):
            m.d.sync += [value.eq(tile.start) for value in (row, position, address)]
            m.d.sync += [y.eq(tile.origin_y), x.eq(tile.origin_x), upper.eq(tile.half)]
        with m.Elif(self.step.ready):
            with m.If(next_channels):
                m.d.sync += [address.eq(address + Mux(word_done, tile.block_pitch, 0)), upper.eq(~word_done)]
            with m.Elif(next_column):
                m.d.sync += [value.eq(position + tile.dilation_x) for value in (position, address)]
                m.d.sync += [x.eq(x + tile.dilation_x), upper.eq(tile.half)]
            with m.Else():
                m.d.sync += [value.eq(row + tile.dilation_pitch) for value in (row, position, address)]
                m.d.sync += [y.eq(y + tile.dilation_y), x.eq(tile.origin_x), upper.eq(tile.half)]


class PixelGenerator(wiring.Component):
    """Makes the words of each step: loops ty, tx, innermost last.

    A depthwise step reads every column from a row's first to its last: each pixel is complete with the last of its
    ``DEPTHWISE_TAPS`` columns.

    Parameters
    ----------
    config
        Sizes of the bank and of a tile.

    Members
    -------
    step : In(stream of step_layout)
        A step is accepted together with the last word of the one before.
    word : Out(stream of word_layout)
        The words, one per cycle; a step's first is valid two cycles after the step's transfer.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "step": In(stream.Signature(step_layout(config))),
                "word": Out(stream.Signature(word_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step = Signal(step_layout(self._config), reset_less=True)  # address, y and x move from pixel to pixel
        # The buffer keeps the long way from the memories' ready to the counters out of a cycle.
        m.submodules.buffer = buffer = SkidBuffer(word_layout(self._config))
        wiring.connect(m, buffer.output, wiring.flipped(self.word))
        busy, word, room = Signal(), buffer.input.payload, buffer.input.ready

        ty, tx = Countdown("ty", len(step.tile_height)), Countdown("tx", len(step.tile_width))
        missing = Signal.like(step.stride_x, name="missing", reset_less=True)  # words before the pixel's last
        pixel = Signal.like(word.pixel, name="pixel", reset_less=True)
        first = Signal(reset_less=True)
        complete = missing == 0
        last_word = ty.last & tx.last & complete
        m.d.comb += self.step.ready.eq(~busy | (room & last_word))
        with m.If(self.step.ready):
            incoming = self.step.payload
            m.d.sync += [busy.eq(self.step.valid), step.eq(incoming), pixel.eq(0), first.eq(1)]
            m.d.sync += [*ty.load(incoming.tile_height), *tx.load(incoming.tile_width)]
            m.d.sync += missing.eq(self._words_before(incoming, DEPTHWISE_TAPS))
        with m.Elif(room):
            m.d.sync += first.eq(0)
            with m.If(~complete):
                m.d.sync += missing.eq(missing - 1)
            with m.Elif(~tx.last):
                m.d.sync += [pixel.eq(pixel + 1), *tx.count(), missing.eq(self._words_before(step, step.stride_x))]
            with m.Else():
                m.d.sync += [pixel.eq(pixel + 1), *tx.load(step.tile_width), *ty.count()]
                m.d.sync += missing.eq(self._words_before(step, DEPTHWISE_TAPS))
        copy_members(m.d.comb, word, step)
        m.d.comb += [
            buffer.input.valid.eq(busy),
            word.padding.eq((step.y < 0) | (step.y >= step.input_height) | (step.x < 0) | (step.x >= step.input_width)),
            word.pixel.eq(pixel),
            word.complete.eq(complete),
            word.first.eq(first),
            word.first_step.eq(step.first),
            word.last.eq(step.last & last_word),
            word.finishes.eq(step.last & last_word & ~step.partial),
        ]
        self._walk(m, step, advance=~self.step.ready & room, next_row=tx.last & complete)
        return m

    @staticmethod
    def _words_before(step: data.View, words: ValueLike) -> Value:
        """Words before the last of those that a pixel needs, if ``words`` are new for it in a depthwise step."""
        return Mux(step.depthwise, words - 1, 0)

    def _walk(self, m: Module, step: data.View, *, advance: Value, next_row: Value) -> None:
        """Address and coordinates of the word, in ``step``."""
        distance = Mux(step.depthwise, 1, step.stride_x)
        row, row_x = Signal.like(step.address, reset_less=True), Signal.like(step.x, reset_less=True)
        with m.If(self.step.ready):
            m.d.sync += [row.eq(self.step.payload.address), row_x.eq(self.step.payload.x)]
        with m.Elif(advance):
            with m.If(~next_row):
                m.d.sync += [step.address.eq(step.address + distance), step.x.eq(step.x + distance)]
            with m.Else():
                m.d.sync += [value.eq(row + step.stride_pitch) for value in (row, step.address)]
                m.d.sync += [step.y.eq(step.y + step.stride_y), step.x.eq(row_x)]
