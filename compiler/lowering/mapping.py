"""A network in the form in which it is lowered to one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tessera.compiler.lowering.builder import LaneSet
from tessera.compiler.lowering.fits import check_fits
from tessera.compiler.lowering.folding import fold_inputs
from tessera.compiler.lowering.placement import BankRange, Name, on_chip, place, tensor_lifetimes
from tessera.compiler.lowering.storage import Storage, with_addressable_parts
from tessera.compiler.lowering.tiling import Tiling, buffer_lifetimes, operands, tilings
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.sim.golden.network import IntegerNetwork, Operation
from tessera.sim.program import DramFormat, DramTensor, FoldedTensor, OnChipTensor
from tessera.sim.row_fold import RowFold
from tessera.sim.tensor_layout import tensor_bytes


@dataclass(frozen=True)
class MappedNetwork:
    """A network whose parts the machine can address, whose inputs are folded, and whose operations are cut.

    Attributes
    ----------
    network
        The rewritten network: these operations run on the machine.
    storage
        Which of its tensors share memory.
    tiling
        Which tensors stay on chip, and how the operations are cut.
    bases
        First word of every resident tensor and buffer when the network has the banks for itself.
    folds
        How inputs are folded, by name.
    formats
        What inputs and outputs are in DRAM, by name; integers where nothing is said.
    macs
        Multiply-accumulates of an inference of the network as it was.
    """

    network: IntegerNetwork
    storage: Storage
    tiling: Tiling
    bases: Mapping[Name, int]
    folds: Mapping[str, RowFold]
    formats: Mapping[str, DramFormat]
    macs: int

    @property
    def config(self) -> NpuConfig:
        """The machine."""
        return self.storage.config

    @cached_property
    def operations(self) -> Mapping[str, Operation]:
        """The operations by their names."""
        return {operation.name: operation for operation in self.network.operations}

    def users_of(self, root: str) -> list[str]:
        """Names of the operations that read or write a root of storage."""
        return [
            operation.name
            for operation in self.network.operations
            if any(self.storage.root(name) == root for name in operands(operation).values())
        ]

    def on_chip(self, root: str, where: BankRange) -> OnChipTensor:
        """A root of storage in a range of the banks."""
        return on_chip(self.network.tensors[root], where.base, where.lanes, self.config)

    def in_dram(self, root: str, address: int) -> DramTensor:
        """A root of storage at a DRAM byte address, as integers."""
        tensor = self.network.tensors[root]
        return DramTensor(tensor, address, tensor_bytes(tensor, self.config))

    @property
    def streamed(self) -> list[str]:
        """The tensors that operations use and that pass through buffers."""
        used = [name for operation in self.network.operations for name in operands(operation).values()]
        return [name for name in dict.fromkeys(used) if self.storage.root(name) not in self.tiling.resident]


def map_network(network: IntegerNetwork, lanes: LaneSet, formats: Mapping[str, DramFormat]) -> MappedNetwork:
    """Rewrites and cuts a network for a machine.

    Parameters
    ----------
    network
        The network.
    lanes
        The machine, and the lanes that may be used.
    formats
        What inputs and outputs are in DRAM, by name.

    Raises
    ------
    CompilerError
        The network does not fit the lanes, or an operation the machine, however it is cut.
    """
    network.verify()
    macs, config = network.macs, lanes.config
    network = with_addressable_parts(network, config, [name for name, each in formats.items() if each.is_float])
    folded = fold_inputs(network, config, formats)
    check_fits(folded.network, lanes)
    tiling, bases = _place_alone(folded.network, config)
    return MappedNetwork(folded.network, Storage(folded.network, config), tiling, bases, folded.folds, formats, macs)


def _place_alone(network: IntegerNetwork, config: NpuConfig) -> tuple[Tiling, dict[Name, int]]:
    """The best tiling whose resident tensors and buffers can be placed, and the first word of each."""
    lifetimes = tensor_lifetimes(network, config)
    for tiling in tilings(network, config):
        resident = [life for life in lifetimes if life.name in tiling.resident]
        bases = place([*resident, *buffer_lifetimes(tiling, network)], config.activation_words)
        if bases is not None:
            return tiling, bases
    raise AssertionError("the last tiling can be placed")


def map_to_machine(
    network: IntegerNetwork, config: NpuConfig, formats: Mapping[str, DramFormat] | None = None
) -> MappedNetwork:
    """Like `map_network`, for all lanes of a machine."""
    return map_network(network, LaneSet(config, tuple(range(config.lanes))), formats or {})


def place_tensors(mapped: MappedNetwork, roots: Mapping[str, BankRange]) -> dict[str, OnChipTensor]:
    """Where every tensor is whose root is on chip."""
    network, storage = mapped.network, mapped.storage
    placed = {}
    for name in network.tensors:
        root = storage.root(name)
        if root in roots:
            placed[name] = storage.on_chip(name, mapped.on_chip(root, roots[root]))
    return placed


def place_in_dram(mapped: MappedNetwork, address: int) -> tuple[dict[str, DramTensor], int]:
    """Inputs, outputs and streamed tensors one after another; also returns the first address after them.

    Tensors whose root is streamed lie in their root, the others have places of their own.
    """
    network, storage, streamed = mapped.network, mapped.storage, mapped.streamed
    roots = {storage.root(name) for name in streamed}
    placed: dict[str, DramTensor] = {}
    for name in (*network.inputs, *network.outputs, *streamed):
        place = storage.root(name) if storage.root(name) in roots else name
        if place not in placed:
            placed[place] = _dram_tensor(mapped, place, align(address))
            address = placed[place].address + placed[place].size
        if name not in placed:
            placed[name] = storage.in_dram(name, placed[place])
    return placed, align(address)


def _dram_tensor(mapped: MappedNetwork, name: str, address: int) -> DramTensor:
    tensor, values, fold = mapped.network.tensors[name], mapped.formats.get(name, DramFormat()), mapped.folds.get(name)
    if fold is not None:
        return FoldedTensor(fold.tensor, address, fold.size(mapped.config), values, fold=fold)
    return DramTensor(tensor, address, tensor_bytes(tensor, mapped.config, values.memory_format), values)


def align(address: int) -> int:
    """The next address at which a burst, and so a memory window, may begin."""
    return -(-address // AXI_BURST_BYTES) * AXI_BURST_BYTES
