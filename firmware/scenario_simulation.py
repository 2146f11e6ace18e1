"""Plays scenarios with the host's runtime inside the simulator's process, from an ordinary Python process.

The time that the runtime computes does not pass on the NPU.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tessera.firmware.cosimulation import Options, simulation_design
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import CosimResult, run_cosim


def play_in_simulation(
    player: str,
    scenario: Any,
    config: NpuConfig,
    memory_bytes: int,
    options: Options,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Any, CosimResult]:
    """What came of a scenario on the co-simulated RTL, and of the simulation.

    Parameters
    ----------
    player
        ``"module:function"``: a coroutine function that gets the scenario and a bus.
    scenario
        Anything that can be pickled, as its result must be.
    config, memory_bytes
        The NPU, and the least size of its DRAM.
    options
        How to simulate.
    on_progress
        Called with what the player gives to ``CosimBus.report_progress``.

    Raises
    ------
    CosimError
        A simulator is missing or failed, the NPU broke a rule of AXI, or the player raised an exception.
    """
    with tempfile.TemporaryDirectory(prefix="tessera-") as name:
        scenario_file, result_file = Path(name) / "scenario.pickle", Path(name) / "result.pickle"
        scenario_file.write_bytes(pickle.dumps(scenario))
        simulation = run_cosim(
            simulation_design(config, options, memory_bytes),
            "tessera.firmware.scenario_job:run_scenario",
            arguments={
                "player": player,
                "scenario_file": str(scenario_file),
                "result_file": str(result_file),
                "memory": dict(options.memory),
                "stalls": dict(options.stalls),
            },
            on_progress=on_progress,
            waveform=options.waveform,
        )
        return pickle.loads(result_file.read_bytes()), simulation
