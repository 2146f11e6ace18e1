"""The shipped float networks as PyTorch modules, of layers that `training.onnx_export` writes one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from tessera.compiler.datasets import LabelledImages
from tessera.compiler.datasets.photographs import load_photographs_training
from tessera.compiler.fine_tuning import FineTuning

DIGITS = 10
Size = int | tuple[int, int]


def convolution(inputs: int, outputs: int, kernel: Size = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, for BatchNorm to follow; zero padding keeps the size at stride 1 and odd kernels."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=_half(kernel), groups=groups, bias=False)


def _half(kernel: Size) -> Size:
    """Padding on each side; of an even kernel the least that keeps the size at stride 2."""
    return (kernel[0] // 2, (kernel[1] - 1) // 2) if isinstance(kernel, tuple) else kernel // 2


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
        self.classifier = nn.Linear(32 * 2 * 2, DIGITS)


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


class Resnet(nn.Sequential):
    """A stem of 16 channels and residual blocks, the first at full size, each next one at half of the size before.

    Parameters
    ----------
    channels
        Channels of each block.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stem_conv = convolution(1, 16)
        self.stem_norm = nn.BatchNorm2d(16)
        self.stem_relu = nn.ReLU()
        before = 16
        for number, after in enumerate(channels, start=1):
            self.add_module(f"block{number}", ResidualBlock(before, after, stride=1 if number == 1 else 2))
            before = after
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, DIGITS)


class DigitsMlp(nn.Sequential):
    """Matrix multiplications alone: 64-48-32-10."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear1 = nn.Linear(64, 48)
        self.relu1 = nn.ReLU()
        self.linear2 = nn.Linear(48, 32)
        self.relu2 = nn.ReLU()
        self.classifier = nn.Linear(32, DIGITS)


class Separable(nn.Sequential):
    """A depthwise 3x3 convolution and a pointwise one, each with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = convolution(inputs, inputs, stride=stride, groups=inputs)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.pointwise = convolution(inputs, outputs, kernel=1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()


class SeparableNetwork(nn.Sequential):
    """A convolution with stride 2, separable ones, and a classifier on the mean of each channel.

    Parameters
    ----------
    inputs, stem
        Channels before and after the first convolution.
    kernel
        Size of the first convolution.
    blocks
        Output channels and stride of each separable convolution.
    classes
        Number of classes.
    """

    def __init__(self, inputs: int, stem: int, kernel: Size, blocks: tuple[tuple[int, int], ...], classes: int) -> None:
        super().__init__()
        self.stem_conv = convolution(inputs, stem, kernel, stride=2)
        self.stem_norm = nn.BatchNorm2d(stem)
        self.stem_relu = nn.ReLU()
        before = stem
        for number, (after, stride) in enumerate(blocks, start=1):
            self.add_module(f"block{number}", Separable(before, after, stride))
            before = after
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, classes)


def mobilenet(classes: int) -> SeparableNetwork:
    """MobileNetV1 with a quarter of the channels (arXiv:1704.04861)."""
    blocks = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))
    return SeparableNetwork(3, 8, 3, blocks, classes)


def keyword_network(classes: int) -> SeparableNetwork:
    """DS-CNN in its small size (arXiv:1711.07128): 64 channels throughout."""
    return SeparableNetwork(1, 64, (10, 4), ((64, 1),) * 4, classes)


class Autoencoder(nn.Sequential):
    """Matrix multiplications to a narrow middle and back, with BatchNorm and ReLU between them.

    Parameters
    ----------
    features
        Number of inputs and outputs.
    width, depth
        Of the layers on either side of the middle.
    middle
        Width of the middle.
    """

    def __init__(self, features: int = 640, width: int = 128, depth: int = 4, middle: int = 8) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        widths = [features, *[width] * depth, middle, *[width] * depth]
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            layers[f"linear{number}"] = nn.Linear(before, after, bias=False)
            layers[f"norm{number}"] = nn.BatchNorm1d(after)
            layers[f"relu{number}"] = nn.ReLU()
        layers["output_linear"] = nn.Linear(widths[-1], features)
        super().__init__(layers)


@dataclass(frozen=True)
class Recipe:
    """How one network is built, trained and written.

    Attributes
    ----------
    build : makes the network, which returns class scores (logits) of shape (N, classes), or a reconstruction
    dataset : name of its data
    epochs : passes over the training part
    shift : images are moved by up to so many pixels, a share of them
    softmax : whether the written file ends in a Softmax, which training leaves to its loss function
    metric : name of what is measured on held-out data
    weight_decay, peak_learning_rate : of the optimizer
    fine_tuning : how the network is trained on for its depths
    tuned_with_labels : whether labels count there, beside the float network's outputs
    more : makes other samples for a second stage of that
    """

    build: Callable[[], nn.Sequential]
    dataset: str
    epochs: int
    shift: int = 0
    softmax: bool = False
    metric: str = "accuracy"
    weight_decay: float = 0.2
    peak_learning_rate: float = 1e-2
    fine_tuning: FineTuning = FineTuning()
    tuned_with_labels: bool = False
    more: Callable[[], LabelledImages] | None = None


RECIPES = {
    "digits_cnn": Recipe(DigitsCnn, "digits", 150, shift=1, softmax=True),
    "digits_resnet": Recipe(lambda: Resnet((16, 32)), "digits", 150, shift=1),
    "digits_mlp": Recipe(DigitsMlp, "digits", 150, shift=1),
    "digits32_resnet8": Recipe(
        lambda: Resnet((16, 32, 64)),
        "digits32",
        40,
        shift=3,
        fine_tuning=FineTuning(epochs=8, learning_rate=3e-4),
        tuned_with_labels=True,
    ),
    "photographs_mobilenet": Recipe(
        lambda: mobilenet(5),
        "photographs",
        20,
        fine_tuning=FineTuning(epochs=7),
        more=lambda: load_photographs_training(more=True),
    ),
    "keywords_dscnn": Recipe(
        lambda: keyword_network(12), "keywords", 20, fine_tuning=FineTuning(epochs=8), tuned_with_labels=True
    ),
    "novelty_autoencoder": Recipe(
        Autoencoder,
        "novel_digits",
        60,
        metric="auc",
        weight_decay=0.01,
        peak_learning_rate=3e-3,
        fine_tuning=FineTuning(epochs=40, learning_rate=3e-4),
    ),
}
"""The networks by name."""
