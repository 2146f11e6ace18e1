"""For how long operations keep lanes and post-processing slices, and what they move, read off a stream.

The steps of a stream are owned by whatever the caller wants to tell apart: operations, or tasks of a plan.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
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
from tessera.sim.footprint import chip_region
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
        Bytes of the weight bank of each lane that are loaded, with the gaps between them.
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
    accumulators, slices = _Accumulators(config), _Slices(config)
    windows: dict[int, deque[tuple[int, int]]] = defaultdict(deque)
    found: dict[Owner, Occupancy] = defaultdict(Occupancy)
    for step, start, end in zip(steps, begun, ends, strict=True):
        instruction, operation = step.instruction, found[step.owner]
        if isinstance(instruction, LaneProgram):
            least = lane_cycles(instruction, config)
            free, owner = accumulators.free(instruction)
            begin = max(start, min(free, end - least))
            start = start if owner == step.owner else begin
            kept = begin - start + min(end - begin, least + least // LANE_CONFLICTS + LANE_START_UP)
            for lane in lanes_of_mask(instruction.lanes):
                operation.units[lane] += kept
            operation.summed = max(operation.summed, end)
            slices.sum(instruction, end)
        elif isinstance(instruction, Window):
            windows[instruction.slice].append((start, instruction.kernel_height * instruction.kernel_width))
        elif isinstance(instruction, PostProcess):
            read, positions = (0, 1) if instruction.source is Source.LANES else windows[instruction.slice].popleft()
            accumulators.release(instruction, end, slices.own(instruction, step.owner, start, end))
            least = post_cycles(instruction, positions, config)
            if instruction.source is Source.WINDOW:
                kept = end - max(start, read)
                operation.units[instruction.slice] += min(max(kept, least), CONFLICT_FACTOR * least)
                operation.summed = max(operation.summed, end)
            operation.post_cycles += least
            operation.complete = max(operation.complete, end)
    return {owner: operation for owner, operation in found.items() if operation.units}


class _Accumulators:
    """When a lane's accumulators, of which it has two memories, were free for its next tile, and by whose doing."""

    def __init__(self, config: NpuConfig):
        self._released: list[deque[tuple[int, Owner]]] = [deque([(0, None), (0, None)]) for _ in range(config.lanes)]
        self._open = [False] * config.lanes

    def free(self, program: LaneProgram) -> tuple[int, Owner]:
        """The cycle for a lane program, 0 if it adds to a tile that is begun, and whose post-processing it waited for;
        ``None`` if that was held up itself."""
        lanes = lanes_of_mask(program.lanes)
        cycle, owner = max(
            ((0, None) if self._open[lane] else self._released[lane].popleft() for lane in lanes),
            key=lambda released: released[0],
        )
        for lane in lanes:
            self._open[lane] = bool(program.partial)
        return cycle, owner

    def release(self, post: PostProcess, end: int, owner: Owner) -> None:
        """A post-process that ended in a cycle has freed what it took."""
        for lane in lanes_of_mask(post.lanes):
            self._released[lane].append((end, owner))


class _Slices:
    """Tells whether post-processes were as early as their own operation let them be, or held up: by another operation's
    that the slice had to do before, or because they were told to wait, for their parameters."""

    def __init__(self, config: NpuConfig):
        self._tiles: list[deque[int]] = [deque() for _ in range(config.lanes)]
        self._last: list[tuple[int, Owner]] = [(0, None)] * PPU_SLICES

    def sum(self, program: LaneProgram, end: int) -> None:
        """A lane program ended in a cycle."""
        if not program.partial:
            for lane in lanes_of_mask(program.lanes):
                self._tiles[lane].append(end)

    def own(self, post: PostProcess, owner: Owner, start: int, end: int) -> Owner:
        """The owner of a post-process that kept its slice between two cycles; ``None`` if it was held up."""
        summed = max((self._tiles[lane].popleft() for lane in lanes_of_mask(post.lanes)), default=0)
        free, before = self._last[post.slice]
        if start > max(free, summed) or (start > summed and before != owner):
            owner = None
        self._last[post.slice] = end, owner
        return owner


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
                moved.weights[lane] += chip_region(step.instruction).size * config.beat_bytes
    return found
