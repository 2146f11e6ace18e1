"""Execution plans: which operations of which networks occupy which lanes, and when."""

from tessera.compiler.planning.plan import Bundle, ExecutionPlan, Slot, TaskId
from tessera.compiler.planning.tasks import Job, Mode, Task, TaskGraph, Tensor

__all__ = ["Bundle", "ExecutionPlan", "Job", "Mode", "Slot", "Task", "TaskGraph", "TaskId", "Tensor"]
