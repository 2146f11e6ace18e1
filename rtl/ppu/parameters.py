"""The parameter memory of a post-processing slice."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import PARAMETER_BYTES_PER_CHANNEL, NpuConfig
from tessera.rtl.interfaces import BeatWrite, layout_of
from tessera.rtl.isa import ChannelParameters, PostProcess

PARAMETER_BITS = 8 * PARAMETER_BYTES_PER_CHANNEL


class ParameterMemory(wiring.Component):
    """Holds the parameters of all output channels, and reads those of one block of ``cols`` channels into registers.

    Parameters
    ----------
    config
        Sizes.

    Members
    -------
    parameter_write : In(BeatWrite)
        Fills the memory.
    program : In(stream of PostProcess)
        Its ``parameter_block`` is read next. Accepted when idle or together with ``release``.
    loaded : Out(1)
        The registers hold the block that was asked for, ``load_cycles`` after the program's transfer.
    release : In(1)
        The registers are not needed any more; only while ``loaded``.
    bias, multiplier, shift : Out(32, signed), Out(16), Out(6), each x cols
        The registers, see `ChannelParameters`.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "parameter_write": In(BeatWrite(config, beats=config.parameter_beats)),
                "program": In(stream.Signature(layout_of(PostProcess))),
                "loaded": Out(1),
                "release": In(1),
                "bias": Out(signed(ChannelParameters.BIAS_BITS)).array(config.cols),
                "multiplier": Out(ChannelParameters.MULTIPLIER_BITS).array(config.cols),
                "shift": Out(ChannelParameters.SHIFT_BITS).array(config.cols),
            }
        )

    @staticmethod
    def load_cycles(config: NpuConfig) -> int:
        """Cycles from a program's transfer to ``loaded``."""
        return 1 + config.parameter_block_beats

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beats = self._config.parameter_block_beats
        m.submodules.memory = memory = Memory(
            shape=self._config.axi_data_bits, depth=self._config.parameter_beats, init=[]
        )
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [
            write.en.eq(self.parameter_write.enable),
            write.addr.eq(self.parameter_write.address),
            write.data.eq(self.parameter_write.data),
        ]
        loading, loaded, accepted = Signal(), Signal(), Signal()
        beat = Signal(range(beats), reset_less=True)  # of the block, in the memory's output now
        next_address = Signal.like(read.addr, reset_less=True)
        m.d.comb += [
            self.loaded.eq(loaded),
            self.program.ready.eq(~loading & (~loaded | self.release)),
            accepted.eq(self.program.valid & self.program.ready),
            read.addr.eq(Mux(accepted, self.program.payload.parameter_block * beats, next_address)),
            read.en.eq(accepted | loading),
        ]
        m.d.sync += next_address.eq(read.addr + 1)
        with m.If(self.release):
            m.d.sync += loaded.eq(0)
        with m.If(accepted):
            m.d.sync += [loading.eq(1), beat.eq(0)]
        with m.If(loading):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == beats - 1):
                m.d.sync += [loading.eq(0), loaded.eq(1)]
        for index in range(beats):
            self._capture(m, read.data, index, enable=loading & (beat == index))
        return m

    def _capture(self, m: Module, data: Signal, beat: int, *, enable: Value) -> None:
        """Takes the channels of one beat into their registers."""
        channels = self._config.axi_data_bits // PARAMETER_BITS
        for index in range(channels):
            channel = beat * channels + index
            fields = Cat(self.bias[channel], self.multiplier[channel], self.shift[channel])
            register = Signal(len(fields), name=f"parameters_{channel}", reset_less=True)
            m.d.comb += fields.eq(register)
            with m.If(enable):
                m.d.sync += register.eq(data.word_select(index, PARAMETER_BITS))
