"""What the executor knows: requests, memory, and how far everything is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tessera.compiler.lowering.plan_memory import START, ChipState
from tessera.firmware.executor.dram import DramAllocator
from tessera.firmware.executor.history import Executed
from tessera.firmware.executor.log import EventLog
from tessera.firmware.executor.networks import PreparedNetwork
from tessera.firmware.executor.requests import RequestResult, Status, Work
from tessera.firmware.executor.segment import alone_cycles, without
from tessera.firmware.executor.settings import Settings
from tessera.firmware.executor.urgency import next_raise, urgency
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import Memory


@dataclass
class ExecutorState:
    """What the parts of the executor share.

    Attributes
    ----------
    config, settings
        The machine, and how it is decided.
    dram
        Which parts of the DRAM are taken.
    memory
        The DRAM as plans see it: that of the settings, or slower if it was found to be.
    log, results
        What is told to the user.
    networks
        Loaded networks and variants of them, by name.
    works
        What has arrived and is not over.
    chip
        What is on chip.
    now
        The last known cycle of the bus's clock.
    changed
        Something has happened that the plan that runs does not know of.
    executed
        What has run, if the bus can tell.
    """

    config: NpuConfig
    settings: Settings
    dram: DramAllocator
    memory: Memory
    log: EventLog = field(default_factory=EventLog)
    results: dict[str, RequestResult] = field(default_factory=dict)
    networks: dict[str, PreparedNetwork] = field(default_factory=dict)
    works: list[Work] = field(default_factory=list)
    chip: ChipState = START
    now: int = 0
    changed: bool = False
    executed: list[Executed] = field(default_factory=list)

    def add_event(self, kind: str, request: str = "", reason: str = "", **values: object) -> None:
        """Adds to the log what happens now."""
        self.log.add(self.now, kind, request, reason, **values)

    def urgency_of(self, work: Work) -> float:
        """A work's priority as it counts now."""
        deadline = work.request.deadline
        left = alone_cycles(work, self.chip) if deadline is not None else 0
        return urgency(self.settings.ageing, work.priority, self.now, work.result.arrival, deadline, left)

    def next_raise(self) -> int | None:
        """The next cycle at which a work becomes more urgent; ``None`` if none does, or there is only one."""
        if len(self.works) < 2:
            return None
        cycles = []
        for work in self.works:
            deadline = work.request.deadline
            left = alone_cycles(work, self.chip) if deadline is not None else 0
            cycles.append(next_raise(self.settings.ageing, self.now, work.result.arrival, deadline, left))
        return min((cycle for cycle in cycles if cycle is not None), default=None)

    def urgencies(self) -> dict[str, float]:
        """How urgent each request is."""
        return {work.request.name: self.urgency_of(work) for work in self.works if not work.over}

    def by_urgency(self) -> list[Work]:
        """The works, the most urgent first."""
        return sorted(self.works, key=lambda each: (-self.urgency_of(each), each.result.arrival, each.name))

    def end(self, result: RequestResult, status: Status, reason: str = "") -> None:
        """Notes that a request is over."""
        if not result.status.over:
            result.status, result.ended, result.reason = status, self.now, reason
            self.add_event(
                "ended", result.name, reason or "all outputs are there", status=status.value, missed=result.missed
            )

    def release(self) -> None:
        """Takes back the memory of what is over."""
        over = [work for work in self.works if work.over]
        for work in over:
            self.works.remove(work)
            self.give_back(work)
        for work in self.works if over else ():
            work.blocked = False

    def give_back(self, work: Work) -> None:
        """Takes back a work's DRAM, and forgets what it has done of the inference in progress."""
        self.chip = without(self.chip, work.name)
        for place in (*work.retired, *([] if work.place is None else [work.place])):
            self.dram.release(place)
        work.retired.clear()
        work.place, work.written = None, 0

    def restart(self, work: Work, reason: str) -> bool:
        """Forgets what a work has on chip, if anything: an inference that has begun begins again."""
        begun = {name.inference for name in self.chip.live if name.job == work.name}
        begun |= {task.inference for task in self.chip.done if task.job == work.name} - work.collected
        for inference in begun:
            self.chip = without(self.chip, work.name, inference)
        if begun:
            work.counts.clear()
            self.add_event("restarted", work.request.name, reason, inferences=sorted(begun))
        return bool(begun)


def usage(state: ExecutorState) -> Mapping[str, int]:
    """What is taken of the memories, for the log: bytes of DRAM, and words of each activation bank at most."""
    names = {work.name: work.network.mapped for work in state.works}
    lanes = range(state.config.lanes)
    words = [
        sum(
            names[each.job].storage.words(each.name)
            for each, where in state.chip.live.items()
            if where.lanes >> lane & 1 and each.job in names
        )
        for lane in lanes
    ]
    return {"dram_bytes": state.dram.taken, "bank_words": max(words)}
