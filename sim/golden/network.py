"""Integer networks: what the machine computes, before anything is said about where or when.

An :class:`IntegerNetwork` is the interface between the quantiser, which makes it, and everything that
executes or checks it. It holds integers only; scales belong to the quantised network it was made from.

Each operation reduces its input to sums, and its :class:`PostProcessing` turns the sums into activations,
with exact integers, per output channel c::

    total = (sum + bias[c]) * multiplier[c]
    total += (residual * residual_multiplier) << (shift[c] - residual_shift)      (with a residual operand)
    value = clamp(round_half_even(total / 2 ** shift[c]), clamp_low, clamp_high)
    value = look_up(value) in the table                                           (with a table)
    output = saturate(value, depth of the output tensor)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np

from tessera.rtl.config import ACTIVATION_DEPTHS, WEIGHT_DEPTHS
from tessera.rtl.isa import ChannelParameters, Field, PostProcess, TableEntry, fields_of
from tessera.sim.golden.arithmetic import depth_range

MAX_BIAS = 1 << 30
"""The magnitude of every bias is less than this."""

MAX_MULTIPLIER = (1 << ChannelParameters.MULTIPLIER_BITS) - 1
MAX_SHIFT = ChannelParameters.MAX_SHIFT
MAX_RESIDUAL_ALIGNMENT = ChannelParameters.MAX_RESIDUAL_ALIGNMENT

REDUCTIONS = ("sum", "max")
"""What a :class:`Window` can make of the values under it."""


def _post_field(name: str) -> Field:
    return next(field for field in fields_of(PostProcess) if field.name == name)


CLAMP_RANGE = (_post_field("clamp_low").minimum, _post_field("clamp_high").maximum)
"""Limits of the activation function's limits; as clamp values they mean "no activation function"."""


class NetworkError(ValueError):
    """An integer network that means nothing; the sentence names the operation or tensor, the value and the limit."""


@dataclass(frozen=True)
class TensorType:
    """Type of an activation tensor of one sample: its shape (channels, height, width) and its integers.

    Attributes
    ----------
    channels, height, width
        Shape; a vector has height = width = 1.
    depth
        4, 6, 8 or 16 bits.
    signed
        Two's complement if true, else never negative.
    """

    channels: int
    height: int
    width: int
    depth: int
    signed: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value."""
        return depth_range(self.depth, self.signed)

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width} {'s' if self.signed else 'u'}{self.depth}"


@dataclass(frozen=True, eq=False)
class PostProcessing:
    """From the sums of an operation to its output; the formula is in the module's description.

    Attributes
    ----------
    bias, multiplier, shift
        int64 arrays with one element per output channel: |bias| < 2 ** 30, multiplier 0..65535, shift 0..47.
    clamp_low, clamp_high
        Limits of the activation function in integers of the output, 17 bits signed.
    residual
        Name of the residual operand's tensor, of the shape of the output; ``None`` if there is none.
    residual_multiplier, residual_shift
        Scale of the residual operand; ``0 <= shift[c] - residual_shift <= 15`` for every channel.
    table
        A function that follows the clamp, whose limits then have 16 bits: int64 array (``TableEntry.SEGMENTS``, 2) of
        base and slope as `tessera.rtl.isa.TableEntry` describes them; ``None`` if there is none.
    """

    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    clamp_low: int = CLAMP_RANGE[0]
    clamp_high: int = CLAMP_RANGE[1]
    residual: str | None = None
    residual_multiplier: int = 0
    residual_shift: int = 0
    table: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution, or a fully connected layer (its kernel is the whole input map).

    Attributes
    ----------
    name, input, output
        Name of the operation and of its tensors.
    weights
        int8 array (output channels, input channels per group, kernel height, kernel width).
    weight_depth
        4 or 8 bits, signed.
    stride, dilation
        (vertical, horizontal).
    padding
        Rows and columns added at (top, left, bottom, right).
    pad_value
        Integer that the added positions hold.
    post
        What is done with the sums.
    groups
        Into how many groups the channels are divided: each group of output channels sees its own group of input
        channels alone. As many as channels make a depthwise convolution.
    """

    name: str
    input: str
    output: str
    weights: np.ndarray
    weight_depth: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    pad_value: int
    post: PostProcessing
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, int]:
        """(height, width) of the kernel."""
        return self.weights.shape[2], self.weights.shape[3]

    @property
    def output_channels(self) -> int:
        """Number of output channels."""
        return self.weights.shape[0]


@dataclass(frozen=True, eq=False)
class Window:
    """Pooling, global pooling and, as the sum of a 1 x 1 window, copying, requantising and adding a residual.

    Works per channel. Positions outside the input (padding) are skipped: they add nothing to a sum and never
    are the maximum. Every window must lie on the input with at least one position.

    Attributes
    ----------
    name, input, output
        Name of the operation and of its tensors.
    reduction
        ``"sum"`` or ``"max"`` of the values under the window.
    kernel, stride
        (height, width), (vertical, horizontal).
    padding
        Rows and columns added at (top, left, bottom, right); a negative number crops the input.
    post
        What is done with the reduced values.
    repeat
        How often each row, and each column, of a window of 1 x 1 is repeated: upsampling to the nearest value.
    """

    name: str
    input: str
    output: str
    reduction: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    post: PostProcessing
    repeat: tuple[int, int] = (1, 1)

    @property
    def dilation(self) -> tuple[int, int]:
        """Windows are never dilated."""
        return 1, 1


Operation = Convolution | Window


@dataclass(frozen=True)
class Part:
    """Says that a tensor is some channels of another one: nothing is computed, the integers are the same.

    A tensor whose channels are all made as parts is their concatenation; a part of a tensor that is made as a whole is
    a slice of it.

    Attributes
    ----------
    whole
        Name of the other tensor, of the same height, width, depth and sign.
    channel
        Its channel that is channel 0 of the part.
    """

    whole: str
    channel: int


@dataclass(frozen=True)
class Derivation:
    """How a tensor is derived from others.

    Attributes
    ----------
    whole
        The tensor of which it is a part, or ``None``.
    pieces
        The parts that it consists of, by their first channel, if there is no such whole.
    asked
        The tensors that are derived with it: the whole and the pieces are not derived from them.
    """

    whole: str | None
    pieces: tuple[str, ...]
    asked: frozenset[str]


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A network of integer operations.

    Attributes
    ----------
    name
        Name of the network.
    tensors
        Every activation tensor by name.
    inputs, outputs
        Names of the tensors that are given and of those that are asked for.
    operations
        In topological order: an operation reads inputs and outputs of earlier operations, or what they are parts of or
        consist of.
    parts
        The tensors that are parts of others, by name.
    """

    name: str
    tensors: dict[str, TensorType]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    parts: Mapping[str, Part] = field(default_factory=dict)

    def parts_of(self, whole: str) -> list[str]:
        """Names of the parts of a tensor, by their first channel."""
        names = [name for name, part in self.parts.items() if part.whole == whole]
        return sorted(names, key=lambda name: self.parts[name].channel)

    def is_known(self, name: str, known: Collection[str], asked: frozenset[str] = frozenset()) -> bool:
        """Whether a tensor is among ``known`` ones, or can be derived from them (not by way of those in ``asked``)."""
        return name in known or self.derivation(name, known, asked) is not None

    def derivation(self, name: str, known: Collection[str], asked: frozenset[str] = frozenset()) -> Derivation | None:
        """How a tensor that is not known is derived from known ones; ``None`` if it cannot be."""
        if name in asked or name not in self.tensors:
            return None
        asked |= {name}
        if name in self.parts and self.is_known(self.parts[name].whole, known, asked):
            return Derivation(self.parts[name].whole, (), asked)
        pieces = tuple(each for each in self.parts_of(name) if self.is_known(each, known, asked))
        missing = np.ones(self.tensors[name].channels, bool)
        for each in pieces:
            first = self.parts[each].channel
            missing[first : first + self.tensors[each].channels] = False
        return None if missing.any() else Derivation(None, pieces, asked)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample in convolutions and fully connected layers, padding included."""
        return sum(operation_macs(self, operation) for operation in self.operations)

    def operation(self, name: str) -> Operation:
        """The operation of that name; raises `NetworkError` if there is none."""
        for operation in self.operations:
            if operation.name == name:
                return operation
        raise NetworkError(f"network {self.name!r} has no operation {name!r}")

    def verify(self) -> None:
        """Checks that the network has a meaning.

        Names, order, shapes, the ranges of all integers and the residual alignment are checked. What a
        machine of a given configuration can hold or encode is not.

        Raises
        ------
        NetworkError
            The first problem, as a sentence.
        """
        for problem in _problems(self):
            raise NetworkError(f"network {self.name!r}: {problem}")

    def format(self) -> str:
        """The network as text, one line per operation."""
        lines = [f"integer network {self.name}"]
        lines += [f"  input  {name}: {self.tensors[name]}" for name in self.inputs]
        lines += [f"  {_format_operation(self, operation)}" for operation in self.operations]
        lines += [f"  {_format_part(self, name)}" for name in self.parts]
        lines += [f"  output {name}: {self.tensors[name]}" for name in self.outputs]
        return "\n".join(lines)


def operation_macs(network: IntegerNetwork, operation: Operation) -> int:
    """Multiply-accumulates of one operation for one sample; 0 for a `Window`."""
    if isinstance(operation, Window):
        return 0
    output = network.tensors[operation.output]
    return operation.weights.size * output.height * output.width


def output_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """Positions of a window along one axis: rows (or columns) of the output."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def output_map(operation: Operation, source: TensorType) -> tuple[int, int]:
    """Height and width of an operation's output for a given input."""
    top, left, bottom, right = operation.padding
    (kernel_y, kernel_x), (stride_y, stride_x) = operation.kernel, operation.stride
    dilation_y, dilation_x = operation.dilation
    repeat_y, repeat_x = operation.repeat if isinstance(operation, Window) else (1, 1)
    return (
        output_size(source.height * repeat_y, kernel_y, stride_y, top, bottom, dilation_y),
        output_size(source.width * repeat_x, kernel_x, stride_x, left, right, dilation_x),
    )


def _problems(network: IntegerNetwork) -> Iterator[str]:
    for name, tensor in network.tensors.items():
        yield from _tensor_problems(name, tensor)
    for name in (*network.inputs, *network.outputs):
        if name not in network.tensors:
            yield f"{name!r} is an input or output, but no tensor"
    for name in network.parts:
        yield from _part_problems(network, name)
    known = set(network.inputs)
    names: set[str] = set()
    for operation in network.operations:
        if operation.name in names:
            yield f"two operations are called {operation.name!r}"
        names.add(operation.name)
        for problem in _operation_problems(network, operation, known):
            yield f"operation {operation.name!r}: {problem}"
        known.add(operation.output)
    for name in network.outputs:
        if not network.is_known(name, known):
            yield f"output {name!r} is never computed"


def _tensor_problems(name: str, tensor: TensorType) -> Iterator[str]:
    if min(tensor.shape) < 1:
        yield f"tensor {name!r} has the shape {tensor.shape}, but each side must be at least 1"
    if tensor.depth not in ACTIVATION_DEPTHS:
        depths = ", ".join(map(str, ACTIVATION_DEPTHS))
        yield f"tensor {name!r} has {tensor.depth} bits, but depths are {depths}"


def _part_problems(network: IntegerNetwork, name: str) -> Iterator[str]:
    part, tensors = network.parts[name], network.tensors
    if name not in tensors or part.whole not in tensors:
        yield f"{name!r} is a part of {part.whole!r}, but both must be tensors"
        return
    here, whole = tensors[name], tensors[part.whole]
    if replace(here, channels=whole.channels) != whole:
        yield f"{name!r} is {here}, but its whole {part.whole!r} is {whole}; they may differ in channels alone"
    if not 0 <= part.channel <= whole.channels - here.channels:
        yield (
            f"{name!r} has the channels {part.channel}..{part.channel + here.channels - 1} of {part.whole!r}, "
            f"which has {whole.channels}"
        )


def _operation_problems(network: IntegerNetwork, operation: Operation, known: set[str]) -> Iterator[str]:
    for name in (operation.input, operation.post.residual):
        if name is not None and not network.is_known(name, known):
            yield f"{name!r} is read before it is computed"
    if operation.output not in network.tensors:
        yield f"its output {operation.output!r} is no tensor of the network"
    if network.is_known(operation.output, known):
        yield f"its output {operation.output!r} is computed twice"
    source, target = network.tensors[operation.input], network.tensors[operation.output]
    if isinstance(operation, Convolution):
        yield from _convolution_problems(operation, source)
        channels = operation.output_channels
    else:
        yield from _window_problems(operation)
        channels = source.channels
    yield from _geometry_problems(operation)
    shape = (channels, *output_map(operation, source))
    if shape != target.shape:
        yield f"its output {operation.output!r} has the shape {target.shape}, but must have {shape}"
    yield from _post_problems(network, operation.post, target)


def _convolution_problems(operation: Convolution, source: TensorType) -> Iterator[str]:
    weights = operation.weights
    if weights.dtype != np.int8 or weights.ndim != 4:
        yield f"weights must be an int8 array of 4 dimensions, not {weights.dtype} of {weights.ndim}"
    if operation.weight_depth not in WEIGHT_DEPTHS:
        depths = ", ".join(map(str, WEIGHT_DEPTHS))
        yield f"weights have {operation.weight_depth} bits, but depths are {depths}"
    if operation.groups < 1 or len(weights) % operation.groups:
        yield f"its {len(weights)} output channels cannot be divided into {operation.groups} groups"
    if min(weights.shape) < 1 or weights.shape[1] * operation.groups != source.channels:
        groups = "" if operation.groups == 1 else f" in {operation.groups} groups"
        yield f"weights of shape {weights.shape} do not fit an input of {source.channels} channels{groups}"
    low, high = depth_range(operation.weight_depth, signed=True)
    if weights.min() < low or weights.max() > high:
        yield f"weights {weights.min()}..{weights.max()} are outside {low}..{high}"
    low, high = source.range
    if not low <= operation.pad_value <= high:
        yield f"pad value {operation.pad_value} is outside the input's range {low}..{high}"


def _window_problems(operation: Window) -> Iterator[str]:
    if operation.reduction not in REDUCTIONS:
        yield f"reduction must be one of {', '.join(REDUCTIONS)}, not {operation.reduction!r}"
    for side, pad, kernel in zip(
        ("top", "left", "bottom", "right"), operation.padding, 2 * operation.kernel, strict=True
    ):
        if pad >= kernel:
            yield f"padding {pad} ({side}) must be less than the window's side {kernel}"
    if min(operation.repeat) < 1:
        yield f"repeat {operation.repeat} must be at least 1"
    shape = (operation.kernel, operation.stride, operation.padding)
    if operation.repeat != (1, 1) and shape != ((1, 1), (1, 1), (0, 0, 0, 0)):
        yield f"repeat {operation.repeat} needs a window of 1 x 1 with stride 1 and without padding"


def _geometry_problems(operation: Operation) -> Iterator[str]:
    for name, values, least in (
        ("kernel", operation.kernel, 1),
        ("stride", operation.stride, 1),
        ("dilation", operation.dilation, 1),
        ("padding", operation.padding, 0 if isinstance(operation, Convolution) else -math.inf),
    ):
        if min(values) < least:
            yield f"{name} {values} must be at least {least}"


def _post_problems(network: IntegerNetwork, post: PostProcessing, target: TensorType) -> Iterator[str]:
    for name, low, high in (
        ("bias", -MAX_BIAS + 1, MAX_BIAS - 1),
        ("multiplier", 0, MAX_MULTIPLIER),
        ("shift", 0, MAX_SHIFT),
    ):
        yield from _array_problems(name, getattr(post, name), target.channels, low, high)
    low, high = CLAMP_RANGE
    if not low <= post.clamp_low <= post.clamp_high <= high:
        yield f"clamp limits {post.clamp_low}..{post.clamp_high} must rise and lie within {low}..{high}"
    if post.table is not None:
        yield from _table_problems(post, post.table, target)
    if post.residual is None:
        return
    if network.tensors[post.residual].shape != target.shape:
        shape = network.tensors[post.residual].shape
        yield f"residual {post.residual!r} has the shape {shape}, not {target.shape}"
    if not 0 <= post.residual_multiplier <= MAX_MULTIPLIER:
        yield f"residual multiplier {post.residual_multiplier} is outside 0..{MAX_MULTIPLIER}"
    for shift in (int(post.shift.min()), int(post.shift.max())):
        if not 0 <= shift - post.residual_shift <= MAX_RESIDUAL_ALIGNMENT or post.residual_shift < 0:
            yield (
                f"shift {shift} and residual shift {post.residual_shift} differ by "
                f"{shift - post.residual_shift}, which is outside 0..{MAX_RESIDUAL_ALIGNMENT}"
            )


def _table_problems(post: PostProcessing, table: np.ndarray, target: TensorType) -> Iterator[str]:
    shape = (TableEntry.SEGMENTS, 2)
    if table.dtype != np.int64 or table.shape != shape:
        yield f"its table must be an int64 array of shape {shape}, not {table.dtype} of {table.shape}"
        return
    for name, values, signed, bits in (
        ("bases", table[:, 0], target.signed, TableEntry.BASE_BITS),
        ("slopes", table[:, 1], True, TableEntry.SLOPE_BITS),
    ):
        low, high = depth_range(bits, signed)
        if values.min() < low or values.max() > high:
            yield f"the {name} of its table, {values.min()}..{values.max()}, are outside {low}..{high}"
    low, high = depth_range(TableEntry.OPERAND_BITS, signed=True)
    if post.clamp_low < low or post.clamp_high > high:
        yield f"clamp limits {post.clamp_low}..{post.clamp_high} before a table must lie within {low}..{high}"


def _array_problems(name: str, array: np.ndarray, length: int, low: int, high: int) -> Iterator[str]:
    if array.dtype != np.int64 or array.shape != (length,):
        yield f"{name} must be an int64 array of shape {(length,)}, not {array.dtype} of {array.shape}"
    elif array.min() < low or array.max() > high:
        yield f"{name} {array.min()}..{array.max()} is outside {low}..{high}"


def _format_part(network: IntegerNetwork, name: str) -> str:
    whole, first = network.parts[name].whole, network.parts[name].channel
    return f"part   {name} = {whole} channels {first}..{first + network.tensors[name].channels - 1}"


def _format_operation(network: IntegerNetwork, operation: Operation) -> str:
    post = operation.post
    facts = [f"kernel {_pair(operation.kernel)}", f"stride {_pair(operation.stride)}"]
    if any(operation.padding):
        facts.append(f"padding {operation.padding}")
    if isinstance(operation, Convolution):
        kind = f"convolution W{operation.weight_depth}"
        facts.append(f"macs {operation_macs(network, operation)}")
        if operation.groups > 1:
            facts.append(f"groups {operation.groups}")
    else:
        kind = f"window {operation.reduction}"
    if math.prod(operation.dilation) > 1:
        facts.append(f"dilation {_pair(operation.dilation)}")
    if (post.clamp_low, post.clamp_high) != CLAMP_RANGE:
        facts.append(f"clamp {post.clamp_low}..{post.clamp_high}")
    if post.table is not None:
        facts.append("table")
    operands = operation.input if post.residual is None else f"{operation.input} + {post.residual}"
    return (
        f"{operation.output}: {network.tensors[operation.output]} = {kind} {operation.name}({operands}) "
        f"{', '.join(facts)}"
    )


def _pair(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def equal_networks(first: IntegerNetwork, second: IntegerNetwork) -> bool:
    """Whether two networks are the same bit by bit: tensors, operations and every integer."""
    return (
        (first.name, first.tensors, first.inputs, first.outputs, first.parts)
        == (second.name, second.tensors, second.inputs, second.outputs, second.parts)
        and len(first.operations) == len(second.operations)
        and all(map(_equal_parts, first.operations, second.operations))
    )


def _equal_parts(first: object, second: object) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, Convolution | Window | PostProcessing):
        return all(_equal_parts(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))
    return first == second
