"""Fault rules as text and as JSON values: what is meant, and every mistake as one sentence."""

from __future__ import annotations

import json

import pytest

from tessera.compiler.errors import CompilerError
from tessera.compiler.planning.fault_rules import describe_policy, parse_policies, policy_from_json, policy_to_json
from tessera.compiler.planning.faults import ALLOWED, DEFAULT_POLICY, Action, Fault, FaultPolicy, FaultRule, details_of

NETWORKS = ("a", "a:b")
"""The second one's name begins like an operation of the first."""


def test_rules_of_all_of_one_and_of_an_operation() -> None:
    """The most special rule wins, and colons may be in any name."""
    texts = ("saturation=renormalise,above=0.25,attempts=3", "a:saturation=limit", "a:Conv:0:saturation=stop-network")
    texts += ("a:b:bus error=stop network", "a:b:conv:not-a-number=replace,value=-7")
    first, second = parse_policies(texts, NETWORKS).values()
    assert first.rule(Fault.SATURATION) == FaultRule(Action.LIMIT)
    assert first.rule(Fault.SATURATION, "Conv:0").action is Action.STOP_NETWORK
    assert second.rule(Fault.SATURATION) == FaultRule(Action.RENORMALISE, limit=0.25, attempts=3)
    assert second.rule(Fault.BUS_ERROR).action is Action.STOP_NETWORK
    assert second.rule(Fault.NOT_A_NUMBER, "conv") == FaultRule(Action.REPLACE, value=-7)
    assert first.rule(Fault.BUS_ERROR).action is Action.RETRY
    assert parse_policies((), NETWORKS) == dict.fromkeys(NETWORKS, DEFAULT_POLICY)


WRONG = {
    "saturation": r"'saturation' is no fault rule; write \[NETWORK:.*such as saturation=limit",
    "heat=limit": r"there is no fault 'heat'; take one of overflow, underflow, saturation, not-a-number, bus-error,",
    "c:saturation=limit": r"there is no network 'c'; the networks are a, a:b",
    "saturation=explode": r"there is no answer to saturation 'explode'; take one of limit, renormalise,",
    "bus-error=limit": r"bus error cannot be answered by limit; take one of retry, stop network",
    "saturation=renormalise,above=2": r"the limit 2\.0 of the rule for saturation is no share",
    "saturation=renormalise,above=nan": r"the limit nan of the rule for saturation is no share",
    "saturation=renormalise,attempts=0": r"has 0 attempts; give at least 1",
    "saturation=renormalise,attempts=1.5": r"attempts of the rule for saturation is '1\.5'; give a whole number",
    "saturation=renormalise,value=1": r"has no detail 'value'; it has only above, attempts",
    "overflow=stop-network,above=0.5": r"stop network for overflow has no detail 'above'; it has none",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_rules(text: str) -> None:
    with pytest.raises(CompilerError, match=WRONG[text]):
        parse_policies([text], NETWORKS)


def test_a_fault_has_one_rule() -> None:
    with pytest.raises(CompilerError, match="there is another one for the same fault; give one"):
        parse_policies(["a:overflow=retry", "a:overflow=limit"], NETWORKS)


def test_json_has_every_rule() -> None:
    """Every possible rule comes back from JSON as it was; what is not said is there as the default."""
    for fault, actions in ALLOWED.items():
        for action in actions:
            possible = details_of(fault, action)
            numbers = {"limit": 0.5 * ("above" in possible), "value": 7 * ("value" in possible)}
            rule = FaultRule(action, **numbers, attempts=1 + ("attempts" in possible))
            policy = FaultPolicy(operations={"conv": {fault: rule}})
            values = json.loads(json.dumps(policy_to_json(policy)))
            assert values["rules"].keys() == set(Fault)
            found = policy_from_json(values)
            assert found.rule(fault, "conv") == rule
            assert all(found.rule(each) == DEFAULT_POLICY.rule(each) for each in Fault)
    assert policy_from_json({}) == DEFAULT_POLICY


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rules": {"heat": {"action": "limit"}}}, "there is no fault 'heat'"),
        ({"rules": {"overflow": {"action": "wait"}}}, "there is no answer to overflow 'wait'"),
        ({"rules": {"overflow": {"action": "retry", "attempts": True}}}, "is True; give a whole number"),
        ({"rules": {"overflow": {"action": "retry", "attempts": 1.5}}}, r"is 1\.5; give a whole number"),
        ({"rules": {"overflow": {"action": "retry", "attempts": []}}}, r"is \[\]; give a whole number"),
        ({"others": {}}, "fault rules have no part 'others'"),
    ],
)
def test_wrong_json(values: object, sentence: str) -> None:
    with pytest.raises(CompilerError, match=sentence):
        policy_from_json(values)


def test_description() -> None:
    """A line for the network with all rules, and one for each operation that differs."""
    policy = parse_policies(["a:saturation=deeper,above=0.1", "a:conv:overflow=retry,attempts=2"], ["a"])["a"]
    common, own = describe_policy("a", policy)
    assert common.startswith("faults in a: overflow: stop network; underflow: limit; saturation: deeper")
    assert "above 0.1 of the values" in common and "watchdog: retry (at most 1)" in common
    assert own == "faults in a.conv: overflow: retry (at most 2)"
