"""``tessera run``: networks on the co-simulated RTL, compared with the golden model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.console import ResultError, UsageError, check_output, console, print_table, progress_bar, write_json
from tessera.cli.networks import host_operations, load_network, quantization_options
from tessera.cli.options import (
    ActivationsOption,
    CalibrationsOption,
    DatabaseOption,
    IoFormatOption,
    JsonOption,
    LayersOption,
    NpuOption,
    ShapesOption,
    SimulatorOption,
    WeightsOption,
    match_files,
    parse_io_format,
)
from tessera.compiler import load_inputs
from tessera.compiler.calibration_data import load_labels
from tessera.compiler.errors import check_file
from tessera.compiler.lowering.mapping import map_to_machine
from tessera.compiler.planning.profile_database import DatabaseError, ProfileDatabase, default_path
from tessera.firmware.cosimulation import Options
from tessera.firmware.inference import CompiledNetwork, compile_network, run_network
from tessera.firmware.profiling import record_inferences
from tessera.firmware.summary import NetworkSummary, run_summary, summarize
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import Simulator
from tessera.sim.counts import Counts


def run(
    networks: Annotated[list[Path], typer.Argument(help="Networks (ONNX or QONNX).", metavar="NETWORK...")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", "-i", help="Samples (.npz or .npy); with several networks NETWORK=FILE.", metavar="FILE"
        ),
    ],
    npu: NpuOption = "edge",
    calibration: CalibrationsOption = None,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    samples: Annotated[int | None, typer.Option("--samples", "-n", min=1, help="Use only the first N samples.")] = None,
    simulator: SimulatorOption = Simulator.VERILATOR,
    io_format: IoFormatOption = "integer",
    waves: Annotated[
        Path | None, typer.Option("--waves", help="Waveforms: .vcd (Verilator), .fst (Icarus).", metavar="FILE")
    ] = None,
    database: DatabaseOption = None,
    json: JsonOption = None,
) -> None:
    """Run networks on the co-simulated RTL and compare every result with the golden model."""
    check_output(json, *networks, waves)
    check_waves(waves, simulator)
    config = NpuConfig.load(npu)
    if waves is not None and len(networks) > 1:
        raise UsageError("--waves writes one file; run one network at a time with it")
    files = match_inputs(networks, inputs)
    check_output(json, *files.values())
    memory_format = parse_io_format(io_format)
    options = quantization_options(
        networks, calibration, activations, weights, layer, shape, power_of_two_io=memory_format.is_float
    )
    compiled = {path: compile_network(load_network(path, options), config, memory_format) for path in networks}
    simulation = Options(simulator=simulator, waveform=waves)
    with _open_database(database, config) as opened:
        summaries = [_run(path, compiled[path], files[path], samples, simulation, opened) for path in networks]
    report(summaries)
    if json is not None:
        write_json(json, run_summary(config, simulator, summaries))
    wrong = [summary.name for summary in summaries if not summary.bit_exact]
    if wrong:
        raise ResultError(f"the RTL's results differ from the golden model's: {', '.join(wrong)}")


@contextmanager
def _open_database(file: Path | None, config: NpuConfig) -> Iterator[ProfileDatabase | None]:
    """The profile database. That in the user's cache folder is a help, not a need: a run goes on without it."""
    try:
        opened = ProfileDatabase(default_path() if file is None else file, config)
    except DatabaseError as error:
        if file is not None:
            raise
        console.print(f"{error}. The run goes on without it.")
        yield None
        return
    with opened:
        yield opened


def check_waves(waves: Path | None, simulator: Simulator) -> None:
    """Makes the folder of a file of waveforms; raises `UsageError` if the simulator cannot write the file."""
    if waves is None:
        return
    suffix = {Simulator.VERILATOR: ".vcd", Simulator.ICARUS: ".fst"}[simulator]
    if waves.suffix != suffix:
        raise UsageError(f"--waves {waves}: {simulator.value} writes {suffix} files; give a name that ends in {suffix}")
    check_output(waves)
    waves.parent.mkdir(parents=True, exist_ok=True)


def match_inputs(networks: list[Path], texts: list[str]) -> dict[Path, Path]:
    """The input file of each network, before anything is compiled.

    Raises
    ------
    UsageError
        A network has none, or one matches no network.
    CompilerError
        A file does not exist.
    """
    files = match_files("--input", networks, texts)
    for path in networks:
        if path not in files:
            raise UsageError(f"{path} has no input; add --input {path.stem}=FILE.npz")
        check_file(files[path])
    return files


def _run(
    path: Path,
    compiled: CompiledNetwork,
    file: Path,
    samples: int | None,
    options: Options,
    database: ProfileDatabase | None,
) -> NetworkSummary:
    for sentence in host_operations(compiled.quantized):
        console.print(sentence)
    network = compiled.quantized
    inputs = load_inputs(file, network.inputs, network.shapes)
    available = len(next(iter(inputs.values())))
    labels = load_labels(file, available)
    count = min(samples or available, available)
    with progress_bar(network.name, count) as on_progress:
        first = {name: values[:count] for name, values in inputs.items()}
        result = run_network(compiled, first, options, on_progress)
    if database is not None:
        mapped = map_to_machine(compiled.integer, compiled.program.config, compiled.formats)
        record_inferences(database, mapped, compiled.program, result.inferences)
    return summarize(path, compiled, result, None if labels is None else labels[:count])


def report(summaries: list[NetworkSummary]) -> None:
    """The table of a run."""
    rows = []
    for item in summaries:
        rows.append(
            (
                item.name,
                str(item.samples),
                "yes" if item.bit_exact else "NO",
                f"{item.cycles:,}",
                f"{item.mac_utilization:.1%}",
                f"{item.dram_bytes:,}",
                "" if item.accuracy is None else f"{item.accuracy:.2%}",
            )
        )
    print_table(("network", "samples", "bit-exact", "cycles", "MAC utilisation", "DRAM bytes", "accuracy"), rows)
    for item in summaries:
        report_counts(item)


def report_counts(summary: NetworkSummary) -> None:
    """The table of what was counted, of the operations where anything was."""
    names = {"saturations": "saturations", "not_a_number": "NaN", "underflows": "underflows", "overflows": "overflows"}
    rows = [
        (operation, *(f"{getattr(counts, name):,}" for name in names))
        for operation, counts in summary.operation_counts.items()
        if counts != Counts()
    ]
    if rows:
        print_table(("operation", *names.values()), rows, title=f"{summary.name}: values that lost something")
