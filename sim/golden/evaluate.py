"""Computes an integer network: the result that stream model and RTL must reproduce bit by bit.

Vectorised over a batch of samples. Convolutions are sums over kernel positions of matrix products; the
products run in floating point where every partial sum is an integer that the format represents exactly, else
in int64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tessera.sim.golden.arithmetic import look_up, round_half_even_shift, saturate
from tessera.sim.golden.network import (
    Convolution,
    IntegerNetwork,
    NetworkError,
    Operation,
    PostProcessing,
    TensorType,
    Window,
    output_map,
)
from tessera.sim.golden.taps import pad_map, taps

_EXACT_LIMITS = ((np.float32, 1 << 24), (np.float64, 1 << 53))

Compute = Callable[[Operation, Mapping[str, np.ndarray]], np.ndarray]
"""Computes an operation's output (samples, channels, height, width) from its operands by name."""


def evaluate(
    network: IntegerNetwork,
    inputs: Mapping[str, np.ndarray],
    *,
    saturations: dict[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """All tensors of a network.

    Parameters
    ----------
    network
        A network that `IntegerNetwork.verify` accepts.
    inputs
        For each input its integers, of shape (channels, height, width), or (samples, channels, height,
        width).
    saturations
        If given, gets for each operation's name the number of values that were saturated, over all samples.

    Returns
    -------
    int64 arrays by tensor name, with or without the axis of samples as the inputs have it.

    Raises
    ------
    NetworkError
        An input is missing, unknown, of the wrong shape, not an integer, or outside its range.
    """

    def compute(operation: Operation, operands: Mapping[str, np.ndarray]) -> np.ndarray:
        return compute_operation(network, operation, operands, saturations)

    return evaluate_with(network, inputs, compute)


def evaluate_with(network: IntegerNetwork, inputs: Mapping[str, np.ndarray], compute: Compute) -> dict[str, np.ndarray]:
    """Like `evaluate`, for operations that are computed by ``compute``."""
    batched = _input_form(network, inputs)
    values = {name: _input_batch(network, name, inputs[name], batched) for name in network.inputs}
    for operation in network.operations:
        names = [name for name in (operation.input, operation.post.residual) if name is not None]
        values[operation.output] = compute(operation, {name: _value(network, name, values) for name in names})
    for name in network.tensors:
        if network.is_known(name, values):
            _value(network, name, values)
    return values if batched else {name: value[0] for name, value in values.items()}


def compute_operation(
    network: IntegerNetwork,
    operation: Operation,
    operands: Mapping[str, np.ndarray],
    saturations: dict[str, int] | None = None,
) -> np.ndarray:
    """An operation's output (samples, channels, height, width) from its operands by name.

    Parameters
    ----------
    network
        Says the types of the tensors.
    operation
        One of its operations.
    operands
        int64 arrays (samples, channels, height, width).
    saturations
        If given, gets for the operation's name the number of values that were saturated.
    """
    target, residual = network.tensors[operation.output], operation.post.residual
    sums = operation_sums(operation, operands[operation.input], network.tensors[operation.input])
    unlimited = post_process(operation.post, sums, None if residual is None else operands[residual], target.depth)
    output = saturate(unlimited, target.depth, target.signed)
    if saturations is not None:
        saturations[operation.name] = int(np.count_nonzero(output != unlimited))
    return output


def _value(
    network: IntegerNetwork, name: str, values: dict[str, np.ndarray], asked: frozenset[str] = frozenset()
) -> np.ndarray:
    """A tensor; cut out of, or put together from, other values if it is not there, and then kept."""
    found = None if name in values else network.derivation(name, values, asked)
    if found is None:
        return values[name]
    if found.whole is not None:
        first = network.parts[name].channel
        whole = _value(network, found.whole, values, found.asked)
        values[name] = whole[:, first : first + network.tensors[name].channels]
        return values[name]
    pieces = {network.parts[each].channel: _value(network, each, values, found.asked) for each in found.pieces}
    result = np.zeros((len(next(iter(pieces.values()))), *network.tensors[name].shape), np.int64)
    for first, piece in pieces.items():
        result[:, first : first + piece.shape[1]] = piece
    values[name] = result
    return result


def operation_sums(operation: Operation, source: np.ndarray, source_type: TensorType) -> np.ndarray:
    """Sums (or maxima) of one operation before its post-processing.

    Parameters
    ----------
    operation
        A convolution or a window.
    source
        Input, int64 of shape (samples, channels, height, width).
    source_type
        Type of the input, which bounds its values.

    Returns
    -------
    int64 array (samples, output channels, height, width).
    """
    if isinstance(operation, Convolution):
        return _convolve(operation, source, source_type)
    return _reduce_windows(operation, source, source_type)


def post_process(post: PostProcessing, sums: np.ndarray, residual: np.ndarray | None, depth: int) -> np.ndarray:
    """From sums (samples, channels, height, width) to activations of ``depth`` bits before saturation; exact in int64.

    The depth matters to a function in a table alone.
    """
    bias, multiplier, shift = (array.reshape(1, -1, 1, 1) for array in (post.bias, post.multiplier, post.shift))
    total = (sums + bias) * multiplier
    if residual is not None:
        total += (residual * post.residual_multiplier) << (shift - post.residual_shift)
    values = np.clip(round_half_even_shift(total, shift), post.clamp_low, post.clamp_high)
    return values if post.table is None else look_up(values, post.table[:, 0], post.table[:, 1], depth)


def _convolve(operation: Convolution, source: np.ndarray, source_type: TensorType) -> np.ndarray:
    height, width = output_map(operation, source_type)
    dtype = _exact_dtype(operation, source_type)
    padded = pad_map(source, operation.padding, operation.pad_value).astype(dtype).transpose(1, 0, 2, 3)
    groups, samples = operation.groups, padded.shape[1]
    weights = operation.weights.astype(dtype).reshape(groups, -1, *operation.weights.shape[1:])
    sums = np.zeros((*weights.shape[:2], samples * height * width), dtype)
    for ky, kx, values in taps(padded, (height, width), operation.kernel, operation.stride, operation.dilation):
        sums += weights[..., ky, kx] @ values.reshape(groups, weights.shape[2], -1)
    shaped = sums.reshape(operation.output_channels, samples, height, width)
    return shaped.transpose(1, 0, 2, 3).astype(np.int64)


def _reduce_windows(operation: Window, source: np.ndarray, source_type: TensorType) -> np.ndarray:
    height, width = output_map(operation, source_type)
    is_max = operation.reduction == "max"
    neutral = source_type.range[0] if is_max else 0
    for axis, times in enumerate(operation.repeat):
        source = np.repeat(source, times, axis=2 + axis)
    reduce = np.maximum if is_max else np.add
    padded = pad_map(source, operation.padding, neutral)
    result = np.full((*source.shape[:2], height, width), neutral, dtype=np.int64)
    for _, _, values in taps(padded, (height, width), operation.kernel, operation.stride):
        reduce(result, values, out=result)
    return result


def _exact_dtype(operation: Convolution, source_type: TensorType) -> type[np.generic]:
    """The fastest number type in which no partial sum can be rounded or overflow."""
    largest_input = max(map(abs, source_type.range))
    largest_weights = np.abs(operation.weights.astype(np.int64)).sum(axis=(1, 2, 3)).max()
    for dtype, limit in _EXACT_LIMITS:
        if largest_input * int(largest_weights) < limit:
            return dtype
    return np.int64


def _input_form(network: IntegerNetwork, inputs: Mapping[str, np.ndarray]) -> bool:
    """Whether the inputs have an axis of samples; refuses missing and unknown inputs."""
    for name in network.inputs:
        if name not in inputs:
            raise NetworkError(f"network {network.name!r} needs the input {name!r}, which is not given")
    for name in inputs:
        if name not in network.inputs:
            raise NetworkError(f"network {network.name!r} has no input {name!r}; it has {', '.join(network.inputs)}")
    forms = {np.ndim(value) == 4 for value in inputs.values()}
    samples = {np.shape(value)[0] for value in inputs.values() if np.ndim(value) == 4}
    if len(forms) != 1 or len(samples) > 1:
        raise NetworkError(f"network {network.name!r}: the inputs must all have the same number of samples")
    return forms.pop()


def _input_batch(network: IntegerNetwork, name: str, value: np.ndarray, batched: bool) -> np.ndarray:
    tensor = network.tensors[name]
    value = np.asarray(value)
    if not np.issubdtype(value.dtype, np.integer):
        raise NetworkError(f"input {name!r} must hold integers, not {value.dtype}; quantise it first")
    batch = value if batched else value[np.newaxis]
    if batch.shape[1:] != tensor.shape:
        raise NetworkError(f"input {name!r} has the shape {value.shape}, but the network takes {tensor.shape}")
    low, high = tensor.range
    if batch.size and (batch.min() < low or batch.max() > high):
        raise NetworkError(f"input {name!r} has values {batch.min()}..{batch.max()}, outside {low}..{high}")
    return batch.astype(np.int64)
