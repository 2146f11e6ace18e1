"""Computes a network's loss with the weights or the output of one layer changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tessera.compiler.calibrate import npu_tensors
from tessera.compiler.float_execution import batch_size, execute, run_node
from tessera.compiler.graph import CANONICAL, CONVOLUTION, WINDOW, Graph, Node, Placement
from tessera.compiler.sensitivity.loss import Loss, make_loss


class Probe:
    """A network, data, and the float values of all its tensors.

    A changed loss is computed from the changed layer on, in float64.

    Parameters
    ----------
    graph
        A prepared network.
    data
        For each input an array (samples, *rest of its shape*).
    labels
        The right classes of the samples, or ``None``; see `make_loss`.

    Attributes
    ----------
    graph
        The network.
    samples
        Number of samples.
    criterion
        The loss.

    Raises
    ------
    CompilerError
        The data do not fit the network, or its outputs are not finite.
    """

    def __init__(self, graph: Graph, data: Mapping[str, np.ndarray], labels: np.ndarray | None = None):
        self.graph = graph
        self.samples = batch_size(graph.shapes, graph.inputs, data)
        produced = {name for node in graph.nodes for name in node.outputs}
        names = dict.fromkeys((*graph.inputs, *(name for name in graph.shapes if name in produced)))
        values = execute(graph, data, names, dtype=np.float64)
        self._values = {name: value.reshape(self.samples, *graph.shapes[name]) for name, value in values.items()}
        self._indices = {node.name: index for index, node in enumerate(graph.nodes)}
        self._makers = {name: index for index, node in enumerate(graph.nodes) for name in node.outputs}
        self.criterion: Loss = make_loss({name: self._values[name] for name in graph.outputs}, labels)

    @property
    def layers(self) -> list[Node]:
        """The nodes that the NPU computes, in order."""
        return [node for node in self.graph.placed(Placement.NPU) if node.op in CANONICAL]

    @property
    def given(self) -> list[str]:
        """The tensors that the NPU is given."""
        made = {name for node in self.graph.placed(Placement.NPU) for name in node.outputs}
        return [name for name in npu_tensors(self.graph) if name not in made]

    def behind_max_pooling(self, name: str) -> str:
        """What the last of the max poolings makes of a tensor that alone read it one after another; the tensor itself,
        if there is none."""
        readers = self.graph.consumers(name)
        if len(readers) == 1 and name not in self.graph.outputs:
            (reader,) = readers
            if reader.op == WINDOW and reader.attributes["reduction"] == "max" and reader.residual is None:
                return self.behind_max_pooling(reader.output)
        return name

    def weights(self, node: Node) -> np.ndarray | None:
        """float64 weights of a layer (K, C, kernel height, kernel width), or ``None`` if it has none."""
        return self.graph.constants[node.inputs[1]].astype(np.float64) if node.op == CONVOLUTION else None

    def values(self, name: str, samples: np.ndarray) -> np.ndarray:
        """A tensor's values (samples, *shape*)."""
        return self._values[name][samples]

    def loss(self, samples: np.ndarray) -> float:
        """The float network's mean loss over some samples."""
        return self.criterion({name: self._values[name][samples] for name in self.graph.outputs}, samples)

    def loss_with_weights(self, node: Node, weights: np.ndarray, samples: np.ndarray) -> float:
        """The mean loss with other weights of a layer."""
        return self.criterion(self.outputs_with_weights(node, weights, samples), samples)

    def loss_with_values(self, name: str, values: np.ndarray, samples: np.ndarray) -> float:
        """The mean loss with other values of a tensor (samples, *shape*)."""
        return self.criterion(self.outputs_with_values(name, values, samples), samples)

    def outputs(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs, by name."""
        return {name: self._values[name][samples] for name in self.graph.outputs}

    def outputs_with_weights(self, node: Node, weights: np.ndarray, samples: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs with other weights of a layer."""
        changed = replace(self.graph, constants=self.graph.constants | {node.inputs[1]: weights})
        return self._resume(changed, self._indices[node.name], {}, samples)

    def outputs_with_values(self, name: str, values: np.ndarray, samples: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs with other values of a tensor (samples, *shape*)."""
        return self._resume(self.graph, self._makers.get(name, -1) + 1, {name: values}, samples)

    def _resume(
        self, graph: Graph, first: int, changed: dict[str, np.ndarray], samples: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The outputs when nodes from ``first`` on are computed; the others' results are known, but for ``changed``."""
        values = dict(changed)
        for node in graph.nodes[first:]:
            for name in node.inputs:
                if name in self._values and name not in values:
                    values[name] = self._values[name][samples]
            run_node(graph, node, values, np.float64)
        return self.outputs(samples) | {name: values[name] for name in graph.outputs if name in values}
