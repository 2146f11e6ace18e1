"""Fault rules as text, as the command line takes them, and as JSON values, as plan files hold them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tessera.compiler.errors import CompilerError
from tessera.compiler.planning.faults import (
    ALLOWED,
    DETAILS,
    Action,
    Fault,
    FaultPolicy,
    FaultRule,
    details_of,
)

RULE_FORM = "[NETWORK:[OPERATION:]]FAULT=ACTION[,DETAIL=NUMBER]"
"""How a rule is written."""

_RULE = re.compile(r"(?:(?P<target>.+):)?(?P<fault>[^:=]+)=(?P<action>[^:=,]+)(?P<details>(?:,[^:=,]+=[^:=,]+)*)")

Word = TypeVar("Word", Fault, Action)


def parse_policies(texts: Iterable[str], networks: Iterable[str]) -> dict[str, FaultPolicy]:
    """The rules of each network from texts such as ``saturation=limit`` (all networks), ``a:bus-error=retry`` or
    ``a:conv1:saturation=renormalise,above=0.01,attempts=2``; a network's own rule wins over one for all.

    Parameters
    ----------
    texts
        The rules.
    networks
        Names of the networks.

    Raises
    ------
    CompilerError
        A text is no rule, names what there is not, or says something twice.
    """
    names = list(networks)
    common: dict[Fault, FaultRule] = {}
    rules: dict[str, dict[Fault, FaultRule]] = {name: {} for name in names}
    operations: dict[str, dict[str, dict[Fault, FaultRule]]] = {name: {} for name in names}
    for text in texts:
        target, fault, rule = _parse(text)
        network, operation = _split_target(text, target, names)
        if not network:
            found = common
        elif not operation:
            found = rules[network]
        else:
            found = operations[network].setdefault(operation, {})
        if fault in found:
            raise CompilerError(f"fault rule {text!r}: there is another one for the same fault; give one")
        found[fault] = rule
    return {name: FaultPolicy(common | rules[name], operations[name]) for name in names}


def policy_to_json(policy: FaultPolicy) -> dict[str, Any]:
    """As JSON values: for every fault what happens, defaults included, and by operation what differs; inverse of
    `policy_from_json`."""
    return {
        "rules": {fault.value: _rule_to_json(fault, policy.rule(fault)) for fault in Fault},
        "operations": {
            name: {fault.value: _rule_to_json(fault, rule) for fault, rule in rules.items()}
            for name, rules in policy.operations.items()
        },
    }


def policy_from_json(values: Any) -> FaultPolicy:
    """From JSON values; what is left out is as by default.

    Raises
    ------
    CompilerError
        There is no such fault or action, or a detail makes no sense.
    TypeError, AttributeError
        They are of another kind.
    """
    for key in values.keys() - {"rules", "operations"}:
        raise CompilerError(f"fault rules have no part {key!r}; they have rules and operations")
    return FaultPolicy(
        _rules_from_json(values.get("rules", {})),
        {name: _rules_from_json(rules) for name, rules in values.get("operations", {}).items()},
    )


def describe_policy(name: str, policy: FaultPolicy) -> Iterator[str]:
    """What happens at faults in a network: a line for all of its operations, and one for each that differs."""
    yield f"faults in {name}: " + "; ".join(f"{fault}: {policy.rule(fault)}" for fault in Fault)
    for operation, rules in policy.operations.items():
        yield f"faults in {name}.{operation}: " + "; ".join(f"{fault}: {rule}" for fault, rule in rules.items())


def _parse(text: str) -> tuple[str, Fault, FaultRule]:
    """What a rule is for, at which fault, and the rule itself."""
    found = _RULE.fullmatch(text)
    if found is None:
        raise CompilerError(f"{text!r} is no fault rule; write {RULE_FORM}, such as saturation=limit")
    details = dict(each.split("=") for each in found["details"].split(",")[1:])
    fault = _word(Fault, found["fault"], "fault", Fault)
    return found["target"] or "", fault, _make_rule(fault, found["action"], details)


def _split_target(text: str, target: str, names: list[str]) -> tuple[str, str]:
    """Network and operation of a rule; both may have colons in their names, so the longest network that fits is it."""
    fitting = [name for name in names if target == name or target.startswith(f"{name}:")]
    if target and not fitting:
        raise CompilerError(f"fault rule {text!r}: there is no network {target!r}; the networks are {', '.join(names)}")
    network = max(fitting, key=len, default="")
    return network, target[len(network) + 1 :]


def _make_rule(fault: Fault, action: str, details: Mapping[str, Any]) -> FaultRule:
    """A rule from its words and numbers, which may be text."""
    chosen = _word(Action, action, f"answer to {fault}", ALLOWED[fault])
    possible = details_of(fault, chosen)
    for name in details:
        if name not in possible:
            known = f"has only {', '.join(possible)}" if possible else "has none"
            raise CompilerError(f"the rule {chosen} for {fault} has no detail {name!r}; it {known}")
    numbers = {DETAILS[name].attribute: _number(fault, name, value) for name, value in details.items()}
    return FaultRule(chosen, **numbers)


def _number(fault: Fault, name: str, value: Any) -> Any:
    kind = DETAILS[name].kind
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError):
        wanted = "a whole number" if kind is int else "a number"
        raise CompilerError(f"{name} of the rule for {fault} is {value!r}; give {wanted}") from None


def _word(kind: type[Word], text: str, what: str, known: Iterable[Word]) -> Word:
    """A fault or an action by its name, with hyphens or blanks."""
    try:
        return kind(text.replace("-", " "))
    except ValueError:
        words = ", ".join(each.replace(" ", "-") for each in known)
        raise CompilerError(f"there is no {what} {text!r}; take one of {words}") from None


def _rule_to_json(fault: Fault, rule: FaultRule) -> dict[str, Any]:
    details = {name: getattr(rule, DETAILS[name].attribute) for name in details_of(fault, rule.action)}
    return {"action": rule.action.value, **details}


def _rules_from_json(values: Any) -> dict[Fault, FaultRule]:
    found = {}
    for name, each in values.items():
        fault = _word(Fault, name, "fault", Fault)
        details = dict(each)
        found[fault] = _make_rule(fault, str(details.pop("action")), details)
    return found
