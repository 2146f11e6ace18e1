"""Workloads that make no sense, and the sentences that say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tessera.compiler.errors import CompilerError
from tessera.compiler.planning import Job, Machine, Mode, Progress, Task, TaskGraph, Tensor, Workload, schedule
from tessera.compiler.planning.workload import advanced, check_workload

GRAPH = TaskGraph(
    (Task("first", (Mode(2, 100, 10, 0, 0),), (), 0, 50), Task("second", (Mode(1, 80, 5, 0, 0),), (0,), 0)),
    (Tensor(100, (), (0,)), Tensor(40, (0,), (1,))),
)

JOB = Job("net", GRAPH, inferences=2)


def test_a_workload_that_makes_sense() -> None:
    check_workload(Workload((JOB, replace(JOB, name="other", deadline=400))), Machine())


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"priority": 0.0}, "network 'net' has the priority 0.0; give a positive number"),
        ({"priority": float("inf")}, "network 'net' has the priority inf; give a positive number"),
        ({"priority": float("nan")}, "network 'net' has the priority nan; give a positive number"),
        ({"inferences": 0}, "network 'net' is to run 0 times; give at least 1"),
        ({"arrival": -1}, "network 'net' arrives at cycle -1; give 0 or more"),
        (
            {"arrival": 50, "deadline": 50},
            "network 'net' has its deadline at cycle 50, but arrives at 50; give a later deadline",
        ),
        (
            {"arrival": 50, "deadline": 300},
            "network 'net' cannot meet its deadline at cycle 300: it arrives at 50 and takes at least 295 cycles "
            "alone; give a later deadline",
        ),
        (
            {"graph": TaskGraph((), ())},
            "network 'net' has no operation for the NPU; leave it out of the plan",
        ),
    ],
)
def test_a_job_that_makes_no_sense(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CompilerError) as error:
        check_workload(Workload((replace(JOB, **change),)), Machine())
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "machine, sentence",
    [
        (
            Machine(lanes=1),
            "operation 'first' of network 'net' cannot run on 1 lanes; take a configuration with more lanes",
        ),
        (
            Machine(capacity_words=189),
            "operation 'first' of network 'net' needs 190 activation words with what else the network keeps on chip, "
            "but 189 are available; use a configuration with larger activation banks",
        ),
    ],
)
def test_an_operation_that_does_not_fit(machine: Machine, sentence: str) -> None:
    with pytest.raises(CompilerError) as error:
        check_workload(Workload((JOB,)), machine)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "workload, sentence",
    [
        (Workload(()), "there is nothing to plan; give at least one network"),
        (Workload((JOB, JOB)), "2 networks are named 'net'; give each a name of its own"),
        (Workload((JOB,), {"not": Progress()}), "there is progress of 'not', but no network of this name"),
        (
            Workload((JOB,), {"net": Progress(2, 1)}),
            "network 'net' cannot have ended 2 inferences and the operations 0x1 of the next; it has 2 of 2 operations",
        ),
        (
            Workload((JOB,), {"net": Progress(0, 2)}),
            "operation 'second' of network 'net' cannot have ended before 'first', whose result it reads",
        ),
    ],
)
def test_a_workload_that_makes_no_sense(workload: Workload, sentence: str) -> None:
    with pytest.raises(CompilerError) as error:
        check_workload(workload, Machine())
    assert str(error.value) == sentence


def test_progress_of_a_plan_that_ran_in_part() -> None:
    workload = Workload((JOB,))
    bundles = schedule(workload, Machine(), "serial").bundles
    assert [advanced(workload, bundles[:count], 7).progress_of(JOB) for count in range(5)] == [
        Progress(0, 0),
        Progress(0, 1),
        Progress(1, 0),
        Progress(1, 1),
        Progress(2, 0),
    ]
    assert advanced(workload, bundles, 7).start == 7
