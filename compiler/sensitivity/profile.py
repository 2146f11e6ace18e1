"""The sensitivity profile of a network, and the methods that make one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np

from tessera.compiler.calibrate import Calibration
from tessera.compiler.errors import CompilerError
from tessera.compiler.float_execution import batch_size
from tessera.compiler.graph import Graph, Node
from tessera.compiler.precision import LayerSensitivity, SensitivityProfile
from tessera.compiler.quantize import quantize_weights, weight_scales
from tessera.compiler.sensitivity.curvature import Curvature, HessianOptions
from tessera.compiler.sensitivity.derivatives import Derivatives
from tessera.compiler.sensitivity.probe import Probe
from tessera.compiler.torch_extra import load_torch
from tessera.rtl.config import ACTIVATION_DEPTHS, WEIGHT_DEPTHS
from tessera.sim.golden.arithmetic import depth_range

DEFAULT_METHOD = "perturbation"

_VANISHING = 1e-12
"""Gradients below this are rounding errors."""

MIN_SAMPLES = 8
"""Fewer samples do not tell one layer's sensitivity from another's."""


Progress = Callable[[str], None]
"""Is told the name of each layer before it is looked at."""


def analyse(
    graph: Graph,
    calibration: Calibration,
    data: Mapping[str, np.ndarray],
    method: str = DEFAULT_METHOD,
    *,
    labels: np.ndarray | None = None,
    hessian: HessianOptions | None = None,
    progress: Progress = lambda _: None,
) -> SensitivityProfile:
    """The sensitivity profile of a network.

    Parameters
    ----------
    graph
        A prepared network.
    calibration
        Its activation ranges.
    data
        For each input an array (samples, *rest of its shape*).
    method
        - ``hessian``: mean diagonal of the loss's Hessian times the squared quantisation error;
        - ``perturbation``: rise of the loss when the layer alone is quantised;
        - ``noise``: squared quantisation error by the squared values;
        - ``gradient``: magnitudes of the loss's gradients times those of the quantisation error; needs labels, and
          PyTorch.
    labels
        The right classes of the samples, if they are known.
    hessian
        Options of the estimator.
    progress
        Is told where the analysis is.

    Raises
    ------
    CompilerError
        The method is unknown; there are too few samples, or they are all alike; a layer is dead, that is, computes the
        same for all of them; or the network's loss is not finite. For ``gradient`` also: there are no labels, or
        PyTorch is not installed.
    """
    check_request(method, batch_size(graph.shapes, graph.inputs, data))
    probe = Probe(graph, data, labels)
    _check_variety(probe)
    maker = METHODS[method](probe, calibration, hessian or HessianOptions())
    layers = {}
    for name in probe.given:
        progress(name)
        layers[name] = LayerSensitivity({}, dict(maker.activations(name)))
    for node in probe.layers:
        progress(node.name)
        layers[node.name] = LayerSensitivity(dict(maker.weights(node)), dict(maker.activations(node.output)))
    return SensitivityProfile(method, layers, probe.samples)


def check_request(method: str, samples: int) -> None:
    """Refuses what `analyse` would refuse whatever the network is, for callers with much to do before.

    Raises
    ------
    CompilerError
        The method is unknown, or needs PyTorch, which is not installed; or there are too few samples.
    """
    if method not in METHODS:
        raise CompilerError(f"there is no sensitivity method {method!r}; use one of {', '.join(METHODS)}")
    if samples < MIN_SAMPLES:
        raise CompilerError(f"{samples} samples are too few to estimate sensitivities; give at least {MIN_SAMPLES}")
    if METHODS[method] is _Gradient:
        load_torch()


def _check_variety(probe: Probe) -> None:
    """Refuses samples, and layers, of which nothing can be learned."""
    names = {name: f"input {name!r} is" for name in probe.graph.inputs}
    names |= {node.output: f"layer {node.name!r} is dead: its results are" for node in probe.layers}
    for name, subject in names.items():
        values = probe.values(name, np.arange(probe.samples))
        if (values == values[0]).all():
            raise CompilerError(
                f"{subject} the same for all {probe.samples} samples, so that no sensitivity can be estimated; give "
                "typical inputs, or repair the network"
            )


class _Method(ABC):
    """Makes a layer's sensitivities."""

    def __init__(self, probe: Probe, calibration: Calibration, options: HessianOptions):
        self.probe, self.calibration, self.options = probe, calibration, options
        self.everything = np.arange(probe.samples)

    def weights(self, node: Node) -> Iterator[tuple[int, float]]:
        """Weight depths and sensitivities."""
        weights = self.probe.weights(node)
        if weights is None:
            return
        self.prepare_weights(node, weights)
        for depth in WEIGHT_DEPTHS:
            scales = weight_scales(weights, depth)
            scales = np.where(scales > 0, scales, 1.0)
            quantised = quantize_weights(weights, scales, depth) * scales.reshape(-1, 1, 1, 1)
            yield depth, self.of_weights(node, weights, quantised)

    def activations(self, name: str) -> Iterator[tuple[int, float]]:
        """Activation depths of a tensor and sensitivities; behind max pooling, which commutes with quantisation but has
        kinks where values are equal."""
        name = self.probe.behind_max_pooling(name)
        values = self.probe.values(name, self.everything)
        self.prepare_activations(name, values)
        for depth in ACTIVATION_DEPTHS:
            yield depth, self.of_activations(name, values, self._quantised(name, values, depth))

    def prepare_weights(self, node: Node, weights: np.ndarray) -> None:  # noqa: B027 (most methods need nothing)
        """Computes what all depths of a layer's weights need."""

    def prepare_activations(self, name: str, values: np.ndarray) -> None:  # noqa: B027
        """Computes what all depths of a tensor need."""

    @abstractmethod
    def of_weights(self, node: Node, weights: np.ndarray, quantised: np.ndarray) -> float:
        """The sensitivity for quantised weights."""

    @abstractmethod
    def of_activations(self, name: str, values: np.ndarray, quantised: np.ndarray) -> float:
        """The sensitivity for a quantised tensor."""

    def _quantised(self, name: str, values: np.ndarray, depth: int) -> np.ndarray:
        measured = self.calibration.ranges[name]
        scale = measured.base_scale * 2.0 ** measured.clip_shifts.get(depth, 0)
        return np.clip(np.rint(values / scale), *depth_range(depth, measured.signed)) * scale


class _Perturbation(_Method):
    def prepare_weights(self, node: Node, weights: np.ndarray) -> None:
        self.float_loss = self.probe.loss(self.everything)

    def prepare_activations(self, name: str, values: np.ndarray) -> None:
        self.float_loss = self.probe.loss(self.everything)

    def of_weights(self, node: Node, weights: np.ndarray, quantised: np.ndarray) -> float:
        return self.probe.loss_with_weights(node, quantised, self.everything) - self.float_loss

    def of_activations(self, name: str, values: np.ndarray, quantised: np.ndarray) -> float:
        return self.probe.loss_with_values(name, quantised, self.everything) - self.float_loss


class _Noise(_Method):
    def of_weights(self, node: Node, weights: np.ndarray, quantised: np.ndarray) -> float:
        return self._ratio(weights, quantised)

    def of_activations(self, name: str, values: np.ndarray, quantised: np.ndarray) -> float:
        return self._ratio(values, quantised)

    @staticmethod
    def _ratio(values: np.ndarray, quantised: np.ndarray) -> float:
        power = np.square(values).sum()
        return float(np.square(quantised - values).sum() / power) if power > 0 else 0.0


class _Hessian(_Method):
    """The mean diagonal element of the Hessian, times the squared error."""

    def prepare_weights(self, node: Node, weights: np.ndarray) -> None:
        self.mean_diagonal = self.curvature.weight_curvature(node)

    def prepare_activations(self, name: str, values: np.ndarray) -> None:
        self.mean_diagonal = self.curvature.activation_curvature(name)

    def of_weights(self, node: Node, weights: np.ndarray, quantised: np.ndarray) -> float:
        return self.mean_diagonal * float(np.square(quantised - weights).sum())

    def of_activations(self, name: str, values: np.ndarray, quantised: np.ndarray) -> float:
        return self.mean_diagonal * float(np.square(quantised - values).sum()) / len(values)

    @cached_property
    def curvature(self) -> Curvature:
        """The estimator."""
        return Curvature(self.probe, self.options)


class _Gradient(_Method):
    """To the first order what quantisation may change of a sample's loss: the mean over the samples of the sum of
    ``|g| |q - x|`` over all elements x, their gradients g and their quantised values q."""

    def __init__(self, probe: Probe, calibration: Calibration, options: HessianOptions):
        super().__init__(probe, calibration, options)
        self.weight_magnitudes, self.activation_magnitudes = Derivatives(probe).magnitudes()
        if max(float(found.max(initial=0)) for found in self.activation_magnitudes.values()) < _VANISHING:
            raise CompilerError(
                "the gradients vanish, since the loss compares the float network with its own outputs; give the right "
                "classes (an array 'labels' beside the calibration data), or use another method"
            )

    def of_weights(self, node: Node, weights: np.ndarray, quantised: np.ndarray) -> float:
        return float((self.weight_magnitudes[node.name] * np.abs(quantised - weights)).sum())

    def of_activations(self, name: str, values: np.ndarray, quantised: np.ndarray) -> float:
        return float((self.activation_magnitudes[name] * np.abs(quantised - values)).sum()) / len(values)


METHODS: Mapping[str, type[_Method]] = {
    "hessian": _Hessian,
    "perturbation": _Perturbation,
    "noise": _Noise,
    "gradient": _Gradient,
}
"""The methods by name."""
