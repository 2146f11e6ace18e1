"""What the executor is asked for, and what it answers."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tessera.compiler.planning.faults import Fault
from tessera.firmware.executor.errors import ExecutorError
from tessera.firmware.executor.networks import PreparedNetwork
from tessera.sim.counts import Counts
from tessera.sim.windows import MemoryWindow


@dataclass(frozen=True, eq=False)
class Request:
    """A network that is to run on some samples.

    Attributes
    ----------
    name
        Its name, unlike those of the other requests.
    network
        Name of the network.
    inputs
        For each inference the arrays (C, H, W) of its inputs by name: integers, or real numbers where they are floating
        point in DRAM.
    priority
        Its weight where requests conflict; larger goes first.
    arrival
        Cycle at which it comes; at once if that is over.
    deadline
        Cycle at which it should have ended; ``None`` for none.
    """

    name: str
    network: str
    inputs: Sequence[Mapping[str, np.ndarray]]
    priority: float = 1.0
    arrival: int = 0
    deadline: int | None = None


class Status(enum.Enum):
    """What became of a request."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether it will not change any more."""
        return self not in (Status.WAITING, Status.RUNNING)


@dataclass
class RequestResult:
    """What became of a request; times are cycles of the bus.

    Attributes
    ----------
    name
        Its name.
    status
        How far it is.
    arrival, started, ended
        When it came, when a plan with it was started first, and when it was over.
    outputs
        For each inference the arrays (C, H, W) of its outputs by name, or ``None`` if there are none.
    completions
        For each inference when its outputs were complete, or ``None``.
    variants
        For each inference the network that made its outputs: another than the request's if a fault was answered with
        other scales or depths.
    reason
        Why it failed, in a sentence.
    deadline
        The request's.
    """

    name: str
    status: Status
    arrival: int
    started: int | None = None
    ended: int | None = None
    outputs: list[Mapping[str, np.ndarray] | None] = field(default_factory=list)
    completions: list[int | None] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    reason: str = ""
    deadline: int | None = None

    @property
    def missed(self) -> bool:
        """Whether it ended after its deadline."""
        return self.ended is not None and self.deadline is not None and self.ended > self.deadline

    @property
    def latency(self) -> int | None:
        """Cycles from its arrival to its end."""
        return None if self.ended is None else self.ended - self.arrival


@dataclass(eq=False)
class Work:
    """Inferences of a request that are planned together: all of them, or those that must run again.

    Attributes
    ----------
    name
        Name of the job that it is in plans.
    request
        The request.
    network
        The network, or a variant of it.
    samples
        Which of the request's inferences they are.
    priority
        The request's, which may change.
    result
        What is told of the request.
    place
        Its place in DRAM, while it has one.
    packed
        The bytes of the inputs of each inference, by name.
    written
        Of how many inferences, from the first, they are there.
    collected
        Its inferences, by their number in the work, whose outputs are there.
    failed
        It cannot go on: its context has failed.
    suspect
        It may have stopped the stream, and is run alone.
    blocked
        There was no memory for it, so that it waits until some is given back.
    retired
        Places in DRAM that were its, and are not to be given out while it runs.
    attempts
        How often each of the request's inferences was repeated because of each fault.
    counts
        What was counted of the inference in progress, by operation.
    """

    name: str
    request: Request
    network: PreparedNetwork
    samples: tuple[int, ...]
    priority: float
    result: RequestResult
    packed: list[dict[str, bytes]]
    place: MemoryWindow | None = None
    written: int = 0
    collected: set[int] = field(default_factory=set)
    failed: bool = False
    suspect: bool = False
    blocked: bool = False
    retired: list[MemoryWindow] = field(default_factory=list)
    attempts: Counter[tuple[Fault, int]] = field(default_factory=Counter)
    counts: dict[str, Counts] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.failed or self.result.status.over or len(self.collected) == len(self.samples)

    @property
    def open_samples(self) -> list[int]:
        """The request's inferences of which the work has no outputs yet."""
        return [sample for index, sample in enumerate(self.samples) if index not in self.collected]


def check_request(request: Request) -> None:
    """Refuses what makes no sense.

    Raises
    ------
    ExecutorError
        No inference, a priority that is no positive number, an arrival before the beginning, or a deadline before the
        arrival.
    """
    if not (math.isfinite(request.priority) and request.priority > 0):
        raise ExecutorError(f"request {request.name!r} has the priority {request.priority}; give a positive number")
    if request.arrival < 0:
        raise ExecutorError(f"request {request.name!r} arrives at cycle {request.arrival}; give 0 or more")
    if request.deadline is not None and request.deadline <= request.arrival:
        raise ExecutorError(
            f"request {request.name!r} has its deadline at cycle {request.deadline}, but arrives at {request.arrival}; "
            "give a later deadline"
        )
    if not request.inputs:
        raise ExecutorError(f"request {request.name!r} has no samples; give the inputs of at least one inference")


def make_work(
    request: Request,
    result: RequestResult,
    network: PreparedNetwork,
    samples: Sequence[int],
    *,
    name: str = "",
    priority: float | None = None,
) -> Work:
    """The work of some inferences of a request, on its network or a variant of it; raises as `pack_inputs`."""
    chosen = priority if priority is not None else request.priority
    packed = pack_inputs(request, network, samples)
    return Work(name or request.name, request, network, tuple(samples), chosen, result, packed)


def pack_inputs(request: Request, network: PreparedNetwork, samples: Iterable[int]) -> list[dict[str, bytes]]:
    """The bytes of the inputs of some inferences, as they are in DRAM.

    Raises
    ------
    ExecutorError
        An input is missing or unknown, or its values have another shape or do not fit.
    """
    tensors, names = network.tensors, network.mapped.network.inputs
    packed = []
    for index in samples:
        sample = request.inputs[index]
        what = f"sample {index} of request {request.name!r}"
        if sample.keys() != set(names):
            raise ExecutorError(
                f"{what} has the inputs {', '.join(sorted(sample)) or 'none'}, but network {request.network!r} has "
                f"{', '.join(sorted(names))}; give exactly these"
            )
        try:
            packed.append({name: tensors[name].pack(sample[name], network.config) for name in names})
        except ValueError as error:
            raise ExecutorError(f"{what} does not fit network {request.network!r}: {error}") from None
    return packed
