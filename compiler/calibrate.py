"""Measures the ranges of activations and chooses their scales.

A tensor has one *base scale*, that of 16 bits, and the scales of the other depths are this times a power of
two, so that a change of depth is a rounding shift. For each depth the exponent (the *clip shift*) is chosen
that minimises the mean squared error over the calibration data: with few bits it is better to clip rare large
values than to step coarsely. The base scale itself may be up to twice as large as 16 bits need; it is chosen
in that interval such that the exponents suit the shallow depths, which costs 16 bits nothing that matters.

A network that will run at one depth may get any, so each depth's error counts the same, in decibels. Where layers
choose while the network runs, tensors of several depths meet in one run and the errors themselves add up; so their
sum counts, which is nearly the shallowest depth's alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx
import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.float_execution import batch_size, execute
from tessera.compiler.graph import STRUCTURAL, WINDOW, Graph, Node, Placement, map_shape
from tessera.compiler.quantized import BASE_DEPTH
from tessera.compiler.refinements import DEFAULT_REFINEMENTS, Refinements
from tessera.rtl.config import ACTIVATION_DEPTHS
from tessera.sim.golden.arithmetic import depth_range

_BATCH = 32
"""Samples that are computed at once; bounds the memory."""

_QUANTILES = 4096
"""Values that are kept of a tensor and batch: evenly spaced among the sorted ones, the extremes included."""

_BASE_CANDIDATES = 16
"""Base scales that are tried in one octave."""

_CLIP_CANDIDATES = 5
"""Clip shifts that are tried per depth: no clipping, and ranges of 1/2, 1/4, ... of it."""

_NEGLIGIBLE_ERROR = 1e-5
"""Part of a tensor's mean square that is added to every error: beyond 50 dB nothing is gained."""

_SMALLEST_RANGE = 1e-30
"""Tensors below this count as zero: their scales would not be normal float32 numbers."""

_FUNCTION_SAMPLES = 1024
"""Points at which it is looked whether an activation function is negative."""

_SHALLOW_DEPTHS = tuple(depth for depth in ACTIVATION_DEPTHS if depth != BASE_DEPTH)


@dataclass(frozen=True, eq=False)
class ActivationRange:
    """What calibration knows of a tensor.

    Attributes
    ----------
    minimum, maximum
        Over all samples.
    mean
        Mean of each channel.
    signed
        Whether the tensor can be negative.
    base_scale
        Scale at 16 bits, a float32 number.
    clip_shifts
        For each other depth the exponent of its scale; see `QuantizedTensor`.
    """

    minimum: float
    maximum: float
    mean: np.ndarray
    signed: bool
    base_scale: float
    clip_shifts: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the calibration data say of a network.

    Attributes
    ----------
    ranges
        Ranges of all tensors that the NPU handles, by name.
    samples
        Number of samples they come from.
    data
        These samples: for each input an array (samples, *rest of its shape*).
    """

    ranges: Mapping[str, ActivationRange]
    samples: int
    data: Mapping[str, np.ndarray]

    def format(self) -> str:
        """One line per tensor."""
        lines = [f"calibration with {self.samples} samples"]
        for name, item in self.ranges.items():
            shifts = ", ".join(f"{depth} bits: 2^{shift}" for depth, shift in sorted(item.clip_shifts.items()))
            lines.append(
                f"  {name}: {item.minimum:.6g}..{item.maximum:.6g}, "
                f"{'signed' if item.signed else 'unsigned'}, base scale {item.base_scale:.6g}, {shifts}"
            )
        return "\n".join(lines)


def calibrate(
    graph: Graph,
    data: Mapping[str, np.ndarray],
    *,
    power_of_two_io: bool = False,
    refinements: Refinements = DEFAULT_REFINEMENTS,
    adaptive: Sequence[int] = (),
) -> Calibration:
    """Runs the float network on calibration data and chooses the scales of its activations.

    Parameters
    ----------
    graph
        A prepared network (:func:`tessera.compiler.prepare`).
    data
        For each input an array (samples, *rest of its shape*) of inputs as the network will meet them.
    power_of_two_io
        Round the scales of what the NPU is given and returns (and of tensors that share them) up to powers of two, so
        that it may be floating point in DRAM. At worst this doubles a step, which is one bit of precision.
    refinements
        Whether ranges are searched (``clip_search``).
    adaptive
        Activation depths among which layers may choose while the network runs, as in :func:`tessera.compiler.quantize`.

    Raises
    ------
    CompilerError
        Data are missing, empty, of the wrong shape, or not finite; or the network computes values that are
        not finite.
    """
    samples = check_samples(graph, data)
    names = (*npu_tensors(graph), *function_operands(graph))
    observed = {name: _Observation(map_shape(graph.shapes[name])[0]) for name in names}
    for batch in run_batches(graph, data, names):
        for name, values in batch.items():
            observed[name].add(values)
    signed = _signed_tensors(graph, observed)
    exchanged = _exchanged_tensors(graph, names)
    ranges = {}
    for group in _scale_groups(graph, names):
        quantiles = np.concatenate([value for name in group for value in observed[name].quantiles])
        group_signed = any(signed[name] for name in group)
        scale, shifts = choose_scales(quantiles, group_signed, clip_search=refinements.clip_search, adaptive=adaptive)
        if power_of_two_io and not exchanged.isdisjoint(group):
            scale = 2.0 ** math.ceil(math.log2(scale))
        for name in group:
            ranges[name] = observed[name].range(group_signed, scale, shifts)
    return Calibration({name: ranges[name] for name in names}, samples, dict(data))


def run_batches(graph: Graph, data: Mapping[str, np.ndarray], names: Iterable[str]) -> Iterator[dict[str, np.ndarray]]:
    """Some tensors of the float network (samples, *shape*), for one batch of samples after another.

    Raises
    ------
    CompilerError
        Values are not finite.
    """
    names = tuple(names)
    samples = batch_size(graph.shapes, graph.inputs, data)
    for start in range(0, samples, _BATCH):
        batch = {name: np.asarray(data[name])[start : start + _BATCH] for name in graph.inputs}
        values = execute(graph, batch, names)
        for name in names:
            if not np.isfinite(values[name]).all():
                raise CompilerError(
                    f"the float network computes NaN or infinity in tensor {name!r}; repair the network"
                )
        yield values


def check_samples(graph: Graph, data: Mapping[str, np.ndarray]) -> int:
    """The number of samples in ``data``; raises `CompilerError` if they are unfit for the network."""
    samples = batch_size(graph.shapes, graph.inputs, data)
    if samples == 0:
        raise CompilerError("there are no samples; give at least one sample of every input")
    for name in graph.inputs:
        values = np.asarray(data[name])
        if not np.isfinite(values).all():
            sample = int(np.argwhere(~np.isfinite(values))[0][0])
            raise CompilerError(f"the data for input {name!r} have NaN or infinity in sample {sample}; remove it")
    return samples


def npu_tensors(graph: Graph) -> tuple[str, ...]:
    """The tensors that the NPU reads or writes: first those that it is given, then its results in order."""
    nodes = graph.placed(Placement.NPU)
    if not nodes:
        raise CompilerError(f"network {graph.name!r} is not prepared: call prepare() before this")
    results = [node.output for node in nodes]
    read = [name for node in nodes for name in node.operands]
    return tuple(dict.fromkeys([*(name for name in read if name not in results), *results]))


def function_operands(graph: Graph) -> tuple[str, ...]:
    """The operands of the activation functions that need a table; they exist only inside the post-processing."""
    return tuple(node.outputs[1] for node in graph.placed(Placement.NPU) if node.function is not None)


def choose_scales(
    values: np.ndarray, signed: bool, *, clip_search: bool = True, adaptive: Sequence[int] = ()
) -> tuple[float, dict[int, int]]:
    """Base scale (a float32 number) and clip shifts with the least error for a sample of a tensor.

    The base scale minimises the product over the shallow depths of the mean squared errors, so that each
    depth's error in decibels counts the same; if layers choose among ``adaptive`` depths, the sum over the shallow ones
    of these. Without ``clip_search`` every depth just covers all values. A tensor that is zero everywhere gets the
    range 0..1.
    """
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if max(-low, high) < _SMALLEST_RANGE:
        high = 1.0
    if not clip_search:
        base = max(_covering_base(low, high, depth, signed) for depth in ACTIVATION_DEPTHS)
        return base, {depth: BASE_DEPTH - depth for depth in _SHALLOW_DEPTHS}
    negligible = _NEGLIGIBLE_ERROR * float(np.mean(np.square(values))) + np.finfo(np.float64).tiny
    best_cost = np.inf
    best: tuple[float, dict[int, int]] = (high, {})
    for base in _base_candidates(low, high, signed):
        found = {depth: _best_shift(values, base, depth, signed) for depth in _SHALLOW_DEPTHS}
        cost = _cost({depth: error + negligible for depth, (_, error) in found.items()}, adaptive)
        if cost < best_cost:
            best_cost, best = cost, (base, {depth: shift for depth, (shift, _) in found.items()})
    return best


def _cost(errors: Mapping[int, float], adaptive: Sequence[int]) -> float:
    """What a base scale is judged by, from the mean squared errors at the shallow depths."""
    chosen = [errors[depth] for depth in adaptive if depth in errors]
    return sum(chosen) if chosen else sum(map(math.log, errors.values()))


def _base_candidates(low: float, high: float, signed: bool) -> list[float]:
    """Base scales that are tried: from the smallest that covers the range, one octave up.

    Besides evenly spaced ones those with which a depth ends where the range does (pixels of 0..255 are then
    exact at 8 bits), and the power of two (fractions with a binary denominator are exact).
    """
    smallest = _covering_base(low, high, BASE_DEPTH, signed)
    even = [float(np.float32(smallest * 2.0 ** (step / _BASE_CANDIDATES))) for step in range(_BASE_CANDIDATES)]
    ends = [_covering_base(low, high, depth, signed) for depth in _SHALLOW_DEPTHS]
    return [*even, *ends, 2.0 ** math.ceil(math.log2(smallest))]


def _covering_base(low: float, high: float, depth: int, signed: bool) -> float:
    """The smallest base scale (a float32 number) with which ``depth`` bits reach from ``low`` to ``high`` without
    clipping."""
    least, most = depth_range(depth, signed)
    return float(np.float32(max(high / most, low / least if signed else 0.0) * 2.0 ** (depth - BASE_DEPTH)))


def _best_shift(values: np.ndarray, base: float, depth: int, signed: bool) -> tuple[int, float]:
    """Clip shift with the least mean squared error, and that error."""
    widest = BASE_DEPTH - depth
    errors = {
        shift: _error(values, base * 2.0**shift, depth, signed)
        for shift in range(widest, widest - _CLIP_CANDIDATES, -1)
    }
    best = min(errors, key=errors.__getitem__)
    return best, errors[best]


def _error(values: np.ndarray, scale: float, depth: int, signed: bool) -> float:
    """Mean squared error of quantising ``values``."""
    integers = np.clip(np.rint(values / scale), *depth_range(depth, signed))
    return float(np.mean((integers * scale - values) ** 2))


class _Observation:
    """Collects a tensor's values batch by batch."""

    def __init__(self, channels: int) -> None:
        self.minimum, self.maximum = np.inf, -np.inf
        self.total = np.zeros(channels)
        self.count = 0
        self.quantiles: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Adds a batch (samples, C, H, W) or (samples, F)."""
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        by_channel = values.reshape(len(values), len(self.total), -1).astype(np.float64)
        self.total += by_channel.sum(axis=(0, 2))
        self.count += by_channel.shape[0] * by_channel.shape[2]
        ordered = np.sort(by_channel, axis=None)
        picks = np.linspace(0, ordered.size - 1, min(_QUANTILES, ordered.size)).round().astype(np.int64)
        self.quantiles.append(ordered[picks])

    def range(self, signed: bool, base_scale: float, clip_shifts: dict[int, int]) -> ActivationRange:
        """What was seen, with the scales chosen from it."""
        return ActivationRange(
            self.minimum, self.maximum, self.total / self.count, signed, base_scale, dict(clip_shifts)
        )


def _signed_tensors(graph: Graph, observed: Mapping[str, _Observation]) -> dict[str, bool]:
    """Which tensors can be negative: by the data for what the NPU is given, by the operations for its results."""
    signed = {name: observation.minimum < 0 for name, observation in observed.items()}
    for node in graph.placed(Placement.NPU):
        signed[node.output] = _can_be_negative(node, signed)
        if node.function is not None:
            operand = observed[node.outputs[1]]
            x = np.linspace(operand.minimum, operand.maximum, _FUNCTION_SAMPLES)
            signed[node.outputs[1]], signed[node.output] = True, bool(node.function(x).min() < 0)
    return signed


def _can_be_negative(node: Node, signed: Mapping[str, bool]) -> bool:
    any_operand = any(signed[name] for name in node.operands)
    if node.op in STRUCTURAL:
        return any_operand
    if node.activation[0] >= 0:
        return False
    return node.op != WINDOW or node.activation[1] < 0 or any_operand


def _exchanged_tensors(graph: Graph, names: tuple[str, ...]) -> set[str]:
    """Tensors that the host gives to the NPU or gets from it."""
    made = {node.output for node in graph.placed(Placement.NPU)}
    read = {name for node in graph.placed(Placement.HOST_AFTER) for name in node.inputs}
    return {name for name in names if name not in made or name in read or name in graph.outputs}


def storage_groups(graph: Graph) -> list[set[str]]:
    """Tensors of the NPU that are parts of others, each group with its wholes; they share scale and depth."""
    ties = networkx.Graph()
    for node in graph.placed(Placement.NPU):
        if node.op in STRUCTURAL:
            ties.add_edges_from((name, node.output) for name in node.operands)
    return list(networkx.connected_components(ties))


def _scale_groups(graph: Graph, names: tuple[str, ...]) -> list[list[str]]:
    """Tensors that share a scale: those that share storage, and a maximum and its operand, so that it only copies
    integers."""
    ties = networkx.Graph()
    ties.add_nodes_from(names)
    for group in storage_groups(graph):
        ties.add_edges_from(pairwise(group))
    for node in graph.placed(Placement.NPU):
        is_max = node.op == WINDOW and node.attributes["reduction"] == "max"
        if is_max and node.residual is None and node.function is None:
            ties.add_edge(node.inputs[0], node.output)
    return [sorted(group, key=names.index) for group in networkx.connected_components(ties)]
