"""The profile database: what operations took on the machine, what was predicted, and what the executor adapted.

A SQLite file. A *duration* is found by the key of an operation (`operation_key`), a number of lanes, the configuration,
the version of what determines durations, its source and the memory; each further observation is added to it.

Measured durations win over predicted ones. How far the others may be off is learnt from pairs, in which one operation
was both predicted and measured: of the operations of the same kind on the same number of lanes, or if these are fewer
than ``LEAST_PAIRS`` of the same kind, or else of all, the margin is the ``MARGIN_QUANTILE`` of how far measurement and
prediction differ.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np

from tessera.compiler.errors import CompilerError
from tessera.compiler.planning.costs import Cost
from tessera.compiler.planning.operation_key import configuration_key, durations_version
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import DEFAULT_MEMORY, Memory

SCHEMA_VERSION = 1
"""Counts the changes of the tables, and of what is counted in them."""

APPLICATION_ID = 0x54535352
"""Marks the file as a profile database."""

LEAST_PAIRS = 5
"""Pairs of measured and predicted durations from which a margin is learnt."""

MARGIN_QUANTILE = 0.95
"""Share of these pairs that lie within the margin."""

UNKNOWN_MARGIN = 0.10
"""The margin where there are no pairs."""

BUSY_SECONDS = 30.0
"""For which a writer waits for another one."""

_COSTS = tuple(field.name for field in fields(Cost))

_TABLES = f"""
CREATE TABLE durations (
    operation TEXT NOT NULL, kind TEXT NOT NULL, lanes INTEGER NOT NULL, configuration TEXT NOT NULL,
    version TEXT NOT NULL, source TEXT NOT NULL, memory TEXT NOT NULL, count INTEGER NOT NULL,
    {", ".join(f"{name} REAL NOT NULL" for name in _COSTS)}, least INTEGER NOT NULL, most INTEGER NOT NULL,
    PRIMARY KEY (operation, lanes, configuration, version, source, memory)
) WITHOUT ROWID;
CREATE TABLE adaptations (
    id INTEGER PRIMARY KEY, operation TEXT NOT NULL, lanes INTEGER NOT NULL, configuration TEXT NOT NULL,
    version TEXT NOT NULL, quantity TEXT NOT NULL, planned REAL NOT NULL, seen REAL NOT NULL, factor REAL NOT NULL,
    reason TEXT NOT NULL, time TEXT NOT NULL
);
CREATE INDEX adaptations_by_operation ON adaptations (operation, lanes, configuration, version, quantity);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, networks TEXT NOT NULL, configuration TEXT NOT NULL, version TEXT NOT NULL,
    source TEXT NOT NULL, memory TEXT NOT NULL, cycles INTEGER NOT NULL, predicted INTEGER NOT NULL,
    details TEXT NOT NULL, time TEXT NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


class DatabaseError(CompilerError):
    """The profile database cannot be used; the sentence names the file, what is wrong, and the remedy."""


class DurationSource(StrEnum):
    """Where a duration is from."""

    PREDICTED = "predicted"
    MEASURED = "measured"


@dataclass(frozen=True)
class Observation:
    """What an operation took once: its key, the number of lanes, and the cost."""

    operation: str
    lanes: int
    cost: Cost

    @property
    def kind(self) -> str:
        """The first word of the key."""
        return self.operation.partition(" ")[0]


@dataclass(frozen=True)
class Duration:
    """What is known of an operation on a number of lanes.

    Attributes
    ----------
    cost
        The mean of the observations, rounded.
    source
        Where they are from.
    count
        How many there are.
    margin
        By what fraction the cycles may be off: of measured ones half their spread, of predicted ones what was learnt
        from operations like it.
    """

    cost: Cost
    source: DurationSource
    count: int
    margin: float


@dataclass(frozen=True)
class Adaptation:
    """What an executor did because an operation took more than planned.

    Attributes
    ----------
    operation, lanes
        Its key, and its number of lanes.
    quantity
        What there was more of: ``"cycles"``, ``"words"`` or ``"bytes"``.
    planned, seen
        How much was planned, and seen.
    factor
        With which the rest of the plan was made.
    reason
        A sentence.
    """

    operation: str
    lanes: int
    quantity: str
    planned: float
    seen: float
    factor: float
    reason: str


@dataclass(frozen=True)
class Run:
    """A run of networks as a whole: cycles measured and predicted, and what else is worth keeping (JSON values)."""

    networks: tuple[str, ...]
    source: DurationSource
    cycles: int
    predicted: int
    details: Mapping[str, Any]


def default_path() -> Path:
    """``tessera/profile.sqlite`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
    return folder / "tessera" / "profile.sqlite"


class ProfileDatabase:
    """A profile database, for one configuration. A context manager; several processes may have it open and write.

    Parameters
    ----------
    path
        The file, which is made if it is not there.
    config
        The machine of which durations are asked and told.

    Raises
    ------
    DatabaseError
        The file cannot be opened or made, is damaged or no profile database, or is of another schema. Every method
        raises it, too, if the file cannot be read or written.
    """

    def __init__(self, path: Path, config: NpuConfig):
        self.path = path
        self._configuration, self._version = configuration_key(config), durations_version()
        with self._sentences():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def record(
        self, source: DurationSource, observations: Iterable[Observation], memory: Memory = DEFAULT_MEMORY
    ) -> None:
        """Adds observations to what is known."""
        same = (self._configuration, self._version, source, memory_key(memory))
        rows = [
            (each.operation, each.kind, each.lanes, *same, *astuple(each.cost), each.cost.cycles, each.cost.cycles)
            for each in observations
        ]
        means = ", ".join(f"{name} = {name} + (excluded.{name} - {name}) / (count + 1)" for name in _COSTS)
        with self._transaction() as connection:
            connection.executemany(
                f"INSERT INTO durations VALUES (?, ?, ?, ?, ?, ?, ?, 1, {', '.join('?' * len(_COSTS))}, ?, ?) "
                f"ON CONFLICT DO UPDATE SET {means}, least = min(least, excluded.least), "
                "most = max(most, excluded.most), count = count + 1",
                rows,
            )

    def duration(self, operation: str, lanes: int, source: DurationSource) -> Duration | None:
        """What was observed of an operation, if anything: with the memory with which it took least, since a slow memory
        can only add to what it takes, by keeping its instructions waiting."""
        rows = self._rows(
            f"SELECT count, least, most, {', '.join(_COSTS)} FROM durations WHERE operation = ? AND lanes = ? "
            "AND configuration = ? AND version = ? AND source = ? ORDER BY cycles, memory LIMIT 1",
            (operation, lanes, self._configuration, self._version, source),
        )
        for count, least, most, *costs in rows:
            cost = Cost(*map(round, costs))
            kind = operation.partition(" ")[0]
            margin = (
                self.margin(kind, lanes) if source is DurationSource.PREDICTED else (most - least) / 2 / max(1, most)
            )
            return Duration(cost, source, count, margin)
        return None

    def margin(self, kind: str, lanes: int) -> float:
        """By what fraction predicted cycles of operations of a kind, on a number of lanes, may be off."""
        for condition, values in (
            ("AND m.kind = ? AND m.lanes = ?", (kind, lanes)),
            ("AND m.kind = ?", (kind,)),
            ("", ()),
        ):
            rows = self._rows(
                "SELECT min(m.cycles) / min(p.cycles) FROM durations m JOIN durations p USING "
                "(operation, lanes, configuration, version) WHERE m.source = 'measured' AND p.source = 'predicted' "
                f"AND p.cycles > 0 AND configuration = ? AND version = ? {condition} "
                "GROUP BY operation, lanes",
                (self._configuration, self._version, *values),
            )
            if len(rows) >= LEAST_PAIRS or (rows and not condition):
                errors = [abs(ratio - 1) for (ratio,) in rows]
                return float(np.quantile(errors, MARGIN_QUANTILE))
        return UNKNOWN_MARGIN

    def record_adaptation(self, adaptation: Adaptation) -> None:
        """Adds something that an executor adapted."""
        row = (adaptation.operation, adaptation.lanes, self._configuration, self._version)
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO adaptations VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, *astuple(adaptation)[2:], _now()),
            )

    def adaptations(self) -> list[Adaptation]:
        """All adaptations for this configuration and version, in their order."""
        rows = self._rows(
            "SELECT operation, lanes, quantity, planned, seen, factor, reason FROM adaptations "
            "WHERE configuration = ? AND version = ? ORDER BY id",
            (self._configuration, self._version),
        )
        return [Adaptation(*row) for row in rows]

    def factor(self, operation: str, lanes: int, quantity: str = "cycles") -> float:
        """The factor of the latest adaptation of an operation; 1 if there is none."""
        rows = self._rows(
            "SELECT factor FROM adaptations WHERE operation = ? AND lanes = ? AND configuration = ? AND version = ? "
            "AND quantity = ? ORDER BY id DESC LIMIT 1",
            (operation, lanes, self._configuration, self._version, quantity),
        )
        return float(rows[0][0]) if rows else 1.0

    def record_run(self, run: Run, memory: Memory = DEFAULT_MEMORY) -> None:
        """Adds a run."""
        row = (json.dumps(run.networks), self._configuration, self._version, run.source, memory_key(memory))
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO runs VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, run.cycles, run.predicted, json.dumps(dict(run.details)), _now()),
            )

    def runs(self) -> list[Run]:
        """All runs with this configuration and version, in their order."""
        rows = self._rows(
            "SELECT networks, source, cycles, predicted, details FROM runs WHERE configuration = ? AND version = ? "
            "ORDER BY id",
            (self._configuration, self._version),
        )
        return [
            Run(tuple(json.loads(networks)), DurationSource(source), cycles, predicted, json.loads(details))
            for networks, source, cycles, predicted, details in rows
        ]

    def _prepare(self) -> None:
        """Makes the tables of a new file, and checks those of an old one."""
        with self._transaction() as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (schema,) = connection.execute("PRAGMA user_version").fetchone()
            (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not objects and not application:
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                return
        if application != APPLICATION_ID:
            raise DatabaseError(
                f"{self.path} is a SQLite file, but no profile database; name another file with --database"
            )
        if schema != SCHEMA_VERSION:
            raise DatabaseError(
                f"the profile database {self.path} has tables of version {schema}, but this version of the project has "
                f"{SCHEMA_VERSION}; delete the file, or name another one with --database"
            )

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._sentences():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; other writers wait from its beginning on."""
        with self._sentences():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Says in a sentence what is wrong with the file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DatabaseError(
                f"the profile database {self.path} cannot be used ({error}); name a file that you may write to with "
                "--database"
            ) from None
        except sqlite3.DatabaseError as error:
            raise DatabaseError(
                f"the profile database {self.path} is damaged ({error}); delete the file, or name another one with "
                "--database"
            ) from None
        except OSError as error:
            raise DatabaseError(
                f"the profile database {self.path} cannot be made ({error.strerror or error}); name a file that you "
                "may write to with --database"
            ) from None


def memory_key(memory: Memory) -> str:
    """The canonical text of a memory."""
    bandwidth = "bus" if memory.bytes_per_cycle is None else f"{memory.bytes_per_cycle:g}"
    return f"latency={memory.latency} bytes_per_cycle={bandwidth}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
