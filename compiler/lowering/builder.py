"""Collects the instructions of a stream and the data that it needs in DRAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.placement import Ring
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
        allowed = sum(1 << lane for lane in self.lanes)
        return [mask for mask in gang_masks(digits_of_depth(depth), self.config.lanes) if mask & ~allowed == 0]

    def mask(self, depth: int) -> int:
        """Mask of all lanes that hold tensors of ``depth`` bits: those of all complete gangs."""
        return sum(self.gangs(depth))


@dataclass(frozen=True)
class Step:
    """An instruction, what it is for in words, and the name of the operation that it is a part of, if any."""

    instruction: Instruction
    label: str
    operation: str = ""


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
    data
        Weights and parameters so far.
    steps
        Instructions so far, without waits.
    number
        Number of the operation for which instructions that are appended now count, see `CountedInstruction`.
    weight_ring, parameter_ring, table_ring
        Allocation of the weight banks (beats, the same in all lanes), of the parameter memory (blocks), and of the
        table memory (tables).
    """

    lanes: LaneSet
    placement: dict[str, OnChipTensor]
    tilings: Mapping[str, OperationTiling]
    buffers: dict[tuple[str, str], int]
    data_address: int
    dram: dict[str, DramTensor]
    data: bytearray = field(default_factory=bytearray)
    steps: list[Step] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        self.weight_ring = Ring(self.config.weight_beats)
        self.parameter_ring = Ring(self.config.parameter_blocks)
        self.table_ring = Ring(self.config.tables)

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
        """Appends bytes to the image, at a burst's alignment; returns their DRAM address."""
        self.data += bytes(-len(self.data) % AXI_BURST_BYTES)
        address = self.data_address + len(self.data)
        self.data += data
        return address
