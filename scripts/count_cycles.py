"""Count the cycles of the shipped networks of mixed precision anew, after a change of the compiler or the machine.

    python scripts/count_cycles.py [--output models/mixed]

Cycles do not depend on the weights, so the networks stay as they are (``scripts/mix.py`` makes them), and so does all
else in ``models.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tessera.cli.app import exit_on_error
from tessera.compiler import calibrate, import_onnx, prepare, quantize, read_qonnx
from tessera.compiler.datasets import load_split
from tessera.compiler.mixed_precision import CYCLES, cycle_model, total
from tessera.compiler.quantized import QuantizedNetwork
from tessera.rtl.config import NpuConfig

MODELS = Path(__file__).resolve().parent.parent / "models"

CALIBRATION_SAMPLES = 8
"""Samples for the ranges of uniform networks, on which cycles do not depend."""


def cycles(network: QuantizedNetwork, npu: str) -> int:
    """Cycles of one inference, by the cycle model."""
    return int(total(cycle_model(NpuConfig.load(npu))(network))[CYCLES])


def uniform_cycles(source: str, dataset: str, npu: str) -> dict[str, int]:
    """Cycles of a float network where all layers have 8 or 4 bits."""
    graph = prepare(import_onnx(MODELS / source))
    samples = load_split(dataset).calibration[:CALIBRATION_SAMPLES].images
    calibration = calibrate(graph, dict.fromkeys(graph.inputs, samples))
    return {f"W{depth}A{depth}": cycles(quantize(graph, calibration, depth, depth), npu) for depth in (8, 4)}


def count(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A network's record with its cycles of today."""
    uniform = uniform_cycles(entry["source"], entry["dataset"], entry["npu"])
    spent = cycles(read_qonnx(folder / entry["file"]), entry["npu"])
    return entry | {
        "cycles": spent,
        "cycles_over_w8a8": round(spent / uniform["W8A8"], 4),
        "uniform": {label: each | {"cycles": uniform[label]} for label, each in entry["uniform"].items()},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=MODELS / "mixed", help="the folder (default: models/mixed)")
    folder = parser.parse_args().output
    with exit_on_error():
        path = folder / "models.json"
        records = json.loads(path.read_text(encoding="utf-8"))
        records["networks"] = [count(entry, folder) for entry in records["networks"]]
        path.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        for entry in records["networks"]:
            print(f"{entry['name']}: {entry['cycles']:,} cycles, {entry['cycles_over_w8a8']} of those at W8A8")


if __name__ == "__main__":
    main()
