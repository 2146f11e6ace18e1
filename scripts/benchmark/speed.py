"""The group ``sim_speed``: clock cycles per second of the co-simulation."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.rows import Row
from benchmark.runs import ROOT, compile_file, run_samples
from tessera.firmware.cosimulation import Options

NETWORK = "digits_resnet"
SAMPLES = 200
STOCK_SAMPLES = 20


def measure_sim_speed() -> Iterator[Row]:
    """The group ``sim_speed``."""
    network = compile_file(ROOT / "models" / f"{NETWORK}.onnx", 8, 8)
    fast = run_samples(network, SAMPLES, Options()).simulation.cycles_per_second
    stock = run_samples(network, STOCK_SAMPLES, Options(stock=True)).simulation.cycles_per_second
    yield Row("sim_speed/edge", round(fast), "cycles/s", "higher", floor=150_000)
    yield Row("sim_speed/edge_stock", round(stock), "cycles/s", "higher")
    yield Row("sim_speed/over_stock", round(fast / stock, 2), "ratio", "higher", floor=4.0)
