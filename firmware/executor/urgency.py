"""Which request goes first: its priority, and what waiting and a deadline add to it."""

from __future__ import annotations

import math

from tessera.firmware.executor.settings import Ageing


def urgency(
    ageing: Ageing, priority: float, now: int, arrival: int, deadline: int | None = None, alone: int = 0
) -> float:
    """The priority as it counts, see `Ageing`.

    Parameters
    ----------
    ageing
        The rule.
    priority
        As it was given.
    now, arrival, deadline
        Cycles on one clock.
    alone
        Cycles that what is left takes alone.
    """
    factor = 1.0
    if ageing.waiting:
        # Waiting counts in whole steps, so that what was planned stays right between them.
        factor = min(ageing.limit, 2.0 ** min(64, max(0, now - arrival) // ageing.waiting))
    if deadline is not None and now < deadline <= now + ageing.slack * alone:
        factor *= ageing.urgent
    return priority * factor


def next_raise(ageing: Ageing, now: int, arrival: int, deadline: int | None = None, alone: int = 0) -> int | None:
    """The next cycle at which `urgency` rises; ``None`` if it does not any more."""
    found = []
    if ageing.waiting:
        steps = max(0, now - arrival) // ageing.waiting + 1
        if steps <= math.log2(ageing.limit):
            found.append(arrival + steps * ageing.waiting)
    if deadline is not None:
        found.append(math.ceil(deadline - ageing.slack * alone))
    return min((cycle for cycle in found if cycle > now), default=None)
