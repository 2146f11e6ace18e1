"""The profile database: what is kept, what is made of it, and every way in which the file can be wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from random_networks import residual_network

from tessera.compiler.lowering.mapping import map_to_machine
from tessera.compiler.planning import profile_database
from tessera.compiler.planning.costs import Cost, network_costs
from tessera.compiler.planning.durations import costs_of, known_durations, observations
from tessera.compiler.planning.operation_key import configuration_key, durations_version, operation_key
from tessera.compiler.planning.profile_database import (
    LEAST_PAIRS,
    MARGIN_QUANTILE,
    SCHEMA_VERSION,
    UNKNOWN_MARGIN,
    Adaptation,
    DatabaseError,
    DurationSource,
    Observation,
    ProfileDatabase,
    Run,
    default_path,
)
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import Memory

EDGE = NpuConfig.preset("edge")
MEASURED, PREDICTED = DurationSource.MEASURED, DurationSource.PREDICTED


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "profile.sqlite"


def cost(cycles: int) -> Cost:
    return Cost(cycles, 10, 20, 30, 40, 50)


def pair(database: ProfileDatabase, operation: str, lanes: int, predicted: int, measured: int) -> None:
    database.record(PREDICTED, [Observation(operation, lanes, cost(predicted))])
    database.record(MEASURED, [Observation(operation, lanes, cost(measured))])


def test_what_is_kept_is_found_again(file: Path) -> None:
    """By another opening too; mean, number and spread of the observations."""
    with ProfileDatabase(file, EDGE) as database:
        database.record(MEASURED, [Observation("window a", 1, cost(cycles)) for cycles in (100, 104)])
    with ProfileDatabase(file, EDGE) as database:
        database.record(MEASURED, [Observation("window a", 1, cost(108))])
        found = database.duration("window a", 1, MEASURED)
    assert found == profile_database.Duration(cost(104), MEASURED, 3, 4 / 108)


def test_everything_in_the_key_tells_apart(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another operation, number of lanes, source, configuration or version has durations of its own."""
    with ProfileDatabase(file, EDGE) as database:
        database.record(MEASURED, [Observation("window a", 1, cost(7))])
        assert database.duration("window b", 1, MEASURED) is None
        assert database.duration("window a", 2, MEASURED) is None
        assert database.duration("window a", 1, PREDICTED) is None
    with ProfileDatabase(file, replace(EDGE, queue_depth=8)) as database:
        assert database.duration("window a", 1, MEASURED) is None
    monkeypatch.setattr(profile_database, "durations_version", lambda: "another")
    with ProfileDatabase(file, EDGE) as database:
        assert database.duration("window a", 1, MEASURED) is None


def test_the_memory_that_disturbs_least_counts(file: Path) -> None:
    with ProfileDatabase(file, EDGE) as database:
        for bandwidth, cycles in ((4, 90), (8, 70), (None, 80)):
            database.record(MEASURED, [Observation("window a", 1, cost(cycles))], Memory(bytes_per_cycle=bandwidth))
        found = database.duration("window a", 1, MEASURED)
    assert found is not None
    assert (found.cost.cycles, found.count) == (70, 1)


def test_margins_are_learnt_from_like_operations(file: Path) -> None:
    """From the same kind on as many lanes where there are enough pairs, then from the kind, then from all."""
    rng = np.random.default_rng(1)
    errors = rng.uniform(0, 0.3, LEAST_PAIRS)
    with ProfileDatabase(file, EDGE) as database:
        assert database.margin("convolution", 4) == UNKNOWN_MARGIN
        pair(database, "window z", 1, 1000, 1500)
        assert database.margin("convolution", 4) == pytest.approx(0.5)
        for index, error in enumerate(errors):
            pair(database, f"convolution {index}", 4, 10_000, round(10_000 * (1 + error)))
        expected = np.quantile(np.round(errors, 4), MARGIN_QUANTILE)
        assert database.margin("convolution", 4) == pytest.approx(expected, abs=1e-4)
        assert database.margin("convolution", 2) == pytest.approx(expected, abs=1e-4)
        assert database.margin("depthwise", 4) > expected
        pair(database, "convolution a", 2, 100, 60)
        assert database.margin("convolution", 4) == pytest.approx(expected, abs=1e-4)
        # One pair on two lanes is too little: all of the kind count.
        of_kind = np.quantile([*np.round(errors, 4), 0.4], MARGIN_QUANTILE)
        assert database.margin("convolution", 2) == pytest.approx(of_kind, abs=1e-4)


def test_measured_durations_win(file: Path) -> None:
    """For the planner: measured where there is something, else predicted, with the executor's factor and a margin; what
    is moved is known without measuring."""
    mapped = map_to_machine(residual_network(4, 4, side=8), EDGE)
    predicted = network_costs(mapped)
    stem, block = operation_key(mapped, "stem"), operation_key(mapped, "block1a")
    with ProfileDatabase(file, EDGE) as database:
        database.record(PREDICTED, observations(mapped, predicted))
        database.record(MEASURED, [Observation(stem, 4, Cost(12345, 67, 0, 0, 0, 0))])
        database.record_adaptation(Adaptation(block, 2, "cycles", 100, 150, 1.5, "slower"))
        known = known_durations(mapped, database, predicted=predicted)
        plain = known_durations(mapped, database, PREDICTED, predicted)
    assert known["stem"][4].source is MEASURED
    assert known["stem"][4].cost == replace(predicted["stem"][4], cycles=12345, latency=67)
    assert known["stem"][2].source is PREDICTED
    assert known["stem"][2].cost == predicted["stem"][2] == plain["stem"][2].cost
    assert known["block1a"][2].cost.cycles == round(1.5 * predicted["block1a"][2].cycles)
    assert plain["stem"][4].cost == predicted["stem"][4]
    assert costs_of(known)["pool"] == predicted["pool"]
    assert known["pool"][1].margin == pytest.approx(abs(12345 / predicted["stem"][4].cycles - 1))


def test_adaptations_and_runs(file: Path) -> None:
    """They are kept in their order; the last adaptation of a quantity is the factor for the next plan."""
    first = Adaptation("window a", 1, "cycles", 100, 130, 1.3, "its banks were in use")
    others = [replace(first, factor=1.2), replace(first, quantity="words", factor=2.0), replace(first, lanes=2)]
    run = Run(("net", "other"), MEASURED, 1000, 990, {"scheduler": "dp"})
    with ProfileDatabase(file, EDGE) as database:
        for adaptation in (first, *others):
            database.record_adaptation(adaptation)
        database.record_run(run)
    with ProfileDatabase(file, EDGE) as database:
        assert database.adaptations() == [first, *others]
        assert database.factor("window a", 1) == 1.2
        assert database.factor("window a", 1, "words") == 2.0
        assert database.factor("window b", 1) == 1.0
        assert database.runs() == [run]
    with ProfileDatabase(file, NpuConfig.preset("tiny")) as database:
        assert (database.adaptations(), database.runs()) == ([], [])


WRITER = """
import sys
from pathlib import Path
from tessera.compiler.planning.costs import Cost
from tessera.compiler.planning.profile_database import DurationSource, Observation, ProfileDatabase
from tessera.rtl.config import NpuConfig

for index in range(20):
    with ProfileDatabase(Path(sys.argv[1]), NpuConfig.preset("edge")) as database:
        for _ in range(5):
            seen = [Observation(f"window {name}", 1, Cost(10, 0, 0, 0, 0, 0)) for name in ("a", sys.argv[2])]
            database.record(DurationSource.MEASURED, seen)
"""


def test_processes_write_side_by_side(file: Path) -> None:
    """Also when all of them make the file; nothing is lost."""
    command = [sys.executable, "-c", WRITER, str(file)]
    writers = [subprocess.Popen([*command, name], stderr=subprocess.PIPE) for name in ("b", "c")]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors.decode()
    with ProfileDatabase(file, EDGE) as database:
        counts = {name: database.duration(f"window {name}", 1, MEASURED) for name in "abc"}
    assert {name: found and found.count for name, found in counts.items()} == {"a": 200, "b": 100, "c": 100}


def test_a_file_is_made_once(tmp_path: Path) -> None:
    """Whoever opens it at the same time."""
    for attempt in range(10):
        together = Barrier(4)

        def make(attempt: int = attempt, together: Barrier = together) -> None:
            together.wait()
            ProfileDatabase(tmp_path / f"{attempt}.sqlite", EDGE).close()

        with ThreadPoolExecutor(4) as pool:
            for made in [pool.submit(make) for _ in range(4)]:
                made.result()


def test_a_writer_that_fails_leaves_nothing(file: Path) -> None:
    with ProfileDatabase(file, EDGE) as database:
        wrong = Observation("window b", 1, replace(cost(1), cycles=None))  # type: ignore[arg-type]
        with pytest.raises(DatabaseError, match="damaged"):
            database.record(MEASURED, [Observation("window a", 1, cost(1)), wrong])
        assert database.duration("window a", 1, MEASURED) is None
        database.record(MEASURED, [Observation("window a", 1, cost(1))])


def test_other_versions_of_the_tables_are_refused(file: Path) -> None:
    ProfileDatabase(file, EDGE).close()
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(DatabaseError) as raised:
        ProfileDatabase(file, EDGE)
    assert str(raised.value) == (
        f"the profile database {file} has tables of version {SCHEMA_VERSION + 1}, but this version of the project has "
        f"{SCHEMA_VERSION}; delete the file, or name another one with --database"
    )


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    """Damaged ones, databases of something else, folders, and what cannot be written."""
    ProfileDatabase(file, EDGE).close()
    file.write_bytes(b"not a database, but longer than its header: " + bytes(range(200)))
    with pytest.raises(DatabaseError, match=r"is damaged \(file is not a database\); delete the file"):
        ProfileDatabase(file, EDGE)
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(DatabaseError, match="is a SQLite file, but no profile database; name another file"):
        ProfileDatabase(other, EDGE)
    with pytest.raises(DatabaseError, match="cannot be used"):
        ProfileDatabase(tmp_path, EDGE)
    with pytest.raises(DatabaseError, match="cannot be made"):
        ProfileDatabase(other / "profile.sqlite", EDGE)


def test_damage_is_told_when_it_is_met(file: Path) -> None:
    """A file whose pages are overwritten opens, but does not answer."""
    with ProfileDatabase(file, EDGE) as database:
        seen = [Observation(f"window {index} {'x' * 200}", 1, cost(index)) for index in range(500)]
        database.record(MEASURED, seen)
    data = bytearray(file.read_bytes())
    data[4096:] = bytes([0x5A]) * (len(data) - 4096)
    file.write_bytes(data)
    with ProfileDatabase(file, EDGE) as database, pytest.raises(DatabaseError, match="damaged"):
        database.duration("window 7", 1, MEASURED)


def test_the_default_is_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "tessera" / "profile.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # is to be ignored
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() == tmp_path / ".cache" / "tessera" / "profile.sqlite"


def test_keys_of_configuration_and_version() -> None:
    assert configuration_key(EDGE) == configuration_key(NpuConfig.preset("edge"))
    assert configuration_key(EDGE) != configuration_key(replace(EDGE, tables=1))
    assert durations_version() == durations_version()
