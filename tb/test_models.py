"""The shipped networks and the data they are measured on."""

from __future__ import annotations

import hashlib
import json
import math
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tessera.compiler.datasets import DATASETS, LabelledImages, load_digits_split, load_split

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
TRAIN_DIGITS = ROOT / "scripts" / "train_digits.py"
NETWORKS: list[dict[str, Any]] = json.loads((MODELS / "models.json").read_text())["networks"]
MAXIMUM_FILE_BYTES = 300_000

# Of the pixels and labels of the three parts, as numpy 2.4 and scikit-learn 1.9 gave them. Another value
# means that the recorded accuracies no longer speak of the same images.
DIGITS_SPLIT_SHA256 = "4c677761977a2bdc6cdd66be411c33ca571cbfde030f58644a18d8dcde5e1c64"

each_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network["name"])


def images_as_set(part: LabelledImages) -> set[bytes]:
    return {image.tobytes() for image in part.images}


def run_onnxruntime(path: Path, images: np.ndarray) -> np.ndarray:
    """Outputs for each of the images, run one at a time: (N, 10)."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[np.newaxis]})[0] for image in images])


# --- Data sets ----------------------------------------------------------------------------------------------


def test_digits_split_shapes() -> None:
    split = load_digits_split()
    for part, count in ((split.train, 1257), (split.calibration, 256), (split.test, 540)):
        assert len(part) == count
        assert part.images.shape == (count, 1, 8, 8)
        assert part.images.dtype == np.float32
        assert part.labels.shape == (count,)
        assert part.labels.dtype == np.int64
        assert (part.images.min(), part.images.max()) == (0, 1)
        assert set(part.labels) == set(range(10))


def test_digits_split_parts_are_disjoint() -> None:
    split = load_digits_split()
    train, test = images_as_set(split.train), images_as_set(split.test)
    assert not train & test
    assert images_as_set(split.calibration) <= train


def test_digits_split_is_fixed() -> None:
    digest = hashlib.sha256()
    split = load_digits_split()
    for part in (split.train, split.calibration, split.test):
        digest.update((part.images * 16).astype(np.uint8).tobytes())
        digest.update(part.labels.astype(np.uint8).tobytes())
    assert digest.hexdigest() == DIGITS_SPLIT_SHA256


def test_digits_split_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError) as error:
        load_digits_split()
    sentence = "The digits data set needs scikit-learn: install it with `pip install tessera-npu[data]`."
    assert str(error.value) == sentence


def test_load_split() -> None:
    assert np.array_equal(load_split("digits").test.images, load_digits_split().test.images)


def test_load_split_wrong_name() -> None:
    with pytest.raises(ValueError, match=r"^Data set must be one of digits, not 'numbers'$"):
        load_split("numbers")


# --- Network files ------------------------------------------------------------------------------------------


def test_every_file_is_recorded() -> None:
    assert {path.name for path in MODELS.glob("*.onnx")} == {network["file"] for network in NETWORKS}


@each_network
def test_file_is_the_recorded_one(network: dict[str, Any]) -> None:
    content = (MODELS / network["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == network["sha256"]
    assert len(content) < MAXIMUM_FILE_BYTES
    assert network["dataset"] in DATASETS


@each_network
def test_file_format(network: dict[str, Any]) -> None:
    model = onnx.load(MODELS / network["file"])
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    for value, name, shape in (
        (model.graph.input, "input", [1, 1, 8, 8]),
        (model.graph.output, "output", [1, 10]),
    ):
        assert [each.name for each in value] == [name]
        assert value[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert [dimension.dim_value for dimension in value[0].type.tensor_type.shape.dim] == shape
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["BatchNormalization"] == operators["Conv"]


@each_network
def test_parameters_and_macs(network: dict[str, Any]) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(MODELS / network["file"]), strict_mode=True)
    sizes = {each.name: math.prod(each.dims) for each in model.graph.initializer}
    channels = {each.name: each.dims[0] for each in model.graph.initializer if each.dims}
    results = {
        each.name: math.prod(dimension.dim_value for dimension in each.type.tensor_type.shape.dim)
        for each in [*model.graph.value_info, *model.graph.output]
    }
    parameters = macs = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = node.input[1]
            macs += results[node.output[0]] * sizes[weight] // channels[weight]
        if node.op_type in ("Conv", "Gemm", "BatchNormalization"):
            parameters += sum(sizes[name] for name in node.input[1:3])
    assert (parameters, macs) == (network["parameters"], network["macs"])


@each_network
def test_accuracy(network: dict[str, Any]) -> None:
    test = load_split(network["dataset"]).test
    outputs = run_onnxruntime(MODELS / network["file"], test.images)
    correct = int(np.sum(np.argmax(outputs, axis=1) == test.labels))
    assert (correct, len(test)) == (network["test_correct"], network["test_samples"])
    assert round(correct / len(test), 4) == network["test_accuracy"] >= 0.97


@each_network
def test_executors_agree(network: dict[str, Any]) -> None:
    images = load_split(network["dataset"]).test.images[:32]
    # All images as one batch: the evaluator does not hold a model to its declared batch of 1.
    (outputs,) = ReferenceEvaluator(str(MODELS / network["file"])).run(None, {"input": images})
    expected = run_onnxruntime(MODELS / network["file"], images)
    np.testing.assert_allclose(np.asarray(outputs), expected, atol=2e-5)


@each_network
def test_readme_row(network: dict[str, Any]) -> None:
    model = onnx.load(MODELS / network["file"])
    operators = Counter(node.op_type for node in model.graph.node)
    cells = (
        f"`{network['file']}`",
        ", ".join(name if count == 1 else f"{count} {name}" for name, count in operators.items()),
        f"{network['parameters']:,}",
        f"{network['macs']:,}",
        f"{network['test_correct']} of {network['test_samples']} ({network['test_accuracy']:.2%})",
    )
    assert f"| {' | '.join(cells)} |" in (MODELS / "README.md").read_text().splitlines()


# --- Training script ----------------------------------------------------------------------------------------


def run_training(output: Path) -> dict[str, bytes]:
    """Train one network for one epoch and return every file this leaves, by name."""
    options = ["--epochs", "1", "--network", "digits_resnet", "--output", str(output)]
    subprocess.run([sys.executable, TRAIN_DIGITS, *options], check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.mark.slow
def test_training_is_deterministic(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra 'train'")
    first = run_training(tmp_path / "first")
    assert first.keys() == {"digits_resnet.onnx", "models.json"}
    assert run_training(tmp_path / "second") == first
    (entry,) = json.loads(first["models.json"])["networks"]
    assert entry["sha256"] == hashlib.sha256(first["digits_resnet.onnx"]).hexdigest()


def test_record_replaces_earlier_entry(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra 'train'")
    record = runpy.run_path(str(TRAIN_DIGITS))["record"]
    for name, epochs in (("b", 1), ("a", 1), ("b", 2)):
        record(tmp_path, {"name": name, "epochs": epochs})
    assert json.loads((tmp_path / "models.json").read_text()) == {
        "networks": [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 2}]
    }


def test_training_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TRAIN_DIGITS), run_name="__main__")
    assert stop.value.code == "Training needs PyTorch: install it with `pip install tessera-npu[train]`."
