"""What a machine of a given configuration can compute, whatever its memories hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.rtl import isa
from tessera.rtl.config import DIGIT_BITS, NpuConfig
from tessera.sim.golden.network import Convolution, IntegerNetwork, Operation

_LARGEST_DIGIT = (1 << DIGIT_BITS) - 1


def check_limits(network: IntegerNetwork, config: NpuConfig) -> None:
    """Checks depths, the instruction encoding's fields, and that no accumulator can overflow.

    Raises
    ------
    CompilerError
        The first limit that is exceeded: the operation, the value, the limit and the remedy.
    """
    for problem in _problems(network, config):
        raise CompilerError(f"network {network.name!r} on {config.name!r}: {problem}")


def accumulator_demand(operation: Convolution) -> int:
    """Bits of a lane's accumulator that hold every sum of a convolution, whatever its input is.

    A lane adds products of a 4-bit digit (at most 15) and a weight, so the magnitude of a sum is at most
    15 x the sum of the magnitudes of one output channel's weights.
    """
    magnitudes = np.abs(operation.weights.astype(np.int64)).sum(axis=(1, 2, 3))
    return int(magnitudes.max() * _LARGEST_DIGIT).bit_length() + 1


def _problems(network: IntegerNetwork, config: NpuConfig) -> Iterator[str]:
    for name, tensor in network.tensors.items():
        if tensor.depth not in config.activation_depths:
            yield (
                f"tensor {name!r} has {tensor.depth} bits, but the machine has activations of "
                f"{', '.join(map(str, config.activation_depths))}; quantise it to one of these depths"
            )
    for operation in network.operations:
        for problem in (*_encoding_problems(network, operation), *_arithmetic_problems(operation, config)):
            yield f"operation {operation.name!r}: {problem}"


def _arithmetic_problems(operation: Operation, config: NpuConfig) -> Iterator[str]:
    if not isinstance(operation, Convolution):
        return
    if operation.weight_depth not in config.weight_depths:
        yield (
            f"its weights have {operation.weight_depth} bits, but the machine has weights of "
            f"{', '.join(map(str, config.weight_depths))}; quantise them to one of these depths"
        )
    needed = accumulator_demand(operation)
    if needed > config.accumulator_bits:
        yield (
            f"its sums need accumulators of {needed} bits, but the machine has {config.accumulator_bits}; "
            f"use 4-bit weights, fewer input channels, or a configuration with accumulator_bits >= {needed}"
        )


def _encoding_problems(network: IntegerNetwork, operation: Operation) -> Iterator[str]:
    """Sizes that do not fit the fields of the instruction that executes an operation."""
    instruction = isa.LaneProgram if isinstance(operation, Convolution) else isa.Window
    fields = {field.name: field for field in isa.fields_of(instruction)}
    source = network.tensors[operation.input]
    sizes = {
        "kernel": ("kernel_height", "kernel_width", operation.kernel),
        "stride": ("stride_y", "stride_x", operation.stride),
        "input": ("input_height", "input_width", (source.height, source.width)),
    }
    if isinstance(operation, Convolution):
        sizes["dilation"] = ("dilation_y", "dilation_x", operation.dilation)
    for what, (vertical, horizontal, values) in sizes.items():
        limits = fields[vertical].maximum, fields[horizontal].maximum
        if any(value > limit for value, limit in zip(values, limits, strict=True)):
            yield (
                f"its {what} is {values[0]} x {values[1]}, but an instruction has at most {limits[0]} x "
                f"{limits[1]}; split the operation in the network"
            )
