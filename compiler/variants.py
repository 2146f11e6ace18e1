"""What the tensors of a network are in the variants of its layers, while it is quantised for them.

What such variants are says :mod:`tessera.compiler.adaptive`. A layer's weights are the same in all of them: their
scales must suit each variant that the layer has, and they are rounded for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tessera.compiler.graph import CANONICAL, Graph, Node, Placement
from tessera.compiler.precision import DepthLimits
from tessera.compiler.quantized import QuantizedTensor

Tensors = Mapping[str, QuantizedTensor]


@dataclass(frozen=True, eq=False)
class Variants:
    """The variants of a network's layers.

    Attributes
    ----------
    graph
        The prepared network.
    tensors
        The tensors as the file has them, by name.
    kept
        Names of those that have this depth in all variants.
    depths
        The depths that there are variants of, rising; none if layers cannot choose.
    limits
        Between which of them each layer may choose, by the name of its operation.
    """

    graph: Graph
    tensors: Tensors
    kept: frozenset[str]
    depths: tuple[int, ...]
    limits: DepthLimits

    def of(self, layer: str) -> list[Tensors]:
        """The tensors as the file has them, and as each variant of a layer reads and makes them."""
        return [self.tensors, *map(self._at, self.limits.layers[layer].among(self.depths) if self.depths else ())]

    def runs(self) -> list[Tensors]:
        """The tensors in the runs in which all layers are asked for one depth, a run for each depth; without variants
        there is one, with the tensors as the file has them.

        A reader converts a tensor that is deeper than itself, and cannot win back what one that is shallower has lost;
        so a tensor has the depth of the layer that makes it, or of the deepest one that reads it if this is less.
        """
        return [self._run(depth) for depth in self.depths] or [self.tensors]

    def _at(self, depth: int) -> Tensors:
        return {name: self._tensor(name, depth) for name in self.tensors}

    def _run(self, depth: int) -> Tensors:
        layers = [node for node in self.graph.placed(Placement.NPU) if node.op in CANONICAL]
        chosen = {node.output: self._chosen(node, depth) for node in layers}
        for name in self.tensors:
            readers = [self._chosen(node, depth) for node in layers if name in node.operands]
            chosen[name] = min(chosen.get(name, max(readers, default=depth)), max(readers, default=depth))
        return {name: self._tensor(name, chosen[name]) for name in self.tensors}

    def _chosen(self, layer: Node, depth: int) -> int:
        return self.limits.layers[layer.name].nearest(depth, self.depths)

    def _tensor(self, name: str, depth: int) -> QuantizedTensor:
        tensor = self.tensors[name]
        return tensor if name in self.kept else replace(tensor, depth=depth)
