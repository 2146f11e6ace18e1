"""Orders the instructions of a stream by the time at which each could work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tessera.compiler.lowering.builder import StepType
from tessera.compiler.lowering.load_order import let_loads_pass
from tessera.compiler.lowering.synchronise import synchronise, synchronise_steps
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    Bundle,
    Fence,
    Instruction,
    LaneProgram,
    Load,
    PostProcess,
    Source,
    Unit,
    Wait,
    lanes_of_mask,
    units_of_mask,
)
from tessera.sim.cycles import DEFAULT_MEMORY, Memory, Prediction, Timing, predict
from tessera.sim.ordering import awaited

ESTIMATE_PASSES = 3
"""Passes of the cycle model to compare two orders."""


def schedule(steps: Sequence[StepType], config: NpuConfig, memory: Memory = DEFAULT_MEMORY) -> list[StepType]:
    """The steps in the order of their predicted starts, with the waits that this order needs.

    Loads that need not wait pass those that must, so that the bus does not rest. On a slow memory this can also hold up
    others, mostly the instructions themselves: there the better of both orders is taken.
    """
    starts, ends = _earliest_times(steps, config, memory)
    passing = _ordered(let_loads_pass(steps, config, starts, ends), config, memory)
    if memory.bytes_per_cycle is None or memory.bytes_per_cycle >= config.beat_bytes:
        return passing
    return min((passing, _ordered(steps, config, memory)), key=lambda order: _estimate(order, config, memory))


def _ordered(steps: Sequence[StepType], config: NpuConfig, memory: Memory) -> list[StepType]:
    return synchronise_steps([step for _, step in in_order_of_starts(steps, config, memory)], config)


def _estimate(steps: Sequence[StepType], config: NpuConfig, memory: Memory) -> int:
    """Predicted cycles, to about a percent."""
    return predict([step.instruction for step in steps], config, memory, passes=ESTIMATE_PASSES).total


def in_order_of_starts(
    steps: Sequence[StepType], config: NpuConfig, memory: Memory = DEFAULT_MEMORY
) -> list[tuple[int, StepType]]:
    """The steps with the cycles at which they could start, in an order in which these rise.

    The sequencer hands instructions out in order and stops at a full queue, so an instruction should not
    stand behind others that work later: loads move in front of the lane programs that hide them. The given
    order defines what the stream computes; whatever depends on something keeps its place behind it. Only loads move in
    front of a bundle that they belong to.
    """
    instructions = synchronise([step.instruction for step in steps], config)
    prediction = predict(instructions, config, memory, dispatch=False)
    starts = _when_taken(instructions, prediction, config)
    keys = _Keys(config, starts).of(instructions)
    return [(keys[index], steps[index]) for index in np.argsort(keys, kind="stable")]


def _earliest_times(steps: Sequence[StepType], config: NpuConfig, memory: Memory) -> tuple[list[int], list[int]]:
    """The cycles at which the steps could start and end, in their order."""
    instructions = synchronise([step.instruction for step in steps], config)
    prediction = predict(instructions, config, memory, dispatch=False)
    kept = [index for index, instruction in enumerate(instructions) if not isinstance(instruction, Wait | Fence)]
    return prediction.start[kept].tolist(), prediction.end[kept].tolist()


def _when_taken(instructions: Sequence[Instruction], prediction: Prediction, config: NpuConfig) -> list[int]:
    """The starts, but for loads no earlier than when their unit and its queue have room for them: one that comes
    earlier holds up all instructions behind it."""
    starts = prediction.start.tolist()
    held = Timing().in_flight + config.queue_depth
    loads = [index for index, instruction in enumerate(instructions) if isinstance(instruction, Load)]
    for before, index in zip(loads, loads[held:], strict=False):
        starts[index] = max(starts[index], int(prediction.end[before]))
    return starts


class _Keys:
    """Sort keys of a synchronised stream: the starts, but never before what an instruction depends on.

    An instruction depends on the ones before it in its units, on what it waits for, on its source, and (a
    lane program) on the post-process that frees its accumulators. A window goes to its post-process, because
    it must not run ahead of it in the stream.
    """

    def __init__(self, config: NpuConfig, starts: Sequence[int]):
        self._starts = starts
        self._keys: list[int] = []
        self._least = [0] * len(Unit)
        self._issued: list[list[int]] = [[] for _ in Unit]
        self._tiles: list[deque[int]] = [deque() for _ in range(config.lanes)]
        self._freed: list[deque[int]] = [deque([0, 0]) for _ in range(config.lanes)]
        self._open = [False] * config.lanes

    def of(self, instructions: Iterable[Instruction]) -> list[int]:
        """The keys of all instructions but waits and fences."""
        for index, instruction in enumerate(instructions):
            if isinstance(instruction, Wait):
                self._wait(instruction)
            elif isinstance(instruction, Fence):
                self._least = [max(self._keys)] * len(Unit)
            elif isinstance(instruction, Bundle):
                self._begin_bundle()
            else:
                self._add(instruction, self._starts[index])
        return self._keys

    def _wait(self, wait: Wait) -> None:
        given = [len(issued) for issued in self._issued]
        indices = [self._issued[unit][count - 1] for unit, count in awaited(wait, given)]
        for unit in units_of_mask(wait.targets):
            self._least[unit] = max(self._least[unit], *(self._keys[index] for index in indices))

    def _begin_bundle(self) -> None:
        """A bundle begins behind all that is before it, and nothing of it but loads is in front.

        Loads that are used before it stand before their users, and so before it.
        """
        begin = max(least for unit, least in zip(Unit, self._least, strict=True) if unit is not Unit.LOAD)
        self._keys.append(begin)
        self._least = [least if unit is Unit.LOAD else begin for unit, least in zip(Unit, self._least, strict=True)]

    def _add(self, instruction: Instruction, start: int) -> None:
        index = len(self._keys)
        units = instruction.units()
        key = max(start, *(self._least[unit] for unit in units), *self._sources(instruction))
        self._keys.append(key)
        for unit in units:
            self._issued[unit].append(index)
            self._least[unit] = key
        if isinstance(instruction, LaneProgram):
            for lane in lanes_of_mask(instruction.lanes):
                self._open[lane] = bool(instruction.partial)
                if not instruction.partial:
                    self._tiles[lane].append(key)
        elif isinstance(instruction, PostProcess) and instruction.source is Source.LANES:
            for lane in lanes_of_mask(instruction.lanes):
                self._freed[lane].append(key)
        elif isinstance(instruction, PostProcess):
            window = Unit.window(instruction.slice)
            self._keys[self._issued[window][-1]] = self._least[window] = key

    def _sources(self, instruction: Instruction) -> Iterator[int]:
        """Keys of what hands tiles or accumulators over to an instruction."""
        if isinstance(instruction, LaneProgram):
            lanes = lanes_of_mask(instruction.lanes)
            yield from (self._freed[lane].popleft() for lane in lanes if not self._open[lane])
        elif isinstance(instruction, PostProcess) and instruction.source is Source.LANES:
            yield from (self._tiles[lane].popleft() for lane in lanes_of_mask(instruction.lanes))
        elif isinstance(instruction, PostProcess):
            yield self._least[Unit.window(instruction.slice)]
