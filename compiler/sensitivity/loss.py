"""What the outputs of a network are worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from tessera.compiler.errors import CompilerError

SMALLEST_PROBABILITY = 1e-300
"""Keeps logarithms finite."""


class Loss(ABC):
    """The mean loss of some samples, to be compared with that of the same samples after a change."""

    @abstractmethod
    def __call__(self, outputs: Mapping[str, np.ndarray], samples: np.ndarray) -> float:
        """The mean loss of outputs (float64 arrays (samples, ...) by name) of the samples with these indices."""


class CrossEntropy(Loss):
    """Cross-entropy of a classifier's output against a distribution over its classes.

    Parameters
    ----------
    output
        Name of the output.
    targets
        Probabilities (samples, classes): of the labels, or those of the float network itself.
    probabilities
        Whether the output is probabilities already; else it is their logarithms, up to a constant.

    Attributes
    ----------
    output, targets, probabilities
        The parameters.
    """

    def __init__(self, output: str, targets: np.ndarray, *, probabilities: bool):
        self.output, self.targets, self.probabilities = output, targets, probabilities

    def __call__(self, outputs: Mapping[str, np.ndarray], samples: np.ndarray) -> float:
        values = outputs[self.output].reshape(len(samples), -1)
        logarithms = _log_softmax(values)
        if self.probabilities:
            logarithms = np.log(np.maximum(values, SMALLEST_PROBABILITY))
        return float(-(self.targets[samples] * logarithms).sum(axis=1).mean())


class SquaredError(Loss):
    """Mean squared difference of all outputs from those of the float network, as parts of their mean squares.

    Parameters
    ----------
    reference
        The float network's outputs (samples, ...), by name.

    Attributes
    ----------
    reference
        The parameter.
    power
        Mean square of each output, by name.
    """

    def __init__(self, reference: Mapping[str, np.ndarray]):
        self.reference = reference
        self.power = {name: float(np.mean(np.square(values))) or 1.0 for name, values in reference.items()}

    def __call__(self, outputs: Mapping[str, np.ndarray], samples: np.ndarray) -> float:
        return sum(
            float(np.mean(np.square(outputs[name] - self.reference[name][samples]))) / power
            for name, power in self.power.items()
        )


def make_loss(reference: Mapping[str, np.ndarray], labels: np.ndarray | None = None) -> Loss:
    """The loss that suits a network.

    With labels it is the cross-entropy of the only output. Without, it is the cross-entropy against the float network's
    own probabilities where the only output is a vector of them, else the squared error against its outputs.

    Parameters
    ----------
    reference
        The float network's outputs (samples, ...), by name.
    labels
        int64 array (samples,) of the right classes.

    Raises
    ------
    CompilerError
        There are labels, but not one output of as many classes; or the float network's outputs are not finite.
    """
    for name, values in reference.items():
        if not np.isfinite(values).all():
            raise CompilerError(f"output {name!r} of the float network is not finite; sensitivities mean nothing there")
    (name, values), *others = reference.items()
    vectors = values.reshape(len(values), -1)
    has_probabilities = is_distribution(vectors)
    if labels is None:
        if others or not has_probabilities:
            return SquaredError(reference)
        return CrossEntropy(name, vectors, probabilities=True)
    if others or labels.min() < 0 or labels.max() >= vectors.shape[1]:
        raise CompilerError(
            f"the labels go from {labels.min()} to {labels.max()}, but the network has the outputs "
            f"{', '.join(reference)}, the first with {vectors.shape[1]} values; labels need one output of all classes"
        )
    return CrossEntropy(name, np.eye(vectors.shape[1])[labels], probabilities=has_probabilities)


def is_distribution(vectors: np.ndarray) -> bool:
    """Whether each row of an array (samples, classes) is a distribution, such as a softmax makes it."""
    return bool(np.all(vectors >= 0) and np.allclose(vectors.sum(axis=1), 1, atol=1e-4))


def _log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
