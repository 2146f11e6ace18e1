"""From an integer network to a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.compiler.lowering.builder import LaneSet, Step, StreamBuilder
from tessera.compiler.lowering.fits import check_fits
from tessera.compiler.lowering.folding import fold_inputs
from tessera.compiler.lowering.operations import emit_operation
from tessera.compiler.lowering.placement import Name, on_chip, place, tensor_lifetimes
from tessera.compiler.lowering.schedule import schedule
from tessera.compiler.lowering.tiling import Tiling, buffer_lifetimes, operands, tilings
from tessera.compiler.lowering.transfers import emit_load, emit_store
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.isa import End, encode_stream
from tessera.sim.golden.network import IntegerNetwork
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
    lane_set = LaneSet(config, tuple(sorted(set(range(config.lanes) if lanes is None else lanes))))
    folded = fold_inputs(network, config, io_formats or {})
    check_fits(folded.network, lane_set)
    tiling, bases = _place_on_chip(folded.network, config)
    dram, data_address = _place_in_dram(network, tiling, folded.folds, config, dram_address, io_formats or {})
    network = folded.network
    builder = StreamBuilder(
        lane_set,
        {name: on_chip(network.tensors[name], base, config) for name, base in bases.items() if isinstance(name, str)},
        tiling.operations,
        {name: base for name, base in bases.items() if not isinstance(name, str)},
        data_address,
        dram,
    )
    _emit_network(builder, network)
    steps = schedule(builder.steps, config)
    return _finish(builder, network, steps)


def _place_on_chip(network: IntegerNetwork, config: NpuConfig) -> tuple[Tiling, dict[Name, int]]:
    """The best tiling whose resident tensors and buffers can be placed, and the first word of each."""
    lifetimes = tensor_lifetimes(network, config)
    for tiling in tilings(network, config):
        resident = [life for life in lifetimes if life.name in tiling.resident]
        bases = place([*resident, *buffer_lifetimes(tiling, network)], config.activation_words)
        if bases is not None:
            return tiling, bases
    raise AssertionError("the last tiling can be placed")


def _place_in_dram(
    network: IntegerNetwork,
    tiling: Tiling,
    folds: Mapping[str, RowFold],
    config: NpuConfig,
    address: int,
    formats: Mapping[str, DramFormat],
) -> tuple[dict[str, DramTensor], int]:
    """Inputs, outputs and streamed tensors one after another; also returns the first address after them."""
    used = {name for operation in network.operations for name in operands(operation).values()}
    streamed = [name for name in network.tensors if name in used - tiling.resident]
    placed: dict[str, DramTensor] = {}
    address = _align(address)
    for name in dict.fromkeys((*network.inputs, *network.outputs, *streamed)):
        tensor, values = network.tensors[name], formats.get(name, DramFormat())
        if name in folds:
            size = folds[name].size(tensor, config)
            placed[name] = FoldedTensor(tensor, address, size, values, fold=folds[name])
        else:
            placed[name] = DramTensor(tensor, address, tensor_bytes(tensor, config, values.memory_format), values)
        address = _align(address + placed[name].size)
    return placed, address


def _align(address: int) -> int:
    return -(-address // AXI_BURST_BYTES) * AXI_BURST_BYTES


def _emit_network(builder: StreamBuilder, network: IntegerNetwork) -> None:
    """Resident inputs are loaded before the operation that first reads them, resident outputs stored after the one
    that makes them; streamed ones are loaded and stored by the operations."""
    loaded: set[str] = set()
    for operation in network.operations:
        for name in (operation.input, operation.post.residual):
            if name in network.inputs and name in builder.placement and name not in loaded:
                loaded.add(name)
                emit_load(builder, builder.placement[name], builder.dram[name], f"input {name}")
        emit_operation(builder, operation)
        name = operation.output
        if name in network.outputs and name in builder.placement:
            emit_store(builder, builder.placement[name], builder.dram[name], f"output {name}")


def _finish(builder: StreamBuilder, network: IntegerNetwork, steps: list[Step]) -> Program:
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
        address=builder.data_address,
        image=bytes(builder.data),
        code_address=code_address,
        inputs={name: builder.dram[name] for name in network.inputs},
        outputs={name: builder.dram[name] for name in network.outputs},
        placement=builder.placement,
        streamed={name: tensor for name, tensor in builder.dram.items() if name not in builder.placement},
        end_address=_align(builder.data_address + len(builder.data)),
        macs=network.macs,
    )
