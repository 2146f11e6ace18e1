"""Reads input data for calibration and execution from ``.npz`` and ``.npy`` files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tessera.compiler.errors import CompilerError, check_file
from tessera.compiler.graph import Shape

LABELS = "labels"
"""Name of the optional array with the right answers, in a file of inputs."""


def load_inputs(path: str | Path, inputs: Sequence[str], shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Reads the samples of every input of a network.

    Parameters
    ----------
    path
        An ``.npz`` file with one array per input under the input's name, or an ``.npy`` file for a network
        with one input. The first axis counts samples, the others are those of the input without its first
        axis. A single array in an ``.npz`` file may have any name if the network has one input.
    inputs
        Names of the network's inputs.
    shapes
        Shapes of the inputs, first axis 1.

    Returns
    -------
    A float32 array (samples, ...) for each input.

    Raises
    ------
    CompilerError
        The file is missing or of another form, an array is missing, unknown, of the wrong shape or type,
        without samples or not finite, or the numbers of samples differ.
    """
    path = Path(path)
    arrays = _read(path)
    if len(inputs) == 1 and len(arrays.keys() - {LABELS}) == 1:
        arrays = {inputs[0] if name != LABELS else name: array for name, array in arrays.items()}
    if "" in arrays and len(inputs) > 1:
        raise CompilerError(
            f"{path} holds one array, but the network has the inputs {', '.join(inputs)}; use an .npz file "
            "with one array per input"
        )
    for name in inputs:
        if name not in arrays:
            raise CompilerError(f"{path} has no array {name!r}; it has {', '.join(map(repr, arrays))}")
    for name in arrays:
        if name not in (*inputs, LABELS):
            raise CompilerError(f"{path} has an array {name!r}, but the network's inputs are {', '.join(inputs)}")
    samples = {name: _check(path, name, arrays[name], shapes[name]) for name in inputs}
    if len(set(samples.values())) > 1:
        texts = ", ".join(f"{name!r} has {count}" for name, count in samples.items())
        raise CompilerError(f"{path}: all arrays must have the same number of samples, but {texts}")
    return {name: arrays[name].astype(np.float32) for name in inputs}


def load_labels(path: str | Path, samples: int) -> np.ndarray | None:
    """The int64 array ``labels`` of a file of inputs, shape (samples,), or ``None`` if it has none.

    Raises
    ------
    CompilerError
        The labels are no integers, or there is not one for every sample.
    """
    labels = _read(Path(path)).get(LABELS)
    if labels is None:
        return None
    if labels.shape != (samples,) or not np.issubdtype(labels.dtype, np.integer):
        raise CompilerError(
            f"{path}: the array {LABELS!r} has the shape {labels.shape} and the type {labels.dtype}, but "
            f"must have one integer for each of the {samples} samples"
        )
    return labels.astype(np.int64)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; the one of an .npy file has an empty name."""
    check_file(path)
    try:
        content = np.load(path, allow_pickle=False)
        return {"": content} if isinstance(content, np.ndarray) else dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise CompilerError(f"{path} is no .npz or .npy file of numbers, or is broken") from None


def _check(path: Path, name: str, array: np.ndarray, shape: Shape) -> int:
    """The number of samples of one array, after all checks."""
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise CompilerError(f"{path}: the array {name!r} has the type {array.dtype}, but must hold real numbers")
    if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
        expected = ", ".join(["samples", *map(str, shape[1:])])
        raise CompilerError(f"{path}: the array {name!r} has the shape {array.shape}, but must have ({expected})")
    if len(array) == 0:
        raise CompilerError(f"{path}: the array {name!r} has no samples; give at least one")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise CompilerError(f"{path}: sample {bad[0][0]} of the array {name!r} has NaN or infinity; remove it")
    large = np.argwhere(np.abs(array.astype(np.float64)) > np.finfo(np.float32).max)
    if len(large):
        raise CompilerError(
            f"{path}: sample {large[0][0]} of the array {name!r} has a number beyond the range of float32; "
            "scale the data"
        )
    return len(array)
