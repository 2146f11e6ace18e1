"""Instruction decoder: finds the units of an instruction and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl import isa, legality
from tessera.rtl.adaptation import DEPTH_BITS
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.fetch import fetched_layout
from tessera.rtl.interfaces import layout_of

OPERAND_BITS = isa.INSTRUCTION_BITS - isa.OPCODE_BITS

_MARKS: dict[str, type[isa.Instruction]] = {
    "wait": isa.Wait,
    "advance": isa.Advance,
    "fence": isa.Fence,
    "bundle": isa.Bundle,
    "select": isa.Select,
    "end": isa.End,
}
"""Instructions that no unit executes, by how they are marked."""


def decoded_layout() -> data.StructLayout:
    """An instruction that is ready to be handed out.

    ``operands`` are its bits above the opcode, ``units`` the mask of the units that take it, ``code`` an
    `isa.ErrorCode` (with ``NONE``, everything else is right); ``wait``, ``advance``, ``fence``, ``bundle``, ``select``
    and ``end`` mark the instructions that no unit executes. ``guess`` is the depth for which the fetch has read on
    behind a ``Select``.
    """
    return data.StructLayout(
        {
            "operands": OPERAND_BITS,
            "units": len(isa.Unit),
            "code": range(max(isa.ErrorCode) + 1),
            **dict.fromkeys(_MARKS, 1),
            "guess": DEPTH_BITS,
        }
    )


class Decoder(wiring.Component):
    """Decodes one instruction per cycle, with a register at its output.

    An instruction's units and the rules it must fulfil come from the instruction table and `legality.rules_of`;
    bits outside its fields must be zero.

    Members
    -------
    clear
        Drops the instruction in the output register.
    fetched, decoded
        The instructions before and after.
    """

    LATENCY = 1

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "clear": In(1),
                "fetched": In(stream.Signature(fetched_layout())),
                "decoded": Out(stream.Signature(decoded_layout())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word = self.fetched.payload.word
        operands = word[isa.OPCODE_BITS :]
        found = Signal(decoded_layout())
        m.d.comb += [found.operands.eq(operands), found.guess.eq(self.fetched.payload.guess)]
        m.d.comb += found.code.eq(isa.ErrorCode.BAD_OPCODE)
        with m.Switch(word[: isa.OPCODE_BITS]):
            for kind in isa.INSTRUCTIONS:
                with m.Case(kind.opcode):
                    self._decode(m, kind, operands, found)
        with m.If(self.fetched.payload.error):
            m.d.comb += found.code.eq(isa.ErrorCode.FETCH_ERROR)
        with m.If(self.fetched.payload.outside):
            m.d.comb += found.code.eq(isa.ErrorCode.WINDOW)

        m.d.comb += self.fetched.ready.eq(~self.decoded.valid | self.decoded.ready)
        with m.If(self.fetched.ready):
            m.d.sync += [self.decoded.valid.eq(self.fetched.valid), self.decoded.payload.eq(found)]
        with m.If(self.clear):
            m.d.sync += self.decoded.valid.eq(0)
        return m

    def _decode(self, m: Module, kind: type[isa.Instruction], operands: Value, found: data.View) -> None:
        layout = layout_of(kind)
        view = data.View(layout, operands[: layout.size])
        legal = operands[layout.size :] == 0
        for rule in legality.rules_of(kind, self._config):
            legal = legal & rule.holds(view.__getitem__)
        code = isa.ErrorCode
        m.d.comb += [
            found.code.eq(Mux(legal, code.NONE, code.BAD_OPERAND)),
            found.units.eq(units_of(kind, view.__getitem__)),
            *(found[name].eq(kind is marked) for name, marked in _MARKS.items()),
        ]


def units_of(kind: type[isa.Instruction], read: Callable[[str], Value]) -> Value:
    """Mask of the units that take an instruction: `isa.Instruction.units` as hardware."""
    units = isa.Unit
    if kind in (isa.Wait, isa.Advance):
        return read("targets")
    if kind is isa.Load:
        return Const(1 << units.LOAD)
    if kind is isa.Store:
        return Const(1 << units.STORE)
    if kind is isa.LaneProgram:
        return read("lanes") << units.LANE0
    if kind is isa.Window:
        return Const(1 << units.WINDOW0) << read("slice")
    if kind is isa.PostProcess:
        return Const(1 << units.PPU0) << read("slice")
    return Const(0)
