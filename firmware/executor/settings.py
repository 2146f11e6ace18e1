"""How the executor decides."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tessera.compiler.planning.objective import Objective
from tessera.compiler.planning.schedulers import DEFAULT
from tessera.sim.cycles import DEFAULT_MEMORY, Memory


class Preemption(enum.Enum):
    """What a change, as the arrival of a request, does to a plan that runs."""

    BUNDLE = "bundle"
    """The plan is paused at its next bundle, and the rest is planned again. With the scheduler ``serial``, whose
    bundles are single operations, an arrival waits for the operation that runs."""
    NONE = "none"
    """The plan runs to its end: an arrival waits for the networks that run."""


@dataclass(frozen=True)
class Ageing:
    """When a request is raised: its priority counts more than it was given.

    A request's priority counts twice as much for each ``waiting`` cycles since its arrival, up to ``limit`` times as
    much. When less than ``slack`` times the cycles that the rest of it takes alone are left until its deadline, it
    counts ``urgent`` times more; no longer, when the deadline is over.

    Attributes
    ----------
    waiting
        In cycles; ``None``: waiting does not raise it.
    limit, slack, urgent
        Factors.
    """

    waiting: int | None = 1_000_000
    limit: float = 64.0
    slack: float = 2.0
    urgent: float = 16.0


@dataclass(frozen=True)
class Settings:
    """How the executor decides.

    Attributes
    ----------
    scheduler, objective
        How plans are made; the objective counts priorities with `Ageing`.
    preemption
        What changes do to a plan that runs.
    ageing
        When requests are raised.
    inferences_ahead
        Inferences of a request that a plan has at most.
    memory
        The DRAM that plans are made for.
    poll_cycles
        Cycles after which the executor looks for requests that other tasks of the host have made meanwhile; a request
        with an arrival to come, or a change at a cycle, is seen at that cycle.
    timeout_cycles
        Cycles after which a stream that still moves is given up.
    watchdog_cycles
        Cycles without progress after which the NPU stops a stream, at least; 0 for never.
    slower, more
        A stretch of a plan that took more than ``slower`` times the planned cycles, or moved more than ``more`` times
        the planned bytes, makes the executor adapt what follows.
    """

    scheduler: str = DEFAULT
    objective: Objective = Objective.WEIGHTED_COMPLETION
    preemption: Preemption = Preemption.BUNDLE
    ageing: Ageing = Ageing()
    inferences_ahead: int = 4
    memory: Memory = DEFAULT_MEMORY
    poll_cycles: int = 100_000
    timeout_cycles: int = 1_000_000_000
    watchdog_cycles: int = 1 << 20
    slower: float = 1.25
    more: float = 1.25
