"""From an integer network to a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.compiler.lowering.builder import LaneSet, OnChipRings, Step, StreamBuilder
from tessera.compiler.lowering.mapping import MappedNetwork, align, map_network, place_in_dram, place_tensors
from tessera.compiler.lowering.network import InferenceEmitter
from tessera.compiler.lowering.placement import BankRange
from tessera.compiler.lowering.schedule import schedule
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import OPERATIONS, End, encode_stream
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.program import DramFormat, Program


def lower(
    network: IntegerNetwork,
    config: NpuConfig,
    *,
    lanes: Sequence[int] | None = None,
    dram_address: int = 0,
    io_formats: Mapping[str, DramFormat] | None = None,
) -> Program:
    """Compiles a network for a machine.

    Parameters
    ----------
    network
        The network.
    config
        The machine.
    lanes
        Indices of the lanes that may be used; all of them if ``None``.
    dram_address
        First DRAM byte address that the program may use; it uses the addresses up to its ``end_address``.
    io_formats
        What inputs and outputs are in DRAM, by name; integers where nothing is said. See
        :func:`tessera.compiler.io_formats.float_formats`.

    Raises
    ------
    CompilerError
        The network does not fit the machine; names the operation, what it needs, what is there, and the
        remedy.
    """
    lane_set = LaneSet(config, tuple(sorted(set(range(config.lanes) if lanes is None else lanes))))
    mapped = map_network(network, lane_set, io_formats or {})
    dram, data_address = place_in_dram(mapped, dram_address)
    tensors = mapped.network.tensors
    roots = {name: base for name, base in mapped.bases.items() if isinstance(name, str)}
    ranges = {name: BankRange(base, lane_set.holders(tensors[name].depth)) for name, base in roots.items()}
    placement = place_tensors(mapped, ranges)
    buffers = {name: base for name, base in mapped.bases.items() if isinstance(name, tuple)}
    builder = StreamBuilder(
        lane_set, placement, mapped.tiling.operations, buffers, data_address, dram, OnChipRings.of(config)
    )
    numbers = operation_numbers(mapped.network)
    emitter = InferenceEmitter(builder, mapped.storage)
    for operation in mapped.network.operations:
        builder.number = numbers[operation.name]
        emitter.emit(operation)
    return _finish(builder, mapped, schedule(builder.steps, config))


def operation_numbers(network: IntegerNetwork) -> dict[str, int]:
    """The number for which each operation's instructions count: they are numbered in order, again from 0 when the
    machine's counters are used up."""
    return {operation.name: index % OPERATIONS for index, operation in enumerate(network.operations)}


def _finish(builder: StreamBuilder, mapped: MappedNetwork, steps: list[Step]) -> Program:
    network = mapped.network
    steps = [*steps, Step(End(), "end")]
    instructions = tuple(step.instruction for step in steps)
    code_address = builder.add_data(encode_stream(instructions))
    return Program(
        name=network.name,
        config=builder.config,
        lanes=builder.lanes.lanes,
        instructions=instructions,
        labels=tuple(step.label for step in steps),
        operations=tuple(step.operation for step in steps),
        operation_numbers=operation_numbers(network),
        address=builder.data_address,
        image=bytes(builder.data),
        code_address=code_address,
        inputs={name: builder.dram[name] for name in network.inputs},
        outputs={name: builder.dram[name] for name in network.outputs},
        placement=builder.placement,
        streamed={name: tensor for name, tensor in builder.dram.items() if name not in builder.placement},
        end_address=align(builder.data_address + len(builder.data)),
        macs=mapped.macs,
    )
