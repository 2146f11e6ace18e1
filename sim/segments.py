"""Streams of several segments: which of them follow one another, and which depths lead through them.

A *trace* is the depths that the ``Select`` instructions of a run have chosen, one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tessera.rtl.isa import INSTRUCTION_BYTES, Depth, End, Instruction, Select, decode

Decisions = Callable[[Select], Depth]
"""What a ``Select`` chooses: the depth of one of its variants."""

Trace = tuple[Depth, ...]


class DecisionError(ValueError):
    """A ``Select`` for which there is no decision, or none that can be followed."""


class SegmentError(ValueError):
    """Code whose segments cannot be followed to an end."""


def follow(trace: Iterable[Depth]) -> Decisions:
    """The decisions of a trace; one that is too short raises `DecisionError`."""
    depths = iter(trace)

    def decide(select: Select) -> Depth:
        depth = next(depths, None)
        if depth is None:
            raise DecisionError(f"the trace has no depth left for the select of operation {select.operation}")
        return Depth(depth)

    return decide


def decided(decisions: Decisions | None, select: Select) -> Depth:
    """The depth that is chosen; raises `DecisionError` where none is, or one without a variant."""
    if decisions is None:
        raise DecisionError(f"the stream selects a depth of operation {select.operation}, so it needs decisions")
    depth = decisions(select)
    if depth not in select.variants:
        variants = ", ".join(variant.name for variant in select.variants)
        raise DecisionError(
            f"operation {select.operation} has no variant of depth {Depth(depth).name}; choose one of {variants}"
        )
    return depth


@dataclass(frozen=True)
class Segment:
    """A part of a stream that is executed from its first to its last instruction.

    Attributes
    ----------
    index
        Index of its first instruction.
    instructions
        The instructions, the last of them an ``End`` or a ``Select``.
    """

    index: int
    instructions: tuple[Instruction, ...]

    @property
    def following(self) -> dict[Depth, int]:
        """Indices of the segments that it may go on at, by the depths that lead there; empty for the last one."""
        select = self.instructions[-1]
        if not isinstance(select, Select):
            return {}
        here = self.index + len(self.instructions) - 1
        return {depth: here + select.offsets[depth] for depth in select.variants}


def segments_of(code: bytes, start: int = 0) -> dict[int, Segment]:
    """All segments that a stream can come to, by their indices.

    Parameters
    ----------
    code
        Bytes of DRAM with all segments.
    start
        Where in them the first instruction lies.

    Raises
    ------
    SegmentError
        A segment leaves the code.
    IsaError
        There is something that is no instruction.
    """
    found: dict[int, Segment] = {}
    pending = [0]
    while pending:
        index = pending.pop()
        if index not in found:
            found[index] = segment = Segment(index, tuple(_segment(code, start, index)))
            pending += segment.following.values()
    return dict(sorted(found.items()))


def _segment(code: bytes, start: int, index: int) -> Iterator[Instruction]:
    while True:
        place = start + index * INSTRUCTION_BYTES
        if not 0 <= place <= len(code) - INSTRUCTION_BYTES:
            raise SegmentError(f"the stream goes on at instruction {index}, which lies outside its code")
        instruction = decode(code[place : place + INSTRUCTION_BYTES])
        yield instruction
        if isinstance(instruction, End | Select):
            return
        index += 1


def linear(segments: Mapping[int, Segment], trace: Sequence[Depth]) -> list[Instruction]:
    """What is executed of a stream where a trace is chosen, its ``Select`` instructions included.

    Raises
    ------
    DecisionError
        The trace is too short or too long, or chooses a depth without a variant.
    """
    decisions = follow(trace)
    segment = segments[0]
    instructions = [*segment.instructions]
    chosen = 0
    while isinstance(select := segment.instructions[-1], Select):
        segment = segments[segment.following[decided(decisions, select)]]
        instructions += segment.instructions
        chosen += 1
    if chosen != len(trace):
        raise DecisionError(f"the trace has {len(trace)} depths, but the stream ends after {chosen} selects")
    return instructions


def covering_traces(segments: Mapping[int, Segment]) -> list[Trace]:
    """Traces that together lead from every segment to each that may follow it; at least one.

    Raises
    ------
    SegmentError
        A segment from which no end can be reached.
    """
    to_end = _steps(segments, {index for index, segment in segments.items() if not segment.following})
    for index in segments:
        if index not in to_end:
            raise SegmentError(f"from the segment at instruction {index} no end can be reached")
    left = {(index, depth) for index, segment in segments.items() for depth in segment.following}
    traces: list[Trace] = []
    while left or not traces:
        traces.append(tuple(_walk(segments, left, to_end)))
    return traces


def _walk(segments: Mapping[int, Segment], left: set[tuple[int, Depth]], to_end: Mapping[int, int]) -> Iterator[Depth]:
    """A way to an end by pairs that are ``left``, which it takes away.

    It never walks in circles: a step that takes no pair away brings it nearer to one, or else to an end.
    """
    index = 0
    while following := segments[index].following:
        depth = next((depth for depth in following if (index, depth) in left), None)
        if depth is None:
            to_left = _steps(segments, {each for each, _ in left})
            distance = to_left if index in to_left else to_end
            depth = min(following, key=lambda each: distance.get(following[each], len(segments)))
        left.discard((index, depth))
        yield depth
        index = following[depth]


def _steps(segments: Mapping[int, Segment], targets: set[int]) -> dict[int, int]:
    """For each segment from which one of the targets can be reached, the steps to the nearest."""
    before: dict[int, list[int]] = {index: [] for index in segments}
    for index, segment in segments.items():
        for following in segment.following.values():
            before[following].append(index)
    steps = dict.fromkeys(targets, 0)
    pending = deque(targets)
    while pending:
        index = pending.popleft()
        for earlier in before[index]:
            if earlier not in steps:
                steps[earlier] = steps[index] + 1
                pending.append(earlier)
    return steps
