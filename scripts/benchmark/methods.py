"""The group ``methods``: the methods that find how sensitive layers are, side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import numpy as np

from benchmark.mixed import worth
from benchmark.rows import Row
from benchmark.runs import ROOT
from tessera.compiler import Calibration, Graph, QuantizedNetwork, calibrate, equalise, import_onnx, prepare
from tessera.compiler.datasets import EvaluationSplit, load_split
from tessera.compiler.datasets.metrics import METRICS
from tessera.compiler.float_execution import execute
from tessera.compiler.mixed_precision import (
    CYCLES,
    DepthSearch,
    Judge,
    Quantizer,
    cycle_model,
    total,
    uniform_costs,
)
from tessera.compiler.sensitivity import analyse
from tessera.rtl.config import NpuConfig

METHODS = ("hessian", "perturbation", "noise")
LABEL_METHODS = ("gradient",)
"""Those that need labels and PyTorch (extra ``train``)."""

NETWORKS = {
    "digits32_resnet8": ("digits32", "accuracy", 0.35),
    "keywords_dscnn": ("keywords", "accuracy", 0.50),
    "novelty_autoencoder": ("novel_digits", "auc", 0.60),
}
"""Data set, metric, and part of the cycles at W8A8 of the networks on which the methods are compared."""

TIMED = "digits32_resnet8"
LARGEST_SECONDS = 120.0


def measure_methods() -> Iterator[Row]:
    """The group ``methods``."""
    for name, (dataset, metric, part) in NETWORKS.items():
        network = _Network(name, load_split(dataset), metric)
        has_derivatives = metric == "accuracy" and find_spec("torch") is not None
        for method in METHODS + (LABEL_METHODS if has_derivatives else ()):
            start = time.monotonic()
            quantised = network.mixed(method, part)
            seconds = time.monotonic() - start
            if name == TIMED:
                yield Row(f"quantize/seconds/{method}", round(seconds, 1), "s", "lower", aim=LARGEST_SECONDS)
            drop = round(network.drop(quantised), 2)
            yield Row(f"methods/{name}/{method}/accuracy_drop", drop, "points", "lower")


class _Network:
    """A float network, and what its quantised forms lose."""

    def __init__(self, name: str, data: EvaluationSplit, metric: str):
        graph = prepare(import_onnx(ROOT / "models" / f"{name}.onnx"))
        self._data, self._metric = data, metric
        self._samples = dict.fromkeys(graph.inputs, data.calibration.images)
        self._graph: Graph = equalise(graph, self._samples)
        self._labels = data.calibration.labels if metric == "accuracy" else None
        self._calibration: Calibration = calibrate(self._graph, self._samples)
        (outputs,) = execute(self._graph, self._inputs(data.test.images)).values()
        self._float_points = 100 * METRICS[metric](outputs, data.test)

    def mixed(self, method: str, part: float) -> QuantizedNetwork:
        """The network of the depths that a method chooses for a part of the cycles at W8A8."""
        config = NpuConfig.preset("edge")
        meter = cycle_model(config)
        quantizer = Quantizer(self._graph, self._calibration)
        profile = analyse(self._graph, self._calibration, self._samples, method, labels=self._labels)
        uniform = uniform_costs(quantizer, config, meter)
        judge = Judge(self._graph, self._samples, self._labels)
        search = DepthSearch(quantizer, profile, uniform, meter, judge)
        return search.within({CYCLES: part * total(uniform[8, 8])[CYCLES]}).network

    def drop(self, network: QuantizedNetwork) -> float:
        """Points that it loses on held-out data."""
        return self._float_points - 100 * worth(network, self._data.test, self._metric)

    def _inputs(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        return dict.fromkeys(self._graph.inputs, images)
