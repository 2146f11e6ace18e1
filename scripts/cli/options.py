"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.console import UsageError
from tessera.compiler.graph import Shape
from tessera.compiler.quantize import LayerDepths
from tessera.compiler.refinements import DEFAULT_REFINEMENTS, REFINEMENTS, Refinements
from tessera.rtl.isa import IsaError, MemoryFormat
from tessera.sim.cosim import Simulator

DEFAULT_DEPTH = 8
"""Bits of activations and weights where nothing is said."""

_SIDE = re.compile(r"[1-9][0-9]{0,8}")
"""A side of a tensor as text."""


def _hyphenated(name: str) -> str:
    return name.replace("_", "-")


NpuOption = Annotated[str, typer.Option("--npu", help="tiny, edge, server, or a TOML file.", metavar="NAME|FILE")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.", metavar="FILE")]
SimulatorOption = Annotated[Simulator, typer.Option("--simulator", help="What runs the RTL.")]
DatabaseOption = Annotated[
    Path | None,
    typer.Option(
        "--database",
        help="Profile database: what operations took on the machine.",
        metavar="FILE",
        show_default="in your cache folder",
    ),
]
ActivationsOption = Annotated[
    int | None,
    typer.Option(
        "--activations",
        "-a",
        help="Activation depth of float networks in bits: 4, 6, 8 or 16.",
        metavar="BITS",
        show_default=str(DEFAULT_DEPTH),
    ),
]
WeightsOption = Annotated[
    int | None,
    typer.Option(
        "--weights",
        "-w",
        help="Weight depth of float networks in bits: 4 or 8.",
        metavar="BITS",
        show_default=str(DEFAULT_DEPTH),
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration", "-c", help="Typical inputs (.npz or .npy) for the activations' ranges.", metavar="FILE"
    ),
]
CalibrationsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--calibration",
        "-c",
        help="Typical inputs (.npz or .npy) of float networks for the activations' ranges; with several networks "
        "NETWORK=FILE.",
        metavar="FILE",
    ),
]
LayersOption = Annotated[
    list[str] | None,
    typer.Option("--layer", help="Depths of one operation, such as conv1=a4w8; may be repeated.", metavar="NAME=aNwN"),
]
ShapesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        help="Shape of an input that a float network leaves open, such as image=1,3,8,8; may be repeated.",
        metavar="NAME=N,N,...",
    ),
]
RefineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--refine",
        help="Refinements of the quantiser to switch on again after --no-refine all.",
        metavar="NAME[,NAME]",
    ),
]
NoRefineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--no-refine",
        help=f"Refinements of the quantiser to switch off: {', '.join(map(_hyphenated, REFINEMENTS))}, or all.",
        metavar="NAME[,NAME]",
    ),
]

IoFormatOption = Annotated[
    str,
    typer.Option(
        "--io-format",
        help="What the NPU's inputs and outputs are in DRAM: integer, fp16, bf16 or fp32. Floating point needs scales "
        "that are powers of two; float networks are quantised so.",
        metavar="NAME",
    ),
]


def depth_or_default(depth: int | None) -> int:
    """The depth that an option gives, or the default."""
    return DEFAULT_DEPTH if depth is None else depth


def parse_io_format(text: str) -> MemoryFormat:
    """The format of ``--io-format``; raises `UsageError`."""
    try:
        return MemoryFormat.of(text)
    except IsaError as error:
        raise UsageError(f"--io-format {text}: {error}") from None


def parse_refinements(refine: list[str] | None, no_refine: list[str] | None) -> Refinements:
    """The refinements of ``--refine`` and ``--no-refine``, of which the former wins; raises `UsageError`."""
    refinements = DEFAULT_REFINEMENTS
    for option, texts, on in (("--no-refine", no_refine, False), ("--refine", refine, True)):
        names = {_hyphenated(name): [name] for name in REFINEMENTS} | {"all": list(REFINEMENTS)}
        for name in (name for text in texts or [] for name in text.split(",")):
            if name not in names:
                raise UsageError(f"{option}: there is no refinement {name!r}; use one of {', '.join(names)}")
            refinements = refinements.switched(names[name], on=on)
    return refinements


def parse_shapes(texts: list[str] | None) -> dict[str, Shape]:
    """Shapes by input from ``--shape NAME=1,3,8,8``; raises `UsageError`."""
    shapes: dict[str, Shape] = {}
    for text in texts or []:
        name, _, sides = text.rpartition("=")
        parts = sides.replace(" ", "").split(",")
        if not name or not all(_SIDE.fullmatch(part) for part in parts):
            raise UsageError(f"--shape {text!r} is no name with sides of 1 or more; write NAME=1,3,8,8")
        if name in shapes:
            raise UsageError(f"--shape {text!r}: there is another one for the input {name!r}; give one")
        shapes[name] = tuple(map(int, parts))
    return shapes


def parse_layers(texts: list[str] | None) -> dict[str, LayerDepths]:
    """Depths by operation from ``--layer NAME=aNwN`` (either part may be missing); raises `UsageError`."""
    layers = {}
    for text in texts or []:
        name, _, depths = text.rpartition("=")
        if name in layers:
            raise UsageError(f"--layer {text!r}: there is another one for the operation {name!r}; give one")
        layers[name] = _parse_depths(text, depths)
        if not name:
            raise UsageError(f"--layer {text!r} has no name; write NAME=aNwN, such as conv1=a4w8")
    return layers


def _parse_depths(text: str, depths: str) -> LayerDepths:
    activation, weight = None, None
    rest = depths
    if rest.startswith("a"):
        digits = rest[1:].partition("w")[0]
        activation, rest = digits, rest[1 + len(digits) :]
    if rest.startswith("w"):
        weight, rest = rest[1:], ""
    parts = [part for part in (activation, weight) if part is not None]
    if rest or not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(f"--layer {text!r} has no depths; write NAME=aNwN, NAME=aN or NAME=wN, such as conv1=a4w8")
    return LayerDepths(
        activation=None if activation is None else int(activation), weight=None if weight is None else int(weight)
    )


def match_files(option: str, networks: Sequence[Path], texts: Sequence[str]) -> dict[Path, Path]:
    """The files of an option that is given once for all networks, or as NETWORK=FILE; those of some may be missing.

    NETWORK is the network's path as it was given, or its file's name without folder and suffix. Raises `UsageError`
    where a file belongs to none or to several networks, or a network has several.
    """
    named: dict[str, Path] = {}
    for text in texts:
        before, separator, after = text.partition("=")
        name, file = (before, after) if separator and not Path(text).exists() else ("", text)
        if name in named:
            raise UsageError(f"{option} {text}: there is another one for the same network; write NETWORK=FILE")
        named[name] = Path(file)
    stems = ", ".join(path.stem for path in networks)
    for name in filter(None, named):
        meant = {path for path in networks if name in (path.stem, str(path))}
        if not meant:
            raise UsageError(f"{option} {name}=...: there is no network {name!r}; the networks are {stems}")
        if len(meant) > 1:
            paths = ", ".join(sorted(map(str, meant)))
            raise UsageError(f"{option} {name}=...: several networks have this name; write one of {paths}")
    keys = {path: next((key for key in (str(path), path.stem, "") if key in named), None) for path in networks}
    return {path: named[key] for path, key in keys.items() if key is not None}
