"""cocotb's Python runner, in a process of its own.

The runner takes its settings from the environment, prints, and ends the process when something fails. In a process
of its own it gets an environment that suits it, its output goes to a log file, and it can be ended at any time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.05

_DISTURBING_VARIABLES = (
    "PYTEST_CURRENT_TEST",  # makes the runner look for a test of that name
    "WAVES",  # overrides what the build was made for
    "GUI",
    "MAKELEVEL",  # of a make that runs us
    "MFLAGS",
)


def run_cocotb(
    action: str,
    settings: Mapping[str, Any],
    *,
    log: Path,
    environment: Mapping[str, str],
    timeout_seconds: float | None = None,
    while_waiting: Callable[[], None] | None = None,
) -> int | None:
    """Runs cocotb's runner and waits for it.

    Parameters
    ----------
    action
        ``"build"`` or ``"run"``.
    settings
        ``"simulator"`` and the arguments of the runner's method ``build`` or ``test``.
    log
        File for all output.
    environment
        Environment of the runner and of everything that it starts.
    timeout_seconds
        Wall-clock limit; None for no limit.
    while_waiting
        Called some twenty times a second.

    Returns
    -------
    int or None
        The exit status, or None if the time was up.
    """
    environment = {name: value for name, value in environment.items() if name not in _DISTURBING_VARIABLES}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file, log.open("wb") as output:
        json.dump(dict(settings), file)
        file.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "tessera.sim.cosim.cocotb_runner", action, file.name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that it can be ended together with the tools that it started
        )
        try:
            return _wait(process, timeout_seconds, while_waiting)
        finally:
            _end(process)


def _wait(
    process: subprocess.Popen[bytes], timeout_seconds: float | None, while_waiting: Callable[[], None] | None
) -> int | None:
    end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        try:
            code: int | None = process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        if while_waiting is not None:
            while_waiting()
        if code is not None or (end is not None and time.monotonic() > end):
            return code


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
