"""The last stage of a post-processing slice: saturation, and the way into the banks."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import DIGIT_BITS, NpuConfig, digits_of_depth
from tessera.rtl.interfaces import bank_write_layout, layout_of
from tessera.rtl.isa import Depth, PostProcess
from tessera.rtl.ppu.activation import activated_layout
from tessera.rtl.ppu.requantizer import ROUNDED_BITS
from tessera.rtl.ppu.tile_addresses import TileAddresses


class OutputWriter(wiring.Component):
    """Saturates values, splits them into digits, and writes them; one pixel per cycle.

    Parameters
    ----------
    config
        Sizes; only the activation depths that it names are built.

    Members
    -------
    program : In(stream of PostProcess)
        The tiles. One is accepted when idle or together with the last write of the one before.
    activated : In(stream of activated_layout)
        The values.
    write : Out(stream of bank_write_layout)
        The writes, one cycle after the values.
    done : Out(1)
        1 in the cycle in which the last write of a tile is taken.
    saturations : Out(range(cols + 1))
        Number of channels that were saturated, in the cycle in which their write is taken; 0 in others.
    """

    LATENCY = 1
    """Cycles from a pixel's values to its write."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(layout_of(PostProcess))),
                "activated": In(stream.Signature(activated_layout(config))),
                "write": Out(stream.Signature(bank_write_layout(config))),
                "done": Out(1),
                "saturations": Out(range(config.cols + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.addresses = addresses = TileAddresses(self._config)
        new = self.program.payload
        names = ("output_lanes", "output_depth", "output_half")
        program = {name: Signal.like(new[name], name=name, reset_less=True) for name in names}
        limits = [Signal(signed(ROUNDED_BITS), name=name, reset_less=True) for name in ("lowest", "highest")]
        busy, accepted = Signal(), Signal()
        m.d.comb += [
            self.program.ready.eq(~busy | self.done),
            accepted.eq(self.program.valid & self.program.ready),
            addresses.tile.valid.eq(accepted),
            addresses.tile.payload.base.eq(new.output_base),
            addresses.tile.payload.row_pitch.eq(new.output_row_pitch),
            addresses.tile.payload.height.eq(new.tile_height),
            addresses.tile.payload.width.eq(new.tile_width),
        ]
        with m.If(self.program.ready):
            m.d.sync += busy.eq(self.program.valid)
            m.d.sync += [register.eq(new[name]) for name, register in program.items()]
            self._set_limits(m, *limits)

        taken = self._flow(m, addresses)
        values, saturated = self._saturate(m, limits)
        planes = [
            Signal(self._config.word_bits // 2, name=f"plane_{digit}", reset_less=True)
            for digit in range(self._config.max_gang)
        ]
        flags = Signal(self._config.cols, reset_less=True)
        with m.If(taken):
            m.d.sync += flags.eq(Cat(saturated))
            for digit, plane in enumerate(planes):
                m.d.sync += plane.eq(Cat(value.word_select(digit, DIGIT_BITS) for value in values))
        with m.If(self.write.valid & self.write.ready):
            m.d.comb += self.saturations.eq(sum(flags))
        self._write_words(m, program, planes)
        return m

    def _flow(self, m: Module, addresses: TileAddresses) -> Signal:
        """Joins values and addresses; the returned signal says that the output register takes both."""
        valid, taken, last = Signal(), Signal(), Signal(reset_less=True)
        payload = addresses.address.payload
        address = Signal.like(payload.address, reset_less=True)
        room = ~valid | self.write.ready
        m.d.comb += [
            taken.eq(room & addresses.address.valid & self.activated.valid),
            self.activated.ready.eq(taken),
            addresses.address.ready.eq(taken),
            self.write.valid.eq(valid),
            self.write.payload.address.eq(address),
            self.done.eq(valid & last & self.write.ready),
        ]
        with m.If(room):
            m.d.sync += valid.eq(taken)
        with m.If(taken):
            m.d.sync += [last.eq(payload.last), address.eq(payload.address)]
        return taken

    def _set_limits(self, m: Module, lowest: Signal, highest: Signal) -> None:
        """The range of the new program's output depth."""
        new = self.program.payload
        with m.Switch(new.output_depth):
            for bits in self._config.activation_depths:
                with m.Case(Depth.of(bits)):
                    m.d.sync += [
                        lowest.eq(Mux(new.output_signed, -(1 << (bits - 1)), 0)),
                        highest.eq(Mux(new.output_signed, (1 << (bits - 1)) - 1, (1 << bits) - 1)),
                    ]

    def _saturate(self, m: Module, limits: list[Signal]) -> tuple[list[Signal], list[Value]]:
        """The values within the depth; flags of the saturated ones."""
        lowest, highest = limits
        values, saturated = [], []
        for channel in range(self._config.cols):
            activated = self.activated.payload[channel]
            low, high = Signal(name=f"low_{channel}"), Signal(name=f"high_{channel}")
            value = Signal(DIGIT_BITS * self._config.max_gang, name=f"value_{channel}")
            m.d.comb += [
                low.eq(activated < lowest),
                high.eq(activated > highest),
                value.eq(Mux(low, lowest, Mux(high, highest, activated))),
            ]
            values.append(value)
            saturated.append(low | high)
        return values, saturated

    def _write_words(self, m: Module, program: dict[str, Signal], planes: list[Signal]) -> None:
        """Lane l gets digit ``l mod digits(output_depth)`` of all channels, offered to both halves of its word.

        ``planes[i]`` holds digit i of every channel.
        """
        m.d.comb += [
            self.write.payload.lanes.eq(program["output_lanes"]),
            self.write.payload.halves.eq(Mux(program["output_half"], 0b10, 0b01)),
        ]
        with m.Switch(program["output_depth"]):
            for bits in self._config.activation_depths:
                with m.Case(Depth.of(bits)):
                    for lane, word in enumerate(self.write.payload.words):
                        m.d.comb += word.eq(planes[lane % digits_of_depth(bits)].replicate(2))
