"""The part of ``tessera quantize`` that makes networks whose layers choose their depths while they run."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from tessera.cli.console import UsageError, progress_bar
from tessera.compiler.adaptive import AdaptiveNetwork
from tessera.compiler.calibrate import Calibration
from tessera.compiler.errors import CompilerError
from tessera.compiler.graph import Graph
from tessera.compiler.precision import DepthRange, SensitivityProfile
from tessera.compiler.quantize import computed
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.sensitivity import analyse
from tessera.rtl.config import ACTIVATION_DEPTHS

_RANGE = re.compile(r"(?:(?P<name>.+)=)?\s*(?P<minimum>\d{1,3})\s*\.\.\s*(?P<maximum>\d{1,3})", re.DOTALL)


def parse_adaptive(text: str | None, activations: int | None) -> tuple[int, ...]:
    """The depths of ``--adaptive 4,6,8,16``, rising; none without the option.

    Raises
    ------
    UsageError
        One of them does not exist, or ``--activations`` is not the deepest.
    """
    if text is None:
        return ()
    parts = text.replace(" ", "").split(",")
    for part in parts:
        if part not in map(str, ACTIVATION_DEPTHS):
            raise UsageError(
                f"--adaptive {text}: {part!r} is no activation depth; use some of "
                f"{', '.join(map(str, ACTIVATION_DEPTHS))}"
            )
    depths = tuple(sorted(set(map(int, parts))))
    if activations not in (None, depths[-1]):
        raise UsageError(
            f"--activations {activations}: the file of an adaptive network has its deepest depth, {depths[-1]}; leave "
            "the option out, or leave deeper ones out of --adaptive"
        )
    return depths


def parse_ranges(texts: Sequence[str] | None) -> dict[str, DepthRange]:
    """Ranges by layer from ``--depth-range NAME=6..16``, or of the network (the name "") from ``6..16``.

    Raises
    ------
    UsageError
        A text is no range, or there are several of a layer.
    CompilerError
        A depth does not exist, or a minimum is above its maximum.
    """
    ranges: dict[str, DepthRange] = {}
    for text in texts or []:
        match = _RANGE.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"--depth-range {text!r} is no range; write MINIMUM..MAXIMUM for the network or NAME=MINIMUM..MAXIMUM "
                "for a layer, such as conv1=6..16"
            )
        name = match["name"] or ""
        if name in ranges:
            raise UsageError(f"--depth-range {text!r}: there is another one for the same layer; give one")
        ranges[name] = DepthRange(int(match["minimum"]), int(match["maximum"]))
    return ranges


def check_variants(quantized: QuantizedNetwork) -> None:
    """Checks that all variants of an adaptive network can be computed.

    Raises
    ------
    CompilerError
        A variant cannot be computed by the machine; or a depth was given to a layer that chooses.
    """
    network = AdaptiveNetwork.of(quantized)
    for operation in quantized.operations:
        given, deepest = quantized.tensors[operation.output].depth, network.depths[-1]
        if operation.output not in network.pinned and given != deepest:
            raise CompilerError(
                f"layer {operation.name!r} was given {given} bits, but it chooses its depth while the network runs; "
                f"limit that with --depth-range {operation.name}=MIN..MAX, and give depths to inputs and outputs alone"
            )
    for depth in network.depths:
        network.integer(depth)


def find_sensitivities(
    graph: Graph, ranges: Calibration, samples: Mapping[str, np.ndarray], labels: np.ndarray | None, method: str
) -> SensitivityProfile:
    """The sensitivities of a network's layers, with a progress bar.

    They say how far the result moves from the float network's, so that those of several layers add up; by labels, which
    only the method ``gradient`` needs, some would be negative by chance.
    """
    labels = labels if method == "gradient" else None
    done = itertools.count()
    with progress_bar("sensitivities", len(computed(graph)) + 1) as report:
        return analyse(graph, ranges, samples, method, labels=labels, progress=lambda _: report({"done": next(done)}))
