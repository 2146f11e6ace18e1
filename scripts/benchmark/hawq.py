"""The group ``hawq``: Hessian traces without derivatives, against exact ones."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from scipy.stats import spearmanr

from benchmark.rows import Row
from benchmark.runs import ROOT
from tessera.cli.console import console
from tessera.compiler import calibrate, import_onnx, prepare
from tessera.compiler.datasets import load_split
from tessera.compiler.sensitivity import METHODS, HessianOptions, Probe
from tessera.compiler.sensitivity.derivatives import Derivatives

NETWORK = "digits_resnet"
SAMPLES = 16
DIRECTIONS = 128


def measure_hawq() -> Iterator[Row]:
    """The group ``hawq``."""
    if find_spec("torch") is None:
        console.print("PyTorch is absent (extra train): exact traces are not measured", highlight=False)
        return
    found, exact = np.array(list(trace_pairs())).T
    rank = float(spearmanr(found, exact).statistic)
    yield Row("hawq/trace_rank_correlation", round(rank, 4), "ratio", "higher", aim=0.98)


def trace_pairs() -> Iterator[tuple[float, float]]:
    """Mean diagonal elements of the Hessian of each layer's weights and output: estimated, and by differentiation."""
    graph = prepare(import_onnx(ROOT / "models" / f"{NETWORK}.onnx"))
    part = load_split("digits").calibration[:SAMPLES]
    data = dict.fromkeys(graph.inputs, part.images)
    probe = Probe(graph, data, part.labels)
    options = HessianOptions(directions=DIRECTIONS, batch=SAMPLES)
    estimator, exact = METHODS["hessian"](probe, calibrate(graph, data), options), Derivatives(probe)
    for node in probe.layers:
        if (weights := probe.weights(node)) is not None:
            estimator.prepare_weights(node, weights)
            yield estimator.mean_diagonal, exact.weight_curvature(node)
        name = probe.behind_max_pooling(node.output)
        estimator.prepare_activations(name, probe.values(name, np.arange(probe.samples)))
        yield estimator.mean_diagonal, exact.activation_curvature(name)
