"""Make the shipped networks of mixed precision: fine-tune, choose depths under a budget, quantise, and measure.

    python scripts/mix.py [--output models/mixed] [--network NAME ...]

A float network of ``models/`` is trained on for 4 bits (``tessera finetune``). Then, for each of its budgets, which are
parts of the cycles at 8 bits on the preset ``edge``, the depths of its layers are chosen and its quantised form is
written (as ``tessera quantize --budget`` does). Beside them, ``models.json`` records what was measured on held-out
data.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError:
    sys.exit("Fine-tuning needs PyTorch: install it with `pip install tessera-npu[train]`.")
from training.data import load_training_data
from training.networks import RECIPES
from training.record import record
from training.tune import DEPTHS, inputs, tune

from tessera.cli.app import exit_on_error
from tessera.compiler import (
    Calibration,
    LayerDepths,
    calibrate,
    equalise,
    import_onnx,
    prepare,
    quantize,
    read_qonnx,
    write_qonnx,
)
from tessera.compiler.datasets import EvaluationSplit, load_split
from tessera.compiler.datasets.metrics import METRICS
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import CONVOLUTION, Graph
from tessera.compiler.mixed_precision import (
    CYCLES,
    Costs,
    DepthSearch,
    Judge,
    Quantizer,
    Uniform,
    cycle_model,
    find_limits,
    total,
    uniform_costs,
)
from tessera.compiler.onnx_writer import write_onnx
from tessera.compiler.precision import SensitivityProfile
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.quantized_execution import execute_quantized
from tessera.compiler.sensitivity import analyse
from tessera.rtl.config import NpuConfig

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
CACHE = ROOT / "build" / "training"
NPU = "edge"

ANALYSED_SAMPLES = 128
"""Calibration samples on which sensitivities and the limits of depths are measured."""

LIMIT_LOSS = 1.0
"""Points that may be lost where all layers have their least depths."""

BUDGETS = {
    "digits32_resnet8": (30, 35),
    "photographs_mobilenet": (45, 60),
    "keywords_dscnn": (45, 50),
    "novelty_autoencoder": (57, 60),
}
"""Percent of the cycles at 8 bits, by network."""

TUNED = ("digits32_resnet8", "novelty_autoencoder")
"""The networks that are trained on for 4 bits; the refinements of the quantiser are enough for the others."""


class Mixer:
    """Makes the mixed-precision networks of one float network.

    Parameters
    ----------
    name
        The float network.
    output
        Folder to write to.
    """

    def __init__(self, name: str, output: Path):
        self.name, self.recipe, self.output = name, RECIPES[name], output
        self.is_tuned = name in TUNED
        self.data: EvaluationSplit = (
            load_training_data(self.recipe.dataset, CACHE) if self.is_tuned else load_split(self.recipe.dataset)
        )
        self.graph = prepare(import_onnx(MODELS / f"{name}.onnx"))
        self.tuned_path = CACHE / "tuned" / f"{name}.onnx"

    def make(self, percent: int) -> None:
        """Makes, measures and records the network of one budget."""
        path = self.output / f"{self.name}_{percent}.onnx"
        write_qonnx(self.mixed(percent), path)
        path.chmod(0o644)
        network = read_qonnx(path)
        spent = cycles(network)
        entry = {
            "name": path.stem,
            "file": path.name,
            "source": f"{self.name}.onnx",
            "dataset": self.recipe.dataset,
            "metric": self.recipe.metric,
            "npu": NPU,
            "budget": f"cycles={percent}%",
            "depths": depth_counts(network),
            "cycles": spent,
            "cycles_over_w8a8": round(spent / self.uniform["W8A8"]["cycles"], 4),
            "test_samples": len(self.data.test),
            "float": round(self.float_value, 4),
            "quantized": round(self.value(network), 4),
            "uniform": self.uniform,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        record(self.output, entry)
        print(
            f"{path.stem}: {self.recipe.metric} {entry['quantized']} (float {entry['float']}), {entry['depths']}, "
            f"{entry['cycles_over_w8a8']} of the cycles at W8A8",
            flush=True,
        )

    def mixed(self, percent: int) -> QuantizedNetwork:
        """The quantised network of a budget, with its limits and sensitivities."""
        choice = self.search.within({CYCLES: percent / 100 * self._reference_cycles})
        available = sorted(NpuConfig.load(NPU).activation_depths)
        limits = find_limits(choice.network, self.profile, choice.judge, available, LIMIT_LOSS)
        return replace(choice.network, limits=limits, sensitivity=self.profile)

    @cached_property
    def search(self) -> DepthSearch:
        """What chooses the depths."""
        judge = Judge(self.base, self._analysed, self._labels)
        meter = cycle_model(NpuConfig.load(NPU))
        # Weights that were trained for a depth lie on its grid: more bits would cost cycles and change nothing.
        weights = {
            node.name: LayerDepths(weight=DEPTHS[1])
            for node in self.base.nodes
            if self.is_tuned and node.op == CONVOLUTION
        }
        return DepthSearch(self._quantizer, self.profile, self._costs, meter, judge, weights)

    @cached_property
    def profile(self) -> SensitivityProfile:
        """Sensitivities of the layers."""
        return analyse(self.base, self._calibration, self._analysed, labels=self._labels)

    @cached_property
    def base(self) -> Graph:
        """The float network that is quantised: trained on for 4 bits, or as it is, equalised."""
        if self.is_tuned:
            return prepare(import_onnx(self.tuned))
        return equalise(self.graph, inputs(self.graph, self.data.calibration))

    @cached_property
    def _calibration(self) -> Calibration:
        return calibrate(self.base, inputs(self.base, self.data.calibration))

    @cached_property
    def _costs(self) -> dict[Uniform, Costs]:
        config = NpuConfig.load(NPU)
        return uniform_costs(self._quantizer, config, cycle_model(config))

    @property
    def _reference_cycles(self) -> float:
        return total(self._costs[8, 8])[CYCLES]

    @property
    def _analysed(self) -> dict[str, np.ndarray]:
        return inputs(self.base, self.data.calibration[:ANALYSED_SAMPLES])

    @property
    def _labels(self) -> np.ndarray | None:
        return self.data.calibration.labels[:ANALYSED_SAMPLES] if self.recipe.metric == "accuracy" else None

    @cached_property
    def _quantizer(self) -> Quantizer:
        return Quantizer(self.base, self._calibration)

    @property
    def tuned(self) -> Path:
        """The file of the network that was trained on, made if it is older than the float network."""
        source = MODELS / f"{self.name}.onnx"
        if not self.tuned_path.exists() or self.tuned_path.stat().st_mtime < source.stat().st_mtime:
            print(f"{self.name}: fine-tuning on {len(self.data.train)} samples", flush=True)
            self.tuned_path.parent.mkdir(parents=True, exist_ok=True)
            write_onnx(tune(self.graph, self.recipe, self.data), self.tuned_path)
        return self.tuned_path

    @cached_property
    def float_value(self) -> float:
        """The float network's worth on held-out data."""
        return self._worth(execute(self.graph, inputs(self.graph, self.data.test)))

    @cached_property
    def uniform(self) -> dict[str, Any]:
        """Worth and cycles where all layers have the same depths: 8 bits of the float network, and 4 of the tuned."""
        networks = {"W8A8": self._quantized(self.graph, 8), "W4A4": self._quantized(self.base, 4)}
        return {
            label: {"value": round(self.value(network), 4), "cycles": cycles(network)}
            for label, network in networks.items()
        }

    def value(self, network: QuantizedNetwork) -> float:
        """A quantised network's worth on held-out data, on the golden model."""
        return self._worth(execute_quantized(network, inputs(self.graph, self.data.test)))

    def _quantized(self, graph: Graph, depth: int) -> QuantizedNetwork:
        return quantize(graph, calibrate(graph, inputs(graph, self.data.calibration)), depth, depth)

    def _worth(self, outputs: dict[str, np.ndarray]) -> float:
        (values,) = outputs.values()
        return METRICS[self.recipe.metric](values, self.data.test)


def depth_counts(network: QuantizedNetwork) -> dict[str, int]:
    """How many operations have which depths, by labels such as W4A8; without weights A8."""
    counts: dict[str, int] = {}
    for operation in network.operations:
        weight = getattr(operation, "weight_depth", None)
        label = ("" if weight is None else f"W{weight}") + f"A{network.tensors[operation.output].depth}"
        counts[label] = counts.get(label, 0) + 1
    return counts


def cycles(network: QuantizedNetwork) -> int:
    """Cycles of one inference, by the cycle model."""
    return int(total(cycle_model(NpuConfig.load(NPU))(network))[CYCLES])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, default=MODELS / "mixed", help="folder to write to (default: models/mixed)")
    add("--network", action="append", choices=sorted(BUDGETS), help="only this one; may be repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with exit_on_error():
        for name in arguments.network or BUDGETS:
            mixer = Mixer(name, arguments.output)
            for percent in BUDGETS[name]:
                mixer.make(percent)


if __name__ == "__main__":
    main()
