"""Random integer networks: small ones for the models and the RTL, and helpers that build one operation."""

from __future__ import annotations

import math

import numpy as np

from tessera.rtl.config import NpuConfig, digits_of_depth
from tessera.rtl.legality import gang_masks
from tessera.sim.golden.network import (
    CLAMP_RANGE,
    Convolution,
    IntegerNetwork,
    Operation,
    PostProcessing,
    TensorType,
    Window,
    output_map,
)


def random_values(rng: np.random.Generator, tensor: TensorType) -> np.ndarray:
    """Integers over the whole range of a tensor, with its ends more often than chance."""
    low, high = tensor.range
    values = rng.integers(low, high + 1, tensor.shape)
    ends = rng.integers(0, 8, tensor.shape)
    return np.where(ends == 0, low, np.where(ends == 1, high, values))


def random_inputs(rng: np.random.Generator, network: IntegerNetwork) -> dict[str, np.ndarray]:
    """Values for every input of a network."""
    return {name: random_values(rng, network.tensors[name]) for name in network.inputs}


def usable_depths(config: NpuConfig, lanes: tuple[int, ...]) -> list[int]:
    """Activation depths for which the lanes contain a whole gang."""
    mask = sum(1 << lane for lane in lanes)
    return [
        depth
        for depth in config.activation_depths
        if any(gang & ~mask == 0 for gang in gang_masks(digits_of_depth(depth), config.lanes))
    ]


class NetworkGenerator:
    """Makes random networks that a configuration can run.

    Parameters
    ----------
    rng
        Source of randomness.
    config
        The machine; its depths are used, its limits kept.
    lanes
        Lanes that the network will run on.
    max_side, max_channels
        Limits of the inputs' sides, and of all tensors' channels.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        config: NpuConfig,
        lanes: tuple[int, ...] | None = None,
        max_side: int = 9,
        max_channels: int | None = None,
    ):
        self.rng = rng
        self.config = config
        self.depths = usable_depths(config, tuple(range(config.lanes)) if lanes is None else lanes)
        self.max_side = max_side
        self.max_channels = max_channels or 2 * config.word_digits + 3
        self.tensors: dict[str, TensorType] = {}
        self.operations: list[Operation] = []

    def network(self, operations: int, inputs: int = 1) -> IntegerNetwork:
        """A network of that many operations; every tensor that nothing reads is an output, and one more at random."""
        return self._network(tuple(self.tensor(self._random_shape()) for _ in range(inputs)), operations)

    def large_network(self, operations: int, times: int) -> IntegerNetwork:
        """A network whose input needs about ``times`` activation banks, and whose other maps are about as large."""
        channels = int(self.rng.integers(1, self.max_channels + 1))
        pixels = times * self.config.activation_words // self.config.channel_blocks(channels)
        height = max(1, int(np.sqrt(pixels) * self.rng.uniform(0.4, 2.5)))
        return self._network((self.tensor((channels, height, max(1, pixels // height))),), operations)

    def _network(self, names: tuple[str, ...], operations: int) -> IntegerNetwork:
        for _ in range(operations):
            self._random_operation()
        read = {op.input for op in self.operations} | {op.post.residual for op in self.operations}
        made = [operation.output for operation in self.operations]
        outputs = [name for name in made if name not in read]
        extra = made[int(self.rng.integers(len(made)))]
        outputs = [name for name in made if name in (*outputs, extra)]
        network = IntegerNetwork("random", self.tensors, names, tuple(outputs), tuple(self.operations))
        network.verify()
        return network

    def _random_operation(self) -> None:
        source = self._choose(list(self.tensors))
        kind = self._choose(
            ["convolution", "convolution", "depthwise", "grouped", "pointwise", "full", "pool", "global", "add"]
        )
        if kind == "convolution":
            self.convolution(source, kernel=self._kernel(source, 3), padding=True)
        elif kind == "depthwise":
            channels = self.tensors[source].channels
            outputs = self._choose([channels, channels, channels, None])
            kernel = self._kernel(source, 5)
            self.convolution(source, kernel=kernel, padding=True, groups=channels, outputs=outputs)
        elif kind == "grouped":
            divisors = [groups for groups in range(1, 9) if self.tensors[source].channels % groups == 0]
            self.convolution(source, kernel=self._kernel(source, 3), padding=True, groups=self._choose(divisors))
        elif kind == "pointwise":
            self.convolution(source, kernel=(1, 1), padding=False)
        elif kind == "full" and max(self.tensors[source].shape[1:]) < 32:
            self.convolution(source, kernel=self.tensors[source].shape[1:], padding=False, stride=(1, 1))
        elif kind == "pool":
            self.window(source, kernel=self._kernel(source, 3), padding=True)
        elif kind == "global" and math.prod(self.tensors[source].shape[1:]) < self.config.activation_words:
            self.window(source, kernel=self.tensors[source].shape[1:], padding=False)
        else:
            self.window(source, kernel=(1, 1), padding=False, stride=(1, 1), residual=True)

    def convolution(
        self,
        source: str,
        kernel: tuple[int, int],
        padding: bool,
        stride: tuple[int, int] | None = None,
        groups: int = 1,
        outputs: int | None = None,
        dilation: tuple[int, int] | None = None,
    ) -> str:
        """Appends a convolution, dilated at random if ``padding``; returns the name of its output."""
        rng, tensor = self.rng, self.tensors[source]
        depth = self._choose(self.config.weight_depths)
        outputs = outputs or groups * int(rng.integers(1, max(1, self.max_channels // groups) + 1))
        shape = (outputs, tensor.channels // groups, *kernel)
        weights = rng.integers(-(1 << depth - 1), 1 << depth - 1, shape).astype(np.int8)
        if dilation is None:
            dilation = self._dilation(kernel, tensor) if padding else (1, 1)
        low, high = tensor.range
        pad_value = int(rng.integers(low, high + 1)) if rng.integers(2) else 0
        name = f"conv{len(self.operations)}"
        operation = Convolution(
            name,
            source,
            name,
            weights,
            depth,
            stride or self._stride(),
            self._padding(kernel) if padding else (0, 0, 0, 0),
            dilation,
            pad_value,
            self._post(outputs, scale=tensor.depth + depth),
            groups,
        )
        return self._append(operation, outputs)

    def _dilation(self, kernel: tuple[int, int], tensor: TensorType) -> tuple[int, ...]:
        sides = zip(kernel, tensor.shape[1:], strict=True)
        return tuple(int(self.rng.integers(1, 3)) if 2 * (size - 1) < side else 1 for size, side in sides)

    def window(
        self,
        source: str,
        kernel: tuple[int, int],
        padding: bool,
        stride: tuple[int, int] | None = None,
        residual: bool = False,
    ) -> str:
        """Appends a pooling, or an element-wise addition; returns the name of its output."""
        tensor = self.tensors[source]
        name = f"window{len(self.operations)}"
        operation = Window(
            name,
            source,
            name,
            self._choose(["sum", "max"]),
            kernel,
            stride or self._stride(),
            self._padding(kernel) if padding else (0, 0, 0, 0),
            self._post(tensor.channels, scale=tensor.depth + 3),
        )
        return self._append(operation, tensor.channels, residual=residual)

    def _append(self, operation: Operation, channels: int, residual: bool = False) -> str:
        """Enters an operation and its output; chooses a residual operand if one of the right shape exists."""
        height, width = output_map(operation, self.tensors[operation.input])
        shape = (channels, height, width)
        operands = [name for name, tensor in self.tensors.items() if tensor.shape == shape]
        if operands and (residual or self.rng.integers(2)):
            self._add_residual(operation, self._choose(operands))
        self.tensor(shape, operation.output)
        self.operations.append(operation)
        return operation.output

    def _add_residual(self, operation: Operation, name: str) -> None:
        post = operation.post
        least = max(0, int(post.shift.max()) - 15)
        fields = {
            "residual": name,
            "residual_multiplier": int(self.rng.integers(0, 1 << 16)),
            "residual_shift": int(self.rng.integers(least, int(post.shift.min()) + 1)),
        }
        for key, value in fields.items():
            object.__setattr__(post, key, value)

    def _post(self, channels: int, scale: int) -> PostProcessing:
        """Parameters that keep most outputs in range and saturate some."""
        rng = self.rng
        clamp = CLAMP_RANGE
        if rng.integers(2):
            clamp = tuple(sorted(int(value) for value in rng.integers(-40, 300, 2)))
        base = int(rng.integers(12, 20)) + scale // 2
        return PostProcessing(
            rng.integers(-(1 << scale), 1 << scale, channels).astype(np.int64),
            rng.integers(0, 1 << 16, channels).astype(np.int64),
            (base + rng.integers(0, 4, channels)).astype(np.int64),
            *clamp,
        )

    def tensor(self, shape: tuple[int, int, int], name: str | None = None) -> str:
        """Enters a tensor of random depth (an input, if no name is given); returns its name."""
        name = name or f"input{len(self.tensors)}"
        self.tensors[name] = TensorType(*shape, self._choose(self.depths), bool(self.rng.integers(2)))
        return name

    def _random_shape(self) -> tuple[int, int, int]:
        sides = self.rng.integers(1, self.max_side + 1, 2)
        return int(self.rng.integers(1, self.max_channels + 1)), int(sides[0]), int(sides[1])

    def _kernel(self, source: str, limit: int) -> tuple[int, int]:
        _, height, width = self.tensors[source].shape
        sides = self.rng.integers(1, limit + 1, 2)
        return min(int(sides[0]), height), min(int(sides[1]), width)

    def _stride(self) -> tuple[int, int]:
        return int(self.rng.integers(1, 3)), int(self.rng.integers(1, 3))

    def _padding(self, kernel: tuple[int, int]) -> tuple[int, int, int, int]:
        return tuple(int(self.rng.integers(0, side)) for side in 2 * kernel)

    def _choose(self, options):
        return options[int(self.rng.integers(len(options)))]


def residual_network(
    depth: int, weight_depth: int, side: int = 32, channels: int = 16, seed: int = 0
) -> IntegerNetwork:
    """A residual network with random weights: stem, three blocks of rising width, pooling, and a classifier.

    With the default arguments it has the shapes of the image classification network of MLPerf Tiny.
    """
    builder = _ResidualBuilder(np.random.default_rng(seed), depth, weight_depth)
    builder.tensors["x"] = TensorType(3, side, side, depth, True)
    name = builder.convolution("stem", "x", channels, 3, 1)
    for index, stride in enumerate((1, 2, 2)):
        width = channels << index
        inner = builder.convolution(f"block{index}a", name, width, 3, stride)
        shortcut = name if stride == 1 else builder.convolution(f"block{index}s", name, width, 1, stride)
        name = builder.convolution(f"block{index}b", inner, width, 3, 1, residual=shortcut)
    name = builder.pool("pool", name)
    name = builder.convolution("classifier", name, 10, 1, 1)
    network = IntegerNetwork("residual", builder.tensors, ("x",), (name,), tuple(builder.operations))
    network.verify()
    return network


class _ResidualBuilder:
    """Appends the operations of `residual_network`."""

    def __init__(self, rng: np.random.Generator, depth: int, weight_depth: int):
        self.rng = rng
        self.depth = depth
        self.weight_depth = weight_depth
        self.tensors: dict[str, TensorType] = {}
        self.operations: list[Operation] = []

    def convolution(
        self, name: str, source: str, channels: int, side: int, stride: int, residual: str | None = None
    ) -> str:
        """A convolution that keeps the size, or halves it."""
        limit = 1 << self.weight_depth - 1
        weights = self.rng.integers(-limit, limit, (channels, self.tensors[source].channels, side, side))
        before = (side - 1) // 2 if stride == 1 else 0
        padding = (before, before, side // 2, side // 2)
        operation = Convolution(
            name,
            source,
            name,
            weights.astype(np.int8),
            self.weight_depth,
            (stride, stride),
            padding,
            (1, 1),
            0,
            self._post(channels, residual),
        )
        return self._append(operation, channels)

    def pool(self, name: str, source: str) -> str:
        """A global pooling."""
        tensor = self.tensors[source]
        kernel = (tensor.height, tensor.width)
        post = self._post(tensor.channels, None)
        return self._append(Window(name, source, name, "sum", kernel, (1, 1), (0, 0, 0, 0), post), tensor.channels)

    def _append(self, operation: Operation, channels: int) -> str:
        height, width = output_map(operation, self.tensors[operation.input])
        self.tensors[operation.output] = TensorType(channels, height, width, self.depth, False)
        self.operations.append(operation)
        return operation.output

    def _post(self, channels: int, residual: str | None) -> PostProcessing:
        shift = np.full(channels, 20, np.int64)
        bias = self.rng.integers(-1000, 1000, channels)
        multiplier = self.rng.integers(1 << 10, 1 << 12, channels)
        limits = (0, (1 << self.depth) - 1)
        if residual is None:
            return PostProcessing(bias, multiplier, shift, *limits)
        return PostProcessing(bias, multiplier, shift, *limits, residual, 1 << 14, 14)
