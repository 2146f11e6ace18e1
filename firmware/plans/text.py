"""Execution plans as text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.mixed_precision.costs import transfer_bytes
from tessera.compiler.planning import Slot, TaskId
from tessera.compiler.planning.dependencies import optimisations
from tessera.compiler.planning.fault_rules import describe_policy
from tessera.compiler.planning.plan_file import StoredPlan
from tessera.firmware.plans.networks import PlannedNetwork
from tessera.firmware.plans.timeline import PlanTimeline, TaskTime
from tessera.rtl.isa import Bundle, Load, LoadTarget, format_instruction


def format_plan(
    stored: StoredPlan, networks: Sequence[PlannedNetwork], program: PlanProgram, timeline: PlanTimeline
) -> str:
    """The bundles of a plan, each with its slots, the weights that are loaded ahead in it, and after them what the
    compiler saves in each network, and what happens when something goes wrong.

    Parameters
    ----------
    stored, networks
        The plan and its networks.
    program, timeline
        What it was lowered to, and that program's predicted times.
    """
    lines: list[str] = []
    times, tasks = timeline.bundle_times(), {time.task: time for time in timeline.tasks}
    ahead = prefetched_weights(program)
    for index, bundle in enumerate(stored.plan.bundles):
        start, end = times.get(index, (0, 0))
        lines.append(f"bundle {index}: cycles {start:,} to {end:,}, {bundle.end - bundle.start:,} planned")
        lines += [f"  {_slot(slot, tasks)}" for slot in bundle.slots]
        for task, count in ahead.get(index, {}).items():
            lines.append(f"  loads ahead {count:,} bytes of weights for {_task_name(task)}")
    for same in _by_file(networks):
        lines.append(f"network {', '.join(network.name for network in same)} ({same[0].file}):")
        lines += [f"  {sentence}" for sentence in optimisations(same[0].mapped)]
    for network in stored.networks:
        lines += describe_policy(network.name, network.faults)
    return "\n".join(lines)


def _by_file(networks: Sequence[PlannedNetwork]) -> list[list[PlannedNetwork]]:
    """The networks, those of one file together."""
    found: dict[str, list[PlannedNetwork]] = {}
    for network in networks:
        found.setdefault(network.file, []).append(network)
    return list(found.values())


def format_stream(program: PlanProgram) -> str:
    """Placement and disassembly of a plan's program, each instruction under what it is for."""
    lines = [f"program of a plan for {program.config.name}, code at DRAM {program.code_address:#x}"]
    for name, job in program.jobs.items():
        lines.append(f"  network {name}: context {job.context}, DRAM {job.address:#x} to {job.end_address - 1:#x}")
        for inference, tensors in enumerate(job.tensors):
            lines += [
                f"    inference {inference}, {each}: {tensor.type} at DRAM {tensor.address:#x}, {tensor.size} bytes"
                for each, tensor in tensors.items()
            ]
    for place, where in program.placement.ranges.items():
        role = f", buffer of its {place.role}" if place.role else ""
        owner = _task_name(TaskId(place.job, place.inference, place.name))
        lines.append(f"  {owner}{role}: from word {where.base}, lanes {where.lanes:04b}")
    label = None
    for index, (text, instruction) in enumerate(zip(program.labels, program.instructions, strict=True)):
        if text != label:
            lines.append(f"{text}:" if text else "")
            label = text
        lines.append(f"{index:6d}  {format_instruction(instruction)}")
    return "\n".join(lines)


def prefetched_weights(program: PlanProgram) -> dict[int, Mapping[TaskId, int]]:
    """By the index of each bundle the bytes of weights that are loaded in it for tasks of later ones."""
    found: dict[int, Counter[TaskId]] = defaultdict(Counter)
    current = 0
    for instruction, task, bundle in zip(program.instructions, program.tasks, program.bundles, strict=True):
        if isinstance(instruction, Bundle):
            current = bundle
        elif isinstance(instruction, Load) and instruction.target is LoadTarget.WEIGHTS and task and bundle > current:
            found[current][task] += transfer_bytes(instruction, program.config)
    return dict(found)


def depth_name(time: TaskTime) -> str:
    """The depths of a task, such as A4W8."""
    weights = "" if time.weight_bits is None else f"W{time.weight_bits}"
    return f"A{time.activation_bits}{weights}"


def _slot(slot: Slot, tasks: Mapping[TaskId, TaskTime]) -> str:
    lanes = ",".join(map(str, slot.lanes))
    return f"lanes {lanes:7} {slot.job}: {', '.join(_tasks(slot, tasks))}"


def _tasks(slot: Slot, tasks: Mapping[TaskId, TaskTime]) -> Iterator[str]:
    for task in slot.tasks:
        inference = f" (inference {task.inference})" if task.inference else ""
        depths = f" {depth_name(tasks[task])}" if task in tasks else ""
        yield f"{task.operation}{depths}{inference}"


def _task_name(task: TaskId) -> str:
    inference = f" of inference {task.inference}" if task.inference else ""
    return f"{task.job}.{task.operation}{inference}"
