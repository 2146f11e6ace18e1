"""Concatenation, slices and upsampling."""

from __future__ import annotations

from tessera.compiler.graph import CONCATENATION, SELECTION, Graph, Node, unique_name
from tessera.compiler.operators import crop_facts, integer_scales, npu_problem, slice_ranges
from tessera.compiler.passes.lowering import window


def lower_concatenations(graph: Graph) -> Graph:
    """Concat becomes Concatenation; a tensor that is a part of two tensors, or twice of one, is copied first."""
    graph = graph.copy()
    owned = {node.output for node in graph.nodes if node.op == SELECTION}
    for node in list(graph.nodes):
        if node.op == "Concat" and npu_problem(graph, node) is None:
            pieces = []
            for name in node.inputs:
                pieces.append(_copy(graph, node, name) if name in owned else name)
                owned.add(pieces[-1])
            graph.replace_node(node, Node(node.name, CONCATENATION, tuple(pieces), node.outputs))
    return graph


def lower_slices(graph: Graph) -> Graph:
    """Split and Slice become Selection of channels, behind a Window that crops rows and columns."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op == "Split" and npu_problem(graph, node) is None:
            graph.replace_node(node, *_split(graph, node))
        elif node.op == "Slice" and npu_problem(graph, node) is None:
            _lower_slice(graph, node)
    return graph


def lower_upsampling(graph: Graph) -> Graph:
    """Resize becomes Window that repeats rows and columns."""
    graph = graph.copy()
    for node in list(graph.nodes):
        if node.op == "Resize" and npu_problem(graph, node) is None:
            repeat = integer_scales(graph, node)
            graph.replace_node(node, window(node, (node.inputs[0],), repeat=repeat))
    return graph


def _copy(graph: Graph, node: Node, source: str) -> str:
    """A copy of a tensor, made before ``node``."""
    name = unique_name(f"{source}_copy", [*graph.shapes, *graph.constants])
    graph.shapes[name] = graph.shapes[source]
    copy = Node(unique_name(name, [other.name for other in graph.nodes]), "", (), (name,))
    graph.replace_node(node, window(copy, (source,)), node)
    return name


def _split(graph: Graph, node: Node) -> list[Node]:
    """A Selection for each output of a Split."""
    selections: list[Node] = []
    channel = 0
    taken = [other.name for other in graph.nodes]
    for output in node.outputs:
        name = unique_name(node.name, taken) if selections else node.name
        taken.append(name)
        selections.append(Node(name, SELECTION, node.inputs[:1], (output,), {"channel": channel}))
        channel += graph.shapes[output][1]
    return selections


def _lower_slice(graph: Graph, node: Node) -> None:
    """First the rows and columns, then the channels."""
    ranges = slice_ranges(graph, node)
    assert ranges is not None, "the table of operators has checked it"
    channels, *sides = ranges
    source = graph.shapes[node.inputs[0]]
    selects = len(channels) != source[1]
    crops = any(len(each) != size for each, size in zip(sides, source[2:], strict=True))
    selection = Node(node.name, SELECTION, node.inputs[:1], node.outputs, {"channel": channels.start})
    if not crops:
        graph.replace_node(node, selection)
        return
    facts = crop_facts(graph, node)
    if not selects:
        graph.replace_node(node, window(node, node.inputs[:1], **facts))
        return
    cropped = unique_name(f"{node.output}_cropped", [*graph.shapes, *graph.constants])
    graph.shapes[cropped] = (1, source[1], *(len(each) for each in sides))
    crop = Node(unique_name(f"{node.name}_crop", [other.name for other in graph.nodes]), "", (), (cropped,))
    graph.replace_node(
        node,
        window(crop, node.inputs[:1], **facts),
        Node(node.name, SELECTION, (cropped,), node.outputs, {"channel": channels.start}),
    )
