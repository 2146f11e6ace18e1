"""From the quantised network to the integers that the machine computes."""

from __future__ import annotations

import math

import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.fixed_point import LARGEST_RATIO, MAX_SHIFT, fixed_point, normal_shift
from tessera.compiler.functions import tabulate
from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork, QuantizedOperation
from tessera.rtl.isa import TableEntry
from tessera.sim.golden.arithmetic import depth_range
from tessera.sim.golden.network import (
    CLAMP_RANGE,
    MAX_BIAS,
    MAX_RESIDUAL_ALIGNMENT,
    Convolution,
    IntegerNetwork,
    NetworkError,
    Operation,
    PostProcessing,
    Window,
)


class ScaleError(CompilerError):
    """Scales of an operation that the machine's multipliers, shifts or biases cannot express.

    Parameters
    ----------
    operation
        Its name.
    problem
        What is wrong, with value and limit; part of a sentence.
    remedy
        What to change.
    """

    def __init__(self, operation: str, problem: str, remedy: str) -> None:
        super().__init__(f"operation {operation!r}: {problem}; {remedy}")
        self.problem = problem


def to_integer(quantized: QuantizedNetwork, operations: tuple[Operation, ...] | None = None) -> IntegerNetwork:
    """The integer network of a quantised network; the same input gives the same integers on every machine.

    Parameters
    ----------
    quantized
        The network.
    operations
        Its operations if they are known; default what `integer_operation` makes of each.

    Raises
    ------
    CompilerError
        Scales that the machine's multipliers, shifts or biases cannot express (`ScaleError`). A network that this
        compiler quantised never has such scales at its own depths.
    """
    network = IntegerNetwork(
        name=quantized.name,
        tensors={name: tensor.type for name, tensor in quantized.tensors.items()},
        inputs=quantized.npu_inputs,
        outputs=quantized.npu_outputs,
        operations=operations or tuple(integer_operation(quantized, each) for each in quantized.operations),
        parts=dict(quantized.parts),
    )
    try:
        network.verify()
    except NetworkError as error:
        raise CompilerError(str(error)) from None
    return network


def sum_scales(quantized: QuantizedNetwork, operation: QuantizedOperation) -> np.ndarray:
    """Real value of one step of an operation's sums, per output channel (float64)."""
    source = quantized.tensors[operation.input]
    if isinstance(operation, QuantizedConvolution):
        return source.scale * operation.weight_scales.astype(np.float64)
    return np.full(source.type.channels, source.scale / operation.divisor)


def integer_operation(quantized: QuantizedNetwork, operation: QuantizedOperation) -> Operation:
    """The integer form of one operation of a quantised network.

    Per output channel, the multiplier and shift are those nearest to ``scale of the sums / scale of the
    output``, where a sum's scale is input scale x weight scale (convolution) or input scale / divisor
    (window). The bias is rounded half to even to the scale of the sums.

    Raises
    ------
    ScaleError
        The machine cannot express its scales.
    """
    post = _post_processing(quantized, operation)
    if isinstance(operation, QuantizedConvolution):
        return Convolution(
            name=operation.name,
            input=operation.input,
            output=operation.output,
            weights=operation.weights,
            weight_depth=operation.weight_depth,
            stride=operation.stride,
            padding=operation.padding,
            dilation=operation.dilation,
            groups=operation.groups,
            pad_value=0,
            post=post,
        )
    return Window(
        name=operation.name,
        input=operation.input,
        output=operation.output,
        reduction=operation.reduction,
        kernel=operation.kernel,
        stride=operation.stride,
        padding=operation.padding,
        post=post,
        repeat=operation.repeat,
    )


def _post_processing(quantized: QuantizedNetwork, operation: QuantizedOperation) -> PostProcessing:
    scales = sum_scales(quantized, operation)
    target = quantized.tensors[operation.output]
    step = quantized.result_scale(operation)
    ratio = scales / step
    if not (ratio > 0).all() or ratio.max() > LARGEST_RATIO + 0.5:
        raise ScaleError(
            operation.name,
            f"a step of its sums is {ratio.min():g}..{ratio.max():g} steps of its output, but must lie between 0 and "
            f"{LARGEST_RATIO:g}",
            "give the output a larger scale",
        )
    multiplier, shift = fixed_point(ratio)
    low, high = (_clamp_limit(limit, step) for limit in operation.activation)
    table = None
    if operation.function is not None:
        low, high = np.clip((low, high), *depth_range(TableEntry.OPERAND_BITS, signed=True)).tolist()
        table = tabulate(operation.name, operation.function.function, step, target.scale, target.depth, target.signed)
    residual_multiplier, residual_shift = _residual(quantized, operation, shift)
    return PostProcessing(
        bias=_integer_bias(operation, scales),
        multiplier=multiplier,
        shift=shift,
        clamp_low=low,
        clamp_high=high,
        residual=operation.residual,
        residual_multiplier=residual_multiplier,
        residual_shift=residual_shift,
        table=table,
    )


def _integer_bias(operation: QuantizedOperation, scales: np.ndarray) -> np.ndarray:
    if not isinstance(operation, QuantizedConvolution):
        return np.zeros(len(scales), np.int64)
    bias = np.rint(operation.bias.astype(np.float64) / scales)
    if np.abs(bias).max() >= MAX_BIAS:
        channel = int(np.abs(bias).argmax())
        raise ScaleError(
            operation.name,
            f"the bias of channel {channel} is {bias[channel]:.0f} steps of its sums, but its magnitude must be less "
            f"than {MAX_BIAS}",
            "give the channel a larger weight scale",
        )
    return bias.astype(np.int64)


def _residual(quantized: QuantizedNetwork, operation: QuantizedOperation, shift: np.ndarray) -> tuple[int, int]:
    """Multiplier and shift of the residual operand; its product is aligned with every channel's."""
    if operation.residual is None:
        return 0, 0
    ratio = quantized.tensors[operation.residual].scale / quantized.result_scale(operation)
    multiplier, residual_shift = fixed_point(np.array(ratio), int(shift.min()))
    if ratio > LARGEST_RATIO:
        raise ScaleError(
            operation.name,
            f"a step of its residual operand {operation.residual!r} is {ratio:g} steps of its output, but at most "
            f"{LARGEST_RATIO:g} can be expressed",
            "give the output a larger scale",
        )
    alignment = int(shift.max() - residual_shift)
    if alignment > MAX_RESIDUAL_ALIGNMENT:
        raise ScaleError(
            operation.name,
            f"its residual operand {operation.residual!r} must be shifted by {alignment} bits to be added to the "
            f"products, but the machine shifts by at most {MAX_RESIDUAL_ALIGNMENT}",
            "give its weights a larger scale",
        )
    return int(multiplier), int(residual_shift)


def residual_shift_limit(ratio: float, shift: np.ndarray) -> int:
    """Largest shift that a channel may have beside a residual operand, if ``shift`` is what the channels wish."""
    residual_shift = min(int(normal_shift(np.array(ratio))), int(shift.min()), MAX_SHIFT)
    return min(residual_shift + MAX_RESIDUAL_ALIGNMENT, MAX_SHIFT)


def _clamp_limit(limit: float, scale: float) -> int:
    low, high = CLAMP_RANGE
    return int(np.clip(np.rint(limit / scale), low, high)) if math.isfinite(limit) else (low if limit < 0 else high)
