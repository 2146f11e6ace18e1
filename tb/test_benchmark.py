"""The benchmark's own parts: its options, its rows, and the networks that it makes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import typer
from test_tiling import run_and_compare
from typer.testing import CliRunner

from tessera.cli.console import ResultError, UsageError
from tessera.compiler import calibrate, import_onnx, prepare, quantize, to_integer
from tessera.rtl.config import NpuConfig

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``scripts/bench.py`` as a module."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("bench")


def run(bench: ModuleType, *arguments: object) -> BaseException | None:
    """What the script ends with."""
    application = typer.Typer()
    application.command()(bench.main)
    return CliRunner().invoke(application, list(map(str, arguments))).exception


def test_wrong_options(bench: ModuleType, tmp_path: Path) -> None:
    """They are found before anything is measured."""
    error = run(bench, "--only", "speed")
    assert isinstance(error, UsageError)
    assert str(error).startswith("there is no group 'speed'; the groups are sim_speed, cycles, area")
    assert isinstance(run(bench, "--only", "area", "--json", tmp_path), UsageError)


def test_rows_outlive_a_group_that_fails(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is written, and a row below its floor fails the run."""

    def fails() -> Iterator[object]:
        raise ResultError("a tool is missing")
        yield

    rows = [bench.Row("slow", 5, "cycles", "lower", floor=4), bench.Row("fast", 5, "MHz", "higher", floor=4, aim=6)]
    path = tmp_path / "rows.json"
    monkeypatch.setattr(bench, "GROUPS", {"one": lambda: iter(rows), "two": fails})
    error = run(bench, "--json", path)
    assert (type(error), str(error)) == (ResultError, "a tool is missing")
    written = json.loads(path.read_text())["rows"]
    assert written[0] == {"name": "slow", "measured": 5, "unit": "cycles", "better": "lower", "floor": 4}
    assert written[1]["aim"] == 6
    assert str(run(bench, "--only", "one", "--json", path)) == "below the floor: slow"


@pytest.mark.parametrize(
    ("name", "side", "width", "macs"),
    [("resnet18", 224, 64, 1_814_073_344), ("mobilenet_v1", 96, 0.25, 7_489_664)],
)
def test_networks_have_the_published_size(bench: ModuleType, name: str, side: int, width: float, macs: int) -> None:
    """Multiply-accumulates by the shapes alone."""
    del bench  # sets the path
    topologies = importlib.import_module("benchmark.topologies")
    model = getattr(topologies, name)(side, width)
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {each.name: each.type.tensor_type.shape.dim for each in inferred.graph.value_info}
    weights = {each.name: list(each.dims) for each in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            pixels = math.prod(axis.dim_value for axis in shapes[node.output[0]][2:])
            total += math.prod(weights[node.input[1]]) * pixels
    assert total == macs


def test_resnet18_runs(bench: ModuleType, tmp_path: Path) -> None:
    """A small one, whose maps pass through DRAM: golden model and stream model agree."""
    del bench
    topologies = importlib.import_module("benchmark.topologies")
    path = tmp_path / "net.onnx"
    onnx.save(topologies.resnet18(32, width=8, classes=5), path)
    graph = prepare(import_onnx(path))
    samples = {"input": np.random.default_rng(0).random((2, 3, 32, 32))}
    network = to_integer(quantize(graph, calibrate(graph, samples)))
    config = dataclasses.replace(NpuConfig.preset("tiny"), activation_bank_bytes=2048)
    assert run_and_compare(network, config).streamed
