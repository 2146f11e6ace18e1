"""Options of ``tessera adapt``, and what their texts mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.cli.console import UsageError
from tessera.compiler.errors import check_file
from tessera.firmware.adaptation import Limit, Metric, Mode, PolicyName
from tessera.firmware.adaptation.settings import THRESHOLDS
from tessera.firmware.bandwidth import COUNT_LIMIT
from tessera.rtl.adaptation import PERIOD_BITS, Sampling
from tessera.rtl.traffic import LEAST_WINDOW, MOST_WINDOW
from tessera.sim.cosim.load_profile import LoadProfile

JSON_LINES = (".json", ".jsonl")
"""Suffixes of a log for programs; others are for people."""

DEPTHS = "Which depths"
BANDWIDTH = "How the bandwidth is seen"
SENSITIVITY = "Policy sensitivity"
"""Groups of options in the help."""

DEFAULT_THRESHOLDS = ",".join(str(Fraction(share)) for share in THRESHOLDS)


class SamplingName(StrEnum):
    """`Sampling` in the words of the command line."""

    LAYER = "layer"
    PERIOD = "period"
    RUN = "run"

    @property
    def sampling(self) -> Sampling:
        """As the settings have it."""
        return Sampling[self.name]


def _option(group: str, name: str, text: str, **details: Any) -> Any:
    """An option in a group of the help."""
    return typer.Option(name, help=text, rich_help_panel=group, **details)


PolicyOption = Annotated[PolicyName, _option(DEPTHS, "--policy", "Who chooses depths.")]
ModeOption = Annotated[Mode, _option(DEPTHS, "--mode", "Whether each layer has a depth of its own.")]
DepthOption = Annotated[
    int | None,
    _option(
        DEPTHS,
        "--depth",
        "Depth in bits of policy fixed, and at which policy sensitivity starts.",
        metavar="BITS",
        show_default="the network's",
    ),
]
SectionDepthsOption = Annotated[
    str | None,
    _option(
        DEPTHS,
        "--section-depths",
        "Depths in bits that the sections ask for, falling.",
        metavar="BITS,BITS,...",
        show_default="16,8,6,4 or those next to them",
    ),
]
SaturationOption = Annotated[
    float,
    _option(
        DEPTHS,
        "--saturation-share",
        "Share of a layer's values that may saturate before it is kept above that depth, 0 to 1.",
        metavar="SHARE",
    ),
]

LoadOption = Annotated[
    str | None,
    _option(
        BANDWIDTH,
        "--load",
        "What others take of the bus: a share such as 0.8 or 80%, random:SEED, or a file of lines CYCLES,SHARE.",
        metavar="SHARE|random:SEED|FILE",
    ),
]
ThresholdsOption = Annotated[
    str,
    _option(
        BANDWIDTH,
        "--thresholds",
        "Shares of the bus at which sections begin, one to three, falling, between 0 and 1.",
        metavar="S,S,...",
    ),
]
HysteresisOption = Annotated[
    float,
    _option(
        BANDWIDTH,
        "--hysteresis",
        "Share of the bus by which a threshold must be exceeded to come back above it, from 0 on; with the highest "
        "threshold less than 1.",
        metavar="SHARE",
    ),
]
WindowOption = Annotated[
    int,
    _option(
        BANDWIDTH,
        "--window",
        f"Cycles in which the monitor counts bytes, a power of two from {1 << LEAST_WINDOW} to {1 << MOST_WINDOW}.",
        metavar="CYCLES",
    ),
]
SamplingOption = Annotated[SamplingName, _option(BANDWIDTH, "--sampling", "When policy table looks at the section.")]
PeriodOption = Annotated[
    int,
    _option(
        BANDWIDTH,
        "--period-cycles",
        f"Cycles for which a section holds with --sampling period, 1 to {(1 << PERIOD_BITS) - 1}.",
        metavar="CYCLES",
    ),
]
PollOption = Annotated[
    int,
    _option(
        BANDWIDTH,
        "--poll-cycles",
        f"Cycles after which the manager looks, if no change of the section calls it, 1 to {COUNT_LIMIT - 1}.",
        metavar="CYCLES",
    ),
]

TargetOption = Annotated[
    int | None,
    _option(
        SENSITIVITY,
        "--target",
        f"Latency that an inference should have at most, 1 to {COUNT_LIMIT - 1}.",
        metavar="CYCLES",
    ),
]
MarginOption = Annotated[
    float,
    _option(
        SENSITIVITY,
        "--margin",
        "Share of the target that stays free when an operation is raised, and half of it at all times, 0 to 1.",
        metavar="SHARE",
    ),
]
ForesightOption = Annotated[
    int,
    _option(
        SENSITIVITY,
        "--foresight",
        "Inferences for which the busiest bus that was seen is expected to come back, from 0 (it is not) on.",
        metavar="N",
    ),
]
RaiseAfterOption = Annotated[
    int,
    _option(
        SENSITIVITY,
        "--raise-after",
        "Times in a row that the manager must find contention ended before it gives bits back, from 1 on.",
        metavar="N",
    ),
]
StepsOption = Annotated[
    int,
    _option(
        SENSITIVITY,
        "--steps",
        "Operations that change at a time, unless a target without limits says how many, from 1 on.",
        metavar="N",
    ),
]
LimitOption = Annotated[
    list[str] | None,
    _option(
        SENSITIVITY,
        "--limit",
        f"Where bits are taken, and given back below RELEASE; metrics: {', '.join(Metric)}; may be repeated.",
        metavar="METRIC=VALUE[:RELEASE]",
    ),
]

WarmUpOption = Annotated[
    int,
    typer.Option("--warm-up", min=0, help="Inferences before those that count.", metavar="N"),
]
LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log",
        help=f"Decisions with their reasons: text, or JSON lines if the name ends in {' or '.join(JSON_LINES)}.",
        metavar="FILE",
    ),
]


def parse_load(text: str) -> LoadProfile:
    """The profile of ``--load``; raises `UsageError`."""
    kind, _, seed = text.partition(":")
    try:
        if kind == "random" and seed:
            return LoadProfile.random(int(seed))
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = None
    try:
        if share is not None:
            return LoadProfile.constant(share)
        check_file(Path(text))
        return LoadProfile.from_file(Path(text), repeat=True)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--load {text}: {error}") from None


def parse_limits(texts: Iterable[str]) -> dict[Metric, Limit]:
    """The limits of all ``--limit``, of which a metric may have one; raises `UsageError`."""
    found: dict[Metric, Limit] = {}
    for text in texts:
        metric, limit = _limit(text)
        if metric in found:
            raise UsageError(f"--limit {text}: there is another one for the metric {metric.value!r}; give one")
        found[metric] = limit
    return found


def _limit(text: str) -> tuple[Metric, Limit]:
    """A limit of ``--limit``; without a release it is released where it is passed."""
    name, _, values = text.partition("=")
    threshold, _, release = values.partition(":")
    if name not in list(Metric):
        raise UsageError(f"--limit {text}: there is no metric {name!r}; use one of {', '.join(Metric)}")
    try:
        return Metric(name), Limit(float(threshold), float(release or threshold))
    except ValueError:
        raise UsageError(f"--limit {text}: write numbers, such as {name}=0.5:0.4") from None


def parse_shares(option: str, text: str) -> Iterator[float]:
    """Shares of the bus, separated by commas; raises `UsageError`."""
    for part in text.split(","):
        try:
            yield float(Fraction(part.strip()))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise UsageError(f"{option} {text}: {part!r} is no number; write shares such as 3/4 or 0.75") from None


def parse_depths(option: str, text: str) -> Iterator[int]:
    """Depths in bits, separated by commas; raises `UsageError`."""
    for part in text.split(","):
        try:
            yield int(part)
        except ValueError:
            raise UsageError(f"{option} {text}: {part!r} is no depth in bits; write numbers such as 16,8,6,4") from None
