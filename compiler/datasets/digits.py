"""scikit-learn's handwritten digits, as they are and enlarged."""

from __future__ import annotations

import numpy as np

from tessera.compiler.datasets.parts import DatasetSplit, LabelledImages
from tessera.compiler.datasets.resize import resize

_MAXIMUM = 16.0  # brightest pixel value of the data set
_TEST_IMAGES = 540  # 30 % of 1797
_CALIBRATION_IMAGES = 256
_SPLIT_SEED = 20
_ENLARGED = (32, 32)
_FLAT = (32, 20)  # 640 values, as many as the features of the MLPerf Tiny benchmark's autoencoder
_NOVEL = 5  # the first digit that is an anomaly


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
    images = (digits.images / _MAXIMUM).astype(np.float32)[:, np.newaxis]
    data = LabelledImages(images, digits.target.astype(np.int64))
    # RandomState rather than default_rng: numpy promises that its sequence never changes.
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(data))
    test, train = np.split(order, [_TEST_IMAGES])
    return DatasetSplit(data[train[:_CALIBRATION_IMAGES]], data[test], data[train])


def load_enlarged_digits_split() -> DatasetSplit:
    """The same digits in the same parts, enlarged to (1, 32, 32) by linear interpolation.

    Raises
    ------
    ModuleNotFoundError
        If scikit-learn is not installed.
    """
    split = load_digits_split()
    return DatasetSplit(*(_enlarged(part, _ENLARGED) for part in (split.calibration, split.test, split.train)))


def load_novel_digits_split() -> DatasetSplit:
    """The same digits for detecting what was never seen: 0 to 4 are normal, 5 to 9 anomalies (label 1).

    Images are enlarged to 32 x 20 pixels and laid out as vectors (640,). The same 540 digits as ever are ``test``;
    ``train`` (628) and ``calibration`` (its first 256) have normal ones alone.

    Raises
    ------
    ModuleNotFoundError
        If scikit-learn is not installed.
    """
    split = load_digits_split()
    train, test = (_enlarged(part, _FLAT) for part in (split.train, split.test))
    train, test = (
        LabelledImages(part.images.reshape(len(part), -1), (part.labels >= _NOVEL).astype(np.int64))
        for part in (train, test)
    )
    normal = train[np.flatnonzero(train.labels == 0)]
    return DatasetSplit(normal[:_CALIBRATION_IMAGES], test, normal)


def _enlarged(part: LabelledImages, size: tuple[int, int]) -> LabelledImages:
    return LabelledImages(resize(part.images, size), part.labels)
