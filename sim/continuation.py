"""What is left of a stream that was paused, as a stream of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tessera.rtl.isa import TOKEN_BITS, Instruction, Unit, Wait, units_of_mask


def continuation(stream: Sequence[Instruction], executed: int) -> list[Instruction]:
    """The instructions after the first ``executed`` ones of a stream, for a start of their own.

    Token counters begin at 0 at every start, so waits for what comes later count from there, and those for what has
    been executed are left out.
    """
    executed_counts, counts = dict.fromkeys(Unit, 0), dict.fromkeys(Unit, 0)
    rest: list[Instruction] = []
    for index, instruction in enumerate(stream):
        if index == executed:
            executed_counts = dict(counts)
        if isinstance(instruction, Wait):
            if index >= executed:
                rest += _remaining_wait(instruction, counts, executed_counts)
            continue
        for unit, tokens in instruction.tokens().items():
            counts[unit] += tokens
        if index >= executed:
            rest.append(instruction)
    return rest


def _remaining_wait(wait: Wait, counts: dict[Unit, int], executed: dict[Unit, int]) -> list[Instruction]:
    """The wait with the counts of a new start, if it still waits for anything."""
    left = [0] * len(Unit)
    for unit in units_of_mask(wait.sources):
        behind = (counts[unit] - wait.counts[unit]) % (1 << TOKEN_BITS)
        left[unit] = counts[unit] - behind - executed[unit]
    sources = sum(1 << unit for unit in units_of_mask(wait.sources) if left[unit] > 0)
    if not sources:
        return []
    values = tuple(max(count, 0) % (1 << TOKEN_BITS) for count in left)
    return [replace(wait, sources=sources, counts=values)]
