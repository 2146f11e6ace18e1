"""Networks on the co-simulated RTL, as the benchmark runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tessera.cli.console import ResultError
from tessera.compiler import QuantizedNetwork, calibrate, import_onnx, prepare, quantize
from tessera.compiler.graph import Graph
from tessera.compiler.refinements import NO_REFINEMENTS
from tessera.firmware.cosimulation import Inferences, Options, run_program
from tessera.firmware.inference import CompiledNetwork, compile_network
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.evaluate import evaluate

ROOT = Path(__file__).resolve().parents[2]
CALIBRATION_SAMPLES = 16
SEED = 1


def compile_file(path: Path, weight_depth: int, activation_depth: int) -> CompiledNetwork:
    """A network as `quantize_seeded` makes it, for ``edge``."""
    return compile_network(quantize_seeded(path, weight_depth, activation_depth), NpuConfig.preset("edge"))


def quantize_seeded(path: Path, weight_depth: int, activation_depth: int) -> QuantizedNetwork:
    """Quantised with seeded noise and to the nearest weights, since cycles do not depend on the data."""
    graph = prepare(import_onnx(path))
    calibration = calibrate(graph, _noise(graph))
    return quantize(graph, calibration, activation_depth, weight_depth, refinements=NO_REFINEMENTS)


def seeded_file(name: str, model: onnx.ModelProto) -> Path:
    """Writes a network of seeded weights where the benchmark keeps such files."""
    path = ROOT / "build" / "bench" / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def _noise(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(SEED)
    return {name: rng.random((CALIBRATION_SAMPLES, *graph.shapes[name][1:])) for name in graph.inputs}


def run_samples(network: CompiledNetwork, samples: int, options: Options) -> Inferences:
    """Runs random inputs; a result that is not the golden model's ends the benchmark."""
    rng = np.random.default_rng(SEED)
    inputs = {
        name: rng.integers(tensor.type.range[0], tensor.type.range[1] + 1, (samples, *tensor.type.shape))
        for name, tensor in network.program.inputs.items()
    }
    inferences = run_program(network.program, inputs, options)
    golden = evaluate(network.integer, inputs)
    for name, values in inferences.outputs.items():
        if not np.array_equal(values, golden[name]):
            raise ResultError(f"{network.program.name}: the RTL's output {name} differs from the golden model's")
    return inferences
