"""The schedulers by name."""

from __future__ import annotations

from collections.abc import Callable

from tessera.compiler.errors import CompilerError
from tessera.compiler.execution_plan import ExecutionPlan
from tessera.compiler.planning.dp import dp
from tessera.compiler.planning.greedy import greedy
from tessera.compiler.planning.model import Machine
from tessera.compiler.planning.objective import Objective
from tessera.compiler.planning.problem import Problem
from tessera.compiler.planning.serial import native, serial
from tessera.compiler.planning.workload import Workload

DEFAULT = "dp"

SCHEDULERS: dict[str, Callable[[Problem, Objective], ExecutionPlan]] = {
    "dp": dp,
    "greedy": greedy,
    "serial": serial,
    "native": native,
}


def schedule(
    workload: Workload,
    machine: Machine,
    scheduler: str = DEFAULT,
    objective: Objective = Objective.MAKESPAN,
) -> ExecutionPlan:
    """Plans a workload, from its progress on: planning again in the middle is the same thing.

    Raises
    ------
    CompilerError
        There is no such scheduler, the workload makes no sense, or it does not fit.
    """
    if scheduler not in SCHEDULERS:
        raise CompilerError(f"there is no scheduler {scheduler!r}; take one of {', '.join(SCHEDULERS)}")
    return SCHEDULERS[scheduler](Problem(workload, machine), objective)
