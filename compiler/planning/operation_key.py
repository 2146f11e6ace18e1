"""What an operation's duration depends on, as text: the key under which it is remembered."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from importlib import metadata
from pathlib import Path

import tessera.compiler.lowering
import tessera.sim
from tessera.compiler.lowering.mapping import MappedNetwork
from tessera.compiler.lowering.tiling import INPUT, OUTPUT, RESIDUAL, operands
from tessera.rtl.config import NpuConfig
from tessera.rtl.verilog import SOURCES_HASH, hash_parts, hash_sources
from tessera.sim.golden.network import Convolution, Operation, Window

_HASH_DIGITS = 16
"""Hexadecimal digits that are kept of a hash."""


def operation_key(mapped: MappedNetwork, name: str) -> str:
    """The canonical text of an operation: its kind first, then all on which its duration depends but the machine.

    That is the shape and depth of its operands and which of them pass through buffers, in how many bands; its kernel,
    stride, padding, dilation, groups and repetition; the depth of its weights; whether a table follows; and how its
    input is folded. Values, names and signs do not matter.
    """
    operation = mapped.operations[name]
    facts = {role: _operand(mapped, operation, role) for role in (INPUT, RESIDUAL, OUTPUT)}
    facts |= {
        "kernel": _numbers(operation.kernel),
        "stride": _numbers(operation.stride),
        "padding": _numbers(operation.padding),
        "dilation": _numbers(operation.dilation),
        **_specifics(operation),
        "table": "yes" if operation.post.table is not None else "no",
        "fold": _fold(mapped, operation),
        "bands": str(len(mapped.tiling.operations[name].bands)),
    }
    return " ".join([kind_of(operation), *(f"{fact}={value}" for fact, value in facts.items())])


def kind_of(operation: Operation) -> str:
    """``convolution``, ``depthwise`` or ``window``: kinds whose durations the cycle model finds in different ways."""
    if isinstance(operation, Window):
        return "window"
    return "depthwise" if operation.groups > 1 and operation.weights.shape[1] == 1 else "convolution"


def _specifics(operation: Operation) -> dict[str, str]:
    if isinstance(operation, Convolution):
        return {"groups": str(operation.groups), "weights": str(operation.weight_depth)}
    return {"reduction": operation.reduction, "repeat": _numbers(operation.repeat)}


def _operand(mapped: MappedNetwork, operation: Operation, role: str) -> str:
    """An operand's shape and depth, and whether it passes through a buffer."""
    if role not in operands(operation):
        return "none"
    tensor = mapped.network.tensors[operands(operation)[role]]
    buffered = "b" if role in mapped.tiling.operations[operation.name].buffers else ""
    return f"{_numbers(tensor.shape)}a{tensor.depth}{buffered}"


def _fold(mapped: MappedNetwork, operation: Operation) -> str:
    fold = mapped.folds.get(operation.input)
    return "none" if fold is None else _numbers((fold.tensor.channels, fold.kernel, fold.stride, fold.bits))


def _numbers(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values))


def configuration_key(config: NpuConfig) -> str:
    """A hash of all fields of a configuration, with its name before it."""
    facts = [f"{each.name}={getattr(config, each.name)}".encode() for each in fields(config)]
    return f"{config.name}-{hash_parts(facts)[:_HASH_DIGITS]}"


@cache
def durations_version() -> str:
    """The project's version with a hash of the sources on which durations depend: the hardware, the models of the
    machine, and the lowering."""
    folders = [Path(package.__path__[0]) for package in (tessera.sim, tessera.compiler.lowering)]
    parts = [SOURCES_HASH, *(hash_sources(folder) for folder in folders)]
    return f"{metadata.version('tessera-npu')}-{hash_parts([part.encode() for part in parts])[:_HASH_DIGITS]}"
