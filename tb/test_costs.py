"""Costs that are measured on the RTL, beside those of the cycle model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_networks import residual_network

from tessera.compiler import calibrate, import_onnx, prepare, quantize
from tessera.compiler.mixed_precision import CYCLES, DRAM_BYTES, WEIGHT_BYTES, cycle_model, total
from tessera.firmware.costs import measured
from tessera.rtl.config import NpuConfig

pytestmark = pytest.mark.cosim


def test_measured_costs(tmp_path: Path) -> None:
    """Every operation has its own; cycles are those of the model within its error, bytes are the same."""
    net, output = residual_network(np.random.default_rng(0))
    graph = prepare(import_onnx(net.save(tmp_path / "net.onnx", output)))
    data = {"x": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)}
    network = quantize(graph, calibrate(graph, data), 8, 4)
    config = NpuConfig.preset("tiny")
    real, model = measured(config)(network), cycle_model(config)(network)
    assert list(real) == list(model)
    for name, costs in real.items():
        assert costs[CYCLES] == pytest.approx(model[name][CYCLES], rel=0.15, abs=40), name
        assert (costs[WEIGHT_BYTES], costs[DRAM_BYTES]) == (model[name][WEIGHT_BYTES], model[name][DRAM_BYTES])
    assert total(real)[CYCLES] == pytest.approx(total(model)[CYCLES], rel=0.1)
