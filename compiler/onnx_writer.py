"""Writes prepared float networks as ONNX files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from tessera.compiler.calibrate import ActivationRange, Calibration, function_operands, npu_tensors
from tessera.compiler.graph import Graph, map_shape
from tessera.compiler.qonnx_writer import NetworkWriter, write_model
from tessera.compiler.quantize import quantize
from tessera.compiler.quantized import BASE_DEPTH, QuantizedConvolution, QuantizedTensor
from tessera.compiler.refinements import NO_REFINEMENTS
from tessera.rtl.config import ACTIVATION_DEPTHS


def write_onnx(graph: Graph, path: str | Path) -> None:
    """Writes a prepared network as a float ONNX file; an existing file is replaced only when the new one is complete.

    Operations keep their names. Convolutions have the weights that the passes have given them, BatchNormalization
    included.
    """
    write_model(float_model(graph), path)


def float_model(graph: Graph) -> onnx.ModelProto:
    """The float ONNX model of a prepared network."""
    model = _FloatWriter(graph).model()
    onnx.checker.check_model(model, full_check=True)
    return model


class _FloatWriter(NetworkWriter):
    """Writes what a quantised network computes, without the quantisation."""

    def __init__(self, graph: Graph) -> None:
        # Only the structure of the quantised network is used, so any ranges will do.
        super().__init__(quantize(graph, _any_calibration(graph), BASE_DEPTH, refinements=NO_REFINEMENTS))
        self.graph = graph
        self.operands = {node.name: node.inputs for node in graph.nodes}

    def assemble(self) -> onnx.ModelProto:
        model = super().assemble()
        del model.metadata_props[:]
        del model.opset_import[1:]
        return model

    def quantize(self, name: str, source: str, target: str, tensor: QuantizedTensor) -> None:
        """Gives the last node's result its final name; where no node has made it, a node does nothing."""
        last = self.nodes[-1] if self.nodes else None
        if last is None or last.output[0] != source or source in self.quantized.values():
            self.node("Identity", [source], target, name)
            return
        last.output[0] = target
        self.shapes.pop(source, None)
        if name in self.operands:
            last.name = name

    def convolution(self, operation: QuantizedConvolution, target: QuantizedTensor) -> str:
        bias = self.graph.constants[self.operands[operation.name][2]]
        return super().convolution(replace(operation, bias=bias.astype(np.float32)), target)

    def weights(self, operation: QuantizedConvolution, integers: np.ndarray) -> str:
        """Adds the float weights in the shape of the integers."""
        values = self.graph.constants[self.operands[operation.name][1]]
        return self.constant(f"{operation.name}_weights", values.reshape(integers.shape))


def _any_calibration(graph: Graph) -> Calibration:
    shifts = {depth: BASE_DEPTH - depth for depth in ACTIVATION_DEPTHS if depth != BASE_DEPTH}
    names = (*npu_tensors(graph), *function_operands(graph))
    means = {name: np.zeros(map_shape(graph.shapes[name])[0]) for name in names}
    scale = 2.0 ** (1 - BASE_DEPTH)
    return Calibration({name: ActivationRange(-1, 1, means[name], True, scale, shifts) for name in names}, 0, {})
