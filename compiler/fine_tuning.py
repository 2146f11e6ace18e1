"""Quantisation-aware fine-tuning: training on until a network is good with the rounding that awaits it.

In the forward direction weights and activations are rounded and saturated exactly as the quantised network has them; in
the backward direction rounding counts as the identity, and saturation as what it is (the straight-through estimator,
Bengio et al., arXiv:1308.3432). The loss is that of the labels and of the float network's own outputs in equal parts,
or without labels the latter alone.

The result is a float network whose weights lie on the grid of their depth: the quantiser finds the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tessera.compiler.calibrate import calibrate
from tessera.compiler.graph import CONVOLUTION, Graph, Node, Placement
from tessera.compiler.quantize import LayerDepths, quantize, weight_scales
from tessera.compiler.quantized import QuantizedConvolution
from tessera.compiler.sensitivity.loss import CrossEntropy, Loss, make_loss
from tessera.compiler.torch_execution import TorchNetwork
from tessera.compiler.torch_extra import load_torch
from tessera.compiler.torch_loss import torch_loss
from tessera.sim.golden.arithmetic import depth_range

if TYPE_CHECKING:
    from torch import Tensor

_SMALLEST_PEAK = 1e-30
"""Channels whose weights are below this stay as they are: zero."""


@dataclass(frozen=True)
class FineTuning:
    """How a network is trained on.

    Attributes
    ----------
    epochs
        Passes over the data. The scales are chosen anew before each.
    batch
        Samples of a step.
    learning_rate
        Of the first step (Adam); it falls to 0 along a half-wave of the cosine.
    seed
        Of the order of the samples.
    """

    epochs: int = 10
    batch: int = 64
    learning_rate: float = 1e-3
    seed: int = 1


Progress = Callable[[int, float], None]
"""Is told the number of each epoch from 1 and its mean loss."""


def fine_tune(
    graph: Graph,
    data: Mapping[str, np.ndarray],
    calibration_data: Mapping[str, np.ndarray],
    activation_depth: int = 4,
    weight_depth: int = 4,
    overrides: Mapping[str, LayerDepths] | None = None,
    *,
    labels: np.ndarray | None = None,
    teacher: Graph | None = None,
    options: FineTuning | None = None,
    progress: Progress = lambda epoch, loss: None,
) -> Graph:
    """The network with weights and biases that suit the depths.

    Parameters
    ----------
    graph
        A prepared network (:func:`tessera.compiler.prepare`).
    data
        What it is trained on: for each input an array (samples, *rest of its shape*).
    calibration_data
        What scales are chosen by, of the same form. The quantiser should later be given the same.
    activation_depth, weight_depth, overrides
        As of :func:`tessera.compiler.quantize`.
    labels
        int64 array (samples,) of the right classes, if they are known.
    teacher
        The prepared float network whose outputs are the goal, if it is another one than ``graph``: ``graph`` may be the
        result of an earlier fine-tuning.
    options
        How it is trained.
    progress
        Is told after each epoch.

    Raises
    ------
    CompilerError
        PyTorch is not installed; a depth does not exist or an override names nothing; or the data do not fit.
    """
    options = options or FineTuning()
    torch = load_torch()
    trainer = _Trainer(graph, calibration_data, activation_depth, weight_depth, overrides)
    given = trainer.network.given(data)
    loss = _loss(TorchNetwork(teacher or graph), given, options.batch, labels)
    samples = len(next(iter(given.values())))
    rng = np.random.default_rng(options.seed)
    optimizer = torch.optim.Adam(trainer.network.parameters.values(), lr=options.learning_rate)
    steps = options.epochs * -(-samples // options.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(1, options.epochs + 1):
        trainer.choose_scales()
        total = 0.0
        for batch in _batches(rng.permutation(samples), options.batch):
            values = trainer({name: value[batch] for name, value in given.items()})
            error = torch_loss(loss, values, batch)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
            total += error.item() * len(batch)
        progress(epoch, total / samples)
    return trainer.rounded_graph()


def _batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    return np.split(order, range(size, len(order), size))


def _loss(network: TorchNetwork, given: Mapping[str, Tensor], batch: int, labels: np.ndarray | None) -> Loss:
    """The loss against the labels and the float network's outputs."""
    with load_torch().no_grad():
        parts = []
        for samples in _batches(np.arange(len(next(iter(given.values())))), batch):
            values = network({name: value[samples] for name, value in given.items()})
            parts.append({name: values[name].numpy() for name in network.graph.outputs})
    reference = {name: np.concatenate([part[name] for part in parts]) for name in network.graph.outputs}
    loss = make_loss(reference, labels)
    if labels is None or not isinstance(loss, CrossEntropy):
        return loss
    outputs = reference[loss.output].reshape(len(labels), -1).astype(np.float64)
    return CrossEntropy(
        loss.output,
        (loss.targets + (outputs if loss.probabilities else _softmax(outputs))) / 2,
        probabilities=loss.probabilities,
    )


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class _Trainer:
    """A network that computes with rounded weights and activations."""

    def __init__(
        self,
        graph: Graph,
        calibration_data: Mapping[str, np.ndarray],
        activation_depth: int,
        weight_depth: int,
        overrides: Mapping[str, LayerDepths] | None,
    ):
        self.network = TorchNetwork(graph)
        self.calibration_data = calibration_data
        self.calibration = calibrate(graph, calibration_data)
        quantized = quantize(graph, self.calibration, activation_depth, weight_depth, overrides)
        self.activation_depths = {name: tensor.depth for name, tensor in quantized.tensors.items()}
        self.weight_depths = {
            operation.name: operation.weight_depth
            for operation in quantized.operations
            if isinstance(operation, QuantizedConvolution)
        }
        self.parts: dict[str, Tensor] = {}  # of each channel's largest weight, where its range ends

    @property
    def layers(self) -> list[Node]:
        """The layers with weights."""
        return [node for node in self.network.graph.placed(Placement.NPU) if node.op == CONVOLUTION]

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.network(given, self.round_weights, self.round_activations)

    def choose_scales(self) -> None:
        """Chooses the ranges of weights and activations by the present weights."""
        for node in self.layers:
            weights = self.network.parameters[node.inputs[1]].detach().numpy()
            scales = weight_scales(weights, self.weight_depths[node.name])
            peaks = np.abs(weights).reshape(len(weights), -1).max(axis=1)
            top = depth_range(self.weight_depths[node.name], signed=True)[1]
            parts = np.where(peaks > _SMALLEST_PEAK, scales * top / np.maximum(peaks, _SMALLEST_PEAK), 1.0)
            self.parts[node.name] = self.network.tensor(parts)
        self.calibration = calibrate(self.rounded_graph(), self.calibration_data)

    def round_weights(self, name: str, weights: Tensor) -> Tensor:
        """Weights (K, ...) on the grid of their depth. A channel's scale follows its largest weight, which therefore
        always has the largest integer."""
        top = depth_range(self.weight_depths[name], signed=True)[1]
        shape = -1, *[1] * (weights.dim() - 1)
        peaks = weights.detach().abs().flatten(1).amax(dim=1).clamp(min=_SMALLEST_PEAK)
        scales = (peaks * self.parts[name] / top).reshape(shape)
        return _round((weights / scales).clamp(-top, top)) * scales

    def round_activations(self, name: str, values: Tensor) -> Tensor:
        """Activations as integers of their depth hold them."""
        depth, measured = self.activation_depths[name], self.calibration.ranges[name]
        scale = measured.base_scale * 2.0 ** measured.clip_shifts.get(depth, 0)
        return _round((values / scale).clamp(*depth_range(depth, measured.signed))) * scale

    def rounded_graph(self) -> Graph:
        """The network with the present weights, rounded."""
        graph = self.network.updated_graph()
        rounded = {
            node.inputs[1]: self.round_weights(node.name, self.network.parameters[node.inputs[1]]).detach().numpy()
            for node in self.layers
        }
        return replace(graph, constants=graph.constants | rounded)


def _round(values: Tensor) -> Tensor:
    """Values rounded half to even, with the derivative of what they were."""
    return values + (values.round() - values).detach()
