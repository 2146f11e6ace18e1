"""The choice of a network's depths as an integer linear programme.

Two kinds of variables: the depth of each activation tensor, which costs accuracy, and the depths with which each
operation multiplies, that of its input and that of its weights, which cost accuracy (the weights) and resources. They
are tied where they are the same number: an operation's input has the depth of the tensor, whoever reads it. Tensors
that share storage share their depth, and so do the operand and the result of a residual addition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import networkx

from tessera.compiler.calibrate import npu_tensors, storage_groups
from tessera.compiler.errors import CompilerError
from tessera.compiler.graph import CANONICAL, CONVOLUTION, Graph, Node, Placement
from tessera.compiler.mixed_precision.costs import RESOURCES, Costs
from tessera.compiler.mixed_precision.selection import SENSITIVITY, Candidate, Selection, Tie, select
from tessera.compiler.precision import LayerSensitivity, SensitivityProfile
from tessera.compiler.quantize import MIN_OUTPUT_DEPTH, LayerDepths, check_depths, leaves_npu
from tessera.rtl.config import ACTIVATION_DEPTHS

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
        The profile lacks a layer, ``fixed`` asks for a depth that cannot be had or gives layers that must share a depth
        different ones, or nothing is left to choose from.
    """

    def __init__(
        self,
        graph: Graph,
        profile: SensitivityProfile,
        costs: Mapping[Uniform, Costs],
        fixed: Depths | None = None,
    ):
        self._graph, self._profile, self._costs = graph, profile, costs
        check_depths(graph, *next(iter(costs)), fixed or {})
        self._fixed = _shared(graph, fixed or {})
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
            return [_least_output_depth(depths)]
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
        groups += [tuple(map(_tensor_key, sorted(group))) for group in _tied_tensors(self._graph)]
        return [Tie(group, lambda each: each.activation) for group in groups]


def uniform_depths(
    graph: Graph,
    activation: int,
    weight: int,
    fixed: Depths | None = None,
    available: Sequence[int] = ACTIVATION_DEPTHS,
) -> dict[str, LayerDepths]:
    """One depth of all activations and one of all weights, but for those that are given, and for what leaves the NPU,
    which has at least the depth that scores need, of those that are available. Layers that must share a depth do."""
    operations = [node for node in graph.placed(Placement.NPU) if node.op in CANONICAL]
    made = {node.output for node in graph.placed(Placement.NPU)}
    depths = {name: LayerDepths(activation) for name in npu_tensors(graph) if name not in made}
    for node in operations:
        least = _least_output_depth(available) if leaves_npu(graph, node.output) else 0
        depths[node.name] = LayerDepths(max(activation, least), weight if node.op == CONVOLUTION else None)
    for name, given in _shared(graph, fixed or {}).items():
        own = depths[name]
        depths[name] = LayerDepths(given.activation or own.activation, given.weight or own.weight)
    for group in _tied_layers(graph):
        deepest = max(depths[name].activation or 0 for name in group)
        depths |= {name: replace(depths[name], activation=deepest) for name in group}
    return depths


def _least_output_depth(available: Sequence[int]) -> int:
    """The least depth that scores may have, of those that a machine has; its greatest, if all are too small."""
    return min((depth for depth in available if depth >= MIN_OUTPUT_DEPTH), default=max(available))


def _tied_tensors(graph: Graph) -> list[set[str]]:
    """Groups of tensors of one depth: they share storage, or are operand and result of a residual addition."""
    ties = networkx.Graph()
    for node in graph.placed(Placement.NPU):
        if node.op in CANONICAL and node.residual is not None and not leaves_npu(graph, node.output):
            ties.add_edge(node.residual, node.output)
    for group in storage_groups(graph):
        networkx.add_path(ties, sorted(group))
    return list(networkx.connected_components(ties))


def _tied_layers(graph: Graph) -> Iterator[list[str]]:
    """The layers whose outputs are such groups."""
    makers = {name: node for node in graph.placed(Placement.NPU) for name in node.outputs}
    for group in _tied_tensors(graph):
        nodes = {name: makers.get(name) for name in sorted(group)}
        layers = [name if node is None else node.name for name, node in nodes.items() if _is_layer(node)]
        if layers:
            yield layers


def _is_layer(maker: Node | None) -> bool:
    """Whether a tensor with this maker is a layer; it is not if it only consists of others, or is a part of one."""
    return maker is None or maker.op in CANONICAL


def _shared(graph: Graph, fixed: Depths) -> dict[str, LayerDepths]:
    """Given depths, and those that follow from them for layers that must share a depth with these."""
    found = dict(fixed)
    for group in _tied_layers(graph):
        given = {name: fixed[name].activation for name in group if name in fixed and fixed[name].activation is not None}
        if len(set(given.values())) > 1:
            texts = " and ".join(f"{name} is given {depth}" for name, depth in given.items())
            raise CompilerError(
                f"{', '.join(given)} must share one activation depth, since they are added or stored together, but "
                f"{texts}; give them the same"
            )
        for depth in set(given.values()):
            found |= {name: replace(found.get(name, LayerDepths()), activation=depth) for name in group}
    return found


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
