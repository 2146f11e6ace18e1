"""The group ``cycles``: one inference of each network on the RTL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark import topologies
from benchmark.rows import Row
from benchmark.runs import ROOT, compile_file, run_samples, seeded_file
from tessera.cli.console import console
from tessera.firmware.cosimulation import Inferences, Options
from tessera.firmware.inference import CompiledNetwork, ideal_cycles, operation_cycles
from tessera.firmware.timeline import instruction_times, operation_times
from tessera.sim.cycles import predict
from tessera.sim.golden.network import Convolution

DEPTHS = ((8, 8), (4, 4))
"""(weight depth, activation depth)."""


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
            network = compile_file(path, weight_depth, activation_depth)
            program = network.program
            inferences = run_samples(network, 1, Options())
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


def _network_files() -> list[Path]:
    """The shipped networks, and those of the MLPerf Tiny benchmark: one of seeded weights, and what lies beside the
    project."""
    shipped = sorted((ROOT / "models").glob("*.onnx"))
    visual_wake_words = seeded_file("vww_mobilenetv1_025_96", topologies.mobilenet_v1())
    peers = [ROOT.parent / "shared" / "models" / f"{name}.onnx" for name in PEERS if name != visual_wake_words.stem]
    for path in peers:
        if not path.is_file():
            console.print(f"{path} is absent: {path.stem} is not measured")
    return [*shipped, *(path for path in peers if path.is_file()), visual_wake_words]


def _kernel_utilization(network: CompiledNetwork, inferences: Inferences, kernel: tuple[int, int]) -> float:
    """Share of the multipliers that the convolutions with a kernel use while they run."""
    program = network.program
    times = operation_times(program, *instruction_times(program, inferences.trace))
    operations = {operation.name: operation for operation in network.integer.operations}
    ideal = spent = 0.0
    for time in times:
        operation = operations.get(time.operation)  # none for a copy that the compiler has added
        if isinstance(operation, Convolution) and operation.kernel == kernel:
            ideal += operation_cycles(network.integer, operation, program.config)
            spent += time.cycles
    return ideal / spent
