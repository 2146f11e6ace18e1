"""How the reduction of a convolution is mapped to the steps of lane programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import DEPTHWISE_TAPS
from tessera.sim.golden.network import Convolution


@dataclass(frozen=True)
class ReductionMapping:
    """The steps of the lane programs of a convolution, each of which makes a block of ``cols`` output channels.

    The input channels are divided into *slices* of ``slice_channels``, one for each step: half a word (W8) or a word
    (W4). A block of a grouped convolution reads the slices of its own groups alone.

    Attributes
    ----------
    weight_depth
        4 or 8 bits: depth of the weights as the machine takes them.
    depthwise
        Whether the programs are depthwise ones.
    kernel, dilation
        (vertical, horizontal) as in the programs; a column of a depthwise program covers ``DEPTHWISE_TAPS`` columns.
    slice_channels
        Input channels of a slice.
    channel_steps
        Slices that a block reads.
    first_slices
        The first of them, for each block.
    """

    weight_depth: int
    depthwise: bool
    kernel: tuple[int, int]
    dilation: tuple[int, int]
    slice_channels: int
    channel_steps: int
    first_slices: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Steps, and so weight blocks, of a program."""
        return math.prod(self.kernel) * self.channel_steps

    @property
    def slices_per_word(self) -> int:
        """Slices of a channel block."""
        return 1 if self.weight_depth == 4 else 2

    def first_word(self, block: int, step: int = 0) -> tuple[int, int]:
        """Channel block (of whole words) in which a block's reduction, or a later step of it, begins, and the half of
        it."""
        return divmod(self.first_slices[block] + step, self.slices_per_word)

    def words(self, blocks: range, steps: range) -> range:
        """Channel blocks of the input that some steps of some blocks read."""
        first = min(self.first_slices[block] for block in blocks) + steps.start
        last = max(self.first_slices[block] for block in blocks) + steps.stop
        return range(first // self.slices_per_word, -(-last // self.slices_per_word))


@lru_cache(maxsize=1024)
def map_reduction(convolution: Convolution, config: NpuConfig) -> ReductionMapping:
    """The mapping with the fewest cycles.

    A depthwise program takes ``stride`` cycles per output pixel and three kernel columns, a dense one a cycle per
    output pixel and kernel column.
    """
    depthwise_columns = -(-convolution.kernel[1] // DEPTHWISE_TAPS)
    if _can_be_depthwise(convolution, config) and convolution.stride[1] * depthwise_columns < convolution.kernel[1]:
        kernel = convolution.kernel[0], depthwise_columns
        dilation = convolution.dilation[0], DEPTHWISE_TAPS
        blocks = range(-(-convolution.output_channels // config.cols))
        return ReductionMapping(8, True, kernel, dilation, config.rows, 1, tuple(blocks))
    return _map_dense(convolution, config)


def _can_be_depthwise(convolution: Convolution, config: NpuConfig) -> bool:
    is_depthwise = convolution.groups == convolution.output_channels and convolution.weights.shape[1] == 1
    return is_depthwise and convolution.dilation[1] == 1 and 8 in config.weight_depths


def _map_dense(convolution: Convolution, config: NpuConfig) -> ReductionMapping:
    """Every block multiplies the slices from its first group's to its last group's, with zeros between the groups."""
    depth = convolution.weight_depth
    slice_channels = config.rows * (2 if depth == 4 else 1)
    inputs = convolution.weights.shape[1]
    outputs_per_group = convolution.output_channels // convolution.groups
    spans = []
    for first in range(0, convolution.output_channels, config.cols):
        last = min(first + config.cols, convolution.output_channels) - 1
        start, stop = first // outputs_per_group * inputs, (last // outputs_per_group + 1) * inputs
        spans.append((start // slice_channels, -(-stop // slice_channels)))
    channel_steps = max(stop - start for start, stop in spans)
    slices = -(-inputs * convolution.groups // slice_channels)
    first_slices = tuple(min(start, slices - channel_steps) for start, _ in spans)
    kernel, dilation = convolution.kernel, convolution.dilation
    return ReductionMapping(depth, False, kernel, dilation, slice_channels, channel_steps, first_slices)
