"""Runs a float network and the quantised one that is being made from it side by side, layer by layer.

What a layer is given in the quantised network differs from what it is given in the float network: the layers before it
are quantised. Whoever quantises a layer so that its output is right must know both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tessera.compiler.float_execution import convolution_taps, preactivation, run_node
from tessera.compiler.graph import Graph, Node, map_shape
from tessera.compiler.quantized import QuantizedConvolution, QuantizedTensor
from tessera.compiler.quantized_execution import dequantize_values, quantize_values

_BATCH = 32
"""Samples whose patches are in memory at once."""

_MOST_VALUES = 1 << 21
"""Most values of a tensor, so that large maps, whose every pixel is a sample of its layer, take less time."""


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of a convolution's inputs and of the sums that it should compute from them.

    A *patch* is what one output value is computed from: N = C / groups x kernel height x kernel width values of the
    quantised network, in the order of the weights. The *target* of an output channel is the float network's sum with
    bias and residual operand, less the residual operand of the quantised network. Means are over all samples and
    pixels; all arrays are float64.

    Attributes
    ----------
    patch
        Means (G, N), by group.
    target
        Means (G, K / G), by group.
    patch_patch
        Means (G, N, N) of the products of two elements of a patch.
    target_patch
        Means (G, K / G, N) of the products of a target and an element.
    count
        How many patches of a group the means are of.
    """

    patch: np.ndarray
    target: np.ndarray
    patch_patch: np.ndarray
    target_patch: np.ndarray
    count: int


def mean_moments(moments: Sequence[Moments]) -> Moments:
    """The mean of a convolution's moments in several quantised networks that have the same weights."""
    patch, target, patch_patch, target_patch = (
        sum(getattr(each, name) for each in moments) / len(moments)
        for name in ("patch", "target", "patch_patch", "target_patch")
    )
    return Moments(patch, target, patch_patch, target_patch, moments[0].count)


class PairedExecution:
    """The two networks on the same data, as far as the quantised one is made; values are float32.

    Parameters
    ----------
    graph
        A prepared network.
    data
        For each input an array (samples, *rest of its shape*).
    tensors
        The quantised network's tensors.
    """

    def __init__(self, graph: Graph, data: Mapping[str, np.ndarray], tensors: Mapping[str, QuantizedTensor]) -> None:
        self._graph, self._tensors = graph, tensors
        self._quantised = replace(graph, constants=dict(graph.constants))
        self._last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
        self._position = 0
        samples = max(1, _MOST_VALUES // max(map(np.prod, graph.shapes.values())))
        self._exact = {
            name: np.asarray(data[name][:samples], np.float32).reshape(-1, *graph.shapes[name]) for name in graph.inputs
        }
        self._rounded = dict(self._exact)
        self._round(graph.inputs)

    def moments(self, node: Node) -> Moments:
        """Moments of a convolution. Nodes are asked for in the order of the graph, and then replaced."""
        while self._graph.nodes[self._position] is not node:
            self._step()
        # In float64, since nothing has checked that sums before the activation are finite in float32.
        target = preactivation(self._graph, node, self._exact[node.inputs[0]], np.float64)
        if node.residual is not None:
            target += (self._exact[node.residual] - self._rounded[node.residual]).reshape(target.shape)
        source = self._rounded[node.inputs[0]].astype(np.float64)
        return _moments(self._graph, node, source.reshape(len(source), *map_shape(source.shape[1:])), target)

    def replace(self, node: Node, operation: QuantizedConvolution) -> None:
        """From now on the quantised network computes a convolution with an operation's weights and bias."""
        scales = operation.weight_scales.astype(np.float64).reshape(-1, 1, 1, 1)
        self._quantised.constants |= {node.inputs[1]: operation.weights * scales, node.inputs[2]: operation.bias}

    def _step(self) -> None:
        """Computes the next node, and forgets what no later one reads."""
        node = self._graph.nodes[self._position]
        run_node(self._graph, node, self._exact)
        run_node(self._quantised, node, self._rounded)
        self._round(node.outputs)
        for name in set(node.inputs):
            if self._last_use[name] == self._position:
                self._exact.pop(name, None)
                self._rounded.pop(name, None)
        self._position += 1

    def _round(self, names: Iterable[str]) -> None:
        """Rounds and limits new values of the quantised network's tensors as the NPU does."""
        for name in names:
            tensor = self._tensors.get(name)
            if tensor is not None:
                self._rounded[name] = dequantize_values(quantize_values(self._rounded[name], tensor), tensor)


def _moments(graph: Graph, node: Node, source: np.ndarray, target: np.ndarray) -> Moments:
    """Moments of patches of ``source`` (samples, C, H, W) and of ``target`` (samples, K, height, width)."""
    groups, samples = node.attributes["groups"], len(source)
    sums = [np.zeros(()) for _ in range(4)]
    for start in range(0, samples, _BATCH):
        patches = _patches(graph, node, source[start : start + _BATCH])
        targets = target[start : start + _BATCH].transpose(1, 0, 2, 3).reshape(groups, -1, patches.shape[2])
        transposed = patches.transpose(0, 2, 1)
        parts = patches.sum(axis=2), targets.sum(axis=2), patches @ transposed, targets @ transposed
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
    count = samples * target.shape[2] * target.shape[3]
    patch, mean, patch_patch, target_patch = (total / count for total in sums)
    return Moments(patch, mean, patch_patch, target_patch, count)


def _patches(graph: Graph, node: Node, source: np.ndarray) -> np.ndarray:
    """All patches (G, N, samples x pixels) of a convolution's input."""
    elements = [values for _, _, values in convolution_taps(graph, node, source)]
    # The channels come first in the weights, then the kernel's positions.
    return np.stack(elements, axis=2).reshape(len(elements[0]), -1, elements[0].shape[2])
