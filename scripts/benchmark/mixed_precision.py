"""The groups ``hawq``, ``quantize`` and ``mixed``: how depths are chosen, and what the shipped networks gain by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmark.published_depths import COST, published_problems
from benchmark.rows import Row
from benchmark.runs import ROOT
from tessera.cli.console import console
from tessera.compiler import Calibration, Graph, QuantizedNetwork, calibrate, import_onnx, prepare
from tessera.compiler.datasets import EvaluationSplit, LabelledImages, load_split
from tessera.compiler.datasets.metrics import METRICS
from tessera.compiler.errors import CompilerError
from tessera.compiler.float_execution import execute
from tessera.compiler.quantized_execution import execute_quantized
from tessera.compiler.sensitivity import HessianOptions, Probe, analyse
from tessera.compiler.sensitivity.derivatives import Derivatives

PUBLISHED = ROOT.parent / "shared" / "hawq_ilp.json"
TRACED, TRACED_SAMPLES = "digits_cnn", 64
"""The small network whose exact traces are computed, and on how many samples."""

TIMED = "digits32_resnet8"
METHODS = ("hessian", "perturbation", "noise")
"""The methods that need no labels and no PyTorch."""

LARGEST_SECONDS = 120.0
LARGEST_DROP = 1.0
"""Points of accuracy."""

AIMS = {"dense": 0.35, "depthwise": 0.50, "fully connected": 0.60}
"""Part of the cycles at W8A8, by kind of network."""

SHARE = 0.45
"""Part of the cycles at W8A8 at which the methods are compared."""


@dataclass(frozen=True)
class FloatNetwork:
    """A shipped float network, prepared, and its data."""

    graph: Graph
    data: EvaluationSplit
    metric: str

    @staticmethod
    def load(entry: Mapping[str, Any]) -> FloatNetwork:
        """The network of an entry of ``models.json``."""
        graph = prepare(import_onnx(ROOT / "models" / entry.get("source", entry["file"])))
        return FloatNetwork(graph, load_split(entry["dataset"]), entry["metric"])

    def inputs(self, part: LabelledImages) -> dict[str, np.ndarray]:
        """Samples by the name of the input."""
        (name,) = self.graph.inputs
        return {name: part.images.reshape(len(part), *self.graph.shapes[name][1:])}

    @property
    def labels(self) -> np.ndarray | None:
        """Classes of the calibration samples, if the network is a classifier."""
        return self.data.calibration.labels if self.metric == "accuracy" else None

    def calibration(self) -> Calibration:
        """Its activation ranges."""
        return calibrate(self.graph, self.inputs(self.data.calibration))

    def worth(self, network: QuantizedNetwork | None = None) -> float:
        """Points on held-out samples: of a quantised form, or of the float network."""
        given = self.inputs(self.data.test)
        outputs = execute(self.graph, given) if network is None else execute_quantized(network, given)
        return 100 * METRICS[self.metric](next(iter(outputs.values())), self.data.test)


def measure_hawq() -> Iterator[Row]:
    """The group ``hawq``."""
    problems = published_problems(PUBLISHED)
    if problems:
        solved = sum(
            found.totals["sensitivity"] <= problem.published_sensitivity * (1 + 1e-12)
            and found.totals[COST] <= problem.limit * (1 + 1e-9)
            for problem, found in ((problem, problem.solve()) for problem in problems)
        )
        yield Row("hawq/published_cases", solved, f"of {len(problems)}", "higher", floor=len(problems))
    else:
        console.print(f"{PUBLISHED} is absent: the published problems are not solved")
    try:
        yield Row("hawq/trace_rank_correlation", round(_trace_correlation(), 4), "Spearman", "higher", aim=0.98)
    except CompilerError as error:
        console.print(f"exact traces are not computed: {error}")


def _trace_correlation() -> float:
    """Rank correlation of the forward-only estimate of the curvature of each layer's weights and output with the exact
    one by automatic differentiation."""
    network = FloatNetwork.load(_entry(TRACED))
    given = {name: values[:TRACED_SAMPLES] for name, values in network.inputs(network.data.calibration).items()}
    labels = None if network.labels is None else network.labels[:TRACED_SAMPLES]
    probe = Probe(network.graph, given, labels)
    exact = Derivatives(probe)
    options = HessianOptions(batch=TRACED_SAMPLES)
    profiles = {
        method: analyse(network.graph, network.calibration(), given, method, labels=labels, hessian=options)
        for method in ("hessian", "noise")
    }
    layers = [node for node in probe.layers if probe.weights(node) is not None]
    estimates = [_estimated_trace(profiles, probe, node.name) for node in layers]
    return float(spearmanr(estimates, [exact.weight_curvature(node) for node in layers]).statistic)
