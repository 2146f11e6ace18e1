"""The profile database as the commands use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera.cli.console import console
from tessera.compiler.planning.profile_database import DatabaseError, ProfileDatabase, default_path
from tessera.rtl.config import NpuConfig


def standing_files(npu: str | None, database: Path | None = None, *, remembers: bool = True) -> list[Path]:
    """Files that a command uses besides those that it is about, and must not write over: the configuration's of
    ``--npu``, and, if it remembers durations, the profile database."""
    configuration = [Path(npu)] if npu is not None and npu.endswith(".toml") else []
    return configuration + ([default_path() if database is None else database] if remembers else [])


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
