"""``make bench``: what the machine reaches, measured in this run.

Prints a table per group and writes ``build/bench/summary.json`` with ``rows: [{name, measured, unit, better, floor?,
aim?, source?}]``. ``--only GROUP`` runs one group. A row below its floor ends the run with exit status 1, after
everything is written.

Groups
------
sim_speed
    Clock cycles per second of the co-simulated ``edge`` preset, and how much faster that is than the same sources
    with the options that cocotb gives Verilator by itself.
cycles
    Cycles of one inference on ``edge`` (DRAM: a bus word per cycle, latency 40 cycles, weights loaded from DRAM), the
    use of the multipliers, and the error of the cycle model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tessera.cli.app import exit_on_error
from tessera.cli.console import ResultError, UsageError, console, print_table, write_json
from tessera.cli.options import JsonOption
from tessera.compiler import calibrate, import_onnx, prepare, quantize
from tessera.compiler.graph import Graph
from tessera.firmware.cosimulation import Inferences, Options, run_program
from tessera.firmware.inference import CompiledNetwork, compile_network, ideal_cycles
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import predict
from tessera.sim.golden.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent
DEPTHS = ((8, 8), (4, 4))
SPEED_NETWORK = "digits_resnet"
SPEED_SAMPLES = 200
STOCK_SAMPLES = 20
CALIBRATION_SAMPLES = 16
SEED = 1


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes
    ----------
    name, measured, unit
        What was measured.
    better
        "lower" or "higher".
    floor, aim
        What must be reached, and what is wanted.
    source
        The command or run the number comes from, if it is not this one.
    """

    name: str
    measured: float
    unit: str
    better: str
    floor: float | None = None
    aim: float | None = None
    source: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the floor is kept."""
        if self.floor is None:
            return True
        return self.measured >= self.floor if self.better == "higher" else self.measured <= self.floor

    def to_json(self) -> dict[str, object]:
        """The row without what it does not have."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def measure_sim_speed() -> Iterator[Row]:
    """The group ``sim_speed``."""
    network = _compile(ROOT / "models" / f"{SPEED_NETWORK}.onnx", *DEPTHS[0])
    fast = _run(network, SPEED_SAMPLES, Options()).simulation.cycles_per_second
    stock = _run(network, STOCK_SAMPLES, Options(stock=True)).simulation.cycles_per_second
    yield Row("sim_speed/edge", round(fast), "cycles/s", "higher", floor=150_000)
    yield Row("sim_speed/edge_stock", round(stock), "cycles/s", "higher")
    yield Row("sim_speed/over_stock", round(fast / stock, 2), "ratio", "higher", floor=4.0)


def measure_cycles() -> Iterator[Row]:
    """The group ``cycles``."""
    for path in _network_files():
        errors = []
        for weight_depth, activation_depth in DEPTHS:
            network = _compile(path, weight_depth, activation_depth)
            program = network.program
            cycles = _run(network, 1, Options()).runs[0].cycles
            errors.append(predict(program.instructions, program.config).total / cycles - 1)
            mode = f"{path.stem}/w{weight_depth}a{activation_depth}"
            yield Row(f"cycles/{mode}", cycles, "cycles", "lower")
            yield Row(
                f"utilization/{mode}",
                round(ideal_cycles(network.integer, program.config) / cycles, 3),
                "ratio",
                "higher",
            )
        worst = max(errors, key=abs)
        yield Row(f"cycle_model_error/{path.stem}", round(abs(worst), 4), "ratio", "lower", aim=0.05)


GROUPS: dict[str, Callable[[], Iterator[Row]]] = {"sim_speed": measure_sim_speed, "cycles": measure_cycles}


def main(
    only: Annotated[
        str | None, typer.Option("--only", help=f"One group: {', '.join(GROUPS)}.", metavar="GROUP")
    ] = None,
    json: JsonOption = ROOT / "build" / "bench" / "summary.json",
) -> None:
    """Measure the machine and print the tables."""
    if only is not None and only not in GROUPS:
        raise UsageError(f"there is no group {only!r}; the groups are {', '.join(GROUPS)}")
    rows: list[Row] = []
    for name in GROUPS if only is None else [only]:
        console.print(f"measuring {name} ...", highlight=False)
        group = list(GROUPS[name]())
        _print_group(name, group)
        rows += group
    write_json(json, {"rows": [row.to_json() for row in rows]})
    console.print(f"summary: {json}", highlight=False, soft_wrap=True)
    missed = [row.name for row in rows if not row.holds]
    if missed:
        raise ResultError(f"below the floor: {', '.join(missed)}")


def _print_group(name: str, rows: list[Row]) -> None:
    texts = [
        (
            row.name,
            f"{row.measured:,}",
            row.unit,
            _text(row.floor),
            _text(row.aim),
            "" if row.holds else "below the floor",
        )
        for row in rows
    ]
    print_table(("row", "measured", "unit", "floor", "aim", ""), texts, title=f"\n{name}")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _network_files() -> list[Path]:
    """The shipped networks, and those of the MLPerf Tiny benchmark that lie beside the project and can be compiled."""
    shipped = sorted((ROOT / "models").glob("*.onnx"))
    peers = [ROOT.parent / "shared" / "models" / name for name in ("ic_resnet8.onnx", "ad_autoencoder.onnx")]
    return [*shipped, *(path for path in peers if path.is_file())]


def _compile(path: Path, weight_depth: int, activation_depth: int) -> CompiledNetwork:
    """Quantised with seeded noise, since cycles do not depend on the data."""
    graph = prepare(import_onnx(path))
    calibration = calibrate(graph, _noise(graph))
    return compile_network(quantize(graph, calibration, activation_depth, weight_depth), NpuConfig.preset("edge"))


def _noise(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(SEED)
    return {name: rng.random((CALIBRATION_SAMPLES, *graph.shapes[name][1:])) for name in graph.inputs}


def _run(network: CompiledNetwork, samples: int, options: Options) -> Inferences:
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


if __name__ == "__main__":
    with exit_on_error():
        typer.run(main)
