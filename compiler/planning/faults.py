"""What happens when something goes wrong in an operation: rules that a network's plan carries.

The NPU counts, per operation, what its values suffered, and tells which transfer failed; it is the executor
(`tessera.firmware.executor`) that acts on the rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tessera.compiler.errors import CompilerError
from tessera.rtl.isa import NanPolicy
from tessera.sim.counts import Counts
from tessera.sim.golden.network import IntegerNetwork, TensorType
from tessera.sim.program import DramFormat


class Fault(StrEnum):
    """What can go wrong."""

    OVERFLOW = "overflow"
    """A sum has left the range of the accumulators, which the compiler proves to be impossible: results are wrong."""
    UNDERFLOW = "underflow"
    """Values other than 0 became 0 in a conversion from or to floating point."""
    SATURATION = "saturation"
    """Values were saturated, by the post-processing or in a conversion."""
    NOT_A_NUMBER = "not a number"
    """A load has found NaN or infinity."""
    BUS_ERROR = "bus error"
    """The memory has answered a transfer with an error."""
    WATCHDOG = "watchdog"
    """The stream had to be stopped: no progress, or instructions that cannot be read."""


class Action(StrEnum):
    """What is done about it."""

    LIMIT = "limit"
    """Go on with the limited value: saturated, 0, or for NaN 0 and for infinity the end of the range."""
    REPLACE = "replace"
    """Go on with a given value in place of NaN and infinity."""
    RENORMALISE = "renormalise"
    """Run the inference again with twice the scale of the tensor, or half if it was an underflow."""
    DEEPER = "deeper"
    """Run the inference again with the next higher depth of the tensor."""
    STOP_OPERATION = "stop operation"
    """The load ends there, and the operation goes on with what it has."""
    STOP_NETWORK = "stop network"
    """The request fails; the others are not touched."""
    RETRY = "retry"
    """Run the inference again, elsewhere in DRAM."""


_REPEATS = {Action.RENORMALISE, Action.DEEPER, Action.RETRY}

ALLOWED: Mapping[Fault, tuple[Action, ...]] = {
    Fault.OVERFLOW: (Action.STOP_NETWORK, Action.LIMIT, Action.RETRY),
    Fault.UNDERFLOW: (Action.LIMIT, Action.RENORMALISE, Action.DEEPER, Action.STOP_NETWORK),
    Fault.SATURATION: (Action.LIMIT, Action.RENORMALISE, Action.DEEPER, Action.STOP_NETWORK),
    Fault.NOT_A_NUMBER: (Action.STOP_NETWORK, Action.STOP_OPERATION, Action.REPLACE, Action.LIMIT),
    Fault.BUS_ERROR: (Action.RETRY, Action.STOP_NETWORK),
    Fault.WATCHDOG: (Action.RETRY, Action.STOP_NETWORK),
}
"""What can be done about each; the first is the default."""

COUNTED: Mapping[Fault, tuple[str, ...]] = {
    Fault.OVERFLOW: ("overflow",),
    Fault.UNDERFLOW: ("underflows",),
    Fault.SATURATION: ("saturations", "overflows"),
}
"""The faults that show in what the machine counts for an operation, and in which counts (`tessera.sim.counts`)."""


@dataclass(frozen=True)
class Detail:
    """A number of a rule: its attribute in `FaultRule`, and its type."""

    attribute: str
    kind: type[int] | type[float]


DETAILS: Mapping[str, Detail] = {
    "above": Detail("limit", float),
    "value": Detail("value", int),
    "attempts": Detail("attempts", int),
}
"""The numbers of rules by the names that users give them."""

_NAN_POLICIES = {
    Action.STOP_NETWORK: NanPolicy.STOP_STREAM,
    Action.STOP_OPERATION: NanPolicy.STOP_OPERATION,
    Action.REPLACE: NanPolicy.REPLACE,
    Action.LIMIT: NanPolicy.SATURATE,
}


@dataclass(frozen=True)
class FaultRule:
    """What happens at a fault.

    Attributes
    ----------
    action
        What is done.
    limit
        Underflow and saturation: the share of the operation's output values, 0 to 1, up to which nothing is done.
    value
        `Action.REPLACE`: the integer that is taken.
    attempts
        Of repetitions: how many there are at most. When they have not helped, results that are only limited are kept,
        and otherwise the request fails.
    """

    action: Action
    limit: float = 0.0
    value: int = 0
    attempts: int = 1

    def __str__(self) -> str:
        details = {
            Action.REPLACE: f" by {self.value}",
            **dict.fromkeys(_REPEATS, f" (at most {self.attempts})"),
        }.get(self.action, "")
        return f"{self.action}{details}" + (f" above {self.limit:.3g} of the values" if self.limit else "")


@dataclass(frozen=True)
class FaultPolicy:
    """The rules of a network.

    Attributes
    ----------
    rules
        For faults in any operation; the defaults are the first of `ALLOWED`.
    operations
        For some operations, by name, rules that differ.

    Raises
    ------
    CompilerError
        An action is not possible at a fault, or a number makes no sense.
    """

    rules: Mapping[Fault, FaultRule] = field(default_factory=dict)
    operations: Mapping[str, Mapping[Fault, FaultRule]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rules in (self.rules, *self.operations.values()):
            for fault, rule in rules.items():
                _check_rule(fault, rule)

    def rule(self, fault: Fault, operation: str = "") -> FaultRule:
        """What happens at a fault in an operation."""
        for rules in (self.operations.get(operation, {}), self.rules):
            if fault in rules:
                return rules[fault]
        return FaultRule(ALLOWED[fault][0])

    @property
    def repeats_counted(self) -> bool:
        """Whether an inference may have to run again because of what was counted."""
        rules = (self.rules, *self.operations.values())
        return any(fault in COUNTED and rule.action in _REPEATS for each in rules for fault, rule in each.items())

    def check_names(self, network: IntegerNetwork) -> None:
        """Raises `CompilerError` if there are rules for an operation that the network does not have."""
        known = {operation.name for operation in network.operations}
        for name in self.operations:
            if name not in known:
                raise CompilerError(
                    f"there are fault rules for {name!r}, but no such operation; name one of the network's"
                )


def details_of(fault: Fault, action: Action) -> tuple[str, ...]:
    """Names of the numbers, of `DETAILS`, that mean something in a rule."""
    limited = fault in (Fault.UNDERFLOW, Fault.SATURATION) and action is not Action.LIMIT
    wanted = {"above": limited, "value": action is Action.REPLACE, "attempts": action in _REPEATS}
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


DEFAULT_POLICY = FaultPolicy()
"""The defaults for everything."""


def _check_rule(fault: Fault, rule: FaultRule) -> None:
    if rule.action not in ALLOWED[fault]:
        raise CompilerError(f"{fault} cannot be answered by {rule.action!s}; take one of {', '.join(ALLOWED[fault])}")
    if not 0 <= rule.limit <= 1:
        raise CompilerError(f"the limit {rule.limit} of the rule for {fault} is no share of values; give 0 to 1")
    if rule.attempts < 1 and rule.action in _REPEATS:
        raise CompilerError(f"the rule for {fault} has {rule.attempts} attempts; give at least 1")


@dataclass(frozen=True)
class BrokenRule:
    """A rule that what was counted for an operation has broken: the operation, the fault, the rule, and the share of
    the operation's output values that the fault has hit."""

    operation: str
    fault: Fault
    rule: FaultRule
    share: float


def broken_rules(policy: FaultPolicy, network: IntegerNetwork, counts: Mapping[str, Counts]) -> Iterator[BrokenRule]:
    """The rules that one inference has broken, those that let things be left out.

    Parameters
    ----------
    policy, network
        The rules, and whose they are.
    counts
        What the machine has counted for each operation, by name.
    """
    outputs = {operation.name: operation.output for operation in network.operations}
    for name, found in counts.items():
        for fault in COUNTED:
            rule, share = policy.rule(fault, name), _share(network.tensors[outputs[name]], fault, found)
            if rule.action is not Action.LIMIT and share > rule.limit:
                yield BrokenRule(name, fault, rule, share)


def _share(tensor: TensorType, fault: Fault, counts: Counts) -> float:
    """The share of the values of an operation's output that a fault has hit."""
    if fault is Fault.OVERFLOW:
        return float(counts.overflow != 0)
    return sum(getattr(counts, each) for each in COUNTED[fault]) / math.prod(tensor.shape)


def with_nan_policies(
    formats: Mapping[str, DramFormat], policy: FaultPolicy, network: IntegerNetwork
) -> dict[str, DramFormat]:
    """Formats whose loads treat NaN and infinity as the rules of the operations that read them say.

    Where several operations read an input, the first one's rule counts.

    Raises
    ------
    CompilerError
        A value that replaces NaN and infinity is none that the input can have.
    """
    found = dict(formats)
    for operation in reversed(network.operations):
        if operation.input in formats and formats[operation.input].is_float:
            rule = policy.rule(Fault.NOT_A_NUMBER, operation.name)
            least, most = network.tensors[operation.input].range
            if rule.action is Action.REPLACE and not least <= rule.value <= most:
                raise CompilerError(
                    f"NaN in input {operation.input!r} cannot be replaced by {rule.value}; give an integer from "
                    f"{least} to {most}"
                )
            chosen = replace(formats[operation.input], nan_policy=_NAN_POLICIES[rule.action], nan_value=rule.value)
            found[operation.input] = chosen
    return found
