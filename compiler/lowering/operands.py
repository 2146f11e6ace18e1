"""The operands of an operation, band by band: whole tensors on chip, or buffers with their loads and stores."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tessera.compiler.lowering.builder import StreamBuilder
from tessera.compiler.lowering.regions import Box, input_box, whole_reduction
from tessera.compiler.lowering.tiling import INPUT, OUTPUT, RESIDUAL, operands
from tessera.compiler.lowering.transfers import emit_load, emit_store
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.network import Operation, TensorType
from tessera.sim.program import OnChipTensor


@dataclass
class _Buffer:
    """Copies of ``words`` words from ``base`` on, used in turn."""

    base: int
    words: int
    copies: int
    used: int = 0

    def next(self) -> int:
        """First word of the next copy."""
        base = self.base + self.used % self.copies * self.words
        self.used += 1
        return base


class BandOperands:
    """Finds, loads and stores the operands of an operation's bands.

    The order of the calls is the meaning of the stream: what is loaded into a copy of a buffer replaces what was there.

    Attributes
    ----------
    types
        Types of the whole operands by role.
    """

    def __init__(self, builder: StreamBuilder, operation: Operation):
        self._builder, self._operation = builder, operation
        self._names = operands(operation)
        self._tiling = builder.tilings[operation.name]
        self._buffers = {
            role: _Buffer(builder.buffers[operation.name, role], words, self._tiling.copies)
            for role, words in self._tiling.buffers.items()
        }
        self.types = {
            role: builder.dram[name].chip_type if role in self._buffers else builder.placement[name].type
            for role, name in self._names.items()
        }
        self._reduction = whole_reduction(operation, builder.config)
        self._last: dict[str, tuple[Box, OnChipTensor]] = {}

    def load(self, band: Box) -> tuple[OnChipTensor, OnChipTensor | None]:
        """Loads a band's input and residual operand, as far as they are not there.

        An input that is loaded part by part is only described: `load_part` loads it.
        """
        residual = self._fill(RESIDUAL, band) if RESIDUAL in self._names else None
        box = input_box(self._operation, self.types[INPUT], band, self._reduction, self._builder.config)
        if self._tiling.by_part:
            return self._part(INPUT, box, 0), residual
        return self._fill(INPUT, box), residual

    def load_part(self, band: Box, part: int) -> OnChipTensor:
        """Loads the band's input for a part of the reduction."""
        box = input_box(self._operation, self.types[INPUT], band, self._tiling.parts[part], self._builder.config)
        return self._fill(INPUT, box)

    def next_output(self, band: Box) -> OnChipTensor:
        """Where the band's output is to be written."""
        return self._chip(OUTPUT, band)

    def store(self, band: Box, output: OnChipTensor) -> None:
        """Stores the band's output, if it is in a buffer."""
        if OUTPUT in self._buffers:
            name = self._names[OUTPUT]
            emit_store(self._builder, output, self._builder.dram[name], f"store {name}", self._operation.name)

    def _fill(self, role: str, box: Box) -> OnChipTensor:
        """A box of an operand on chip; loads it if it is to be in a buffer, unless it is what was loaded last."""
        if role in self._last and self._last[role][0] == box:
            return self._last[role][1]
        chip = self._chip(role, box)
        if role in self._buffers:
            name = self._names[role]
            emit_load(self._builder, chip, self._builder.dram[name], f"load {name}", self._operation.name)
            self._last[role] = box, chip
        return chip

    def _chip(self, role: str, box: Box) -> OnChipTensor:
        if role not in self._buffers:
            return self._builder.placement[self._names[role]]
        return self._part(role, box, self._buffers[role].next())

    def _part(self, role: str, box: Box, base: int) -> OnChipTensor:
        """A box of an operand in a buffer, in the gangs of the lanes that work on it."""
        tensor = self.types[role]
        return _part_of(tensor, box, base, self._builder.lanes.holders(tensor.depth), self._builder.config)


def _part_of(tensor: TensorType, box: Box, base: int, lanes: int, config: NpuConfig) -> OnChipTensor:
    """A box of a tensor from a word on, in the lanes of a mask: its rows, and its channel blocks, one behind the
    other."""
    first = box.blocks.start * config.word_digits
    channels = min(tensor.channels, box.blocks.stop * config.word_digits) - first
    part = replace(tensor, channels=channels, height=box.rows.size, width=box.columns.size)
    pixels = box.rows.size * box.columns.size
    return OnChipTensor(
        part,
        base,
        box.columns.size,
        pixels if box.blocks.size > 1 else 0,
        box.words,
        lanes,
        box.blocks.start,
        box.rows.start,
        box.columns.start,
    )
