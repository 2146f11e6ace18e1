"""Inferences of an adaptive network while others want the bus; on whatever bus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.compiler.adaptive import AdaptiveProgram
from tessera.compiler.planning.profile_database import ProfileDatabase
from tessera.firmware.adaptation import DatabaseMemory, Decision, PrecisionManager, Settings
from tessera.firmware.adaptation.adaptable import adaptable
from tessera.firmware.adaptation.run import AdaptiveRunner, Inference
from tessera.firmware.bus import TrafficRecordingBus
from tessera.rtl.isa import Depth
from tessera.sim.cosim.load_profile import LoadProfile
from tessera.sim.cosim.traffic import TrafficWindow


@dataclass(frozen=True, eq=False)
class AdaptiveScenario:
    """What is run.

    Attributes
    ----------
    program
        The network.
    inputs
        For each input an array (samples, channels, height, width) of integers; a sample per inference.
    settings
        How the precision manager decides.
    load
        What other masters take of the bus from the beginning on; nothing if ``None``.
    database
        File of the profile database, in which is remembered which layers saturated; if there is one.
    warm_up
        Inferences of the first sample before those that count, so that depths have come to rest.
    timeout_cycles
        Cycles after which an inference that still moves is given up.
    """

    program: AdaptiveProgram
    inputs: Mapping[str, np.ndarray]
    settings: Settings = Settings()
    load: LoadProfile | None = None
    database: Path | None = None
    warm_up: int = 0
    timeout_cycles: int = 1_000_000_000


@dataclass(frozen=True)
class SelectEvent:
    """A layer's depth was chosen: the cycle on the bus's clock, the layer, the depth in bits, and the section that
    counted."""

    cycle: int
    layer: str
    depth: int
    section: int


@dataclass(frozen=True, eq=False)
class AdaptiveRun:
    """What came of it.

    Attributes
    ----------
    inferences
        Those that count.
    warm_up
        Those before.
    decisions
        The manager's log.
    selects
        All choices in their order; empty where the bus cannot be traced.
    windows
        The windows of the bandwidth monitor; empty likewise.
    completions
        (cycle on the bus's clock, mask of the units that completed an instruction), rising; empty likewise.
    """

    inferences: tuple[Inference, ...]
    warm_up: tuple[Inference, ...]
    decisions: tuple[Decision, ...]
    selects: tuple[SelectEvent, ...] = ()
    windows: tuple[TrafficWindow, ...] = ()
    completions: tuple[tuple[int, int], ...] = ()


async def play(scenario: AdaptiveScenario, bus: Any) -> AdaptiveRun:
    """Runs a scenario on a bus, a `tessera.firmware.bus.TimedBus`.

    Raises
    ------
    AdaptationError, CompilerError
        The settings make no sense for the network, or the database cannot be used.
    """
    with ExitStack() as stack:
        memory = None
        if scenario.database is not None:
            database = stack.enter_context(ProfileDatabase(scenario.database, scenario.program.config))
            memory = DatabaseMemory(database)
        manager = PrecisionManager(adaptable(scenario.program), scenario.settings, memory)
        return await _play(scenario, bus, manager)


async def _play(scenario: AdaptiveScenario, bus: Any, manager: PrecisionManager) -> AdaptiveRun:
    runner = AdaptiveRunner(bus, scenario.program, manager)
    await runner.prepare()
    if scenario.load is not None:
        await bus.start_load(scenario.load)
    recorded = isinstance(bus, TrafficRecordingBus)
    if recorded:
        await bus.start_windows()
        await bus.start_trace()
    samples = len(next(iter(scenario.inputs.values())))
    found: list[Inference] = []
    for index in [0] * scenario.warm_up + list(range(samples)):
        inputs = {name: values[index] for name, values in scenario.inputs.items()}
        found.append(await runner.infer(inputs, timeout_cycles=scenario.timeout_cycles))
        if recorded:
            bus.report_progress(done=max(0, len(found) - scenario.warm_up), cycles=found[-1].end)
    selects: tuple[SelectEvent, ...] = ()
    windows: tuple[TrafficWindow, ...] = ()
    completions: list[tuple[int, int]] = []
    if recorded:
        completions = await bus.stop_trace()
        selects = _events(scenario.program, found, bus.selections)
        windows = tuple(map(TrafficWindow.of_numbers, await bus.stop_windows()))
    count = scenario.warm_up
    log = tuple(manager.log)
    return AdaptiveRun(tuple(found[count:]), tuple(found[:count]), log, selects, windows, tuple(completions))


def _events(
    program: AdaptiveProgram, inferences: Sequence[Inference], rows: Sequence[tuple[int, ...]]
) -> tuple[SelectEvent, ...]:
    """The choices (cycle, number of the operation, code of the depth, section) of inferences, with names: each
    inference chooses for every operation once, in their order."""
    operations = list(dict.fromkeys(segment.operation for segment in program.segments if segment.operation))
    if len(rows) != len(operations) * len(inferences):
        raise RuntimeError(
            f"{len(inferences)} inferences of {program.name} have made {len(rows)} choices of depths, not "
            f"{len(operations)} each"
        )
    return tuple(
        SelectEvent(cycle, operation, Depth(code).bits, section)
        for operation, (cycle, _, code, section) in zip(operations * len(inferences), rows, strict=True)
    )
