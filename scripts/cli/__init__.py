"""The command line: ``tessera quantize | plan | run | profile | report | verilog``.

Exit status 0: fine; 1: the work failed (a simulation, or a result that is not bit-exact); 2: wrong usage (an option,
a file, a network that the machine cannot run).
"""

from __future__ import annotations

import sys

__all__ = ["main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count it."""

TERMINATED = 143
"""Exit status after a termination (SIGTERM), as shells count it."""


def main() -> None:
    """Runs the command line and exits."""
    try:
        # Here, because loading the packages takes seconds in which the user may press Ctrl-C.
        from tessera.cli.app import main as run

        run()
    except KeyboardInterrupt:
        print("tessera: interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
