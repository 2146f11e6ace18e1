"""From an execution plan to one stream of several networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from tessera.compiler import execution_plan as planning
from tessera.compiler.errors import CompilerError
from tessera.compiler.execution_plan import ExecutionPlan, Slot, TaskId
from tessera.compiler.lowering.builder import LaneSet, OnChipRings, Step, StreamBuilder
from tessera.compiler.lowering.mapping import MappedNetwork, align, place_in_dram, place_tensors
from tessera.compiler.lowering.network import InferenceEmitter
from tessera.compiler.lowering.placement import LaneRings, Ring
from tessera.compiler.lowering.plan_memory import START, BankName, ChipState, PlanPlacement, place_plan
from tessera.compiler.lowering.plan_program import JobMemory, PlanProgram
from tessera.compiler.lowering.schedule import in_order_of_starts, schedule
from tessera.compiler.lowering.synchronise import synchronise_steps
from tessera.compiler.lowering.transfers import emit_load, emit_store
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
from tessera.sim.golden.network import Operation
from tessera.sim.program import DramTensor, OnChipTensor
from tessera.sim.windows import MemoryWindow


def lower_plan(
    plan: ExecutionPlan,
    networks: Mapping[str, MappedNetwork],
    config: NpuConfig,
    *,
    memory: Memory = DEFAULT_MEMORY,
    dram: DramLayout | None = None,
    state: ChipState = START,
    spread: bool = False,
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
    dram
        Where it may lie in DRAM.
    state
        What it finds on chip when it starts.
    spread
        True: tensors lie in all lanes, so that whatever plan comes next can read them.

    Raises
    ------
    PlacementError
        The tensors that are alive at the same time do not fit the activation banks.
    CompilerError
        There are more jobs than hardware contexts, an operation cannot be encoded, or a job's data do not fit their
        place in DRAM.
    """
    _check_contexts(plan)
    placement = place_plan(plan, networks, config, state, spread=spread)
    jobs = _make_jobs(plan, networks, placement, state)
    rings = _SlotRings(config)
    bundles = [_moves(placement, jobs)]
    for index, bundle in enumerate(plan.bundles):
        begin = PlanStep(Bundle(index=index % (1 << BUNDLE_BITS)), f"bundle {index}", bundle=index)
        emitted = [
            _emit_slot(slot, jobs[slot.job], own, index)
            for slot, own in zip(bundle.slots, rings.of(bundle, jobs), strict=True)
        ]
        bundles.append([begin, *_interleave(emitted, config, memory)])
    order = _overlapping if plan.prefetch else _one_by_one
    steps = _mark_finished(order(bundles, config, memory))
    return _finish(steps, jobs, placement, config, dram or DramLayout())


def _check_contexts(plan: ExecutionPlan) -> None:
    jobs = {task.job for task in plan.tasks}
    if len(jobs) > CONTEXTS:
        raise CompilerError(
            f"the plan has {len(jobs)} networks, but the machine has {CONTEXTS} contexts; plan at most {CONTEXTS} "
            "networks at a time (tessera run and tessera serve take more, as successive plans)"
        )


@dataclass(frozen=True)
class DramLayout:
    """Where a plan may lie in DRAM.

    Attributes
    ----------
    address
        First byte address that may be used for the code, and for jobs without a place of their own.
    jobs
        Places of jobs, by name.
    """

    address: int = 0
    jobs: Mapping[str, MemoryWindow] = field(default_factory=dict)


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
    spills
        Where tensors are in DRAM while they are moved on chip.
    """

    name: str
    context: int
    mapped: MappedNetwork
    builder: StreamBuilder
    inferences: list[_Inference]
    numbers: dict[str, int]
    spills: dict[BankName, DramTensor] = field(default_factory=dict)

    @property
    def end_address(self) -> int:
        """First address after all that the job has in DRAM, as long as it is not moved."""
        return align(self.builder.data_address + len(self.builder.data))


def _draft_address(context: int) -> int:
    """Where a job's DRAM begins while the sizes of the jobs before are not known; `_finish` moves it."""
    return context << AXI_ADDRESS_BITS - CONTEXT_BITS


def _make_jobs(
    plan: ExecutionPlan, networks: Mapping[str, MappedNetwork], placement: PlanPlacement, state: ChipState
) -> dict[str, _Job]:
    """The jobs of a plan, in the order in which they begin."""
    inferences: dict[str, int] = {}
    for task in plan.tasks:
        inferences[task.job] = max(inferences.get(task.job, 0), task.inference + 1)
    jobs: dict[str, _Job] = {}
    first_number = 0
    for context, (name, count) in enumerate(inferences.items()):
        jobs[name] = _make_job(name, networks[name], context, first_number)
        _add_inferences(jobs[name], count, placement, state)
        first_number += len(networks[name].operations)
    return jobs


def _make_job(name: str, mapped: MappedNetwork, context: int, first_number: int) -> _Job:
    numbers = {operation: (first_number + index) % OPERATIONS for index, operation in enumerate(mapped.operations)}
    lanes = LaneSet(mapped.config, tuple(range(mapped.config.lanes)))
    address, rings = _draft_address(context), OnChipRings.of(mapped.config)
    builder = StreamBuilder(lanes, {}, mapped.tiling.operations, {}, address, {}, rings)
    return _Job(name, context, mapped, builder, [], numbers)


def _add_inferences(job: _Job, count: int, placement: PlanPlacement, state: ChipState) -> None:
    """Gives each inference its tensors in DRAM, and finds those on chip."""
    builder, address = job.builder, job.builder.data_address
    for inference in range(count):
        builder.dram, address = place_in_dram(job.mapped, address)
        ranges = {
            (each.name, each.role): where
            for each, where in placement.ranges.items()
            if (each.job, each.inference) == (job.name, inference)
        }
        builder.placement = place_tensors(
            job.mapped, {name: where for (name, role), where in ranges.items() if not role}
        )
        builder.buffers = {key: where.base for key, where in ranges.items() if key[1]}
        done = {task.operation for task in state.done if (task.job, task.inference) == (job.name, inference)}
        emitter = InferenceEmitter(builder, job.mapped.storage, done)
        job.inferences.append(_Inference(builder.dram, builder.placement, builder.buffers, emitter))
    for name in placement.moved:
        if name.job == job.name:
            job.spills[name] = job.mapped.in_dram(name.name, align(address))
            address = job.spills[name].address + job.spills[name].size
    builder.data_address = align(address)


def _moves(placement: PlanPlacement, jobs: Mapping[str, _Job]) -> list[PlanStep]:
    """Steps that move tensors by way of DRAM: all are stored before the first is loaded."""
    steps = []
    for emit, ranges in (
        (emit_store, placement.moved),
        (emit_load, {name: placement.ranges[name] for name in placement.moved}),
    ):
        for name, where in ranges.items():
            job = jobs[name.job]
            job.builder.steps, job.builder.number = [], 0
            emit(job.builder, job.mapped.on_chip(name.name, where), job.spills[name], f"move {name.name}")
            steps += [_plan_step(step, None, job, 0) for step in job.builder.steps]
    return steps


class _SlotRings:
    """Shares of the memories that slots use in turn, so that the slots of a bundle do not wait for each other.

    A slot has the weight banks of its lanes. Of the memories for parameters and tables it has what it needs, but at
    most an equal part: the pieces of slots and bundles follow one another round and round, so that what was used last
    is overwritten last.
    """

    def __init__(self, config: NpuConfig):
        self._weights = LaneRings(config.weight_beats, config.lanes)
        self._parameters = Ring(config.parameter_blocks)
        self._tables = Ring(config.tables)

    def of(self, bundle: planning.Bundle, jobs: Mapping[str, _Job]) -> list[OnChipRings]:
        """The shares of the slots of a bundle."""
        parameters = self._parameters.shares([_parameter_blocks(slot, jobs[slot.job]) for slot in bundle.slots])
        tables = self._tables.shares([_tables(slot, jobs[slot.job]) for slot in bundle.slots])
        return [OnChipRings(self._weights, *shares) for shares in zip(parameters, tables, strict=True)]


def _parameter_blocks(slot: Slot, job: _Job) -> int:
    """Blocks of the memory for parameters that all operations of a slot take."""
    tensors, cols = job.mapped.network.tensors, job.mapped.config.cols
    return sum(-(-tensors[each.output].channels // cols) for each in _operations(slot, job))


def _tables(slot: Slot, job: _Job) -> int:
    """Tables that the operations of a slot have."""
    return sum(each.post.table is not None for each in _operations(slot, job))


def _operations(slot: Slot, job: _Job) -> list[Operation]:
    return [job.mapped.operations[task.operation] for task in slot.tasks]


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
        steps += [_plan_step(step, task, job, bundle) for step in builder.steps]
    return steps


def _plan_step(step: Step, task: TaskId | None, job: _Job, bundle: int) -> PlanStep:
    instruction = step.instruction
    if isinstance(instruction, Transfer):
        instruction = replace(instruction, context=job.context)
    label = f"{job.name}: {step.label}"
    return PlanStep(instruction, label, step.operation, task, bundle)


def _interleave(slots: Sequence[list[PlanStep]], config: NpuConfig, memory: Memory) -> list[PlanStep]:
    """The steps of the slots of a bundle, by the cycles at which each could start if its slot had the machine alone.

    Slots have nothing on chip in common but parameters and tables, where the machine has fewer of them than there are
    slots: then they follow one another, since each relies on what it has loaded.
    """
    if len(slots) == 1 or _share_memory(slots):
        return list(chain.from_iterable(slots))
    timed = [
        (cycle, slot, position, step)
        for slot, steps in enumerate(slots)
        for position, (cycle, step) in enumerate(in_order_of_starts(steps, config, memory))
    ]
    return [step for *_, step in sorted(timed, key=lambda entry: entry[:3])]


def _share_memory(slots: Sequence[list[PlanStep]]) -> bool:
    """Whether two slots load parameters or tables into the same memory."""
    loaded = [set(chain.from_iterable(_loaded(step.instruction) for step in steps)) for steps in slots]
    return sum(map(len, loaded)) > len(set().union(*loaded))


def _loaded(instruction: Instruction) -> Iterator[tuple[LoadTarget, int]]:
    """The addresses of memories common to all lanes that an instruction loads."""
    if isinstance(instruction, Load) and instruction.target in (LoadTarget.PARAMETERS, LoadTarget.TABLES):
        for address in range(instruction.base, instruction.base + instruction.columns):
            yield instruction.target, address


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
    last: dict[tuple[str, int], tuple[int, Store]] = {}
    for index, step in enumerate(steps):
        if step.task is not None and isinstance(step.instruction, Store):
            last[step.task.job, step.task.inference] = index, step.instruction
    for index, store in last.values():
        steps[index] = replace(steps[index], instruction=replace(store, finished=1))
    return steps


def _finish(
    steps: list[PlanStep],
    jobs: Mapping[str, _Job],
    placement: PlanPlacement,
    config: NpuConfig,
    dram: DramLayout,
) -> PlanProgram:
    """The program, with the jobs that have no place in DRAM one behind the other."""
    steps = [*steps, PlanStep(End(), "end", bundle=steps[-1].bundle if steps else 0)]
    address, shifts, memories = align(dram.address), [], {}
    for name, job in jobs.items():
        begin = dram.jobs[name].base if name in dram.jobs else address
        shifts.append(begin - _draft_address(job.context))
        memories[name] = _job_memory(job, shifts[-1])
        if name not in dram.jobs:
            address = memories[name].end_address
        elif memories[name].end_address > dram.jobs[name].limit:
            raise CompilerError(
                f"network {name!r} needs {memories[name].end_address - begin} bytes of DRAM, but has "
                f"{dram.jobs[name].limit - begin}; give it more"
            )
    return PlanProgram(
        config=config,
        instructions=tuple(_shifted(step.instruction, shifts) for step in steps),
        labels=tuple(step.label for step in steps),
        tasks=tuple(step.task for step in steps),
        bundles=tuple(step.bundle for step in steps),
        numbers={step.task: jobs[step.task.job].numbers[step.task.operation] for step in steps if step.task},
        code_address=address,
        jobs=memories,
        placement=placement,
    )


def _shifted(instruction: Instruction, shifts: Sequence[int]) -> Instruction:
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
