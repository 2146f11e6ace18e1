"""What the tensors of a network are in the variants of its layers, while it is quantised for them.

What such variants are says :mod:`tessera.compiler.adaptive`. A layer's weights are the same in all of them: their
scales must suit each variant that the layer has, and they are rounded for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tessera.compiler.graph import Node
from tessera.compiler.precision import DepthLimits
from tessera.compiler.quantized import QuantizedTensor

Tensors = Mapping[str, QuantizedTensor]


@dataclass(frozen=True, eq=False)
class Variants:
    """The variants of a network's layers.

    Attributes
    ----------
    layers
        The nodes that become operations.
    tensors
        The tensors as the file has them, by name.
    kept
        Names of those that have this depth in all variants.
    depths
        The depths that there are variants of, rising; none if layers cannot choose.
    limits
        Between which of them each layer may choose, by the name of its operation; none is asked for without depths.
    """

    layers: Sequence[Node]
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
        so a tensor has the depth of the layer that makes it, or of the deepest one that reads it if this is less or if
        no layer makes it. (That an input may be stored with fewer bits does not count: it gains nothing clear.)
        """
        return [self._run(depth) for depth in self.depths] or [self.tensors]

    def _at(self, depth: int) -> Tensors:
        return {name: self._tensor(name, depth) for name in self.tensors}

    def _run(self, depth: int) -> Tensors:
        made = {node.output: self._chosen(node, depth) for node in self.layers}
        run = {}
        for name in self.tensors:
            readers = [self._chosen(node, depth) for node in self.layers if name in node.operands]
            needed = max(readers, default=self.depths[-1])
            run[name] = self._tensor(name, min(made.get(name, needed), needed))
        return run

    def _chosen(self, layer: Node, depth: int) -> int:
        return self.limits.layers[layer.name].nearest(depth, self.depths)

    def _tensor(self, name: str, depth: int) -> QuantizedTensor:
        tensor = self.tensors[name]
        return tensor if name in self.kept else replace(tensor, depth=depth)
