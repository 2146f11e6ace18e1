"""The profile database as the commands use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera.cli.console import console
from tessera.compiler.planning.profile_database import DatabaseError, ProfileDatabase, default_path
from tessera.rtl.config import NpuConfig


@contextmanager
def open_database(file: Path | None, config: NpuConfig) -> Iterator[ProfileDatabase | None]:
    """The profile database. That in the user's cache folder is a help, not a need: the work goes on without it."""
    try:
        opened = ProfileDatabase(default_path() if file is None else file, config)
    except DatabaseError as error:
        if file is not None:
            raise
        console.print(f"{error}. The command goes on without it.")
        yield None
        return
    with opened:
        yield opened
