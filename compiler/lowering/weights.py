"""Packing of weights and parameters as the machine's memories hold them."""

from __future__ import annotations

import numpy as np

from tessera.compiler.lowering.reduction import ReductionMapping, map_reduction
from tessera.rtl.config import DIGIT_BITS, NpuConfig
from tessera.rtl.isa import DEPTHWISE_TAPS, ChannelParameters, TableEntry
from tessera.sim.footprint import used_block_beats
from tessera.sim.golden.network import Convolution, PostProcessing


def block_bytes(convolution: Convolution, config: NpuConfig) -> int:
    """Bytes of the weights of a block of ``cols`` output channels, as the weight bank holds them."""
    return map_reduction(convolution, config).steps * config.weight_block_bytes


def loaded_block_bytes(convolution: Convolution, config: NpuConfig) -> int:
    """Bytes of the weights of a block of ``cols`` output channels in DRAM: the beats of them that programs use."""
    mapping = map_reduction(convolution, config)
    return mapping.steps * used_block_beats(depthwise=mapping.depthwise, config=config) * config.beat_bytes


def pack_weights(convolution: Convolution, config: NpuConfig) -> list[np.ndarray]:
    """Weights of each block of ``cols`` output channels in the order in which lane programs take them: int8 arrays
    (kernel rows, kernel columns, channel steps, rows, cols), the kernel being that of the mapping, and the rows those
    of a weight block that are loaded."""
    mapping = map_reduction(convolution, config)
    pack = _pack_depthwise if mapping.depthwise else _pack_dense
    return [pack(convolution, config, mapping, block) for block in range(len(mapping.first_slices))]


def _pack_depthwise(convolution: Convolution, config: NpuConfig, mapping: ReductionMapping, block: int) -> np.ndarray:
    """int8 array (kernel rows, groups of columns, 1, rows, cols): the rows of the beats with the first
    ``DEPTHWISE_TAPS``."""
    weights = convolution.weights[block * config.cols : (block + 1) * config.cols, 0]
    height, width = mapping.kernel
    taps = np.zeros((config.cols, height, width * DEPTHWISE_TAPS), np.int8)
    taps[: len(weights), :, : weights.shape[2]] = weights
    rows = used_block_beats(depthwise=True, config=config) * config.beat_bytes // config.cols
    packed = np.zeros((height, width, rows, config.cols), np.int8)
    packed[:, :, :DEPTHWISE_TAPS] = taps.reshape(config.cols, height, width, DEPTHWISE_TAPS).transpose(1, 2, 3, 0)
    return packed[:, :, np.newaxis]


def _pack_dense(convolution: Convolution, config: NpuConfig, mapping: ReductionMapping, block: int) -> np.ndarray:
    """int8 array (kernel rows, kernel columns, channel steps, rows, cols)."""
    channels = mapping.channel_steps * mapping.slice_channels
    matrix = np.zeros((config.cols, channels, *mapping.kernel), np.int8)
    inputs = convolution.weights.shape[1]
    first_channel = mapping.first_slices[block] * mapping.slice_channels
    outputs_per_group = convolution.output_channels // convolution.groups
    for index, output in enumerate(range(block * config.cols, (block + 1) * config.cols)):
        if output < convolution.output_channels:
            start = output // outputs_per_group * inputs - first_channel
            matrix[index, start : start + inputs] = convolution.weights[output]
    split = matrix.reshape(config.cols, mapping.channel_steps, mapping.slice_channels, *mapping.kernel)
    words = split.transpose(3, 4, 1, 2, 0)
    if mapping.weight_depth == 4:
        low, high = words[..., : config.rows, :], words[..., config.rows :, :]
        words = (low & (1 << DIGIT_BITS) - 1) | (high << DIGIT_BITS)
    return np.ascontiguousarray(words.astype(np.int8))


def pack_table(table: np.ndarray) -> bytes:
    """The entries of a table (segments, 2), see `PostProcessing.table`."""
    return b"".join(TableEntry(int(base), int(slope)).encode() for base, slope in table)


def pack_parameters(post: PostProcessing, config: NpuConfig) -> bytes:
    """Parameters of all output channels; those that fill the last block of ``cols`` turn every sum into 0."""
    channels = [
        ChannelParameters(int(bias), int(multiplier), int(shift))
        for bias, multiplier, shift in zip(post.bias, post.multiplier, post.shift, strict=True)
    ]
    filler = ChannelParameters(0, 0, post.residual_shift if post.residual is not None else 0)
    channels += [filler] * (-len(channels) % config.cols)
    return b"".join(channel.encode() for channel in channels)
