"""The planner's model of the machine: how long a bundle takes, and what of its loads can run ahead.

A bundle ends when the longest of its slots has ended, the post-processing unit has done its words, and what it loads
has come. A slot begins when the results that it reads are complete, and its tasks follow one another; one that reads
the result of another of the slot waits for it. So the latency of a result costs nothing while something else runs.

With prefetch the DMA never rests while the weight banks have room: it is ``ahead`` by the bytes that it has loaded for
the bundles to come. It loads in their order, so that one whose weights do not fit the banks holds back the loads behind
it. Without prefetch, the loads of a bundle begin when the bundle before has ended, its results included.

All is integer arithmetic: the bandwidth is a fraction, and bytes are counted in units of one over its denominator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from tessera.compiler.planning.tasks import Task
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import PPU_SLICES
from tessera.sim.cycles import Memory

MAX_SLOTS = 4
"""Slots of a bundle."""

MAX_CONTEXTS = 4
"""Jobs that may be in progress at a time: the contexts of the hardware."""

LANE_COUNTS = (1, 2, 4)
"""Lanes that a slot may have."""


@dataclass(frozen=True)
class Machine:
    """What the planner knows of the NPU and its memory.

    Attributes
    ----------
    bytes_per_cycle
        Bandwidth of the DRAM.
    start_up
        Cycles from asking for something until the first of it can be computed with.
    lanes
        Lanes in all.
    weight_bank_bytes
        Bytes of each lane's weight bank.
    capacity_words
        Words of each lane's activation bank that tensors and buffers may take together.
    """

    bytes_per_cycle: float = 16.0
    start_up: int = 64
    lanes: int = 4
    weight_bank_bytes: int = 16 * 1024
    capacity_words: int = 8192

    @classmethod
    def of(cls, config: NpuConfig, memory: Memory | None = None, capacity_words: int | None = None) -> Machine:
        """The machine of a configuration; ``capacity_words`` if a plan is to use less than the banks hold."""
        memory = memory or Memory()
        return cls(
            bytes_per_cycle=memory.bytes_per_cycle or config.beat_bytes,
            start_up=memory.latency + config.weight_block_beats * config.lanes,
            lanes=config.lanes,
            weight_bank_bytes=config.weight_bank_bytes,
            capacity_words=config.activation_words if capacity_words is None else capacity_words,
        )

    @cached_property
    def bandwidth(self) -> Fraction:
        """Bytes per cycle, with a denominator that keeps the arithmetic small, and the slowest memory above 0."""
        return Fraction(self.bytes_per_cycle).limit_denominator(256)

    @property
    def byte(self) -> int:
        """Units of traffic in a byte; ``bandwidth.numerator`` of them move in a cycle."""
        return self.bandwidth.denominator

    @cached_property
    def ahead_limit(self) -> int:
        """Units that fit the weight banks."""
        return self.lanes * self.weight_bank_bytes * self.byte


def traffic_of(task: Task, machine: Machine) -> int:
    """Units of bytes of a task; loads that take longer than their bytes count as the bytes that would take as long."""
    return max(task.dram_bytes * machine.byte, task.transfer_cycles * machine.bandwidth.numerator)


class SlotWork(NamedTuple):
    """What a slot does, seen from the job's progress before it.

    Results are known by codes, which number the operations of all inferences of all jobs.
    """

    job: int
    """Index of the job."""
    lanes: int
    """Lanes of the slot."""
    codes: tuple[int, ...]
    """Its tasks, in their order."""
    cycles: int
    """From its start to the end of its last task."""
    last_start: int
    """From its start to the start of its last task."""
    traffic: int
    """Units of bytes that it moves."""
    post_cycles: int
    """Cycles that it takes of the post-processing slices, in all."""
    bank_bytes: int
    """Bytes that it loads into the weight bank with the most."""
    needs: frozenset[int]
    """Results that it reads and does not make."""
    tails: tuple[tuple[int, int], ...]
    """Of each result that is not complete when the slot ends: its code, and how many cycles later it is."""
    target: int
    """The job's state after it, if nothing else of the job runs beside it."""
    words: int
    """Words that the job's tensors and buffers take while it runs."""


class BundleWork(NamedTuple):
    """Slots that run at the same time, with what they take together."""

    slots: tuple[SlotWork, ...]
    targets: tuple[int, ...]
    """State of every job after it."""
    finished: tuple[int, ...]
    """Indices of the jobs that end with it."""
    arrival: int
    """Cycle before which not all of its jobs are there."""
    traffic: int
    """Units of bytes that it moves."""
    post: int
    """Cycles that it takes of the post-processing unit."""
    reach: int
    """Units that can have been loaded when it begins, for it and for what comes after it."""


class Moment(NamedTuple):
    """Between two bundles."""

    time: int
    """In cycles."""
    ahead: int
    """Units of bytes that have been loaded for the bundles to come."""
    pending: tuple[tuple[int, int], ...]
    """Results of ended tasks that are not complete yet: code, and the cycle at which they are."""


def bundle_work(
    machine: Machine,
    slots: Sequence[SlotWork],
    targets: tuple[int, ...],
    finished: tuple[int, ...] = (),
    arrival: int = 0,
) -> BundleWork:
    """Adds up what slots take together."""
    traffic = sum(slot.traffic for slot in slots)
    fullest, bank = max(slot.bank_bytes for slot in slots), machine.weight_bank_bytes
    # Whole bytes: loads ahead of a bundle are bounded by its own share of a bank, or by what it leaves of the banks.
    beyond = machine.lanes * (bank - fullest) * machine.byte
    own = traffic // machine.byte * bank // max(fullest, 1) * machine.byte
    reach = traffic + beyond if fullest <= bank else own
    post = -(-sum(slot.post_cycles for slot in slots) // PPU_SLICES)
    return BundleWork(tuple(slots), targets, finished, arrival, traffic, post, reach)


def begin(machine: Machine, start: int, prefetch: bool) -> Moment:
    """The moment before the first bundle of a plan that starts at the cycle ``start``."""
    return Moment(start + machine.start_up if prefetch else start, 0, ())


def advance(machine: Machine, moment: Moment, work: BundleWork, prefetch: bool) -> tuple[int, Moment, tuple[int, ...]]:
    """Runs a bundle.

    Returns
    -------
    tuple
        The cycle at which it begins, the moment after it, and for each slot the cycle at which its last result is
        complete.
    """
    return _with_prefetch(machine, moment, work) if prefetch else _without_prefetch(machine, moment, work)


def _with_prefetch(machine: Machine, moment: Moment, work: BundleWork) -> tuple[int, Moment, tuple[int, ...]]:
    time, ahead, pending = moment
    rate, limit = machine.bandwidth.numerator, machine.ahead_limit
    start = work.arrival if work.arrival > time else time
    if start > time:
        ahead = min(limit, ahead + rate * (start - time))
    if ahead > work.reach:
        ahead = work.reach
    least = max(work.post, -((ahead - work.traffic) // rate))  # cycles until the last load has come, rounded up
    end = start + least
    ends = []
    for slot in work.slots:
        begins = start
        for code, ready in pending:
            if ready > begins and code in slot.needs:
                begins = ready
        slot_end = max(begins + slot.cycles, start + least)
        ends.append(slot_end)
        if slot_end > end:
            end = slot_end
    complete = tuple(slot_end + (slot.tails[-1][1] if slot.tails else 0) for slot, slot_end in zip(work.slots, ends))
    late = [item for item in pending if item[1] > end]
    for slot, slot_end in zip(work.slots, ends):
        late += [(code, slot_end + tail) for code, tail in slot.tails if slot_end + tail > end]
    return start, Moment(end, min(limit, ahead + rate * (end - start) - work.traffic), tuple(late)), complete


def _without_prefetch(machine: Machine, moment: Moment, work: BundleWork) -> tuple[int, Moment, tuple[int, ...]]:
    start = max(moment.time, work.arrival)
    loads = -(-work.traffic // machine.bandwidth.numerator)
    begins = start + machine.start_up
    ends = [
        max(begins + slot.cycles, begins + work.post, begins + loads) + (slot.tails[-1][1] if slot.tails else 0)
        for slot in work.slots
    ]
    return start, Moment(max(ends), 0, ()), tuple(ends)
