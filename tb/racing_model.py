"""Executes a stream in a random order that the machine's rules allow, instead of in stream order.

A stream whose waits are sufficient gives the same result in every such order. Instructions are atomic here;
what is random is which unit goes on next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    TOKEN_BITS,
    End,
    Fence,
    Instruction,
    LaneProgram,
    PostProcess,
    Source,
    Unit,
    Wait,
    Window,
    lanes_of_mask,
    units_of_mask,
)
from tessera.sim.stream import StreamModel


class DeadlockError(RuntimeError):
    """No unit can go on, but the stream has not ended."""


class RacingModel(StreamModel):
    """A stream model whose units run concurrently, in an order that ``rng`` chooses.

    Parameters
    ----------
    config
        Sizes of the NPU; its ``queue_depth`` is respected.
    rng
        Source of randomness.
    """

    def __init__(self, config: NpuConfig, rng: np.random.Generator):
        super().__init__(config)
        self._rng = rng
        self._queues: dict[Unit, deque[Instruction]] = {unit: deque() for unit in Unit}
        self._counts = dict.fromkeys(Unit, 0)

    def execute(self, stream: Sequence[Instruction], indices: Sequence[int] | None = None) -> None:
        """Executes a stream; raises `DeadlockError` if it stops."""
        waiting = deque(stream)
        favourite = dict(zip(Unit, self._rng.random(len(Unit)), strict=True))
        while waiting or any(self._queues.values()):
            choices = [unit for unit in Unit if self._queues[unit] and self._can_go(unit)]
            if waiting and self._can_dispatch(waiting[0]) and (not choices or self._rng.random() < 0.5):
                self._dispatch(waiting.popleft())
            elif choices:
                if self._rng.random() < 0.05:
                    favourite = dict(zip(Unit, self._rng.random(len(Unit)), strict=True))
                self._go(max(choices, key=lambda unit: favourite[unit]))
            else:
                raise DeadlockError(f"{len(waiting)} instructions have not been dispatched")

    def _can_dispatch(self, instruction: Instruction) -> bool:
        if isinstance(instruction, Fence | End):
            return not any(self._queues.values())
        if isinstance(instruction, Wait) and not instruction.targets:
            return self._is_over(instruction)
        return all(len(self._queues[unit]) < self.config.queue_depth for unit in instruction.units())

    def _dispatch(self, instruction: Instruction) -> None:
        for unit in instruction.units():
            self._queues[unit].append(instruction)

    def _can_go(self, unit: Unit) -> bool:
        instruction = self._queues[unit][0]
        if isinstance(instruction, Wait):
            return self._is_over(instruction)
        if isinstance(instruction, LaneProgram):
            return len(self.tiles[unit - Unit.LANE0]) < 2
        if isinstance(instruction, Window):
            return not self.windows[instruction.slice]
        if isinstance(instruction, PostProcess) and instruction.source is Source.LANES:
            return all(self.tiles[lane] for lane in lanes_of_mask(instruction.lanes))
        if isinstance(instruction, PostProcess):
            return bool(self.windows[instruction.slice])
        return True

    def _is_over(self, wait: Wait) -> bool:
        return all(
            (self._counts[source] - wait.counts[source]) % (1 << TOKEN_BITS) < 1 << (TOKEN_BITS - 1)
            for source in units_of_mask(wait.sources)
        )

    def _go(self, unit: Unit) -> None:
        instruction = self._queues[unit].popleft()
        if isinstance(instruction, LaneProgram):
            self.compute_tile(instruction, unit - Unit.LANE0)
        else:
            self.step(instruction)
        self._counts[unit] += instruction.tokens().get(unit, 0)
