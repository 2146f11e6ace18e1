"""Times of operations, from times of instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork
from tessera.rtl.isa import LaneProgram, PostProcess, Source, Unit, Window, lanes_of_mask, units_of_mask
from tessera.sim.occupancy import starts
from tessera.sim.program import Program


@dataclass(frozen=True)
class OperationTime:
    """When an operation worked, in cycles since the start of the stream.

    Attributes
    ----------
    operation
        Its name.
    start, end
        From the beginning of its first lane program to the end of its last post-processing. Window readers, which read
        a few positions ahead, count as working when their post-processing does.
    lanes
        Indices of the lanes whose multipliers it used; empty for windows.
    """

    operation: str
    start: int
    end: int
    lanes: tuple[int, ...]

    @property
    def cycles(self) -> int:
        """From start to end."""
        return self.end - self.start


def operation_times(program: Program, start: Sequence[int], end: Sequence[int]) -> list[OperationTime]:
    """Times of a program's operations, in their order, from the start and end of each of its instructions."""
    found: dict[str, OperationTime] = {}
    for index, instruction in enumerate(program.instructions):
        if not isinstance(instruction, LaneProgram | PostProcess):
            continue
        name = program.operations[index]
        first, last = int(start[index]), int(end[index])
        lanes = lanes_of_mask(instruction.lanes) if isinstance(instruction, LaneProgram) else ()
        before = found.get(name, OperationTime(name, first, last, ()))
        if isinstance(instruction, PostProcess) and instruction.source is Source.LANES:
            first = before.start  # that of its lane program
        found[name] = OperationTime(
            name, min(before.start, first), max(before.end, last), tuple(sorted({*before.lanes, *lanes}))
        )
    return list(found.values())


def instruction_times(
    program: Program | PlanProgram, completions: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """Start and end of each instruction, from the machine's trace.

    A unit works through its instructions in order, so the n-th completion of a unit ends its n-th instruction. When one
    counts as started is said by `tessera.sim.occupancy.starts`. A wait, a fence and the end take no time: both are 0.

    Parameters
    ----------
    completions
        (cycle since the start of the stream, mask of the units that completed an instruction in it), rising.
    """
    completed: list[list[int]] = [[] for _ in Unit]
    for cycle, mask in completions:
        for unit in units_of_mask(mask):
            completed[unit].append(cycle)
    taken = [0] * len(Unit)
    end = []
    for instruction in program.instructions:
        units = instruction.workers()
        end.append(max((completed[unit][taken[unit]] for unit in units), default=0))
        for unit in units:
            taken[unit] += 1
    return starts(program.instructions, program.config, end), end


def bundles(network: QuantizedNetwork, program: Program, times: Sequence[OperationTime]) -> list[dict[str, object]]:
    """The bundles of ``summary.json``: one per operation, since one network runs one operation at a time."""
    depths = _depths(program) | {
        operation.name: (network.tensors[operation.input].depth, operation.weight_depth)
        for operation in network.operations
        if isinstance(operation, QuantizedConvolution)
    }
    rows = []
    for time in times:
        activation, weight = depths[time.operation]
        slot = {
            "network": network.name,
            "op": time.operation,
            "lanes": list(time.lanes),
            "activation_bits": activation,
            "weight_bits": weight,
            "cycles": time.cycles,
        }
        rows.append({"start": time.start, "end": time.end, "slots": [slot]})
    return rows


def _depths(program: Program) -> dict[str, tuple[int, int | None]]:
    """Bits of the input and of the weights of each operation as the machine has them; the compiler's copies too."""
    depths: dict[str, tuple[int, int | None]] = {}
    for name, instruction in zip(program.operations, program.instructions, strict=True):
        if isinstance(instruction, LaneProgram | Window):
            weight = instruction.weight_depth.bits if isinstance(instruction, LaneProgram) else None
            depths[name] = instruction.depth.bits, weight
    return depths
