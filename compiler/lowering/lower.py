"""From an integer network to a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.compiler.lowering.builder import LaneSet, Step, StreamBuilder
from tessera.compiler.lowering.fits import check_fits
from tessera.compiler.lowering.folding import fold_inputs
from tessera.compiler.lowering.operations import emit_operation
from tessera.compiler.lowering.placement import Name, on_chip, place, tensor_lifetimes
from tessera.compiler.lowering.schedule import schedule
from tessera.compiler.lowering.storage import Storage, with_addressable_parts
from tessera.compiler.lowering.tiling import Tiling, buffer_lifetimes, operands, tilings
from tessera.compiler.lowering.transfers import emit_load, emit_store
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.isa import OPERATIONS, End, encode_stream
from tessera.sim.golden.network import IntegerNetwork, TensorType
from tessera.sim.program import DramFormat, DramTensor, FoldedTensor, Program
from tessera.sim.row_fold import RowFold
from tessera.sim.tensor_layout import tensor_bytes


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
    network.verify()
    macs, formats = network.macs, io_formats or {}
    network = with_addressable_parts(network, config, [name for name, each in formats.items() if each.is_float])
    folded = fold_inputs(network, config, formats)
    network, storage = folded.network, Storage(folded.network, config)
    lane_set = LaneSet(config, tuple(sorted(set(range(config.lanes) if lanes is None else lanes))))
    check_fits(network, lane_set)
    tiling, bases = _place_on_chip(network, config)
    streamed = [name for name in _used(network) if storage.root(name) not in tiling.resident]
    dram, data_address = _place_in_dram(storage, streamed, folded.folds, dram_address, formats)
    roots = {
        name: on_chip(network.tensors[name], base, config) for name, base in bases.items() if isinstance(name, str)
    }
    members = [name for name in network.tensors if storage.root(name) in roots]
    builder = StreamBuilder(
        lane_set,
        {name: storage.on_chip(name, roots[storage.root(name)]) for name in members},
        tiling.operations,
        {name: base for name, base in bases.items() if not isinstance(name, str)},
        data_address,
        dram,
    )
    _emit_network(builder, storage)
    steps = schedule(builder.steps, config)
    return _finish(builder, network, steps, macs)


def _place_on_chip(network: IntegerNetwork, config: NpuConfig) -> tuple[Tiling, dict[Name, int]]:
    """The best tiling whose resident tensors and buffers can be placed, and the first word of each."""
    lifetimes = tensor_lifetimes(network, config)
    for tiling in tilings(network, config):
        resident = [life for life in lifetimes if life.name in tiling.resident]
        bases = place([*resident, *buffer_lifetimes(tiling, network)], config.activation_words)
        if bases is not None:
            return tiling, bases
    raise AssertionError("the last tiling can be placed")


def _used(network: IntegerNetwork) -> list[str]:
    """The tensors that operations use."""
    return list(dict.fromkeys(name for operation in network.operations for name in operands(operation).values()))


def _place_in_dram(
    storage: Storage,
    streamed: Sequence[str],
    folds: Mapping[str, RowFold],
    address: int,
    formats: Mapping[str, DramFormat],
) -> tuple[dict[str, DramTensor], int]:
    """Inputs, outputs and streamed tensors one after another; also returns the first address after them.

    Tensors whose root is streamed lie in their root, the others have places of their own.
    """
    network, config = storage.network, storage.config
    roots = {storage.root(name) for name in streamed}
    placed: dict[str, DramTensor] = {}
    for name in (*network.inputs, *network.outputs, *streamed):
        place = storage.root(name) if storage.root(name) in roots else name
        if place not in placed:
            address = _align(address)
            values = formats.get(place, DramFormat())
            placed[place] = _dram_tensor(network.tensors[place], address, values, folds.get(place), config)
            address += placed[place].size
        if name not in placed:
            placed[name] = storage.in_dram(name, placed[place])
    return placed, _align(address)


def _dram_tensor(
    tensor: TensorType, address: int, values: DramFormat, fold: RowFold | None, config: NpuConfig
) -> DramTensor:
    if fold is not None:
        return FoldedTensor(fold.tensor, address, fold.size(config), values, fold=fold)
    return DramTensor(tensor, address, tensor_bytes(tensor, config, values.memory_format), values)


def _align(address: int) -> int:
    return -(-address // AXI_BURST_BYTES) * AXI_BURST_BYTES


def _emit_network(builder: StreamBuilder, storage: Storage) -> None:
    """Resident inputs are loaded before the operation that first uses their storage, and counted with it; resident
    outputs, of which inputs may be parts, are stored after the last one that writes theirs, and counted with it.
    Streamed ones are loaded and stored by the operations."""
    network, numbers = storage.network, operation_numbers(storage.network)
    inputs = [name for name in network.inputs if name in builder.placement]
    outputs = [name for name in network.outputs if name in builder.placement and name not in network.inputs]
    last = {storage.root(operation.output): operation.name for operation in network.operations}
    for operation in network.operations:
        builder.number = numbers[operation.name]
        used = {storage.root(name) for name in operands(operation).values()}
        for name in [name for name in inputs if storage.root(name) in used]:
            inputs.remove(name)
            emit_load(builder, builder.placement[name], builder.dram[name], f"input {name}")
        emit_operation(builder, operation)
        for name in outputs:
            if last[storage.root(name)] == operation.name:
                emit_store(builder, builder.placement[name], builder.dram[name], f"output {name}")


def operation_numbers(network: IntegerNetwork) -> dict[str, int]:
    """The number for which each operation's instructions count: they are numbered in order, again from 0 when the
    machine's counters are used up."""
    return {operation.name: index % OPERATIONS for index, operation in enumerate(network.operations)}


def _finish(builder: StreamBuilder, network: IntegerNetwork, steps: list[Step], macs: int) -> Program:
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
        end_address=_align(builder.data_address + len(builder.data)),
        macs=macs,
    )
