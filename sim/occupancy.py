"""For how long instructions keep their units, from when each of them ended."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Advance, Fence, Instruction, LaneProgram, Load, PostProcess, Unit, Wait, units_of_mask
from tessera.sim.cycles import Timing
from tessera.sim.footprint import step_words, weight_steps
from tessera.sim.ordering import StreamOrder
from tessera.sim.transfers import row_bytes


def starts(instructions: Sequence[Instruction], config: NpuConfig, ends: Sequence[int]) -> list[int]:
    """The cycle from which each instruction of a stream kept its units.

    An instruction counts as started when its units had completed the one before and what they were told to wait for,
    and when it can have been handed to them: an instruction that waits in a full queue holds back those behind it. What
    it got from another unit by a hand-over (tiles, freed accumulators) it did not wait for in this sense: that is part
    of the time for which it kept its units.

    Parameters
    ----------
    instructions, config
        The stream and the machine.
    ends
        For each instruction the cycle, since the start of the stream, in which it had finished; those of waits, fences
        and the end do not count.
    """
    order = StreamOrder(config, hazards=False)
    dispatch = _Dispatch(config)
    completed: list[list[int]] = [[0] for _ in Unit]
    ready = [0] * len(Unit)
    found = []
    for instruction, end in zip(instructions, ends, strict=True):
        order.append(instruction)
        handed = dispatch.push(instruction)
        units = instruction.workers()
        found.append(max((max(ready[unit], handed) for unit in units), default=0))
        for unit in units:
            dispatch.take(unit, instruction, completed[unit])
            # Nothing of a unit ends before what it has taken earlier.
            ready[unit] = max(int(end), completed[unit][-1])
            completed[unit].append(ready[unit])
        if isinstance(instruction, Wait):
            awaited = max((completed[unit][count] for unit, count in order.resolve(instruction)), default=0)
            for unit in units_of_mask(instruction.targets):
                ready[unit] = max(ready[unit], awaited)
                dispatch.wait(unit, awaited)
            if not instruction.targets:
                dispatch.hold(awaited)
        elif isinstance(instruction, Advance):
            for unit, tokens in instruction.tokens().items():
                completed[unit] += [completed[unit][-1]] * tokens
                dispatch.wait(unit, 0)
        elif isinstance(instruction, Fence):
            ready = [max(ready)] * len(Unit)
    return found


class _Dispatch:
    """When the sequencer can have handed out each instruction at the earliest: in their order, and when the queues had
    room. What it waited for besides, such as the fetch, is not known."""

    def __init__(self, config: NpuConfig):
        self._config = config
        self._handed = 0
        self._taken = [deque([0] * (config.queue_depth + 1), config.queue_depth + 1) for _ in Unit]
        self._loaded: list[int] = [0]  # beats of all loads up to each

    def push(self, instruction: Instruction) -> int:
        """The cycle for the next instruction."""
        units = instruction.units()
        self._handed = max([self._handed, *(self._taken[unit][0] for unit in units)])
        return self._handed

    def take(self, unit: Unit, instruction: Instruction, completed: Sequence[int]) -> None:
        """A unit takes an instruction from its queue: after the one before, and when few enough are under way."""
        least = completed[-Timing.in_flight] if len(completed) > Timing.in_flight else 0
        if isinstance(instruction, Load):
            # The load before the previous one has asked for its last beat, so all but these have come.
            asked = self._loaded[-2] if len(self._loaded) > 1 else 0
            least = max(least, self._arrival(asked - Timing.load_outstanding, completed))
            row_beats = -(-row_bytes(instruction, self._config) // self._config.beat_bytes)
            self._loaded.append(self._loaded[-1] + instruction.rows * instruction.planes * row_beats)
        self._taken[unit].append(max(self._handed + Timing.queue, self._taken[unit][-1] + 1, least + 1))

    def _arrival(self, beats: int, completed: Sequence[int]) -> int:
        """When so many beats had come at the earliest, from the ends of the loads: evenly during each."""
        index = bisect_right(self._loaded, beats) - 1
        if index < 0 or index + 1 >= len(completed):
            return 0
        before, after = self._loaded[index], self._loaded[index + 1]
        cycles = completed[index + 1] - completed[index]
        return completed[index] + cycles * (beats - before) // (after - before)

    def hold(self, awaited: int) -> None:
        """The sequencer itself has waited."""
        self._handed = max(self._handed, awaited + Timing.end)

    def wait(self, unit: Unit, awaited: int) -> None:
        """A wait leaves a unit's queue when what it waits for has completed."""
        self._taken[unit].append(max(self._handed + 1, self._taken[unit][-1], awaited + Timing.token))


def lane_cycles(program: LaneProgram, config: NpuConfig) -> int:
    """Cycles for which a lane program keeps its lanes from the next one, if nothing keeps it waiting."""
    return weight_steps(program) * max(step_words(program), config.rows)


def post_cycles(post: PostProcess, positions: int, config: NpuConfig) -> int:
    """Cycles for which a post-process keeps its slice from the next one, if its sums are there in time.

    Parameters
    ----------
    post
        The instruction.
    positions
        Values that the window reader takes for each of its pixels; 1 if the sums come from lanes.
    config
        The machine.
    """
    timing = Timing()
    pixels = post.tile_height * post.tile_width
    parameters = timing.parameters_free + timing.parameters + config.parameter_block_beats
    return max(pixels * positions, pixels + parameters - 1)
