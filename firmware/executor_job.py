"""An executor's scenario inside the simulator. Imported by the simulator only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from tessera.firmware.executor_scenario import play
from tessera.sim.cosim.bus import CosimBus


async def run_scenario(
    bus: CosimBus, *, scenario_file: str, result_file: str, memory: dict[str, Any], stalls: dict[str, Any]
) -> None:
    """Plays the scenario in one file, and writes what came of it to the other; see
    `tessera.firmware.executor_simulation`."""
    bus.configure_memory(**memory)
    bus.configure_stalls(**stalls)
    scenario = pickle.loads(Path(scenario_file).read_bytes())
    result = await play(scenario, bus)
    Path(result_file).write_bytes(pickle.dumps(result))
