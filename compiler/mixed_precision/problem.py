"""The choice of a network's depths as an integer linear programme.

Two kinds of variables: the depth of each activation tensor, which costs accuracy, and the depths with which each
operation multiplies, that of its input and that of its weights, which cost accuracy (the weights) and resources. They
are tied where they are the same number: an operation's input has the depth of the tensor, whoever reads it. Tensors
that share storage share their depth, and so do the operand and the result of a residual addition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.compiler.calibrate import npu_tensors, storage_groups
from tessera.compiler.errors import CompilerError
from tessera.compiler.graph import CANONICAL, CONVOLUTION, Graph, Node, Placement
from tessera.compiler.mixed_precision.costs import RESOURCES, Costs
from tessera.compiler.mixed_precision.selection import SENSITIVITY, Candidate, Selection, Tie, select
from tessera.compiler.precision import LayerSensitivity, SensitivityProfile
from tessera.compiler.quantize import MIN_OUTPUT_DEPTH, LayerDepths, check_depths, leaves_npu

Depths = Mapping[str, LayerDepths]
"""Depths by layer: the name of an operation, or of a tensor that the NPU is given."""

Uniform = tuple[int, int]
"""One depth of all activations, and one of all weights."""


class DepthProblem:
    """The choices, with what they cost.

    Parameters
    ----------
    graph
        A prepared network.
    profile
        Its sensitivities.
    costs
        Costs of its operations by uniform depths; others cannot be chosen.
    fixed
        Depths that are given.

    Raises
    ------
    CompilerError
        The profile lacks a layer, ``fixed`` asks for a depth that cannot be had, or nothing is left to choose from.
    """

    def __init__(
        self,
        graph: Graph,
        profile: SensitivityProfile,
        costs: Mapping[Uniform, Costs],
        fixed: Depths | None = None,
    ):
        self._graph, self._profile, self._costs = graph, profile, costs
        self._fixed = dict(fixed or {})
        check_depths(graph, *next(iter(costs)), self._fixed)
        self._operations = [node for node in graph.placed(Placement.NPU) if node.op in CANONICAL]
        self._tensors = npu_tensors(graph)
        self.layers = self._layers()
        self.ties = self._ties()

    def select(self, limits: Mapping[str, float], minimise: str = SENSITIVITY) -> Selection:
        """The best choice; see `tessera.compiler.mixed_precision.selection.select`."""
        return select(self.layers, limits, self.ties, minimise)

    def depths(self, selection: Selection) -> dict[str, LayerDepths]:
        """The depths that were selected."""
        makers = {node.output: node for node in self._operations}
        found = {}
        for tensor in self._tensors:
            activation = selection.chosen[_tensor_key(tensor)].activation
            node = makers.get(tensor)
            if node is None:
                found[tensor] = LayerDepths(activation)
            else:
                found[node.name] = LayerDepths(activation, selection.chosen[_operation_key(node)].weight)
        structural = {node.output for node in self._graph.placed(Placement.NPU) if node.op not in CANONICAL}
        return {name: depths for name, depths in found.items() if name not in structural}

    def sensitivity(self, depths: Depths) -> float:
        """Total sensitivity of some depths."""
        layers = self._profile.layers
        return sum(
            layers[name].activations.get(each.activation or 0, 0.0) + layers[name].weights.get(each.weight or 0, 0.0)
            for name, each in depths.items()
        )

    def _layers(self) -> dict[str, list[Candidate]]:
        layers = {_tensor_key(name): self._tensor_candidates(name) for name in self._tensors}
        return layers | {_operation_key(node): self._operation_candidates(node) for node in self._operations}

    def _tensor_candidates(self, name: str) -> list[Candidate]:
        sensitivities = self._tensor_sensitivities(name)
        nothing = dict.fromkeys(RESOURCES, 0.0)
        return [
            Candidate(depth, None, {SENSITIVITY: sensitivities.get(depth, 0.0), **nothing})
            for depth in self._tensor_depths(name)
        ]

    def _tensor_sensitivities(self, name: str) -> Mapping[int, float]:
        maker = next((node for node in self._graph.placed(Placement.NPU) if name in node.outputs), None)
        if maker is not None and maker.op not in CANONICAL:
            return {}
        return self._sensitivity(name if maker is None else maker.name).activations

    def _sensitivity(self, layer: str) -> LayerSensitivity:
        if layer not in self._profile.layers:
            raise CompilerError(
                f"the sensitivity profile has no layer {layer!r}, so its depths cannot be chosen; analyse the network "
                "again"
            )
        return self._profile.layers[layer]

    def _tensor_depths(self, name: str) -> Sequence[int]:
        """The depths that a tensor may have; what leaves the NPU has the least of those that scores need."""
        maker = next((node for node in self._operations if name == node.output), None)
        depths = sorted({activation for activation, _ in self._costs})
        layer = name if maker is None else maker.name
        fixed = self._fixed.get(layer, LayerDepths()).activation
        if fixed is not None:
            return _available(layer, fixed, depths)
        if maker is not None and leaves_npu(self._graph, name):
            return [depth for depth in depths if depth >= MIN_OUTPUT_DEPTH][:1] or depths[-1:]
        return depths

    def _operation_candidates(self, node: Node) -> list[Candidate]:
        if node.op != CONVOLUTION:
            deepest = max(weight for _, weight in self._costs)
            return [
                self._candidate(node, uniform[0], None, deepest) for uniform in self._costs if uniform[1] == deepest
            ]
        fixed = self._fixed.get(node.name, LayerDepths()).weight
        depths = sorted({weight for _, weight in self._costs})
        weights = depths if fixed is None else _available(node.name, fixed, depths)
        return [self._candidate(node, *uniform, uniform[1]) for uniform in self._costs if uniform[1] in weights]

    def _candidate(self, node: Node, activation: int, weight: int | None, measured: int) -> Candidate:
        """Costs are those ``measured`` at a depth of the weights."""
        sensitivity = 0.0 if weight is None else self._sensitivity(node.name).weights[weight]
        return Candidate(activation, weight, {SENSITIVITY: sensitivity, **self._costs[activation, measured][node.name]})

    def _ties(self) -> list[Tie]:
        """Which variables are the same depth of activations."""
        groups: list[tuple[str, ...]] = [
            (_tensor_key(node.inputs[0]), _operation_key(node)) for node in self._operations
        ]
        groups += [
            (_tensor_key(node.residual), _tensor_key(node.output))
            for node in self._operations
            if node.residual is not None and not leaves_npu(self._graph, node.output)
        ]
        groups += [tuple(map(_tensor_key, sorted(group))) for group in storage_groups(self._graph)]
        return [Tie(group, lambda each: each.activation) for group in groups]


def uniform_depths(graph: Graph, activation: int, weight: int, fixed: Depths | None = None) -> dict[str, LayerDepths]:
    """One depth of all activations and one of all weights, but for those that are given, and for what leaves the NPU,
    which has at least the depth that scores need."""
    operations = [node for node in graph.placed(Placement.NPU) if node.op in CANONICAL]
    made = {node.output for node in graph.placed(Placement.NPU)}
    depths = {name: LayerDepths(activation) for name in npu_tensors(graph) if name not in made}
    for node in operations:
        least = MIN_OUTPUT_DEPTH if leaves_npu(graph, node.output) else 0
        depths[node.name] = LayerDepths(max(activation, least), weight if node.op == CONVOLUTION else None)
    for name, given in (fixed or {}).items():
        own = depths[name]
        depths[name] = LayerDepths(given.activation or own.activation, given.weight or own.weight)
    return depths


def _available(layer: str, depth: int, depths: Sequence[int]) -> list[int]:
    if depth not in depths:
        raise CompilerError(
            f"{layer}: the depth {depth} was asked for, but the machine can be given {', '.join(map(str, depths))}; "
            "use one of these"
        )
    return [depth]


def _tensor_key(name: str) -> str:
    return f"tensor {name}"


def _operation_key(node: Node) -> str:
    return f"operation {node.name}"
