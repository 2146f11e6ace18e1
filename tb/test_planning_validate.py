"""The checker of plans: for every rule a plan that breaks it and nothing else that is checked before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from random_workloads import random_jobs

from tessera.compiler.errors import CompilerError
from tessera.compiler.planning import (
    Bundle,
    ExecutionPlan,
    Job,
    Machine,
    Mode,
    Objective,
    Slot,
    Task,
    TaskGraph,
    TaskId,
    Tensor,
    Workload,
    schedule,
)
from tessera.compiler.planning.validate import validate

MACHINE = Machine(bytes_per_cycle=4, start_up=10, weight_bank_bytes=1000, capacity_words=1000)


def graph(lanes: int, words: int, loads: int = 400) -> TaskGraph:
    """Two operations one after another; the first loads so many bytes."""
    modes = (Mode(lanes, 100, 30, 50, 400 // lanes),)
    return TaskGraph(
        (Task("first", modes, (), loads), Task("second", modes, (0,), 0, 5)),
        (Tensor(words, (), (0,)), Tensor(words, (0,), (1,))),
    )


JOBS = (Job("a", graph(1, 100), inferences=2), Job("b", graph(2, 100, 450), arrival=200), Job("c", graph(1, 100)))

WORKLOAD = Workload(JOBS)


def task(job: str, operation: str, inference: int = 0) -> TaskId:
    return TaskId(job, inference, operation)


PLAN = ExecutionPlan(
    "by hand",
    (
        # 400 bytes of a and 400 of c: 200 cycles of the bus. c waits 30 cycles for its first result.
        Bundle((Slot((0,), (task("a", "first"),)), Slot((1,), (task("c", "first"), task("c", "second")))), 10, 240),
        # Both results are complete. The loads of a and b have run ahead for 30 cycles, and take 183 more.
        Bundle(
            (Slot((0,), (task("a", "second"), task("a", "first", 1))), Slot((2, 3), (task("b", "first"),))), 240, 440
        ),
        Bundle((Slot((0, 1), (task("b", "second"),)), Slot((2,), (task("a", "second", 1),))), 440, 570),
    ),
    prefetch=True,
    cycles=600,
)


def test_the_plan_by_hand_is_valid() -> None:
    validate(PLAN, WORKLOAD, MACHINE)


def change(number: int, **changes: object) -> Callable[[], tuple[ExecutionPlan, Workload, Machine]]:
    """The plan with another bundle."""

    def build() -> tuple[ExecutionPlan, Workload, Machine]:
        bundles = list(PLAN.bundles)
        bundles[number] = replace(bundles[number], **changes)  # type: ignore[arg-type]
        return replace(PLAN, bundles=tuple(bundles)), WORKLOAD, MACHINE

    return build


def slots(number: int, *slots: Slot) -> Callable[[], tuple[ExecutionPlan, Workload, Machine]]:
    """The plan with other slots in a bundle."""
    return change(number, slots=slots)


def under(machine: Machine = MACHINE, **changes: object) -> Callable[[], tuple[ExecutionPlan, Workload, Machine]]:
    """The plan on another machine, or with other jobs."""
    jobs = tuple(replace(job, **changes) for job in JOBS)  # type: ignore[arg-type]
    return lambda: (PLAN, Workload(jobs), machine)


FIRST, SECOND = PLAN.bundles[0].slots
BROKEN = {
    "no slot": (slots(0), "bundle 0 has no slot"),
    "five slots": (slots(0, *[FIRST] * 5), "bundle 0 has 5 slots; at most 4 are possible"),
    "three lanes": (
        slots(0, replace(FIRST, lanes=(0, 1, 2)), SECOND),
        "bundle 0, slot 0 has 3 lanes; 1, 2 or 4 are possible",
    ),
    "lanes apart": (
        slots(1, replace(FIRST, lanes=(0, 2))),
        r"bundle 1, slot 0 has the lanes \(0, 2\); they must be adjacent and begin at a multiple of 2",
    ),
    "lanes across": (
        slots(1, replace(FIRST, lanes=(1, 2))),
        r"bundle 1, slot 0 has the lanes \(1, 2\); they must be adjacent and begin at a multiple of 2",
    ),
    "lanes beyond": (
        slots(0, FIRST, replace(SECOND, lanes=(4,))),
        r"bundle 0, slot 1 has the lanes \(4,\), but the machine has 4",
    ),
    "a lane twice": (
        slots(0, FIRST, replace(SECOND, lanes=(0,))),
        "bundle 0, slot 1 has lane 0, which slot 0 has too",
    ),
    "slots out of order": (slots(0, SECOND, FIRST), "bundle 0 does not have its slots in the order of their lanes"),
    "an empty slot": (slots(0, FIRST, Slot((1,), ())), "bundle 0, slot 1 has no operation"),
    "two networks in a slot": (
        slots(0, Slot((0,), (*FIRST.tasks, *SECOND.tasks))),
        "bundle 0, slot 0, operation 'first' of inference 0 of 'c' is in a slot of 'a'; a slot belongs to one network",
    ),
    "an unknown network": (
        slots(0, Slot((0,), (task("d", "first"),))),
        "bundle 0, slot 0, operation 'first' of inference 0 of 'd' is not among what was planned",
    ),
    "an unknown operation": (
        slots(0, Slot((0,), (task("a", "third"),))),
        "bundle 0, slot 0, operation 'third' of inference 0 of 'a' is not among what was planned",
    ),
    "an inference too many": (
        slots(0, Slot((0,), (task("a", "first", 2),))),
        "bundle 0, slot 0, operation 'first' of inference 2 of 'a' is one too many: it has 2 inferences",
    ),
    "too few lanes": (
        slots(0, FIRST, Slot((1,), (task("b", "first"),))),
        "bundle 0, slot 1, operation 'first' of inference 0 of 'b' needs 2 lanes, but has 1",
    ),
    "run again": (
        slots(1, FIRST, *PLAN.bundles[1].slots[1:]),
        "bundle 1, slot 0, operation 'first' of inference 0 of 'a' has run before",
    ),
    "run twice at a time": (
        slots(0, FIRST, replace(FIRST, lanes=(1,))),
        "bundle 0, slot 1, operation 'first' of inference 0 of 'a' has run before",
    ),
    "twice in a slot": (
        slots(0, Slot((0,), FIRST.tasks * 2), SECOND),
        "bundle 0, slot 0, operation 'first' of inference 0 of 'a' has run before",
    ),
    "read before it is written": (
        slots(0, FIRST, Slot((1,), (task("c", "second"), task("c", "first")))),
        "bundle 0, slot 1, operation 'second' of inference 0 of 'c' reads the result of 'first', which has not ended "
        "by then",
    ),
    "read while it is written": (
        slots(0, FIRST, Slot((1,), (task("c", "first"),)), Slot((2,), (task("c", "second"),))),
        "bundle 0, slot 2, operation 'second' of inference 0 of 'c' reads the result of 'first', which has not ended "
        "by then",
    ),
    "an inference too early": (
        slots(1, Slot((0,), (task("a", "first", 1), task("a", "second")))),
        "bundle 1, slot 0, operation 'first' of inference 1 of 'a' begins before 'second' of the inference before has "
        "ended",
    ),
    "not run": (
        slots(2, PLAN.bundles[2].slots[0]),
        "the plan does not run operation 'second' of inference 1 of 'a'",
    ),
    "too little memory": (
        under(replace(MACHINE, capacity_words=504)),
        r"bundle 1 needs 505 activation words \(305 of 'a', 200 of 'b'\), but there are 504",
    ),
    "before it is there": (
        under(arrival=11),
        "bundle 0 is to start at cycle 10, but one of its networks arrives at 11",
    ),
    "starts too early": (change(1, start=239), "bundle 1 is to start at cycle 239, but what is before it ends at 240"),
    "a slot cut short": (change(0, end=239), "bundle 0 is to end at cycle 239, but slot 1 takes until cycle 240"),
    "no time to load": (
        under(replace(MACHINE, bytes_per_cycle=2)),
        "bundle 0 is to end at cycle 240, but its traffic takes until cycle 410",
    ),
    "banks too small to load ahead": (
        under(replace(MACHINE, weight_bank_bytes=10)),
        "bundle 1 is to end at cycle 440, but its traffic takes until cycle 450",
    ),
    "too short in all": (
        lambda: (replace(PLAN, cycles=599), WORKLOAD, MACHINE),
        "the plan is to take 599 cycles, but takes 600",
    ),
    "loads that may not run ahead": (
        lambda: (replace(PLAN, prefetch=False), WORKLOAD, MACHINE),
        "bundle 0 is to start at cycle 10, but what is before it ends at 0",
    ),
}


@pytest.mark.parametrize("build, sentence", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plan_is_refused(build: Callable[[], tuple[ExecutionPlan, Workload, Machine]], sentence: str) -> None:
    with pytest.raises(CompilerError, match=f"^{sentence}$"):
        validate(*build())


def test_post_processing_takes_time() -> None:
    slow = (Mode(1, 100, 0, 1000, 0),)
    job = Job("a", TaskGraph((Task("op", slow, (), 0),), (Tensor(1, (), (0,)),)))
    plan = ExecutionPlan("by hand", (Bundle((Slot((0,), (task("a", "op"),)),), 10, 510),), True, 500)
    with pytest.raises(CompilerError, match="^the plan is to take 500 cycles, but takes 510$"):
        validate(plan, Workload((job,)), MACHINE)
    plan = replace(plan, bundles=(replace(plan.bundles[0], end=110),))
    with pytest.raises(
        CompilerError, match="^bundle 0 is to end at cycle 110, but its post-processing takes until cycle 510$"
    ):
        validate(plan, Workload((job,)), MACHINE)
    validate(plan, Workload((job,)), MACHINE, timeline=False)


def test_five_networks_are_too_many() -> None:
    jobs = tuple(Job(name, graph(1, 1)) for name in "abcde")
    starts = tuple(Bundle((Slot((0,), (task(name, "first"),)),)) for name in "abcde")
    ends = tuple(Bundle((Slot((0,), (task(name, "second"),)),)) for name in "abcde")
    plan = ExecutionPlan("by hand", starts + ends, True, 0)
    with pytest.raises(CompilerError, match="^bundle 4 has 5 networks in progress; at most 4 can be$"):
        validate(plan, Workload(jobs), MACHINE, timeline=False)


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_of_dp_with_two_bundles_exchanged_is_refused(seed: int) -> None:
    """Whatever bundles are exchanged, dependencies or times are wrong."""
    rng = np.random.default_rng(seed)
    workload, machine = Workload(random_jobs(rng, 3, 6)), Machine(bytes_per_cycle=8)
    plan = schedule(workload, machine, "dp", Objective.MAKESPAN)
    first, second = sorted(rng.choice(len(plan.bundles), 2, replace=False))
    bundles = list(plan.bundles)
    bundles[first], bundles[second] = bundles[second], bundles[first]
    with pytest.raises(CompilerError):
        validate(replace(plan, bundles=tuple(bundles)), workload, machine)
