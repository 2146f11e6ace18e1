"""Times of operations, from times of instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork
from tessera.rtl.isa import LaneProgram, PostProcess, Unit, Window, lanes_of_mask
from tessera.sim.program import Program


@dataclass(frozen=True)
class OperationTime:
    """When an operation worked, in cycles since the start of the stream.

    Attributes
    ----------
    operation
        Its name.
    start, end
        From the beginning of its first tile to the end of its last post-processing.
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
        if not isinstance(instruction, (LaneProgram, Window, PostProcess)):
            continue
        name = program.operations[index]
        lanes = lanes_of_mask(instruction.lanes) if isinstance(instruction, LaneProgram) else ()
        before = found.get(name, OperationTime(name, int(start[index]), int(end[index]), ()))
        found[name] = OperationTime(
            name,
            min(before.start, int(start[index])),
            max(before.end, int(end[index])),
            tuple(sorted({*before.lanes, *lanes})),
        )
    return list(found.values())


def instruction_times(program: Program, completions: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Start and end of each instruction, from the machine's trace.

    A unit works through its instructions in order, so the n-th completion of a unit ends its n-th instruction. An
    instruction counts as started when its unit had completed the one before.

    Parameters
    ----------
    completions
        (cycle since the start of the stream, mask of the units that completed an instruction in it), rising.
    """
    ends: list[list[int]] = [[] for _ in Unit]
    for cycle, mask in completions:
        for unit in Unit:
            if mask >> unit & 1:
                ends[unit].append(cycle)
    taken = [0] * len(Unit)
    start, end = [], []
    for instruction in program.instructions:
        units = [] if instruction.mnemonic in ("wait", "fence", "end") else instruction.units()
        starts, finishes = [], []
        for unit in units:
            index = taken[unit]
            taken[unit] += 1
            starts.append(ends[unit][index - 1] if index else 0)
            finishes.append(ends[unit][index])
        start.append(min(starts, default=0))
        end.append(max(finishes, default=0))
    return start, end


def bundles(network: QuantizedNetwork, times: Sequence[OperationTime]) -> list[dict[str, object]]:
    """The bundles of ``summary.json``: one per operation, since one network runs one operation at a time."""
    operations = {operation.name: operation for operation in network.operations}
    rows = []
    for time in times:
        operation = operations[time.operation]
        weights = operation.weight_depth if isinstance(operation, QuantizedConvolution) else None
        slot = {
            "network": network.name,
            "op": time.operation,
            "lanes": list(time.lanes),
            "activation_bits": network.tensors[operation.input].depth,
            "weight_bits": weights,
            "cycles": time.cycles,
        }
        rows.append({"start": time.start, "end": time.end, "slots": [slot]})
    return rows
