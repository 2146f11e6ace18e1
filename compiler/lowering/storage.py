"""Tensors that are parts of others share their storage; what the machine cannot address as a part is copied.

A part can be addressed where it begins with an activation word: its channel blocks are some of its whole's, on chip
and in DRAM. Every tensor so belongs to a *root*, the outermost whole, which is what memory is allotted to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import ChannelParameters
from tessera.sim.golden.network import Convolution, IntegerNetwork, Operation, PostProcessing
from tessera.sim.program import DramTensor, OnChipTensor
from tessera.sim.tensor_layout import tensor_bytes

_UNIT_SHIFT = ChannelParameters.MULTIPLIER_BITS - 1
"""With the multiplier ``2 ** _UNIT_SHIFT`` a post-processing leaves sums as they are."""


@dataclass(frozen=True)
class Storage:
    """Which tensor's memory holds a tensor; every part of the network must be addressable.

    Attributes
    ----------
    network
        The network.
    config
        Sizes of the NPU.
    """

    network: IntegerNetwork
    config: NpuConfig

    def root(self, name: str) -> str:
        """The outermost tensor that a tensor is a part of, itself if it is none."""
        return self.place(name)[0]

    def place(self, name: str) -> tuple[str, int]:
        """A tensor's root, and the channel block of it that is its first."""
        channel = 0
        while name in self.network.parts:
            part = self.network.parts[name]
            name, channel = part.whole, channel + part.channel
        return name, channel // self.config.word_digits

    def words(self, name: str) -> int:
        """Words that a tensor takes in each bank that holds it."""
        tensor = self.network.tensors[name]
        return self.config.channel_blocks(tensor.channels) * tensor.height * tensor.width

    def on_chip(self, name: str, root: OnChipTensor) -> OnChipTensor:
        """Where a tensor is, if its root is on chip."""
        tensor, block = self.network.tensors[name], self.place(name)[1]
        return replace(root, type=tensor, base=root.base + block * root.block_pitch, words=self.words(name))

    def in_dram(self, name: str, root: DramTensor) -> DramTensor:
        """Where a tensor is, if its root is in DRAM, as integers."""
        tensor, block = self.network.tensors[name], self.place(name)[1]
        plane = tensor.height * tensor.width * self.config.pixel_bytes(tensor.depth)
        return replace(root, type=tensor, address=root.address + block * plane, size=tensor_bytes(tensor, self.config))


def with_addressable_parts(network: IntegerNetwork, config: NpuConfig, alone: Collection[str] = ()) -> IntegerNetwork:
    """The network with copies in the place of the parts that the machine cannot address.

    A copy is a convolution of 1 x 1 that moves each channel to its place, which changes no integer.

    Parameters
    ----------
    network
        The network.
    config
        The machine.
    alone
        Tensors that must have storage of their own, and inputs that the machine is given.
    """
    return _Rewriter(network, config, alone).rewritten()


class _Rewriter:
    """Follows the operations in order, and puts copies where something first needs them."""

    def __init__(self, network: IntegerNetwork, config: NpuConfig, alone: Collection[str]):
        self.network, self.config = network, config
        self.alone = set(alone)
        self.tensors = dict(network.tensors)
        self.operations: list[Operation] = []
        self.known = set(network.inputs)
        self.copied = {part for part in network.parts if not self._is_addressable(part)}
        for name in self._without_source():
            self.copied.update([name] if name in network.parts else network.parts_of(name))

    def rewritten(self) -> IntegerNetwork:
        """The network; the same one if there is nothing to copy."""
        if not self.copied:
            return self.network
        for operation in self.network.operations:
            for name in (operation.input, operation.post.residual):
                if name is not None:
                    self._provide(name)
            self.operations.append(operation)
            self.known.add(operation.output)
        for name in self.network.outputs:
            self._provide(name)
        return replace(self._without_copied(), tensors=self.tensors, operations=tuple(self.operations))

    def _without_copied(self) -> IntegerNetwork:
        """The network whose parts are those that stay where they are."""
        parts = {name: part for name, part in self.network.parts.items() if name not in self.copied}
        return replace(self.network, parts=parts)

    def _is_addressable(self, name: str) -> bool:
        """Whether a part begins with a word; one whole has either all its parts in its storage or, if it consists of
        them, none."""
        whole = self.network.parts[name].whole
        siblings = self.network.parts_of(whole) if not self._is_made(whole) else [name]
        aligned = all(self.network.parts[each].channel % self.config.word_digits == 0 for each in siblings)
        return aligned and self.alone.isdisjoint([*siblings, whole])

    def _is_made(self, name: str) -> bool:
        """Whether a tensor is given, or computed as a whole or as a part of what is."""
        network = self.network
        made = {*network.inputs, *(operation.output for operation in network.operations)}
        return name in made or (name in network.parts and self._is_made(network.parts[name].whole))

    def _without_source(self) -> list[str]:
        """Outputs that are no inputs, and whose storage no operation writes."""
        storage = Storage(self._without_copied(), self.config)
        written = {storage.root(operation.output) for operation in self.network.operations}
        given = self.network.inputs
        return [name for name in self.network.outputs if name not in given and storage.root(name) not in written]

    def _provide(self, name: str, asked: frozenset[str] = frozenset()) -> None:
        """Makes a tensor known in the rewritten network."""
        found = None if name in self.known else self.network.derivation(name, self.known, asked)
        if found is None:
            return
        for each in found.pieces if found.whole is None else (found.whole,):
            self._provide(each, found.asked)
        if found.whole is None and not self.copied.isdisjoint(found.pieces):
            self._assemble(name, found.pieces)
        elif found.whole is not None and name in self.copied:
            self._append(self._copy(found.whole, name, name, -self.network.parts[name].channel, None))

    def _assemble(self, name: str, pieces: Sequence[str]) -> None:
        """Puts a tensor together from its parts, one after another."""
        before = None
        for index, piece in enumerate(pieces):
            target = name if index == len(pieces) - 1 else self._new_tensor(f"{name}_{index}", name)
            self._append(self._copy(piece, target, f"{name}_{index}", self.network.parts[piece].channel, before))
            before = target

    def _append(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.known.add(operation.output)

    def _new_tensor(self, wish: str, like: str) -> str:
        name = next(name for name in _names(wish) if name not in self.tensors)
        self.tensors[name] = self.tensors[like]
        return name

    def _copy(self, source: str, target: str, label: str, shift: int, residual: str | None) -> Convolution:
        """Copies channel c of a tensor to channel ``c + shift`` of another one, plus a residual operand."""
        inputs, outputs = self.tensors[source].channels, self.tensors[target].channels
        weights = np.eye(outputs, inputs, -shift, dtype=np.int8)[:, :, np.newaxis, np.newaxis]
        taken = {operation.name for operation in (*self.network.operations, *self.operations)}
        return Convolution(
            name=next(name for name in _names(f"{label}_copy") if name not in taken),
            input=source,
            output=target,
            weights=weights,
            weight_depth=min(self.config.weight_depths),
            stride=(1, 1),
            padding=(0, 0, 0, 0),
            dilation=(1, 1),
            pad_value=0,
            post=PostProcessing(
                bias=np.zeros(outputs, np.int64),
                multiplier=np.full(outputs, 1 << _UNIT_SHIFT, np.int64),
                shift=np.full(outputs, _UNIT_SHIFT, np.int64),
                residual=residual,
                residual_multiplier=0 if residual is None else 1 << _UNIT_SHIFT,
                residual_shift=0 if residual is None else _UNIT_SHIFT,
            ),
        )


def _names(wish: str) -> Iterator[str]:
    """``wish``, ``wish_1``, ``wish_2``..."""
    yield wish
    number = 0
    while True:
        number += 1
        yield f"{wish}_{number}"
