"""Where the tensors of all jobs of a plan lie in the activation banks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from tessera.compiler.errors import CompilerError
from tessera.compiler.execution_plan import ExecutionPlan, TaskId
from tessera.compiler.lowering.builder import LaneSet
from tessera.compiler.lowering.mapping import MappedNetwork
from tessera.compiler.lowering.placement import BankRange, Lifetime, place
from tessera.compiler.lowering.tiling import OUTPUT, operands
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


@dataclass(frozen=True)
class ChipState:
    """What a plan finds when it starts.

    Attributes
    ----------
    done
        Tasks that have ended.
    live
        Where the tensors are that ended tasks have made and that others still need.
    """

    done: frozenset[TaskId] = frozenset()
    live: Mapping[BankName, BankRange] = field(default_factory=dict)


START = ChipState()
"""Nothing is done, and nothing on chip."""


@dataclass(frozen=True)
class PlanPlacement:
    """Where everything of a plan lies on chip.

    Attributes
    ----------
    ranges
        Of every resident tensor and every buffer.
    moved
        Tensors of the state in which the plan starts that must first be moved to their range, and from where.
    """

    ranges: Mapping[BankName, BankRange]
    moved: Mapping[BankName, BankRange]


def place_plan(
    plan: ExecutionPlan,
    networks: Mapping[str, MappedNetwork],
    config: NpuConfig,
    state: ChipState = START,
    *,
    spread: bool = False,
) -> PlanPlacement:
    """Gives every resident tensor and every buffer words in the banks of the lanes that need it.

    A tensor lies in the lanes of the slots that read it; one that none reads, in those of its writer. Those that are
    alive in a common bundle and have a lane in common never overlap. What is on chip already stays where it
    is if it can.

    Parameters
    ----------
    plan, networks, config
        The plan, the network of each job, and the machine.
    state
        What the plan finds when it starts.
    spread
        True: tensors lie in all lanes, so that whatever runs next can read them.

    Raises
    ------
    PlacementError
        They do not fit.
    """
    lifetimes = _lifetimes(plan, networks, config, state, spread=spread)
    live = {name: where for name, where in state.live.items() if name in lifetimes}
    there = {name: where for name, where in live.items() if lifetimes[name].lanes & ~where.lanes == 0}
    lifetimes |= {name: replace(lifetimes[name], lanes=where.lanes) for name, where in there.items()}
    for kept in (there, {}):
        fixed = {name: where.base for name, where in kept.items()}
        bases = place(list(lifetimes.values()), config.activation_words, fixed)
        if bases is not None:
            ranges = {name: BankRange(bases[name], life.lanes) for name, life in lifetimes.items()}
            return PlanPlacement(ranges, {name: where for name, where in live.items() if ranges[name] != where})
    raise PlacementError(
        f"the tensors of {len(networks)} networks that are alive at the same time do not fit activation banks of "
        f"{config.activation_bank_bytes} bytes; run fewer networks at a time, or raise activation_bank_bytes"
    )


def state_after(
    plan: ExecutionPlan,
    bundles: int,
    networks: Mapping[str, MappedNetwork],
    ranges: Mapping[BankName, BankRange],
    before: ChipState = START,
) -> ChipState:
    """What the next plan finds when a plan has been stopped behind its first ``bundles`` bundles."""
    done = before.done | {task for bundle in plan.bundles[:bundles] for slot in bundle.slots for task in slot.tasks}
    live = {}
    for name, where in {**before.live, **ranges}.items():
        if not name.role:
            users = networks[name.job].users_of(name.name)
            tasks = [TaskId(name.job, name.inference, user) for user in users]
            if any(task in done for task in tasks) and not all(task in done for task in tasks):
                live[name] = where
    return ChipState(done, live)


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


def _lifetimes(
    plan: ExecutionPlan,
    networks: Mapping[str, MappedNetwork],
    config: NpuConfig,
    state: ChipState,
    *,
    spread: bool,
) -> dict[BankName, Lifetime]:
    """What needs memory in which bundles; what is there already, from the first one on."""
    uses: dict[BankName, list[_Use]] = {}
    for index, bundle in enumerate(plan.bundles):
        for slot in bundle.slots:
            lanes = LaneSet(config, tuple(range(config.lanes)) if spread else slot.lanes)
            for task in slot.tasks:
                for name, use in _uses(task, networks[task.job], lanes, index):
                    uses.setdefault(name, []).append(use)
    found = {name: _lifetime(name, of_name) for name, of_name in uses.items()}
    return found | {name: replace(found[name], first=0) for name in state.live if name in found}


def _lifetime(name: BankName, uses: list[_Use]) -> Lifetime:
    readers = [use for use in uses if use.reads] or uses
    lanes = 0
    for use in readers:
        lanes |= use.lanes
    bundles = [use.bundle for use in uses]
    return Lifetime(name, uses[0].words, min(bundles), max(bundles), lanes)
