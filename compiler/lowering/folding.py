"""Folds inputs of few channels: a convolution of a row's windows, not of its pixels.

A word holds ``word_digits`` channels, of which a pixel of an image fills one or three: a lane program would spend a
cycle on each kernel column all the same. A folded input has the channels of all kernel columns in one pixel
(`tessera.sim.row_fold`): the windows of a row overlap in DRAM, where the host has put its pixels without gaps, and the
load makes a word (or a few) of each. The convolution is then one with a kernel of a single column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tessera.compiler.lowering.reduction import map_reduction
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.network import Convolution, IntegerNetwork, TensorType
from tessera.sim.program import DramFormat
from tessera.sim.row_fold import RowFold


@dataclass(frozen=True, eq=False)
class FoldedNetwork:
    """A network with the types of its inputs as they are on chip.

    Attributes
    ----------
    network
        The network, its first convolutions rewritten.
    folds
        How the inputs that are not the same in DRAM are folded, by name.
    """

    network: IntegerNetwork
    folds: Mapping[str, RowFold]


def fold_inputs(network: IntegerNetwork, config: NpuConfig, formats: Mapping[str, DramFormat]) -> FoldedNetwork:
    """Folds each input that one convolution alone reads, where the convolution then has fewer steps.

    Parameters
    ----------
    network, config
        The network and the machine.
    formats
        What inputs are in DRAM, by name; integers where nothing is said.
    """
    folds: dict[str, RowFold] = {}
    for name in network.inputs:
        convolution = _only_reader(network, name)
        if convolution is None:
            continue
        source, target = network.tensors[name], network.tensors[convolution.output]
        bits = _bits_in_dram(convolution, source, target, formats.get(name, DramFormat()), config)
        if bits is None:
            continue
        fold = _windows(convolution, source, target, bits)
        folded = _fold_convolution(convolution, fold)
        if map_reduction(folded, config).steps < map_reduction(convolution, config).steps:
            folds[name] = fold
    return FoldedNetwork(with_folds(network, folds), folds)


def with_folds(network: IntegerNetwork, folds: Mapping[str, RowFold]) -> IntegerNetwork:
    """The network with folded inputs, each of which one convolution alone reads."""
    operations = [
        _fold_convolution(operation, folds[operation.input])
        if operation.input in folds and isinstance(operation, Convolution)
        else operation
        for operation in network.operations
    ]
    tensors = network.tensors | {name: fold.on_chip for name, fold in folds.items()}
    return replace(network, tensors=tensors, operations=tuple(operations))


def _only_reader(network: IntegerNetwork, name: str) -> Convolution | None:
    """The convolution that alone reads a tensor of its own storage, if there is one that can be folded."""
    readers = [operation for operation in network.operations if name in (operation.input, operation.post.residual)]
    shares_storage = name in network.parts or network.parts_of(name)
    if shares_storage or name in network.outputs or len(readers) != 1:
        return None
    (reader,) = readers
    if not isinstance(reader, Convolution) or name == reader.post.residual:
        return None
    return reader if reader.groups == 1 and reader.dilation[1] == 1 else None


def _bits_in_dram(
    convolution: Convolution, source: TensorType, target: TensorType, values: DramFormat, config: NpuConfig
) -> int | None:
    """The least bits of a value at which there are whole bytes from one window to the next, if the margins' value can
    be in DRAM."""
    if (
        values.is_float
        and values.integers(values.reals(np.array(convolution.pad_value)), source) != convolution.pad_value
    ):
        return None
    pixels = source.channels * convolution.stride[1]
    depths = [depth for depth in config.activation_depths if depth >= source.depth]
    sizes = [values.memory_format.bits] if values.is_float else depths
    return min((bits for bits in sizes if target.width == 1 or pixels * bits % 8 == 0), default=None)


def _windows(convolution: Convolution, source: TensorType, target: TensorType, bits: int) -> RowFold:
    """The windows under the kernel; a kernel that covers the whole map sees a single one."""
    if convolution.kernel == (source.height, source.width) and not any(convolution.padding):
        return RowFold(source, 1, source.height * source.width, 1, 0, 0, convolution.pad_value, bits)
    kernel, stride, left = convolution.kernel[1], convolution.stride[1], convolution.padding[1]
    right = max(0, (target.width - 1) * stride + kernel - left - source.width)
    return RowFold(source, source.height, kernel, stride, left, right, convolution.pad_value, bits)


def _fold_convolution(convolution: Convolution, fold: RowFold) -> Convolution:
    """The convolution of the folded input: its channels are those of a window, pixel by pixel."""
    outputs, channels = convolution.weights.shape[:2]
    weights = convolution.weights.reshape(outputs, channels, -1, fold.kernel).transpose(0, 3, 1, 2)
    top, _, bottom, _ = convolution.padding
    return replace(
        convolution,
        weights=weights.reshape(outputs, fold.kernel * channels, -1, 1),
        stride=(convolution.stride[0], 1),
        padding=(top, 0, bottom, 0),
        dilation=(convolution.dilation[0], 1),
    )
