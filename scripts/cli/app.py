"""The application: its commands, and the one place where errors become sentences and exit statuses."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from tessera.cli import INTERRUPTED, TERMINATED, adapt, finetune, plan, profile, quantize, report, run, serve, verilog
from tessera.cli.console import ERRORS, FAILURES, print_error

app = typer.Typer(
    name="tessera",
    help="Tessera: an open multi-precision NPU. Quantise networks, plan them, and run them on the co-simulated RTL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    quantize.quantize,
    finetune.finetune,
    plan.plan,
    run.run,
    serve.serve,
    adapt.adapt,
    profile.profile,
    report.report,
    verilog.verilog,
):
    app.command()(command)


def main() -> None:
    """Runs the command line and exits."""
    with exit_on_error():
        app()


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turns the errors that are told in one sentence, and Ctrl-C, into that sentence and an exit status.

    A termination unwinds the stack like Ctrl-C, so that it leaves no simulator running and no temporary file.
    """
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except ERRORS as error:
        print_error(error)
        sys.exit(1 if isinstance(error, FAILURES) else 2)
    except KeyboardInterrupt:
        print_error("interrupted")
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        # Typer turns Ctrl-C into this status without a word.
        if end.code == INTERRUPTED:
            print_error("interrupted")
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: object) -> None:
    print_error("terminated")
    sys.exit(TERMINATED)
