"""What makes one plan better than another."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from tessera.compiler.planning.tasks import Job


class Objective(enum.Enum):
    """What a plan minimises; all are functions of the cycles at which the jobs are complete."""

    MAKESPAN = "makespan"
    """The last job's completion."""
    WEIGHTED_COMPLETION = "weighted_completion"
    """The sum of every job's completion times its priority."""
    TARDINESS = "tardiness"
    """The sum of the cycles by which jobs miss their deadlines, times their priorities."""
    FAIRNESS = "fairness"
    """The largest slowdown: cycles from a job's arrival to its completion over those that it takes alone."""

    @property
    def adds(self) -> bool:
        """Whether the jobs' costs are added; else the largest counts."""
        return self in (Objective.WEIGHTED_COMPLETION, Objective.TARDINESS)

    def cost(self, job: Job, completion: float, alone: int) -> float:
        """What the completion of one job costs; it never falls with the time.

        Parameters
        ----------
        job
            The job.
        completion
            Cycle at which it is complete.
        alone
            Cycles that it takes alone.
        """
        if self is Objective.MAKESPAN:
            return completion
        if self is Objective.WEIGHTED_COMPLETION:
            return job.priority * completion
        if self is Objective.TARDINESS:
            return 0.0 if job.deadline is None else job.priority * max(0, completion - job.deadline)
        return (completion - job.arrival) / alone

    def combine(self, costs: Sequence[float]) -> float:
        """Cost of several jobs."""
        return sum(costs) if self.adds else max(costs, default=0.0)

    def total(self, jobs: Sequence[Job], completions: Sequence[int], alone: Sequence[int]) -> tuple[float, ...]:
        """Costs of a plan, the foremost first: where it is equal, jobs of high priority go first, and all end soon."""
        own = self.combine([self.cost(*each) for each in zip(jobs, completions, alone)])
        weighted = sum(job.priority * completion for job, completion in zip(jobs, completions))
        return own, weighted, max(completions, default=0)
