"""What a data set consists of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Samples and the class of each.

    Attributes
    ----------
    images : float32 array of shape (N, *shape of a sample*): (C, H, W), or (F,) where a sample is no map
    labels : int64 array of shape (N,), values 0..classes-1; of anomalies 1, else 0
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice | npt.NDArray[np.integer]) -> LabelledImages:
        return LabelledImages(self.images[part], self.labels[part])


@dataclass(frozen=True, eq=False)
class EvaluationSplit:
    """What a trained network is quantised with and measured on.

    Attributes
    ----------
    calibration : samples like those of training, for choosing the scales of a quantised network
    test : held out; shares no sample with training or ``calibration``
    """

    calibration: LabelledImages
    test: LabelledImages


@dataclass(frozen=True, eq=False)
class DatasetSplit(EvaluationSplit):
    """A data set in its three parts.

    Attributes
    ----------
    train : what weights are trained on; ``calibration`` is a part of it
    """

    train: LabelledImages


def missing_package(data: str, package: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error that says which extra brings the package that holds some data."""
    sentence = f"The {data} need {package}: install it with `pip install tessera-npu[data]`."
    return ModuleNotFoundError(sentence, name=error.name)
