"""Input files: what is read, and the sentence for everything that is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tessera.compiler import CompilerError, load_inputs
from tessera.compiler.calibration_data import load_labels

SHAPES = {"x": (1, 3, 4, 4), "y": (1, 5)}
X = np.arange(96, dtype=np.uint8).reshape(2, 3, 4, 4)
Y = np.ones((2, 5))


def refusal(path: Path, inputs: tuple[str, ...] = ("x", "y")) -> str:
    """The sentence with which a file is refused, with the file called FILE."""
    with pytest.raises(CompilerError) as caught:
        load_inputs(path, inputs, SHAPES)
    return str(caught.value).replace(str(path), "FILE")


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    """An .npz file."""
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def test_one_array_per_input(tmp_path: Path) -> None:
    data = load_inputs(saved(tmp_path, x=X, y=Y), ("x", "y"), SHAPES)
    assert [data[name].dtype for name in ("x", "y")] == [np.float32, np.float32]
    assert np.array_equal(data["x"], X)


def test_a_single_array_needs_no_name(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", X)
    for path in (
        tmp_path / "data.npy",
        saved(tmp_path, anything=X),
        saved(tmp_path, images=X, labels=[1, 2]),
    ):
        assert np.array_equal(load_inputs(path, ("x",), SHAPES)["x"], X)


def test_labels(tmp_path: Path) -> None:
    assert load_labels(saved(tmp_path, x=X, labels=np.array([3, 1], np.uint8)), 2).tolist() == [3, 1]
    assert load_labels(saved(tmp_path, x=X), 2) is None
    path = saved(tmp_path, x=X, labels=np.array([0.5, 1]))
    with pytest.raises(CompilerError) as caught:
        load_labels(path, 2)
    assert str(caught.value) == (
        f"{path}: the array 'labels' has the shape (2,) and the type float64, but must have one integer for "
        "each of the 2 samples"
    )


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "data.npz") == "there is no file FILE"


@pytest.mark.parametrize("content", [b"", b"no numbers", b"PK\x03\x04 broken archive"])
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert refusal(path) == "FILE is no .npz or .npy file of numbers, or is broken"


def test_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.array([object()]), allow_pickle=True)
    assert refusal(tmp_path / "data.npy") == "FILE is no .npz or .npy file of numbers, or is broken"


def test_one_array_for_two_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", X)
    assert refusal(tmp_path / "data.npy") == (
        "FILE holds one array, but the network has the inputs x, y; use an .npz file with one array per input"
    )


BAD = {
    "missing": ({"x": X}, "FILE has no array 'y'; it has 'x'"),
    "unknown": ({"x": X, "y": Y, "z": Y}, "FILE has an array 'z', but the network's inputs are x, y"),
    "shape": (
        {"x": X[0], "y": Y},
        "FILE: the array 'x' has the shape (3, 4, 4), but must have (samples, 3, 4, 4)",
    ),
    "type": (
        {"x": X, "y": np.full((2, 5), "a")},
        "FILE: the array 'y' has the type <U1, but must hold real numbers",
    ),
    "complex": (
        {"x": X, "y": Y * 1j},
        "FILE: the array 'y' has the type complex128, but must hold real numbers",
    ),
    "empty": ({"x": X[:0], "y": Y[:0]}, "FILE: the array 'x' has no samples; give at least one"),
    "NaN": (
        {"x": X, "y": np.where(np.eye(2, 5) > 0, np.nan, 1)[::-1]},
        "FILE: sample 0 of the array 'y' has NaN or infinity; remove it",
    ),
    "samples": (
        {"x": X, "y": Y[:1]},
        "FILE: all arrays must have the same number of samples, but 'x' has 2, 'y' has 1",
    ),
}


@pytest.mark.parametrize("arrays, sentence", BAD.values(), ids=BAD.keys())
def test_unfit_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str) -> None:
    assert refusal(saved(tmp_path, **arrays)) == sentence
