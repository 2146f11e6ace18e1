"""``tessera adapt``: a network on the co-simulated RTL whose precision follows the memory's bandwidth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.cli.console import (
    ResultError,
    UsageError,
    check_output,
    console,
    print_table,
    progress_bar,
    write_file,
    write_json,
)
from tessera.cli.database import open_database, standing_files
from tessera.cli.networks import host_operations, load_quantized
from tessera.cli.options import DatabaseOption, JsonOption, NpuOption, SimulatorOption
from tessera.cli.planning import BandwidthOption, LatencyOption, dram
from tessera.cli.run import check_waves, simulated_memory
from tessera.compiler import QuantizedNetwork, is_quantized, load_inputs
from tessera.compiler.calibration_data import load_labels
from tessera.compiler.errors import check_file
from tessera.firmware.adaptation import (
    Decision,
    DecisionLog,
    Limit,
    Metric,
    Mode,
    PolicyName,
    PrecisionManager,
    Settings,
)
from tessera.firmware.adaptation.adaptable import adaptable
from tessera.firmware.adaptation.inference import compile_adaptive, run_adaptive
from tessera.firmware.adaptation.scenario import AdaptiveScenario
from tessera.firmware.adaptation.settings import THRESHOLDS
from tessera.firmware.adaptation.summary import adaptive_summary
from tessera.firmware.cosimulation import Options
from tessera.rtl.adaptation import Sampling
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator
from tessera.sim.cosim.load_profile import LoadProfile
from tessera.sim.cycles import DEFAULT_MEMORY

JSON_LINES = (".json", ".jsonl")
"""Suffixes of a log for programs; others are for people."""

PolicyOption = Annotated[PolicyName, typer.Option("--policy", help="Who chooses depths.")]
DepthOption = Annotated[
    int | None,
    typer.Option(
        "--depth",
        help="Depth in bits of policy fixed, and at which the others start.",
        metavar="BITS",
        show_default="the network's",
    ),
]
LoadOption = Annotated[
    str | None,
    typer.Option(
        "--load",
        help="What others take of the bus: a share such as 0.8 or 80%, random:SEED, or a file of lines CYCLES,SHARE.",
        metavar="SHARE|random:SEED|FILE",
    ),
]
TargetOption = Annotated[
    int | None,
    typer.Option("--target", help="Latency that an inference should have at most.", metavar="CYCLES"),
]
ThresholdsOption = Annotated[
    str,
    typer.Option(
        "--thresholds",
        help="Shares of the bus at which sections begin, falling.",
        metavar="S,S,...",
    ),
]
SectionDepthsOption = Annotated[
    str | None,
    typer.Option(
        "--section-depths",
        help="Depths in bits of the sections of policy table, falling.",
        metavar="BITS,BITS,...",
        show_default="16,8,6,4 or those next to them",
    ),
]
SamplingOption = Annotated[str, typer.Option("--sampling", help="When policy table looks: layer, period or run.")]
ModeOption = Annotated[Mode, typer.Option("--mode", help="Whether each layer has a depth of its own.")]
WindowOption = Annotated[
    int,
    typer.Option("--window", help="Cycles of the monitor's window, a power of two.", metavar="CYCLES"),
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help=f"Where policy sensitivity takes bits, and gives them back below RELEASE; metrics: {', '.join(Metric)}.",
        metavar="METRIC=VALUE[:RELEASE]",
    ),
]
StepsOption = Annotated[
    int,
    typer.Option("--steps", help="Operations that policy sensitivity changes at a time.", metavar="N"),
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

DEFAULT_THRESHOLDS = ",".join(str(Fraction(share)) for share in THRESHOLDS)


def adapt(
    network: Annotated[Path, typer.Argument(help="A network of tessera quantize --adaptive.", metavar="NETWORK")],
    samples: Annotated[Path, typer.Option("--input", "-i", help="Samples (.npz or .npy).", metavar="FILE")],
    npu: NpuOption = "edge",
    policy: PolicyOption = PolicyName.SENSITIVITY,
    depth: DepthOption = None,
    load: LoadOption = None,
    target: TargetOption = None,
    thresholds: ThresholdsOption = DEFAULT_THRESHOLDS,
    section_depths: SectionDepthsOption = None,
    sampling: SamplingOption = "layer",
    mode: ModeOption = Mode.LAYER,
    window: WindowOption = Settings.window_cycles,
    limit: LimitOption = None,
    steps: StepsOption = Settings.steps,
    warm_up: WarmUpOption = 0,
    bandwidth: BandwidthOption = None,
    latency: LatencyOption = DEFAULT_MEMORY.latency,
    count: Annotated[int | None, typer.Option("--samples", "-n", min=1, help="Use only the first N samples.")] = None,
    simulator: SimulatorOption = Simulator.VERILATOR,
    waves: Annotated[
        Path | None, typer.Option("--waves", help="Waveforms: .vcd (Verilator), .fst (Icarus).", metavar="FILE")
    ] = None,
    database: DatabaseOption = None,
    log: LogOption = None,
    json: JsonOption = None,
) -> None:
    """Run a network on the co-simulated RTL, and let the depths of its layers follow the memory's bandwidth."""
    profile = None if load is None else Path(load)
    read = (network, samples, profile, *standing_files(npu, database))
    for output in (json, waves, log):
        check_output(output, *read)
    check_output(json, log, waves)
    check_output(log, waves)
    check_waves(waves, simulator)
    check_file(samples)
    options = adaptive_options(
        policy=policy,
        mode=mode,
        sampling=sampling,
        depth=depth,
        thresholds=thresholds,
        section_depths=section_depths,
        window=window,
        target=target,
        load=load,
        limits=limit,
        steps=steps,
        warm_up=warm_up,
        log=log,
    )
    config = NpuConfig.load(npu)
    memory = simulated_memory(dram(config, bandwidth, latency), config)
    simulation = Options(simulator=simulator, memory=memory, waveform=waves)
    quantized = _load(network)
    with open_database(database, config) as opened:
        remembered = None if opened is None else opened.path
    values = run_adaptive_network(network, quantized, samples, count, config, options, simulation, remembered)
    if json is not None:
        write_json(json, values)
    if not all(row["bit_exact"] for row in values["networks"]):
        raise ResultError(f"the RTL's results differ from the golden model's: {quantized.name}")


def _load(path: Path) -> QuantizedNetwork:
    """Reads the network; raises `UsageError` for a float one, `CompilerError` if it cannot be used."""
    if not is_quantized(path):
        raise UsageError(f"{path} is a float network; quantise it with tessera quantize --adaptive DEPTHS first")
    return load_quantized(path, {})


@dataclass(frozen=True)
class AdaptiveOptions:
    """How an adaptive network is run: settings of the manager, load of the bus, inferences before those that count, and
    the file of the log."""

    settings: Settings
    load: LoadProfile | None
    warm_up: int
    log: Path | None


def adaptive_options(
    *,
    policy: PolicyName,
    mode: Mode,
    sampling: str,
    depth: int | None,
    thresholds: str,
    section_depths: str | None,
    window: int,
    target: int | None,
    load: str | None,
    limits: list[str] | None,
    steps: int,
    warm_up: int,
    log: Path | None,
) -> AdaptiveOptions:
    """From the options of the command.

    Raises
    ------
    UsageError
        A text means nothing.
    AdaptationError
        The settings make no sense, whatever the network.
    """
    settings = Settings(
        policy=policy,
        mode=mode,
        sampling=_sampling(sampling),
        depth=depth,
        thresholds=tuple(_shares("--thresholds", thresholds)),
        section_depths=None if section_depths is None else tuple(_integers("--section-depths", section_depths)),
        window_cycles=window,
        target_cycles=target,
        limits=_limits(limits or []),
        steps=steps,
    )
    return AdaptiveOptions(settings, None if load is None else parse_load(load), warm_up, log)


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


def _limits(texts: Iterable[str]) -> dict[Metric, Limit]:
    """The limits of all ``--limit``; a metric may have one."""
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


def _sampling(text: str) -> Sampling:
    names = {each.name.lower(): each for each in Sampling}
    if text not in names:
        raise UsageError(f"--sampling {text}: there is no such sampling; use one of {', '.join(names)}")
    return names[text]


def _shares(option: str, text: str) -> Iterable[float]:
    for part in text.split(","):
        try:
            yield float(Fraction(part.strip()))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise UsageError(f"{option} {text}: {part!r} is no number; write shares such as 3/4 or 0.75") from None


def _integers(option: str, text: str) -> Iterable[int]:
    for part in text.split(","):
        try:
            yield int(part)
        except ValueError:
            raise UsageError(f"{option} {text}: {part!r} is no depth in bits; write numbers such as 16,8,6,4") from None


def run_adaptive_network(
    path: Path,
    quantized: QuantizedNetwork,
    file: Path,
    samples: int | None,
    config: NpuConfig,
    options: AdaptiveOptions,
    simulation: Options,
    database: Path | None,
) -> dict[str, Any]:
    """Runs a network as often as there are samples, prints what came of it, and returns the summary.

    Raises
    ------
    CompilerError
        The network has no variants or does not fit, or the settings ask for what it does not have.
    CosimError
        The simulation failed.
    """
    program = compile_adaptive(quantized, config)
    PrecisionManager(adaptable(program), options.settings)  # refuses settings before the simulation
    for sentence in host_operations(quantized):
        console.print(sentence)
    inputs = load_inputs(file, quantized.inputs, quantized.shapes)
    available = len(next(iter(inputs.values())))
    labels, count = load_labels(file, available), min(samples or available, available)
    scenario = AdaptiveScenario(
        program, {}, options.settings, options.load, database, options.warm_up, simulation.timeout_cycles
    )
    with progress_bar(quantized.name, count) as on_progress:
        first = {name: values[:count] for name, values in inputs.items()}
        result = run_adaptive(scenario, first, simulation, on_progress)
    chosen = None if labels is None else labels[:count]
    summary = adaptive_summary(path, scenario, result, simulation.simulator, chosen)
    if options.log is not None:
        write_log(options.log, result.run.decisions)
    _report(summary, result.run.decisions)
    return summary


def write_log(path: Path, decisions: Iterable[Decision]) -> None:
    """Writes decisions with their reasons; raises `UsageError` if that is not possible."""
    log = DecisionLog(decisions)
    write_file(path, (log.json_lines() if path.suffix in JSON_LINES else log.text()).encode())
    console.print(f"log: {path}", soft_wrap=True)


def _report(summary: Mapping[str, Any], decisions: Iterable[Decision]) -> None:
    """The table of a run, and how often what was decided."""
    [row], adaptation = summary["networks"], summary["adaptation"]
    kinds = [decision.kind for decision in decisions]
    counts = ", ".join(
        f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds) if kind not in ("started", "finished")
    )
    depths = sorted({depth for _, depth, *_ in adaptation["times"]}, reverse=True)
    print_table(
        (
            "network",
            "samples",
            "bit-exact",
            "cycles",
            "MAC utilisation",
            "DRAM bytes",
            "depths",
            "target met",
            "accuracy",
        ),
        [
            (
                row["name"],
                str(row["samples"]),
                "yes" if row["bit_exact"] else "NO",
                f"{row['cycles']:,}",
                f"{row['mac_utilization']:.1%}",
                f"{row['dram_bytes']:,}",
                ", ".join(map(str, depths)),
                "" if row["target_met"] is None else f"{row['target_met']:.0%}",
                f"{row['accuracy']:.2%}" if "accuracy" in row else "",
            )
        ],
        title=f"policy {adaptation['policy']}: {counts or 'nothing changed'}",
    )
