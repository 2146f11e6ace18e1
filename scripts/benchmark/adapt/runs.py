"""Adaptive networks on the co-simulated RTL under load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from benchmark.adapt.networks import Prepared
from tessera.cli.console import ResultError
from tessera.firmware.adaptation import PolicyName, Settings
from tessera.firmware.adaptation.inference import run_adaptive
from tessera.firmware.adaptation.scenario import AdaptiveRun, AdaptiveScenario
from tessera.rtl.traffic import OTHER_SOURCES
from tessera.sim.cosim.load_profile import LoadProfile
from tessera.sim.cosim.traffic import TrafficWindow

LOADS = (30, 55, 80, 92)
"""Percent of the bus that others take."""

AIMED_LOAD = 80
"""The load for which latencies are aimed at."""

AIM = 1.2
"""Latency over that without load which is aimed at."""

POLICIES: dict[str, Callable[[int | None], Settings]] = {
    "fixed16": lambda target: Settings(policy=PolicyName.FIXED, depth=16, target_cycles=target),
    "fixed8": lambda target: Settings(policy=PolicyName.FIXED, depth=8, target_cycles=target),
    "table": lambda target: Settings(policy=PolicyName.TABLE, target_cycles=target),
    "sensitivity": lambda target: Settings(policy=PolicyName.SENSITIVITY, target_cycles=target),
}
"""The settings of each policy, given a latency target."""

WARM_UP = {"fixed16": 0, "fixed8": 0, "table": 1, "sensitivity": 4}
"""Inferences after which the depths have come to rest."""

_windows = {"compared": 0, "wrong": 0}


def mismatches() -> int:
    """Windows so far that the monitor has lost, or in which it has counted something else than the memory.

    Raises
    ------
    ResultError
        None was compared.
    """
    if not _windows["compared"]:
        raise ResultError("no window of the bandwidth monitor has been compared with the memory's own counts")
    return _windows["wrong"]


def run_loaded(
    network: Prepared, settings: Settings, load: LoadProfile | None, *, inferences: int = 1, warm_up: int = 0
) -> AdaptiveRun:
    """Runs a network; a result that is not the golden model's ends the benchmark."""
    scenario = AdaptiveScenario(network.program, {}, settings, load, warm_up=warm_up)
    result = run_adaptive(scenario, network.images(inferences))
    if not result.bit_exact:
        raise ResultError(f"{network.case.name}: the RTL's outputs differ from the golden model's")
    _windows["compared"] += len(result.run.windows)
    _windows["wrong"] += wrong_windows(result.run.windows, settings.window_cycles, network.program.config.beat_bytes)
    return result.run


def wrong_windows(windows: Sequence[TrafficWindow], cycles: int, beat_bytes: int) -> int:
    """Windows that are missing between others, and those with another count of any source, or another number of
    available bytes, than follows from what the memory has counted."""
    missing = sum((after.cycle - before.cycle) // cycles - 1 for before, after in pairwise(windows))
    return missing + sum(
        bool(window.mismatches)
        or window.available != max(0, cycles * beat_bytes - sum(window.moved[source] for source in OTHER_SOURCES))
        for window in windows
    )


def share_of(load: int) -> LoadProfile:
    """Others take so many percent of the bus, at random beats."""
    return LoadProfile.constant(load / 100, random=True)
