"""From an execution plan to one stream of several networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeGuard

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.builder import LaneSet, OnChipRings, Step, StreamBuilder
from tessera.compiler.lowering.mapping import MappedNetwork, align, place_in_dram, place_tensors
from tessera.compiler.lowering.network import InferenceEmitter
from tessera.compiler.lowering.placement import LaneRings, Ring
from tessera.compiler.lowering.plan_memory import BankName, BankRange, place_plan
from tessera.compiler.lowering.plan_program import JobMemory, PlanProgram
from tessera.compiler.lowering.schedule import in_order_of_starts, schedule
from tessera.compiler.lowering.synchronise import synchronise_steps
from tessera.compiler.planning import plan as planning
from tessera.compiler.planning.plan import ExecutionPlan, Slot, TaskId
from tessera.rtl.config import AXI_ADDRESS_BITS, NpuConfig
from tessera.rtl.isa import (
    BUNDLE_BITS,
    CONTEXT_BITS,
    CONTEXTS,
    OPERATIONS,
    Bundle,
    End,
    Fence,
    Instruction,
    Load,
    LoadTarget,
    Store,
    Transfer,
)
from tessera.sim.cycles import DEFAULT_MEMORY, Memory
from tessera.sim.program import DramTensor, OnChipTensor


def lower_plan(
    plan: ExecutionPlan,
    networks: Mapping[str, MappedNetwork],
    config: NpuConfig,
    *,
    memory: Memory = DEFAULT_MEMORY,
    dram_address: int = 0,
) -> PlanProgram:
    """Compiles a plan for a machine.

    Parameters
    ----------
    plan
        The plan.
    networks
        The network of each job that is in it, by the job's name.
    config
        The machine.
    memory
        Its DRAM, for the order in which the instructions of different slots are handed out.
    dram_address
        First DRAM byte address that the program may use; it uses the addresses up to its ``end_address``.

    Raises
    ------
    PlacementError
        The tensors that are alive at the same time do not fit the activation banks.
    CompilerError
        There are more jobs than hardware contexts, or an operation cannot be encoded.
    """
    ranges = place_plan(plan, networks, config)
    jobs = _make_jobs(plan, networks, ranges, config)
    rings = _SlotRings(config)
    bundles = []
    for index, bundle in enumerate(plan.bundles):
        begin = PlanStep(Bundle(index=index % (1 << BUNDLE_BITS)), f"bundle {index}", bundle=index)
        emitted = [_emit_slot(slot, jobs[slot.job], rings.of(slot, bundle), index) for slot in bundle.slots]
        bundles.append([begin, *_interleave(emitted, config, memory)])
    order = _overlapping if plan.prefetch else _one_by_one
    return _finish(_mark_finished(order(bundles, config, memory)), jobs, config, dram_address)


@dataclass(frozen=True)
class PlanStep(Step):
    """A step of a plan: the task that it is a part of, if any, and the index of its bundle."""

    task: TaskId | None = None
    bundle: int = 0


@dataclass
class _Inference:
    """An inference while its plan is lowered: where its tensors and buffers are, and what emits its operations."""

    dram: dict[str, DramTensor]
    placement: dict[str, OnChipTensor]
    buffers: dict[tuple[str, str], int]
    emitter: InferenceEmitter


@dataclass
class _Job:
    """A job while its plan is lowered.

    Attributes
    ----------
    context
        Its hardware context.
    mapped
        Its network.
    builder
        Collects its instructions and data.
    inferences
        Its inferences.
    numbers
        For each operation the number for which it is counted.
    """

    context: int
    mapped: MappedNetwork
    builder: StreamBuilder
    inferences: list[_Inference]
    numbers: dict[str, int]

    @property
    def end_address(self) -> int:
        """First address after all that the job has in DRAM, as long as it is not moved."""
        return align(self.builder.data_address + len(self.builder.data))


def _draft_address(context: int) -> int:
    """Where a job's DRAM begins while the sizes of the jobs before are not known; `_finish` moves it."""
    return context << AXI_ADDRESS_BITS - CONTEXT_BITS


def _make_jobs(
    plan: ExecutionPlan,
    networks: Mapping[str, MappedNetwork],
    ranges: Mapping[BankName, BankRange],
    config: NpuConfig,
) -> dict[str, _Job]:
    """The jobs of a plan, in the order in which they begin."""
    inferences: dict[str, int] = {}
    for task in plan.tasks:
        inferences[task.job] = max(inferences.get(task.job, 0), task.inference + 1)
    if len(inferences) > CONTEXTS:
        raise CompilerError(
            f"the plan has {len(inferences)} networks, but the machine has {CONTEXTS} contexts; plan at most "
            f"{CONTEXTS} networks at a time"
        )
    jobs: dict[str, _Job] = {}
    first_number = 0
    for context, (name, count) in enumerate(inferences.items()):
        jobs[name] = _make_job(name, networks[name], count, context, first_number, ranges)
        first_number += len(networks[name].operations)
    return jobs


def _make_job(
    name: str,
    mapped: MappedNetwork,
    inferences: int,
    context: int,
    first_number: int,
    ranges: Mapping[BankName, BankRange],
) -> _Job:
    numbers = {operation: (first_number + index) % OPERATIONS for index, operation in enumerate(mapped.operations)}
    lanes = LaneSet(mapped.config, tuple(range(mapped.config.lanes)))
    rings = OnChipRings.of(mapped.config)
    builder = StreamBuilder(lanes, {}, mapped.tiling.operations, {}, 0, {}, rings)
    job = _Job(context, mapped, builder, [], numbers)
    builder.data_address = _draft_address(context)
    for inference in range(inferences):
        builder.dram, builder.data_address = place_in_dram(mapped, builder.data_address)
        mine = {each: where for each, where in ranges.items() if (each.job, each.inference) == (name, inference)}
        roots = {each.name: where for each, where in mine.items() if not each.role}
        builder.placement = place_tensors(mapped, roots)
        builder.buffers = {(each.name, each.role): where.base for each, where in mine.items() if each.role}
        emitter = InferenceEmitter(builder, mapped.storage)
        job.inferences.append(_Inference(builder.dram, builder.placement, builder.buffers, emitter))
    return job


class _SlotRings:
    """Shares of the memories that slots use in turn, so that slots of one bundle do not wait for each other.

    A slot has the weight banks of its lanes, a share of the parameter memory as large as that of the lanes, and the
    same of the tables, where every slot can have one.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        self._weights = LaneRings(config.weight_beats, config.lanes)
        self._parameters: dict[tuple[int, ...], Ring] = {}
        self._tables: dict[tuple[int, ...], Ring] = {}

    def of(self, slot: Slot, bundle: planning.Bundle) -> OnChipRings:
        """The shares of a slot of a bundle; all, if it is the only one."""
        lanes = slot.lanes if len(bundle.slots) > 1 else tuple(range(self._config.lanes))
        if lanes not in self._parameters:
            self._parameters[lanes] = self._share(self._config.parameter_blocks, lanes)
            self._tables[lanes] = self._share(self._config.tables, lanes)
        return OnChipRings(self._weights, self._parameters[lanes], self._tables[lanes])

    def _share(self, size: int, lanes: tuple[int, ...]) -> Ring:
        first, last = size * lanes[0] // self._config.lanes, size * (lanes[-1] + 1) // self._config.lanes
        return Ring(max(1, last - first), min(first, max(0, size - 1)))


def _emit_slot(slot: Slot, job: _Job, rings: OnChipRings, bundle: int) -> list[PlanStep]:
    """The steps of a slot, without waits."""
    builder = job.builder
    builder.lanes, builder.rings = LaneSet(builder.config, slot.lanes), rings
    steps = []
    for task in slot.tasks:
        inference = job.inferences[task.inference]
        builder.dram, builder.placement, builder.buffers = inference.dram, inference.placement, inference.buffers
        builder.number, builder.steps = job.numbers[task.operation], []
        inference.emitter.emit(job.mapped.operations[task.operation])
        steps += [_plan_step(step, task, job.context, bundle) for step in builder.steps]
    return steps


def _plan_step(step: Step, task: TaskId, context: int, bundle: int) -> PlanStep:
    instruction = step.instruction
    if isinstance(instruction, Transfer):
        instruction = replace(instruction, context=context)
    label = f"{task.job}: {step.label}"
    return PlanStep(instruction, label, step.operation, task, bundle)


def _interleave(slots: Sequence[list[PlanStep]], config: NpuConfig, memory: Memory) -> list[PlanStep]:
    """The steps of the slots of a bundle, by the cycles at which each could start if its slot had the machine alone.

    The slots have nothing on chip in common but tables, where there are too few: then they follow one another.
    """
    if len(slots) == 1 or _share_tables(slots):
        return list(chain.from_iterable(slots))
    timed = [
        (cycle, slot, position, step)
        for slot, steps in enumerate(slots)
        for position, (cycle, step) in enumerate(in_order_of_starts(steps, config, memory))
    ]
    return [step for *_, step in sorted(timed, key=lambda entry: entry[:3])]


def _share_tables(slots: Sequence[list[PlanStep]]) -> bool:
    """Whether two slots load the same table memory."""
    loads = [{step.instruction.base for step in steps if _is_table_load(step.instruction)} for steps in slots]
    return sum(map(len, loads)) > len(set().union(*loads))


def _is_table_load(instruction: Instruction) -> TypeGuard[Load]:
    return isinstance(instruction, Load) and instruction.target is LoadTarget.TABLES


def _overlapping(bundles: Sequence[list[PlanStep]], config: NpuConfig, memory: Memory) -> list[PlanStep]:
    """The steps with their waits; loads run ahead of their bundles."""
    return schedule(list(chain.from_iterable(bundles)), config, memory)


def _one_by_one(bundles: Sequence[list[PlanStep]], config: NpuConfig, memory: Memory) -> list[PlanStep]:
    """The steps with their waits; everything of a bundle ends before the next one begins."""
    steps: list[PlanStep] = []
    for bundle in bundles:
        if steps:
            steps.append(PlanStep(Fence(), "end of the bundle", bundle=steps[-1].bundle))
        steps += [step for _, step in in_order_of_starts(bundle, config, memory)]
    return synchronise_steps(steps, config)


def _mark_finished(steps: list[PlanStep]) -> list[PlanStep]:
    """The steps with the last store of each inference marked."""
    last = {(step.task.job, step.task.inference): index for index, step in enumerate(steps) if _is_store(step)}
    for index in last.values():
        steps[index] = replace(steps[index], instruction=replace(steps[index].instruction, finished=1))
    return steps


def _is_store(step: PlanStep) -> bool:
    return step.task is not None and isinstance(step.instruction, Store)


def _finish(steps: list[PlanStep], jobs: Mapping[str, _Job], config: NpuConfig, address: int) -> PlanProgram:
    """The program, its jobs one behind the other in DRAM."""
    steps = [*steps, PlanStep(End(), "end", bundle=steps[-1].bundle if steps else 0)]
    shifts, memories = [], {}
    for name, job in jobs.items():
        shifts.append(align(address) - _draft_address(job.context))
        memories[name] = _job_memory(job, shifts[-1])
        address = memories[name].end_address
    instructions = tuple(_moved(step.instruction, shifts) for step in steps)
    return PlanProgram(
        config=config,
        instructions=instructions,
        labels=tuple(step.label for step in steps),
        tasks=tuple(step.task for step in steps),
        bundles=tuple(step.bundle for step in steps),
        numbers={step.task: jobs[step.task.job].numbers[step.task.operation] for step in steps if step.task},
        code_address=align(address),
        jobs=memories,
        placement={
            (name, index, tensor): where
            for name, job in jobs.items()
            for index, inference in enumerate(job.inferences)
            for tensor, where in inference.placement.items()
        },
    )


def _moved(instruction: Instruction, shifts: Sequence[int]) -> Instruction:
    if isinstance(instruction, Transfer):
        return replace(instruction, address=instruction.address + shifts[instruction.context])
    return instruction


def _job_memory(job: _Job, shift: int) -> JobMemory:
    network = job.mapped.network
    tensors = [
        {name: replace(tensor, address=tensor.address + shift) for name, tensor in inference.dram.items()}
        for inference in job.inferences
    ]
    return JobMemory(
        context=job.context,
        address=_draft_address(job.context) + shift,
        end_address=job.end_address + shift,
        tensors=tuple(tensors),
        inputs=tuple(network.inputs),
        outputs=tuple(network.outputs),
        data_address=job.builder.data_address + shift,
        data=bytes(job.builder.data),
    )
