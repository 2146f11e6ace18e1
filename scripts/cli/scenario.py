"""Scenario files of ``tessera serve``: networks, requests for them, and what changes when."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from tessera.compiler.errors import CompilerError, check_file, first_line

Entry = TypeVar("Entry", "NetworkEntry", "RequestEntry", "ChangeEntry")

LARGEST_CYCLE = 1 << 48
"""Times up to which a scenario may go."""


@dataclass(frozen=True)
class NetworkEntry:
    """A network: its file, typical inputs if it is a float one, and its fault rules, without a network's name."""

    file: Path
    calibration: Path | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class RequestEntry:
    """A request: its network, its samples and how many of them are used, and as in `Request`."""

    name: str
    network: str
    input: Path
    samples: int | None = None
    priority: float = 1.0
    arrival: int = 0
    deadline: int | None = None


@dataclass(frozen=True)
class ChangeEntry:
    """What happens to a request at a cycle: it has another priority, or it is cancelled."""

    request: str
    cycle: int
    priority: float | None = None
    cancel: bool = False


@dataclass(frozen=True)
class ScenarioFile:
    """The contents of a scenario file."""

    networks: Mapping[str, NetworkEntry]
    requests: tuple[RequestEntry, ...]
    changes: tuple[ChangeEntry, ...]

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        found = [each.file for each in self.networks.values()] + [each.input for each in self.requests]
        return found + [each.calibration for each in self.networks.values() if each.calibration is not None]


def read_scenario(path: Path) -> ScenarioFile:
    """Reads a scenario file; names of files in it are relative to its folder.

    Raises
    ------
    CompilerError
        There is no such file, or it is no scenario; names the entry, the value and the remedy.
    """
    check_file(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CompilerError(f"{path} is no TOML file: {first_line(error)}") from None
    reader = _Reader(path)
    reader.check_keys("the scenario", values, ("network", "request", "change"), ("network", "request"))
    networks = reader.table("network", values["network"])
    found = ScenarioFile(
        {name: reader.entry(NetworkEntry, f"network {name!r}", own) for name, own in networks.items()},
        tuple(reader.entries(RequestEntry, "request", values["request"])),
        tuple(reader.entries(ChangeEntry, "change", values.get("change", []))),
    )
    reader.check_names(found)
    return found


class _Reader:
    """Turns the values of a file into entries; its errors name the file and the entry."""

    def __init__(self, path: Path):
        self._path = path

    def error(self, sentence: str) -> CompilerError:
        return CompilerError(f"{self._path}: {sentence}")

    def table(self, name: str, values: Any) -> Mapping[str, Any]:
        if not isinstance(values, dict) or not values:
            raise self.error(f"{name} is no table with entries; write [{name}.NAME]")
        return values

    def entries(self, kind: type[Entry], name: str, values: Any) -> list[Entry]:
        if not isinstance(values, list):
            raise self.error(f"{name} is no list of tables; write [[{name}]]")
        return [self.entry(kind, f"{name} {index}", own) for index, own in enumerate(values)]

    def entry(self, kind: type[Entry], where: str, values: Any) -> Entry:
        if not isinstance(values, dict):
            raise self.error(f"{where} is {values!r}, but must be a table")
        known = fields(kind)
        needed = [each.name for each in known if each.default is MISSING]
        self.check_keys(where, values, [each.name for each in known], needed)
        types = {each.name: str(each.type) for each in known}
        return kind(**{name: self._value(f"{name} of {where}", types[name], value) for name, value in values.items()})

    def check_keys(self, where: str, values: Mapping[str, Any], known: Any, needed: Any) -> None:
        for name in values:
            if name not in known:
                raise self.error(f"{where} has {name!r}, which means nothing; it can have {', '.join(known)}")
        for name in needed:
            if name not in values:
                raise self.error(f"{where} has no {name!r}; it needs {', '.join(needed)}")

    def _value(self, where: str, kind: str, value: Any) -> Any:
        """A value as the entry has it."""
        wanted, found = _KINDS[kind.removesuffix(" | None")]
        if not found(value):
            raise self.error(f"{where} is {value!r}; give {wanted}")
        if kind.startswith("Path"):
            return self._path.parent / value
        return tuple(value) if isinstance(value, list) else value

    def check_names(self, found: ScenarioFile) -> None:
        """Every name must be there once, and what is named must exist."""
        names = [request.name for request in found.requests]
        for name in names:
            if names.count(name) > 1:
                raise self.error(f"several requests are named {name!r}; give each a name of its own")
        for request in found.requests:
            if request.network not in found.networks:
                known = ", ".join(found.networks)
                raise self.error(f"request {request.name!r} is for the network {request.network!r}; there are {known}")
        for change in found.changes:
            if change.request not in names:
                raise self.error(f"a change is for the request {change.request!r}; there are {', '.join(names)}")
            if change.cancel == (change.priority is not None):
                raise self.error(
                    f"the change of request {change.request!r} at cycle {change.cycle} must have either a priority or "
                    "cancel = true"
                )


def _is_cycle(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_CYCLE


_KINDS = {
    "Path": ("the name of a file", lambda value: isinstance(value, str) and value and "\0" not in value),
    "str": ("a text", lambda value: isinstance(value, str) and value != ""),
    "int": (f"a whole number from 0 to 2**{LARGEST_CYCLE.bit_length() - 1}", _is_cycle),
    "float": ("a number", lambda value: type(value) in (int, float)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "tuple[str, ...]": (
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    ),
}
"""By the types of the entries what is asked for, and what passes."""
