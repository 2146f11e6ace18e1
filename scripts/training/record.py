"""Measures networks, and keeps their files and ``models.json``."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from tessera.compiler.datasets import LabelledImages
from tessera.compiler.datasets.metrics import METRICS


def count_macs(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one inference in convolutions and matrix multiplications; the first axis is 1."""
    macs = 0

    def add(layer: nn.Conv2d | nn.Linear, _: tuple[Tensor], output: Tensor) -> None:
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    network(torch.zeros(input_shape))
    for hook in hooks:
        hook.remove()
    return macs


def evaluate(model: onnx.ModelProto, metric: str, data: LabelledImages) -> dict[str, Any]:
    """What ``models.json`` says of a network's worth on ``data``, by onnx's reference evaluator."""
    # One batch of all samples: the evaluator does not hold a model to its declared batch of 1.
    outputs = np.asarray(ReferenceEvaluator(model).run(None, {"input": data.images})[0])
    value = METRICS[metric](outputs, data)
    entry = {"metric": metric, "test_samples": len(data), f"test_{metric}": round(value, 4)}
    return entry | ({"test_correct": round(value * len(data))} if metric == "accuracy" else {})


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at ``path``; an interruption leaves the old file or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp lets only the owner read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def record(output: Path, entry: dict[str, Any]) -> None:
    """Put a network's entry into ``models.json``, in place of an earlier one of the same name."""
    path = output / "models.json"
    networks = json.loads(path.read_bytes())["networks"] if path.exists() else []
    networks = [network for network in networks if network["name"] != entry["name"]] + [entry]
    networks.sort(key=lambda network: str(network["name"]))
    write_atomically(path, (json.dumps({"networks": networks}, indent=2) + "\n").encode())
