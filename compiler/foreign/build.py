"""From a prepared graph, all of whose tensors have quantizers, to the quantised network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tessera.compiler.calibrate import npu_tensors
from tessera.compiler.foreign.ranges import operand_range
from tessera.compiler.foreign.weights import integer_weights, round_weights
from tessera.compiler.functions import Function
from tessera.compiler.graph import CONVOLUTION, Graph, Node, Shape
from tessera.compiler.quantize import assemble, computed, machine_scales, operand_step
from tessera.compiler.quantized import (
    BASE_DEPTH,
    QuantizedConvolution,
    QuantizedFunction,
    QuantizedNetwork,
    QuantizedOperation,
    QuantizedTensor,
    QuantizedWindow,
)
from tessera.compiler.quantizer import Quantizer
from tessera.rtl.config import ACTIVATION_DEPTHS, WEIGHT_DEPTHS
from tessera.sim.golden.arithmetic import depth_range

_BIAS_TOLERANCE = 1 / 8
"""By how much the rounding of a bias may change a result where weights get fewer bits, in steps of the result."""

_COARSE_DEPTH = 8
"""The depth of these steps where the result has more bits."""

_RAISED = 1 + 2.0**-14
"""A scale that grows by more than this is no longer the file's."""


def build(graph: Graph, notes: list[str]) -> QuantizedNetwork:
    """The quantised network; ``notes`` gets a sentence for each kind of thing that is not as in the file."""
    return _Builder(graph, notes).network()


class _Builder:
    """Builds the operations of one network."""

    def __init__(self, graph: Graph, notes: list[str]) -> None:
        self.graph = graph
        self.notes = notes
        names = npu_tensors(graph)
        self.tensors = {name: machine_tensor(graph.shapes[name], graph.quantizers[name]) for name in names}
        self.rounded: list[str] = []  # operations whose weights are not the file's

    def network(self) -> QuantizedNetwork:
        """The network."""
        operations = tuple(self.operation(node) for node in computed(self.graph))
        self.notes += tensor_notes(self.graph.quantizers, self.tensors)
        if self.rounded:
            names = ", ".join(map(repr, self.rounded))
            self.notes.append(
                f"the weights of {names} are no integers of at most {max(WEIGHT_DEPTHS)} bits times one scale per "
                "output channel that the NPU can use; they are rounded to such"
            )
        return assemble(self.graph, self.tensors, operations)

    def operation(self, node: Node) -> QuantizedOperation:
        """The operation of a canonical node."""
        target, limits = self.tensors[node.output], limits_within(self.graph, node.output)
        function = node.function if isinstance(node.function, Function) else None
        step = target.scale
        if function is None:
            low, high = (float(limit) for limit in np.clip(node.activation, *limits))
        else:
            (low, high), function = node.activation, limited(function, limits)
            step = self.operand_step(node, function)
        common = {
            "name": node.name,
            "input": node.inputs[0],
            "output": node.output,
            "stride": node.attributes["stride"],
            "padding": node.attributes["padding"],
            "activation": (low, high),
            "residual": node.residual,
            "function": None if function is None else QuantizedFunction(function, step),
        }
        if node.op == CONVOLUTION:
            return QuantizedConvolution(**common, **self.convolution(node, step))
        facts = {key: node.attributes[key] for key in ("reduction", "kernel", "divisor", "repeat")}
        return QuantizedWindow(**common, **facts)

    def operand_step(self, node: Node, function: Function) -> float:
        """The step of a function's operand; if that is a tensor already, a power of two of its step."""
        source = self.tensors[node.inputs[0]].scale
        term = source / node.attributes.get("divisor", 1)
        if node.op == CONVOLUTION:
            term *= integer_weights(self.graph.constants[node.inputs[1]], max(WEIGHT_DEPTHS)).scales.max()
        if node.residual is not None:
            term = max(term, self.tensors[node.residual].scale)
        step = operand_step(function, operand_range(self.graph, node), self.tensors[node.output].scale, term)
        if node.op == CONVOLUTION or node.residual is not None or step > source:
            return step
        return source * 2.0 ** -math.floor(math.log2(source / step))

    def convolution(self, node: Node, step: float) -> dict[str, Any]:
        """Weights, their depth and scales, bias, and geometry of a Convolution; ``step`` is its sums' in the end."""
        weights, bias = (self.graph.constants[name].astype(np.float64) for name in node.inputs[1:3])
        unit, target = self.tensors[node.inputs[0]].scale, self.tensors[node.output]
        coarse = max(target.scale, target.scale_at(_COARSE_DEPTH))
        for depth in WEIGHT_DEPTHS:
            found = integer_weights(weights, depth)
            scales = machine_scales(node, found.scales, bias, self.tensors, step)
            is_raised = (found.scales > 0) & (scales > found.scales * _RAISED)
            steps = unit * scales.astype(np.float64)
            bias_error = np.abs(np.rint(bias / steps) * steps - bias).max() / coarse
            is_exact = found.exact.all() and not is_raised.any()
            if is_exact and bias_error <= _BIAS_TOLERANCE:
                break
        if not is_exact:
            self.rounded.append(node.name)
        return {
            "weights": round_weights(weights, scales, depth),
            "weight_depth": depth,
            "weight_scales": scales,
            "bias": (np.rint(bias / steps) * steps).astype(np.float32),
            "dilation": node.attributes["dilation"],
            "groups": node.attributes["groups"],
        }


def machine_tensor(shape: Shape, quantizer: Quantizer) -> QuantizedTensor:
    """The tensor of the machine that holds what a quantizer makes.

    It has the quantizer's scale and the least depth that has all of its integers; if 16 bits are too few, the least
    scale with which they reach as far.
    """
    depth, scale = quantizer.depth, quantizer.scale
    if depth is None:
        depth = BASE_DEPTH
        low, high = depth_range(depth, quantizer.signed)
        scale = max(quantizer.limits[1] / high, quantizer.limits[0] / low if quantizer.signed else 0.0)
        scale = float(np.nextafter(np.float32(scale), np.float32(np.inf)))
    return QuantizedTensor.of_scale(shape, scale, depth, quantizer.signed)


def limits_within(graph: Graph, name: str) -> tuple[float, float]:
    """Real limits of a tensor whose quantizer has fewer integers than the machine's depth; else infinite."""
    quantizer = graph.quantizers[name]
    return (-math.inf, math.inf) if quantizer.fills_depth else quantizer.limits


def limited(function: Function, limits: tuple[float, float]) -> Function:
    """A function with its result limited."""
    if not any(map(math.isfinite, limits)):
        return function
    names = [f"constant{len(function.constants) + index}" for index in range(2)]
    values = {name: np.array(limit, np.float32) for name, limit in zip(names, limits, strict=True)}
    output = f"value{len(function.nodes)}"
    clip = Node(output, "Clip", (function.nodes[-1].output, *names), (output,))
    return replace(function, nodes=(*function.nodes, clip), constants={**function.constants, **values})


def tensor_notes(quantizers: Mapping[str, Quantizer], tensors: Mapping[str, QuantizedTensor]) -> list[str]:
    """Sentences that name the tensors which have another depth or scale than in the file."""
    deeper, coarser = [], []
    for name, tensor in tensors.items():
        quantizer = quantizers[name]
        natural = next((depth for depth in ACTIVATION_DEPTHS if depth >= quantizer.bits), max(ACTIVATION_DEPTHS))
        if quantizer.depth is None:
            coarser.append(f"{name!r} (by {tensor.scale / quantizer.scale - 1:.2g})")
        elif tensor.depth > natural:
            deeper.append(f"{name!r} ({quantizer.bits} bits, {quantizer.low}..{quantizer.high} steps)")
    notes = []
    if deeper:
        notes.append(
            f"the integers of {', '.join(deeper)} do not begin at zero or lie around it, but the NPU has no zero "
            "points: there they have more bits, with the same values; quantise with symmetric activations (in "
            "onnxruntime, ActivationSymmetric) to keep their depths"
        )
    if coarser:
        notes.append(
            f"{BASE_DEPTH} bits do not hold the integers of {', '.join(coarser)}, whose steps grow by these parts; "
            f"quantise with symmetric activations, or with fewer bits, to keep them"
        )
    return notes
