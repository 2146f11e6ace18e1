"""The group ``hawq``: published problems solved again, and Hessian traces without derivatives, against exact ones."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from scipy.stats import spearmanr

from benchmark.published_depths import published_problems
from benchmark.rows import Row
from benchmark.runs import ROOT
from tessera.cli.console import console
from tessera.compiler import import_onnx, prepare
from tessera.compiler.datasets import load_split
from tessera.compiler.sensitivity import Curvature, HessianOptions, Probe
from tessera.compiler.sensitivity.derivatives import Derivatives

PUBLISHED = ROOT.parent / "shared" / "hawq_ilp.json"

NETWORK = "digits_cnn"
SAMPLES = 16
DIRECTIONS = 128


def measure_hawq() -> Iterator[Row]:
    """The group ``hawq``."""
    problems = published_problems(PUBLISHED)
    if problems:
        solved = sum(problem.is_solved() for problem in problems)
        yield Row("hawq/published_cases", solved, f"of {len(problems)}", "higher", floor=len(problems))
    else:
        console.print(f"{PUBLISHED} is absent: the published problems are not solved")
    if find_spec("torch") is None:
        console.print("PyTorch is absent (extra train): exact traces are not measured")
        return
    found, exact = np.array(list(trace_pairs())).T
    rank = float(spearmanr(found, exact).statistic)
    yield Row("hawq/trace_rank_correlation", round(rank, 4), "ratio", "higher", aim=0.98)


def trace_pairs() -> Iterator[tuple[float, float]]:
    """Mean diagonal elements of the Hessian of each layer's weights and output: estimated, and by differentiation."""
    graph = prepare(import_onnx(ROOT / "models" / f"{NETWORK}.onnx"))
    part = load_split("digits").calibration[:SAMPLES]
    probe = Probe(graph, dict.fromkeys(graph.inputs, part.images), part.labels)
    estimated, exact = Curvature(probe, HessianOptions(directions=DIRECTIONS, batch=SAMPLES)), Derivatives(probe)
    for node in probe.layers:
        if probe.weights(node) is not None:
            yield estimated.weight_curvature(node), exact.weight_curvature(node)
        name = probe.behind_max_pooling(node.output)
        yield estimated.activation_curvature(name), exact.activation_curvature(name)
