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
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.compiler.errors import CompilerError
from tessera.compiler.precision import DepthLimits, DepthRange, LayerSensitivity, SensitivityProfile
from tessera.compiler.quantized import BASE_DEPTH, QuantizedNetwork
from tessera.rtl.config import ACTIVATION_DEPTHS, WEIGHT_DEPTHS

QUANT = "Quant"
QUANT_DOMAIN = "qonnx.custom_op.general"
OLD_QUANT_DOMAINS = ("onnx.brevitas", "finn.custom_op.general")
"""Other names of the domain in files of older tools."""

QUANT_VERSION = 1
ROUNDING_MODE = "ROUND"

_SCALED_DEPTHS = tuple(depth for depth in ACTIVATION_DEPTHS if depth != BASE_DEPTH)
_LARGEST_SHIFT = 64
"""Clip shifts beyond it make no sense of a float32 scale."""

METADATA_KEY = "tessera"
METADATA_VERSION = 2
READABLE_VERSIONS = (1, METADATA_VERSION)
"""Version 1 has the tensors alone."""


@dataclass(frozen=True)
class Metadata:
    """What a file says in its metadata.

    Attributes
    ----------
    scales
        Base scale and clip shifts of tensors, by name; see `QuantizedTensor`.
    limits
        Between which depths the network may run; ``None`` if the file does not say.
    sensitivity
        Sensitivities of its layers; ``None`` if the file has none.
    adaptive_depths
        As in `QuantizedNetwork`.
    """

    scales: Mapping[str, tuple[float, Mapping[int, int]]] = field(default_factory=dict)
    limits: DepthLimits | None = None
    sensitivity: SensitivityProfile | None = None
    adaptive_depths: tuple[int, ...] = ()


def format_metadata(network: QuantizedNetwork) -> str:
    """The metadata of a network: the scales that its tensors would have at other depths, the limits of its depths, its
    sensitivities, if they are known, and the depths that it may choose among while it runs, if there are any."""
    tensors = {
        name: {"base_scale": tensor.base_scale, "clip_shifts": _with_text_keys(tensor.clip_shifts)}
        for name, tensor in network.tensors.items()
    }
    limits = network.depth_limits
    facts: dict[str, Any] = {
        "version": METADATA_VERSION,
        "tensors": tensors,
        "depth_limits": {
            "network": [limits.network.minimum, limits.network.maximum],
            "layers": {name: [each.minimum, each.maximum] for name, each in limits.layers.items()},
        },
    }
    if network.sensitivity is not None:
        facts["sensitivity"] = {
            "method": network.sensitivity.method,
            "samples": network.sensitivity.samples,
            "layers": {
                name: {"weights": _with_text_keys(each.weights), "activations": _with_text_keys(each.activations)}
                for name, each in network.sensitivity.layers.items()
            },
        }
    if network.adaptive_depths:
        facts["adaptive_depths"] = list(network.adaptive_depths)
    return json.dumps(facts, sort_keys=True)


def parse_metadata(source: str, text: str | None) -> Metadata:
    """What the metadata say; nothing without metadata.

    Raises
    ------
    CompilerError
        The metadata in the file ``source`` are damaged or of a version that cannot be read.
    """
    if text is None:
        return Metadata()
    try:
        facts = json.loads(text)
        version = facts["version"]
        if version in READABLE_VERSIONS:
            return Metadata(
                {name: _scales(each) for name, each in facts["tensors"].items()},
                _limits(facts["depth_limits"]) if "depth_limits" in facts else None,
                _sensitivity(facts["sensitivity"]) if "sensitivity" in facts else None,
                _adaptive_depths(facts.get("adaptive_depths", [])),
            )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f" ({error})" if isinstance(error, CompilerError) else ""
        raise CompilerError(
            f"{source}: the metadata {METADATA_KEY!r} are damaged{reason}; remove them or write the file again"
        ) from None
    raise CompilerError(
        f"{source}: the metadata {METADATA_KEY!r} have version {version!r}, but this version of the compiler reads "
        f"{' and '.join(map(str, READABLE_VERSIONS))}; use a newer compiler, or write the file again with this one"
    )


def _with_text_keys(values: Mapping[int, float]) -> dict[str, float]:
    return {str(key): value for key, value in sorted(values.items())}


def _scales(facts: Mapping[str, Any]) -> tuple[float, dict[int, int]]:
    base = _number(facts["base_scale"])
    if base <= 0:
        raise CompilerError(f"a base scale of {base:g} is not positive")
    shifts = facts["clip_shifts"]
    for depth in _SCALED_DEPTHS:
        shift = shifts.get(str(depth))
        if type(shift) is not int or abs(shift) > _LARGEST_SHIFT:
            raise CompilerError(f"the clip shift of {depth} bits is {shift!r}, no whole number up to {_LARGEST_SHIFT}")
    return base, {depth: shifts[str(depth)] for depth in _SCALED_DEPTHS}


def _limits(facts: Mapping[str, Any]) -> DepthLimits:
    layers = {str(name): DepthRange(*pair) for name, pair in facts["layers"].items()}
    return DepthLimits(DepthRange(*facts["network"]), layers)


def _sensitivity(facts: Mapping[str, Any]) -> SensitivityProfile:
    layers = {
        str(name): LayerSensitivity(
            _by_depth(each["weights"], WEIGHT_DEPTHS), _by_depth(each["activations"], ACTIVATION_DEPTHS)
        )
        for name, each in facts["layers"].items()
    }
    return SensitivityProfile(str(facts["method"]), layers, int(facts["samples"]))


def _adaptive_depths(facts: Sequence[Any]) -> tuple[int, ...]:
    for depth in facts:
        if type(depth) is not int or depth not in ACTIVATION_DEPTHS:
            raise CompilerError(f"there is no activation depth of {depth!r} bits")
    if list(facts) != sorted(set(facts)):
        raise CompilerError(f"the adaptive depths {', '.join(map(str, facts))} do not rise")
    return tuple(facts)


def _by_depth(facts: Mapping[str, Any], depths: Sequence[int]) -> dict[int, float]:
    found = {int(depth): _number(value) for depth, value in facts.items()}
    for depth in found:
        if depth not in depths:
            raise CompilerError(f"there is no depth of {depth} bits")
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CompilerError(f"{value!r} is no finite number")
    return float(value)
