"""Inserts the waits that order the units: one before each instruction that might overtake an earlier one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tessera.compiler.lowering.builder import StepType
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import TOKEN_BITS, Fence, Instruction, Unit, Wait, format_instruction
from tessera.sim.ordering import Clock, Hazard, OrderError, StreamOrder

FENCE_INTERVAL = 1 << TOKEN_BITS - 2
"""Instructions of one unit between fences.

Token counters are compared modulo 2 ** 16, so a wait must not be more than 2 ** 15 instructions behind; no stream of
fewer instructions has a fence.
"""


def synchronise(instructions: Iterable[Instruction], config: NpuConfig) -> list[Instruction]:
    """The instructions with the waits (and, in very long streams, fences) that they need.

    What is already certain, by earlier waits, by the order in a unit or by the hand-over of tiles, is not waited for.

    Raises
    ------
    OrderError
        A post-process writes what its window, or another one that is not taken yet, still reads: no wait helps.
    """
    return [instruction for _, instruction in _with_waits(instructions, StreamOrder(config))]


def synchronise_steps(steps: Sequence[StepType], config: NpuConfig, order: StreamOrder | None = None) -> list[StepType]:
    """Like `synchronise`, for steps; a wait belongs to what the instruction that needs it belongs to.

    ``order`` has followed what comes before them in the stream, and follows them.
    """
    instructions = (step.instruction for step in steps)
    found = _with_waits(instructions, StreamOrder(config) if order is None else order)
    return [replace(steps[index], instruction=instruction) for index, instruction in found]


def merge_waits(steps: Sequence[StepType]) -> list[StepType]:
    """The steps without the waits that an earlier one for the same can take over, because no instruction comes between
    the two in the queues that wait: one wait of several units in the place of one each."""
    merged: list[StepType] = []
    queued = dict.fromkeys(Unit, -1)  # position of the last instruction of each queue
    waits: dict[tuple[int, tuple[int, ...]], int] = {}  # position of the last wait for the same
    for step in steps:
        instruction = step.instruction
        position = len(merged)
        if isinstance(instruction, Wait):
            key = instruction.sources, instruction.counts
            earlier = waits.get(key, -1)
            if earlier >= 0 and all(queued[unit] < earlier for unit in instruction.units()):
                position = earlier
                before = merged[earlier].instruction
                assert isinstance(before, Wait), "waits are where they are noted"
                targets = before.targets | instruction.targets
                merged[earlier] = replace(merged[earlier], instruction=replace(before, targets=targets))
            waits[key] = position
        for unit in instruction.units() or Unit:
            queued[unit] = max(queued[unit], position)
        if position == len(merged):
            merged.append(step)
    return merged


def _with_waits(instructions: Iterable[Instruction], order: StreamOrder) -> Iterator[tuple[int, Instruction]]:
    """The resulting instructions, each with the index of the given one that it stands before or is."""
    fenced = order.counts.copy()
    for index, instruction in enumerate(instructions):
        for inserted in _before(instruction, order, fenced):
            if isinstance(inserted, Fence):
                fenced = order.counts.copy()
            order.append(inserted)
            yield index, inserted
        order.append(instruction)
        yield index, instruction


def _before(instruction: Instruction, order: StreamOrder, fenced: Clock) -> Iterator[Instruction]:
    """What has to stand before an instruction; each is to be appended to ``order`` before the next is asked for."""
    if (order.counts - fenced).max() >= FENCE_INTERVAL and not any(order.unread()):
        yield Fence()
    hazards = order.hazards(instruction)
    for hazard in hazards:
        if order.is_unread(hazard.unit, hazard.count):
            raise OrderError(
                f"{format_instruction(instruction)}: it writes words that {hazard.unit.name.lower()} still reads, "
                f"which cannot finish before it; put its result elsewhere, or post-process that window first"
            )
    if hazards:
        yield _wait(hazards, order)


def _wait(hazards: list[Hazard], order: StreamOrder) -> Instruction:
    """One wait for the latest instruction of each unit in the hazards, without those that another one implies."""
    needed: dict[Unit, int] = {}
    for hazard in hazards:
        needed[hazard.unit] = max(needed.get(hazard.unit, 0), hazard.count)
    for unit in list(needed):
        others = [order.completion(other, count) for other, count in needed.items() if other is not unit]
        if any(clock[unit] >= needed[unit] for clock in others):
            del needed[unit]
    return Wait(
        targets=sum({1 << hazard.access.unit for hazard in hazards}),
        sources=sum(1 << unit for unit in needed),
        counts=tuple(needed.get(unit, 0) % (1 << TOKEN_BITS) for unit in Unit),
    )
