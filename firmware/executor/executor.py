"""The executor: takes requests, plans them, runs the plans, and plans again when something changes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tessera.compiler.planning import SCHEDULERS, Job, Machine, Workload
from tessera.compiler.planning.profile_database import ProfileDatabase
from tessera.compiler.planning.workload import check_workload
from tessera.firmware.bus import TimedBus
from tessera.firmware.driver import Npu, NpuStuckError, Phase
from tessera.firmware.executor.admission import displaces, next_segment
from tessera.firmware.executor.answers import FaultDesk
from tessera.firmware.executor.dram import DramAllocator
from tessera.firmware.executor.errors import ExecutorError
from tessera.firmware.executor.history import Executed
from tessera.firmware.executor.log import EventLog
from tessera.firmware.executor.networks import PreparedNetwork
from tessera.firmware.executor.requests import Request, RequestResult, Status, Work, check_request, make_work
from tessera.firmware.executor.runner import Runner
from tessera.firmware.executor.segment import Segment
from tessera.firmware.executor.settings import Settings
from tessera.firmware.executor.state import ExecutorState
from tessera.firmware.executor.tracking import Tracker
from tessera.rtl.config import NpuConfig
from tessera.sim.windows import MemoryWindow


@dataclass(order=True)
class _Command:
    """Something to do at a cycle."""

    cycle: int
    number: int
    act: Callable[[], Awaitable[None] | None] = field(compare=False)


class Executor:
    """Runs requests for networks on an NPU.

    Times are cycles of the bus's clock. While `run` waits, other tasks of the host may submit and change requests.

    Parameters
    ----------
    bus
        The way to the NPU.
    config
        Its configuration.
    dram
        The part of the DRAM that the executor may use.
    settings
        How it decides.
    database
        Where measured durations and adaptations go, and earlier adaptations come from; of this configuration.
    """

    def __init__(
        self,
        bus: TimedBus,
        config: NpuConfig,
        dram: MemoryWindow,
        settings: Settings | None = None,
        database: ProfileDatabase | None = None,
    ):
        settings = settings or Settings()
        if settings.scheduler not in SCHEDULERS:
            raise ExecutorError(f"there is no scheduler {settings.scheduler!r}; take one of {', '.join(SCHEDULERS)}")
        self._state = ExecutorState(config, settings, DramAllocator(dram), settings.memory)
        self._bus, self._npu = bus, Npu(bus)
        self._desk = FaultDesk(self._state)
        tracker = Tracker(self._state, bus, self._npu, database)
        self._runner = Runner(self._state, bus, self._npu, self._desk, tracker, self._events)
        self._loaded: dict[str, PreparedNetwork] = {}
        self._submitted: dict[str, Work] = {}
        self._commands: list[_Command] = []
        self._numbers = itertools.count()
        self._next_raise: int | None = None

    @property
    def results(self) -> dict[str, RequestResult]:
        """What became of the requests, by name."""
        return self._state.results

    @property
    def log(self) -> EventLog:
        """What happened, and why."""
        return self._state.log

    @property
    def executed(self) -> list[Executed]:
        """What has run so far; empty if the bus cannot tell."""
        return self._state.executed

    @property
    def networks(self) -> dict[str, PreparedNetwork]:
        """The networks that made outputs, by name: those that were loaded, and variants of them."""
        return self._state.networks

    # ------------------------------------------------------------------------------------------------------- networks

    def load(self, network: PreparedNetwork) -> None:
        """Takes a network, for which requests can be made from now on.

        Raises
        ------
        ExecutorError
            It was made for another configuration, there is one of its name, or with those that are loaded it exceeds
            the DRAM, even if each runs one inference at a time.
        """
        if network.config != self._state.config:
            raise ExecutorError(
                f"network {network.name!r} was prepared for configuration {network.config.name!r}, but the NPU is "
                f"{self._state.config.name!r}; prepare it for that"
            )
        if network.name in self._loaded:
            raise ExecutorError(f"a network is named {network.name!r} already; unload it, or give another name")
        needs = {each.name: each.dram_bytes(1) + each.code_bytes for each in (*self._loaded.values(), network)}
        if sum(needs.values()) > self._state.dram.size:
            parts = ", ".join(f"{name!r} {size:,}" for name, size in needs.items())
            raise ExecutorError(
                f"the networks together need {sum(needs.values()):,} bytes of DRAM ({parts}), but there are "
                f"{self._state.dram.size:,}; unload one, or give the executor more"
            )
        self._loaded[network.name] = self._state.networks[network.name] = network

    def unload(self, name: str) -> None:
        """Forgets a network.

        Raises
        ------
        ExecutorError
            There is none of this name, or a request for it is not over.
        """
        self._network(name)
        for request, work in self._submitted.items():
            if work.request.network == name and not work.result.status.over:
                raise ExecutorError(
                    f"network {name!r} cannot be unloaded while request {request!r} is not over; cancel that"
                )
        del self._loaded[name]

    def _network(self, name: str) -> PreparedNetwork:
        if name not in self._loaded:
            known = ", ".join(map(repr, self._loaded)) or "none"
            raise ExecutorError(f"there is no network {name!r}; load it first (loaded: {known})")
        return self._loaded[name]

    # ------------------------------------------------------------------------------------------------------- requests

    def submit(self, request: Request) -> None:
        """Takes a request; it may come later, at its arrival.

        Raises
        ------
        ExecutorError
            The network is not loaded, there is a request of the name, or the request makes no sense or exceeds the
            DRAM.
        CompilerError
            Its deadline cannot be met.
        """
        network = self._network(request.network)
        if request.name in self.results:
            raise ExecutorError(f"a request is named {request.name!r} already; give each a name of its own")
        check_request(request)
        count = len(request.inputs)
        needed = network.dram_bytes(count) + self._code_bytes(network, count)
        if needed > self._state.dram.size:
            raise ExecutorError(
                f"request {request.name!r} needs {needed:,} bytes of DRAM for {count} inferences, but the executor "
                f"has {self._state.dram.size:,}; make several requests of it, or give the executor more"
            )
        job = Job(request.name, network.graph, count, request.priority, request.arrival, request.deadline)
        check_workload(Workload((job,)), Machine.of(self._state.config, self._state.settings.memory))
        arrival = max(request.arrival, self._state.now)
        result = RequestResult(
            request.name,
            Status.WAITING,
            arrival,
            outputs=[None] * count,
            completions=[None] * count,
            variants=[network.name] * count,
            deadline=request.deadline,
        )
        work = make_work(request, result, network, range(count))
        self.results[request.name] = result
        self._submitted[request.name] = work
        self.at(arrival, lambda: self._arrive(work))

    def _code_bytes(self, network: PreparedNetwork, inferences: int) -> int:
        return network.code_bytes * min(inferences, self._state.settings.inferences_ahead)

    def set_priority(self, name: str, priority: float, cycle: int = 0) -> None:
        """Changes a request's priority, at a cycle to come or at once.

        Raises
        ------
        ExecutorError
            There is no request of this name, or the priority is no positive number.
        """
        self._check_known(name)
        if not 0 < priority < float("inf"):
            raise ExecutorError(f"request {name!r} cannot have the priority {priority}; give a positive number")
        self.at(cycle, lambda: self._change_priority(name, priority))

    def cancel(self, name: str, cycle: int = 0) -> None:
        """Ends a request without its result, at a cycle to come or at once; what is over stays so.

        Raises
        ------
        ExecutorError
            There is no request of this name.
        """
        self._check_known(name)
        self.at(cycle, lambda: self._cancel(name))

    def _check_known(self, name: str) -> None:
        if name not in self.results:
            raise ExecutorError(f"there is no request {name!r}; submit it first")

    def at(self, cycle: int, act: Callable[[], Awaitable[None] | None]) -> None:
        """Calls a function at a cycle to come, or at once, and awaits what it returns: a timer on the bus's clock."""
        heapq.heappush(self._commands, _Command(max(cycle, self._state.now), next(self._numbers), act))

    # ------------------------------------------------------------------------------------------------------- commands

    async def _take_due(self) -> None:
        """Does what was asked for up to now."""
        while self._commands and self._commands[0].cycle <= self._state.now:
            waiting = heapq.heappop(self._commands).act()
            if waiting is not None:
                await waiting

    def _arrive(self, work: Work) -> None:
        if work.result.status.over:  # it was cancelled before
            return
        self._state.works.append(work)
        self._state.add_event("arrived", work.name, f"priority {work.priority:g}", arrival=work.result.arrival)

    def _change_priority(self, name: str, priority: float) -> None:
        first = self._submitted[name]
        self._state.add_event("changed", name, f"priority {first.priority:g} becomes {priority:g}")
        for work in {first, *(each for each in self._state.works if each.request.name == name)}:
            work.priority = priority
        self._state.changed = True

    def _cancel(self, name: str) -> None:
        if not self.results[name].status.over:
            self._state.end(self.results[name], Status.CANCELLED, "it was cancelled")
            self._state.changed = True

    # ------------------------------------------------------------------------------------------------------- the loop

    async def run(self) -> dict[str, RequestResult]:
        """Works until all requests are over; returns `results`.

        Raises
        ------
        NpuStuckError
            The NPU cannot be stopped any more.
        """
        state = self._state
        state.now = await self._bus.present_cycle()
        while state.works or self._commands:
            await self._take_due()
            state.changed = False
            state.release()
            segment = next_segment(state)
            if segment is not None:
                await self._run_segment(segment)
            elif self._commands:
                await self._sleep(self._commands[0].cycle)
        return self.results

    async def _sleep(self, cycle: int) -> None:
        """Waits for a cycle to come; nothing runs."""
        state = self._state
        state.now = await self._bus.present_cycle()
        if state.now < cycle:
            if await self._bus.interrupt_within(min(cycle - state.now, state.settings.poll_cycles)):
                await self._npu.wait(1)  # the last stream's, which came after its state had been read
            state.now = await self._bus.present_cycle()

    async def _events(self, segment: Segment) -> int | None:
        """Does what was asked for while a segment runs; the next cycle at which there is something to do."""
        state = self._state
        await self._take_due()
        waiting = [work for work in state.works if work.name not in segment.works and not work.over]
        if any(displaces(state, work, segment) for work in waiting) or any(map(segment.exhausted, segment.works)):
            state.changed = True
        if self._next_raise is not None and state.now >= self._next_raise:
            self._raise_priorities(segment)
        self._next_raise = state.next_raise()
        cycles = [self._next_raise, *(command.cycle for command in self._commands[:1])]
        return min((cycle for cycle in cycles if cycle is not None), default=None)

    def _raise_priorities(self, segment: Segment) -> None:
        """Waiting or deadlines make requests more urgent: if their order changes, another plan is wanted."""
        state = self._state
        order = [work.name for work in state.by_urgency() if not work.over and not work.blocked]
        before = [name for name in segment.works if name in order]
        if order[: len(before)] != before:
            reason = "waiting or deadlines make other requests more urgent"
            state.add_event("raised", order[0], reason, urgencies=state.urgencies())
            state.changed = True

    async def _reset(self) -> None:
        """Resets the NPU; if that does not help, nothing can run any more."""
        try:
            await self._npu.reset()
        except NpuStuckError as error:
            for result in self.results.values():
                self._state.end(result, Status.FAILED, str(error))
            raise

    async def _run_segment(self, segment: Segment) -> None:
        """Runs a segment, and notes what it leaves on chip."""
        state = self._state
        self._next_raise = None
        stream = await self._runner.run(segment)
        bundles = len(segment.plan.bundles)
        if stream.phase is Phase.FAILED:
            await self._reset()
            self._desk.stream_failed(segment, stream)
        elif stream.phase is Phase.PAUSED:
            state.add_event("paused", "", f"at bundle {stream.bundle} of {bundles}", bundle=stream.bundle)
            state.chip = segment.after(stream.bundle)
        else:
            state.chip = segment.after(bundles)
            self._desk.stream_ended(segment)
        if segment.code is not None:
            state.dram.release(segment.code)
