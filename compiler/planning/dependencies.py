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
from tessera.compiler.lowering.tiling import HELD_FRACTION, INPUT, OUTPUT, RESIDUAL, operands, weight_bytes
from tessera.sim.golden.network import CLAMP_RANGE, Convolution, IntegerNetwork, Operation
from tessera.sim.tensor_layout import tensor_bytes


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


def optimisations(mapped: MappedNetwork) -> list[str]:
    """What the compiler saves in a network, one sentence each: what is fused, and what need not be moved."""
    return [*_fusions(mapped), *_savings(mapped), *_repeats(mapped)]


def _fusions(mapped: MappedNetwork) -> Iterator[str]:
    for name, operation in mapped.operations.items():
        post = operation.post
        if post.residual is not None:
            yield f"{name}: the addition of {post.residual} is fused into its post-processing"
        if post.table is not None:
            yield f"{name}: its function is fused into its post-processing as a table"
        elif (post.clamp_low, post.clamp_high) != CLAMP_RANGE:
            yield f"{name}: its activation {post.clamp_low}..{post.clamp_high} is fused into its post-processing"
    for name, fold in mapped.folds.items():
        yield (
            f"input {name}: folded while it is loaded, {fold.tensor.channels} channels to "
            f"{mapped.network.tensors[name].channels}: fewer steps of its reader, each row read once"
        )


def _savings(mapped: MappedNetwork) -> Iterator[str]:
    """What is said of the tensors: which stay on chip, which pass through DRAM, and which are part of another."""
    network, storage = mapped.network, mapped.storage
    for name in dict.fromkeys(map(storage.root, network.tensors)):
        writers = [each.name for each in network.operations if storage.root(each.output) == name]
        readers = [
            each.name
            for each in network.operations
            if name in (storage.root(used) for role, used in operands(each).items() if role != OUTPUT)
        ]
        volume = f"{tensor_bytes(network.tensors[name], mapped.config):,} bytes"
        if name in mapped.tiling.resident and writers and readers:
            yield f"map {name}: {volume} stay on chip from {writers[0]} to {readers[-1]}: no store, no load"
        elif name in mapped.tiling.resident and len(readers) > 1:
            yield f"input {name}: {volume} are loaded once for {len(readers)} operations"
        elif writers and readers:
            yield f"map {name}: {volume} do not fit on chip: {writers[0]} stores them, {readers[0]} loads them in parts"
    for name, part in network.parts.items():
        yield f"map {name}: lies in {part.whole}: no copy"


def _repeats(mapped: MappedNetwork) -> Iterator[str]:
    """The operations whose weights stay in the banks from band to band."""
    for name, operation in mapped.operations.items():
        tiling = mapped.tiling.operations[name]
        if not isinstance(operation, Convolution) or len(tiling.bands) == 1 or len(tiling.parts) > 1:
            continue
        blocks = tiling.bands[0].blocks
        held = all(band.blocks == blocks for band in tiling.bands)
        if held and weight_bytes(operation, mapped.config) * HELD_FRACTION <= mapped.config.weight_bank_bytes:
            yield f"{name}: its weights are loaded once for {len(tiling.bands)} bands"
