"""Quantises a float network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tessera.compiler.calibrate import ActivationRange, Calibration, npu_tensors, storage_groups
from tessera.compiler.errors import CompilerError
from tessera.compiler.fixed_point import (
    LARGEST_RATIO,
    MULTIPLIER_BITS,
    SMALLEST_RATIO,
    fixed_point,
    normal_shift,
)
from tessera.compiler.functions import Function, domain, operand_scale
from tessera.compiler.graph import CANONICAL, CONCATENATION, CONVOLUTION, SELECTION, Graph, Node, Placement
from tessera.compiler.integer import residual_shift_limit
from tessera.compiler.paired_execution import PairedExecution, mean_moments
from tessera.compiler.precision import DepthLimits, DepthRange
from tessera.compiler.quantized import (
    QuantizedConvolution,
    QuantizedFunction,
    QuantizedNetwork,
    QuantizedOperation,
    QuantizedTensor,
    QuantizedWindow,
    hosted_names,
)
from tessera.compiler.refinements import DEFAULT_REFINEMENTS, Refinements
from tessera.compiler.rounding import LARGEST_FAN_IN, round_layer
from tessera.compiler.variants import Variants
from tessera.rtl.config import ACTIVATION_DEPTHS, WEIGHT_DEPTHS
from tessera.sim.golden.network import MAX_BIAS, Part

_GRID_TOLERANCE = 0.01
"""Part of a step by which weights on a grid may miss it, because the machine's scales differ from theirs a little."""

_CLIP_CANDIDATES = {4: np.linspace(0.4, 1.0, 31), 8: np.linspace(0.8, 1.0, 11)}
"""Parts of a channel's largest weight that are tried as the end of its range, by weight depth."""

MIN_OUTPUT_DEPTH = 8
"""Least default depth of a tensor that leaves the NPU: it costs no multiplications, and scores need the resolution."""


@dataclass(frozen=True)
class LayerDepths:
    """Depths that override the network's for one operation; ``None`` leaves the network's.

    Attributes
    ----------
    activation
        Depth of the operation's output (or of the network's input, if it is named) in bits.
    weight
        Depth of its weights in bits.
    """

    activation: int | None = None
    weight: int | None = None


def quantize(
    graph: Graph,
    calibration: Calibration,
    activation_depth: int = 8,
    weight_depth: int = 8,
    overrides: Mapping[str, LayerDepths] | None = None,
    *,
    refinements: Refinements = DEFAULT_REFINEMENTS,
    adaptive: Sequence[int] = (),
    depth_ranges: Mapping[str, DepthRange] | None = None,
) -> QuantizedNetwork:
    """The quantised network.

    Parameters
    ----------
    graph
        A prepared network (:func:`tessera.compiler.prepare`).
    calibration
        Its activation ranges (:func:`tessera.compiler.calibrate`).
    activation_depth, weight_depth
        Depths in bits of all activations and weights. What leaves the NPU has at least 8 bits.
    overrides
        Other depths by the name of an operation, or of a tensor that the NPU is given.
    refinements
        How weights and biases become integers: ``scale_search``, ``bias_correction`` and ``rounding``.
    adaptive
        Activation depths among which layers may choose while the network runs, the deepest of which is
        ``activation_depth``: its scales then suit all of them (see `tessera.compiler.adaptive`).
    depth_ranges
        Between which of them layers may choose, by the name of an operation, where that is not between all; the name ""
        stands for the network. Scales need not suit what a layer may not choose.

    Raises
    ------
    CompilerError
        A depth does not exist, or an override or a range names nothing; the deepest of the adaptive ones is another, or
        the range of a layer has none of them.
    """
    overrides = dict(overrides or {})
    _check_calibration(graph, calibration)
    check_depths(graph, activation_depth, weight_depth, overrides)
    _check_adaptive(adaptive, activation_depth)
    depths = _tensor_depths(graph, activation_depth, overrides)
    tensors = {name: _tensor(graph, name, calibration.ranges[name], depth) for name, depth in depths.items()}
    weight_depths = {name: depths.weight for name, depths in overrides.items() if depths.weight is not None}
    variants = _variants(graph, tensors, adaptive, depth_ranges or {})
    maker = _OperationMaker(graph, calibration, tensors, refinements, variants)
    operations = [maker.make(node, weight_depths.get(node.name, weight_depth)) for node in computed(graph)]
    network = assemble(graph, tensors, tuple(operations))
    return replace(network, adaptive_depths=variants.depths, limits=variants.limits) if adaptive else network


def _check_adaptive(adaptive: Sequence[int], depth: int) -> None:
    for each in adaptive:
        _check_depth("a variant", LayerDepths(each))
    if adaptive and max(adaptive) != depth:
        raise CompilerError(
            f"the network has activations of {depth} bits and variants of up to {max(adaptive)}; its own depth must be "
            "the deepest"
        )


def _variants(
    graph: Graph, tensors: dict[str, QuantizedTensor], adaptive: Sequence[int], ranges: Mapping[str, DepthRange]
) -> Variants:
    """The variants, in all of which what leaves the NPU, and what shares storage with it, keeps its depth."""
    leaving = {name for name in tensors if leaves_npu(graph, name)}
    kept = leaving.union(*(group for group in storage_groups(graph) if not leaving.isdisjoint(group)))
    depths = tuple(sorted(set(adaptive)))
    limits = _depth_limits(graph, tensors, depths, ranges) if depths else DepthLimits(DepthRange(), {})
    return Variants(computed(graph), tensors, frozenset(kept), depths, limits)


def _depth_limits(
    graph: Graph, tensors: dict[str, QuantizedTensor], depths: Sequence[int], ranges: Mapping[str, DepthRange]
) -> DepthLimits:
    """Between which of rising ``depths`` layers may choose."""
    own = {layer: tensors[name].depth for layer, name in _layer_tensors(graph).items()}
    limits = DepthLimits.within(DepthRange(depths[0], depths[-1]), own).with_ranges(graph.name, ranges)
    for problem in limits.empty_ranges((node.name for node in computed(graph)), depths):
        raise CompilerError(f"network {graph.name!r}: {problem}")
    return limits


def depths_of(network: QuantizedNetwork) -> dict[str, LayerDepths]:
    """The overrides that give a network the depths of this quantised form of it."""
    depths = {name: LayerDepths(network.tensors[name].depth) for name in network.npu_inputs}
    for operation in network.operations:
        weight = operation.weight_depth if isinstance(operation, QuantizedConvolution) else None
        depths[operation.name] = LayerDepths(network.tensors[operation.output].depth, weight)
    return depths


def largest_weight(depth: int) -> int:
    """Largest magnitude of an integer weight: 7 or 127, so that the range is symmetric."""
    return (1 << (depth - 1)) - 1


def quantize_weights(weights: np.ndarray, scales: np.ndarray, depth: int) -> np.ndarray:
    """int8 weights (K, ...) of float ``weights``: rounded half to even, symmetric (-7..7 or -127..127)."""
    top = largest_weight(depth)
    by_channel = scales.astype(np.float64).reshape(-1, *[1] * (weights.ndim - 1))
    return np.clip(np.rint(weights.astype(np.float64) / by_channel), -top, top).astype(np.int8)


def on_grid(weights: np.ndarray, scales: np.ndarray, depth: int) -> bool:
    """Whether all weights (K, ...) are integers times their scales (K,): then the network was trained for this depth,
    and wants these integers and no better ones."""
    by_channel = scales.astype(np.float64).reshape(-1, *[1] * (weights.ndim - 1))
    missed = np.abs(quantize_weights(weights, np.where(scales > 0, scales, 1), depth) * by_channel - weights)
    return bool((missed <= _GRID_TOLERANCE * by_channel).all())


def weight_scales(weights: np.ndarray, depth: int, *, search: bool = True) -> np.ndarray:
    """Per output channel the symmetric scale (float64) with the least mean squared error, or without ``search`` the one
    whose range ends at the largest weight; 0 for a channel of zeros."""
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    top = largest_weight(depth)
    widest = np.abs(flat).max(axis=1) / top
    if not search:
        return widest
    best = widest.copy()
    least = np.full(len(flat), np.inf)
    for part in _CLIP_CANDIDATES[depth]:
        scales = np.where(widest > 0, widest * part, 1.0)
        integers = np.clip(np.rint(flat / scales[:, np.newaxis]), -top, top)
        error = ((integers * scales[:, np.newaxis] - flat) ** 2).sum(axis=1)
        better = error < least
        best[better], least[better] = (widest * part)[better], error[better]
    return best


def _check_calibration(graph: Graph, calibration: Calibration) -> None:
    for name in npu_tensors(graph):
        if name not in calibration.ranges:
            raise CompilerError(
                f"the calibration has no range of tensor {name!r} of network {graph.name!r}; it comes from "
                f"another network"
            )


def check_depths(graph: Graph, activation_depth: int, weight_depth: int, overrides: Mapping[str, LayerDepths]) -> None:
    """Raises `CompilerError` if a depth does not exist, or an override names nothing."""
    known = _layer_tensors(graph)
    _check_depth("the network", LayerDepths(activation_depth, weight_depth))
    for name, depths in overrides.items():
        if name not in known:
            raise CompilerError(
                f"network {graph.name!r} has no operation {name!r} whose depths could be set; it has {', '.join(known)}"
            )
        _check_depth(name, depths)


def _check_depth(name: str, depths: LayerDepths) -> None:
    for kind, value, limits in (
        ("activation", depths.activation, ACTIVATION_DEPTHS),
        ("weight", depths.weight, WEIGHT_DEPTHS),
    ):
        if value is not None and value not in limits:
            raise CompilerError(
                f"{name}: the {kind} depth {value} does not exist; use one of {', '.join(map(str, limits))}"
            )


def computed(graph: Graph) -> list[Node]:
    """The nodes of the NPU that become operations."""
    return [node for node in graph.placed(Placement.NPU) if node.op in CANONICAL]


def _layer_tensors(graph: Graph) -> dict[str, str]:
    """The tensor whose depth is a layer's, by the name of its operation, or of the tensor if the NPU is given it."""
    results = {node.output for node in graph.placed(Placement.NPU)}
    given = {name: name for name in npu_tensors(graph) if name not in results}
    return given | {node.name: node.output for node in computed(graph)}


def _tensor_depths(graph: Graph, depth: int, overrides: Mapping[str, LayerDepths]) -> dict[str, int]:
    """The depth of each tensor; those that share storage have the deepest one of them."""
    depths = {name: _tensor_depth(graph, name, depth, overrides) for name in npu_tensors(graph)}
    for group in storage_groups(graph):
        depths |= dict.fromkeys(group, max(depths[name] for name in group))
    return {name: depths[name] for name in npu_tensors(graph)}


def _tensor_depth(graph: Graph, name: str, depth: int, overrides: Mapping[str, LayerDepths]) -> int:
    producer = next((node for node in graph.placed(Placement.NPU) if name in node.outputs), None)
    override = overrides.get(name if producer is None else producer.name, LayerDepths()).activation
    if override is not None:
        return override
    if producer is not None and leaves_npu(graph, name):
        return max(depth, MIN_OUTPUT_DEPTH)
    return depth


def leaves_npu(graph: Graph, name: str) -> bool:
    """Whether the host gets a tensor."""
    read_by_host = any(graph.placement[node.name] is Placement.HOST_AFTER for node in graph.consumers(name))
    return name in graph.outputs or read_by_host


def _tensor(graph: Graph, name: str, measured: ActivationRange, depth: int) -> QuantizedTensor:
    return QuantizedTensor(graph.shapes[name], measured.base_scale, dict(measured.clip_shifts), depth, measured.signed)


class _OperationMaker:
    """Makes a network's operations, which must be asked for in order."""

    def __init__(
        self,
        graph: Graph,
        calibration: Calibration,
        tensors: Mapping[str, QuantizedTensor],
        refinements: Refinements,
        variants: Variants,
    ) -> None:
        self._graph, self._ranges, self._tensors = graph, calibration.ranges, tensors
        self._variants = variants
        self._refinements = refinements
        # The weights are those of all variants, and fit each one's activations alike.
        runs = variants.runs() if refinements.rounding else []
        self._pairs = [PairedExecution(graph, calibration.data, each) for each in runs]

    def make(self, node: Node, weight_depth: int) -> QuantizedOperation:
        """The operation of a node."""
        common = {
            "name": node.name,
            "input": node.inputs[0],
            "output": node.output,
            "stride": node.attributes["stride"],
            "padding": node.attributes["padding"],
            "activation": node.activation,
            "residual": node.residual,
            "function": self._function(node, weight_depth),
        }
        if node.op != CONVOLUTION:
            facts = {key: node.attributes[key] for key in ("reduction", "kernel", "divisor", "repeat")}
            return QuantizedWindow(**common, **facts)
        weights, bias = (self._graph.constants[name].astype(np.float64) for name in node.inputs[1:3])
        scales = self._machine_scales(node, self._weight_scales(weights, weight_depth), bias, common["function"])
        integers, bias = self._round(node, weights, bias, scales, weight_depth)
        steps = self._tensors[node.inputs[0]].scale * scales.astype(np.float64)
        convolution = QuantizedConvolution(
            **common,
            weights=integers,
            weight_depth=weight_depth,
            weight_scales=scales,
            bias=(_limited_bias(bias / steps) * steps).astype(np.float32),
            dilation=node.attributes["dilation"],
            groups=node.attributes["groups"],
        )
        for pair in self._pairs:
            pair.replace(node, convolution)
        return convolution

    def _function(self, node: Node, weight_depth: int) -> QuantizedFunction | None:
        """The function of a node with the scale of its operand: as fine as its range, and the machine's largest factor
        between the operand and what is summed to it, allow."""
        function = node.function
        if not isinstance(function, Function):
            return None
        measured = self._ranges[node.outputs[1]]
        low, high = (float(limit) for limit in np.clip((measured.minimum, measured.maximum), *node.activation))
        variants = self._variants.of(node.name)
        term = max(self._largest_term(node, weight_depth, tensors) for tensors in variants)
        step = min(tensors[node.output].scale for tensors in variants)
        return QuantizedFunction(function, operand_step(function, (low, high), step, term))

    def _largest_term(self, node: Node, weight_depth: int, tensors: Mapping[str, QuantizedTensor]) -> float:
        """The largest real value of one step of what is summed in an operation."""
        term = tensors[node.inputs[0]].scale / node.attributes.get("divisor", 1)
        if node.op == CONVOLUTION:
            term *= self._weight_scales(self._graph.constants[node.inputs[1]], weight_depth).max()
        return term if node.residual is None else max(term, tensors[node.residual].scale)

    def _machine_scales(
        self, node: Node, scales: np.ndarray, bias: np.ndarray, function: QuantizedFunction | None
    ) -> np.ndarray:
        """The least `machine_scales` that suit all variants. What one of them raises may raise another's."""
        variants = self._variants.of(node.name)
        while True:
            raised = np.max(
                [
                    machine_scales(
                        node,
                        scales,
                        bias,
                        tensors,
                        tensors[node.output].scale if function is None else function.operand_scale,
                    )
                    for tensors in variants
                ],
                axis=0,
            )
            if len(variants) == 1 or np.array_equal(raised, scales):
                return raised
            scales = raised

    def _weight_scales(self, weights: np.ndarray, depth: int) -> np.ndarray:
        return weight_scales(weights, depth, search=self._refinements.scale_search)

    def _round(
        self, node: Node, weights: np.ndarray, bias: np.ndarray, scales: np.ndarray, depth: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Integer weights and real bias (float64) of a convolution."""
        corrects = self._refinements.bias_correction
        is_free = weights[0].size <= LARGEST_FAN_IN and not on_grid(weights, scales, depth)
        if self._pairs and is_free:
            moments = mean_moments([pair.moments(node) for pair in self._pairs])
            return round_layer(weights, bias, scales, largest_weight(depth), moments, free_bias=corrects)
        integers = quantize_weights(weights, scales, depth)
        if corrects:
            mean = self._ranges[node.inputs[0]].mean
            bias = bias + _bias_correction(weights, integers, scales, mean, node.attributes["groups"])
        return integers, bias


def _limited_bias(bias: np.ndarray) -> np.ndarray:
    """Integers near ``bias``, which the machine can hold; float32 makes them less exact later."""
    limit = MAX_BIAS * 3 // 4
    return np.clip(np.rint(bias), -limit, limit)


def operand_step(function: Function, limits: tuple[float, float], step: float, term: float) -> float:
    """Real value (a float32 number) of one step of a function's operand, the smallest that will do.

    Parameters
    ----------
    limits
        Least and largest operand.
    step
        Real value of one step of the result; smaller differences of the function do not count.
    term
        The largest real value of one step of what is summed to the operand.
    """
    scale = operand_scale(*domain(function, *limits, step / 4))
    return float(np.float32(max(scale, term / (LARGEST_RATIO / 2))))


def machine_scales(
    node: Node,
    scales: np.ndarray,
    bias: np.ndarray,
    tensors: Mapping[str, QuantizedTensor],
    step: float,
) -> np.ndarray:
    """Weight scales (float32) for which the machine's multipliers are exact; ``step`` is what the sums are scaled to.

    The wished ``scales`` (K,), of which 0 stands for a channel of zeros, are changed, by a part in 2 ** 16, such that
    ``input scale * weight scale / output scale`` is a multiplier / 2 ** shift. Where the machine's limits ask for it a
    scale is raised: channels whose weights vanish beside their bias or beside the residual operand.
    """
    unit = tensors[node.inputs[0]].scale / step
    ratio = scales * unit
    # Half of the limit, because the bias correction comes later.
    smallest = np.maximum(SMALLEST_RATIO, np.abs(bias) / step / (MAX_BIAS / 2))
    ratio = np.clip(np.where(ratio > 0, ratio, 1.0), smallest, LARGEST_RATIO)
    if node.residual is not None:
        limit = residual_shift_limit(tensors[node.residual].scale / step, normal_shift(ratio))
        ratio = np.maximum(ratio, 2.0 ** (MULTIPLIER_BITS - 1 - limit))
    multiplier, shift = fixed_point(ratio)
    return (np.ldexp(multiplier.astype(np.float64), -shift) / unit).astype(np.float32)


def _bias_correction(
    weights: np.ndarray, integers: np.ndarray, scales: np.ndarray, mean: np.ndarray, groups: int
) -> np.ndarray:
    """What the rounding of the weights takes from each channel's mean, padding left aside."""
    error = weights - integers * scales.astype(np.float64).reshape(-1, 1, 1, 1)
    if len(mean) != weights.shape[1] * groups:
        return np.zeros(len(weights))
    grouped = error.sum(axis=(2, 3)).reshape(groups, -1, weights.shape[1])
    return (grouped @ mean.reshape(groups, -1, 1)).reshape(-1)


def assemble(
    graph: Graph, tensors: dict[str, QuantizedTensor], operations: tuple[QuantizedOperation, ...]
) -> QuantizedNetwork:
    """The quantised network of a prepared one, its tensors (what the NPU is given first) and its operations."""
    before, after = graph.placed(Placement.HOST_BEFORE), graph.placed(Placement.HOST_AFTER)
    made = {node.output for node in graph.placed(Placement.NPU)}
    given = [name for name in tensors if name not in made]
    hosted = hosted_names(graph.inputs, graph.outputs, (*before, *after), given)
    return QuantizedNetwork(
        name=graph.name,
        inputs=graph.inputs,
        outputs=graph.outputs,
        shapes={name: shape for name, shape in graph.shapes.items() if name in hosted},
        tensors=tensors,
        host_before=tuple(before),
        host_after=tuple(after),
        host_constants={name: value for name, value in graph.constants.items() if name in hosted},
        opset=graph.opset,
        operations=operations,
        parts=_parts(graph),
    )


def _parts(graph: Graph) -> dict[str, Part]:
    """What the structural nodes say."""
    parts = {}
    for node in graph.placed(Placement.NPU):
        if node.op == SELECTION:
            parts[node.output] = Part(node.inputs[0], node.attributes["channel"])
        elif node.op == CONCATENATION:
            channel = 0
            for name in node.inputs:
                parts[name] = Part(node.output, channel)
                channel += graph.shapes[name][1]
    return parts
