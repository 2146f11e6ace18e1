"""Data for calibrating and measuring the shipped networks.

Samples are float32 arrays, images in NCHW order with values 0..1, labels are int64 class numbers. Every split is fixed:
the same call gives the same samples in the same order on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

from tessera.compiler.datasets.digits import load_digits_split, load_enlarged_digits_split, load_novel_digits_split
from tessera.compiler.datasets.keywords import load_keywords_split
from tessera.compiler.datasets.parts import DatasetSplit, EvaluationSplit, LabelledImages
from tessera.compiler.datasets.photographs import PHOTOGRAPH_CLASSES, load_photographs_split

__all__ = [
    "DATASETS",
    "PHOTOGRAPH_CLASSES",
    "DatasetSplit",
    "EvaluationSplit",
    "LabelledImages",
    "load_digits_split",
    "load_enlarged_digits_split",
    "load_keywords_split",
    "load_novel_digits_split",
    "load_photographs_split",
    "load_split",
]

DATASETS: dict[str, Callable[[], EvaluationSplit]] = {
    "digits": load_digits_split,
    "digits32": load_enlarged_digits_split,
    "keywords": load_keywords_split,
    "novel_digits": load_novel_digits_split,
    "photographs": load_photographs_split,
}
"""Loader of each data set, by the name that ``models/models.json`` uses."""


def load_split(name: str) -> EvaluationSplit:
    """Load the data set called ``name``, one of the keys of :data:`DATASETS`.

    Raises
    ------
    ValueError
        If there is no data set of that name.
    ModuleNotFoundError
        If the package that holds the data is not installed.
    FileNotFoundError
        If the repository's file with the data is missing.
    """
    if name not in DATASETS:
        raise ValueError(f"Data set must be one of {', '.join(sorted(DATASETS))}, not {name!r}")
    return DATASETS[name]()
