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

    A lane adds products of a weight and a 4-bit digit, 0..15 or -8..7. With P the sum of one output channel's positive
    weights and N that of the negative ones' magnitudes, a sum of digits 0..15 lies within -15 N .. 15 P, and one of
    signed digits between -8 P - 7 N and 7 P + 8 N: both at most 15 max(P, N). That holds for every part of the
    sum too, so that no order of adding overflows on the way.
    """
    return (_LARGEST_DIGIT * largest_weight_sum(operation)[1]).bit_length() + 1


def largest_weight_sum(operation: Convolution) -> tuple[int, int]:
    """The output channel whose weights of one sign have the largest sum, and the magnitude of that sum."""
    weights = operation.weights.astype(np.int64)
    sums = [np.maximum(sign * weights, 0).sum(axis=(1, 2, 3)) for sign in (1, -1)]
    largest = np.maximum(*sums)
    return int(largest.argmax()), int(largest.max())


def _problems(network: IntegerNetwork, config: NpuConfig) -> Iterator[str]:
    for name, tensor in network.tensors.items():
        if tensor.depth not in config.activation_depths:
            yield (
                f"tensor {name!r} has {tensor.depth} bits, but the machine has activations of "
                f"{', '.join(map(str, config.activation_depths))}; quantise it to one of these depths"
            )
    for operation in network.operations:
        if operation.post.table is not None and not config.tables:
            yield (
                f"operation {operation.name!r}: its activation function needs a table, but the machine has tables = 0; "
                f"use a configuration with tables >= 1"
            )
        for problem in (*_encoding_problems(operation), *_arithmetic_problems(operation, config)):
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
        channel, magnitude = largest_weight_sum(operation)
        yield (
            f"its sums need accumulators of {needed} bits, but the machine has {config.accumulator_bits}: the weights "
            f"of one sign of output channel {channel} add to a magnitude of {magnitude}, and {_LARGEST_DIGIT} x "
            f"{magnitude} = {_LARGEST_DIGIT * magnitude} is not less than 2 ** {config.accumulator_bits - 1} = "
            f"{1 << config.accumulator_bits - 1}; use 4-bit weights, fewer input channels, or a configuration with "
            f"accumulator_bits >= {needed}"
        )


def _encoding_problems(operation: Operation) -> Iterator[str]:
    """Sizes that do not fit the fields of the instruction that executes an operation.

    Maps of any size are cut in bands, and kernels of convolutions in parts, so they have no limit here.
    """
    instruction = isa.LaneProgram if isinstance(operation, Convolution) else isa.Window
    fields = {field.name: field for field in isa.fields_of(instruction)}
    sizes = {"stride": ("stride_y", "stride_x", operation.stride)}
    if isinstance(operation, Convolution):
        sizes["dilation"] = ("dilation_y", "dilation_x", operation.dilation)
    else:
        sizes["kernel"] = ("kernel_height", "kernel_width", operation.kernel)
    for what, (vertical, horizontal, values) in sizes.items():
        limits = fields[vertical].maximum, fields[horizontal].maximum
        if any(value > limit for value, limit in zip(values, limits, strict=True)):
            yield (
                f"its {what} is {values[0]} x {values[1]}, but an instruction has at most {limits[0]} x "
                f"{limits[1]}; split the operation in the network"
            )
