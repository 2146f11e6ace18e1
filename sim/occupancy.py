"""For how long instructions keep their units, from when each of them ended."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Fence, Instruction, LaneProgram, PostProcess, Unit, Wait, units_of_mask
from tessera.sim.cycles import Timing
from tessera.sim.footprint import step_words, weight_steps
from tessera.sim.ordering import StreamOrder


def starts(instructions: Sequence[Instruction], config: NpuConfig, ends: Sequence[int]) -> list[int]:
    """The cycle from which each instruction of a stream kept its units.

    An instruction counts as started when its units had completed the one before, and what they were told to wait for.
    What it got from another unit by a hand-over (tiles, freed accumulators) it did not wait for in this sense: that is
    part of the time for which it kept its units.

    Parameters
    ----------
    instructions, config
        The stream and the machine.
    ends
        For each instruction the cycle, since the start of the stream, in which it had finished; those of waits, fences
        and the end do not count.
    """
    order = StreamOrder(config, hazards=False)
    completed: list[list[int]] = [[0] for _ in Unit]
    ready = [0] * len(Unit)
    found = []
    for instruction, end in zip(instructions, ends, strict=True):
        order.append(instruction)
        units = () if isinstance(instruction, Wait) else instruction.units()
        found.append(max((ready[unit] for unit in units), default=0))
        for unit in units:
            # Nothing of a unit ends before what it has taken earlier.
            ready[unit] = max(int(end), completed[unit][-1])
            completed[unit].append(ready[unit])
        if isinstance(instruction, Wait):
            awaited = max((completed[unit][count] for unit, count in order.resolve(instruction)), default=0)
            for unit in units_of_mask(instruction.targets):
                ready[unit] = max(ready[unit], awaited)
        elif isinstance(instruction, Fence):
            ready = [max(ready)] * len(Unit)
    return found


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
