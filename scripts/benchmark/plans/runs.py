"""Plans on the co-simulated RTL: many in one simulation, each compared with the golden model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import TypeVar

import numpy as np

from benchmark.plans.workloads import Network
from tessera.cli.console import ResultError
from tessera.compiler.lowering.plan import lower_plan
from tessera.compiler.planning import Workload
from tessera.compiler.planning.selection import PlannedStream, StreamPlanner
from tessera.firmware.cosimulation import Options, StartResult, simulate
from tessera.firmware.driver import RunResult
from tessera.firmware.plans.run import plan_starts, unpack_plan_outputs
from tessera.firmware.timeline import instruction_times
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import LaneProgram, Store, lanes_of_mask
from tessera.sim.cycles import Memory, predict
from tessera.sim.occupancy import lane_cycles

SCHEDULERS = ("native", "serial", "serial_prefetch", "greedy", "dp")
"""What is compared, from no optimisation at all to all of it. ``serial`` is the plan of ``serial_prefetch`` with every
operation's loads after the end of the one before."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Planned:
    """A plan to be measured.

    Attributes
    ----------
    name
        What it is called in errors.
    networks
        The networks by the names of its jobs.
    stream
        The plan with its program and prediction.
    """

    name: str
    networks: Mapping[str, Network]
    stream: PlannedStream


@dataclass(frozen=True)
class Measured:
    """A plan that ran.

    Attributes
    ----------
    planned
        The plan.
    run
        The NPU's own measurements.
    trace
        If it was asked for, (cycle since the start, mask of the units that completed an instruction), rising.
    """

    planned: Planned
    run: RunResult
    trace: tuple[tuple[int, int], ...] = ()

    @property
    def cycles(self) -> int:
        """From the start to the end of its last store."""
        return self.run.cycles

    @property
    def idle_lane_cycles(self) -> int:
        """Of all lanes' cycles those in which their multipliers did not work. How long they work is known from their
        programs alone; only the whole has to be measured."""
        program = self.planned.stream.program
        busy = sum(
            len(lanes_of_mask(each.lanes)) * lane_cycles(each, program.config)
            for each in program.instructions
            if isinstance(each, LaneProgram)
        )
        return program.config.lanes * self.cycles - busy

    @property
    def dram_bytes(self) -> int:
        """Bytes of data on the memory's bus, in whole words."""
        return (self.run.read_beats + self.run.write_beats) * self.planned.stream.program.config.beat_bytes

    @property
    def completions(self) -> dict[str, int]:
        """For each job the cycle at which the last of its results was in DRAM; of a plan with a trace."""
        program = self.planned.stream.program
        _, ends = instruction_times(program, self.trace)
        found = dict.fromkeys(program.jobs, 0)
        for instruction, task, end in zip(program.instructions, program.tasks, ends, strict=True):
            if task is not None and isinstance(instruction, Store):
                found[task.job] = max(found[task.job], end)
        return found

    @property
    def prediction_error(self) -> float:
        """Predicted cycles over measured ones, less 1."""
        return self.planned.stream.cycles / self.cycles - 1


def in_parallel(function: Callable[[Argument], Result], arguments: Iterable[Argument]) -> list[Result]:
    """The results of a function of a module for some arguments, by as many processes as there are processors."""
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:  # which know what has been cached
        return list(pool.map(function, arguments))


def memory_of(bandwidth: int) -> Memory:
    """The DRAM of so many bytes per cycle."""
    return Memory(bytes_per_cycle=bandwidth)


def plans_of(
    workload: Workload, networks: Mapping[str, Network], config: NpuConfig, memory: Memory
) -> dict[str, PlannedStream]:
    """The plans of a workload by the names of `SCHEDULERS`."""
    mapped = {job: own.mapped for job, own in networks.items()}
    planner = StreamPlanner(config, mapped, memory)
    streams = {each: planner.plan(workload, each) for each in ("native", "greedy", "dp")}
    streams["serial_prefetch"] = planner.plan(workload, "serial")
    plan = replace(streams["serial_prefetch"].plan, prefetch=False)
    program = lower_plan(plan, mapped, config, memory=memory)
    prediction = predict(program.instructions, config, memory)
    streams["serial"] = replace(streams["serial_prefetch"], plan=plan, program=program, prediction=prediction)
    return {each: streams[each] for each in SCHEDULERS}


def run_plans(plans: Sequence[Planned], config: NpuConfig, memory: Memory, *, traced: bool = False) -> list[Measured]:
    """Runs plans one after another in one simulation; a result that is not the golden model's ends the benchmark.

    Parameters
    ----------
    plans, config, memory
        The plans, and the machine and DRAM that they were made for.
    traced
        Whether to record when each instruction ended (`Measured.completions`).
    """
    # A program that two schedulers have made runs once: another run of it may differ by a cycle of the memory's rhythm.
    programs = {_key(each): each for each in plans}
    starts = []
    for each in programs.values():
        program = each.stream.program
        inputs = {job: _samples(each.networks[job].inputs, len(own.tensors)) for job, own in program.jobs.items()}
        starts += [replace(start, traced=traced) for start in plan_starts(program, inputs)]
    results, _ = simulate(config, starts, Options(memory=memory_options(config, memory)))
    found = dict(zip(programs, results, strict=True))
    return [_checked(each, found[_key(each)]) for each in plans]


def _key(planned: Planned) -> tuple[tuple[str, ...], tuple[tuple[int, bytes], ...]]:
    """What is the same of plans whose runs are the same: their networks, and all that is in memory before the start."""
    program = planned.stream.program
    return tuple(program.jobs), tuple(program.writes)


def memory_options(config: NpuConfig, memory: Memory) -> dict[str, float]:
    """A DRAM as the co-simulation is told of it."""
    return {
        "read_latency": memory.latency,
        "write_latency": memory.latency,
        "bandwidth": memory.bytes_per_cycle or config.beat_bytes,
    }


def _samples(arrays: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {name: values[:count] for name, values in arrays.items()}


def _checked(planned: Planned, result: StartResult) -> Measured:
    if result.run is None:
        raise ResultError(f"{planned.name}: {result.error}")
    if result.run.counts.overflow:
        raise ResultError(f"{planned.name}: accumulators have overflowed, although they cannot")
    for job, outputs in unpack_plan_outputs(planned.stream.program, [result]).items():
        for name, values in outputs.items():
            if not np.array_equal(values, planned.networks[job].outputs[name][: len(values)]):
                raise ResultError(f"{planned.name}: output {name} of {job} differs from the golden model's")
    return Measured(planned, result.run, result.trace)
