"""Options of the co-simulation that several commands share: its memory and its waveforms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.console import UsageError, check_output
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator
from tessera.sim.cycles import Memory

MAX_LATENCY = 65535
"""Cycles; what the simulated memory can do."""

BandwidthOption = Annotated[
    float | None,
    typer.Option("--bandwidth", help="Of the DRAM.", metavar="BYTES_PER_CYCLE", show_default="that of the bus"),
]
LatencyOption = Annotated[
    int, typer.Option("--latency", min=2, max=MAX_LATENCY, help="Of the DRAM in cycles.", metavar="CYCLES")
]
WavesOption = Annotated[
    Path | None, typer.Option("--waves", help="Waveforms: .vcd (Verilator), .fst (Icarus).", metavar="FILE")
]


def dram(config: NpuConfig, bandwidth: float | None, latency: int) -> Memory:
    """The DRAM of ``--bandwidth`` and ``--latency``; raises `UsageError`."""
    if bandwidth is not None and not 1 / 256 <= bandwidth <= config.beat_bytes:
        raise UsageError(
            f"--bandwidth {bandwidth:g}: the bus of configuration {config.name!r} moves {config.beat_bytes} bytes per "
            f"cycle; give a number from 1/256 to {config.beat_bytes}"
        )
    return Memory(latency, bandwidth)


def simulated_memory(memory: Memory, config: NpuConfig) -> dict[str, float]:
    """The simulated DRAM that is like one of the cycle model."""
    return {
        "read_latency": memory.latency,
        "write_latency": memory.latency,
        "bandwidth": memory.bytes_per_cycle or config.beat_bytes,
    }


def check_waves(waves: Path | None, simulator: Simulator) -> None:
    """Makes the folder of a file of waveforms; raises `UsageError` if the simulator cannot write the file."""
    if waves is None:
        return
    suffix = {Simulator.VERILATOR: ".vcd", Simulator.ICARUS: ".fst"}[simulator]
    if waves.suffix != suffix:
        raise UsageError(f"--waves {waves}: {simulator.value} writes {suffix} files; give a name that ends in {suffix}")
    check_output(waves)
    waves.parent.mkdir(parents=True, exist_ok=True)
