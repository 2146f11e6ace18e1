"""Train the shipped float networks on scikit-learn's handwritten digits and write them as ONNX.

    python scripts/train_digits.py [--output models] [--epochs N] [--network NAME ...]

Every network takes one ``input`` of shape (1, 1, 8, 8), values 0..1, and gives one ``output``, shape (1, 10).
The files are float32, opset 17; each BatchNormalization is a node of its own. Beside them, ``models.json``
records what was measured. Training uses a fixed seed and one thread, so that a repetition with the same
PyTorch on the same kind of processor gives the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import operator
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tessera.compiler.datasets import DatasetSplit, LabelledImages, load_digits_split

try:
    import torch
except ModuleNotFoundError:
    sys.exit("Training needs PyTorch: install it with `pip install tessera-npu[train]`.")
from torch import Tensor, fx, nn
from torch.nn import functional

SEED = 1
EPOCHS = 150
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.2
SHIFTED_SHARE = 0.3  # of the images of a batch; shifting more of them is too hard for the smallest network
INPUT_SHAPE = (1, 1, 8, 8)
CLASSES = 10
OPSET = 17
DEFAULT_OUTPUT = Path(__file__).resolve().parent.parent / "models"


# --- Networks -----------------------------------------------------------------------------------------------


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, for BatchNorm to follow; zero padding keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class DigitsCnn(nn.Sequential):
    """Two convolutions with max pooling; ends in class scores, to which the written file adds a Softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = convolution(1, 16)
        self.norm1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = convolution(16, 32)
        self.norm2 = nn.BatchNorm2d(32)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(32 * 2 * 2, CLASSES)


class ResidualBlock(nn.Module):
    """relu(body(x) + shortcut(x)) with two 3x3 convolutions in the body.

    The shortcut is the identity, or a 1x1 convolution where the block changes the size.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, stride=stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = convolution(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.conv = convolution(inputs, outputs, kernel=1, stride=stride)
            self.shortcut.norm = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        body = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(body + self.shortcut(x))


class DigitsResnet(nn.Sequential):
    """A stem, an identity residual block and a downsampling one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem_conv = convolution(1, 16)
        self.stem_norm = nn.BatchNorm2d(16)
        self.stem_relu = nn.ReLU()
        self.block1 = ResidualBlock(16, 16, stride=1)
        self.block2 = ResidualBlock(16, 32, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(32, CLASSES)


class DigitsMlp(nn.Sequential):
    """Matrix multiplications alone: 64-48-32-10."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear1 = nn.Linear(math.prod(INPUT_SHAPE), 48)
        self.relu1 = nn.ReLU()
        self.linear2 = nn.Linear(48, 32)
        self.relu2 = nn.ReLU()
        self.classifier = nn.Linear(32, CLASSES)


@dataclass(frozen=True)
class Recipe:
    """How one network is built and written.

    Attributes
    ----------
    build : makes the network, which returns class scores (logits) of shape (N, 10)
    softmax : whether the written file ends in a Softmax, which training leaves to its loss function
    """

    build: Callable[[], nn.Sequential]
    softmax: bool = False


RECIPES = {
    "digits_cnn": Recipe(DigitsCnn, softmax=True),
    "digits_resnet": Recipe(DigitsResnet),
    "digits_mlp": Recipe(DigitsMlp),
}


# --- Training -----------------------------------------------------------------------------------------------


def shift_some(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move a share of the images of (N, 1, H, W) by up to one pixel down and across, zeros coming in."""
    count, _, height, width = images.shape
    shifted = torch.rand((count, 1), generator=generator) < SHIFTED_SHARE
    down, across = torch.where(shifted, torch.randint(0, 3, (2, count, 1), generator=generator), 1)
    rows = (torch.arange(height) + down)[:, :, None]
    columns = (torch.arange(width) + across)[:, None, :]
    padded = functional.pad(images, (1, 1, 1, 1))
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


def train(recipe: Recipe, data: LabelledImages, epochs: int) -> nn.Sequential:
    """Train a network from scratch on ``data`` and return it in evaluation mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network = recipe.build()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    steps = math.ceil(len(data) / BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=epochs * steps)
    network.train()
    for epoch in range(1, epochs + 1):
        total_loss = 0.0
        for batch in torch.randperm(len(data), generator=generator).split(BATCH_SIZE):
            scores = network(shift_some(images[batch], generator))
            loss = functional.cross_entropy(scores, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total_loss += loss.item() * len(batch)
        if epoch % 10 == 0 or epoch == epochs:
            print(f"  epoch {epoch:3} of {epochs}, training loss {total_loss / len(data):.4f}", flush=True)
    return network.eval()


# --- ONNX ---------------------------------------------------------------------------------------------------


def to_onnx(network: nn.Module, name: str) -> onnx.ModelProto:
    """Write a trained network as an ONNX model of batch 1, one node for each PyTorch layer.

    Raises
    ------
    ValueError
        If a layer has no ONNX operator here.
    """
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    tensors: dict[fx.Node, str] = {}  # the ONNX tensor that holds each node's result
    traced = fx.symbolic_trace(network)
    *layers, end = traced.graph.nodes
    for node in layers:
        if node.op == "placeholder":
            tensors[node] = "input"
            continue
        operation, parameters, attributes = onnx_operation(traced, node)
        inputs = [tensors[argument] for argument in node.args]
        for key, value in parameters.items():
            inputs.append(f"{node.name}.{key}")
            initializers.append(numpy_helper.from_array(value.detach().numpy(), inputs[-1]))
        tensors[node] = "output" if node is end.args[0] else node.name
        nodes.append(helper.make_node(operation, inputs, [tensors[node]], node.name, **attributes))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, INPUT_SHAPE)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, CLASSES))],
        initializers,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    ir_version = helper.find_min_ir_version_for(opsets)  # the oldest, so that older tools open the file
    producer = Path(__file__).name
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name=producer)
    onnx.checker.check_model(model, full_check=True)
    return model


def onnx_operation(traced: fx.GraphModule, node: fx.Node) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """The ONNX operator of a traced node: its name, its parameters in input order, its attributes.

    Raises
    ------
    ValueError
        If the node has no ONNX operator here.
    """
    layer = traced.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    match layer:
        case operator.add:
            return "Add", {}, {}
        case nn.Conv2d(bias=None):
            attributes = {
                "kernel_shape": layer.kernel_size,
                "strides": layer.stride,
                "pads": layer.padding * 2,
                "group": layer.groups,
            }
            return "Conv", {"weight": layer.weight}, attributes
        case nn.BatchNorm2d():
            names = ("weight", "bias", "running_mean", "running_var")
            parameters = {name: getattr(layer, name) for name in names}
            return "BatchNormalization", parameters, {"epsilon": layer.eps}
        case nn.ReLU():
            return "Relu", {}, {}
        case nn.MaxPool2d():
            return "MaxPool", {}, pooling_attributes(layer)
        case nn.AdaptiveAvgPool2d(output_size=1):
            return "GlobalAveragePool", {}, {}
        case nn.Flatten():
            return "Flatten", {}, {"axis": layer.start_dim}
        case nn.Linear():
            return "Gemm", {"weight": layer.weight, "bias": layer.bias}, {"transB": 1}
        case nn.Softmax():
            return "Softmax", {}, {"axis": layer.dim}
    raise ValueError(f"Layer {node.name} ({layer}) has no ONNX operator here")


def pooling_attributes(layer: nn.MaxPool2d) -> dict[str, Any]:
    """ONNX attributes of a square pooling layer without padding."""
    return {"kernel_shape": [layer.kernel_size] * 2, "strides": [layer.stride] * 2}


# --- Measuring and recording --------------------------------------------------------------------------------


def count_correct(model: onnx.ModelProto, data: LabelledImages) -> int:
    """Number of images of ``data`` whose largest output is the right class, by onnx's reference evaluator."""
    # One batch of all images: the evaluator does not hold a model to its declared batch of 1.
    (outputs,) = ReferenceEvaluator(model).run(None, {"input": data.images})
    return int(np.sum(np.argmax(np.asarray(outputs), axis=1) == data.labels))


def count_macs(network: nn.Module) -> int:
    """Multiply-accumulates of one inference in convolutions and matrix multiplications."""
    macs = 0

    def add(layer: nn.Conv2d | nn.Linear, _: tuple[Tensor], output: Tensor) -> None:
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    network(torch.zeros(INPUT_SHAPE))
    for hook in hooks:
        hook.remove()
    return macs


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at ``path``; an interruption leaves the old file or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp lets only the owner read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def record(output: Path, entry: dict[str, Any]) -> None:
    """Put a network's entry into ``models.json``, in place of an earlier one of the same name."""
    path = output / "models.json"
    networks = json.loads(path.read_bytes())["networks"] if path.exists() else []
    networks = [network for network in networks if network["name"] != entry["name"]] + [entry]
    networks.sort(key=lambda network: str(network["name"]))
    write_atomically(path, (json.dumps({"networks": networks}, indent=2) + "\n").encode())


def make_network(name: str, digits: DatasetSplit, output: Path, epochs: int) -> None:
    """Train the network called ``name``, write its file into ``output`` and record what was measured."""
    recipe = RECIPES[name]
    print(f"{name}: training on {len(digits.train)} images", flush=True)
    network = train(recipe, digits.train, epochs)
    if recipe.softmax:
        network.add_module("softmax", nn.Softmax(dim=1))
    model = to_onnx(network, name)
    content = model.SerializeToString(deterministic=True)
    correct = count_correct(model, digits.test)
    path = output / f"{name}.onnx"
    write_atomically(path, content)
    record(
        output,
        {
            "name": name,
            "file": path.name,
            "dataset": "digits",
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "macs": count_macs(network),
            "test_samples": len(digits.test),
            "test_correct": correct,
            "test_accuracy": round(correct / len(digits.test), 4),
            "sha256": hashlib.sha256(content).hexdigest(),
            "made_with": {"torch": torch.__version__, "seed": SEED, "epochs": epochs},
        },
    )
    print(f"{name}: {correct} of {len(digits.test)} held-out images right, {len(content)} bytes in {path}")


def positive_integer(text: str) -> int:
    """Read a command-line count of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, default=DEFAULT_OUTPUT, help="folder to write to (default: models)")
    add("--epochs", type=positive_integer, default=EPOCHS, help="passes over the training images")
    add("--network", action="append", choices=sorted(RECIPES), help="only this one; may be repeated")
    arguments = parser.parse_args()
    try:
        digits = load_digits_split()
    except ModuleNotFoundError as error:
        sys.exit(str(error))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.network or RECIPES:
        make_network(name, digits, arguments.output, arguments.epochs)


if __name__ == "__main__":
    main()
