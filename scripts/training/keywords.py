"""The data set of spoken keywords: words by a synthesiser, and what a network hears of them.

Features are centred and scaled by the training part's mean and deviation of each, and kept as int8 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.features import mel_cepstrum
from training.speech import HELD_OUT_VARIANTS, TRAINED_VARIANTS, check_synthesiser, draw_voice, noise, speak

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHER_WORDS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero", "bed", "bird", "cat", "dog"),
    *("happy", "house", "marvin", "sheila", "tree", "wow", "water", "window", "yellow", "under", "forward"),
)
CLASSES = (*KEYWORDS, "another word", "silence")
"""What is said, in the order of the labels."""

_SAMPLES = {"train": 9000, "test": 600}
_CALIBRATION_SAMPLES = 256
_STEP = 1 / 8  # of a feature's deviation
_SEED = 40

# Of the features, in sound samples: 40 ms every 20 ms.
_WINDOW, _HOP = 640, 320
_BANDS, _COEFFICIENTS = 40, 10


def make_keywords() -> dict[str, np.ndarray]:
    """The arrays of the data set: samples and labels of its three parts, int8 with the real value of one ``step``, and
    ``mean`` and ``deviation`` of the features (1, 49, 10) before.

    The test's voices are none of the training's. Noise is added, 25 to 55 dB below full scale.
    """
    rng = np.random.RandomState(_SEED)
    train = _draw(_SAMPLES["train"], TRAINED_VARIANTS, rng)
    test = _draw(_SAMPLES["test"], HELD_OUT_VARIANTS, rng)
    calibration = [values[:_CALIBRATION_SAMPLES] for values in train]
    mean, deviation = train[0].mean(axis=0), train[0].std(axis=0)
    arrays = {"step": np.float32(_STEP), "mean": mean, "deviation": deviation}
    for name, (features, labels) in (("train", train), ("calibration", calibration), ("test", test)):
        steps = np.rint((features - mean) / deviation / _STEP)
        arrays[f"{name}_samples"] = np.clip(steps, -127, 127).astype(np.int8)
        arrays[f"{name}_labels"] = labels.astype(np.int8)
    return arrays


def load_or_make_keywords(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the data set, from a file in ``folder``, or made in a few minutes and kept there.

    Raises
    ------
    FileNotFoundError
        They must be made, and the synthesiser is not installed.
    """
    path = folder / "keywords.npz"
    if not path.exists():
        check_synthesiser()
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **make_keywords())
    return dict(np.load(path))


def _draw(count: int, variants: Sequence[str], rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, 1, frames, coefficients) and labels; every class in turn."""
    labels = np.arange(count) % len(CLASSES)
    return np.stack([_features(label, variants, rng) for label in labels]), labels


def _features(label: int, variants: Sequence[str], rng: np.random.RandomState) -> np.ndarray:
    """What is heard of one second."""
    word = str(rng.choice(OTHER_WORDS)) if CLASSES[label] == "another word" else CLASSES[label]
    sound = noise(rng, rng.uniform(-55, -25))
    if CLASSES[label] != "silence":
        sound = sound + speak(word, draw_voice(rng, variants), rng)
    return mel_cepstrum(sound, _WINDOW, _HOP, _BANDS, _COEFFICIENTS)[np.newaxis]
