"""Patches of scikit-learn's two photographs, by what they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tessera.compiler.datasets.parts import EvaluationSplit, LabelledImages, missing_package
from tessera.compiler.datasets.resize import resize

PATCH = 96
"""Height and width of a patch."""

_SIZES = (32, 81)
"""Least size of what is cut out, in pixels of the photograph, and one more than the greatest."""

_TRAINING_PATCHES, _CALIBRATION_PATCHES, _TEST_PATCHES = 3000, 256, 600
_TRAINING_SEED, _TEST_SEED, _MORE_SEED = 30, 31, 77


@dataclass(frozen=True)
class Region:
    """Where a photograph shows something: rows, columns that are trained on, and columns that are held out."""

    photograph: int
    rows: tuple[int, int]
    trained: tuple[int, int]
    held_out: tuple[int, int]


_CHINA, _FLOWER = 0, 1

REGIONS = {
    "sky": Region(_CHINA, (0, 190), (430, 640), (340, 430)),
    "pagoda": Region(_CHINA, (90, 340), (90, 210), (210, 325)),
    "trees": Region(_CHINA, (310, 427), (450, 640), (360, 450)),
    "petals": Region(_FLOWER, (125, 325), (200, 310), (310, 415)),
    "leaves": Region(_FLOWER, (0, 427), (450, 640), (0, 165)),
}
"""Where the patches of each class come from."""

PHOTOGRAPH_CLASSES = tuple(REGIONS)
"""What the patches show, in the order of the labels."""


def load_photographs_split() -> EvaluationSplit:
    """Load patches (3, 96, 96) of two photographs in 5 classes: sky, pagoda, trees, petals, leaves.

    A patch is a square of 32 to 80 pixels, resized, perhaps mirrored, with light, contrast and the colour of the light
    changed at random and noise added. ``test`` (600) is cut from columns of the photographs of which training sees no
    pixel; ``calibration`` is the first 256 patches of `load_photographs_training`.

    Raises
    ------
    ModuleNotFoundError
        If scikit-learn or pillow is not installed.
    """
    photographs = _photographs()
    return EvaluationSplit(
        _patches(photographs, _TRAINING_SEED, _CALIBRATION_PATCHES, held_out=False),
        _patches(photographs, _TEST_SEED, _TEST_PATCHES, held_out=True),
    )


def load_photographs_training(*, more: bool = False) -> LabelledImages:
    """Load the 3000 patches for training, or as many others of the same columns; see `load_photographs_split`."""
    return _patches(_photographs(), _MORE_SEED if more else _TRAINING_SEED, _TRAINING_PATCHES, held_out=False)


def _photographs() -> list[npt.NDArray[np.float32]]:
    """Both photographs (3, height, width), values 0..1."""
    try:
        from sklearn.datasets import load_sample_images

        photographs = load_sample_images().images
    except ModuleNotFoundError as error:
        raise missing_package("photographs", "scikit-learn and pillow", error) from error
    return [np.moveaxis(photograph, 2, 0).astype(np.float32) / 255 for photograph in photographs]


def _patches(photographs: list[npt.NDArray[np.float32]], seed: int, count: int, *, held_out: bool) -> LabelledImages:
    """Patches of each class in turn; more of them begin with the same."""
    rng = np.random.RandomState(seed)
    labels = np.arange(count) % len(REGIONS)
    regions = list(REGIONS.values())
    images = np.empty((count, 3, PATCH, PATCH), np.float32)
    for image, label in zip(images, labels, strict=True):
        region = regions[label]
        columns = region.held_out if held_out else region.trained
        image[:] = _relight(_cut(photographs[region.photograph], rng, region.rows, columns), rng)
    return LabelledImages(images, labels.astype(np.int64))


def _cut(
    photograph: npt.NDArray[np.float32], rng: np.random.RandomState, rows: tuple[int, int], columns: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """A random square of a region as a patch."""
    size = rng.randint(*_SIZES)
    top, left = (rng.randint(first, end - size + 1) for first, end in (rows, columns))
    square = resize(photograph[:, top : top + size, left : left + size], (PATCH, PATCH))
    return square[:, :, ::-1] if rng.randint(2) else square


def _relight(patch: npt.NDArray[np.float32], rng: np.random.RandomState) -> npt.NDArray[np.float32]:
    """A patch in another light, with noise, in the 256 levels of a camera."""
    tint = rng.uniform(0.6, 1.4, (3, 1, 1)) * rng.uniform(0.5, 1.3)
    light = patch * tint + rng.uniform(-0.15, 0.15) + rng.normal(0, 0.04, patch.shape)
    return (np.rint(np.clip(light, 0, 1) * 255) / 255).astype(np.float32)
