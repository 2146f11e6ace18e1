"""The plan whose stream is predicted to be the best of several plans' streams.

The schedulers know a simple model of the machine. The cycle model knows it well, but needs the stream; so the streams
of some plans are made, and the best is taken. Dynamic programming offers several: with all of the weight banks and with
parts of them for loads that run ahead, since how far they get depends on more than the planner's model knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from tessera.compiler.errors import CompilerError
from tessera.compiler.execution_plan import ExecutionPlan
from tessera.compiler.lowering.mapping import MappedNetwork
from tessera.compiler.lowering.plan import DramLayout, lower_plan
from tessera.compiler.lowering.plan_memory import START, ChipState, PlacementError
from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.planning.model import Machine
from tessera.compiler.planning.objective import Objective
from tessera.compiler.planning.problem import Problem
from tessera.compiler.planning.schedulers import schedule
from tessera.compiler.planning.serial import alone
from tessera.compiler.planning.workload import Workload
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Store
from tessera.sim.cycles import DEFAULT_MEMORY, Memory, Prediction, predict

WORTH = 0.01
"""How much better, as a fraction, a plan must be predicted to be than the serial one to be preferred: predictions of
two streams of one workload err alike, but not by the same."""

BANK_SHARES = (1.0, 0.5, 0.25)
"""Parts of the weight banks that dynamic programming is offered for loads that run ahead."""

CAPACITY_STEPS = (1.0, 0.875, 0.75, 0.5)
"""Parts of the activation banks that a plan is offered, where the tensors of one that was offered more could not be
placed."""


@dataclass(frozen=True)
class PlannedStream:
    """A plan with its stream.

    Attributes
    ----------
    plan, program
        The two.
    prediction
        When the stream's instructions work, by the cycle model.
    completions
        For each job the cycle at which the last of its results is in DRAM.
    """

    plan: ExecutionPlan
    program: PlanProgram
    prediction: Prediction
    completions: Mapping[str, int]

    @property
    def cycles(self) -> int:
        """Predicted duration."""
        return self.prediction.total


class StreamPlanner:
    """Plans workloads on one machine.

    Parameters
    ----------
    config, memory
        The machine and its DRAM.
    networks
        The network of each job, by the job's name.
    """

    def __init__(self, config: NpuConfig, networks: Mapping[str, MappedNetwork], memory: Memory = DEFAULT_MEMORY):
        self._config = config
        self._networks = networks
        self._memory = memory

    def plan(
        self,
        workload: Workload,
        scheduler: str = "dp",
        objective: Objective = Objective.MAKESPAN,
        *,
        state: ChipState = START,
        dram: DramLayout | None = None,
        spread: bool = False,
    ) -> PlannedStream:
        """The best plan of a scheduler, with its stream.

        Parameters
        ----------
        workload
            The jobs, with their progress.
        scheduler, objective
            As for `tessera.compiler.planning.schedule`.
        state, dram, spread
            As for `tessera.compiler.lowering.plan.lower_plan`.

        Raises
        ------
        CompilerError
            The workload makes no sense or does not fit.
        """

        def lowered(plan: ExecutionPlan) -> PlannedStream:
            return self._lowered(plan, workload, state, dram, spread=spread)

        if scheduler != "dp":
            return self._first_that_fits(workload, scheduler, objective, lowered)
        best = self._first_that_fits(workload, "serial", objective, lowered)
        least, seen = self._cost(workload, objective, best), {best.plan.slots}
        worth_it = (1 - WORTH) * least[0]
        for plan in self._candidates(workload, objective):
            if plan.slots in seen:
                continue
            seen.add(plan.slots)
            try:
                stream = lowered(plan)
            except PlacementError:
                continue
            cost = self._cost(workload, objective, stream)
            if cost < least and cost[0] < worth_it:
                best, least = stream, cost
        return replace(best, plan=replace(best.plan, scheduler="dp"))

    def _candidates(self, workload: Workload, objective: Objective) -> Iterator[ExecutionPlan]:
        for share in BANK_SHARES:
            yield schedule(workload, self._machine(bank_share=share), "dp", objective)
        yield schedule(workload, self._machine(), "greedy", objective)

    def _machine(self, *, bank_share: float = 1.0, capacity: float = 1.0) -> Machine:
        machine = Machine.of(self._config, self._memory, int(capacity * self._config.activation_words))
        return replace(machine, weight_bank_bytes=int(bank_share * machine.weight_bank_bytes))

    def _first_that_fits(
        self,
        workload: Workload,
        scheduler: str,
        objective: Objective,
        lowered: Callable[[ExecutionPlan], PlannedStream],
    ) -> PlannedStream:
        """The plan of a scheduler, with as much of the activation banks as its tensors can be placed in."""
        refused: CompilerError | None = None
        for capacity in CAPACITY_STEPS:
            try:
                machine = self._machine(capacity=capacity)
                return lowered(schedule(workload, machine, scheduler, objective))
            except PlacementError as error:
                refused = error
            except CompilerError as error:  # at less than all, that the largest operation needs more
                raise refused or error from None
        assert refused is not None
        raise refused

    def _lowered(
        self, plan: ExecutionPlan, workload: Workload, state: ChipState, dram: DramLayout | None, *, spread: bool
    ) -> PlannedStream:
        program = lower_plan(
            plan, self._networks, self._config, memory=self._memory, state=state, dram=dram, spread=spread
        )
        prediction = predict(program.instructions, self._config, self._memory)
        completions = {job.name: workload.start for job in workload.jobs}
        for instruction, task, end in zip(program.instructions, program.tasks, prediction.end.tolist(), strict=True):
            if task is not None and isinstance(instruction, Store):
                completions[task.job] = max(completions[task.job], workload.start + end)
        return PlannedStream(plan, program, prediction, completions)

    def _cost(self, workload: Workload, objective: Objective, stream: PlannedStream) -> tuple[float, ...]:
        jobs = workload.jobs
        completions = [stream.completions[job.name] for job in jobs]
        durations = alone(Problem(workload, self._machine())) if objective is Objective.FAIRNESS else [1] * len(jobs)
        return objective.total(jobs, completions, durations)
