"""The losses of :mod:`tessera.compiler.sensitivity.loss` with derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tessera.compiler.sensitivity.loss import SMALLEST_PROBABILITY, CrossEntropy, Loss, SquaredError
from tessera.compiler.torch_extra import load_torch

if TYPE_CHECKING:
    from torch import Tensor


def torch_loss(loss: Loss, outputs: Mapping[str, Tensor], samples: np.ndarray) -> Tensor:
    """The mean loss (a scalar) of outputs (samples, ...) by name of the samples with these indices.

    Raises
    ------
    CompilerError
        PyTorch is not installed.
    """
    torch = load_torch()
    if isinstance(loss, CrossEntropy):
        values = outputs[loss.output].reshape(len(samples), -1)
        if loss.probabilities:
            logarithms = values.clamp(min=max(SMALLEST_PROBABILITY, torch.finfo(values.dtype).tiny)).log()
        else:
            logarithms = torch.log_softmax(values, dim=1)
        return -(torch.as_tensor(loss.targets[samples], dtype=values.dtype) * logarithms).sum(dim=1).mean()
    assert isinstance(loss, SquaredError)
    errors = []
    for name, power in loss.power.items():
        values = outputs[name].reshape(len(samples), -1)
        reference = torch.as_tensor(loss.reference[name][samples], dtype=values.dtype)
        errors.append((values - reference.reshape(values.shape)).square().mean() / power)
    return torch.stack(errors).sum()
