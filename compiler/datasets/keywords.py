"""Spoken keywords, which the repository itself holds, since making them takes a speech synthesiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tessera.compiler.datasets.parts import EvaluationSplit, LabelledImages

KEYWORDS_FILE = Path(__file__).resolve().parents[2] / "models" / "data" / "keywords.npz"
"""Where they are: samples (int8) and labels of calibration and test, and the real value of one ``step``."""


def load_keywords_split() -> EvaluationSplit:
    """Load the features (1, 49, 10) of one second of sound each, in 12 classes: ten words, other words, and silence.

    The words are spoken by espeak-ng; the voices of ``test`` (600) are others than those of training, of which
    ``calibration`` (256) is a part. ``scripts/training/keywords.py`` says how they are made.

    Raises
    ------
    FileNotFoundError
        The file is missing: the package was installed without the repository.
    """
    if not KEYWORDS_FILE.exists():
        raise FileNotFoundError(f"The keywords should be in {KEYWORDS_FILE}: work in a checkout of the repository.")
    arrays = np.load(KEYWORDS_FILE)
    calibration, test = (
        LabelledImages(
            arrays[f"{part}_samples"].astype(np.float32) * np.float32(arrays["step"]),
            arrays[f"{part}_labels"].astype(np.int64),
        )
        for part in ("calibration", "test")
    )
    return EvaluationSplit(calibration, test)
