"""The group ``mixed``: the shipped networks of mixed precision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache

import numpy as np

from benchmark.rows import Row
from benchmark.runs import ROOT, compile_file, run_samples
from tessera.compiler import QuantizedNetwork, prepare, read_qonnx
from tessera.compiler.datasets import LabelledImages, load_split
from tessera.compiler.datasets.metrics import METRICS
from tessera.compiler.float_execution import execute
from tessera.compiler.onnx_import import import_onnx
from tessera.compiler.quantized_execution import execute_quantized
from tessera.firmware.cosimulation import Options
from tessera.firmware.inference import CompiledNetwork, compile_network
from tessera.rtl.config import NpuConfig

MODELS = ROOT / "models"

AIMS = {
    "digits32_resnet8": 0.35,
    "photographs_mobilenet": 0.50,
    "keywords_dscnn": 0.50,
    "novelty_autoencoder": 0.60,
}
"""Cycles over those at W8A8: what is aimed at for dense convolutional, depthwise and fully connected networks."""

LARGEST_DROP = 1.0
"""Points on held-out data that may be lost."""


def measure_mixed() -> Iterator[Row]:
    """The group ``mixed``."""
    for entry in json.loads((MODELS / "mixed" / "models.json").read_text(encoding="utf-8"))["networks"]:
        source = entry["source"].removesuffix(".onnx")
        path = MODELS / "mixed" / entry["file"]
        compiled = compile_network(read_qonnx(path), NpuConfig.preset(entry["npu"]))
        reference = _uniform_cycles(source, 8)
        for label, cycles, aim in (
            ("cycles_over_w8a8", _cycles(compiled), AIMS[source]),
            ("uniform_w4a4_over_w8a8", _uniform_cycles(source, 4), None),
        ):
            yield Row(f"mixed/{path.stem}/{label}", round(cycles / reference, 3), "ratio", "lower", aim=aim)
        test = load_split(entry["dataset"]).test
        mixed = worth(read_qonnx(path), test, entry["metric"])
        drop = 100 * (_float_worth(source, entry["dataset"], entry["metric"]) - mixed)
        yield Row(f"mixed/{path.stem}/accuracy_drop", round(drop, 2), "points", "lower", aim=LARGEST_DROP)


@cache
def _uniform_cycles(source: str, depth: int) -> int:
    return _cycles(compile_file(MODELS / f"{source}.onnx", depth, depth))


def _cycles(network: CompiledNetwork) -> int:
    """Cycles of one inference on the RTL."""
    return run_samples(network, 1, Options()).runs[0].cycles


@cache
def _float_worth(source: str, dataset: str, metric: str) -> float:
    """The float network's worth on held-out data."""
    graph = prepare(import_onnx(MODELS / f"{source}.onnx"))
    test = load_split(dataset).test
    (outputs,) = execute(graph, dict.fromkeys(graph.inputs, test.images)).values()
    return METRICS[metric](outputs, test)


def worth(network: QuantizedNetwork, test: LabelledImages, metric: str) -> float:
    """A quantised network's worth on held-out data, 0 to 1, on the golden model."""
    (outputs,) = execute_quantized(network, dict.fromkeys(network.inputs, test.images)).values()
    return METRICS[metric](np.asarray(outputs), test)
