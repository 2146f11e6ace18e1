"""Task graphs of known topologies by arithmetic, for comparisons of schedulers: no compiler, no simulation.

Durations are those of an 8 x 8 array with four lanes: a lane multiplies 8 channels by 8 at 8-bit weights, or 16 by 8 at
4-bit ones, each cycle. Depths are drawn from a seed.
"""

from __future__ import annotations

import math

import numpy as np

from tessera.compiler.planning import Job, Mode, Task, TaskGraph, Tensor

BANK_BYTES = 16 * 1024
"""Weights that a lane's bank holds."""

MEMORY_LATENCY = 40


class GraphBuilder:
    """Appends operations; each returns its index, which later ones read."""

    def __init__(self, seed: int, side: int, channels: int):
        self._rng = np.random.default_rng(seed)
        self._tasks: list[Task] = []
        self._shapes: list[tuple[int, int]] = []  # (channels, side) of each output
        self._readers: list[list[int]] = []
        self._input = channels, side

    def convolution(self, source: int | None, outputs: int, kernel: int, stride: int = 1, *, extra: int | None = None):
        """A convolution, with the residual operand ``extra``."""
        channels, side = self._input if source is None else self._shapes[source]
        out_side = -(-side // stride)
        return self._array(source, extra, channels * kernel * kernel, outputs, out_side, depthwise=False)

    def depthwise(self, source: int, stride: int = 1):
        """A 3 x 3 depthwise convolution."""
        channels, side = self._shapes[source]
        return self._array(source, None, 9, channels, -(-side // stride), depthwise=True)

    def pool(self, source: int, stride: int):
        """A pooling in the post-processing unit."""
        channels, side = self._shapes[source]
        cycles = side * side * -(-channels // 8)
        return self._append(source, None, (channels, max(1, side // stride)), [Mode(1, cycles, 30, cycles, 0)], 64)

    def graph(self) -> TaskGraph:
        """What was appended."""
        channels, side = self._input
        tensors = [Tensor(_words(channels, side), (), (0,))]
        for index, (shape, readers) in enumerate(zip(self._shapes, self._readers)):
            tensors.append(Tensor(_words(*shape), (index,), tuple(readers)))
        return TaskGraph(tuple(self._tasks), tuple(tensors))

    def _array(self, source: int | None, extra: int | None, reduction: int, outputs: int, side: int, depthwise: bool):
        digits = int(self._rng.choice([1, 1, 2, 2, 2, 4], p=None))
        weight_bits = int(self._rng.choice([4, 8]))
        pixels = side * side
        blocks = -(-outputs // 8)
        if depthwise:
            cycles, weights = blocks * (side + 2) * side * 3, outputs * 9
        else:
            per_cycle = 16 if weight_bits == 4 else 8
            cycles, weights = (
                blocks * -(-reduction // per_cycle) * max(8, pixels),
                outputs * reduction * weight_bits // 8,
            )
        modes = []
        for lanes in (lanes for lanes in (1, 2, 4) if lanes >= digits):
            gangs = lanes // digits
            by_channels = -(-blocks // gangs) / blocks
            by_pixels = max(8, -(-pixels // gangs)) / max(8, pixels)
            share = min(by_channels, by_pixels)
            bank = math.ceil(weights * (by_channels if by_channels <= by_pixels else 1.0))
            post = pixels * blocks
            modes.append(Mode(lanes, math.ceil(cycles * share) + 64, min(pixels, 256) + 40, post, bank))
        return self._append(source, extra, (outputs, side), modes, weights + 8 * outputs + 32 * (2 + len(modes)))

    def _append(
        self, source: int | None, extra: int | None, shape: tuple[int, int], modes: list[Mode], dram: int
    ) -> int:
        useful = [
            mode for place, mode in enumerate(modes) if all(mode.cycles < other.cycles for other in modes[:place])
        ]
        predecessors = tuple(sorted({index for index in (source, extra) if index is not None}))
        for predecessor in predecessors:
            self._readers[predecessor].append(len(self._tasks))
        self._tasks.append(Task(f"op{len(self._tasks)}", tuple(useful), predecessors, dram))
        self._shapes.append(shape)
        self._readers.append([])
        return len(self._tasks) - 1


def _words(channels: int, side: int) -> int:
    return side * side * -(-channels // 16)


def resnet(seed: int, side: int, blocks: tuple[int, ...], width: int) -> TaskGraph:
    """Residual blocks of two convolutions, ``blocks`` of each width."""
    builder = GraphBuilder(seed, side, 3)
    last = builder.convolution(None, width, 3)
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            outputs = width << stage
            first = builder.convolution(last, outputs, 3, stride)
            skip = builder.convolution(last, outputs, 1, stride) if stride == 2 else last
            last = builder.convolution(first, outputs, 3, extra=skip)
    last = builder.pool(last, side >> (len(blocks) - 1))
    builder.convolution(last, 10, 1)
    return builder.graph()


def mobilenet(seed: int, side: int, layers: tuple[tuple[int, int], ...], width: int) -> TaskGraph:
    """Depthwise and pointwise convolutions; ``layers`` are (output channels, stride)."""
    builder = GraphBuilder(seed, side, 3)
    last = builder.convolution(None, width, 3, 2)
    for outputs, stride in layers:
        last = builder.convolution(builder.depthwise(last, stride), outputs, 1)
    builder.convolution(builder.pool(last, 64), 10, 1)
    return builder.graph()


def dense(seed: int, widths: tuple[int, ...]) -> TaskGraph:
    """Matrix products one after another, of a single pixel: bound by their weights."""
    builder = GraphBuilder(seed, 1, widths[0])
    last: int | None = None
    for width in widths[1:]:
        last = builder.convolution(last, width, 1)
    return builder.graph()


def tiny_yolo(seed: int) -> TaskGraph:
    """Convolutions and poolings, then wide convolutions of few pixels."""
    builder = GraphBuilder(seed, 64, 3)
    last = builder.convolution(None, 16, 3)
    for width in (32, 64, 128):
        last = builder.convolution(builder.pool(last, 2), width, 3)
    last = builder.pool(last, 2)
    for width in (256, 256, 128):
        last = builder.convolution(last, width, 3)
    builder.convolution(last, 40, 1)
    return builder.graph()


V1 = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (128, 1), (256, 2), (256, 1))
V2 = (
    (8, 1),
    (48, 2),
    (8, 1),
    (48, 1),
    (16, 2),
    (96, 1),
    (16, 1),
    (96, 2),
    (24, 1),
    (144, 1),
    (24, 1),
    (144, 2),
    (56, 1),
)

GRAPHS = {
    "resnet8": resnet(1, 32, (1, 1, 1), 16),
    "resnet20": resnet(2, 32, (3, 3, 3), 16),
    "mobilenet_v1": mobilenet(3, 64, V1, 8),
    "dscnn": mobilenet(4, 32, ((64, 1),) * 4, 64),
    "autoencoder": dense(5, (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)),
    "resnet18": resnet(6, 32, (2, 2, 2, 2), 32),
    "mobilenet_v2": mobilenet(7, 64, V2, 16),
    "yolo": tiny_yolo(8),
}
"""Eight networks."""

WORKLOADS = (
    ("resnet8*2", "dscnn*4"),
    ("resnet20", "mobilenet_v1*2"),
    ("resnet18", "mobilenet_v2*2"),
    ("yolo", "autoencoder*8"),
    ("resnet20*2", "dscnn*4", "autoencoder*8"),
    ("yolo", "resnet8*4", "autoencoder*16"),
    ("resnet18", "mobilenet_v1*4", "dscnn*4"),
    ("resnet18", "yolo*2", "mobilenet_v2*4"),
    ("resnet8*4", "resnet20", "dscnn*4", "autoencoder*4"),
    ("mobilenet_v1*2", "mobilenet_v2*2", "resnet8*2", "dscnn*2"),
    ("resnet18", "yolo", "resnet20*2", "mobilenet_v1*2"),
    ("resnet18", "autoencoder*12", "dscnn*8", "resnet8*4"),
)
"""Twelve mixes of two to four of them, with numbers of inferences."""


def jobs_of(workload: tuple[str, ...]) -> tuple[Job, ...]:
    """The jobs of one of `WORKLOADS`."""
    names = [(text.partition("*")[0], int(text.partition("*")[2] or 1)) for text in workload]
    return tuple(Job(name, GRAPHS[name], inferences) for name, inferences in names)
