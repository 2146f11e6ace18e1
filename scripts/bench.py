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
    use of the multipliers, and the error of the cycle model. For the networks of MLPerf Tiny the floors are the cycles
    that Arm's Vela 5.2.0 estimates for an Ethos-U55-128, which has as many multipliers at 8 bits, in its faster memory
    mode (``Sram_Only``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import topologies
import typer

from tessera.cli.app import exit_on_error
from tessera.cli.console import ResultError, UsageError, console, print_table, write_json
from tessera.cli.options import JsonOption
from tessera.compiler import calibrate, import_onnx, prepare, quantize
from tessera.compiler.graph import Graph
from tessera.firmware.cosimulation import Inferences, Options, run_program
from tessera.firmware.inference import CompiledNetwork, compile_network, ideal_cycles, operation_cycles
from tessera.firmware.timeline import instruction_times, operation_times
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import predict
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import Convolution

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


@dataclass(frozen=True)
class Peer:
    """What is to be beaten on a network.

    Attributes
    ----------
    cycles
        The peer's cycles.
    aims
        Ours, for each of ``DEPTHS``.
    """

    cycles: int
    aims: tuple[int, int]


PEERS = {
    "ic_resnet8": Peer(184_083, (110_000, 46_000)),
    "vww_mobilenetv1_025_96": Peer(210_256, (126_000, 52_500)),
    "kws_dscnn": Peer(87_678, (52_000, 21_900)),
    "ad_autoencoder": Peer(40_929, (24_000, 10_200)),
}


def measure_cycles() -> Iterator[Row]:
    """The group ``cycles``."""
    for path in _network_files():
        peer = PEERS.get(path.stem)
        errors = []
        for index, (weight_depth, activation_depth) in enumerate(DEPTHS):
            network = _compile(path, weight_depth, activation_depth)
            program = network.program
            inferences = _run(network, 1, Options())
            cycles = inferences.runs[0].cycles
            errors.append(predict(program.instructions, program.config).total / cycles - 1)
            mode = f"{path.stem}/w{weight_depth}a{activation_depth}"
            floor, aim = (peer.cycles - 1, peer.aims[index]) if peer else (None, None)
            yield Row(f"cycles/{mode}", cycles, "cycles", "lower", floor, aim)
            yield Row(
                f"utilization/{mode}",
                round(ideal_cycles(network.integer, program.config) / cycles, 3),
                "ratio",
                "higher",
            )
            if (path.stem, activation_depth) == ("ic_resnet8", 8):
                share = _kernel_utilization(network, inferences, (3, 3))
                yield Row("utilization/ic_resnet8/conv3x3", round(share, 3), "ratio", "higher", aim=0.9)
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
    """The shipped networks, and those of the MLPerf Tiny benchmark: one of seeded weights, and what lies beside the
    project."""
    shipped = sorted((ROOT / "models").glob("*.onnx"))
    visual_wake_words = ROOT / "build" / "bench" / "vww_mobilenetv1_025_96.onnx"
    visual_wake_words.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(topologies.mobilenet_v1(), visual_wake_words)
    peers = [ROOT.parent / "shared" / "models" / f"{name}.onnx" for name in PEERS]
    return [*shipped, *(path for path in peers if path.is_file()), visual_wake_words]


def _kernel_utilization(network: CompiledNetwork, inferences: Inferences, kernel: tuple[int, int]) -> float:
    """Share of the multipliers that the convolutions with a kernel use while they run."""
    program = network.program
    times = operation_times(program, *instruction_times(program, inferences.trace))
    operations = {operation.name: operation for operation in network.integer.operations}
    ideal = spent = 0.0
    for time in times:
        operation = operations[time.operation]
        if isinstance(operation, Convolution) and operation.kernel == kernel:
            ideal += operation_cycles(network.integer, operation, program.config)
            spent += time.cycles
    return ideal / spent


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
