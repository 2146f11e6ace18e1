"""Cross-layer equalisation: scales the channels between convolutions so that each fills its ranges equally well.

A tensor has one scale for all channels, and an output channel's weights have one scale for all input channels. A
channel that is small beside the others therefore loses bits, although the weights that read it may be large, or the
other way round. Where one convolution makes a tensor and convolutions alone read it, channel i can be divided by any
positive factor and the weights that read it multiplied by it, since limiting at zero and pooling commute with such a
factor: the network computes the same. The factor that is chosen makes the channel's range, as a part of the tensor's,
equal to that of the weights which read it, as a part of their output channels'.

After Nagel et al. (arXiv:1906.04721, section 4.1), who equalise the weights on both sides; with one scale for each
output channel those before the tensor need no help, but the tensor itself does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tessera.compiler.calibrate import check_samples, run_batches
from tessera.compiler.graph import CONVOLUTION, NO_ACTIVATION, WINDOW, Graph, Node
from tessera.compiler.quantize import on_grid, weight_scales
from tessera.rtl.config import WEIGHT_DEPTHS

_HOMOGENEOUS_LIMITS = (NO_ACTIVATION, (0.0, np.inf))
"""Limits that commute with a positive factor; that of ReLU6, for example, does not."""

_SMALLEST_PART = 1e-3
"""Channels below this part of the largest count as that large: what is nearly dead must not be blown up."""


def equalise(graph: Graph, data: Mapping[str, np.ndarray]) -> Graph:
    """The network with equalised channels; it computes the same outputs but for float32's rounding.

    Channels whose readers have weights of 4 or 8 bits already stay: the network was trained for these.

    Parameters
    ----------
    graph
        A prepared network (:func:`tessera.compiler.prepare`), before calibration.
    data
        For each input an array (samples, *rest of its shape*) of inputs as the network will meet them.

    Raises
    ------
    CompilerError
        The data do not fit the network.
    """
    check_samples(graph, data)
    pairs = {node.name: _readers(graph, node.output) for node in graph.nodes if _can_be_scaled(node)}
    pairs = {name: readers for name, readers in pairs.items() if readers and not _any_on_grid(graph, readers)}
    ranges = _channel_ranges(graph, data, [node.output for node in graph.nodes if node.name in pairs])
    for node in graph.nodes:
        if node.name in pairs:
            graph = _scaled(graph, node.name, pairs[node.name], ranges[node.output])
    graph.tidy()
    return graph


def _can_be_scaled(node: Node) -> bool:
    return node.op == CONVOLUTION and _is_homogeneous(node)


def _is_homogeneous(node: Node) -> bool:
    return node.residual is None and node.function is None and node.activation in _HOMOGENEOUS_LIMITS


def _readers(graph: Graph, tensor: str) -> list[str]:
    """Names of the convolutions that read a tensor, through pooling or not; none if anything else reads it."""
    names: list[str] = []
    for node in graph.consumers(tensor):
        if node.op == CONVOLUTION and node.residual != tensor:
            names.append(node.name)
        elif node.op == WINDOW and _is_homogeneous(node):
            behind = _readers(graph, node.output)
            if not behind:
                return []
            names += behind
        else:
            return []
    return [] if tensor in graph.outputs else names


def _any_on_grid(graph: Graph, names: list[str]) -> bool:
    """Whether the weights of some convolutions were trained for a depth, which scaling them would undo."""
    return any(
        on_grid(weights, weight_scales(weights, depth), depth)
        for weights in (graph.constants[node.inputs[1]] for node in _nodes(graph, names))
        for depth in WEIGHT_DEPTHS
    )


def _channel_ranges(graph: Graph, data: Mapping[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """Largest magnitude (C) of each channel of some tensors."""
    ranges: dict[str, np.ndarray] = {}
    for values in run_batches(graph, data, names):
        for name, value in values.items():
            largest = np.abs(value).reshape(len(value), value.shape[1], -1).max(axis=(0, 2)).astype(np.float64)
            ranges[name] = np.maximum(ranges.get(name, largest), largest)
    return ranges


def _columns(graph: Graph, readers: list[str]) -> np.ndarray:
    """Largest magnitude (C) of the weights that read each channel, as parts of the largest of their output channel."""
    columns = []
    for node in _nodes(graph, readers):
        weights = np.abs(graph.constants[node.inputs[1]].astype(np.float64))
        rows = weights.max(axis=(1, 2, 3), keepdims=True)
        parts = weights / np.where(rows > 0, rows, 1.0)
        grouped = parts.reshape(node.attributes["groups"], -1, *parts.shape[1:])
        columns.append(grouped.max(axis=(1, 3, 4)).reshape(-1))
    return np.max(columns, axis=0)


def _factors(channels: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """By what each channel is divided (float32), so that channel and column are the same part of the largest."""
    if not channels.any() or not columns.any():
        return np.ones(len(channels), np.float32)
    parts = (np.maximum(values / values.max(), _SMALLEST_PART) for values in (channels, columns))
    return np.sqrt(np.divide(*parts)).astype(np.float32)


def _scaled(graph: Graph, maker: str, readers: list[str], channels: np.ndarray) -> Graph:
    """The network with the channels between one convolution and its readers scaled."""
    scaled = graph.copy()
    factors = _factors(channels, _columns(graph, readers))
    _scale_outputs(scaled, maker, factors)
    for reader in readers:
        _scale_inputs(scaled, reader, factors)
    changed = (value for name, value in scaled.constants.items() if value is not graph.constants.get(name))
    is_finite = all(np.isfinite(value).all() for value in changed)
    return scaled if is_finite else graph


def _scale_outputs(graph: Graph, name: str, factors: np.ndarray) -> None:
    (node,) = _nodes(graph, [name])
    weights, bias = (graph.constants[constant] for constant in node.inputs[1:3])
    _set_constants(graph, node, {1: weights / factors.reshape(-1, 1, 1, 1), 2: bias / factors})


def _scale_inputs(graph: Graph, name: str, factors: np.ndarray) -> None:
    (node,) = _nodes(graph, [name])
    weights = graph.constants[node.inputs[1]]
    grouped = weights.reshape(node.attributes["groups"], -1, *weights.shape[1:])
    scaled = grouped * factors.reshape(len(grouped), 1, -1, 1, 1)
    _set_constants(graph, node, {1: scaled.reshape(weights.shape)})


def _nodes(graph: Graph, names: list[str]) -> list[Node]:
    return [node for node in graph.nodes if node.name in names]


def _set_constants(graph: Graph, node: Node, values: Mapping[int, np.ndarray]) -> None:
    """Gives some inputs of a node other values, and new names where other nodes read the constants too."""
    inputs = list(node.inputs)
    for index, value in values.items():
        if graph.is_private(inputs[index]):
            graph.constants[inputs[index]] = value
        else:
            inputs[index] = graph.add_constant(inputs[index], value)
    graph.replace_node(node, replace(node, inputs=tuple(inputs)))
