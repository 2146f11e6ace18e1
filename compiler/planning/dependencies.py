"""Which operations of a network must wait for which: its dependency graph, and what the compiler has made of it.

The operations are those of the network in its form for a machine: with the compiler's copies, and with parts of tensors
in the storage of their wholes. Two operations depend on one another when they use channels of one storage in common,
and at least one of them writes: what is written is read later (*data*), or what is read, or written, is written again
(*order*).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx

from tessera.compiler.lowering.mapping import MappedNetwork
from tessera.compiler.lowering.tiling import INPUT, OUTPUT, RESIDUAL, operands
from tessera.sim.golden.network import Convolution, IntegerNetwork, Operation


@dataclass(frozen=True)
class _Use:
    """Channels of a root of storage that an operation reads or writes, by the name of a tensor."""

    operation: str
    tensor: str
    root: str
    channels: range
    write: bool

    def shared(self, other: _Use) -> range:
        """The channels that both use."""
        if self.root != other.root:
            return range(0)
        return range(max(self.channels.start, other.channels.start), min(self.channels.stop, other.channels.stop))


def dependency_graph(mapped: MappedNetwork) -> nx.DiGraph:
    """The dependency graph of a network.

    Nodes are names of operations, in their order, with the attributes

    ``kind``
        ``"convolution"``, ``"depthwise"`` or ``"window"``.
    ``input``, ``output``
        Shapes (channels, height, width).
    ``input_depth``, ``output_depth``, ``residual_depth``, ``weight_depth``
        Bits; ``None`` where there is no residual operand, or are no weights.

    Edges go from an operation to those that must wait for it, without those that follow from others, and have

    ``tensors``
        Names of the tensors that pass along it; none where only the order matters.
    ``bytes``, ``words``
        Their volume: packed as in DRAM, and in words of each activation bank that holds them.
    """
    graph = nx.DiGraph(name=mapped.network.name)
    for operation in mapped.network.operations:
        graph.add_node(operation.name, **_facts(mapped.network, operation))
    before: list[_Use] = []
    for operation in mapped.network.operations:
        uses = list(_uses(mapped, operation))
        for use in uses:
            for earlier in _needed(before, use):
                _connect(graph, mapped, earlier, use)
        before.extend(uses)
    return graph


def _facts(network: IntegerNetwork, operation: Operation) -> dict[str, object]:
    source, target = network.tensors[operation.input], network.tensors[operation.output]
    residual = operation.post.residual
    kind = "window"
    if isinstance(operation, Convolution):
        depthwise = operation.groups > 1 and operation.weights.shape[1] == 1
        kind = "depthwise" if depthwise else "convolution"
    return {
        "kind": kind,
        "input": source.shape,
        "output": target.shape,
        "input_depth": source.depth,
        "output_depth": target.depth,
        "residual_depth": None if residual is None else network.tensors[residual].depth,
        "weight_depth": operation.weight_depth if isinstance(operation, Convolution) else None,
    }


def _uses(mapped: MappedNetwork, operation: Operation) -> Iterator[_Use]:
    """What an operation reads, then what it writes."""
    names = operands(operation)
    for role in (INPUT, RESIDUAL, OUTPUT):
        if role in names:
            root, block = mapped.storage.place(names[role])
            first = block * mapped.config.word_digits
            channels = range(first, first + mapped.network.tensors[names[role]].channels)
            yield _Use(operation.name, names[role], root, channels, role == OUTPUT)


def _needed(before: list[_Use], use: _Use) -> Iterator[_Use]:
    """The earlier uses that a use must wait for: the last writes of what it reads or writes, and, if it writes, the
    reads since then."""
    left = set(use.channels)
    for earlier in reversed(before):
        if not left:
            return
        shared = left.intersection(use.shared(earlier))
        if earlier.operation == use.operation or not shared or not (earlier.write or use.write):
            continue
        yield earlier
        if earlier.write:
            left -= shared


def _connect(graph: nx.DiGraph, mapped: MappedNetwork, earlier: _Use, use: _Use) -> None:
    """Adds an edge, or what passes along one that is there."""
    if not graph.has_edge(earlier.operation, use.operation):
        graph.add_edge(earlier.operation, use.operation, tensors=(), bytes=0, words=0)
    edge = graph.edges[earlier.operation, use.operation]
    if not earlier.write or use.write or earlier.tensor in edge["tensors"]:
        return
    channels = len(use.shared(earlier))
    tensor = mapped.network.tensors[earlier.tensor]
    blocks, pixels = mapped.config.channel_blocks(channels), tensor.height * tensor.width
    edge["tensors"] += (earlier.tensor,)
    edge["words"] += blocks * pixels
    edge["bytes"] += blocks * pixels * mapped.config.pixel_bytes(tensor.depth)
