"""A lane: the machine that one Micro-PE of every PE makes together with memories and address generator."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.array.accumulators import Accumulators, accumulate_layout
from tessera.rtl.array.address_generator import AddressGenerator, copy_members
from tessera.rtl.array.multiplier_array import MultiplierArray, digit_control_layout
from tessera.rtl.array.weight_loader import WeightLoader
from tessera.rtl.config import ACCUMULATE_CYCLES, NpuConfig
from tessera.rtl.interfaces import BeatWrite, Drain, LaneRead, layout_of
from tessera.rtl.isa import LaneProgram


class Lane(wiring.Component):
    """Executes lane programs; see `LaneProgram` for what they compute. One, or several with all but the last partial,
    make the sums of a tile.

    Every cycle one activation word is read, or is padding and made up, and goes down a pipeline without flow
    control: digit selection, multiplication, adder trees, accumulation. A step takes ``max(pixels, rows)`` cycles,
    since a weight block loads in ``rows`` cycles. There is no pause between steps nor between tiles when the next
    program is waiting, an accumulator memory is free, and the bank is always ready.

    Parameters
    ----------
    config
        Sizes and depths; what it does not name is not built.
    index
        Index of the lane, 0 .. ``config.lanes - 1``. The lane works on digit ``index mod digits(depth)``.

    Members
    -------
    program : In(stream of LaneProgram)
        One is accepted ahead of the one that is worked on, so that its first weight block loads in time.
    read : Out(LaneRead)
        Read port of the lane's activation bank.
    weight_write : In(BeatWrite)
        Fills the weight bank.
    drain : In(Drain)
        The finished tiles, oldest first. The lane provides; the signature is written from the PPU's view.
    done : Out(1)
        1 for a cycle when all activations and weights of a program have been read.
    multiplies : Out(1)
        An activation word, or one of padding, enters the multipliers in this cycle.
    overflow : Out(1)
        1 for a cycle when a sum has left the range of the accumulators, see `Accumulators`: for a program at most
        ``overflow_latency`` cycles after its ``done``, and for the next one later than that.

    Raises
    ------
    ValueError
        The configuration has no lane of that index.
    """

    def __init__(self, config: NpuConfig, index: int):
        if index not in range(config.lanes):
            raise ValueError(
                f"there is no lane {index!r} in configuration {config.name!r}; its lanes are 0..{config.lanes - 1}"
            )
        self._config = config
        self._index = index
        self._array = MultiplierArray(config)
        self._loader = WeightLoader(config)
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(LaneProgram))),
                "read": Out(LaneRead(config)),
                "weight_write": In(BeatWrite(config, beats=config.weight_beats)),
                "drain": In(Drain(config)),
                "done": Out(1),
                "multiplies": Out(1),
                "overflow": Out(1),
            }
        )

    @property
    def start_latency(self) -> int:
        """Cycles from the transfer of a program, when idle, to its first word."""
        return max(AddressGenerator.START_LATENCY, self._loader.start_latency)

    @property
    def finish_latency(self) -> int:
        """Cycles from a tile's last word to the first cycle with ``drain.full``."""
        return self._control_latency + Accumulators.FULL_CYCLES

    @property
    def _control_latency(self) -> int:
        """Cycles from a word's request to its ``valid`` at the accumulators, which comes before its sums."""
        return 1 + self._array.latency - Accumulators.SUMS_CYCLES

    @property
    def overflow_latency(self) -> int:
        """Cycles from a program's ``done`` to the ``overflow`` of its last word."""
        return self._control_latency + Accumulators.OVERFLOW_CYCLES - 1  # done comes a cycle after the word's request

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.weight_loader = loader = self._loader
        m.submodules.address_generator = addresses = AddressGenerator(self._config, self._index)
        m.submodules.multiplier_array = array = self._array
        m.submodules.accumulators = accumulators = Accumulators(self._config)
        wiring.connect(m, wiring.flipped(self.weight_write), loader.weight_write)
        wiring.connect(m, wiring.flipped(self.drain), accumulators.drain)
        self._fork(m, loader.program, addresses.program)

        word = addresses.word.payload
        block_ready = ~word.first | loader.ready
        begins_tile = word.first & word.first_step
        issue, too_soon = Signal(), Signal()
        go = addresses.word.valid & block_ready & (~begins_tile | accumulators.free) & ~too_soon
        m.d.comb += [
            self.read.request.valid.eq(go & ~word.padding),
            self.read.request.payload.eq(word.address),
            issue.eq(go & (word.padding | self.read.request.ready)),
            addresses.word.ready.eq(issue),
            loader.take.eq(issue & word.first),
            accumulators.reserve.eq(issue & begins_tile),
        ]
        m.d.sync += self.done.eq(issue & word.last)
        m.d.comb += self.overflow.eq(accumulators.overflow)
        self._connect_array(m, issue, word, loader.weights, array, accumulators, too_soon)
        return m

    def _fork(self, m: Module, *sides: stream.Interface) -> None:
        """Hands each program to both sides, each in its own time."""
        taken = Signal(len(sides))
        ready = taken
        for index, side in enumerate(sides):
            m.d.comb += [side.valid.eq(self.program.valid & ~taken[index]), side.payload.eq(self.program.payload)]
            ready |= side.ready << index
        m.d.comb += self.program.ready.eq(ready.all())
        m.d.sync += taken.eq(0)
        with m.If(self.program.valid & ~self.program.ready):
            m.d.sync += taken.eq(ready)

    def _connect_array(
        self,
        m: Module,
        issue: Signal,
        word: data.View,
        weights: list[Signal],
        array: MultiplierArray,
        accumulators: Accumulators,
        too_soon: Signal,
    ) -> None:
        """The pipeline after the read; what is known about a word travels beside it.

        Sets ``too_soon`` while the word's pixel was added to less than ``ACCUMULATE_CYCLES`` ago: a pixel of a tile of
        n comes back after n complete words, and the first step adds to nothing. Without stalls that never happens,
        since steps take ``rows`` cycles; but a stall inside a step brings it nearer to the next one.
        """
        complete, control = issue & word.complete, Signal(accumulate_layout(self._config))
        m.d.comb += [
            control.pixel.eq(word.pixel),
            control.overwrite.eq(word.first_step),
            control.last.eq(word.finishes),
        ]
        recent = []
        for cycle in range(1, self._control_latency + 1):
            earlier, complete = complete, Signal(name=f"complete_{cycle}")
            undelayed, control = control, Signal.like(control, name=f"control_{cycle}", reset_less=True)
            m.d.sync += [complete.eq(earlier), control.eq(undelayed)]
            recent += [complete] if cycle < ACCUMULATE_CYCLES else []
        adds = word.complete & ~word.first_step
        m.d.comb += too_soon.eq(adds & (sum(recent, Const(0)) >= word.pixels))
        m.d.comb += [accumulators.valid.eq(complete), accumulators.control.eq(control)]

        issued = Signal()
        m.d.sync += issued.eq(issue)
        digit_control = Signal(digit_control_layout(), reset_less=True)
        copy_members(m.d.sync, digit_control, word)
        m.d.comb += [
            array.valid.eq(issued),
            self.multiplies.eq(issued),
            array.word.eq(self.read.data),
            array.control.eq(digit_control),
        ]
        m.d.comb += [port.eq(word) for port, word in zip(array.weights, weights, strict=True)]
        m.d.comb += [port.eq(total) for port, total in zip(accumulators.sums, array.sums, strict=True)]
