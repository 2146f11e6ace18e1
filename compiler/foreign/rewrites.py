"""Rewrites of a graph whose tensors a file rounds, before and after the passes of the front end.

A *rounding* is a copy of a tensor (a Clip without limits) whose output has a quantizer. The passes keep it, or let the
operation before it compute its output.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.graph import CANONICAL, NO_ACTIVATION, Graph, Node, Placement, unique_name
from tessera.compiler.operators import pad_sides
from tessera.compiler.passes.fusion import is_activation
from tessera.compiler.passes.reshapes import RESHAPES
from tessera.compiler.quantizer import Quantizer

_ORDERS = (*RESHAPES, "Transpose", "Identity", "Dropout")
"""Operators whose result has the values of their operand in another order."""

_CHOICES = ("MaxPool", "GlobalMaxPool", "Slice", "Resize")
"""Operators that choose among the values of their operand. (A Resize that interpolates is refused elsewhere.)"""


def place_roundings(graph: Graph) -> Graph:
    """The Identity nodes whose outputs have quantizers become roundings."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op == "Identity" and node.output in graph.quantizers:
            graph.replace_node(node, replace(node, op="Clip"))
    return graph


def lift_roundings(graph: Graph) -> Graph:
    """Rounds before values are put in another order, joined, or chosen, as far as that is the same.

    A rounding then stands behind the operation that computes the values, or meets an equal one, and vanishes.
    """
    graph = graph.copy()
    waiting = [node for node in graph.nodes if _is_rounding(graph, node)]
    while waiting:
        node = waiting.pop()
        if any(other is node for other in graph.nodes) and not _merge(graph, node):
            waiting += _lift(graph, node)
    return graph


def sink_roundings(graph: Graph) -> Graph:
    """Rounds inputs of the network behind their flattening, which the host does then, as for float networks."""
    graph = graph.copy()
    for node in [each for each in graph.nodes if _is_rounding(graph, each) and each.inputs[0] in graph.inputs]:
        readers = graph.consumers(node.output)
        is_flattened = len(readers) == 1 and readers[0].op in RESHAPES and len(graph.shapes[readers[0].output]) == 2
        if is_flattened and node.output not in graph.outputs:
            reshape = readers[0]
            graph.shapes[node.output] = graph.shapes[reshape.output]
            graph.move_quantizer(node.output, reshape.output)
            first = replace(reshape, inputs=(node.inputs[0], *reshape.inputs[1:]), outputs=node.outputs)
            graph.replace_node(node)
            graph.replace_node(reshape, first, replace(node, inputs=node.outputs, outputs=reshape.outputs))
    return graph


def take_inputs(graph: Graph) -> Graph:
    """The rounding of what the NPU is given becomes its own; needs the passes of the front end.

    Raises
    ------
    CompilerError
        The NPU is given something that nothing rounds, so that its range is unknown.
    """
    graph = graph.copy()
    made = {node.output for node in graph.placed(Placement.NPU)}
    given = dict.fromkeys(name for node in graph.placed(Placement.NPU) for name in node.operands if name not in made)
    for name in given:
        if name not in graph.quantizers and not _take_reordered(graph, name):
            _take_input(graph, name)
    graph.tidy()
    return graph


def fuse_limits(graph: Graph) -> Graph:
    """Lets an operation limit its result itself where that is rounded, limited, and rounded to the same steps again."""
    graph = graph.copy()
    for node in graph.placed(Placement.NPU):
        producer = graph.producer(node.inputs[0])
        if producer is not None and _limits_alike(graph, producer, node):
            first, second = graph.quantizers.pop(producer.output), graph.quantizers[node.output]
            limits = [producer.activation, node.activation, *([] if first == second else [first.limits])]
            low, high = max(each[0] for each in limits), min(each[1] for each in limits)
            fused = producer.with_attributes(activation=(low, high))
            graph.replace_node(node)
            graph.replace_node(producer, replace(fused, outputs=node.outputs))
    graph.tidy()
    return graph


def round_on_host(graph: Graph) -> Graph:
    """The roundings that the host executes become ONNX nodes."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if graph.placement[node.name] is not Placement.NPU and _is_rounding(graph, node):
            _spell_out(graph, node, graph.quantizers[node.output])
    return graph


def _is_rounding(graph: Graph, node: Node) -> bool:
    return node.op == "Clip" and not any(node.inputs[1:]) and node.output in graph.quantizers


def _merge(graph: Graph, node: Node) -> bool:
    """Removes a rounding of what is rounded alike already, or of what another one rounds alike."""
    source, quantizer = node.inputs[0], graph.quantizers[node.output]
    others = [each for each in graph.consumers(source) if _is_rounding(graph, each) and each is not node]
    alike = [each.output for each in others if graph.quantizers[each.output] == quantizer]
    found = source if graph.quantizers.get(source) == quantizer else next(iter(alike), None)
    if found is None:
        return False
    del graph.quantizers[node.output]
    if node.output in graph.outputs:
        graph.replace_node(node, Node(node.name, "Identity", (found,), node.outputs))
    else:
        graph.replace_node(node)
        graph.redirect(node.output, found)
        graph.nodes = _sorted_for(graph, found)
    return True


def _sorted_for(graph: Graph, tensor: str) -> list[Node]:
    """The nodes with the producer of a tensor before all of its readers."""
    producer = graph.producer(tensor)
    readers = [index for index, node in enumerate(graph.nodes) if tensor in node.inputs]
    if producer is None or not readers:
        return graph.nodes
    place = next(index for index, node in enumerate(graph.nodes) if node is producer)
    if place < readers[0]:
        return graph.nodes
    nodes = [node for node in graph.nodes if node is not producer]
    return [*nodes[: readers[0]], producer, *nodes[readers[0] :]]


def _lift(graph: Graph, node: Node) -> list[Node]:
    """Exchanges a rounding with the node before it; the new roundings, none if it stays."""
    maker, quantizer = graph.producer(node.inputs[0]), graph.quantizers[node.output]
    if maker is None or not graph.is_private(maker.output) or len(list(filter(None, maker.outputs))) > 1:
        return []
    if not _can_lift(graph, maker, quantizer):
        return []
    operands = maker.inputs if maker.op == "Concat" else maker.inputs[:1]
    made = {name: _rounding(graph, node, name, quantizer) for name in dict.fromkeys(operands)}
    inputs = [made[name].output if name in made and index < len(operands) else name
              for index, name in enumerate(maker.inputs)]  # fmt: skip
    del graph.quantizers[node.output]
    graph.replace_node(maker, *made.values(), replace(maker, inputs=tuple(inputs), outputs=node.outputs))
    graph.replace_node(node)
    return list(made.values())


def _can_lift(graph: Graph, maker: Node, quantizer: Quantizer) -> bool:
    source = maker.inputs[0]
    if any(name in graph.constants for name in (maker.inputs if maker.op == "Concat" else (source,))):
        return False
    if maker.op in RESHAPES:
        return source not in graph.inputs  # the host flattens what the NPU is given
    if maker.op in _CHOICES:
        return graph.quantizers.get(source, quantizer) == quantizer
    is_pad = maker.op == "Pad" and pad_sides(graph, maker) is not None
    return maker.op in (*_ORDERS, "Concat") or is_pad


def _rounding(graph: Graph, node: Node, source: str, quantizer: Quantizer) -> Node:
    """A new rounding of a tensor, not yet among the nodes."""
    output = unique_name(f"{source}_rounded", [*graph.shapes, *graph.constants])
    graph.shapes[output] = graph.shapes[source]
    graph.quantizers[output] = quantizer
    return Node(unique_name(f"{node.name}_{source}", [each.name for each in graph.nodes]), "Clip", (source,), (output,))


def _take_reordered(graph: Graph, name: str) -> bool:
    """Rounds what the host puts in another order behind that, not before; false if nothing rounds it there."""
    node = graph.producer(name)
    while node is not None and node.op in _ORDERS:
        node = graph.producer(node.inputs[0])
    if node is None or not _is_rounding(graph, node):
        return False
    graph.quantizers[name] = graph.quantizers[node.output]
    if len(graph.consumers(node.output)) == 1 and node.output not in graph.outputs:
        graph.replace_node(node)
        graph.redirect(node.output, node.inputs[0])
        del graph.quantizers[node.output]
    if not graph.quantizers[name].fills_depth:
        quantizer = graph.quantizers.pop(name)
        graph.quantizers[_limit(graph, name, _npu_readers(graph, name), quantizer.limits)] = quantizer
    return True


def _npu_readers(graph: Graph, name: str) -> list[Node]:
    return [node for node in graph.consumers(name) if graph.placement[node.name] is Placement.NPU]


def _take_input(graph: Graph, name: str) -> None:
    """Gives a tensor that the NPU is given the quantizer of its rounding."""
    readers = _npu_readers(graph, name)
    roundings = [node.name for node in readers if _rounds(graph, node)]
    found = [graph.quantizers[node.output] for node in readers if node.name in roundings]
    if len(found) < len(readers) or len(set(found)) > 1:
        what = "nothing rounds it" if not found else "its readers round it differently, or not at all"
        raise CompilerError(
            f"network {graph.name!r}: the NPU is given {name!r}, but {what}, so that its range is unknown; quantise it "
            f"once, before everything that reads it"
        )
    given = name if found[0].fills_depth else _limit(graph, name, readers, found[0].limits)
    graph.quantizers[given] = found[0]
    for node in graph.consumers(given):
        if node.activation == NO_ACTIVATION and node.output not in graph.outputs and node.name in roundings:
            graph.replace_node(node)
            graph.redirect(node.output, given)


def _limit(graph: Graph, name: str, readers: list[Node], limits: tuple[float, float]) -> str:
    """Lets the host limit what the NPU is given, because saturation to the machine's depth would be too wide."""
    limited = unique_name(f"{name}_limited", [*graph.shapes, *graph.constants])
    graph.shapes[limited] = graph.shapes[name]
    constants = [graph.add_constant(f"{limited}_by", np.array(each, np.float32)) for each in limits]
    node = Node(unique_name(limited, [each.name for each in graph.nodes]), "Clip", (name, *constants), (limited,))
    for reader in readers:
        inputs = tuple(limited if each == name else each for each in reader.inputs)
        graph.replace_node(reader, replace(reader, inputs=inputs))
    graph.nodes.insert(len(graph.placed(Placement.HOST_BEFORE)), node)
    graph.placement[node.name] = Placement.HOST_BEFORE
    return limited


def _rounds(graph: Graph, node: Node) -> bool:
    """Whether a canonical node limits and rounds a tensor and does nothing else."""
    return is_activation(node) and node.function is None and node.output in graph.quantizers


def _limits_alike(graph: Graph, producer: Node, node: Node) -> bool:
    """Whether a node only limits and rounds what its producer alone gives it in the same steps."""
    first, second = graph.quantizers.get(producer.output), graph.quantizers.get(node.output)
    return (
        first is not None
        and second is not None
        and first.scale == second.scale
        and producer.op in CANONICAL
        and producer.function is None
        and is_activation(node)
        and node.function is None
        and len(graph.consumers(producer.output)) == 1
        and producer.output not in graph.outputs
    )


def _spell_out(graph: Graph, node: Node, quantizer: Quantizer) -> None:
    """A rounding as Div, Round, Clip and Mul."""
    value, place, nodes = node.inputs[0], graph.placement.pop(node.name), []
    steps: list[tuple[str, list[float]]] = [
        ("Div", [quantizer.scale]),
        ("Round", []),
        ("Clip", [quantizer.low, quantizer.high]),
        ("Mul", [quantizer.scale]),
    ]
    for op, operands in steps:
        is_last = op == steps[-1][0]
        name = node.name if is_last else unique_name(f"{node.name}_{op.lower()}", [each.name for each in graph.nodes])
        output = node.output if is_last else unique_name(f"{node.output}_{op.lower()}", graph.shapes)
        constants = [graph.add_constant(f"{name}_operand", np.array(each, np.float32)) for each in operands]
        graph.shapes[output] = graph.shapes[node.output]
        nodes.append(Node(name, op, (value, *constants), (output,)))
        graph.placement[name] = place
        value = output
    graph.replace_node(node, *nodes)
