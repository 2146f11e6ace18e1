"""Reads ONNX files into the float intermediate representation.

Only what is wrong with the *file* is refused here; which nodes the NPU can execute is decided by the passes
(:mod:`tessera.compiler.passes`) with the table of operators (:mod:`tessera.compiler.operators`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.external_data_helper
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from tessera.compiler.errors import CompilerError, check_file, first_line
from tessera.compiler.graph import Graph, Node, Shape, unique_name, verify
from tessera.compiler.operand_shapes import check_operands
from tessera.compiler.operators import OPSETS

ONNX_DOMAINS = ("", "ai.onnx")


def import_onnx(path: str | Path, *, input_shapes: Mapping[str, Shape] | None = None) -> Graph:
    """Reads a float network.

    Parameters
    ----------
    path
        An ONNX file with float32 inputs and a batch of 1.
    input_shapes
        Shapes for inputs whose shape in the file is not fixed, by the inputs' names, batch axis included.

    Returns
    -------
    The network with one node per ONNX node. ``Constant`` nodes are still nodes; the passes fold them.

    Raises
    ------
    CompilerError
        The file is missing or broken, its external data are missing, an operator or its version is unknown, a
        shape is not fixed, the batch is not 1, or a weight is not finite.
    """
    path = Path(path)
    model = load_model(path)
    fix_inputs(path, model, input_shapes or {})
    return graph_of_model(path, model, infer_shapes(path, model))


def load_model(path: Path, domains: Collection[str] = ()) -> onnx.ModelProto:
    """The model in a file, checked by ONNX's own checker, external data included.

    Operators may come from ``domains`` besides the standard ones; those are not checked.
    """
    check_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except (google.protobuf.message.DecodeError, OSError, ValueError) as error:
        raise CompilerError(f"{path} is no ONNX file, or is broken: {error}") from None
    if not model.graph.node:
        raise CompilerError(f"{path} is no ONNX file, or is broken: it has no nodes")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise CompilerError(f"{path} is no ONNX file, or is broken: a name in it is no text")
    if not model.graph.output:
        raise CompilerError(f"{path} has no outputs; export the network with what it computes as outputs")
    _check_operators(path, model, domains)
    _load_external_data(path, model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise CompilerError(f"{path} is not a valid ONNX file: {first_line(error)}") from None
    return model


def graph_of_model(path: Path, model: onnx.ModelProto, inferred: onnx.ModelProto) -> Graph:
    """The graph of a model, with the shapes that ``inferred``, a copy of it, has for its tensors."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for value in inputs:
        _check_input(path, value)
    limits = {name for node in model.graph.node if node.op_type == "Clip" for name in node.input[1:]}
    for name, value in constants.items():
        if name not in limits:
            _check_finite(path, name, value)
    graph = Graph(
        name=path.stem,
        inputs=tuple(value.name for value in inputs),
        outputs=tuple(value.name for value in model.graph.output),
        shapes=_shapes(path, inferred, constants),
        constants=constants,
        nodes=list(_nodes(path, model)),
        opset=opset_of(model),
    )
    graph.tidy()
    verify(graph)
    check_operands(graph)
    return graph


def _texts(model: onnx.ModelProto) -> Iterator[str | bytes]:
    """Names and operators of a model; bytes where a damaged file has no UTF-8."""
    graph = model.graph
    for item in (*graph.input, *graph.output, *graph.initializer):
        yield item.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _check_operators(path: Path, model: onnx.ModelProto, domains: Collection[str]) -> None:
    """Refuses unknown operators, and versions of them that cannot be read."""
    opset = opset_of(model)
    if opset not in OPSETS:
        raise CompilerError(
            f"{path} uses version {opset} of the ONNX operators, but {OPSETS.start} to {OPSETS.stop - 1} can "
            "be read; export it again, or convert it with onnx.version_converter"
        )
    for node in model.graph.node:
        name = node.name or node.output[0]
        if node.domain in domains:
            continue
        if node.domain not in ONNX_DOMAINS:
            raise CompilerError(
                f"{path}: node {name!r} has the operator {node.op_type} of the domain {node.domain!r}, which "
                "a float network cannot have; only standard ONNX operators are supported"
            )
        if not onnx.defs.has(node.op_type, opset, ""):
            raise CompilerError(f"{path}: node {name!r} has the operator {node.op_type}, which ONNX {opset} lacks")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise CompilerError(
                f"{path}: node {name!r} ({node.op_type}) holds a graph of its own, but control flow is not "
                "supported; export the network without it"
            )


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the ONNX operators of a model."""
    return max((entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS), default=1)


def _load_external_data(path: Path, model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        location = onnx.external_data_helper.ExternalDataInfo(tensor).location
        if not (path.parent / location).is_file():
            raise CompilerError(
                f"{path}: the tensor {tensor.name!r} lies in the file {location!r}, which is missing; put it "
                "beside the ONNX file"
            )
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise CompilerError(f"{path}: its external data cannot be read: {first_line(error)}") from None


def fix_inputs(path: Path, model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> None:
    """Writes the shapes given by the user into the model's inputs."""
    values = {value.name: value for value in model.graph.input}
    for name, shape in shapes.items():
        if name not in values:
            raise CompilerError(f"{path} has no input {name!r}; its inputs are {', '.join(values)}")
        dims = values[name].type.tensor_type.shape.dim
        if len(dims) != len(shape):
            raise CompilerError(f"{path}: input {name!r} has {len(dims)} axes, but the shape {tuple(shape)} was given")
        for dim, size in zip(dims, shape, strict=True):
            if dim.HasField("dim_value") and dim.dim_value != size:
                raise CompilerError(f"{path}: input {name!r} has the side {dim.dim_value}, but {size} was given")
            dim.dim_value = size


def infer_shapes(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that has the shapes of all tensors; refuses inputs whose shape is not fixed."""
    model = copy.deepcopy(model)
    for value in model.graph.input:
        _check_static(path, "input", value)
    # Shapes that an exporter wrote beside the nodes may be symbolic or stale: infer them anew.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise CompilerError(f"{path}: shapes cannot be inferred: {first_line(error)}") from None


def _check_static(path: Path, kind: str, value: onnx.ValueInfoProto) -> None:
    dims = value.type.tensor_type.shape.dim
    if all(dim.dim_value > 0 for dim in dims) and value.type.tensor_type.HasField("shape"):
        return
    shape = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in dims)
    raise CompilerError(
        f"{path}: {kind} {value.name!r} has the shape ({shape}), but every side must be a fixed number; "
        "export the network with fixed shapes and a batch of 1, or give the sides with --shape "
        f"{value.name}=1,... (in Python, with the argument input_shapes of import_onnx)"
    )


def _check_input(path: Path, value: onnx.ValueInfoProto) -> None:
    shape, kind = _shape_of(value), value.type.tensor_type.elem_type
    if kind != onnx.TensorProto.FLOAT:
        raise CompilerError(
            f"{path}: input {value.name!r} has the type {onnx.TensorProto.DataType.Name(kind)}, but must be FLOAT"
        )
    if not shape or shape[0] != 1:
        raise CompilerError(
            f"{path}: input {value.name!r} has the shape {shape}, but the batch (first axis) must be 1; "
            "export the network with a batch of 1"
        )


def _check_finite(path: Path, name: str, value: np.ndarray) -> None:
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        count = int(np.count_nonzero(~np.isfinite(value)))
        raise CompilerError(
            f"{path}: {count} of {value.size} values of the constant {name!r} are NaN or infinite; repair the network"
        )


def _shapes(path: Path, model: onnx.ModelProto, constants: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    values = {value.name: value for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        for name in filter(None, node.output):
            if name not in values:
                raise CompilerError(
                    f"{path}: the shape of {name!r} (node {node.name or name!r}, {node.op_type}) cannot be "
                    "inferred; export the network with fixed shapes"
                )
            if values[name].type.HasField("tensor_type"):
                _check_static_output(path, node, values[name])
    return {name: _shape_of(value) for name, value in values.items() if name not in constants}


def _check_static_output(path: Path, node: onnx.NodeProto, value: onnx.ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
        raise CompilerError(
            f"{path}: the shape of {value.name!r} (node {node.name or node.output[0]!r}, {node.op_type}) "
            "depends on the data, but every shape must be fixed"
        )


def _shape_of(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _nodes(path: Path, model: onnx.ModelProto) -> Iterator[Node]:
    names: set[str] = set()
    for proto in model.graph.node:
        name = unique_name(proto.name or proto.output[0], names)
        names.add(name)
        yield Node(name, proto.op_type, tuple(proto.input), tuple(proto.output), node_attributes(path, proto))


def node_attributes(path: Path, proto: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name: numbers, lists, texts and arrays."""
    name = proto.name or proto.output[0]
    return {item.name: _attribute(path, name, item) for item in proto.attribute}


def _attribute(path: Path, node: str, attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise CompilerError(
                f"{path} is no ONNX file, or is broken: the attribute {attribute.name!r} of node {node!r} is no text"
            ) from None
    if isinstance(value, onnx.TensorProto):
        array = onnx.numpy_helper.to_array(value)
        _check_finite(path, node, array)
        return array
    return list(value) if isinstance(value, list | tuple) else value
