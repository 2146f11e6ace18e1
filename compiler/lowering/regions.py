"""Boxes of tensors: what an operation reads to make a part of its output."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

from tessera.compiler.lowering.reduction import map_reduction
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import DEPTHWISE_TAPS
from tessera.sim.golden.network import Convolution, Operation, TensorType, Window


@dataclass(frozen=True)
class Span:
    """``size`` positions from ``start`` on, along one axis."""

    start: int
    size: int

    @property
    def stop(self) -> int:
        """First position after the span."""
        return self.start + self.size


@dataclass(frozen=True)
class Box:
    """A part of a tensor.

    Attributes
    ----------
    blocks
        Channel blocks, of ``word_digits`` channels each.
    rows, columns
        Pixels.
    """

    blocks: Span
    rows: Span
    columns: Span

    @property
    def words(self) -> int:
        """Activation words that the box needs in each bank."""
        return self.blocks.size * self.rows.size * self.columns.size


@dataclass(frozen=True)
class Part:
    """A part of an operation's reduction: channel steps, kernel rows and kernel columns, for a convolution as its
    `ReductionMapping` has them."""

    steps: Span
    rows: Span
    columns: Span

    @property
    def count(self) -> int:
        """Steps of a lane program that makes the part, and so its weight blocks."""
        return self.steps.size * self.rows.size * self.columns.size


def whole_box(tensor: TensorType, config: NpuConfig) -> Box:
    """The box that is the whole tensor."""
    return Box(Span(0, config.channel_blocks(tensor.channels)), Span(0, tensor.height), Span(0, tensor.width))


def whole_reduction(operation: Operation, config: NpuConfig) -> Part:
    """The part that is an operation's whole reduction."""
    kernel, steps = operation.kernel, 1
    if isinstance(operation, Convolution):
        mapping = map_reduction(operation, config)
        kernel, steps = mapping.kernel, mapping.channel_steps
    return Part(Span(0, steps), Span(0, kernel[0]), Span(0, kernel[1]))


def mixes_channels(operation: Operation) -> bool:
    """Whether every output channel depends on all channels of the input."""
    return isinstance(operation, Convolution) and operation.groups == 1


def input_box(operation: Operation, source: TensorType, output: Box, part: Part, config: NpuConfig) -> Box:
    """The box of the input that an output box depends on through a part of the reduction.

    Padding is left out; where all is padding a single row (or column) remains, so that a box is never empty.
    """
    (top, left, _, _), (stride_y, stride_x) = operation.padding, operation.stride
    (dilation_y, dilation_x), taps = reach(operation, config)
    if isinstance(operation, Window) and operation.repeat != (1, 1):
        sides = zip((output.rows, output.columns), operation.repeat, strict=True)
        return Box(output.blocks, *(_repeated(span, times) for span, times in sides))
    return Box(
        input_blocks(operation, output.blocks, part, config),
        _under(output.rows, part.rows, stride_y, dilation_y, 1, top, source.height),
        _under(output.columns, part.columns, stride_x, dilation_x, taps, left, source.width),
    )


def reach(operation: Operation, config: NpuConfig) -> tuple[tuple[int, int], int]:
    """Dilation (vertical, horizontal), and the adjacent input columns under a kernel column, of the mapping."""
    if not isinstance(operation, Convolution):
        return operation.dilation, 1
    mapping = map_reduction(operation, config)
    return mapping.dilation, DEPTHWISE_TAPS if mapping.depthwise else 1


def input_blocks(operation: Operation, output: Span, part: Part, config: NpuConfig) -> Span:
    """Channel blocks of the input that some channel blocks of the output depend on through a part of the reduction."""
    if not isinstance(operation, Convolution):
        return output
    mapping = map_reduction(operation, config)
    per_word = config.word_digits // config.cols
    blocks = range(output.start * per_word, min(output.stop * per_word, len(mapping.first_slices)))
    words = mapping.words(blocks, range(part.steps.start, part.steps.stop))
    return Span(words.start, len(words))


def _repeated(output: Span, times: int) -> Span:
    """The positions that a span holds, each repeated so often."""
    first = output.start // times
    return Span(first, (output.stop - 1) // times - first + 1)


def _under(output: Span, kernel: Span, stride: int, dilation: int, taps: int, before: int, size: int) -> Span:
    """Input positions 0 .. size - 1 under some kernel positions, of ``taps`` each, of some output positions."""
    first = output.start * stride + kernel.start * dilation - before
    last = (output.stop - 1) * stride + (kernel.stop - 1) * dilation + taps - 1 - before
    start = min(max(first, 0), size - 1)
    return Span(start, min(max(last, start), size - 1) - start + 1)


def pieces(span: Span, longest: int) -> list[Span]:
    """A span divided into as few nearly equal pieces of at most ``longest`` as possible."""
    count = -(-span.size // longest)
    bounds = [span.start + index * span.size // count for index in range(count + 1)]
    return [Span(start, stop - start) for start, stop in pairwise(bounds)]


def boxes(box: Box, blocks: int, rows: int, columns: int) -> Iterator[Box]:
    """A box divided into boxes of at most that many channel blocks, rows and columns, in this order."""
    axes = pieces(box.blocks, blocks), pieces(box.rows, rows), pieces(box.columns, columns)
    for parts in product(*axes):
        yield Box(*parts)


def parts(whole: Part, steps: int, rows: int, columns: int) -> tuple[Part, ...]:
    """A reduction divided into parts of at most that many channel steps, kernel rows and kernel columns."""
    axes = pieces(whole.steps, steps), pieces(whole.rows, rows), pieces(whole.columns, columns)
    return tuple(Part(*each) for each in product(*axes))


def piece_lengths(size: int) -> list[int]:
    """The lengths of the longest piece when ``size`` is divided into 1, 2, 3... nearly equal pieces."""
    root = math.isqrt(size)
    lengths = {-(-size // count) for count in range(1, root + 2)} | set(range(1, min(size, root + 1) + 1))
    return sorted(lengths, reverse=True)
