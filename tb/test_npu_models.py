"""Trained networks on the whole NPU, golden = stream model = RTL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agreement import assert_programs_agree

from tessera.compiler import calibrate, import_onnx, prepare, quantize
from tessera.compiler.graph import Graph
from tessera.firmware.cosimulation import Integers, Options
from tessera.firmware.inference import CompiledNetwork, compile_network
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator

pytestmark = pytest.mark.cosim

ROOT = Path(__file__).resolve().parent.parent
UNIFORM_DEPTHS = [(8, 8), (4, 4), (8, 6), (4, 16)]


def _noise(graph: Graph, samples: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.random((samples, *graph.shapes[name][1:])) for name in graph.inputs}


def _compile(path: Path, weight_depth: int, activation_depth: int, config: NpuConfig) -> CompiledNetwork:
    graph = prepare(import_onnx(path))
    calibration = calibrate(graph, _noise(graph, 8))
    return compile_network(quantize(graph, calibration, activation_depth, weight_depth), config)


def _samples(network: CompiledNetwork, count: int) -> Integers:
    rng = np.random.default_rng(4)
    return {
        name: rng.integers(tensor.type.range[0], tensor.type.range[1] + 1, (count, *tensor.type.shape))
        for name, tensor in network.program.inputs.items()
    }


def _agree(path: Path, depths: list[tuple[int, int]], config: NpuConfig, options: Options) -> None:
    cases = {}
    for weight_depth, activation_depth in depths:
        network = _compile(path, weight_depth, activation_depth, config)
        name = f"{path.stem} W{weight_depth}A{activation_depth}"
        cases[name] = (network.integer, network.program, _samples(network, 1))
    assert_programs_agree(config, cases, options)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp", "digits_resnet"])
def test_shipped_networks(name: str) -> None:
    """Every shipped network at uniform and mixed depths."""
    _agree(ROOT / "models" / f"{name}.onnx", UNIFORM_DEPTHS, NpuConfig.preset("edge"), Options())


@pytest.mark.slow
def test_shipped_network_on_icarus() -> None:
    """A trained network in the second simulator, on the smallest preset."""
    path = ROOT / "models" / "digits_mlp.onnx"
    _agree(path, [(8, 8), (4, 4)], NpuConfig.preset("tiny"), Options(simulator=Simulator.ICARUS))
