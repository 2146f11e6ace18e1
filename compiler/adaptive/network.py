"""Networks whose layers choose the depth of their activations while they run.

The weights have one depth. What a *layer* (an operation) does at a depth d is what it does in the network N_d all of
whose activations have d bits (`AdaptiveNetwork.integer`); its operands are converted from what they have in DRAM to d
bits, which is a rounding shift, because the scales of a tensor's depths differ by powers of two::

    operand = convert_depth(stored, exponent(d) - exponent(stored depth), d)        (`AdaptiveNetwork.shift`)

A tensor is stored at the depth of the layer that made it. Some are *pinned* to one depth, whatever the layer's is, and
converted to it by the store: what the host gives and gets, tensors that share storage (several layers make parts of
one), and those of which too many combinations of depths would be alive at a time (`MAX_STATES`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from tessera.compiler.errors import CompilerError
from tessera.compiler.integer import ScaleError, integer_operation, to_integer
from tessera.compiler.precision import DepthRange
from tessera.compiler.quantized import QuantizedNetwork, QuantizedOperation
from tessera.rtl.config import ACTIVATION_DEPTHS
from tessera.rtl.isa import INTEGER_SHIFT_BITS
from tessera.sim.golden.network import IntegerNetwork, Operation

MAX_STATES = 64
"""Combinations of the depths of a layer and of the stored tensors that are alive while it runs."""

Trace = Mapping[str, int]
"""The depth in bits of each layer of a run, by the name of its operation."""


@dataclass(frozen=True, eq=False)
class AdaptiveNetwork:
    """A quantised network, and the depths among which its layers may choose.

    Attributes
    ----------
    quantized
        The network. Pinned tensors are stored at the depths that they have in it.
    depths
        The activation depths in bits, rising.

    Raises
    ------
    CompilerError
        There are no depths, or one that does not exist; the limits or sensitivities lack a layer; the range of a layer
        has none of the depths; or a scale cannot be converted to another one by the machine.
    """

    quantized: QuantizedNetwork
    depths: tuple[int, ...]

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise CompilerError(f"network {self.name!r}: {problem}")

    @classmethod
    def of(cls, quantized: QuantizedNetwork) -> AdaptiveNetwork:
        """The adaptive form of a network that was quantised for it; raises `CompilerError` if it was not."""
        if not quantized.adaptive_depths:
            raise CompilerError(
                f"network {quantized.name!r} was quantised for one depth of its layers and has no variants to choose "
                "among; quantise it with --adaptive DEPTHS"
            )
        return cls(quantized, quantized.adaptive_depths)

    @property
    def name(self) -> str:
        """Name of the network."""
        return self.quantized.name

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in their order."""
        return tuple(operation.name for operation in self.quantized.operations)

    def range_of(self, layer: str) -> DepthRange:
        """The least and greatest depth of a layer."""
        return self.quantized.depth_limits.layers[layer]

    def variants(self, layer: str) -> tuple[int, ...]:
        """The depths that a layer can have, rising; one alone if it cannot choose."""
        return self.range_of(layer).among(self.depths)

    def nearest(self, layer: str, depth: int) -> int:
        """What the machine chooses for a layer where ``depth`` is asked for: the depth is limited to the layer's range,
        and the deepest variant is taken that is no deeper, or else the shallowest."""
        return self.range_of(layer).nearest(depth, self.depths)

    def uniform(self, depth: int) -> dict[str, int]:
        """The trace of a run in which one depth is asked for by all layers."""
        return {layer: self.nearest(layer, depth) for layer in self.layers}

    def check_trace(self, trace: Trace) -> None:
        """Raises `CompilerError` if a trace lacks a layer, names another one, or has a depth that a layer lacks."""
        for layer in sorted(trace.keys() ^ set(self.layers)):
            problem = "lacks the layer" if layer in self.layers else "names a layer that the network does not have:"
            raise CompilerError(f"network {self.name!r}: the trace of depths {problem} {layer!r}")
        for layer, depth in trace.items():
            if depth not in self.variants(layer):
                raise CompilerError(
                    f"network {self.name!r}: layer {layer!r} has no variant of {depth} bits; it has "
                    f"{', '.join(map(str, self.variants(layer)))}"
                )

    @cache  # noqa: B019 (as many as there are depths, and they live as long as the network)
    def integer(self, depth: int) -> IntegerNetwork:
        """The network N_d: every tensor has ``depth`` bits, but for what leaves the NPU, and what shares storage with
        it.

        Of a layer that may not have this depth only shapes and weights mean something; its parameters are those of the
        depth that it would choose, since those of this one may be beyond the machine.

        Raises
        ------
        CompilerError
            A layer that may have this depth cannot have it.
        """
        operations = (self._operation(each, self.nearest(each.name, depth)) for each in self.quantized.operations)
        return to_integer(self._at(depth), tuple(operations))

    @cached_property
    def stored(self) -> IntegerNetwork:
        """The network with the types that tensors have in DRAM; those that are not pinned have their deepest."""
        deepest = self.integer(self.depths[-1])
        types = deepest.tensors.items()
        tensors = {name: replace(each, depth=self.stored_depth(name, self.depths[-1])) for name, each in types}
        return replace(deepest, tensors=tensors)

    def stored_depth(self, tensor: str, depth: int) -> int:
        """Depth in DRAM of a tensor whose layer has ``depth`` bits."""
        return self.quantized.tensors[tensor].depth if tensor in self.pinned else depth

    def shift(self, tensor: str, source: int, target: int) -> int:
        """By what power of two values of ``source`` bits are divided to have ``target`` bits."""
        facts = self.quantized.tensors[tensor]
        return facts.exponent_at(target) - facts.exponent_at(source)

    @cached_property
    def pinned(self) -> frozenset[str]:
        """Names of the tensors that are stored at one depth."""
        shared = set().union(*self.quantized.storage_groups())
        pinned = {*self.quantized.npu_inputs, *self._kept, *shared}
        while True:
            crowded = max(range(len(self.layers)), key=lambda index: self._states(index, pinned))
            if self._states(crowded, pinned) <= MAX_STATES:
                return frozenset(pinned)
            alive = self._alive(crowded, pinned)
            pinned.add(max(alive, key=lambda name: (self._lives[name].stop - self._lives[name].start, name)))

    def alive(self, index: int) -> tuple[str, ...]:
        """The tensors on whose depths depends what the ``index``-th layer and those after it read: those that are not
        pinned, were made before it, and are read by it or later; in the order of the layers that made them."""
        return self._alive(index, self.pinned)

    @cached_property
    def makers(self) -> Mapping[str, str]:
        """For each tensor that a layer makes, its name."""
        return {operation.output: operation.name for operation in self.quantized.operations}

    @cache  # noqa: B019 (as `integer`)
    def _at(self, depth: int) -> QuantizedNetwork:
        depths = {name: self._kept.get(name, depth) for name in self.quantized.tensors}
        return self.quantized.with_activation_depths(depths)

    @cache  # noqa: B019 (as `integer`)
    def _operation(self, operation: QuantizedOperation, depth: int) -> Operation:
        try:
            return integer_operation(self._at(depth), operation)
        except ScaleError as error:
            raise CompilerError(
                f"network {self.name!r}: layer {operation.name!r} cannot have {depth} bits, since {error.problem}; "
                f"{self._without(operation.name, depth)}"
            ) from None

    def _without(self, layer: str, depth: int) -> str:
        """What to do so that a layer does not get a depth."""
        deeper = [each for each in self.depths if each > depth]
        if deeper:
            return f"limit it with --depth-range {layer}={deeper[0]}..{deeper[-1]}"
        return "add a greater depth to --adaptive"

    @cached_property
    def _kept(self) -> Mapping[str, int]:
        """Depths of the tensors that have the same in all N_d: outputs, with what shares storage with them."""
        outputs = set(self.quantized.npu_outputs)
        for group in self.quantized.storage_groups():
            if not outputs.isdisjoint(group):
                outputs |= group
        return {name: self.quantized.tensors[name].depth for name in outputs}

    @cached_property
    def _lives(self) -> Mapping[str, range]:
        """From the layer after the one that makes a tensor up to the last that reads it, by index."""
        last: dict[str, int] = {}
        for index, operation in enumerate(self.quantized.operations):
            last |= dict.fromkeys(_operands(operation), index)
        made = {operation.output: index for index, operation in enumerate(self.quantized.operations)}
        return {name: range(index + 1, last.get(name, index) + 1) for name, index in made.items()}

    def _alive(self, index: int, pinned: set[str] | frozenset[str]) -> tuple[str, ...]:
        return tuple(name for name, life in self._lives.items() if name not in pinned and index in life)

    def _states(self, index: int, pinned: set[str]) -> int:
        """Combinations of depths with which the ``index``-th layer can run."""
        makers = [self.makers[name] for name in self._alive(index, pinned)]
        return math.prod(len(self.variants(layer)) for layer in (*makers, self.layers[index]))


def with_ranges(quantized: QuantizedNetwork, ranges: Mapping[str, DepthRange]) -> QuantizedNetwork:
    """A network with other ranges of depths for some layers, by name; the name "" stands for the network.

    Where one depth is chosen for all layers the network's range counts, and each layer's, too.

    Raises
    ------
    CompilerError
        There is no such layer.
    """
    return replace(quantized, limits=quantized.depth_limits.with_ranges(quantized.name, ranges))


def _operands(operation: QuantizedOperation) -> tuple[str, ...]:
    return (operation.input,) if operation.residual is None else (operation.input, operation.residual)


def _problems(network: AdaptiveNetwork) -> Iterator[str]:
    yield from depth_problems(network.depths)
    quantized = network.quantized
    known = quantized.layer_depths()
    limits, sensitivity = quantized.depth_limits, quantized.sensitivity
    for what, layers in (
        ("the limits of its depths", limits.layers),
        ("its sensitivities", None if sensitivity is None else sensitivity.layers),
    ):
        for layer in () if layers is None else sorted(known.keys() - layers.keys()):
            yield f"{what} lack the layer {layer!r}; quantise it again"
    yield from limits.empty_ranges(network.layers, network.depths)
    limit = (1 << INTEGER_SHIFT_BITS - 1) - 1
    for name, tensor in quantized.tensors.items():
        exponents = [tensor.exponent_at(depth) for depth in {*network.depths, tensor.depth}]
        if max(exponents) - min(exponents) > limit:
            yield (
                f"the scales of tensor {name!r} at its depths differ by up to 2 ** {max(exponents) - min(exponents)}, "
                f"but the machine converts by at most 2 ** {limit}; calibrate it again"
            )


def depth_problems(depths: Sequence[int]) -> Iterator[str]:
    """What is wrong with the depths of a network's variants."""
    if not depths:
        yield "there are no depths to choose among; give one or more"
    for depth in depths:
        if depth not in ACTIVATION_DEPTHS:
            yield f"the activation depth {depth} does not exist; use some of {', '.join(map(str, ACTIVATION_DEPTHS))}"
    if list(depths) != sorted(set(depths)):
        yield f"the depths {', '.join(map(str, depths))} must rise"
