"""The executor: takes requests, plans them, runs the plans, and plans again when something changes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from tessera.compiler.lowering.plan_memory import START, ChipState
from tessera.compiler.planning import SCHEDULERS, Job, Machine, Workload
from tessera.compiler.planning.workload import check_workload
from tessera.firmware.bus import TimedBus
from tessera.firmware.driver import Npu, Phase, StreamState
from tessera.firmware.executor.dram import DramAllocator
from tessera.firmware.executor.errors import ExecutorError
from tessera.firmware.executor.log import EventLog
from tessera.firmware.executor.networks import PreparedNetwork
from tessera.firmware.executor.requests import Request, RequestResult, Status, Work, check_request, pack_inputs
from tessera.firmware.executor.segment import Segment, alone_cycles, make_segment, without
from tessera.firmware.executor.settings import Preemption, Settings
from tessera.firmware.executor.urgency import next_raise, urgency
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import CONTEXTS
from tessera.sim.cycles import longest_silence
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

    Attributes
    ----------
    results
        What became of the requests, by name.
    log
        What happened, and why.
    """

    def __init__(self, bus: TimedBus, config: NpuConfig, dram: MemoryWindow, settings: Settings = Settings()):
        if settings.scheduler not in SCHEDULERS:
            raise ExecutorError(
                f"there is no scheduler {settings.scheduler!r}; take one of {', '.join(SCHEDULERS)}"
            )
        self.config, self.settings = config, settings
        self.results: dict[str, RequestResult] = {}
        self.log = EventLog()
        self._bus, self._npu = bus, Npu(bus)
        self._dram = DramAllocator(dram)
        self._networks: dict[str, PreparedNetwork] = {}
        self._works: list[Work] = []
        self._commands: list[_Command] = []
        self._numbers = itertools.count()
        self._chip: ChipState = START
        self._now = 0
        self._changed = False
        self._running: Segment | None = None

    # ------------------------------------------------------------------------------------------------------- networks

    def load(self, network: PreparedNetwork) -> None:
        """Takes a network, for which requests can be made from now on.

        Raises
        ------
        ExecutorError
            It was made for another configuration, there is one of its name, or with those that are loaded it exceeds the
            DRAM, even if each runs one inference at a time.
        """
        if network.config != self.config:
            raise ExecutorError(
                f"network {network.name!r} was prepared for configuration {network.config.name!r}, but the NPU is "
                f"{self.config.name!r}; prepare it for that"
            )
        if network.name in self._networks:
            raise ExecutorError(f"a network is named {network.name!r} already; unload it, or give another name")
        needs = {each.name: each.dram_bytes(1) + each.code_bytes for each in (*self._networks.values(), network)}
        if sum(needs.values()) > self._dram.size:
            parts = ", ".join(f"{name!r} {size:,}" for name, size in needs.items())
            raise ExecutorError(
                f"the networks together need {sum(needs.values()):,} bytes of DRAM ({parts}), but there are "
                f"{self._dram.size:,}; unload one, or give the executor more"
            )
        self._networks[network.name] = network

    def unload(self, name: str) -> None:
        """Forgets a network.

        Raises
        ------
        ExecutorError
            There is none of this name, or a request for it is not over.
        """
        self._network(name)
        for work in self._works:
            if work.request.network == name and not work.over:
                raise ExecutorError(
                    f"network {name!r} cannot be unloaded while request {work.request.name!r} is not over; cancel that"
                )
        del self._networks[name]

    def _network(self, name: str) -> PreparedNetwork:
        if name not in self._networks:
            known = ", ".join(map(repr, self._networks)) or "none"
            raise ExecutorError(f"there is no network {name!r}; load it first (loaded: {known})")
        return self._networks[name]

    # ------------------------------------------------------------------------------------------------------- requests

    def submit(self, request: Request) -> None:
        """Takes a request; it may come later, at its arrival.

        Raises
        ------
        ExecutorError
            The network is not loaded, there is a request of the name, or the request makes no sense or exceeds the DRAM.
        CompilerError
            Its deadline cannot be met.
        """
        network = self._network(request.network)
        if request.name in self.results:
            raise ExecutorError(f"a request is named {request.name!r} already; give each a name of its own")
        check_request(request)
        needed = network.dram_bytes(len(request.inputs)) + self._code_bytes(network, len(request.inputs))
        if needed > self._dram.size:
            raise ExecutorError(
                f"request {request.name!r} needs {needed:,} bytes of DRAM for {len(request.inputs)} inferences, but the "
                f"executor has {self._dram.size:,}; make several requests of it, or give the executor more"
            )
        job = Job(request.name, network.graph, len(request.inputs), request.priority, request.arrival, request.deadline)
        check_workload(Workload((job,)), Machine.of(self.config, self.settings.memory))
        count, arrival = len(request.inputs), max(request.arrival, self._now)
        result = RequestResult(
            request.name, Status.WAITING, arrival, None, None, [None] * count, [None] * count, [network.name] * count
        )
        packed = pack_inputs(request, network)
        work = Work(request.name, request, network, tuple(range(count)), request.priority, result, packed)
        self.results[request.name] = result
        self.at(arrival, lambda: self._arrive(work))

    def _code_bytes(self, network: PreparedNetwork, inferences: int) -> int:
        return network.code_bytes * min(inferences, self.settings.inferences_ahead)

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
        heapq.heappush(self._commands, _Command(max(cycle, self._now), next(self._numbers), act))

    # ------------------------------------------------------------------------------------------------------- commands

    async def _take_due(self) -> None:
        """Does what was asked for up to now."""
        while self._commands and self._commands[0].cycle <= self._now:
            waiting = heapq.heappop(self._commands).act()
            if waiting is not None:
                await waiting

    def _arrive(self, work: Work) -> None:
        if work.result.status.over:  # it was cancelled before
            return
        self._works.append(work)
        self._changed = True
        self.log.add(self._now, "arrived", work.name, f"priority {work.priority:g}", arrival=work.result.arrival)

    def _change_priority(self, name: str, priority: float) -> None:
        for work in self._works:
            if work.request.name == name:
                self.log.add(self._now, "changed", name, f"priority {work.priority:g} becomes {priority:g}")
                work.priority = priority
                self._changed = True

    def _cancel(self, name: str) -> None:
        if not self.results[name].status.over:
            self._end(name, Status.CANCELLED, "it was cancelled")
            self.log.add(self._now, "cancelled", name)
            self._changed = True

    def _end(self, name: str, status: Status, reason: str = "") -> None:
        """Notes that a request is over."""
        result = self.results[name]
        result.status, result.ended, result.reason = status, self._now, reason
        self.log.add(self._now, "ended", name, reason or "all outputs are there", status=status.value)

    # ------------------------------------------------------------------------------------------------------- the loop

    async def run(self) -> dict[str, RequestResult]:
        """Works until all requests are over; returns `results`."""
        self._now = await self._bus.present_cycle()
        while self._works or self._commands:
            await self._take_due()
            self._changed = False
            self._release()
            segment, chosen = None, self._choose()
            while chosen and segment is None:
                segment = self._plan(chosen)
            if segment is not None:
                await self._run_segment(segment)
            elif self._commands:
                await self._sleep(self._commands[0].cycle)
        return self.results

    async def _sleep(self, cycle: int) -> None:
        """Waits for a cycle to come; nothing runs."""
        self._now = await self._bus.present_cycle()
        if self._now < cycle:
            await self._bus.interrupt_within(min(cycle - self._now, self.settings.poll_cycles))
            self._now = await self._bus.present_cycle()

    def _release(self) -> None:
        """Takes back the memory of what is over."""
        for work in [work for work in self._works if work.over]:
            self._works.remove(work)
            self._give_back(work)

    def _give_back(self, work: Work) -> None:
        """Takes back a work's DRAM, and forgets what it has on chip."""
        self._chip = without(self._chip, work.name)
        if work.place is not None:
            self._dram.release(work.place)
            work.place, work.written = None, 0

    # ------------------------------------------------------------------------------------------------------- planning

    def _urgency(self, work: Work) -> float:
        left = alone_cycles(work, self._chip)
        return urgency(
            self.settings.ageing, work.priority, self._now, work.result.arrival, work.request.deadline, left
        )

    def _choose(self) -> list[Work]:
        """The works of the next plan, the most urgent first: as many as there are contexts and places in DRAM.

        What is most urgent and finds no place in DRAM is not overtaken by what comes after it.
        """
        chosen: list[Work] = []
        full = False
        for work in sorted(self._works, key=lambda each: (-self._urgency(each), each.result.arrival, each.name)):
            if len(chosen) == CONTEXTS:
                break
            if work.place is None and not full:
                work.place = self._dram.allocate(work.network.dram_bytes(len(work.samples)))
                full = work.place is None
                self._log_place(work)
            if work.place is not None:
                chosen.append(work)
        return chosen

    def _log_place(self, work: Work) -> None:
        if work.place is None:
            free = self._dram.size - self._dram.taken
            self.log.add(self._now, "waits", work.name, f"it finds no place in the {free:,} bytes of DRAM that are free")
        else:
            size = work.place.limit - work.place.base
            self.log.add(self._now, "admitted", work.name, f"{size:,} bytes of DRAM", base=work.place.base, bytes=size)

    def _plan(self, chosen: list[Work]) -> Segment | None:
        """A segment of the chosen works, or ``None``; then there is one less, or one begins its inference again."""
        for work in self._works:
            if work not in chosen:
                self._restart(work, "others are more urgent, and need the memory on chip")
        urgencies = [self._urgency(work) for work in chosen]
        segment = make_segment(chosen, urgencies, self._chip, self._now, self.settings, self.config)
        if segment is not None:
            code = self._dram.allocate(len(segment.program.code))
            if code is not None:
                self._code = code
                return replace(segment, program=replace(segment.program, code_address=code.base))
        self._relieve(chosen, "DRAM for the code" if segment else "memory on chip")
        return None

    def _relieve(self, chosen: list[Work], what: str) -> None:
        """Makes room: the least urgent work waits, or if there is only one, begins its inference again, or fails."""
        work = chosen[-1]
        if len(chosen) > 1:
            chosen.pop()
            self._restart(work, f"there is too little {what} for it beside the others")
            self._give_back(work)
        elif not self._restart(work, f"there is too little {what} to go on"):
            chosen.pop()
            self._end(work.request.name, Status.FAILED, f"there is too little {what} for it alone")

    def _restart(self, work: Work, reason: str) -> bool:
        """Forgets what a work has on chip, if anything: an inference that has begun begins again."""
        begun = {name.inference for name in self._chip.live if name.job == work.name}
        for inference in begun:
            self._chip = without(self._chip, work.name, inference)
        if begun:
            self.log.add(self._now, "restarted", work.name, reason, inferences=sorted(begun))
        return bool(begun)

    # -------------------------------------------------------------------------------------------------------- running

    async def _run_segment(self, segment: Segment) -> None:
        await self._write(segment)
        await self._start(segment)
        state = await self._follow(segment)
        self._dram.release(self._code)
        if state.phase is Phase.FAILED:
            raise NotImplementedError
        bundles = state.bundle if state.phase is Phase.PAUSED else len(segment.plan.bundles)
        if state.phase is Phase.PAUSED:
            self.log.add(self._now, "paused", "", f"at bundle {bundles} of {len(segment.plan.bundles)}", bundle=bundles)
        self._chip = segment.after(bundles)

    async def _write(self, segment: Segment) -> None:
        """Writes the stream, what it loads, and the inputs that are not there yet."""
        for address, data in segment.program.writes:
            await self._bus.write_memory(address, data)
        for name, memory in segment.program.jobs.items():
            work = segment.works[name]
            for inference in range(work.written, len(memory.tensors)):
                for tensor, data in work.packed[inference].items():
                    await self._bus.write_memory(memory.tensors[inference][tensor].address, data)
            work.written = max(work.written, len(memory.tensors))

    async def _start(self, segment: Segment) -> None:
        program = segment.program
        silence = 2 * longest_silence(program.instructions, self.config)
        watchdog = max(self.settings.watchdog_cycles, silence) if self.settings.watchdog_cycles else 0
        await self._npu.start(
            program.code_address, contexts=segment.contexts, code=program.code_window, watchdog_cycles=watchdog
        )
        self._now = await self._bus.present_cycle()
        for name in program.jobs:
            result = segment.works[name].result
            result.status = Status.RUNNING
            result.started = self._now if result.started is None else result.started
        self.log.add(
            self._now, "started", "", f"{len(segment.plan.bundles)} bundles of {', '.join(program.jobs)}",
            jobs=list(program.jobs), predicted=segment.plan.cycles,
        )  # fmt: skip

    async def _follow(self, segment: Segment) -> StreamState:
        """Waits until the stream has stopped, collects outputs, and has it paused if something changes."""
        collected = dict.fromkeys(segment.works, 0)
        pausing = False
        while True:
            raised = await self._bus.interrupt_within(self._patience())
            self._now = await self._bus.present_cycle()
            if raised:
                state = await self._npu.wait(1)
                await self._collect(segment, state, collected)
                if state.phase is not Phase.RUNNING:
                    return state
            await self._take_due()
            if self._changed and not pausing and self.settings.preemption is Preemption.BUNDLE:
                pausing = True
                await self._npu.pause()

    def _patience(self) -> int:
        """Cycles until there is something to do."""
        cycles = [self.settings.poll_cycles]
        if self._commands:
            cycles.append(self._commands[0].cycle - self._now)
        return max(1, min(cycles))

    async def _collect(self, segment: Segment, state: StreamState, collected: dict[str, int]) -> None:
        """Reads the outputs of the inferences that have ended since the last time."""
        for name, memory in segment.program.jobs.items():
            work, finished = segment.works[name], state.contexts[memory.context].finished
            for inference in segment.finishing(name)[collected[name] : finished]:
                await self._read_outputs(segment, work, inference)
            collected[name] = finished

    async def _read_outputs(self, segment: Segment, work: Work, inference: int) -> None:
        memory = segment.program.jobs[work.name]
        tensors = memory.tensors[inference]
        outputs = {}
        for name in memory.outputs:
            data = await self._bus.read_memory(tensors[name].address, tensors[name].size)
            outputs[name] = tensors[name].unpack(data, self.config)
        work.collected.add(inference)
        sample = work.samples[inference]
        result = work.result
        result.outputs[sample], result.completions[sample] = outputs, self._now
        self.log.add(self._now, "finished", work.request.name, f"inference {sample}", inference=sample)
        if all(each is not None for each in result.outputs) and not result.status.over:
            self._end(result.name, Status.DONE)


__all__ = ["Executor", "next_raise"]
