"""``make sim``: the small shipped networks on the RTL, on held-out digits, against the golden model.

Quantises each network of ``models/`` for digits of 8 x 8 pixels at W8A8 and W4A4, compiles it for the ``edge`` preset,
runs it in the co-simulation on the held-out digits, prints a table and writes ``build/sim/summary.json``. Exit status 1
if a single integer differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from json import loads
from pathlib import Path

import numpy as np
import typer
from rich.progress import Progress

from tessera.cli.app import exit_on_error
from tessera.cli.console import ResultError, console, errors, print_table, write_json
from tessera.cli.options import JsonOption, NpuOption, SimulatorOption
from tessera.compiler import calibrate, equalise, import_onnx, prepare, quantize
from tessera.compiler.datasets import LabelledImages, load_digits_split
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import Graph
from tessera.firmware.cosimulation import Options, prepare_simulation
from tessera.firmware.inference import CompiledNetwork, accuracy, compile_network, run_network
from tessera.firmware.summary import NetworkSummary, run_summary, summarize
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator

MODELS = Path(__file__).resolve().parent.parent / "models"
DATASET = "digits"
"""Data of the networks that are run."""

DEPTHS = ((8, 8), (4, 4))
"""(weight depth, activation depth) of the runs."""

PARALLEL_SIMULATIONS = 2


@dataclass(frozen=True)
class Case:
    """A network at one pair of depths, ready to run."""

    name: str
    label: str
    path: Path
    compiled: CompiledNetwork
    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    float_accuracy: float


def main(
    npu: NpuOption = "edge",
    simulator: SimulatorOption = Simulator.VERILATOR,
    samples: int = typer.Option(540, min=1, help="Held-out digits per run; there are 540."),
    json: JsonOption = Path("build/sim/summary.json"),
) -> None:
    """Run the shipped networks on the co-simulated RTL and compare them with the golden model."""
    config = NpuConfig.load(npu)
    console.print(
        f"Tessera {config.name}: {config.macs_per_cycle(8, 8)} MACs per cycle at W8A8, "
        f"{config.macs_per_cycle(4, 4)} at W4A4"
    )
    console.print(f"preparing the simulation with {simulator.value} (the first time takes a few minutes)")
    prepare_simulation(config, Options(simulator=simulator))
    cases = list(_cases(config, samples))
    summaries = _run_all(cases, Options(simulator=simulator))
    _report(cases, summaries)
    write_json(json, run_summary(config, simulator, summaries))
    console.print(f"summary: {json}")
    if not all(summary.bit_exact for summary in summaries):
        raise ResultError("the RTL's results differ from the golden model's; see the table")


def _cases(config: NpuConfig, samples: int) -> Iterator[Case]:
    split = load_digits_split()
    test = LabelledImages(split.test.images[:samples], split.test.labels[:samples])
    for model in loads((MODELS / "models.json").read_text(encoding="utf-8"))["networks"]:
        if model["dataset"] != DATASET:
            continue
        path = MODELS / model["file"]
        graph = prepare(import_onnx(path))
        graph = equalise(graph, _inputs(graph, split.calibration))
        calibration = calibrate(graph, _inputs(graph, split.calibration))
        inputs = _inputs(graph, test)
        float_accuracy = accuracy(execute(graph, inputs, graph.outputs), test.labels)
        for weight_depth, activation_depth in DEPTHS:
            quantized = quantize(graph, calibration, activation_depth, weight_depth)
            label = f"W{weight_depth}A{activation_depth}"
            compiled = compile_network(quantized, config)
            yield Case(model["name"], label, path, compiled, inputs, test.labels, float_accuracy)


def _inputs(graph: Graph, images: LabelledImages) -> dict[str, np.ndarray]:
    """The images in the shape of the network's only input."""
    (name,) = graph.inputs
    return {name: images.images.reshape(len(images), *graph.shapes[name][1:])}


def _run_all(cases: list[Case], options: Options) -> list[NetworkSummary]:
    with (
        Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress,
        ThreadPoolExecutor(PARALLEL_SIMULATIONS) as pool,
    ):
        return list(pool.map(lambda case: _run(case, options, progress), cases))


def _run(case: Case, options: Options, progress: Progress) -> NetworkSummary:
    task = progress.add_task(f"{case.name} {case.label}", total=len(case.labels))
    result = run_network(
        case.compiled, case.inputs, options, lambda report: progress.update(task, completed=report["done"])
    )
    summary = summarize(case.path, case.compiled, result, case.labels)
    return dataclasses.replace(summary, name=f"{case.name}_{case.label.lower()}")


def _report(cases: list[Case], summaries: list[NetworkSummary]) -> None:
    rows = []
    for case, summary in zip(cases, summaries, strict=True):
        rows.append(
            (
                case.name,
                case.label,
                f"{case.float_accuracy:.2%}",
                f"{summary.golden_accuracy:.2%}",
                f"{summary.accuracy:.2%}",
                "yes" if summary.bit_exact else "NO",
                f"{summary.cycles:,}",
                f"{summary.mac_utilization:.1%}",
            )
        )
    print_table(
        ("network", "depths", "float", "quantised", "RTL", "bit-exact", "cycles", "MAC utilisation"),
        rows,
        title=f"\naccuracy on {summaries[0].samples} held-out digits; cycles of one inference",
    )
    speed = sum(s.simulated_cycles for s in summaries) / sum(s.seconds for s in summaries)
    console.print(f"{sum(s.simulated_cycles for s in summaries):,} cycles simulated, {speed:,.0f} per second")


if __name__ == "__main__":
    with exit_on_error():
        typer.run(main)
