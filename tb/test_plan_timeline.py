"""Timelines of plans: what units did, from the ends of instructions alone, predicted and on the RTL."""

from __future__ import annotations

import functools
import json
from itertools import pairwise

import numpy as np
import pytest
from agreement import plan_problem
from random_networks import NetworkGenerator
from random_plans import PlanCase, make_case, map_networks, random_plan
from test_timeline import trace_of

from tessera.compiler.mixed_precision.costs import transfer_bytes
from tessera.compiler.planning.faults import DEFAULT_POLICY
from tessera.firmware.cosimulation import Options, StartResult
from tessera.firmware.driver import RunResult
from tessera.firmware.plans import run as plan_run
from tessera.firmware.plans.answers import doubtful_samples
from tessera.firmware.plans.run import run_plan
from tessera.firmware.plans.timeline import (
    CODE,
    PlanTimeline,
    measured_timeline,
    plan_timeline,
    predicted_timeline,
    within_bandwidth,
)
from tessera.firmware.plans.timeline_json import timeline_from_json, timeline_to_json
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import LaneProgram, Load, Store, lanes_of_mask
from tessera.sim.cosim import CosimError
from tessera.sim.counts import Counts
from tessera.sim.cycles import DEFAULT_MEMORY, Memory, predict
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.occupancy import lane_cycles

TINY = NpuConfig.preset("tiny")


@functools.cache
def case_of(seed: int, inferences: int = 2) -> PlanCase:
    """Two random networks in a random plan."""
    rng = np.random.default_rng(seed)
    networks = {name: NetworkGenerator(rng, TINY, max_side=8).network(4) for name in ("first", "second")}
    mapped = map_networks(networks, TINY)
    plan = random_plan(rng, mapped, dict.fromkeys(networks, inferences), prefetch=True)
    return make_case(rng, plan, networks, mapped)


SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_works_of_units(seed: int) -> None:
    """Nothing overlaps on a unit, all of it lies within the plan, and lanes work as long as their steps take."""
    case = case_of(seed)
    timeline = predicted_timeline(case.program)
    for unit in (*timeline.lanes, *timeline.slices):
        assert all(0 <= work.start < work.end <= timeline.cycles for work in unit)
        assert all(before.end <= after.start for before, after in pairwise(unit))
    for lane, idle in enumerate(timeline.idle_cycles):
        programs = [
            each
            for each in case.program.instructions
            if isinstance(each, LaneProgram) and lane in lanes_of_mask(each.lanes)
        ]
        least = sum(lane_cycles(each, TINY) for each in programs)
        # Programs that follow one another closely can end a few cycles less apart than the last one's steps take.
        assert 0.98 * least - 8 <= timeline.cycles - idle <= least
    assert 0 < timeline.lane_utilization < 1


@pytest.mark.parametrize("seed", SEEDS)
def test_times_of_tasks(seed: int) -> None:
    """Every task is there once, on lanes of its slot, in its bundle, with the depths of its network."""
    case = case_of(seed)
    timeline = predicted_timeline(case.program, depths={("first", "conv0"): (6, 4)})
    slots = {
        task: (index, slot.lanes)
        for index, bundle in enumerate(case.plan.bundles)
        for slot in bundle.slots
        for task in slot.tasks
    }
    assert sorted(time.task for time in timeline.tasks) == sorted(slots)
    for time in timeline.tasks:
        bundle, lanes = slots[time.task]
        network = case.mapped[time.task.job].network
        operation = case.mapped[time.task.job].operations[time.task.operation]
        depth = network.tensors[operation.input].depth
        expected = 6 if (time.task.job, time.task.operation) == ("first", "conv0") else depth
        assert (time.bundle, time.activation_bits) == (bundle, expected)
        assert set(time.lanes) <= set(lanes)
        assert time.cycles == time.end - time.start > 0
    ends = {job: timeline.job_end(job) for job in timeline.jobs}
    assert ends == {job: max(time.end for time in timeline.tasks if time.task.job == job) for job in case.networks}


@pytest.mark.parametrize("seed", SEEDS)
def test_traffic(seed: int) -> None:
    """All bytes are told once: by job and direction, and in windows of any length."""
    program = case_of(seed).program
    timeline = predicted_timeline(program, Memory(40, 4))
    moved = {True: 0, False: 0}
    for each in program.instructions:
        if isinstance(each, Load | Store):
            moved[isinstance(each, Load)] += transfer_bytes(each, TINY)
    assert timeline.dram_bytes(job=CODE) == len(program.code)
    assert timeline.dram_bytes(read=True) == moved[True] + len(program.code)
    assert timeline.dram_bytes(read=False) == moved[False]
    assert timeline.dram_bytes() == sum(timeline.dram_bytes(job=job) for job in (*timeline.jobs, CODE))
    for window in (1, 37, 500, 10 * timeline.cycles):
        windows = timeline.dram_windows(window)
        for job, own in windows.items():
            assert own.sum() == pytest.approx(timeline.dram_bytes(job=job))
        limited = within_bandwidth(windows, 4 * window)
        assert sum(own.sum() for own in limited.values()) == pytest.approx(timeline.dram_bytes())
        assert (np.sum(list(limited.values()), axis=0)[1:] <= 4 * window * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_predicted_and_measured_are_read_alike(seed: int) -> None:
    """A machine that does exactly what the cycle model says has the timeline that the cycle model says."""
    program = case_of(seed).program
    prediction = predict(program.instructions, TINY)
    measured = measured_timeline(program, trace_of(program, prediction), prediction.total)
    assert measured == predicted_timeline(program)


def test_json() -> None:
    """A timeline survives the way through JSON."""
    timeline = predicted_timeline(case_of(0).program)
    assert timeline_from_json(json.loads(json.dumps(timeline_to_json(timeline)))) == timeline


def test_no_work() -> None:
    """Ends that say nothing, as of a stream that stopped at once, make a timeline without work."""
    program = case_of(0).program
    timeline = plan_timeline(program, [0] * len(program.instructions), 0)
    assert (timeline.lane_utilization, sum(timeline.idle_cycles)) == (0.0, 0)


def check_close(measured: PlanTimeline, predicted: PlanTimeline) -> None:
    """Tasks end within 10 % of the plan, or a few latencies of the DRAM, of their predictions."""
    allowed = 0.10 * predicted.cycles + 4 * DEFAULT_MEMORY.latency
    for real, guess in zip(measured.tasks, predicted.tasks, strict=True):
        assert (real.task, real.bundle, real.lanes) == (guess.task, guess.bundle, guess.lanes)
        assert abs(real.end - guess.end) <= allowed, real


@pytest.mark.cosim
def test_plan_on_the_rtl() -> None:
    """Two runs of a plan of two networks with two inferences each: outputs, counts, and the measured timeline."""
    case = case_of(0)
    twice = {
        job: {name: np.concatenate([values, values[::-1]]) for name, values in own.items()}
        for job, own in case.inputs.items()
    }
    result = run_plan(case.program, twice)
    for part in (slice(0, 2), slice(3, 1, -1)):
        outputs = {job: {name: values[part] for name, values in own.items()} for job, own in result.outputs.items()}
        assert not plan_problem(case, outputs, "RTL")
    assert len(result.runs) == 2
    assert all(len(counts) == 2 for counts in result.task_counts.values())
    measured = measured_timeline(case.program, result.trace, result.runs[0].cycles)
    check_close(measured, predicted_timeline(case.program))
    counters = result.simulation.counters
    # The memory counts whole beats, of which rows of a few bytes fill a part.
    assert 0.7 * counters.npu_read_bytes < 2 * measured.dram_bytes(read=True) < 1.2 * counters.npu_read_bytes


def test_samples_that_do_not_fit() -> None:
    """Samples for part of a run are refused."""
    case = case_of(0)
    inputs = {job: {name: values[:1] for name, values in own.items()} for job, own in case.inputs.items()}
    with pytest.raises(ValueError, match=r"different numbers of runs of the plan.*multiple of its inferences"):
        run_plan(case.program, inputs)


def test_overflows_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An overflow flag ends a run with the lanes, and with the operations of all networks that share them."""
    program = case_of(0).program
    task, number = next(iter(program.numbers.items()))
    counts = dict.fromkeys(program.numbers.values(), Counts()) | {number: Counts(overflow=0b0101)}
    run = RunResult(100, 10, 5, 5, Counts(overflow=0b0101))
    monkeypatch.setattr(plan_run, "simulate", lambda *_: ([StartResult(run, (), operation_counts=counts)], None))
    sentence = rf"run 0 of the plan: accumulators of the lanes 0, 2 have overflowed in {task.job}\.{task.operation}, "
    with pytest.raises(CosimError, match=sentence):
        run_plan(program, case_of(0).inputs)


@pytest.mark.cosim
def test_errors_of_the_machine_are_told() -> None:
    """A plan whose code is damaged stops with the machine's error and the run."""
    case = case_of(1)
    instructions = list(case.program.instructions)
    index = next(i for i, each in enumerate(instructions) if isinstance(each, Store))
    instructions[index] = type(instructions[index])(**{**vars(instructions[index]), "address": 1 << 30})
    program = type(case.program)(**{**vars(case.program), "instructions": tuple(instructions)})
    with pytest.raises(CosimError, match=rf"run 0 of the plan: the NPU stopped at instruction {index} .*window"):
        run_plan(program, case.inputs)


@pytest.mark.cosim
def test_contained_errors_leave_the_other_network_alone() -> None:
    """The memory fails for one network: its samples are doubtful, and the other one's are right and are not."""
    case = case_of(0)
    memory = case.program.jobs["first"]
    options = Options(memory={"error_range": (memory.address, memory.end_address)})
    found = run_plan(case.program, case.inputs, options, contain=True)
    policies = {name: (network, DEFAULT_POLICY) for name, network in case.networks.items()}
    assert doubtful_samples(case.program, policies, found) == {"first": [0, 1]}
    golden = evaluate(case.networks["second"], dict(case.inputs["second"]))
    assert all(np.array_equal(values, golden[name]) for name, values in found.outputs["second"].items())
    with pytest.raises(CosimError, match="run 0 of the plan: the NPU stopped"):
        run_plan(case.program, case.inputs, options)
