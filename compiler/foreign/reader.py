"""Reads quantised networks of any origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tessera.compiler.foreign.build import build
from tessera.compiler.foreign.model import QDQ_DOMAIN, QONNX_DOMAINS, has_quantizers, without_quantizers
from tessera.compiler.foreign.ranges import complete_quantizers
from tessera.compiler.foreign.rewrites import (
    fuse_limits,
    lift_roundings,
    place_roundings,
    round_on_host,
    sink_roundings,
    take_inputs,
)
from tessera.compiler.graph import Shape
from tessera.compiler.onnx_import import fix_inputs, graph_of_model, infer_shapes, load_model
from tessera.compiler.passes import PASSES, Pipeline, fold_constants, remove_identities
from tessera.compiler.qonnx_format import METADATA_KEY
from tessera.compiler.qonnx_reader import read_qonnx
from tessera.compiler.quantized import QuantizedNetwork

_DOMAINS = (*QONNX_DOMAINS, QDQ_DOMAIN)

_PIPELINE = Pipeline((place_roundings, remove_identities, fold_constants, lift_roundings, sink_roundings, *PASSES))
"""From the float network without quantizers to the prepared one."""


@dataclass(frozen=True, eq=False)
class ForeignNetwork:
    """What became of a quantised file.

    Attributes
    ----------
    network
        The quantised network.
    notes
        A sentence for each kind of thing in which it is not as in the file; empty if it computes just that.
    """

    network: QuantizedNetwork
    notes: tuple[str, ...] = ()


def is_quantized(path: str | Path) -> bool:
    """Whether an ONNX file has nodes that quantise; raises `CompilerError` if it cannot be read."""
    return has_quantizers(load_model(Path(path), _DOMAINS))


def read_quantized(path: str | Path, *, input_shapes: Mapping[str, Shape] | None = None) -> ForeignNetwork:
    """Reads a quantised network: one that this compiler has written as it was, any other with `read_foreign`."""
    model = load_model(Path(path), _DOMAINS)
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        return ForeignNetwork(read_qonnx(path))
    return read_foreign(path, input_shapes=input_shapes)


def read_foreign(path: str | Path, *, input_shapes: Mapping[str, Shape] | None = None) -> ForeignNetwork:
    """Reads a network that another tool has quantised, as QDQ or QONNX.

    Every tensor has the file's scale and range, and every operation rounds where the file rounds. What the NPU cannot
    do just so is done as closely as it can, and noted. Multipliers have 16 bits: weight scales are changed by a
    part in 2 ** 16 so that they fit.

    Parameters
    ----------
    path
        An ONNX file with float32 inputs and a batch of 1.
    input_shapes
        Shapes for inputs whose shape in the file is not fixed, by the inputs' names, batch axis included.

    Raises
    ------
    CompilerError
        The file is missing or broken, or something in it has no counterpart on the NPU; names the node.
    """
    path = Path(path)
    stripped = without_quantizers(path, load_model(path, _DOMAINS))
    fix_inputs(path, stripped.model, input_shapes or {})
    graph = graph_of_model(path, stripped.model, infer_shapes(path, stripped.model))
    graph.quantizers = {name: found for name, found in stripped.quantizers.items() if name in graph.shapes}
    notes = stripped.notes
    graph = complete_quantizers(fuse_limits(take_inputs(_PIPELINE.run(graph))), notes)
    return ForeignNetwork(build(round_on_host(graph), notes), tuple(notes))
