"""The summary of a run: what ``summary.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.firmware.inference import CompiledNetwork, NetworkResult, accuracy, ideal_cycles
from tessera.firmware.timeline import bundles, instruction_times, operation_times
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator
from tessera.sim.counts import Counts


@dataclass(frozen=True)
class NetworkSummary:
    """What a run says of a network.

    Attributes
    ----------
    name, file
        The network and the file it came from.
    bit_exact
        Whether every output integer of every sample equals the golden model's.
    samples
        Number of samples.
    cycles
        Cycles of one inference, start to interrupt: the mean over the samples, rounded.
    macs, mac_utilization
        Multiply-accumulates of one inference, and the share of the lanes' multiplications that they used.
    dram_bytes
        Bytes that one inference moved over the memory bus, code included.
    counts
        What the NPU counted, added over the samples.
    operation_counts
        The same for each operation; operations that share a number (see `Program.operation_numbers`) share their
        counts.
    accuracy, golden_accuracy
        Share of right answers of the RTL and of the golden model, if labels were given.
    bundles
        Measured times of the first sample's operations.
    simulated_cycles, seconds
        Cycles of the whole simulation, and its wall-clock time in seconds.
    """

    name: str
    file: str
    bit_exact: bool
    samples: int
    cycles: int
    macs: int
    mac_utilization: float
    dram_bytes: int
    counts: Counts
    operation_counts: Mapping[str, Counts]
    accuracy: float | None
    golden_accuracy: float | None
    bundles: list[dict[str, Any]]
    simulated_cycles: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The row of ``networks`` in ``summary.json``."""
        row = {
            "name": self.name,
            "file": self.file,
            "bit_exact": self.bit_exact,
            "cycles": self.cycles,
            "macs": self.macs,
            "mac_utilization": round(self.mac_utilization, 4),
            "dram_bytes": self.dram_bytes,
            **asdict(self.counts),
            "samples": self.samples,
            "operations": [{"name": name, **asdict(counts)} for name, counts in self.operation_counts.items()],
        }
        if self.accuracy is not None:
            row |= {"accuracy": self.accuracy, "golden_accuracy": self.golden_accuracy}
        return row


def summarize(path: Path, network: CompiledNetwork, result: NetworkResult, labels: np.ndarray | None) -> NetworkSummary:
    """Summarises a network's results."""
    program, inferences = network.program, result.inferences
    runs, simulation = inferences.runs, inferences.simulation
    cycles = round(sum(run.cycles for run in runs) / len(runs))
    counters = simulation.counters
    times = operation_times(program, *instruction_times(program, inferences.trace))
    return NetworkSummary(
        name=network.quantized.name,
        file=str(path),
        bit_exact=result.bit_exact,
        samples=len(runs),
        cycles=cycles,
        macs=program.macs,
        mac_utilization=ideal_cycles(network.integer, program.config) / cycles,
        dram_bytes=round((counters.npu_read_bytes + counters.npu_write_bytes) / len(runs)),
        counts=sum((run.counts for run in runs), Counts()),
        operation_counts={name: sum(counts, Counts()) for name, counts in inferences.operation_counts.items()},
        accuracy=None if labels is None else accuracy(result.outputs, labels),
        golden_accuracy=None if labels is None else accuracy(result.golden_outputs, labels),
        bundles=bundles(network.quantized, program, times),
        simulated_cycles=simulation.cycles,
        seconds=simulation.seconds,
    )


def run_summary(config: NpuConfig, simulator: Simulator, networks: Sequence[NetworkSummary]) -> dict[str, Any]:
    """The contents of ``summary.json``; networks run one after another, and so do their bundles."""
    cycles = sum(network.simulated_cycles for network in networks)
    seconds = sum(network.seconds for network in networks)
    rows = []
    offset = 0
    for network in networks:
        for bundle in network.bundles:
            rows.append(bundle | {"start": bundle["start"] + offset, "end": bundle["end"] + offset})
        offset += network.cycles
    return {
        "simulator": simulator.value,
        "npu": config.name,
        "cycles": cycles,
        "cycles_per_second": round(cycles / seconds) if seconds else 0,
        "networks": [network.to_json() for network in networks],
        "bundles": rows,
    }
