"""Collects the instructions of a stream and the data that it needs in DRAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.placement import LaneRings, Ring
from tessera.compiler.lowering.tiling import OperationTiling
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig, digits_of_depth
from tessera.rtl.isa import CountedInstruction, Instruction
from tessera.rtl.legality import gang_masks
from tessera.sim.program import DramTensor, OnChipTensor


@dataclass(frozen=True)
class LaneSet:
    """The lanes that a program may use.

    Attributes
    ----------
    config
        Sizes of the NPU.
    lanes
        Indices, rising.
    """

    config: NpuConfig
    lanes: tuple[int, ...]

    def __post_init__(self) -> None:
        for lane in self.lanes:
            if not 0 <= lane < self.config.lanes:
                raise CompilerError(
                    f"lane {lane} was asked for, but configuration {self.config.name!r} has the lanes "
                    f"0..{self.config.lanes - 1}; choose among those"
                )
        if not self.lanes:
            raise CompilerError("no lanes were given; a program needs at least one")

    def gangs(self, depth: int) -> list[int]:
        """Masks of the complete gangs for activations of ``depth`` bits."""
        return gangs_within(sum(1 << lane for lane in self.lanes), depth, self.config)

    def holders(self, depth: int) -> int:
        """Mask of the lanes that hold tensors of ``depth`` bits: those of all complete gangs, or if there is none those
        of the gangs to which the lanes belong."""
        lanes = sum(1 << lane for lane in self.lanes)
        masks = gang_masks(digits_of_depth(depth), self.config.lanes)
        return sum(self.gangs(depth)) or sum(mask for mask in masks if mask & lanes)


def gangs_within(lanes: int, depth: int, config: NpuConfig) -> list[int]:
    """Masks of the complete gangs for activations of ``depth`` bits within a mask of lanes."""
    return [mask for mask in gang_masks(digits_of_depth(depth), config.lanes) if mask & ~lanes == 0]


@dataclass(frozen=True)
class Step:
    """An instruction, what it is for in words, and the name of the operation that it is a part of, if any."""

    instruction: Instruction
    label: str
    operation: str = ""


StepType = TypeVar("StepType", bound=Step)


@dataclass
class OnChipRings:
    """Allocation of the memories that operations use in turn.

    Attributes
    ----------
    weights
        The weight banks, in beats.
    parameters
        The parameter memory, or the share of it that the operations may use, in blocks.
    tables
        The table memory, or a share of it, in tables.
    """

    weights: LaneRings
    parameters: Ring
    tables: Ring

    @classmethod
    def of(cls, config: NpuConfig) -> OnChipRings:
        """The whole memories of a machine."""
        return cls(LaneRings(config.weight_beats, config.lanes), Ring(config.parameter_blocks), Ring(config.tables))


@dataclass
class StreamBuilder:
    """State while a network is lowered.

    Attributes
    ----------
    lanes
        The lanes that may be used.
    placement
        Tensors that are on chip as a whole.
    tilings
        How each operation is cut, by its name.
    buffers
        First word of the buffer of each streamed operand, by (operation, role).
    data_address
        DRAM byte address of the first byte of ``data``.
    dram
        Inputs, outputs and streamed tensors in DRAM.
    rings
        Allocation of the memories for weights, parameters and tables.
    data
        Weights and parameters so far.
    steps
        Instructions so far, without waits.
    number
        Number of the operation for which instructions that are appended now count, see `CountedInstruction`.
    pieces
        Into how many pieces, if not into more tiles of rows, a tensor is divided by its channel blocks to be loaded or
        stored.
    tile_cycles
        As in `tessera.compiler.lowering.partition.Work`.
    round_bytes
        Bytes of weights in DRAM that a round takes at most where it can, and from which on an operation has more than
        one round; 0: as many as there is room for.
    """

    lanes: LaneSet
    placement: dict[str, OnChipTensor]
    tilings: Mapping[str, OperationTiling]
    buffers: dict[tuple[str, str], int]
    data_address: int
    dram: dict[str, DramTensor]
    rings: OnChipRings
    data: bytearray = field(default_factory=bytearray)
    steps: list[Step] = field(default_factory=list)
    number: int = 0
    pieces: int = 1
    tile_cycles: int = 0
    round_bytes: int = 0

    def __post_init__(self) -> None:
        self._stored: dict[bytes, int] = {}

    @property
    def config(self) -> NpuConfig:
        """Sizes of the NPU."""
        return self.lanes.config

    def emit(self, instruction: Instruction, label: str, operation: str = "") -> None:
        """Appends an instruction, which gets the current operation's ``number``; see `Step`."""
        if isinstance(instruction, CountedInstruction):
            instruction = replace(instruction, operation=self.number)
        self.steps.append(Step(instruction, label, operation))

    def add_data(self, data: bytes) -> int:
        """Appends bytes to the image, at a burst's alignment, unless it has them; returns their DRAM address."""
        if data not in self._stored:
            self.data += bytes(-len(self.data) % AXI_BURST_BYTES)
            self._stored[data] = self.data_address + len(self.data)
            self.data += data
        return self._stored[data]

    def allocate_weights(self, beats: int) -> int:
        """First beat of a piece of the weight banks, the same in all lanes."""
        return self.rings.weights.allocate(beats, self.lanes.lanes)
