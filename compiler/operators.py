"""The table of ONNX operators: which ones the NPU executes, and within which limits.

The limits in words and the code that checks them stand side by side. An operator that is not in the table, or
a node beyond the limits, runs on the host if it stands before or after everything that the NPU executes. So
does a node that the NPU could execute, if it stands beyond such a node (the pass ``keep_on_host``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.compiler.functions import NONLINEAR, in_region
from tessera.compiler.graph import Graph, Node, Placement, is_map, map_shape
from tessera.rtl.isa import Window, fields_of

OPSETS = range(11, 25)
"""Versions of the ONNX operators that can be read."""

_DEFAULT_EPSILON = 1e-5  # of the ONNX operator BatchNormalization

_LONGEST_STRIDE = next(field.maximum for field in fields_of(Window) if field.name == "stride_x")
"""Of a window."""

_BEYOND_HOST: dict[Placement | None, str] = {
    Placement.HOST_BEFORE: "its result is needed by a node that runs on the host",
    Placement.HOST_AFTER: "it needs the result of a node that runs on the host",
}
"""Why a node that the NPU can execute runs on the host, by its place."""

Check = Callable[[Graph, Node], str | None]


@dataclass(frozen=True)
class Operator:
    """What the compiler makes of an ONNX operator.

    Attributes
    ----------
    name
        The operator's name in ONNX.
    becomes
        What it becomes, in words.
    limits
        The limits, in words.
    check
        Says why a node is beyond the limits, or returns ``None``.
    """

    name: str
    becomes: str
    limits: str
    check: Check


def npu_problem(graph: Graph, node: Node) -> str | None:
    """Why the NPU does not execute an ONNX node, as a clause; ``None`` if it can and nothing placed the node on the
    host.
    """
    operator = OPERATORS.get(node.op)
    if operator is None:
        return f"the NPU has no operator {node.op}"
    return operator.check(graph, node) or _BEYOND_HOST.get(graph.placement.get(node.name))


def explicit_padding(graph: Graph, node: Node, kernel: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Padding (top, left, bottom, right) of a convolution or pooling node with 2-D ``kernel``.

    Resolves ``auto_pad`` and, by more padding at the end, ``ceil_mode``.
    """
    sizes = map_shape(graph.shapes[node.inputs[0]])[1:]
    outputs = map_shape(graph.shapes[node.output])[1:]
    strides, dilations = pair(node, "strides"), pair(node, "dilations")
    mode = node.attributes.get("auto_pad", "NOTSET")
    given = node.attributes.get("pads", [0, 0, 0, 0])
    begin, end = [0, 0], [0, 0]
    for axis in range(2):
        needed = (outputs[axis] - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1 - sizes[axis]
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            total = max(needed, 0)
            begin[axis] = total // 2 if mode == "SAME_UPPER" else total - total // 2
            end[axis] = total - begin[axis]
        elif mode == "NOTSET":
            begin[axis] = given[axis]
            end[axis] = max(given[2 + axis], needed - begin[axis])
    return begin[0], begin[1], end[0], end[1]


def pair(node: Node, attribute: str) -> tuple[int, int]:
    """A (vertical, horizontal) attribute that is (1, 1) if absent."""
    first, second = node.attributes.get(attribute, (1, 1))
    return int(first), int(second)


def clip_limits(graph: Graph, node: Node) -> tuple[float, float] | None:
    """(low, high) of a node that limits one map by constants for all its values; ``None`` if it is anything else."""
    if node.op == "Relu":
        return 0.0, np.inf
    limits = [-np.inf, np.inf]
    if node.op in ("Min", "Max"):
        fixed = [graph.constants[name] for name in node.inputs if name in graph.constants]
        if len(fixed) + 1 != len(node.inputs) or any(value.size != 1 for value in fixed):
            return None
        values = [float(value.reshape(())) for value in fixed]
        return (-np.inf, min(values, default=np.inf)) if node.op == "Min" else (max(values, default=-np.inf), np.inf)
    for index, name in enumerate(node.inputs[1:3]):
        if name and name not in graph.constants:
            return None
        if name:
            limits[index] = float(graph.constants[name].reshape(()))
    return limits[0], limits[1]


def slice_ranges(graph: Graph, node: Node) -> tuple[range, ...] | None:
    """The channels, rows and columns (or channels alone) that a Slice takes of a map, by rising index; ``None`` if it
    is anything else."""
    shape = graph.shapes.get(node.inputs[0], ())
    operands = [graph.constants.get(name) if name else None for name in node.inputs[1:]]
    if not is_map(shape) or len(operands) < 2 or any(name and name not in graph.constants for name in node.inputs[1:]):
        return None
    starts, stops = (value.tolist() for value in operands[:2] if value is not None)
    axes = list(range(len(starts))) if len(operands) < 3 or operands[2] is None else operands[2].tolist()
    steps = [1] * len(starts) if len(operands) < 4 or operands[3] is None else operands[3].tolist()
    ranges = [range(size) for size in shape]
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        ranges[axis] = ranges[axis][start:stop:step]
    if ranges[0] != range(1) or any(each.step < 1 for each in ranges) or ranges[1].step != 1:
        return None
    return tuple(ranges[1:])


def pad_sides(graph: Graph, node: Node) -> tuple[int, int, int, int] | None:
    """Zeros (top, left, bottom, right) that a Pad adds to a map; ``None`` if it does anything else."""
    operands = [graph.constants.get(name) if name else None for name in node.inputs[1:4]]
    if len(graph.shapes.get(node.inputs[0], ())) != 4 or not operands or operands[0] is None:
        return None
    value, axes = (*operands[1:], None, None)[:2]
    is_constant = all(not name or name in graph.constants for name in node.inputs[1:])
    if not is_constant or node.attributes.get("mode", "constant") != "constant" or (value is not None and value.any()):
        return None
    pads = np.zeros((2, 4), np.int64)
    pads[:, range(4) if axes is None else axes.tolist()] = operands[0].reshape(2, -1)
    if pads.min() < 0 or pads[:, :2].any():
        return None
    top, left, bottom, right = (int(each) for each in pads[:, 2:].ravel())
    return top, left, bottom, right


def crop_facts(graph: Graph, node: Node) -> dict[str, Any]:
    """Padding (negative) and stride of the window of 1 x 1 that takes the rows and columns of a legal Slice."""
    ranges = slice_ranges(graph, node)
    assert ranges is not None, "the table of operators has checked it"
    sides = graph.shapes[node.inputs[0]][2:]
    before = [-each.start for each in ranges[1:]]
    after = [each[-1] + 1 - size for each, size in zip(ranges[1:], sides, strict=True)]
    return {"padding": (*before, *after), "stride": tuple(each.step for each in ranges[1:])}


def integer_scales(graph: Graph, node: Node) -> tuple[int, int]:
    """How often a Resize repeats each row and column: the quotients of its output's sides and input's."""
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    return target[2] // source[2], target[3] // source[3]


def channel_constant(graph: Graph, name: str, target: str) -> np.ndarray | None:
    """A constant operand as one value per channel of the map ``target`` (K,); ``None`` if it is anything else."""
    if name not in graph.constants:
        return None
    value, shape = graph.constants[name], graph.shapes[target]
    if value.ndim > len(shape) or not np.issubdtype(value.dtype, np.floating):
        return None
    aligned = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if any(size != 1 for axis, size in enumerate(aligned.shape) if axis != 1):
        return None
    return np.broadcast_to(aligned.reshape(-1), (shape[1],)).copy()


@dataclass(frozen=True, eq=False)
class Affine:
    """A node that computes ``scale[c] * source[c] + offset[c]`` for each channel c: float64 arrays (K,)."""

    source: str
    scale: np.ndarray
    offset: np.ndarray


def affine_of(graph: Graph, node: Node) -> Affine | None:
    """What a node multiplies and adds per channel; ``None`` if it does anything else."""
    if node.op == "BatchNormalization":
        gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in node.inputs[1:5])
        scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", _DEFAULT_EPSILON))
        return Affine(node.inputs[0], scale, beta - mean * scale)
    if node.op == "Neg" and is_map(graph.shapes[node.output]):
        one = np.ones(graph.shapes[node.output][1])
        return Affine(node.inputs[0], -one, 0 * one)
    if node.op not in ("Add", "Sub", "Mul", "Div"):
        return None
    variables = [name for name in node.inputs if name not in graph.constants]
    if len(variables) != 1 or graph.shapes[variables[0]] != graph.shapes[node.output]:
        return None
    constants = [channel_constant(graph, name, node.output) for name in node.inputs if name in graph.constants]
    return _affine(node, variables[0], constants[0]) if constants and constants[0] is not None else None


def _affine(node: Node, source: str, constant: np.ndarray) -> Affine | None:
    """The sum, difference, product or quotient of a map and a constant per channel."""
    value = constant.astype(np.float64)
    one, zero = np.ones_like(value), np.zeros_like(value)
    is_first = node.inputs[0] == source
    if node.op == "Mul":
        return Affine(source, value, zero)
    if node.op == "Div":
        return Affine(source, 1 / value, zero) if is_first and value.all() else None
    if node.op == "Add":
        return Affine(source, one, value)
    return Affine(source, one, -value) if is_first else Affine(source, -one, value)


def _check_convolution(graph: Graph, node: Node) -> str | None:
    if not _four_dimensional(graph, node):
        return "its input is no map of shape (1, C, H, W)"
    if any(name and name not in graph.constants for name in node.inputs[1:]):
        return "its weights are computed at run time, but must be constant"
    return None


def _check_product(graph: Graph, node: Node) -> str | None:
    if any(name and name not in graph.constants for name in node.inputs[1:]):
        return "its second operand is computed at run time, but must be constant"
    if len(graph.shapes[node.inputs[0]]) != 2 or graph.constants[node.inputs[1]].ndim != 2:
        return "its operands must be a vector of shape (1, F) and a constant matrix"
    if node.attributes.get("transA", 0):
        return "its attribute transA is 1, but must be 0"
    return None


def _check_batch_norm(graph: Graph, node: Node) -> str | None:
    if not is_map(graph.shapes.get(node.inputs[0], ())):
        return "its input is no map of shape (1, C, H, W) or (1, F)"
    if any(name not in graph.constants for name in node.inputs[1:]):
        return "its statistics are computed at run time, but must be constant"
    if node.attributes.get("training_mode", 0):
        return "it is in training mode; export the network for inference"
    return None


def _check_clip(graph: Graph, node: Node) -> str | None:
    if not is_map(graph.shapes.get(node.output, ())):
        return "its input is no map of shape (1, C, H, W) or (1, F)"
    if clip_limits(graph, node) is None and not in_region(graph, node):
        return "its limits are computed at run time, but must be constant"
    return None


def _check_sum(graph: Graph, node: Node) -> str | None:
    target = graph.shapes[node.output]
    maps = [name for name in node.inputs if name not in graph.constants]
    if len(maps) != 2 or any(graph.shapes[name] != target for name in maps):
        return _check_product_of_maps(graph, node)
    return None if is_map(target) else "its result is no map of shape (1, C, H, W) or (1, F)"


def _check_product_of_maps(graph: Graph, node: Node) -> str | None:
    """A constant per channel, or a part of a function of one variable."""
    target = graph.shapes[node.output]
    if not is_map(target):
        return "its result is no map of shape (1, C, H, W) or (1, F)"
    if affine_of(graph, node) is not None or in_region(graph, node):
        return None
    if any(name in graph.constants for name in node.inputs):
        return "its constant operand must have one value per channel"
    if any(graph.shapes[name] != target for name in node.inputs):
        return "its two operands have different shapes, but the NPU does not broadcast"
    return "its operands are two maps; the NPU multiplies a map only by constants and by functions of itself"


def _check_function(graph: Graph, node: Node) -> str | None:
    if not is_map(graph.shapes.get(node.output, ())):
        return "its result is no map of shape (1, C, H, W) or (1, F)"
    if not in_region(graph, node):
        return "its constants must be the same for all values"
    return None


def _check_max_pool(graph: Graph, node: Node) -> str | None:
    if len(node.outputs) > 1 and node.outputs[1]:
        return "its second output (indices) is used, but the NPU computes only the maximum"
    return _check_pool(graph, node)


def _check_average_pool(graph: Graph, node: Node) -> str | None:
    problem = _check_pool(graph, node)
    if problem is not None:
        return problem
    padding = explicit_padding(graph, node, tuple(node.attributes["kernel_shape"]))
    written = node.attributes.get("pads", [0, 0, 0, 0])
    counted = node.attributes.get("count_include_pad", 0)
    if any(padding) and not counted:
        return (
            "its padding is not counted (count_include_pad = 0), so that each position has a divisor of its "
            "own; the NPU divides all by the same"
        )
    if counted and list(padding) != list(written):
        return "its last window reaches beyond the padding (ceil_mode), which needs a divisor of its own"
    return None


def _check_pool(graph: Graph, node: Node) -> str | None:
    if not _four_dimensional(graph, node):
        return "its input is no map of shape (1, C, H, W)"
    if pair(node, "dilations") != (1, 1):
        return f"its dilation is {pair(node, 'dilations')}, but must be (1, 1)"
    kernel = tuple(node.attributes["kernel_shape"])
    if max(a - b for a, b in zip(explicit_padding(graph, node, kernel), 2 * kernel, strict=True)) >= 0:
        return "its padding is as large as its window, so that a window would be empty"
    return None


def _check_global_pool(graph: Graph, node: Node) -> str | None:
    return None if _four_dimensional(graph, node) else "its input is no map of shape (1, C, H, W)"


def _check_mean(graph: Graph, node: Node) -> str | None:
    axes: Any = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] in graph.constants:
        axes = graph.constants[node.inputs[1]].tolist()
    if not _four_dimensional(graph, node) or axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        return "it must be a mean over height and width (axes 2 and 3) of a map (1, C, H, W)"
    return None


def _check_concat(graph: Graph, node: Node) -> str | None:
    target = graph.shapes[node.output]
    if not is_map(target) or node.attributes["axis"] % len(target) != 1:
        return "it must join maps (1, C, H, W) or (1, F) along their channels (axis 1)"
    if any(name in graph.constants for name in node.inputs):
        return "it joins a constant, but the NPU joins only what it computes or is given"
    return None


def _check_split(graph: Graph, node: Node) -> str | None:
    source = graph.shapes.get(node.inputs[0], ())
    if not is_map(source) or node.attributes.get("axis", 0) % len(source) != 1:
        return "it must divide a map (1, C, H, W) or (1, F) along its channels (axis 1)"
    return None


def _check_slice(graph: Graph, node: Node) -> str | None:
    ranges = slice_ranges(graph, node)
    if ranges is None or not all(map(len, ranges)):
        return (
            "it must take channels, rows or columns of a map (1, C, H, W) or (1, F) between constant limits, with "
            "rising steps, and of channels with the step 1"
        )
    if any(each.step > _LONGEST_STRIDE for each in ranges):
        return f"its step is more than {_LONGEST_STRIDE}"
    return None


def _check_upsampling(graph: Graph, node: Node) -> str | None:
    if not _four_dimensional(graph, node):
        return "its input is no map of shape (1, C, H, W)"
    attributes = node.attributes
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    if target[:2] != source[:2] or any(large % small for large, small in zip(target[2:], source[2:], strict=True)):
        return f"it changes {source} to {target}, but must enlarge height and width by integers"
    if attributes.get("mode", "nearest") != "nearest":
        return f"its mode is {attributes['mode']}, but must be nearest"
    where = attributes.get("coordinate_transformation_mode", "half_pixel")
    rounding = attributes.get("nearest_mode", "round_prefer_floor")
    if not (where == "asymmetric" and rounding == "floor") and not (where == "half_pixel" and "round" in rounding):
        return f"it rounds coordinates ({where}) by {rounding}, so that the values are not repeated equally often"
    return None


def _check_reshape(graph: Graph, node: Node) -> str | None:
    if node.inputs[0] in graph.constants:
        return None
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    if is_map(source) and is_map(target) and map_shape(source) == map_shape(target):
        return None
    if is_map(source) and len(target) == 2:
        return None
    return f"it changes the shape {source} to {target}; only flattening a map to (1, F) costs nothing"


def _check_pad(graph: Graph, node: Node) -> str | None:
    return "only a Pad of zeros, in height and width, before convolutions with explicit padding costs nothing"


def _check_transpose(graph: Graph, node: Node) -> str | None:
    return "its order of axes is not undone, and no operation of the NPU reads it as a map with the channels last"


def _check_removed(graph: Graph, node: Node) -> str | None:
    return None


def _four_dimensional(graph: Graph, node: Node) -> bool:
    shape = graph.shapes.get(node.inputs[0], ())
    return is_map(shape) and len(shape) == 4


def _table(*rows: Operator) -> dict[str, Operator]:
    return {row.name: row for row in rows}


_COPY = "a 1 x 1 window"
_FUNCTION_LIMITS = "maps; also as a part of a function of one variable, in any combination"

OPERATORS = _table(
    Operator(
        "Conv",
        "convolution",
        "1-D and 2-D, constant weights; any groups, stride, dilation and (asymmetric) padding, auto_pad included",
        _check_convolution,
    ),
    Operator(
        "Gemm",
        "fully connected layer",
        "(1, F) times a constant matrix, transA = 0; any alpha, beta, transB",
        _check_product,
    ),
    Operator(
        "MatMul",
        "fully connected layer, or 1 x 1 convolution",
        "(1, F), (1, L, F) or (1, H, W, F) times a constant matrix",
        _check_product,
    ),
    Operator(
        "BatchNormalization",
        "folded into the convolution before it, else a 1 x 1 convolution",
        "constant statistics, inference mode",
        _check_batch_norm,
    ),
    *(
        Operator(name, f"limits of the operation before it, else {_COPY}", limits, _check_clip)
        for name, limits in (
            ("Relu", "maps"),
            ("Clip", "maps, constant limits"),
            ("Min", "a map and constants for all values"),
            ("Max", "a map and constants for all values"),
        )
    ),
    *(
        Operator(
            name,
            f"residual operand of the operation before it, else {_COPY}; with a constant as Mul",
            "two maps of the same shape, or a map and one constant per channel",
            _check_sum,
        )
        for name in ("Add", "Sub")
    ),
    *(
        Operator(
            name,
            "folded into the convolution before it, else a 1 x 1 convolution; or part of a function",
            limits,
            _check_product_of_maps,
        )
        for name, limits in (
            ("Mul", "a map and one constant per channel; or a map and a function of itself"),
            ("Div", "a map by one constant per channel; or in a function"),
            ("Neg", "maps"),
        )
    ),
    *(
        Operator(name, f"table of the operation before it, else of {_COPY}", _FUNCTION_LIMITS, _check_function)
        for name in NONLINEAR
    ),
    *(
        Operator(name, f"table of the operation before it, else of {_COPY}", limits, _check_function)
        for name, limits in (("Pow", "a constant exponent; maps"), ("PRelu", "one slope for all values; maps"))
    ),
    Operator(
        "MaxPool",
        "window (maximum)",
        "1-D and 2-D, no dilation, no indices; auto_pad and ceil_mode included",
        _check_max_pool,
    ),
    Operator(
        "AveragePool",
        "window (sum)",
        "1-D and 2-D, no dilation; without padding, or with count_include_pad = 1",
        _check_average_pool,
    ),
    Operator("GlobalAveragePool", "window (sum)", "2-D", _check_global_pool),
    Operator("GlobalMaxPool", "window (maximum)", "2-D", _check_global_pool),
    Operator(
        "Concat",
        "nothing: its operands are written into the result; a copy where one begins within an activation word, "
        "or is in two results",
        "along the channels of maps",
        _check_concat,
    ),
    Operator(
        "Split",
        "nothing; a copy where a part begins within an activation word",
        "along the channels of a map",
        _check_split,
    ),
    Operator(
        "Slice",
        f"channels: as Split; rows and columns: {_COPY}",
        f"constant limits; rising steps, up to {_LONGEST_STRIDE}, and 1 for channels",
        _check_slice,
    ),
    Operator(
        "Resize",
        f"{_COPY} that repeats pixels",
        "nearest, to integer multiples of height and width; asymmetric with floor, or half_pixel",
        _check_upsampling,
    ),
    Operator("ReduceMean", "window (sum)", "over the axes 2 and 3 of a map", _check_mean),
    Operator("Flatten", "nothing", "to (1, F); before a fully connected layer or where H = W = 1", _check_reshape),
    Operator("Reshape", "nothing", "as Flatten", _check_reshape),
    Operator("Squeeze", "nothing", "as Flatten", _check_reshape),
    Operator("Unsqueeze", "nothing", "as Flatten", _check_reshape),
    Operator(
        "Transpose",
        "nothing",
        "channels first to last, or back, between operators of the NPU; else left to the host",
        _check_transpose,
    ),
    Operator("Pad", "padding of the convolution behind it", "zeros, in height and width", _check_pad),
    Operator("Identity", "nothing", "none", _check_removed),
    Operator("Dropout", "nothing", "inference mode", _check_removed),
    Operator("Constant", "a constant", "none", _check_removed),
)
"""Operators that the NPU executes or that cost nothing, by name."""
