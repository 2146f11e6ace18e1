"""Labelled images for calibrating and measuring the shipped networks.

Images are float32 arrays in NCHW order with values 0..1, labels are int64 class numbers. Every split is
fixed: the same call gives the same images in the same order on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_DIGITS_MAXIMUM = 16.0  # brightest pixel value of the data set
_DIGITS_TEST_IMAGES = 540  # 30 % of 1797
_DIGITS_CALIBRATION_IMAGES = 256
_DIGITS_SPLIT_SEED = 20


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and the class of each.

    Attributes
    ----------
    images : float32 array of shape (N, C, H, W), values 0..1
    labels : int64 array of shape (N,), values 0..classes-1
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class DatasetSplit:
    """A data set in its three parts.

    Attributes
    ----------
    train : what weights are trained on
    calibration : a subset of ``train``, for choosing the scales of a quantised network
    test : held out; shares no image with ``train``
    """

    train: LabelledImages
    calibration: LabelledImages
    test: LabelledImages


def load_digits_split() -> DatasetSplit:
    """Load scikit-learn's handwritten digits: 1797 images of shape (1, 8, 8) in 10 classes.

    Of a fixed shuffle, the first 540 images are ``test``, the other 1257 are ``train``, and the first 256 of
    those are ``calibration``. The pixel values 0..16 of the data set are divided by 16, which is exact in
    float32. The data set does not say who wrote a digit, so the parts may share writers.

    Raises
    ------
    ModuleNotFoundError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The digits data set needs scikit-learn: install it with `pip install tessera-npu[data]`.",
            name=error.name,
        ) from error
    digits = load_digits()
    images = (digits.images / _DIGITS_MAXIMUM).astype(np.float32)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    # RandomState rather than default_rng: numpy promises that its sequence never changes.
    order = np.random.RandomState(_DIGITS_SPLIT_SEED).permutation(len(labels))
    test, train = np.split(order, [_DIGITS_TEST_IMAGES])
    calibration = train[:_DIGITS_CALIBRATION_IMAGES]
    return DatasetSplit(*(LabelledImages(images[part], labels[part]) for part in (train, calibration, test)))


DATASETS: dict[str, Callable[[], DatasetSplit]] = {"digits": load_digits_split}
"""Loader of each data set, by the name that ``models/models.json`` uses."""


def load_split(name: str) -> DatasetSplit:
    """Load the data set called ``name``, one of the keys of :data:`DATASETS`.

    Raises
    ------
    ValueError
        If there is no data set of that name.
    ModuleNotFoundError
        If the package that holds the data is not installed.
    """
    if name not in DATASETS:
        raise ValueError(f"Data set must be one of {', '.join(sorted(DATASETS))}, not {name!r}")
    return DATASETS[name]()
