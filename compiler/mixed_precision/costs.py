"""What a quantised network costs on a machine: cycles, bytes of weights, and bytes that pass the DRAM's bus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from tessera.compiler.integer import to_integer
from tessera.compiler.lowering import lower
from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import INSTRUCTION_BYTES, Load, Store
from tessera.sim.cycles import predict
from tessera.sim.program import Program
from tessera.sim.transfers import column_pitch, element_bytes

CYCLES = "cycles"
WEIGHT_BYTES = "weight bytes"
DRAM_BYTES = "DRAM bytes"
RESOURCES = (CYCLES, WEIGHT_BYTES, DRAM_BYTES)
"""The names of what is counted."""

Costs = Mapping[str, Mapping[str, float]]
"""By operation, by resource. Added up over the operations they are those of the network."""

Meter = Callable[[QuantizedNetwork], Costs]
"""Finds the costs of a network; raises `CompilerError` if it does not fit the machine."""


def cycle_model(config: NpuConfig) -> Meter:
    """Costs on a machine by its cycle model."""

    def costs(network: QuantizedNetwork) -> Costs:
        program = lower(to_integer(network), config)
        return operation_costs(network, program, predict(program.instructions, config).end.tolist())

    return costs


def operation_costs(network: QuantizedNetwork, program: Program, ends: Sequence[int]) -> dict[str, dict[str, float]]:
    """Costs of the operations of a network.

    An operation's cycles are those by which it delays the end of what comes before; what it does while earlier ones
    still work (its weights are loaded then, say) costs it none. Copies that the compiler adds count with the operation
    that they are made for.

    Parameters
    ----------
    network, program
        The network, and what the compiler made of it.
    ends
        The cycle in which each instruction ends.
    """
    names = [operation.name for operation in network.operations]
    owners = _owners(program, names)
    last = dict.fromkeys(names, 0)
    traffic = dict.fromkeys(names, 0)
    for name, instruction, end in zip(owners, program.instructions, ends, strict=True):
        last[name] = max(last[name], end)
        traffic[name] += INSTRUCTION_BYTES
        if isinstance(instruction, Load | Store):
            traffic[name] += transfer_bytes(instruction, program.config)
    times = list(accumulate((last[name] for name in names), max, initial=0))
    weights = {
        operation.name: operation.weights.size * operation.weight_depth / 8
        for operation in network.operations
        if isinstance(operation, QuantizedConvolution)
    }
    return {
        name: {CYCLES: after - before, WEIGHT_BYTES: weights.get(name, 0), DRAM_BYTES: traffic[name]}
        for name, before, after in zip(names, times, times[1:], strict=False)
    }


def total(costs: Costs) -> dict[str, float]:
    """Costs of the network."""
    return {resource: sum(each[resource] for each in costs.values()) for resource in RESOURCES}


def transfer_bytes(transfer: Load | Store, config: NpuConfig) -> int:
    """Bytes that a transfer moves between DRAM and the chip; elements that overlap in DRAM are moved once."""
    pitch, width = column_pitch(transfer, config), element_bytes(transfer, config)
    row = (transfer.columns - 1) * min(pitch, width) + width
    return row * transfer.rows * transfer.planes


def _owners(program: Program, names: Sequence[str]) -> list[str]:
    """The operation of the network that each instruction is for."""
    owners, owner = [], names[-1]
    for name in reversed(program.operations):
        owner = name if name in names else owner
        owners.append(owner)
    return owners[::-1]
