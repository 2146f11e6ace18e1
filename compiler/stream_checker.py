"""The stream checker: proves that a stream is legal, cannot deadlock, and computes what its order says.

It knows nothing of the compiler: it decodes a stream and follows it with the machine's ordering model. A stream that
passes has the same result on the RTL as on the stream model, whatever the timing, as long as its channel parameters,
which are data, keep their limits (`ChannelParameters`; the stream model refuses others):

- every instruction is one that the configuration executes, and stays inside its memories;
- every pair of accesses that must keep its order is ordered, by waits or by the machine's own rules, and a post-process
  writes over its residual operand only where each pixel takes the place of its own operand;
- waits refer to earlier instructions whose completion does not depend on later ones;
- every finished tile is taken by one post-process of the same size, and no unit runs further ahead than the machine
  has memory for;
- at a bundle, where the host may pause the stream, and at the end no window and no tile is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    PPU_SLICES,
    TOKEN_BITS,
    Bundle,
    End,
    Fence,
    Instruction,
    IsaError,
    LaneProgram,
    PostProcess,
    Source,
    Unit,
    Wait,
    Window,
    decode_stream,
    format_instruction,
    lanes_of_mask,
)
from tessera.rtl.legality import check
from tessera.sim.cycles import Timing
from tessera.sim.footprint import Memory, Region, footprint
from tessera.sim.ordering import OrderError, StreamOrder
from tessera.sim.program import Program
from tessera.sim.segments import Trace, covering_traces, linear, segments_of

MAX_UNDRAINED = 2
"""Tiles that a lane can have finished or begun before the first is post-processed: its accumulator memories."""

MAX_UNREAD = 1
"""Windows of a slice that can precede their post-process."""


@dataclass(frozen=True)
class Violation:
    """Something that is wrong with a stream.

    Attributes
    ----------
    index
        Index of the instruction.
    instruction
        The instruction.
    problem
        What is wrong, as a sentence.
    """

    index: int
    instruction: Instruction
    problem: str

    def __str__(self) -> str:
        return f"instruction {self.index} ({format_instruction(self.instruction)}): {self.problem}"


def segment_violations(
    code: bytes, config: NpuConfig, *, start: int = 0, protected: range = range(0)
) -> Iterator[tuple[Trace, Violation]]:
    """Every violation of a stream of segments, along traces that lead from every segment to each that may follow it.

    An index is that among the instructions that a trace executes.

    Parameters
    ----------
    code
        Bytes of DRAM with all segments.
    start
        Where in them the first instruction lies.
    config, protected
        As in `violations`.

    Raises
    ------
    SegmentError
        A segment leaves the code, or leads to no end.
    """
    segments = segments_of(code, start)
    for trace in covering_traces(segments):
        for violation in violations(linear(segments, trace), config, protected=protected):
            yield trace, violation


class StreamViolationError(ValueError):
    """A stream that is not proven; the message is its first violation."""


def check_program(program: Program) -> None:
    """Checks a program: its stream, and that no store writes its weights, parameters or code.

    Raises
    ------
    StreamViolationError
        The first violation.
    """
    image = range(program.address, program.address + len(program.image))
    start = program.code_address - program.address
    for violation in violations(decode_stream(program.image[start:]), program.config, protected=image):
        raise StreamViolationError(str(violation))


def violations(stream: Sequence[Instruction], config: NpuConfig, *, protected: range = range(0)) -> Iterator[Violation]:
    """Every violation of a stream, in its order.

    Parameters
    ----------
    stream
        The instructions, ending with ``End``.
    config
        The machine.
    protected
        DRAM byte addresses that must not be written.
    """
    checker = _Checker(config, protected)
    for index, instruction in enumerate(stream):
        for problem in checker.step(instruction):
            yield Violation(index, instruction, problem)
    for problem in checker.finish(stream):
        yield Violation(len(stream) - 1, stream[-1] if stream else End(), problem)


class _Checker:
    def __init__(self, config: NpuConfig, protected: range):
        self.config = config
        self.protected = protected
        self.order = StreamOrder(config)
        self.tiles: list[deque[tuple[int, int]]] = [deque() for _ in range(config.lanes)]
        self.open_tiles: list[tuple[int, int] | None] = [None] * config.lanes
        self.windows: list[deque[tuple[int, int]]] = [deque() for _ in range(PPU_SLICES)]
        self.waited: list[tuple[Unit, int]] = []
        # Each unit's count before each of the instructions that it may not have completed: in its queue, at the head
        # of that, an advance behind it, and those in the unit.
        unfinished = config.queue_depth + 2 + Timing.in_flight
        self.before: list[deque[int]] = [deque([0], maxlen=unfinished) for _ in Unit]
        self.certain = [0] * len(Unit)

    def step(self, instruction: Instruction) -> Iterator[str]:
        """Problems of the next instruction."""
        try:
            check(instruction, self.config)
        except IsaError as error:
            yield str(error)
            return
        yield from self._bounds(instruction)
        if isinstance(instruction, PostProcess) and instruction.residual:
            yield from self._residual(instruction)
        try:
            yield from self._hazards(instruction)
            if isinstance(instruction, Wait):
                yield from self._wait(instruction)
            elif isinstance(instruction, Fence | Bundle | End):
                if not isinstance(instruction, Bundle):
                    yield from self._counters()
                yield from self._left_over(instruction)
            for unit in instruction.tokens():
                self.before[unit].append(int(self.order.counts[unit]))
            self.order.append(instruction)
        except OrderError as error:
            yield str(error)
            return
        yield from self._hand_over(instruction)

    def finish(self, stream: Sequence[Instruction]) -> Iterator[str]:
        """Problems of the stream as a whole."""
        if not stream or not isinstance(stream[-1], End):
            yield "the stream does not end with an end instruction"

    def _bounds(self, instruction: Instruction) -> Iterator[str]:
        for access in footprint(instruction, self.config):
            size = access.space.size(self.config)
            if access.region.stop > size:
                yield (
                    f"it {'writes' if access.write else 'reads'} address {access.region.stop - 1} of "
                    f"{access.space.memory.name.lower()}, which has {size}"
                )
            if access.write and access.space.memory is Memory.DRAM and self._is_protected(access.region):
                yield (
                    f"it writes DRAM inside {self.protected.start:#x}..{self.protected.stop - 1:#x}, the "
                    f"program's own data"
                )

    def _is_protected(self, region: Region) -> bool:
        protected = self.protected
        return bool(protected) and region.base < protected.stop and protected.start < region.stop

    def _hazards(self, instruction: Instruction) -> Iterator[str]:
        for hazard in self.order.hazards(instruction):
            access = hazard.access
            where = f"{access.space.memory.name.lower()} of lane {access.space.lane}"
            yield (
                f"{access.unit.name.lower()} {'writes' if access.write else 'reads'} {where} at "
                f"{access.region.base}..{access.region.stop - 1}, but instruction {hazard.count} of "
                f"{hazard.unit.name.lower()}, which uses it too, may not have finished"
            )

    def _residual(self, post: PostProcess) -> Iterator[str]:
        """Operands are read ahead of the writes by any distance, so a pixel may only replace its own operand."""
        activations = [a for a in footprint(post, self.config) if a.space.memory is Memory.ACTIVATIONS]
        operands = {access.space: access.region for access in activations if not access.write}
        for access in activations:
            operand = operands.get(access.space)
            if access.write and operand and operand.meets(access.region) and not operand.same_places(access.region):
                yield (
                    f"it writes activations of lane {access.space.lane} at {access.region.base}.."
                    f"{access.region.stop - 1}, where it still reads its residual operand; give the result the "
                    f"operand's base and row pitch, or another place"
                )
                break

    def _wait(self, wait: Wait) -> Iterator[str]:
        """A window completes only with the help of its post-process, so that must be in the stream already."""
        for unit, count in self.order.resolve(wait):
            if wait.targets:
                self.waited.append((unit, count))
            else:  # it is over before anything else is handed out
                self.certain[unit] = max(self.certain[unit], count)
            behind = count - max(self.before[unit][0], self.certain[unit])
            if behind > 1 << TOKEN_BITS - 1:
                yield f"it is ambiguous, because the counter of {unit.name.lower()} may be {behind} behind"
            if self.order.is_unread(unit, count):
                yield f"it waits for {unit.name.lower()}, whose post-process comes later"

    def _counters(self) -> Iterator[str]:
        """Counters are compared modulo 2 ** 16, so none may run 2 ** 15 ahead of what is waited for before all units
        are idle."""
        for unit, count in self.waited:
            ahead = self.order.counts[unit] - count
            if ahead >= 1 << TOKEN_BITS - 1:
                yield (
                    f"a wait for instruction {count} of {unit.name.lower()} is ambiguous, because {ahead} "
                    f"more may complete before the next fence"
                )
                break
        self.waited.clear()
        self.certain = self.order.counts.tolist()

    def _left_over(self, instruction: Instruction) -> Iterator[str]:
        """A window without its post-process never completes; where the stream stops, tiles must not be left either."""
        stops = isinstance(instruction, Bundle | End)
        for index, windows in enumerate(self.windows):
            if windows:
                yield f"slice {index} has a window that is not post-processed before"
        for lane, tiles in enumerate(self.tiles):
            if tiles and stops:
                yield f"lane {lane} has {len(tiles)} tiles that are not post-processed before"
        for lane, tile in enumerate(self.open_tiles):
            if tile is not None and stops:
                yield f"lane {lane} has a tile whose last program is partial"

    def _hand_over(self, instruction: Instruction) -> Iterator[str]:
        """Follows the tiles, as (lanes, pixels)."""
        if isinstance(instruction, LaneProgram):
            for lane in lanes_of_mask(instruction.lanes):
                yield from self._work_on_tile(instruction, lane)
        elif isinstance(instruction, Window):
            windows = self.windows[instruction.slice]
            windows.append((0, instruction.tile_height * instruction.tile_width))
            if len(windows) > MAX_UNREAD:
                yield f"slice {instruction.slice} has {len(windows)} windows before any post-process"
        elif isinstance(instruction, PostProcess):
            yield from self._take(instruction)

    def _work_on_tile(self, program: LaneProgram, lane: int) -> Iterator[str]:
        """A tile occupies its accumulators from its first program on, which is the only one if it is not partial."""
        tile = (program.lanes, program.tile_height * program.tile_width)
        before, tiles = self.open_tiles[lane], self.tiles[lane]
        if before is None and len(tiles) >= MAX_UNDRAINED:
            yield f"lane {lane} has {len(tiles) + 1} tiles before any post-process, more than {MAX_UNDRAINED}"
        if before is not None and before != tile:
            yield (
                f"it goes on with a tile of {before[1]} pixels of the lanes {before[0]:04b}, but has {tile[1]} pixels "
                f"and the lanes {tile[0]:04b}"
            )
        self.open_tiles[lane] = tile if program.partial else None
        if not program.partial:
            tiles.append(tile)

    def _take(self, post: PostProcess) -> Iterator[str]:
        """Takes a tile from each source."""
        pixels = post.tile_height * post.tile_width
        lanes, sources = 0, [self.windows[post.slice]]
        if post.source is Source.LANES:
            lanes, sources = post.lanes, [self.tiles[lane] for lane in lanes_of_mask(post.lanes)]
        for source in sources:
            made_by, size = source.popleft()
            if size != pixels:
                yield f"it takes a tile of {pixels} pixels, but the oldest finished one has {size}"
            if made_by != lanes:
                yield f"it combines the lanes {lanes:04b}, but the tile was made by the lanes {made_by:04b}"
