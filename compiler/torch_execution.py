"""Executes prepared networks with PyTorch, which knows their derivatives.

The numbers are those of :mod:`tessera.compiler.float_execution`, up to the order of additions. Tensors have the same
shapes as there: (samples, *shape*).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.float_execution import batch_size, run_node
from tessera.compiler.graph import (
    CANONICAL,
    CONCATENATION,
    CONVOLUTION,
    SELECTION,
    Graph,
    Node,
    Placement,
    map_shape,
)
from tessera.compiler.torch_extra import load_torch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_DIFFERENCE = 1e-3
"""Half of the step of the difference that stands for the derivative of an activation function with a table, relative to
the operand, or to 1 if that is larger."""

_SAME_VALUES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")
"""Operators that change nothing but the shape."""

Change = Callable[[str, "Tensor"], "Tensor"]
"""From the name of a tensor or constant and its value to the value that is used instead."""


class TorchNetwork:
    """A prepared network whose weights and biases can be changed and differentiated.

    Parameters
    ----------
    graph
        The network (:func:`tessera.compiler.prepare`).
    double
        Compute in float64 instead of float32.

    Attributes
    ----------
    graph
        The network as it was given.
    parameters
        Weights and biases by the names of the constants; leaves that require gradients.

    Raises
    ------
    CompilerError
        PyTorch is not installed, or the host computes a node behind the NPU whose derivative is unknown here.
    """

    def __init__(self, graph: Graph, *, double: bool = False):
        self._torch = load_torch()
        self.graph = graph
        self.dtype: torch.dtype = self._torch.float64 if double else self._torch.float32
        names = [name for node in graph.nodes if node.op == CONVOLUTION for name in node.inputs[1:3]]
        self.parameters: dict[str, Tensor] = {
            name: self.tensor(graph.constants[name]).requires_grad_() for name in names
        }
        for node in graph.placed(Placement.HOST_AFTER):
            if node.op not in (*_SAME_VALUES, "Softmax", "LogSoftmax"):
                raise CompilerError(
                    f"node {node.name!r} ({node.op}) behind the NPU has no derivative here; cut the network off "
                    f"before it"
                )

    def tensor(self, value: np.ndarray) -> Tensor:
        """A tensor of the network's floating-point type with a copy of an array's values."""
        return self._torch.tensor(np.asarray(value), dtype=self.dtype)

    def given(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """From the network's inputs, each an array (samples, *rest of its shape*), the tensors that `__call__` takes:
        inputs, and what the host computes before the NPU.

        Raises
        ------
        CompilerError
            An input is missing or of the wrong shape.
        """
        graph = self.graph
        samples = batch_size(graph.shapes, graph.inputs, inputs)
        values = {
            name: np.asarray(inputs[name], np.float32).reshape(samples, *graph.shapes[name]) for name in graph.inputs
        }
        for node in graph.placed(Placement.HOST_BEFORE):
            run_node(graph, node, values)
        return {name: self.tensor(value) for name, value in values.items()}

    def __call__(
        self,
        given: Mapping[str, Tensor],
        weights: Change = lambda _, value: value,
        activations: Change = lambda _, value: value,
    ) -> dict[str, Tensor]:
        """All tensors of the network by name, each (samples, *shape*).

        Parameters
        ----------
        given
            What :meth:`given` returned, or a selection of its samples.
        weights
            Changes weights before they are used.
        activations
            Changes what the NPU is given and what it computes.
        """
        made = {node.output for node in self.graph.placed(Placement.NPU)}
        read = {name for node in self.graph.placed(Placement.NPU) for name in node.operands} - made
        values = {name: activations(name, value) if name in read else value for name, value in given.items()}
        for node in self.graph.placed(Placement.NPU):
            values[node.output] = activations(node.output, self._npu_node(node, values, weights))
        for node in self.graph.placed(Placement.HOST_AFTER):
            values[node.output] = self._host_node(node, values)
        return values

    def updated_graph(self) -> Graph:
        """The network with the parameters' present values."""
        graph = self.graph.copy()
        graph.constants |= {name: value.detach().float().numpy().copy() for name, value in self.parameters.items()}
        return graph

    def _npu_node(self, node: Node, values: Mapping[str, Tensor], weights: Change) -> Tensor:
        shape = self.graph.shapes[node.output]
        if node.op == CONCATENATION:
            return self._torch.cat([values[name] for name in node.inputs], dim=2)
        source = values[node.inputs[0]]
        if node.op == SELECTION:
            first = node.attributes["channel"]
            return source[:, :, first : first + shape[1]]
        assert node.op in CANONICAL
        source = source.reshape(len(source), *map_shape(self.graph.shapes[node.inputs[0]]))
        result = self._convolve(node, source, weights) if node.op == CONVOLUTION else self._reduce(node, source)
        if node.residual is not None:
            result = result + values[node.residual].reshape(result.shape)
        result = self._torch.clamp(result, *node.activation)
        if node.function is not None:
            result = _function_type().apply(result, node.function)
        return result.reshape(len(result), *shape)

    def _convolve(self, node: Node, source: Tensor, weights: Change) -> Tensor:
        kernel, bias = (self.parameters[name] for name in node.inputs[1:3])
        return self._torch.nn.functional.conv2d(
            self._pad(source, node.attributes["padding"], 0.0),
            weights(node.name, kernel),
            bias,
            node.attributes["stride"],
            dilation=node.attributes["dilation"],
            groups=node.attributes["groups"],
        )

    def _reduce(self, node: Node, source: Tensor) -> Tensor:
        functional = self._torch.nn.functional
        is_max = node.attributes["reduction"] == "max"
        for axis, times in enumerate(node.attributes["repeat"]):
            source = source.repeat_interleave(times, dim=2 + axis)
        source = self._pad(source, node.attributes["padding"], -np.inf if is_max else 0.0)
        kernel, stride = node.attributes["kernel"], node.attributes["stride"]
        if is_max:
            return functional.max_pool2d(source, kernel, stride)
        return functional.avg_pool2d(source, kernel, stride, divisor_override=1) / node.attributes["divisor"]

    def _pad(self, source: Tensor, padding: tuple[int, int, int, int], value: float) -> Tensor:
        top, left, bottom, right = padding
        sides = left, right, top, bottom
        return self._torch.nn.functional.pad(source, sides, value=value) if any(padding) else source

    def _host_node(self, node: Node, values: Mapping[str, Tensor]) -> Tensor:
        source = values[node.inputs[0]]
        shape = len(source), *self.graph.shapes[node.output]
        if node.op in _SAME_VALUES:
            return source.reshape(shape)
        function = getattr(self._torch, {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[node.op])
        axis = node.attributes.get("axis", -1)
        return function(source, dim=axis if axis < 0 else axis + 1)


@cache
def _function_type() -> type[torch.autograd.Function]:
    """The differentiable form of activation functions that need a table; numpy computes them, and their derivatives are
    differences, as often as one likes."""
    torch = load_torch()

    class TableFunction(torch.autograd.Function):  # type: ignore[name-defined]  # the module is loaded late
        @staticmethod
        def forward(context: Any, x: Tensor, function: Callable[[np.ndarray], np.ndarray]) -> Tensor:
            context.save_for_backward(x)
            context.function = function
            return torch.from_numpy(function(x.detach().double().numpy())).to(x.dtype)

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
            (x,) = context.saved_tensors
            step = _DIFFERENCE * x.detach().abs().clamp(min=1)
            rise = TableFunction.apply(x + step, context.function) - TableFunction.apply(x - step, context.function)
            return gradient * rise / (2 * step), None

    return TableFunction
