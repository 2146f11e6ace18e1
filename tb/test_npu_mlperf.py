"""Networks of MLPerf Tiny, where their files lie beside the project: bit-exact on the RTL, near the float ones.

Inputs are noise of the size that the real ones have, so this says nothing about accuracy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from agreement import assert_programs_agree

from tessera.compiler import calibrate, import_onnx, prepare, quantize
from tessera.compiler.calibrate import Calibration
from tessera.compiler.float_execution import run_node
from tessera.compiler.graph import Graph
from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork
from tessera.compiler.quantized_execution import execute_quantized
from tessera.firmware.cosimulation import Options
from tessera.firmware.inference import compile_network
from tessera.rtl.config import NpuConfig

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "models"

INPUTS = {"ic_resnet8": (0.0, 255.0), "kws_dscnn": (-72.0, 25.0), "ad_autoencoder": (-12.0, 3.0)}
"""Range of the inputs of each network."""

DEPTHS = [(8, 4), (8, 6), (8, 8), (8, 16), (4, 4)]
"""(weight depth, activation depth)."""

MOST_EXCESS = 4.0
"""By how much the power of the error may exceed the expected one: 6 dB, since the errors of a few outputs of a few
samples are no average, and steps of 4 bits are no independent noise."""

each_network = pytest.mark.parametrize("name", INPUTS)


def without_softmax(name: str, folder: Path) -> Path:
    """The network up to its last linear operation, where an error is not hidden by a certain answer."""
    source = FOLDER / f"{name}.onnx"
    if not source.is_file():
        pytest.skip(f"{source.name} of the MLPerf Tiny benchmark is not there")
    model = onnx.load(source)
    if model.graph.node[-1].op_type == "Softmax":
        model.graph.output[0].name = model.graph.node.pop().input[0]
    onnx.save(model, folder / source.name)
    return folder / source.name


def samples_of(name: str, graph: Graph, count: int, seed: int) -> dict[str, np.ndarray]:
    """Noise of the right size."""
    rng = np.random.default_rng(seed)
    shapes = {key: (count, *graph.shapes[key][1:]) for key in graph.inputs}
    return {key: rng.uniform(*INPUTS[name], shape).astype(np.float32) for key, shape in shapes.items()}


def prepared(name: str, folder: Path) -> tuple[Path, Graph, Calibration]:
    """File, graph and calibration of a network."""
    path = without_softmax(name, folder)
    graph = prepare(import_onnx(path))
    return path, graph, calibrate(graph, samples_of(name, graph, 16, seed=1))


@pytest.mark.cosim
@pytest.mark.slow
@each_network
def test_bit_exact_at_every_uniform_depth(name: str, tmp_path: Path) -> None:
    _, graph, calibration = prepared(name, tmp_path)
    config = NpuConfig.preset("edge")
    cases = {}
    for weight_depth, activation_depth in DEPTHS:
        network = compile_network(quantize(graph, calibration, activation_depth, weight_depth), config)
        rng = np.random.default_rng(4)
        inputs = {
            key: rng.integers(tensor.type.range[0], tensor.type.range[1] + 1, (1, *tensor.type.shape))
            for key, tensor in network.program.inputs.items()
        }
        cases[f"{name} W{weight_depth}A{activation_depth}"] = network.integer, network.program, inputs
    assert_programs_agree(config, cases, Options())


def noisy_weights(graph: Graph, network: QuantizedNetwork, rng: np.random.Generator) -> Graph:
    """The graph with weights that are wrong by up to half of a step, at random."""
    noisy = graph.copy()
    for operation in network.operations:
        if isinstance(operation, QuantizedConvolution):
            node = next(node for node in graph.nodes if node.name == operation.name)
            weights = graph.constants[node.inputs[1]]
            steps = operation.weight_scales.reshape(-1, *[1] * (weights.ndim - 1))
            noisy.constants[node.inputs[1]] = weights + steps * rng.uniform(-0.5, 0.5, weights.shape)
    return noisy


def execute_with_noise(
    graph: Graph, network: QuantizedNetwork, inputs: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """The output if every rounding were independent noise: weights and activations are wrong by up to half a step.

    Activations are also limited to what their depth can hold, as the quantised ones are.
    """
    graph = noisy_weights(graph, network, rng)
    values = {name: inputs[name].astype(np.float64) for name in graph.inputs}
    values = {name: value.reshape(len(value), *graph.shapes[name]) for name, value in values.items()}
    for node in [None, *graph.nodes]:
        if node is not None:
            run_node(graph, node, values, np.float64)
        for name in graph.inputs if node is None else node.outputs:
            if name in network.tensors:
                tensor = network.tensors[name]
                noise = tensor.scale * rng.uniform(-0.5, 0.5, values[name].shape)
                low, high = (limit * tensor.scale for limit in tensor.type.range)
                values[name] = np.clip(values[name] + noise, low, high)
    return values[graph.outputs[0]]


@pytest.mark.slow
@each_network
def test_error_is_that_of_rounding(name: str, tmp_path: Path) -> None:
    """The golden model differs from onnxruntime's float result by what the rounding of all tensors explains."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path, graph, calibration = prepared(name, tmp_path)
    inputs = samples_of(name, graph, 8, seed=2)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (key,) = graph.inputs
    exact = np.concatenate([session.run(None, {key: sample[np.newaxis]})[0] for sample in inputs[key]])
    exact = exact.reshape(len(exact), -1)
    for weight_depth, activation_depth in DEPTHS:
        network = quantize(graph, calibration, activation_depth, weight_depth)
        found = execute_quantized(network, inputs)[graph.outputs[0]].reshape(exact.shape)
        trials = [execute_with_noise(graph, network, inputs, np.random.default_rng(seed)) for seed in range(3)]
        expected = np.mean([(trial.reshape(exact.shape) - exact) ** 2 for trial in trials])
        error = np.mean((found - exact) ** 2)
        text = f"W{weight_depth}A{activation_depth}: {snr(exact, error):.1f} dB, expected {snr(exact, expected):.1f} dB"
        assert error <= MOST_EXCESS * expected, text
        print(text)


def snr(signal: np.ndarray, error: float) -> float:
    """Power of a signal's variation over that of an error, in dB."""
    return 10 * np.log10(signal.var() / error)
