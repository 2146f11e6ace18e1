"""Scenarios for the executor on the co-simulated RTL, from an ordinary Python process."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

from tessera.firmware.cosimulation import Options, simulation_design
from tessera.firmware.executor_scenario import Scenario, ScenarioResult
from tessera.sim.cosim import CosimResult, run_cosim


def simulate_scenario(scenario: Scenario, options: Options | None = None) -> tuple[ScenarioResult, CosimResult]:
    """Plays a scenario with the executor inside the simulator's process, which drives the RTL.

    The time that the executor computes does not pass on the NPU.

    Raises
    ------
    CosimError
        A simulator is missing or failed, the NPU broke a rule of AXI, or the scenario makes no sense.
    """
    options = options or Options()
    with tempfile.TemporaryDirectory(prefix="tessera-") as name:
        scenario_file, result_file = Path(name) / "scenario.pickle", Path(name) / "result.pickle"
        scenario_file.write_bytes(pickle.dumps(scenario))
        simulation = run_cosim(
            simulation_design(scenario.config, options, scenario.dram.limit),
            "tessera.firmware.executor_job:run_scenario",
            arguments={
                "scenario_file": str(scenario_file),
                "result_file": str(result_file),
                "memory": dict(options.memory),
                "stalls": dict(options.stalls),
            },
            waveform=options.waveform,
        )
        return pickle.loads(result_file.read_bytes()), simulation
