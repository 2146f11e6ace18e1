"""Where the tensors of all jobs of a plan lie in the activation banks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.builder import LaneSet
from tessera.compiler.lowering.mapping import MappedNetwork
from tessera.compiler.lowering.placement import BankRange, Lifetime, place
from tessera.compiler.lowering.tiling import OUTPUT, operands
from tessera.compiler.planning.plan import ExecutionPlan, TaskId
from tessera.rtl.config import NpuConfig


class PlacementError(CompilerError):
    """Tensors of a plan that are alive at the same time do not fit the activation banks."""


@dataclass(frozen=True)
class BankName:
    """What memory is allotted to: a root of storage, or the buffer of an operation's operand (with its ``role``)."""

    job: str
    inference: int
    name: str
    role: str = ""


def place_plan(
    plan: ExecutionPlan, networks: Mapping[str, MappedNetwork], config: NpuConfig
) -> dict[BankName, BankRange]:
    """Gives every resident tensor and every buffer words in the banks of the lanes that need it.

    A tensor lies in the lanes of the slots that read it; one that none reads, in those of its writer. Those that are
    alive in a common bundle and have a lane in common never overlap.

    Raises
    ------
    PlacementError
        They do not fit.
    """
    uses: dict[BankName, list[_Use]] = {}
    for index, bundle in enumerate(plan.bundles):
        for slot in bundle.slots:
            lanes = LaneSet(config, slot.lanes)
            for task in slot.tasks:
                for name, use in _uses(task, networks[task.job], lanes, index):
                    uses.setdefault(name, []).append(use)
    lifetimes = [_lifetime(name, of_name) for name, of_name in uses.items()]
    bases = place(lifetimes, config.activation_words)
    if bases is None:
        raise PlacementError(
            f"the tensors of {len(networks)} networks that are alive at the same time do not fit activation banks of "
            f"{config.activation_bank_bytes} bytes; run fewer networks at a time, or raise activation_bank_bytes"
        )
    return {life.name: BankRange(bases[life.name], life.lanes) for life in lifetimes}


@dataclass(frozen=True)
class _Use:
    """A bundle in which a task of some lanes reads or writes ``words`` words."""

    bundle: int
    lanes: int
    words: int
    reads: bool


def _uses(task: TaskId, mapped: MappedNetwork, lanes: LaneSet, bundle: int) -> Iterator[tuple[BankName, _Use]]:
    """What a task uses, and how."""
    network, storage, tiling = mapped.network, mapped.storage, mapped.tiling
    chosen = tiling.operations[task.operation]
    for role, name in operands(mapped.operations[task.operation]).items():
        holders, reads = lanes.holders(network.tensors[name].depth), role != OUTPUT
        root = storage.root(name)
        if root in tiling.resident:
            yield BankName(task.job, task.inference, root), _Use(bundle, holders, storage.words(root), reads)
        else:
            words = chosen.copies * chosen.buffers[role]
            yield BankName(task.job, task.inference, task.operation, role), _Use(bundle, holders, words, reads)


def _lifetime(name: BankName, uses: list[_Use]) -> Lifetime:
    readers = [use for use in uses if use.reads] or uses
    lanes = 0
    for use in readers:
        lanes |= use.lanes
    bundles = [use.bundle for use in uses]
    return Lifetime(name, uses[0].words, min(bundles), max(bundles), lanes)
