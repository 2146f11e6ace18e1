"""``tessera adapt``: a network on the co-simulated RTL whose precision follows the memory's bandwidth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.cli.adapt_options import (
    DEFAULT_THRESHOLDS,
    JSON_LINES,
    DepthOption,
    ForesightOption,
    HysteresisOption,
    LimitOption,
    LoadOption,
    LogOption,
    MarginOption,
    ModeOption,
    PeriodOption,
    PolicyOption,
    PollOption,
    RaiseAfterOption,
    SamplingName,
    SamplingOption,
    SaturationOption,
    SectionDepthsOption,
    StepsOption,
    TargetOption,
    ThresholdsOption,
    WarmUpOption,
    WindowOption,
    parse_depths,
    parse_limits,
    parse_load,
    parse_shares,
)
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
from tessera.cli.simulation import BandwidthOption, LatencyOption, WavesOption, check_waves, dram, simulated_memory
from tessera.compiler import QuantizedNetwork, is_quantized, load_inputs
from tessera.compiler.calibration_data import load_labels
from tessera.compiler.errors import check_file
from tessera.firmware.adaptation import (
    Decision,
    DecisionLog,
    Mode,
    PolicyName,
    PrecisionManager,
    Settings,
)
from tessera.firmware.adaptation.adaptable import adaptable
from tessera.firmware.adaptation.inference import compile_adaptive, run_adaptive
from tessera.firmware.adaptation.scenario import AdaptiveScenario
from tessera.firmware.adaptation.summary import adaptive_summary
from tessera.firmware.cosimulation import Options
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator
from tessera.sim.cosim.load_profile import LoadProfile
from tessera.sim.cycles import DEFAULT_MEMORY


def adapt(
    network: Annotated[Path, typer.Argument(help="A network of tessera quantize --adaptive.", metavar="NETWORK")],
    samples: Annotated[Path, typer.Option("--input", "-i", help="Samples (.npz or .npy).", metavar="FILE")],
    npu: NpuOption = "edge",
    policy: PolicyOption = PolicyName.SENSITIVITY,
    mode: ModeOption = Mode.LAYER,
    depth: DepthOption = None,
    section_depths: SectionDepthsOption = None,
    saturation_share: SaturationOption = Settings.saturation_share,
    load: LoadOption = None,
    thresholds: ThresholdsOption = DEFAULT_THRESHOLDS,
    hysteresis: HysteresisOption = Settings.hysteresis,
    window: WindowOption = Settings.window_cycles,
    sampling: SamplingOption = SamplingName.LAYER,
    period_cycles: PeriodOption = Settings.period_cycles,
    poll_cycles: PollOption = Settings.poll_cycles,
    target: TargetOption = None,
    margin: MarginOption = Settings.margin,
    foresight: ForesightOption = Settings.foresight,
    raise_after: RaiseAfterOption = Settings.raise_after,
    steps: StepsOption = Settings.steps,
    limit: LimitOption = None,
    warm_up: WarmUpOption = 0,
    bandwidth: BandwidthOption = None,
    latency: LatencyOption = DEFAULT_MEMORY.latency,
    count: Annotated[int | None, typer.Option("--samples", "-n", min=1, help="Use only the first N samples.")] = None,
    simulator: SimulatorOption = Simulator.VERILATOR,
    waves: WavesOption = None,
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
    settings = Settings(
        policy=policy,
        mode=mode,
        sampling=sampling.sampling,
        depth=depth,
        thresholds=tuple(parse_shares("--thresholds", thresholds)),
        section_depths=None if section_depths is None else tuple(parse_depths("--section-depths", section_depths)),
        hysteresis=hysteresis,
        window_cycles=window,
        period_cycles=period_cycles,
        poll_cycles=poll_cycles,
        limits=parse_limits(limit or []),
        steps=steps,
        raise_after=raise_after,
        target_cycles=target,
        margin=margin,
        foresight=foresight,
        saturation_share=saturation_share,
    )
    options = AdaptiveOptions(settings, None if load is None else parse_load(load), warm_up, log)
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
    kinds = Counter(decision.kind for decision in decisions if decision.is_change)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
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
