"""Programs of execution plans: one stream of several networks, and where each has its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tessera.compiler.execution_plan import TaskId
from tessera.compiler.lowering.plan_memory import PlanPlacement
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Instruction, encode_stream
from tessera.sim.program import DramTensor
from tessera.sim.windows import MemoryWindow, aligned_window


@dataclass(frozen=True)
class JobMemory:
    """What a job has in DRAM.

    Attributes
    ----------
    context
        Number of the hardware context that its transfers belong to.
    address, end_address
        The DRAM bytes that are the job's own.
    tensors
        For each inference its inputs, its outputs and what passes through buffers on chip, by name.
    inputs, outputs
        Names of the tensors that the host writes before, and reads after an inference.
    data_address, data
        Weights, parameters and tables, which must be there before the start.
    """

    context: int
    address: int
    end_address: int
    tensors: tuple[Mapping[str, DramTensor], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data_address: int
    data: bytes

    @property
    def load_window(self) -> MemoryWindow:
        """All that is the job's own."""
        return aligned_window(self.address, self.end_address)

    @property
    def store_window(self) -> MemoryWindow:
        """Its tensors, without its data."""
        return aligned_window(self.address, self.data_address)


@dataclass(frozen=True)
class PlanProgram:
    """An execution plan, ready to run on one NPU.

    Attributes
    ----------
    config
        Configuration of the NPU that it was made for.
    instructions
        The stream, ending with ``End``.
    labels
        For each instruction what it is for, in words.
    tasks
        For each instruction the task that it is a part of, if any.
    bundles
        For each instruction the index of the bundle that it is a part of.
    numbers
        For each task the number for which its instructions are counted (see `CountedInstruction`).
    code_address
        DRAM byte address of the first instruction.
    jobs
        What each job has in DRAM, by its name.
    placement
        Where everything lies on chip.
    """

    config: NpuConfig
    instructions: tuple[Instruction, ...]
    labels: tuple[str, ...]
    tasks: tuple[TaskId | None, ...]
    bundles: tuple[int, ...]
    numbers: Mapping[TaskId, int]
    code_address: int
    jobs: Mapping[str, JobMemory]
    placement: PlanPlacement

    @property
    def code(self) -> bytes:
        """The encoded stream."""
        return encode_stream(self.instructions)

    @property
    def end_address(self) -> int:
        """First DRAM byte address after all that the program uses."""
        return self.code_window.limit

    @property
    def code_window(self) -> MemoryWindow:
        """Where the instructions lie."""
        return aligned_window(self.code_address, self.code_address + len(self.code))

    @property
    def writes(self) -> list[tuple[int, bytes]]:
        """(DRAM byte address, bytes) that must be there before the start, besides the inputs."""
        return [*((job.data_address, job.data) for job in self.jobs.values()), (self.code_address, self.code)]
