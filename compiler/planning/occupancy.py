"""For how long operations keep lanes and post-processing slices, and what they move, read off a stream.

The steps of a stream are owned by whatever the caller wants to tell apart: operations, or tasks of a plan.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.compiler.lowering.builder import Step
from tessera.compiler.lowering.synchronise import synchronise_steps
from tessera.compiler.mixed_precision.costs import transfer_bytes
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    INSTRUCTION_BYTES,
    PPU_SLICES,
    LaneProgram,
    Load,
    LoadTarget,
    PostProcess,
    Source,
    Store,
    Window,
    lanes_of_mask,
)
from tessera.sim.cycles import transfer_cycles
from tessera.sim.occupancy import lane_cycles, post_cycles, starts

CONFLICT_FACTOR = 2
"""A window takes at most so many times the cycles that it takes undisturbed, by conflicts on the ports of the banks.
What seems more is waiting to be fetched and dispatched, which no trace shows."""

LANE_CONFLICTS = 8
"""A lane program, whose lanes come first at the ports, takes at most this part more than undisturbed..."""

LANE_START_UP = 32
"""... and these cycles, for its token and its first weights."""

Owner = Any
"""What steps belong to: the name of an operation, or the task of a plan."""


@dataclass(frozen=True)
class StreamStep(Step):
    """An instruction with what it belongs to; ``None`` if to nothing."""

    owner: Owner = None


@dataclass
class Occupancy:
    """When an operation worked.

    Attributes
    ----------
    units
        Cycles for which it kept each of its lanes, or of the slices that read its windows.
    post_cycles
        Cycles for which it kept post-processing slices, added up over them.
    summed, complete
        The cycles in which its last lane program, or window, and its last post-process ended.
    """

    units: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    post_cycles: int = 0
    summed: int = 0
    complete: int = 0

    @property
    def cycles(self) -> int:
        """Cycles for which it kept the unit that had most to do."""
        return max(self.units.values())


@dataclass
class Traffic:
    """What an operation moves.

    Attributes
    ----------
    weights
        Bytes that are loaded into the weight bank of each lane.
    dram_bytes
        Bytes on the memory's bus, its instructions included.
    load_cycles
        Cycles that its loads take on a memory as fast as the bus.
    """

    weights: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    dram_bytes: int = 0
    load_cycles: int = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of the lane that is loaded most."""
        return max(self.weights.values(), default=0)


def without_transfers(steps: Sequence[StreamStep], config: NpuConfig) -> list[StreamStep]:
    """The steps that work on what is on chip, with the waits that they need."""
    working = [step for step in steps if isinstance(step.instruction, LaneProgram | Window | PostProcess)]
    return synchronise_steps(working, config)


def occupancies(steps: Sequence[StreamStep], config: NpuConfig, ends: Sequence[int]) -> dict[Owner, Occupancy]:
    """When the owners of the steps of a stream worked.

    Parameters
    ----------
    steps, config
        The stream and the machine.
    ends
        For each step the cycle in which it had finished.
    """
    begun = starts([step.instruction for step in steps], config, ends)
    backlog = _Backlog(steps, config, begun, ends)
    accumulators = _Accumulators(config)
    windows: dict[int, deque[tuple[int, int]]] = defaultdict(deque)
    found: dict[Owner, Occupancy] = defaultdict(Occupancy)
    for step, start, end in zip(steps, begun, ends, strict=True):
        instruction, operation = step.instruction, found[step.owner]
        if isinstance(instruction, LaneProgram):
            least = lane_cycles(instruction, config)
            start = max(start, backlog.before(end - least, step.owner))
            begin = max(start, min(accumulators.free(instruction), end - least))
            kept = begin - start + min(end - begin, least + least // LANE_CONFLICTS + LANE_START_UP)
            for lane in lanes_of_mask(instruction.lanes):
                operation.units[lane] += kept
            operation.summed = max(operation.summed, end)
        elif isinstance(instruction, Window):
            windows[instruction.slice].append((start, instruction.kernel_height * instruction.kernel_width))
        elif isinstance(instruction, PostProcess):
            read, positions = (0, 1) if instruction.source is Source.LANES else windows[instruction.slice].popleft()
            accumulators.release(instruction, end)
            least = post_cycles(instruction, positions, config)
            if instruction.source is Source.WINDOW:
                kept = end - max(start, read)
                operation.units[instruction.slice] += min(max(kept, least), CONFLICT_FACTOR * least)
                operation.summed = max(operation.summed, end)
            operation.post_cycles += least
            operation.complete = max(operation.complete, end)
    return {owner: operation for owner, operation in found.items() if operation.units}


class _Accumulators:
    """When a lane's accumulators, of which it has two memories, were free for its next tile."""

    def __init__(self, config: NpuConfig):
        self._released = [deque([0, 0]) for _ in range(config.lanes)]
        self._open = [False] * config.lanes

    def free(self, program: LaneProgram) -> int:
        """The cycle for a lane program; 0 if it adds to a tile that is begun."""
        lanes = lanes_of_mask(program.lanes)
        cycle = max(0 if self._open[lane] else self._released[lane].popleft() for lane in lanes)
        for lane in lanes:
            self._open[lane] = bool(program.partial)
        return cycle

    def release(self, post: PostProcess, end: int) -> None:
        """A post-process that ended in a cycle has freed what it took."""
        for lane in lanes_of_mask(post.lanes):
            self._released[lane].append(end)


class _Backlog:
    """What an operation's lanes wait for that is not its own: post-processing that other operations have left, and its
    own that was told to wait, for its parameters."""

    def __init__(self, steps: Sequence[StreamStep], config: NpuConfig, begun: Sequence[int], ends: Sequence[int]):
        posts = sorted(_posts(steps, config, begun, ends), key=lambda post: post[0])
        self._ends = [end for end, _ in posts]
        self._owners = [owner for _, owner in posts]
        self._other = [-1] * len(posts)  # the last one before each that has another owner
        for index in range(1, len(posts)):
            same = self._owners[index] == self._owners[index - 1]
            self._other[index] = self._other[index - 1] if same else index - 1

    def before(self, cycle: int, owner: Owner) -> int:
        """The last cycle, up to a given one, in which a post-process of another owner ended; 0 if none did."""
        index = bisect_right(self._ends, cycle) - 1
        if index >= 0 and self._owners[index] == owner:
            index = self._other[index]
        return self._ends[index] if index >= 0 else 0


def _posts(
    steps: Sequence[StreamStep], config: NpuConfig, begun: Sequence[int], ends: Sequence[int]
) -> Iterator[tuple[int, Owner]]:
    """The cycle in which each post-process ended, and its owner; ``None`` if it was told to wait longer than its slice
    and its sums would have let it."""
    tiles: list[deque[int]] = [deque() for _ in range(config.lanes)]
    free = [0] * PPU_SLICES
    for step, start, end in zip(steps, begun, ends, strict=True):
        instruction = step.instruction
        if isinstance(instruction, LaneProgram) and not instruction.partial:
            for lane in lanes_of_mask(instruction.lanes):
                tiles[lane].append(end)
        elif isinstance(instruction, PostProcess):
            summed = max((tiles[lane].popleft() for lane in lanes_of_mask(instruction.lanes)), default=0)
            yield end, None if start > max(free[instruction.slice], summed) else step.owner
            free[instruction.slice] = end


def traffic(steps: Sequence[StreamStep], config: NpuConfig) -> dict[Owner, Traffic]:
    """What the owners of the steps of a stream move."""
    found: dict[Owner, Traffic] = defaultdict(Traffic)
    for step in steps:
        moved = found[step.owner]
        moved.dram_bytes += INSTRUCTION_BYTES
        if isinstance(step.instruction, Load | Store):
            moved.dram_bytes += transfer_bytes(step.instruction, config)
        if isinstance(step.instruction, Load):
            moved.load_cycles += transfer_cycles(step.instruction, config)
        if isinstance(step.instruction, Load) and step.instruction.target is LoadTarget.WEIGHTS:
            for lane in lanes_of_mask(step.instruction.lanes):
                moved.weights[lane] += step.instruction.columns * config.beat_bytes
    return found
