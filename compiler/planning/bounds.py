"""What no plan can beat."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.compiler.planning.problem import Problem
from tessera.rtl.isa import PPU_SLICES


@dataclass(frozen=True)
class LowerBound:
    """Cycles that a workload takes at least, by each of the things that limit it.

    Attributes
    ----------
    lane_work
        All lanes always busy, every operation with as many as do its work in the fewest lane cycles.
    critical_path
        The longest of the jobs, from its arrival, every operation as fast as it can be.
    dram
        All bytes at the full bandwidth.
    post_processing
        Both slices of the post-processing unit always busy.
    """

    lane_work: int
    critical_path: int
    dram: int
    post_processing: int

    @property
    def cycles(self) -> int:
        """The largest."""
        return max(self.lane_work, self.critical_path, self.dram, self.post_processing)

    @property
    def limit(self) -> str:
        """Name of the largest."""
        names = ("lane_work", "critical_path", "dram", "post_processing")
        return next(name for name in names if getattr(self, name) == self.cycles)


def lower_bound(problem: Problem) -> LowerBound:
    """The bound of the rest of a workload; cycles count from the start of its plan."""
    start, machine = problem.workload.start, problem.machine
    left = [(job, state) for job, state in zip(problem.jobs, problem.of(problem.start)) if not state.finished]
    if not left:
        return LowerBound(0, 0, 0, 0)
    idle = max(0, min(job.arrival for job, _ in left) - start)
    return LowerBound(
        lane_work=idle + _up(sum(state.lane_cycles for _, state in left), machine.lanes),
        critical_path=max(max(0, job.arrival - start) + state.path for job, state in left),
        dram=_up(sum(state.traffic for _, state in left), machine.bandwidth.numerator),
        post_processing=idle + _up(sum(state.post_cycles for _, state in left), PPU_SLICES),
    )


def _up(work: int, rate: int) -> int:
    return -(-work // rate)
