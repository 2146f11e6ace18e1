"""Fine-tuning of the shipped networks for their depths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tessera.compiler import LayerDepths
from tessera.compiler.datasets import DatasetSplit, LabelledImages
from tessera.compiler.fine_tuning import FineTuning, fine_tune
from tessera.compiler.graph import Graph
from training.loop import SEED, shift_some
from training.networks import Recipe

DEPTHS = (4, 4)
"""Depths of activations and weights that networks are tuned for."""

INPUT_DEPTH = 8
"""Depth of inputs: what is lost there cannot be trained back, and the first layers are small."""


SECOND_STAGE = FineTuning(epochs=4, learning_rate=5e-4)
"""How a network is tuned on samples that it was not trained on, where there are any."""


def tune(graph: Graph, recipe: Recipe, data: DatasetSplit) -> Graph:
    """A prepared float network trained on for 4 bits, but for its inputs."""
    tuned = _fine_tune(graph, graph, recipe, data, recipe.fine_tuning)
    if recipe.more is None:
        return tuned
    return _fine_tune(tuned, graph, recipe, replace(data, train=recipe.more()), SECOND_STAGE)


def _fine_tune(graph: Graph, teacher: Graph, recipe: Recipe, data: DatasetSplit, options: FineTuning) -> Graph:
    train = with_shifted(data.train, recipe.shift)
    return fine_tune(
        graph,
        inputs(graph, train),
        inputs(graph, data.calibration),
        *DEPTHS,
        {name: LayerDepths(INPUT_DEPTH) for name in graph.inputs},
        labels=train.labels if recipe.tuned_with_labels else None,
        teacher=teacher,
        options=options,
        progress=lambda epoch, loss: print(f"  epoch {epoch:3}, loss {loss:.5f}", flush=True),
    )


def inputs(graph: Graph, data: LabelledImages) -> dict[str, np.ndarray]:
    """Samples in the shape of a network's only input."""
    (name,) = graph.inputs
    return {name: data.images.reshape(len(data), *graph.shapes[name][1:])}


def with_shifted(data: LabelledImages, limit: int) -> LabelledImages:
    """The images, and where training moves them by up to ``limit`` pixels, as many again, of which some are moved."""
    if not limit:
        return data
    moved = shift_some(torch.from_numpy(data.images), limit, torch.Generator().manual_seed(SEED)).numpy()
    return LabelledImages(np.concatenate([data.images, moved]), np.concatenate([data.labels, data.labels]))
