"""Makes a random stream that fails smaller, as long as it stays legal and fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from random_streams import RandomStream, assemble

from tessera.compiler.stream_checker import violations
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    End,
    Fence,
    Instruction,
    LaneProgram,
    PostProcess,
    Source,
    Wait,
    Window,
    fields_of,
    lanes_of_mask,
)
from tessera.sim.ordering import OrderError
from tessera.sim.stream import StreamError, StreamModel

Fails = Callable[[Sequence[RandomStream]], list[bool]]
"""Says of each of several streams whether it fails; a stream that fails may spoil those behind it."""


def shrink(stream: RandomStream, config: NpuConfig, fails: Fails) -> RandomStream:
    """A stream that fails, and of which no smaller one that is tried does.

    Instructions are left out, many at first, and then operands are made small. All candidates of a round are tried at
    once; the first that fails by itself, too, is the next round's stream.
    """
    while True:
        for reductions in (_without_instructions, _with_smaller_operands):
            smaller = _first_failing(_legal(stream, config, reductions(stream)), fails)
            if smaller is not None:
                stream = smaller
                break
        else:
            return stream


def _first_failing(candidates: list[RandomStream], fails: Fails) -> RandomStream | None:
    if not candidates:
        return None
    for candidate, failed in zip(candidates, fails(candidates), strict=True):
        if failed and fails([candidate])[0]:
            return candidate
    return None


def _legal(stream: RandomStream, config: NpuConfig, reductions: Iterator[list[Instruction]]) -> list[RandomStream]:
    """Streams of those instructions that form a legal one."""
    return [item for body in reductions if (item := _assembled(stream, config, body)) is not None]


def _assembled(stream: RandomStream, config: NpuConfig, body: list[Instruction]) -> RandomStream | None:
    """A stream of these instructions with new waits, and the data of the given one; None if it is not legal."""
    try:
        smaller = assemble(config, body, stream.dram[: stream.code_address])
        model = StreamModel(config, len(smaller.dram))
        model.write_memory(0, smaller.dram)
        model.execute(smaller.instructions)
    except (OrderError, StreamError, ValueError):
        return None
    return None if any(violations(smaller.instructions, config)) else smaller


def _body(stream: RandomStream) -> list[Instruction]:
    """The instructions without those that only order them."""
    return [item for item in stream.instructions if not isinstance(item, Wait | Fence | End)]


def _without_instructions(stream: RandomStream) -> Iterator[list[Instruction]]:
    """Without a half of the groups, a quarter, and so on, down to a single one; and without a part of a tile."""
    body = _body(stream)
    groups = _groups(body)
    size = (len(groups) + 1) // 2
    while size:
        for start in range(0, len(groups), size):
            dropped = {index for group in groups[start : start + size] for index in group}
            yield [item for index, item in enumerate(body) if index not in dropped]
        size //= 2
    for index, item in enumerate(body):
        if getattr(item, "partial", 0):
            yield [*body[:index], *body[index + 1 :]]


def _groups(body: list[Instruction]) -> list[list[int]]:
    """Indices of instructions that only make sense together: a tile's programs, or a window, with what takes it."""
    groups: list[list[int]] = []
    makers: dict[tuple[str, int], list[int]] = {}
    for index, item in enumerate(body):
        if isinstance(item, LaneProgram):
            makers.setdefault(("lane", lanes_of_mask(item.lanes)[0]), []).append(index)
        elif isinstance(item, Window):
            makers.setdefault(("slice", item.slice), []).append(index)
        elif isinstance(item, PostProcess):
            key = ("slice", item.slice) if item.source is Source.WINDOW else ("lane", lanes_of_mask(item.lanes)[0])
            groups.append([*_oldest_tile(body, makers.get(key, [])), index])
        else:
            groups.append([index])
    return sorted(groups)


def _oldest_tile(body: list[Instruction], waiting: list[int]) -> list[int]:
    """Takes the programs of the oldest tile, the last of which is not partial, from those that wait."""
    tile: list[int] = []
    while waiting:
        tile.append(waiting.pop(0))
        if not getattr(body[tile[-1]], "partial", 0):
            break
    return tile


def _with_smaller_operands(stream: RandomStream) -> Iterator[list[Instruction]]:
    """With one operand at its default, or half as far from it, in all instructions of a group that share its value."""
    body = _body(stream)
    for group in _groups(body):
        for name, value, default in dict.fromkeys(operand for index in group for operand in _operands(body[index])):
            for smaller in _towards(value, default):
                changed = list(body)
                for index in group:
                    if getattr(body[index], name, None) == value:
                        changed[index] = dataclasses.replace(body[index], **{name: smaller})
                yield changed


def _operands(instruction: Instruction) -> Iterator[tuple[str, int, int]]:
    """Name, value and default of every operand."""
    defaults = type(instruction)()
    for field in fields_of(type(instruction)):
        yield field.name, getattr(instruction, field.name), getattr(defaults, field.name)


def _towards(value: int, default: int) -> list[int]:
    """Values nearer to the default; of an enumeration, the default alone."""
    if value == default:
        return []
    half = default + int((value - default) / 2)
    return [default] if isinstance(value, Enum) or half == default else [default, half]
