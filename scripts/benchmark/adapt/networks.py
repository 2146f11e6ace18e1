"""The networks whose precision is adapted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from benchmark.runs import ROOT
from tessera.compiler import LayerDepths, QuantizedNetwork, calibrate, equalise, import_onnx, prepare, quantize
from tessera.compiler.adaptive import AdaptiveProgram, Trace, evaluate_adaptive
from tessera.compiler.datasets import EvaluationSplit, load_split
from tessera.compiler.datasets.metrics import METRICS
from tessera.compiler.quantized_execution import host_after, host_before
from tessera.compiler.sensitivity import analyse
from tessera.firmware.adaptation.inference import compile_adaptive
from tessera.rtl.config import ACTIVATION_DEPTHS, NpuConfig

WEIGHT_DEPTH, INPUT_DEPTH = 4, 8
"""Bits of all weights, and of the images, which have no more."""

SENSITIVITY_SAMPLES = 64
"""Samples by which sensitivities are found."""

_BATCH = 100
"""Samples that the golden model computes at once; bounds its memory."""


@dataclass(frozen=True)
class Case:
    """A network: its name, data set, and what precedes the names of its rows."""

    name: str
    dataset: str
    prefix: str = ""


MAIN = Case("photographs_mobilenet", "photographs")
RECORD = Case("digits32_resnet8", "digits32", "resnet8/")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network that is ready to run.

    Attributes
    ----------
    case
        Which one.
    program
        Its segments for ``edge``.
    split
        Its data.
    """

    case: Case
    program: AdaptiveProgram
    split: EvaluationSplit

    @property
    def quantized(self) -> QuantizedNetwork:
        """The quantised network."""
        return self.program.network.quantized

    def images(self, count: int) -> dict[str, np.ndarray]:
        """So many held-out images, as the network's input."""
        return dict.fromkeys(self.quantized.inputs, self.split.test.images[:count])

    def accuracy(self, depths: Trace) -> float:
        """Percentage of the held-out images that the golden model gets right with these depths."""
        return _accuracy(self, tuple(sorted(depths.items())))


@cache
def prepared(case: Case) -> Prepared:
    """The network, as ``tessera quantize FILE --adaptive 4,6,8,16 --weights 4 --layer INPUT=a8`` makes it."""
    split = load_split(case.dataset)
    graph = prepare(import_onnx(ROOT / "models" / f"{case.name}.onnx"))
    samples = dict.fromkeys(graph.inputs, split.calibration.images)
    graph = equalise(graph, samples)
    calibration = calibrate(graph, samples, adaptive=ACTIVATION_DEPTHS)
    inputs = {name: LayerDepths(activation=INPUT_DEPTH) for name in graph.inputs}
    network = quantize(graph, calibration, max(ACTIVATION_DEPTHS), WEIGHT_DEPTH, inputs, adaptive=ACTIVATION_DEPTHS)
    few = {name: values[:SENSITIVITY_SAMPLES] for name, values in samples.items()}
    profile = analyse(graph, calibration, few)
    return Prepared(case, compile_adaptive(replace(network, sensitivity=profile), NpuConfig.preset("edge")), split)


@cache
def _accuracy(network: Prepared, depths: tuple[tuple[str, int], ...]) -> float:
    test, quantized = network.split.test, network.quantized
    before = host_before(quantized, network.images(len(test)))
    parts = []
    for first in range(0, len(test), _BATCH):
        part = {name: values[first : first + _BATCH] for name, values in before.integers.items()}
        parts.append(evaluate_adaptive(network.program.network, part, dict(depths)))
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in quantized.npu_outputs}
    (scores,) = host_after(quantized, outputs, before).values()
    return 100 * METRICS["accuracy"](np.asarray(scores), test)
