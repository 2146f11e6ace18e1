"""Writes PyTorch networks as ONNX."""

from __future__ import annotations

import operator
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

OPSET = 17
_PRODUCER = "scripts/train.py"


def to_onnx(network: nn.Module, name: str, input_shape: tuple[int, ...]) -> onnx.ModelProto:
    """Write a trained network as an ONNX model of batch 1, one node for each PyTorch layer.

    Parameters
    ----------
    network
        The network in evaluation mode; it takes one tensor.
    name
        Name of the model's graph.
    input_shape
        Shape of the input, first axis 1.

    Raises
    ------
    ValueError
        If a layer has no ONNX operator here.
    """
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    tensors: dict[fx.Node, str] = {}  # the ONNX tensor that holds each node's result
    traced = fx.symbolic_trace(network)
    *layers, end = traced.graph.nodes
    for node in layers:
        if node.op == "placeholder":
            tensors[node] = "input"
            continue
        operation, parameters, attributes = onnx_operation(traced, node)
        inputs = [tensors[argument] for argument in node.args]
        for key, value in parameters.items():
            inputs.append(f"{node.name}.{key}")
            initializers.append(numpy_helper.from_array(value.detach().numpy(), inputs[-1]))
        tensors[node] = "output" if node is end.args[0] else node.name
        nodes.append(helper.make_node(operation, inputs, [tensors[node]], node.name, **attributes))
    output_shape = tuple(network(torch.zeros(input_shape)).shape)
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
        initializers,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    ir_version = helper.find_min_ir_version_for(opsets)  # the oldest, so that older tools open the file
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name=_PRODUCER)
    onnx.checker.check_model(model, full_check=True)
    return model


def onnx_operation(traced: fx.GraphModule, node: fx.Node) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """The ONNX operator of a traced node: its name, its parameters in input order, its attributes.

    Raises
    ------
    ValueError
        If the node has no ONNX operator here.
    """
    layer = traced.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    match layer:
        case operator.add:
            return "Add", {}, {}
        case nn.Conv2d(bias=None):
            attributes = {
                "kernel_shape": layer.kernel_size,
                "strides": layer.stride,
                "pads": layer.padding * 2,
                "group": layer.groups,
            }
            return "Conv", {"weight": layer.weight}, attributes
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            names = ("weight", "bias", "running_mean", "running_var")
            parameters = {name: getattr(layer, name) for name in names}
            return "BatchNormalization", parameters, {"epsilon": layer.eps}
        case nn.ReLU():
            return "Relu", {}, {}
        case nn.MaxPool2d():
            return "MaxPool", {}, pooling_attributes(layer)
        case nn.AdaptiveAvgPool2d(output_size=1):
            return "GlobalAveragePool", {}, {}
        case nn.Flatten():
            return "Flatten", {}, {"axis": layer.start_dim}
        case nn.Linear():
            parameters = {"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})
            return "Gemm", parameters, {"transB": 1}
        case nn.Softmax():
            return "Softmax", {}, {"axis": layer.dim}
    raise ValueError(f"Layer {node.name} ({layer}) has no ONNX operator here")


def pooling_attributes(layer: nn.MaxPool2d) -> dict[str, Any]:
    """ONNX attributes of a square pooling layer without padding."""
    return {"kernel_shape": [layer.kernel_size] * 2, "strides": [layer.stride] * 2}
