"""What reader and writer of QONNX files share.

A QONNX file is an ordinary ONNX file in which ``Quant`` nodes say where numbers are quantised. Ours have this
form:

- one Quant node per activation tensor and per weight tensor, zero point 0, rounding mode ROUND (half to
  even); weights are narrow (symmetric) with one scale per output channel, activations have one scale;
- an operation is Conv, Gemm (after a Flatten where it has a map as input), MaxPool, AveragePool, Slice of rows and
  columns, Resize, or nothing (a copy); then Add with a quantised tensor, if there is a residual operand; then Relu or
  Clip, if there is an activation; then, if a function with a table follows, the Quant node (16 bits, signed) of its
  operand and the function's nodes; then the Quant node of its output;
- a tensor that is a part of another one, or consists of parts, is a Slice or Concat with a Quant node of the same
  scale;
- every other node runs on the host, before the first or behind the last Quant node.

The operation's name is that of its Conv, Gemm or pooling node, else that of its Quant node. Facts that ONNX
has no place for are JSON in the model's metadata under the key `METADATA_KEY`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tessera.compiler.errors import CompilerError
from tessera.compiler.quantized import QuantizedNetwork

QUANT = "Quant"
QUANT_DOMAIN = "qonnx.custom_op.general"
OLD_QUANT_DOMAINS = ("onnx.brevitas", "finn.custom_op.general")
"""Other names of the domain in files of older tools."""

QUANT_VERSION = 1
ROUNDING_MODE = "ROUND"

METADATA_KEY = "tessera"
METADATA_VERSION = 1


def format_metadata(network: QuantizedNetwork) -> str:
    """The metadata of a network: the scales that its tensors would have at other depths."""
    tensors = {
        name: {
            "base_scale": tensor.base_scale,
            "clip_shifts": {str(depth): shift for depth, shift in sorted(tensor.clip_shifts.items())},
        }
        for name, tensor in network.tensors.items()
    }
    return json.dumps({"version": METADATA_VERSION, "tensors": tensors}, sort_keys=True)


def parse_metadata(source: str, text: str | None) -> Mapping[str, Any]:
    """The facts about each tensor; empty without metadata.

    Raises
    ------
    CompilerError
        The metadata in the file ``source`` are damaged or of another version.
    """
    if text is None:
        return {}
    try:
        facts = json.loads(text)
        version, tensors = facts["version"], facts["tensors"]
    except (ValueError, KeyError, TypeError):
        raise CompilerError(
            f"{source}: the metadata {METADATA_KEY!r} are damaged; remove them or write the file again"
        ) from None
    if version != METADATA_VERSION:
        raise CompilerError(
            f"{source}: the metadata {METADATA_KEY!r} have version {version}, but version {METADATA_VERSION} "
            "can be read; write the file again with this version of the compiler"
        )
    return tensors
