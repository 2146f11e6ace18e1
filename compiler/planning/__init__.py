"""Execution plans: which operations of which networks occupy which lanes, and when."""

from tessera.compiler.execution_plan import Bundle, ExecutionPlan, Slot, TaskId
from tessera.compiler.planning.model import Machine
from tessera.compiler.planning.objective import Objective
from tessera.compiler.planning.schedulers import SCHEDULERS, schedule
from tessera.compiler.planning.tasks import Job, Mode, Task, TaskGraph, Tensor
from tessera.compiler.planning.workload import Progress, Workload

__all__ = [
    "SCHEDULERS",
    "Bundle",
    "ExecutionPlan",
    "Job",
    "Machine",
    "Mode",
    "Objective",
    "Progress",
    "Slot",
    "Task",
    "TaskGraph",
    "TaskId",
    "Tensor",
    "Workload",
    "schedule",
]
