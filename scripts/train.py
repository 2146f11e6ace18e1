"""Train the shipped float networks and write them as ONNX.

    python scripts/train.py [--output models] [--network NAME ...] [--epochs N] [--write-data]

Every network takes one ``input`` and gives one ``output``, both of batch 1. The files are float32, opset 17; each
BatchNormalization is a node of its own. Beside them, ``models.json`` records what was measured. Training uses a fixed
seed and one thread, so that a repetition with the same PyTorch on the same kind of processor gives the same weights.

The spoken keywords come from espeak-ng. What is needed to quantise and measure their network is shipped in
``models/data``; ``--write-data`` makes it anew.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

try:
    import torch
except ModuleNotFoundError:
    sys.exit("Training needs PyTorch: install it with `pip install tessera-npu[train]`.")
from torch import nn
from training.data import load_training_data, write_shipped_data
from training.loop import SEED, train
from training.networks import RECIPES
from training.onnx_export import to_onnx
from training.record import count_macs, evaluate, record, write_atomically

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "training"


def make_network(name: str, output: Path, epochs: int | None) -> None:
    """Train the network called ``name``, write its file into ``output`` and record what was measured."""
    recipe = RECIPES[name]
    data = load_training_data(recipe.dataset, CACHE)
    epochs = epochs or recipe.epochs
    print(f"{name}: training on {len(data.train)} samples", flush=True)
    network = train(recipe, data.train, epochs)
    if recipe.softmax:
        network.add_module("softmax", nn.Softmax(dim=1))
    input_shape = (1, *data.train.images.shape[1:])
    model = to_onnx(network, name, input_shape)
    content = model.SerializeToString(deterministic=True)
    measured = evaluate(model, recipe.metric, data.test)
    path = output / f"{name}.onnx"
    write_atomically(path, content)
    record(
        output,
        {
            "name": name,
            "file": path.name,
            "dataset": recipe.dataset,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "macs": count_macs(network, input_shape),
            **measured,
            "sha256": hashlib.sha256(content).hexdigest(),
            "made_with": {"torch": torch.__version__, "seed": SEED, "epochs": epochs},
        },
    )
    value = measured[f"test_{recipe.metric}"]
    print(f"{name}: {recipe.metric} {value} on {len(data.test)} held-out samples, {len(content)} bytes in {path}")


def positive_integer(text: str) -> int:
    """Read a command-line count of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "models", help="folder to write to (default: models)")
    add("--epochs", type=positive_integer, help="passes over the training samples (default: each network's own)")
    add("--network", action="append", choices=sorted(RECIPES), help="only this one; may be repeated")
    add("--write-data", action="store_true", help="make the files of models/data anew before")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.write_data:
            write_shipped_data(CACHE)
        for name in arguments.network or RECIPES:
            make_network(name, arguments.output, arguments.epochs)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
