"""The shipped networks and the data they are measured on."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import runpy
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tessera.compiler.datasets import (
    DATASETS,
    PHOTOGRAPH_CLASSES,
    DatasetSplit,
    LabelledImages,
    load_digits_split,
    load_split,
    photographs,
)
from tessera.compiler.datasets.keywords import KEYWORDS_FILE
from tessera.compiler.datasets.metrics import METRICS, accuracy, area_under_curve
from tessera.compiler.datasets.resize import resize

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
SCRIPTS = ROOT / "scripts"
TRAIN = SCRIPTS / "train.py"
NETWORKS: list[dict[str, Any]] = json.loads((MODELS / "models.json").read_text())["networks"]
MAXIMUM_FILE_BYTES = 1_200_000
MAXIMUM_DATA_BYTES = 300_000

# Of the pixels and labels of the three parts, as numpy 2.4 and scikit-learn 1.9 gave them. Another value
# means that the recorded accuracies no longer speak of the same images.
DIGITS_SPLIT_SHA256 = "4c677761977a2bdc6cdd66be411c33ca571cbfde030f58644a18d8dcde5e1c64"

# Of the mean colours of the photographs' patches.
PHOTOGRAPHS_SHA256 = "abbda6592c674bab600aa4774d949ae1a88d68a5878558ece7fc3d27574e793f"

each_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network["name"])


split_of = cache(load_split)


def images_as_set(part: LabelledImages) -> set[bytes]:
    """The images but for those of one colour, such as overexposed sky: all of these are equal."""
    return {image.tobytes() for image in part.images if np.ptp(image) > 0}


def run_onnxruntime(path: Path, images: np.ndarray) -> np.ndarray:
    """Outputs for each of the images, run one at a time: (N, ...)."""
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
    names = "digits, digits32, keywords, novel_digits, photographs"
    with pytest.raises(ValueError, match=rf"^Data set must be one of {names}, not 'numbers'$"):
        load_split("numbers")


@pytest.mark.parametrize(
    "name, shape, classes, samples",
    [
        ("digits32", (1, 32, 32), 10, 540),
        ("keywords", (1, 49, 10), 12, 600),
        ("novel_digits", (640,), 2, 540),
        ("photographs", (3, 96, 96), len(PHOTOGRAPH_CLASSES), 600),
    ],
)
def test_split_shapes(name: str, shape: tuple[int, ...], classes: int, samples: int) -> None:
    split = split_of(name)
    assert (len(split.calibration), len(split.test)) == (256, samples)
    for part in (split.calibration, split.test):
        assert part.images.shape == (len(part), *shape)
        assert (part.images.dtype, part.labels.dtype) == (np.float32, np.int64)
    assert set(split.test.labels) == set(range(classes))
    assert not images_as_set(split.calibration) & images_as_set(split.test)
    if isinstance(split, DatasetSplit):
        assert not images_as_set(split.train) & images_as_set(split.test)
        assert images_as_set(split.calibration) <= images_as_set(split.train)


def test_calibration_patches_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "_TRAINING_PATCHES", 20)
    train = photographs.load_photographs_training()
    assert np.array_equal(train.images, split_of("photographs").calibration.images[:20])
    more = photographs.load_photographs_training(more=True)
    assert len(images_as_set(more)) > 15 and not images_as_set(more) & images_as_set(train)


def test_photographs_are_fixed() -> None:
    split = split_of("photographs")
    digest = hashlib.sha256()
    for part in (split.calibration, split.test):
        # Resizing may differ in the last bit from one processor to another, and with it the rounding of a few pixels.
        digest.update(np.rint(part.images.mean(axis=(2, 3)) * 255).astype(np.uint8).tobytes())
    assert digest.hexdigest() == PHOTOGRAPHS_SHA256


def test_held_out_patches_share_no_pixel_with_training() -> None:
    regions = photographs.REGIONS.values()
    for region in regions:
        for other in regions:
            same_rows = region.rows[0] < other.rows[1] and other.rows[0] < region.rows[1]
            if region.photograph == other.photograph and same_rows:
                assert region.trained[1] <= other.held_out[0] or other.held_out[1] <= region.trained[0]


def test_novel_digits_are_in_no_training_part() -> None:
    split = split_of("novel_digits")
    assert isinstance(split, DatasetSplit)
    assert not split.train.labels.any() and not split.calibration.labels.any()
    assert np.array_equal(split.test.labels, load_digits_split().test.labels >= 5)


def test_keywords_file_is_small_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEYWORDS_FILE.stat().st_size < MAXIMUM_DATA_BYTES
    monkeypatch.setattr("tessera.compiler.datasets.keywords.KEYWORDS_FILE", ROOT / "nowhere.npz")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz: work in a checkout of the repository\.$"):
        load_split("keywords")


def test_photographs_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError) as error:
        load_split("photographs")
    sentence = "The photographs need scikit-learn and pillow: install it with `pip install tessera-npu[data]`."
    assert str(error.value) == sentence


def test_resize() -> None:
    ramp = np.arange(4, dtype=np.float32).reshape(1, 1, 4).repeat(3, axis=1)
    assert resize(ramp, (6, 8))[0, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert np.array_equal(resize(ramp, (3, 4)), ramp)


def test_metrics() -> None:
    data = LabelledImages(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]))
    assert accuracy(np.array([[2, 1], [2, 1], [2, 1], [1, 2]]), data) == 0.75
    # Errors 1, 1, 4, 9: of the four pairs one is equal, and one has the wrong order.
    assert area_under_curve(np.array([[1, 1], [1, 1], [2, 2], [3, 3]]), data) == 2.5 / 4


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
    sample = split_of(network["dataset"]).test.images[:1]
    result = run_onnxruntime(MODELS / network["file"], sample)
    for value, name, shape in (
        (model.graph.input, "input", sample.shape),
        (model.graph.output, "output", result.shape),
    ):
        assert [each.name for each in value] == [name]
        assert value[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert tuple(dimension.dim_value for dimension in value[0].type.tensor_type.shape.dim) == shape
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["BatchNormalization"] in (operators["Conv"], operators["Relu"])


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
    test = split_of(network["dataset"]).test
    value = METRICS[network["metric"]](run_onnxruntime(MODELS / network["file"], test.images), test)
    assert len(test) == network["test_samples"]
    assert value == pytest.approx(network[f"test_{network['metric']}"], abs=5e-4)
    assert value >= 0.95
    if network["metric"] == "accuracy":
        assert round(value * len(test)) == network["test_correct"]


@each_network
def test_executors_agree(network: dict[str, Any]) -> None:
    images = split_of(network["dataset"]).test.images[:8]
    # All images as one batch: the evaluator does not hold a model to its declared batch of 1.
    (outputs,) = ReferenceEvaluator(str(MODELS / network["file"])).run(None, {"input": images})
    expected = run_onnxruntime(MODELS / network["file"], images)
    np.testing.assert_allclose(np.asarray(outputs), expected, atol=2e-5)


def held_out_cell(network: dict[str, Any]) -> str:
    if network["metric"] == "accuracy":
        return f"{network['test_correct']} of {network['test_samples']} ({network['test_accuracy']:.2%})"
    return f"AUC {network['test_auc']:.3f} on {network['test_samples']}"


@each_network
def test_readme_row(network: dict[str, Any]) -> None:
    model = onnx.load(MODELS / network["file"])
    operators = Counter(node.op_type for node in model.graph.node)
    cells = (
        f"`{network['file']}`",
        ", ".join(name if count == 1 else f"{count} {name}" for name, count in operators.items()),
        f"{network['parameters']:,}",
        f"{network['macs']:,}",
        held_out_cell(network),
    )
    assert f"| {' | '.join(cells)} |" in (MODELS / "README.md").read_text().splitlines()


# --- Training script ----------------------------------------------------------------------------------------


def run_training(output: Path) -> dict[str, bytes]:
    """Train one network for one epoch and return every file this leaves, by name."""
    options = ["--epochs", "1", "--network", "digits_resnet", "--output", str(output)]
    subprocess.run([sys.executable, TRAIN, *options], check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.mark.slow
def test_training_is_deterministic(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra 'train'")
    first = run_training(tmp_path / "first")
    assert first.keys() == {"digits_resnet.onnx", "models.json"}
    assert run_training(tmp_path / "second") == first
    (entry,) = json.loads(first["models.json"])["networks"]
    assert entry["sha256"] == hashlib.sha256(first["digits_resnet.onnx"]).hexdigest()


def test_record_replaces_earlier_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="training needs the extra 'train'")
    monkeypatch.syspath_prepend(SCRIPTS)
    record = importlib.import_module("training.record").record
    for name, epochs in (("b", 1), ("a", 1), ("b", 2)):
        record(tmp_path, {"name": name, "epochs": epochs})
    assert json.loads((tmp_path / "models.json").read_text()) == {
        "networks": [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 2}]
    }


def test_keywords_without_synthesiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr("shutil.which", lambda _: None)
    make = importlib.import_module("training.keywords").load_or_make_keywords
    with pytest.raises(FileNotFoundError, match=r"^espeak-ng speaks the keywords, but is missing: apt-get install"):
        make(tmp_path)


def test_features_of_a_tone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tone is loudest in the band around its frequency; twice as loud, it has four times the energy."""
    monkeypatch.syspath_prepend(SCRIPTS)
    features = importlib.import_module("training.features")
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    bands = features.log_mel(tone, 640, 320, 40)
    assert bands.shape == (49, 40)
    assert set(bands.argmax(axis=1)) == {13}  # its corners are at 872, 980 and 1096 Hz
    assert (features.log_mel(2 * tone, 640, 320, 40) - bands)[:, 13] == pytest.approx(np.log(4), abs=1e-3)
    assert features.mel_cepstrum(tone, 640, 320, 40, 10).shape == (49, 10)


def test_training_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TRAIN), run_name="__main__")
    assert stop.value.code == "Training needs PyTorch: install it with `pip install tessera-npu[train]`."
