"""Scenarios for the executor: what comes when, and what goes wrong when; on whatever bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tessera.compiler.planning.profile_database import ProfileDatabase
from tessera.firmware.executor import Event, Executed, Executor, PreparedNetwork, Request, RequestResult, Settings
from tessera.firmware.modelled.bus import ModelBus
from tessera.rtl.config import NpuConfig
from tessera.sim.windows import MemoryWindow


@dataclass(frozen=True)
class PriorityChange:
    """A request's priority changes at a cycle."""

    cycle: int
    request: str
    priority: float


@dataclass(frozen=True)
class Cancellation:
    """A request is cancelled at a cycle."""

    cycle: int
    request: str


@dataclass(frozen=True)
class Disturbance:
    """The memory changes at a cycle: keyword arguments of the bus's ``configure_memory``."""

    cycle: int
    memory: Mapping[str, Any]


@dataclass(frozen=True)
class Corruption:
    """Bytes of the memory are overwritten at a cycle, as by another master."""

    cycle: int
    address: int
    data: bytes


@dataclass(frozen=True, eq=False)
class Scenario:
    """What an executor is given.

    Attributes
    ----------
    config
        The NPU.
    networks
        What is loaded.
    requests
        What is submitted before the beginning, with their arrivals.
    events
        What else happens.
    dram
        The executor's part of the DRAM.
    settings
        How it decides.
    database
        File of the profile database, if there is one.
    """

    config: NpuConfig
    networks: tuple[PreparedNetwork, ...]
    requests: tuple[Request, ...]
    events: tuple[PriorityChange | Cancellation | Disturbance | Corruption, ...] = ()
    dram: MemoryWindow = MemoryWindow(0, 1 << 20)
    settings: Settings = Settings()
    database: Path | None = None


@dataclass(frozen=True, eq=False)
class ScenarioResult:
    """What came of a scenario: the requests by name, the log, the cycle at its end, the networks by name, and what has
    run when if the bus could tell."""

    requests: dict[str, RequestResult]
    log: tuple[Event, ...]
    cycles: int
    networks: dict[str, PreparedNetwork]
    executed: tuple[Executed, ...] = ()


def check_scenario(scenario: Scenario) -> None:
    """Refuses a scenario that makes no sense, before anything runs.

    Raises
    ------
    ExecutorError, CompilerError
        Says what, and what to do.
    """
    bus = ModelBus(scenario.config, 0)
    _submit(Executor(bus, scenario.config, scenario.dram, scenario.settings), scenario, bus)


async def play(scenario: Scenario, bus: Any) -> ScenarioResult:
    """Runs a scenario on a bus, a `tessera.firmware.bus.TimedBus` whose memory can be configured if that is asked for.

    Raises
    ------
    ExecutorError, CompilerError
        The scenario makes no sense, or the database cannot be used.
    """
    with ExitStack() as stack:
        database = None
        if scenario.database is not None:
            database = stack.enter_context(ProfileDatabase(scenario.database, scenario.config))
        return await _play(scenario, bus, database)


async def _play(scenario: Scenario, bus: Any, database: ProfileDatabase | None) -> ScenarioResult:
    executor = Executor(bus, scenario.config, scenario.dram, scenario.settings, database)
    _submit(executor, scenario, bus)
    results = await executor.run()
    cycles = await bus.present_cycle()
    return ScenarioResult(results, tuple(executor.log.events), cycles, executor.networks, tuple(executor.executed))


def _submit(executor: Executor, scenario: Scenario, bus: Any) -> None:
    """Tells an executor all that is in a scenario."""
    for network in scenario.networks:
        executor.load(network)
    for request in scenario.requests:
        executor.submit(request)
    for event in scenario.events:
        if isinstance(event, PriorityChange):
            executor.set_priority(event.request, event.priority, event.cycle)
        elif isinstance(event, Cancellation):
            executor.cancel(event.request, event.cycle)
        else:
            executor.at(event.cycle, _action(event, bus))


def _action(event: Disturbance | Corruption, bus: Any) -> Callable[[], Awaitable[None] | None]:
    if isinstance(event, Disturbance):
        return partial(bus.configure_memory, **event.memory)
    return partial(bus.write_memory, event.address, event.data)
