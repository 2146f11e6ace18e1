"""What all commands share on the terminal: errors, tables, progress, JSON files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tessera.compiler.errors import CompilerError
from tessera.firmware.driver import NpuError
from tessera.firmware.executor import ExecutorError
from tessera.rtl.config import ConfigError
from tessera.rtl.isa import IsaError
from tessera.sim.cosim import CosimError


class UsageError(ValueError):
    """Something wrong with the command line; the message is a sentence with the option, the value and the remedy."""


class ResultError(RuntimeError):
    """A run ended, but its result is wrong."""


FAILURES = (CosimError, NpuError, ResultError)
"""Errors that are no mistake of the user: exit status 1."""

ERRORS = (CompilerError, ConfigError, ExecutorError, IsaError, UsageError, *FAILURES)
"""Errors that are told in one sentence."""

_TABLE_WIDTH = 120
"""Characters that the widest table needs; a narrower terminal wraps its lines instead of losing columns."""

_PLAIN: dict[str, Any] = {"markup": False, "highlight": False}
"""Names of nodes and files are printed as they are, whatever brackets they contain."""

console = Console(**_PLAIN)
if console.width < _TABLE_WIDTH:
    console = Console(width=_TABLE_WIDTH, **_PLAIN)
errors = Console(stderr=True, **_PLAIN)


def print_error(error: Exception | str) -> None:
    """One sentence on standard error, and the details that the error carries (a log's end), if any."""
    errors.print(Text.assemble(("tessera:", "red"), f" {_sentence(error)}"), soft_wrap=True)
    details = getattr(error, "details", "")
    if details:
        errors.print(details, soft_wrap=True)


def _sentence(error: Exception | str) -> str:
    text = str(error).strip()
    return text if text.endswith(".") else f"{text}."


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """A table whose first column is text and whose others are numbers."""
    if title is not None:  # as a line: a table would wrap it at its own width
        console.print(title, style="italic", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table, crop=False)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, nothing elsewhere; gives the function that takes reports with a key ``done``."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(label, total=total)

        def report(values: dict[str, Any]) -> None:
            progress.update(task, completed=values["done"])

        yield report


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_file(path, (json.dumps(value, indent=1) + "\n").encode())


def write_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; raises `UsageError` if that cannot be."""
    with output_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which takes its place when the block ends without an error.

    A symbolic link stays one: the file that it names is replaced.
    """
    _check_ordinary(path)
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that you may write to"
        ) from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path | None, *others: Path | None) -> None:
    """Raises `UsageError` before the work starts if a file cannot be written later, or is one of the ``others``: what
    the command reads, and what else it writes."""
    if path is None:
        return
    for other in others:
        if other is not None and path.resolve() == other.resolve():
            raise UsageError(f"cannot write {path}: the command needs that file for something else; give another name")
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; give the name of a file in it")
    _check_ordinary(path)
    folder = next(parent for parent in (path.parent, *path.parent.resolve().parents) if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {path}: {folder} is not a folder that you may write to; choose another")


def _check_ordinary(path: Path) -> None:
    """Refuses a device or a pipe, which a file would replace."""
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}: it is no ordinary file; give the name of a file")
