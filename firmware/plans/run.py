"""Runs programs of execution plans on the co-simulated RTL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.planning import TaskId
from tessera.firmware.cosimulation import Integers, Options, Start, StartResult, checked_runs, simulate
from tessera.firmware.driver import WATCHDOG_CYCLES, RunResult
from tessera.sim.contexts import Context
from tessera.sim.cosim import CosimResult
from tessera.sim.counts import Counts
from tessera.sim.cycles import longest_silence
from tessera.sim.program import DramTensor
from tessera.sim.windows import MemoryWindows

JobIntegers = Mapping[str, Integers]
"""For each job the arrays (samples, C, H, W) of its inputs or outputs, by name."""


@dataclass(frozen=True)
class PlanResult:
    """A plan's results for a number of runs, each of which takes as many samples of a job as it has inferences.

    Attributes
    ----------
    outputs
        For each job and each of its outputs an array (samples, C, H, W): integers, or float32 where it is floating
        point in DRAM. The samples of a run follow one another in the order of the inferences.
    runs
        The driver's measurements of each run.
    task_counts
        For each task what the NPU counted for it in each run. Tasks that share a number (see `PlanProgram.numbers`),
        as the inferences of a job do, share their counts.
    trace
        For the first run, (cycle since its start, mask of the units that completed an instruction), rising.
    simulation
        The simulation as a whole.
    starts
        What came of the start of each run.
    """

    outputs: dict[str, dict[str, np.ndarray]]
    runs: tuple[RunResult, ...]
    task_counts: dict[TaskId, tuple[Counts, ...]]
    trace: tuple[tuple[int, int], ...]
    simulation: CosimResult
    starts: tuple[StartResult, ...] = ()


def run_plan(
    program: PlanProgram,
    inputs: JobIntegers,
    options: Options | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    *,
    contain: bool = False,
) -> PlanResult:
    """Runs a plan's program on samples, as often as they need.

    Parameters
    ----------
    program
        The program.
    inputs
        For each job and each of its inputs an array (samples, C, H, W): integers, or real numbers where it is floating
        point in DRAM. The number of samples is the same multiple of the inferences for all jobs.
    options, on_progress
        As for `tessera.firmware.cosimulation.run_program`.
    contain
        Go on when something goes wrong: an error of a job's transfers leaves the others alone, and `PlanResult.starts`
        tells which results are not to be trusted. ``runs`` leaves out those that were stopped as a whole.

    Raises
    ------
    ValueError
        The numbers of samples do not fit the plan.
    CosimError
        The simulation failed, the first run was stopped as a whole, or, unless errors are contained, the NPU stopped
        with an error or an accumulator overflowed.
    """
    starts = plan_starts(program, inputs, contain=contain)
    results, simulation = simulate(program.config, starts, options, on_progress)
    operations = [(f"{task.job}.{task.operation}", number) for task, number in program.numbers.items()]
    if contain and results[0].run is not None:
        runs = tuple(result.run for result in results if result.run is not None)
    else:
        runs = checked_runs(results, "run", "the plan", operations)
    counts = {
        task: tuple(result.operation_counts[number] for result in results) for task, number in program.numbers.items()
    }
    return PlanResult(unpack_plan_outputs(program, results), runs, counts, results[0].trace, simulation, tuple(results))


def plan_starts(program: PlanProgram, inputs: JobIntegers, *, contain: bool = False) -> list[Start]:
    """A start per run of the plan; the first one also writes weights, parameters and code. See `run_plan`.

    Every job has its own context, which stays in the job's own memory; an error of any stops the plan, unless it is to
    be contained.
    """
    reads = tuple((tensor.address, tensor.size) for _, _, tensor in _outputs(program))
    watchdog = max(WATCHDOG_CYCLES, 2 * longest_silence(program.instructions, program.config))
    operations = tuple(sorted(set(program.numbers.values())))
    windows = MemoryWindows(code=program.code_window)
    contexts = {job.context: Context(job.load_window, job.store_window, contain) for job in program.jobs.values()}
    starts = []
    for run in range(_number_of_runs(program, inputs)):
        constants = tuple(program.writes) if run == 0 else ()
        writes = (*constants, *_input_writes(program, inputs, run))
        starts.append(Start(writes, program.code_address, reads, windows, watchdog, operations, contexts))
    return starts


def unpack_plan_outputs(program: PlanProgram, results: Sequence[StartResult]) -> dict[str, dict[str, np.ndarray]]:
    """The outputs of the runs of a plan, see `PlanResult.outputs`."""
    found: dict[str, dict[str, list[np.ndarray]]] = {
        job: {name: [] for name in memory.outputs} for job, memory in program.jobs.items()
    }
    for result in results:
        for (job, name, tensor), data in zip(_outputs(program), result.reads, strict=True):
            found[job][name].append(tensor.unpack(data, program.config))
    return {job: {name: np.stack(values) for name, values in of_job.items()} for job, of_job in found.items()}


def _outputs(program: PlanProgram) -> Iterator[tuple[str, str, DramTensor]]:
    """(job, output, where it is) of every inference of every job."""
    for job, memory in program.jobs.items():
        for tensors in memory.tensors:
            for name in memory.outputs:
                yield job, name, tensors[name]


def _number_of_runs(program: PlanProgram, inputs: JobIntegers) -> int:
    runs: dict[str, float] = {}
    for name, job in program.jobs.items():
        for input_name in job.inputs:
            runs[f"{name}.{input_name}"] = len(inputs[name][input_name]) / len(job.tensors)
    if len(set(runs.values())) != 1 or next(iter(runs.values())) % 1:
        raise ValueError(
            f"the inputs have samples for different numbers of runs of the plan: {runs}; give each network the same "
            "multiple of its inferences"
        )
    return int(next(iter(runs.values())))


def _input_writes(program: PlanProgram, inputs: JobIntegers, run: int) -> Iterator[tuple[int, bytes]]:
    for name, job in program.jobs.items():
        for inference, tensors in enumerate(job.tensors):
            for each in job.inputs:
                values = inputs[name][each][run * len(job.tensors) + inference]
                yield tensors[each].address, tensors[each].pack(values, program.config)
