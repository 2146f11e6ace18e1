"""Runs programs on the co-simulated RTL, from an ordinary Python process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tessera.firmware.bandwidth import MonitorSettings
from tessera.firmware.driver import WATCHDOG_CYCLES, Phase, RunResult, StreamState
from tessera.rtl import verilog
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth, ErrorCode, lanes_of_mask
from tessera.sim.adaptation import DepthSettings, Selection
from tessera.sim.contexts import Context, ContextState
from tessera.sim.cosim import CosimDesign, CosimError, CosimResult, Simulator, build_simulation, run_cosim
from tessera.sim.cosim.build import default_build_folder
from tessera.sim.cosim.load_profile import LoadProfile
from tessera.sim.cosim.traffic import TrafficWindow
from tessera.sim.counts import Counts
from tessera.sim.cycles import longest_silence
from tessera.sim.program import Program
from tessera.sim.windows import MemoryWindows

MIN_MEMORY_BYTES = {Simulator.VERILATOR: 1 << 24, Simulator.ICARUS: 1 << 20}
"""Smallest simulated DRAM: each size is a build of its own, so that most programs share one."""

Integers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Start:
    """One start of the NPU.

    Attributes
    ----------
    writes
        (DRAM byte address, bytes) written before it.
    stream_address
        DRAM byte address of the first instruction.
    reads
        (DRAM byte address, length) read after it.
    windows
        Where the stream may fetch, load and store.
    watchdog_cycles
        Cycles without progress after which the NPU stops the stream.
    operations
        Numbers of the operations whose counts are read after it.
    contexts
        The contexts by their numbers; ``None``: context 0 with the windows.
    pause_cycle
        Cycles after the start, at least 1, at which the host asks for a pause; ``None`` for never.
    traced
        Whether a trace is recorded; that of the first start always is.
    depths
        How depths are chosen, from this start on; ``None``: as before.
    """

    writes: tuple[tuple[int, bytes], ...]
    stream_address: int
    reads: tuple[tuple[int, int], ...]
    windows: MemoryWindows = MemoryWindows()
    watchdog_cycles: int = WATCHDOG_CYCLES
    operations: tuple[int, ...] = ()
    contexts: Mapping[int, Context] | None = None
    pause_cycle: int | None = None
    traced: bool = False
    depths: DepthSettings | None = None


@dataclass(frozen=True)
class StartResult:
    """What came of a start: the driver's measurements, the bytes that were read, or the NPU's error in words; what was
    counted for each operation that was asked for, up to an error too; the stream's state; and if it was traced, (cycle
    since the start, mask of the units that completed an instruction), rising, and the depths that were selected."""

    run: RunResult | None
    reads: tuple[bytes, ...]
    error: str = ""
    operation_counts: Mapping[int, Counts] = field(default_factory=dict)
    state: StreamState = StreamState(Phase.IDLE)
    trace: tuple[tuple[int, int], ...] = ()
    selections: tuple[Selection, ...] = ()


@dataclass(frozen=True)
class Options:
    """How to simulate.

    Attributes
    ----------
    simulator
        Verilator or Icarus.
    memory
        Keyword arguments of ``CosimBus.configure_memory`` (latency, bandwidth, traffic...).
    stalls
        Keyword arguments of ``CosimBus.configure_stalls``.
    load
        What other masters take of the memory's bandwidth, from the first start on.
    monitor
        How the bandwidth monitor is configured before the first start; ``None``: not at all.
    limits
        Limits of the bandwidth regulator, keyword arguments of ``Regulator.limit``.
    windows
        Whether every window of the bandwidth monitor is recorded, see `traffic_windows`.
    waveform
        File for the waveforms; none if ``None``.
    stock
        Build with cocotb's own flags instead of the fast ones, for comparison.
    timeout_cycles
        Cycles after which a stream that still moves is given up, a hundred times a large network's; the watchdog ends
        those that do not move.
    """

    simulator: Simulator = Simulator.VERILATOR
    memory: Mapping[str, Any] = field(default_factory=dict)
    stalls: Mapping[str, Any] = field(default_factory=dict)
    load: LoadProfile | None = None
    monitor: MonitorSettings | None = None
    limits: Mapping[str, float | None] = field(default_factory=dict)
    windows: bool = False
    waveform: Path | None = None
    stock: bool = False
    timeout_cycles: int = 1_000_000_000


@dataclass(frozen=True)
class Inferences:
    """A program's results for a batch of samples.

    Attributes
    ----------
    outputs
        For each output an array (samples, C, H, W): integers, or float32 where it is floating point in DRAM.
    runs
        The driver's measurements of each sample.
    operation_counts
        For each operation's name what the NPU counted for it in each sample. Operations that share a number (see
        `Program.operation_numbers`) share their counts.
    trace
        For the first sample, (cycle since its start, mask of the units that completed an instruction), rising.
    simulation
        The simulation as a whole.
    """

    outputs: dict[str, np.ndarray]
    runs: tuple[RunResult, ...]
    operation_counts: dict[str, tuple[Counts, ...]]
    trace: tuple[tuple[int, int], ...]
    simulation: CosimResult


def simulate(
    config: NpuConfig,
    starts: Sequence[Start],
    options: Options | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[list[StartResult], CosimResult]:
    """Starts the NPU once after another in one simulation; DRAM and banks keep their contents from start to start.

    Raises
    ------
    CosimError
        A simulator is missing or failed, or the NPU broke a rule of AXI.
    """
    options = options or Options()
    with tempfile.TemporaryDirectory(prefix="tessera-") as name:
        folder = Path(name)
        data_file, result_file = folder / "writes.bin", folder / "reads.bin"
        data_file.write_bytes(b"".join(data for start in starts for _, data in start.writes))
        result = run_cosim(
            simulation_design(config, options, _end_address(starts)),
            "tessera.firmware.cosim_job:run_starts",
            arguments={
                "data_file": str(data_file),
                "result_file": str(result_file),
                "starts": [_description(start) for start in starts],
                "memory": dict(options.memory),
                "stalls": dict(options.stalls),
                "load": None if options.load is None else options.load.as_dict(),
                "monitor": None if options.monitor is None else options.monitor.as_dict(),
                "limits": dict(options.limits),
                "record_windows": options.windows,
                "timeout_cycles": options.timeout_cycles,
            },
            on_progress=on_progress,
            waveform=options.waveform,
        )
        return list(_results(starts, result.value["records"], result_file.read_bytes())), result


def traffic_windows(simulation: CosimResult) -> list[TrafficWindow]:
    """What crossed the bus in each window of the bandwidth monitor, from a simulation with ``Options.windows``."""
    return [TrafficWindow.of_numbers(numbers) for numbers in simulation.value["windows"]]


def prepare_simulation(config: NpuConfig, options: Options | None = None) -> None:
    """Writes the Verilog and builds the simulation, so that later runs start at once; quick if that was done before.

    Raises
    ------
    CosimError
        A simulator or compiler is missing, or the build failed.
    """
    build_simulation(simulation_design(config, options or Options()))


def run_program(
    program: Program,
    inputs: Integers,
    options: Options | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> Inferences:
    """Runs a program on a batch of inputs, each an array (samples, C, H, W): integers, or real numbers where they are
    floating point in DRAM.

    Raises
    ------
    CosimError
        As `simulate`, or the NPU stopped with an error, or an accumulator overflowed.
    """
    results, simulation = simulate(program.config, program_starts(program, inputs), options, on_progress)
    runs = checked_runs(results, "sample", program.name, program.operation_numbers.items())
    counts = {
        name: tuple(result.operation_counts[number] for result in results)
        for name, number in program.operation_numbers.items()
    }
    return Inferences(unpack_outputs(program, results), runs, counts, results[0].trace, simulation)


def checked_runs(
    results: Sequence[StartResult], start: str, name: str, operations: Collection[tuple[str, int]]
) -> tuple[RunResult, ...]:
    """The driver's measurements of starts whose outputs can be trusted.

    Parameters
    ----------
    results
        What came of the starts.
    start, name
        What an error calls a start, and what was started.
    operations
        Names and numbers of the operations, whose counts were read.

    Raises
    ------
    CosimError
        The NPU stopped with an error, or an accumulator overflowed.
    """
    runs = []
    for index, result in enumerate(results):
        if result.run is None:
            raise CosimError(f"{start} {index} of {name}: {result.error}")
        if result.run.counts.overflow:
            raise CosimError(f"{start} {index} of {name}: {_overflow_sentence(result, operations)}")
        runs.append(result.run)
    return tuple(runs)


def _overflow_sentence(result: StartResult, operations: Collection[tuple[str, int]]) -> str:
    """Which lanes have overflowed, in which operations."""
    counts = result.operation_counts
    names = dict.fromkeys(name for name, number in operations if counts[number].overflow)
    lanes = lanes_of_mask(sum(counts.values(), Counts()).overflow)
    return (
        f"accumulators of the lanes {', '.join(map(str, lanes))} have overflowed in {', '.join(names)}, although the "
        "compiler proved that they cannot; its results are wrong"
    )


def program_starts(program: Program, inputs: Integers) -> list[Start]:
    """A start per sample; the first one also writes the program's image."""
    samples = {len(values) for values in inputs.values()}
    if len(samples) != 1:
        raise ValueError(f"the inputs have different numbers of samples: {sorted(samples)}")
    reads = tuple((tensor.address, tensor.size) for tensor in program.outputs.values())
    watchdog = max(WATCHDOG_CYCLES, 2 * longest_silence(program.instructions, program.config))
    operations = tuple(sorted(set(program.operation_numbers.values())))
    starts = []
    for index in range(samples.pop()):
        image = ((program.address, program.image),) if index == 0 else ()
        tensors = tuple(
            (tensor.address, tensor.pack(inputs[name][index], program.config))
            for name, tensor in program.inputs.items()
        )
        writes = image + tensors
        starts.append(Start(writes, program.code_address, reads, program.windows, watchdog, operations))
    return starts


def unpack_outputs(program: Program, results: Sequence[StartResult]) -> dict[str, np.ndarray]:
    """The outputs of every start of a program, arrays (samples, C, H, W) of integers or float32."""
    return {
        name: np.stack([tensor.unpack(result.reads[index], program.config) for result in results])
        for index, (name, tensor) in enumerate(program.outputs.items())
    }


def verilog_file(config: NpuConfig) -> Path:
    """``build/verilog/tessera_<name>.v``, written if it is not up to date."""
    path = default_build_folder().parent / "verilog" / f"tessera_{config.name}.v"
    verilog.write(config, path)
    return path


def simulation_design(config: NpuConfig, options: Options, memory_bytes: int = 0) -> CosimDesign:
    """What is simulated, with a DRAM of at least so many bytes."""
    return CosimDesign(
        verilog=[verilog_file(config)],
        axi_data_bits=config.axi_data_bits,
        memory_bytes=max(MIN_MEMORY_BYTES[options.simulator], 1 << max(memory_bytes - 1, 0).bit_length()),
        simulator=options.simulator,
        waves=options.waveform is not None,
        stock_options=options.stock,
    )


def _end_address(starts: Sequence[Start]) -> int:
    """First DRAM byte address after all that is written and read."""
    ends = [
        address + length
        for start in starts
        for address, length in [*((a, len(data)) for a, data in start.writes), *start.reads]
    ]
    return max(ends, default=0)


def _description(start: Start) -> dict[str, Any]:
    return {
        "writes": [(address, len(data)) for address, data in start.writes],
        "stream_address": start.stream_address,
        "reads": list(start.reads),
        "windows": start.windows.as_dict(),
        "watchdog_cycles": start.watchdog_cycles,
        "operations": list(start.operations),
        "contexts": None if start.contexts is None else {n: c.as_dict() for n, c in start.contexts.items()},
        "pause_cycle": start.pause_cycle,
        "traced": start.traced,
        "depths": None if start.depths is None else start.depths.as_dict(),
    }


def _results(starts: Sequence[Start], records: list[dict[str, Any]], data: bytes) -> Iterator[StartResult]:
    offset = 0
    for start, record in zip(starts, records, strict=True):
        reads = []
        for _, length in start.reads:
            reads.append(data[offset : offset + length])
            offset += length
        found = (Counts(**counts) for counts in record.pop("operation_counts"))
        operation_counts = dict(zip(start.operations, found, strict=True))
        state = _state(record.pop("state"))
        trace = tuple((cycle, mask) for cycle, mask in record.pop("trace"))
        selections = tuple(Selection(c, number, Depth(code), s) for c, number, code, s in record.pop("selections"))
        run = None
        if "error" not in record:
            run = RunResult(**{**record, "counts": Counts(**record["counts"])})
        yield StartResult(
            run, tuple(reads), record.get("error", ""), operation_counts, state, trace, selections=selections
        )


def _state(described: dict[str, Any]) -> StreamState:
    """The state that the simulator's process has described."""
    contexts = [{**context, "error": ErrorCode(context["error"])} for context in described["contexts"]]
    known = {"phase": Phase(described["phase"]), "error": ErrorCode(described["error"])}
    return StreamState(**{**described, **known, "contexts": tuple(ContextState(**context) for context in contexts)})


__all__ = [
    "Inferences",
    "Options",
    "Start",
    "StartResult",
    "checked_runs",
    "program_starts",
    "run_program",
    "simulate",
    "simulation_design",
    "traffic_windows",
    "unpack_outputs",
]
