"""An adaptive network in the form in which it is lowered to one machine.

The network is cut once, for all depths: the words that tensors take on chip do not depend on them. All tensors lie in
DRAM between the layers, each in memory for its deepest form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from tessera.compiler.adaptive.network import AdaptiveNetwork, Trace
from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.builder import LaneSet
from tessera.compiler.lowering.fits import check_fits
from tessera.compiler.lowering.folding import fold_inputs, with_folds
from tessera.compiler.lowering.mapping import MappedNetwork
from tessera.compiler.lowering.placement import place
from tessera.compiler.lowering.storage import Storage, with_addressable_parts
from tessera.compiler.lowering.tiling import buffer_lifetimes, operands, streamed_tiling
from tessera.compiler.precision import DepthRange
from tessera.rtl.isa import OPERATIONS
from tessera.sim.golden.network import IntegerNetwork, Operation
from tessera.sim.program import ConvertedTensor, DramFormat, DramTensor, FoldedTensor


@dataclass(frozen=True, eq=False)
class AdaptiveMapping:
    """An adaptive network, cut for a machine.

    Copies, which stand where the machine cannot address a part of a tensor, are operations without a choice: they have
    the depth of what they copy, which is pinned.

    Attributes
    ----------
    network
        The network.
    stored
        Its operations with the types that tensors have in DRAM, how they are cut, and where their buffers lie.
    variants
        The same operations with the types on chip, by depth.
    """

    network: AdaptiveNetwork
    stored: MappedNetwork
    variants: Mapping[int, IntegerNetwork]

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations, in their order; only names and operands are the same at all depths."""
        return self.stored.network.operations

    def depths(self, name: str) -> tuple[int, ...]:
        """The depths that an operation can have, rising."""
        if name in self.network.layers:
            return self.network.variants(name)
        return (self.stored.network.tensors[self.stored.operations[name].output].depth,)

    def allowed(self, name: str) -> DepthRange:
        """The least and the greatest depth of an operation."""
        if name in self.network.layers:
            return self.network.range_of(name)
        return DepthRange(*(2 * self.depths(name)))

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each operation in the machine's tables of depths and counts. No layer that can choose shares
        one; operations of one depth share those that are left where there are too few.

        Raises
        ------
        CompilerError
            More layers can choose than there are numbers for.
        """
        names = [operation.name for operation in self.operations]
        if len(names) <= OPERATIONS:
            return {name: index for index, name in enumerate(names)}
        choosing = [name for name in names if len(self.depths(name)) > 1]
        others = [name for name in names if len(self.depths(name)) == 1]
        left = OPERATIONS - len(choosing)
        if left < 1:
            raise CompilerError(
                f"network {self.network.name!r} has {len(names)} operations, {len(choosing)} of which may choose their "
                f"depths, but the machine tells {OPERATIONS} apart; leave {1 - left} or more of them one depth with "
                "--depth-range NAME=BITS..BITS"
            )
        numbers = {name: index for index, name in enumerate(choosing)}
        return numbers | {name: len(choosing) + index % left for index, name in enumerate(others)}

    def on_chip(self, name: str, depth: int) -> IntegerNetwork:
        """The network with the types on chip of an operation at a depth."""
        return self.variants[depth] if name in self.network.layers else self.stored.network

    @cached_property
    def alive(self) -> tuple[tuple[str, ...], ...]:
        """For each operation the layers on whose depths depends what it and those after it read."""
        found: list[tuple[str, ...]] = []
        following = len(self.network.layers)
        for operation in reversed(self.operations):
            following -= operation.name in self.network.layers
            tensors = self.network.alive(following) if following < len(self.network.layers) else ()
            found.append(tuple(self.network.makers[name] for name in tensors))
        return tuple(reversed(found))

    def states(self, index: int) -> Iterator[dict[str, int]]:
        """The depths that the layers which are `alive` at an operation can have."""
        layers = self.alive[index]
        for depths in product(*map(self.depths, layers)):
            yield dict(zip(layers, depths, strict=True))

    def dram(self, name: str, depth: int, state: Trace, tensors: Mapping[str, DramTensor]) -> dict[str, DramTensor]:
        """The operands of an operation in DRAM, with what becomes of them on chip.

        Parameters
        ----------
        name, depth
            The operation and its depth.
        state
            Depths of the layers that are alive.
        tensors
            All tensors as they are stored at their deepest.
        """
        operation, types = self.stored.operations[name], self.on_chip(name, depth).tensors
        depths = {**state, name: depth}
        found: dict[str, DramTensor] = {}
        for tensor in operands(operation).values():
            there, chip = tensors[tensor], types[tensor]
            maker = self.network.makers.get(tensor, "")
            stored = there.type.depth if maker not in depths else self.network.stored_depth(tensor, depths[maker])
            same = stored == chip.depth
            values = DramFormat(scale_exponent=0 if same else self.network.shift(tensor, stored, chip.depth))
            if isinstance(there, FoldedTensor):
                fold = replace(there.fold, tensor=replace(there.fold.tensor, depth=chip.depth))
                found[tensor] = replace(there, format=values, fold=fold)
            else:
                kind = replace(there.type, depth=stored)
                found[tensor] = ConvertedTensor(kind, there.address, there.size, values, chip=chip)
        return found


def map_adaptive(network: AdaptiveNetwork, lanes: LaneSet) -> AdaptiveMapping:
    """Cuts an adaptive network for a machine.

    Raises
    ------
    CompilerError
        The machine lacks one of its depths, or what an operation needs.
    """
    config = lanes.config
    for depth in network.depths:
        if depth not in config.activation_depths:
            raise CompilerError(
                f"network {network.name!r} has variants of {depth} bits, but configuration {config.name!r} has the "
                f"depths {', '.join(map(str, config.activation_depths))}; leave that depth out"
            )
    folded = fold_inputs(with_addressable_parts(network.stored, config), config, {})
    variants = {depth: with_addressable_parts(network.integer(depth), config) for depth in network.depths}
    for depth, variant in variants.items():
        folds = {name: replace(fold, tensor=variant.tensors[name]) for name, fold in folded.folds.items()}
        variants[depth] = with_folds(variant, folds)
    for each in (folded.network, *variants.values()):
        check_fits(each, lanes)
    tiling = streamed_tiling(folded.network, config)
    bases = place(list(buffer_lifetimes(tiling, folded.network)), config.activation_words)
    assert bases is not None, "the buffers of a single operation can be placed"
    storage = Storage(folded.network, config)
    stored = MappedNetwork(folded.network, storage, tiling, bases, folded.folds, {}, network.stored.macs)
    return AdaptiveMapping(network, stored, variants)
