"""Derivatives of a network's loss by automatic differentiation, which needs PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tessera.compiler.calibrate import npu_tensors
from tessera.compiler.graph import Node
from tessera.compiler.sensitivity.probe import Probe
from tessera.compiler.torch_execution import TorchNetwork
from tessera.compiler.torch_extra import load_torch
from tessera.compiler.torch_loss import torch_loss

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 64
"""Rows of a Hessian that are computed at once."""


class Derivatives:
    """Derivatives of the loss that a probe measures, in float64.

    Parameters
    ----------
    probe
        The network, its data and its loss.

    Raises
    ------
    CompilerError
        PyTorch is not installed, or the host computes a node behind the NPU whose derivative is unknown.
    """

    def __init__(self, probe: Probe):
        self._torch = load_torch()
        self._probe = probe
        self._network = TorchNetwork(probe.graph, double=True)
        everything = np.arange(probe.samples)
        self._given = self._network.given({name: probe.values(name, everything)[:, 0] for name in probe.graph.inputs})

    def magnitudes(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Absolute values of the gradients of each sample's loss.

        Returns
        -------
        For the weights of each layer, by its name, their mean over the samples (K, C, kernel height, kernel width); and
        for each tensor of the NPU those of each sample (samples, *shape*), in float32.
        """
        layers = [node for node in self._probe.layers if self._probe.weights(node) is not None]
        weights = {node.name: np.zeros_like(self._probe.weights(node)) for node in layers}
        activations: dict[str, list[np.ndarray]] = {name: [] for name in npu_tensors(self._probe.graph)}
        for sample in range(self._probe.samples):
            loss, offsets = self._offset_loss(np.array([sample]), tuple(activations))
            leaves = [*(self._network.parameters[node.inputs[1]] for node in layers), *offsets.values()]
            gradients = [value.abs().numpy() for value in self._torch.autograd.grad(loss, leaves)]
            for node, found in zip(layers, gradients):
                weights[node.name] += found / self._probe.samples
            for name, found in zip(offsets, gradients[len(layers) :], strict=True):
                activations[name].append(found.astype(np.float32))
        return weights, {name: np.concatenate(found) for name, found in activations.items()}

    def weight_curvature(self, node: Node) -> float:
        """Mean diagonal element of the Hessian of the mean loss with respect to a layer's weights other than 0."""
        weights = self._network.parameters[node.inputs[1]]
        loss, _ = self._offset_loss(np.arange(self._probe.samples), ())
        (gradient,) = self._torch.autograd.grad(loss, weights, create_graph=True)
        diagonal = [
            self._rows(gradient.flatten(), weights, part).flatten(1)[:, part].diagonal() for part in _parts(weights)
        ]
        return _mean_where(self._torch.cat(diagonal), weights.flatten())

    def activation_curvature(self, name: str) -> float:
        """The same of a sample's loss with respect to a tensor's values other than 0, as a mean over the samples."""
        everything = np.arange(self._probe.samples)
        loss, offsets = self._offset_loss(everything, (name,))
        offset = offsets[name]
        # The samples do not depend on each other, so that a row gives an element of the diagonal of each.
        (gradient,) = self._torch.autograd.grad(loss * self._probe.samples, offset, create_graph=True)
        summed = gradient.flatten(1).sum(dim=0)
        diagonal = [
            self._rows(summed, offset, part).flatten(2)[:, :, part].diagonal(dim1=0, dim2=2)
            for part in _parts(offset[0])
        ]
        values = self._network.tensor(self._probe.values(name, everything))
        return _mean_where(self._torch.cat(diagonal, dim=1).flatten(), values.flatten())

    def _rows(self, gradient: Tensor, leaf: Tensor, part: slice) -> Tensor:
        """Rows of the Hessian: the derivatives of some elements of a gradient."""
        selection = self._torch.eye(len(gradient), dtype=gradient.dtype)[part]
        (rows,) = self._torch.autograd.grad(
            gradient, leaf, selection, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        return rows

    def _offset_loss(self, samples: np.ndarray, names: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of some samples, and leaves of zeros that are added to the tensors with these names."""
        offsets: dict[str, Tensor] = {}

        def add_offset(name: str, value: Tensor) -> Tensor:
            if name not in names:
                return value
            offsets[name] = self._torch.zeros_like(value, requires_grad=True)
            return value + offsets[name]

        given = {name: value[samples] for name, value in self._given.items()}
        values = self._network(given, activations=add_offset)
        return torch_loss(self._probe.criterion, values, samples), offsets


def _parts(values: Tensor) -> Iterator[slice]:
    for start in range(0, values.numel(), _ROWS):
        yield slice(start, min(start + _ROWS, values.numel()))


def _mean_where(diagonal: Tensor, values: Tensor) -> float:
    """Mean of the elements whose values are not 0; 0 if there are none."""
    kept = diagonal[values != 0]
    return float(kept.mean()) if len(kept) else 0.0
