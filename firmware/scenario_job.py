"""A scenario inside the simulator. Imported by the simulator only."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

from tessera.sim.cosim.bus import CosimBus


async def run_scenario(
    bus: CosimBus,
    *,
    player: str,
    scenario_file: str,
    result_file: str,
    memory: dict[str, Any],
    stalls: dict[str, Any],
) -> None:
    """Plays the scenario in one file, and writes what came of it to the other; see
    `tessera.firmware.scenario_simulation`."""
    bus.configure_memory(**memory)
    bus.configure_stalls(**stalls)
    module, _, function = player.partition(":")
    play = getattr(importlib.import_module(module), function)
    result = await play(pickle.loads(Path(scenario_file).read_bytes()), bus)
    Path(result_file).write_bytes(pickle.dumps(result))
