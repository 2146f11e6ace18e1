"""Plans in files: what was planned, for which machine and networks, and by which version.

A plan file is JSON; see :class:`StoredPlan` for what is in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.compiler.errors import CompilerError, check_file
from tessera.compiler.execution_plan import Bundle, ExecutionPlan, Slot, TaskId
from tessera.compiler.planning.fault_rules import policy_from_json, policy_to_json
from tessera.compiler.planning.faults import DEFAULT_POLICY, FaultPolicy
from tessera.compiler.planning.objective import Objective
from tessera.compiler.planning.operation_key import configuration_key, durations_version
from tessera.rtl.config import NpuConfig
from tessera.rtl.verilog import hash_parts
from tessera.sim.cycles import Memory
from tessera.sim.golden.network import IntegerNetwork

FORMAT = "tessera plan"
"""Marks a plan file."""

SCHEMA = 2
"""Counts the changes of its contents."""

READABLE_SCHEMAS = (1, SCHEMA)
"""What is read: the first has no fault rules, so that the defaults hold."""

_HASH_DIGITS = 24


class PlanFileError(CompilerError):
    """A plan file cannot be used; the sentence names the file, what is wrong, and the remedy."""


@dataclass(frozen=True)
class StoredNetwork:
    """A network of a plan.

    Attributes
    ----------
    name
        Name of its job.
    file
        The file that it came from.
    fingerprint
        A hash of the network as it was planned, see `fingerprint`.
    inferences, priority, arrival, deadline
        As in `tessera.compiler.planning.Job`.
    faults
        What happens when something goes wrong in its operations.
    """

    name: str
    file: str
    fingerprint: str
    inferences: int = 1
    priority: float = 1.0
    arrival: int = 0
    deadline: int | None = None
    faults: FaultPolicy = DEFAULT_POLICY

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return own | {"faults": policy_to_json(self.faults)}


@dataclass(frozen=True)
class StoredPlan:
    """A plan with what it was made for.

    Attributes
    ----------
    version
        Of all that decides how a plan is made and lowered, see `durations_version`.
    configuration
        Key of the machine's configuration, see `configuration_key`.
    npu
        Name of the configuration.
    io_format
        What inputs and outputs are in DRAM.
    bus_bytes
        Bytes that the machine's bus moves in a cycle.
    memory
        The DRAM that was assumed.
    objective
        What was minimised.
    costs
        Where the durations were from: ``"predicted"`` or ``"measured"``.
    networks
        The networks, in the order in which they were given.
    plan
        The bundles.
    """

    version: str
    configuration: str
    npu: str
    io_format: str
    bus_bytes: int
    memory: Memory
    objective: Objective
    costs: str
    networks: tuple[StoredNetwork, ...]
    plan: ExecutionPlan

    def to_json(self) -> dict[str, Any]:
        """As JSON values; inverse of `from_json`."""
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "version": self.version,
            "npu": self.npu,
            "configuration": self.configuration,
            "io_format": self.io_format,
            "bus_bytes": self.bus_bytes,
            "memory": asdict(self.memory),
            "scheduler": self.plan.scheduler,
            "objective": self.objective.value,
            "costs": self.costs,
            "prefetch": self.plan.prefetch,
            "cycles": self.plan.cycles,
            "networks": [network.to_json() for network in self.networks],
            "bundles": [_bundle_to_json(bundle) for bundle in self.plan.bundles],
        }

    @classmethod
    def from_json(cls, values: Any) -> StoredPlan:
        """From JSON values; raises `KeyError`, `TypeError`, `AttributeError` or `ValueError` if they are
        none of a plan, and `CompilerError` if there are rules for faults that there are not."""
        if values["format"] != FORMAT or values["schema"] not in READABLE_SCHEMAS:
            raise ValueError(f"format {values['format']!r}, schema {values['schema']!r}")
        bundles = tuple(_bundle_from_json(bundle) for bundle in values["bundles"])
        return cls(
            version=text(values["version"]),
            configuration=text(values["configuration"]),
            npu=text(values["npu"]),
            io_format=text(values["io_format"]),
            bus_bytes=whole(values["bus_bytes"]),
            memory=_memory_from_json(**values["memory"]),
            objective=Objective(values["objective"]),
            costs=text(values["costs"]),
            networks=tuple(_network_from_json(**network) for network in values["networks"]),
            plan=ExecutionPlan(text(values["scheduler"]), bundles, bool(values["prefetch"]), whole(values["cycles"])),
        )


def current_version() -> str:
    """The version that plans made now have."""
    return durations_version()


def read_plan(path: Path) -> tuple[StoredPlan, dict[str, Any]]:
    """A plan file: the plan, and all that is in the file.

    Raises
    ------
    CompilerError
        There is no such file.
    PlanFileError
        It is no plan file, or has fault rules that make no sense.
    """
    check_file(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return StoredPlan.from_json(values), values
    except CompilerError as error:
        raise PlanFileError(f"{path} cannot be used: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError):
        raise PlanFileError(f"{path} is no plan that this version reads; make one with tessera plan --output") from None


def check_plan(path: Path, stored: StoredPlan, config: NpuConfig, networks: Mapping[str, IntegerNetwork]) -> None:
    """Refuses a plan that was made for something else, or has rules for operations that are not there.

    Parameters
    ----------
    path
        Its file, for the sentence.
    stored
        The plan.
    config
        The machine on which it is to run.
    networks
        The networks, by the names of their jobs.

    Raises
    ------
    CompilerError
        It was made by another version, for another configuration or for other networks, a network has changed, or there
        are rules for an operation that a network does not have.
    """
    remedy = "plan again with tessera plan --output"
    if stored.version != current_version():
        raise PlanFileError(f"{path} was made by version {stored.version}, but this is {current_version()}; {remedy}")
    if stored.configuration != configuration_key(config):
        raise PlanFileError(
            f"{path} was made for configuration {stored.npu!r} ({stored.configuration}), not for {config.name!r} "
            f"({configuration_key(config)}); give --npu, or {remedy}"
        )
    names = [network.name for network in stored.networks]
    if len(set(names)) != len(names) or sorted(names) != sorted(networks):
        raise PlanFileError(
            f"{path} is a plan for the networks {', '.join(names)}, not for {', '.join(networks)}; give those, or "
            f"{remedy}"
        )
    for network in stored.networks:
        if network.fingerprint != fingerprint(networks[network.name]):
            raise PlanFileError(f"network {network.name!r} has changed since {path} was made; {remedy}")
        network.faults.check_names(networks[network.name])


def fingerprint(network: IntegerNetwork) -> str:
    """A hash of all that a network computes: its tensors, operations and weights."""
    return hash_parts(list(_parts(network)))[:_HASH_DIGITS]


def _parts(value: Any) -> list[bytes]:
    """A value as bytes that are the same whenever it is the same."""
    if isinstance(value, np.ndarray):
        return [f"{value.dtype.kind} {value.shape}".encode(), value.astype(np.int64).tobytes()]
    if is_dataclass(value):
        return [
            type(value).__name__.encode(),
            *(part for each in fields(value) for part in _parts(getattr(value, each.name))),
        ]
    if isinstance(value, Mapping):
        return [b"{", *(part for pair in value.items() for part in _parts(pair)), b"}"]
    if isinstance(value, list | tuple):
        return [b"[", *(part for item in value for part in _parts(item)), b"]"]
    return [repr(value).encode()]


def _bundle_to_json(bundle: Bundle) -> dict[str, Any]:
    slots = [
        {
            "network": slot.job,
            "lanes": list(slot.lanes),
            "tasks": [{"inference": task.inference, "operation": task.operation} for task in slot.tasks],
        }
        for slot in bundle.slots
    ]
    return {"start": bundle.start, "end": bundle.end, "slots": slots}


def _bundle_from_json(values: Any) -> Bundle:
    slots = []
    for slot in values["slots"]:
        job = text(slot["network"])
        tasks = tuple(TaskId(job, whole(each["inference"]), text(each["operation"])) for each in slot["tasks"])
        if not tasks:
            raise ValueError("a slot without tasks")
        slots.append(Slot(tuple(whole(lane) for lane in slot["lanes"]), tasks))
    return Bundle(tuple(slots), whole(values["start"]), whole(values["end"]))


def _network_from_json(faults: Any = None, **values: Any) -> StoredNetwork:
    policy = DEFAULT_POLICY if faults is None else policy_from_json(faults)
    network = StoredNetwork(**values, faults=policy)
    for each in (network.name, network.file, network.fingerprint):
        text(each)
    for count in (network.inferences, network.arrival, 0 if network.deadline is None else network.deadline):
        whole(count)
    _positive(network.priority)
    return network


def _memory_from_json(**values: Any) -> Memory:
    memory = Memory(**values)
    whole(memory.latency)
    _positive(1 if memory.bytes_per_cycle is None else memory.bytes_per_cycle)
    return memory


def whole(value: Any) -> int:
    """A JSON value that must be a whole number from 0 on; raises `ValueError` if it is not."""
    if type(value) is not int or value < 0:  # neither a truth value, which Python counts as a number
        raise ValueError(f"{value!r} is no whole number")
    return value


def text(value: Any) -> str:
    """A JSON value that must be text; raises `ValueError` if it is not, or if no file can hold it."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    value.encode()
    return value


def _positive(value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is no positive number")
