"""The program that ``process.run_cocotb`` starts: calls cocotb's Python runner.

``python -m tessera.sim.cosim.cocotb_runner build|run SETTINGS.json``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cocotb_tools import runner

BUILD_JOBS = 2
"""Compilers that run at the same time in one build."""


def main(action: str, settings_path: str) -> None:
    """Builds a simulation or runs it; ends with an exception if that fails."""
    runner.MAX_PARALLEL_BUILD_JOBS = BUILD_JOBS
    settings = json.loads(Path(settings_path).read_text(encoding="utf-8"))
    simulator = runner.get_runner(settings.pop("simulator"))
    if action == "build":
        simulator.build(**settings)
    else:
        simulator.test(**settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
