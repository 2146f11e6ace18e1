"""Packing of weights and parameters as the machine's memories hold them."""

from __future__ import annotations

import numpy as np

from tessera.rtl.config import DIGIT_BITS, NpuConfig
from tessera.rtl.isa import ChannelParameters
from tessera.sim.golden.network import Convolution, PostProcessing


def channel_steps(channels: int, weight_depth: int, config: NpuConfig) -> int:
    """Steps per kernel position: a step covers ``rows`` input channels (W8) or ``2 * rows`` (W4)."""
    return -(-channels // channels_per_step(weight_depth, config))


def channels_per_step(weight_depth: int, config: NpuConfig) -> int:
    """Input channels that a step covers."""
    return config.rows * (2 if weight_depth == 4 else 1)


def block_bytes(convolution: Convolution, config: NpuConfig) -> int:
    """Bytes of the weights of a block of ``cols`` output channels, as the weight bank holds them."""
    _, inputs, height, width = convolution.weights.shape
    return height * width * channel_steps(inputs, convolution.weight_depth, config) * config.weight_block_bytes


def pack_weights(convolution: Convolution, config: NpuConfig) -> list[bytes]:
    """Weight blocks of each block of ``cols`` output channels, in the order in which a lane program takes
    them."""
    outputs, inputs, height, width = convolution.weights.shape
    per_step = channels_per_step(convolution.weight_depth, config)
    steps = channel_steps(inputs, convolution.weight_depth, config)
    blocks = -(-outputs // config.cols)
    padded = np.zeros((blocks * config.cols, steps * per_step, height, width), np.int8)
    padded[:outputs, :inputs] = convolution.weights
    split = padded.reshape(blocks, config.cols, steps, per_step, height, width)
    words = np.ascontiguousarray(split.transpose(0, 4, 5, 2, 3, 1))
    if convolution.weight_depth == 4:
        low, high = words[..., : config.rows, :], words[..., config.rows :, :]
        words = (low & (1 << DIGIT_BITS) - 1) | (high << DIGIT_BITS)
    return [block.tobytes() for block in words.astype(np.int8)]


def pack_parameters(post: PostProcessing, config: NpuConfig) -> bytes:
    """Parameters of all output channels; those that fill the last block of ``cols`` turn every sum into 0."""
    channels = [
        ChannelParameters(int(bias), int(multiplier), int(shift))
        for bias, multiplier, shift in zip(post.bias, post.multiplier, post.shift, strict=True)
    ]
    filler = ChannelParameters(0, 0, post.residual_shift if post.residual is not None else 0)
    channels += [filler] * (-len(channels) % config.cols)
    return b"".join(channel.encode() for channel in channels)
