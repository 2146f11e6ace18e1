"""The group ``sim_speed``: clock cycles per second of the co-simulation, and how long a large network takes."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark import topologies
from benchmark.rows import Row
from benchmark.runs import ROOT, compile_file, run_samples, seeded_file
from tessera.firmware.cosimulation import Options

NETWORK = "digits_resnet"
SAMPLES = 200
STOCK_SAMPLES = 20

LARGE_NETWORK = "resnet18_224"
LARGE_AIM = 300
"""Seconds of an inference of the large network."""


def measure_sim_speed() -> Iterator[Row]:
    """The group ``sim_speed``."""
    network = compile_file(ROOT / "models" / f"{NETWORK}.onnx", 8, 8)
    fast = run_samples(network, SAMPLES, Options()).simulation.cycles_per_second
    stock = run_samples(network, STOCK_SAMPLES, Options(stock=True)).simulation.cycles_per_second
    yield Row("sim_speed/edge", round(fast), "cycles/s", "higher", floor=150_000)
    yield Row("sim_speed/edge_stock", round(stock), "cycles/s", "higher")
    yield Row("sim_speed/over_stock", round(fast / stock, 2), "ratio", "higher", floor=4.0)
    yield from _large_network()


def _large_network() -> Iterator[Row]:
    """One inference of ResNet-18 at 224 x 224, W8A8, most of whose maps pass through DRAM."""
    network = compile_file(seeded_file(LARGE_NETWORK, topologies.resnet18()), 8, 8)
    simulation = run_samples(network, 1, Options()).simulation
    seconds, name = simulation.seconds, f"sim_speed/{LARGE_NETWORK}"
    yield Row(name, round(seconds, 1), "s", "lower", aim=LARGE_AIM)
    yield Row(f"{name}/cycles", simulation.cycles, "cycles", "lower")
    yield Row(f"{name}/macs_per_second", round(network.integer.macs / seconds), "MACs/s", "higher")
