"""How good a network's outputs are on labelled samples, as a number from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tessera.compiler.datasets.parts import LabelledImages

Metric = Callable[[np.ndarray, LabelledImages], float]
"""From the outputs (samples, ...) for some samples to their worth."""


def accuracy(outputs: np.ndarray, data: LabelledImages) -> float:
    """Share of the samples whose largest output is the right class."""
    return float(np.mean(outputs.reshape(len(data), -1).argmax(axis=1) == data.labels))


def area_under_curve(outputs: np.ndarray, data: LabelledImages) -> float:
    """Share of the pairs of an anomaly (label 1) and a normal sample whose anomaly is reconstructed worse.

    This is the area under the receiver operating characteristic; an equal error counts one half.
    """
    errors = np.square(outputs.reshape(len(data), -1) - data.images.reshape(len(data), -1)).mean(axis=1)
    anomalies, normal = (errors[data.labels == label, np.newaxis] for label in (1, 0))
    return float(np.mean(np.heaviside(anomalies - normal.T, 0.5)))


METRICS: dict[str, Metric] = {"accuracy": accuracy, "auc": area_under_curve}
"""The metrics by the names that ``models/models.json`` uses."""
