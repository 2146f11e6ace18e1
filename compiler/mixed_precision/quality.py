"""How good a quantised network's results are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tessera.compiler.float_execution import execute
from tessera.compiler.graph import Graph
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.quantized_execution import execute_quantized
from tessera.compiler.sensitivity.loss import is_distribution, make_loss

_BATCH = 64
"""Samples that are computed at once; bounds the memory."""


@dataclass(frozen=True)
class Quality:
    """What results are worth.

    Attributes
    ----------
    points
        0 to 100: the share of right classes; without labels the share of samples that get the float network's class; of
        a network that is no classifier the share of its outputs' power that is not error, which may be negative.
    loss
        Mean loss; see `tessera.compiler.sensitivity.make_loss`.
    """

    points: float
    loss: float


class Judge:
    """Compares quantised networks with the float network that they come from.

    Parameters
    ----------
    graph
        The float network, before or after preparation.
    data
        For each input an array (samples, *rest of its shape*).
    labels
        The right classes of the samples, or ``None``.

    Raises
    ------
    CompilerError
        The data do not fit the network, or its outputs are not finite.
    """

    def __init__(self, graph: Graph, data: Mapping[str, np.ndarray], labels: np.ndarray | None = None):
        self._data = {name: np.asarray(data[name]) for name in graph.inputs}
        self._samples = len(next(iter(self._data.values())))
        reference = self._batched(lambda batch: execute(graph, batch))
        self._reference = {name: values.astype(np.float64) for name, values in reference.items()}
        self._loss = make_loss(self._reference, labels)
        self._classes = labels
        first = _rows(next(iter(reference.values())))
        if labels is None and len(reference) == 1 and is_distribution(first):
            self._classes = first.argmax(axis=1)
        self.reference = self._quality(self._reference)

    def __call__(self, network: QuantizedNetwork) -> Quality:
        """The quality of a quantised network, on the golden model."""
        return self._quality(self._batched(lambda batch: execute_quantized(network, batch)))

    def _quality(self, outputs: Mapping[str, np.ndarray]) -> Quality:
        exact = {name: values.astype(np.float64) for name, values in outputs.items()}
        loss = self._loss({name: exact[name].reshape(self._reference[name].shape) for name in exact}, self._everything)
        return Quality(100 * self._share(exact), loss)

    @property
    def _everything(self) -> np.ndarray:
        return np.arange(self._samples)

    def _share(self, outputs: Mapping[str, np.ndarray]) -> float:
        if self._classes is not None:
            return float((_rows(next(iter(outputs.values()))).argmax(axis=1) == self._classes).mean())
        error = sum(np.square(_rows(outputs[name]) - _rows(values)).sum() for name, values in self._reference.items())
        power = sum(np.square(values).sum() for values in self._reference.values())
        return float(1 - error / power) if power > 0 else 1.0

    def _batched(self, run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        parts = [
            run({name: values[start : start + _BATCH] for name, values in self._data.items()})
            for start in range(0, self._samples, _BATCH)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)
