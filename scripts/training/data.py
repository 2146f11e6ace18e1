"""The data that networks are trained on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from tessera.compiler.datasets import DatasetSplit, LabelledImages, load_split
from tessera.compiler.datasets.keywords import KEYWORDS_FILE
from tessera.compiler.datasets.photographs import load_photographs_training
from training.keywords import load_or_make_keywords
from training.record import write_atomically


def load_training_data(name: str, cache: Path) -> DatasetSplit:
    """A data set with its training part; that of the keywords is spoken in a few minutes and kept in the
    folder ``cache``.

    Raises
    ------
    FileNotFoundError
        The synthesiser is not installed, or the repository's file is missing.
    ModuleNotFoundError
        A package that holds the data is not installed.
    ValueError
        What is made here differs from what the repository holds: another version of the synthesiser spoke.
    """
    split = load_split(name)
    if isinstance(split, DatasetSplit):
        return split
    train = load_photographs_training() if name == "photographs" else _keywords_training(cache)
    if not np.array_equal(train.images[: len(split.calibration)], split.calibration.images):
        raise ValueError(
            f"The data set {name!r} that was made here differs from what the network is calibrated with; if another "
            f"version of espeak-ng spoke, write {KEYWORDS_FILE} anew with --write-data."
        )
    return DatasetSplit(split.calibration, split.test, train)


def _keywords_training(cache: Path) -> LabelledImages:
    arrays = load_or_make_keywords(cache)
    samples = arrays["train_samples"].astype(np.float32) * np.float32(arrays["step"])
    return LabelledImages(samples, arrays["train_labels"].astype(np.int64))


def write_shipped_data(cache: Path) -> None:
    """Write what the repository holds of the spoken keywords: all but the training part."""
    arrays = {key: value for key, value in load_or_make_keywords(cache).items() if not key.startswith("train_")}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    KEYWORDS_FILE.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(KEYWORDS_FILE, content.getvalue())
