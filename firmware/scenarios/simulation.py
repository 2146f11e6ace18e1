"""Scenarios for the executor on the co-simulated RTL, from an ordinary Python process."""

from __future__ import annotations

from tessera.firmware.cosimulation import Options
from tessera.firmware.scenario_simulation import play_in_simulation
from tessera.firmware.scenarios.scenario import Scenario, ScenarioResult
from tessera.sim.cosim import CosimResult


def simulate_scenario(scenario: Scenario, options: Options | None = None) -> tuple[ScenarioResult, CosimResult]:
    """Plays a scenario with the executor inside the simulator's process, which drives the RTL.

    The time that the executor computes does not pass on the NPU.

    Raises
    ------
    CosimError
        A simulator is missing or failed, the NPU broke a rule of AXI, or the scenario makes no sense.
    """
    player = "tessera.firmware.scenarios.scenario:play"
    return play_in_simulation(player, scenario, scenario.config, scenario.dram.limit, options or Options())
