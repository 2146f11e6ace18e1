"""Patches of scikit-learn's two photographs, by what they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tessera.compiler.datasets.parts import DatasetSplit, LabelledImages, missing_package
from tessera.compiler.datasets.resize import resize

PATCH = 48
"""Height and width of a patch."""

_SIZES = (24, 57)
"""Least size of what is cut out, in pixels of the photograph, and one more than the greatest."""

_COUNTS = (3000, 600)  # patches for training and for the test
_CALIBRATION_PATCHES = 256
_SEED = 30


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


def load_photographs_split() -> DatasetSplit:
    """Load patches (3, 48, 48) of two photographs in 5 classes: sky, pagoda, trees, petals, leaves.

    A patch is a square of 24 to 56 pixels, resized, perhaps mirrored, with light, contrast and the colour of the light
    changed at random and noise added. ``train`` (3000) and ``test`` (600) are cut from columns of the photographs that
    have no pixel in common; ``calibration`` is the first 256 of ``train``.

    Raises
    ------
    ModuleNotFoundError
        If scikit-learn or pillow is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images

        photographs = load_sample_images().images
    except ModuleNotFoundError as error:
        raise missing_package("photographs", "scikit-learn and pillow", error) from error
    maps = [np.moveaxis(photograph, 2, 0).astype(np.float32) / 255 for photograph in photographs]
    rng = np.random.RandomState(_SEED)
    train, test = (_patches(maps, rng, count, held_out=bool(part)) for part, count in enumerate(_COUNTS))
    return DatasetSplit(train[:_CALIBRATION_PATCHES], test, train)


def _patches(
    photographs: list[npt.NDArray[np.float32]], rng: np.random.RandomState, count: int, *, held_out: bool
) -> LabelledImages:
    """As many patches of each class, in turn."""
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
