"""Instructions of the layers of an adaptive network, at all depths, in the order in which they stand in segments."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from tessera.compiler.adaptive.mapping import AdaptiveMapping
from tessera.compiler.adaptive.network import Trace
from tessera.compiler.lowering.builder import LaneSet, OnChipRings, Step, StreamBuilder
from tessera.compiler.lowering.mapping import place_in_dram
from tessera.compiler.lowering.operations import emit_operation
from tessera.compiler.lowering.schedule import schedule
from tessera.rtl.isa import INSTRUCTION_BYTES, Fence, Unit, Wait
from tessera.sim.footprint import Access, footprint
from tessera.sim.ordering import Clock

DEEP_PIECES, SHALLOW_PIECES = 4, 2
"""Pieces in which tensors are stored while a layer makes them, and loaded while the next one begins: at the deepest
depth, and at the others, which are for a busy memory, from which more pieces take more instructions."""

ROUND_PART = 4
"""The weights of a shallow variant's round are at most this part of one lane's bank, in all lanes together: computing
begins with the first round, and little is left of it when the last one comes. More at a time would leave the bus
without work for as long as the instructions of the layer behind are held up by those that wait for the weights."""

TILE_INSTRUCTIONS = 2
"""Instructions of a tile, which are fetched while the memory is busy."""


@dataclass(frozen=True)
class _NumberedStep(Step):
    """A step and its place in the order in which it was emitted."""

    position: int = 0


@dataclass(frozen=True, eq=False)
class Variant:
    """The work of an operation at a depth.

    What it reads in DRAM, and how that is converted, depends on other layers' depths; all else does not.

    Attributes
    ----------
    order
        For each of its instructions, in the order of the stream, its place in the order in which it is emitted.
    counts
        How many each unit has.
    accesses
        What they read and write, each with the number of instructions that its unit has been given by then.
    """

    order: tuple[int, ...]
    counts: Clock
    accesses: tuple[tuple[Access, int], ...]


class LayerEmitter:
    """Emits operations, one after another: all variants of one before the first of the next.

    What variants of an operation load into the memories that are used round and round, for weights, parameters and
    tables, begins where the operation before ended at its deepest, so that it can be loaded ahead.

    Attributes
    ----------
    builder
        Collects the data of all.
    tensors
        All tensors in DRAM as they are stored at their deepest.
    """

    def __init__(self, mapping: AdaptiveMapping, lanes: LaneSet, dram_address: int):
        dram, data_address = place_in_dram(mapping.stored, dram_address)
        self._mapping, self.tensors = mapping, dram
        buffers = {name: base for name, base in mapping.stored.bases.items() if isinstance(name, tuple)}
        tilings, rings = mapping.stored.tiling.operations, OnChipRings.of(lanes.config)
        self.builder = StreamBuilder(lanes, {}, tilings, buffers, data_address, dram, rings)
        self._rings = rings

    def variants(self, name: str, reference: Trace) -> dict[int, Variant]:
        """All variants of an operation, by depth; their order is for when those before have the depths of
        ``reference``."""
        return {depth: self._variant(name, depth, reference) for depth in self._mapping.depths(name)}

    def steps(self, name: str, depth: int, state: Trace, variant: Variant) -> tuple[Step, ...]:
        """A variant's instructions for some depths of the layers before."""
        emitted = self._emit(name, depth, state)
        return tuple(emitted[position] for position in variant.order)

    def next(self, name: str, reference: Trace) -> None:
        """Goes on to the operation behind one."""
        self._emit(name, self._mapping.depths(name)[-1], reference)
        self._rings = self.builder.rings

    def _variant(self, name: str, depth: int, reference: Trace) -> Variant:
        config = self.builder.config
        emitted = self._emit(name, depth, reference)
        numbered = [
            _NumberedStep(step.instruction, step.label, step.operation, position)
            for position, step in enumerate(emitted)
        ]
        ordered = [step for step in schedule(numbered, config) if not isinstance(step.instruction, Wait | Fence)]
        counts, accesses = np.zeros(len(Unit), np.int64), []
        for step in ordered:
            for unit in step.instruction.units():
                counts[unit] += 1
            accesses += [(access, int(counts[access.unit])) for access in footprint(step.instruction, config)]
        return Variant(tuple(step.position for step in ordered), counts, tuple(accesses))

    def _tile_cycles(self, depth: int) -> int:
        """Cycles by which the instructions of a tile take longer where a depth is chosen: shallow ones are for a memory
        that others use, and of which about as large a part is left as the depth is of the deepest."""
        config = self.builder.config
        cycles = TILE_INSTRUCTIONS * INSTRUCTION_BYTES / config.beat_bytes
        return round(cycles * (self._mapping.network.depths[-1] / depth - 1))

    def _emit(self, name: str, depth: int, state: Trace) -> list[Step]:
        builder, mapping = self.builder, self._mapping
        builder.rings, builder.steps = deepcopy(self._rings), []
        builder.number, builder.tile_cycles = mapping.numbers[name], self._tile_cycles(depth)
        deepest = depth == mapping.network.depths[-1]
        builder.pieces = DEEP_PIECES if deepest else SHALLOW_PIECES
        builder.round_bytes = 0 if deepest else builder.config.weight_bank_bytes // ROUND_PART
        builder.dram = mapping.dram(name, depth, state, self.tensors)
        emit_operation(builder, mapping.on_chip(name, depth).operation(name))
        return builder.steps
