"""Plans of several networks: each network computes what it computes alone, in every lane partition."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from agreement import assert_plans_agree, continued_on_stream_model, plan_on_stream_model, plan_problem
from random_networks import NetworkGenerator
from random_plans import PARTITIONS, PlanCase, make_case, map_networks, networks_for, random_plan, side_by_side

from tessera.compiler import CompilerError
from tessera.compiler.lowering.plan import DramLayout, lower_plan
from tessera.compiler.lowering.plan_memory import state_after
from tessera.compiler.stream_checker import violations
from tessera.firmware.cosimulation import Options
from tessera.rtl.config import PARAMETER_BYTES_PER_CHANNEL, NpuConfig
from tessera.rtl.isa import CONTEXTS, Bundle, Store, Transfer
from tessera.sim.cycles import DEFAULT_MEMORY, predict
from tessera.sim.windows import MemoryWindow

TINY = NpuConfig.preset("tiny")

LATENCY = DEFAULT_MEMORY.latency

CRAMPED = dataclasses.replace(
    TINY, name="cramped", activation_bank_bytes=1024, weight_bank_bytes=256, parameter_bytes=256
)
"""Memories so small that tensors, weights and parameters of different networks follow one another in the same words.
Its streams run on `TINY` as well."""


@functools.cache
def partitioned_cases() -> dict[str, PlanCase]:
    """For each partition plans of networks side by side, with and without prefetch."""
    cases = {}
    for name, partition in PARTITIONS.items():
        for prefetch in (True, False):
            rng = np.random.default_rng([len(cases), 1])
            networks = networks_for(rng, TINY, partition)
            mapped = map_networks(networks, TINY)
            plan = side_by_side(rng, mapped, partition, prefetch=prefetch)
            cases[f"{name} {'with' if prefetch else 'without'} prefetch"] = make_case(rng, plan, networks, mapped)
    return cases


@functools.cache
def random_cases(config: NpuConfig, seeds: range) -> dict[str, PlanCase]:
    """Random plans of one to four random networks with one to three inferences; without those that do not fit."""
    cases = {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        names = [f"net{index}" for index in range(int(rng.integers(1, CONTEXTS + 1)))]
        try:
            networks = {name: NetworkGenerator(rng, config).network(int(rng.integers(1, 6))) for name in names}
            mapped = map_networks(networks, config)
            inferences = {name: int(rng.integers(1, 4)) for name in names}
            plan = random_plan(rng, mapped, inferences, prefetch=bool(rng.integers(2)))
            cases[f"{config.name}, seed {seed}"] = make_case(rng, plan, networks, mapped)
        except CompilerError:
            continue
    assert len(cases) > len(seeds) // 2
    return cases


def all_cases() -> dict[str, PlanCase]:
    return partitioned_cases() | random_cases(TINY, range(15)) | random_cases(CRAMPED, range(100, 140))


def test_memory_is_used_again() -> None:
    """In most cases for small memories the tensors of a plan need more words than the banks have."""
    cases = random_cases(CRAMPED, range(100, 140)).values()
    assert sum(case.resident_words > CRAMPED.activation_words for case in cases) > len(cases) // 3


def test_streams_are_proven() -> None:
    """No stream of a plan has a violation."""
    for name, case in all_cases().items():
        assert not [str(each) for each in violations(case.program.instructions, case.program.config)], name


def test_stream_model_agrees() -> None:
    """golden = stream model."""
    for name, case in all_cases().items():
        problem = plan_problem(case, plan_on_stream_model(case), "stream model")
        assert not problem, f"{name}: {problem}"


@pytest.mark.parametrize("partition", ["2+1+1", "1+1+1+1"])
def test_slots_without_parameters_of_their_own(partition: str) -> None:
    """A machine that has parameters of two blocks of channels runs three and four slots all the same."""
    config = dataclasses.replace(TINY, name="two_blocks", parameter_bytes=2 * TINY.cols * PARAMETER_BYTES_PER_CHANNEL)
    assert config.parameter_blocks == 2
    for seed in range(6):
        rng = np.random.default_rng(seed)
        networks = networks_for(rng, config, PARTITIONS[partition])
        mapped = map_networks(networks, config)
        plan = side_by_side(rng, mapped, PARTITIONS[partition], prefetch=True)
        case = make_case(rng, plan, networks, mapped)
        problem = plan_problem(case, plan_on_stream_model(case), "stream model")
        assert not problem, f"seed {seed}: {problem}"


@pytest.mark.parametrize("seed", [0, 1])
def test_plans_go_on_with_what_is_on_chip(seed: int) -> None:
    """A plan is stopped at a random bundle, and another one does the rest: tensors that it has elsewhere are moved."""
    rng, moved = np.random.default_rng([seed, 7]), 0
    for trial in range(6):
        networks = {name: NetworkGenerator(rng, TINY, max_side=8).network(4) for name in ("first", "second")}
        mapped, inferences = map_networks(networks, TINY), dict.fromkeys(networks, 2)
        whole = random_plan(rng, mapped, inferences, prefetch=True)
        places = {name: MemoryWindow(index << 18, (index + 1) << 18) for index, name in enumerate(networks)}
        layout = DramLayout(address=len(places) << 18, jobs=places)
        case = make_case(rng, whole, networks, mapped, dram=layout)
        stop = int(rng.integers(1, len(whole.bundles)))
        state = state_after(whole, stop, mapped, case.program.placement.ranges)
        plan = random_plan(rng, mapped, inferences, prefetch=True, done=state.done)
        rest = lower_plan(plan, mapped, TINY, dram=layout, state=state)
        assert not list(violations(rest.instructions, TINY))
        moved += len(rest.placement.moved)
        problem = plan_problem(case, continued_on_stream_model(case, stop, rest), "stream model")
        assert not problem, f"trial {trial}, stopped at bundle {stop} of {len(whole.bundles)}: {problem}"
    assert moved


def test_marks_of_bundles_jobs_and_inferences() -> None:
    """Bundles are numbered in order, transfers belong to the context of their job and stay in its memory, and each
    inference ends with a finished store, its last."""
    for name, case in all_cases().items():
        program = case.program
        begins = [each.index for each in program.instructions if isinstance(each, Bundle)]
        assert begins == list(range(len(case.plan.bundles))), name
        stores: dict[tuple[str, int], list[int]] = {}
        for task, instruction in zip(program.tasks, program.instructions, strict=True):
            if task is None or not isinstance(instruction, Transfer):
                continue
            job = program.jobs[task.job]
            assert instruction.context == job.context
            if isinstance(instruction, Store):
                assert job.store_window.contains(instruction.address), name
                stores.setdefault((task.job, task.inference), []).append(instruction.finished)
            else:
                assert job.load_window.contains(instruction.address), name
        inferences = {(job, index) for job, memory in program.jobs.items() for index in range(len(memory.tensors))}
        assert set(stores) == inferences, name
        assert all(sum(marks) == marks[-1] == 1 for marks in stores.values()), name


@pytest.mark.cosim
def test_rtl_agrees() -> None:
    """golden = RTL, and the cycle model is near the RTL's cycles.

    On average within 4 %, for 19 of 20 plans within 10 % and one latency of the DRAM, and nowhere off by more than
    20 %, as it is where a stream of many short transfers waits for its instructions.
    """
    cases = all_cases()
    cycles = assert_plans_agree(TINY, cases, Options())
    errors = {name: predict(cases[name].program.instructions, TINY).total - cycles[name] for name in cases}
    parts = {name: error / cycles[name] for name, error in errors.items()}
    assert np.mean(np.abs(list(parts.values()))) < 0.04
    far = {name: f"{parts[name]:+.1%}" for name in cases if abs(errors[name]) > 0.10 * cycles[name] + LATENCY}
    assert len(far) <= len(cases) / 20, far
    assert all(abs(part) < 0.20 for part in parts.values()), far
