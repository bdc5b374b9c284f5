"""Policies: who can move an alias, and how many approvals a version needs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.registry.events import Event
from brew_platform.registry.policy import AliasRule, Policy, judge_move, policy_of

POLICY = Policy(
    roles={"owner": ["ana"], "reviewer": ["ben", "eve"]},
    aliases={"production": AliasRule(move=["owner"], approvals={"reviewer": 1})},
    change=["owner"],
)


def event(number: int, kind: str, version: int, author: str, policy: Any = None) -> Event:
    return Event(number=number, kind=kind, version=version, alias=None, author=author, time="", policy=policy)


def verdicts(author: str, events: list[Event], *, alias: str = "production", publisher: str = "ben") -> dict[str, bool]:
    outcomes = judge_move(POLICY, alias, author=author, events=events, version=7, publisher=publisher)
    return {outcome.name: outcome.passed for outcome in outcomes}


def test_a_promotion_needs_the_role_and_the_approvals_of_others() -> None:
    assert verdicts("ana", []) == {"role": True, "approvals.reviewer": False}
    assert verdicts("ana", [event(1, "approve", 7, "eve")]) == {"role": True, "approvals.reviewer": True}
    assert verdicts("ben", [event(1, "approve", 7, "eve")])["role"] is False
    for approval in (
        event(1, "approve", 6, "eve"),  # of another version
        event(1, "approve", 7, "ben"),  # of the publisher
        event(1, "approve", 7, "ana"),  # of another role
        event(1, "tag", 7, "eve"),
    ):
        assert verdicts("ana", [approval])["approvals.reviewer"] is False
    assert verdicts("dan", [], alias="canary") == {}


def test_a_rollback_needs_the_role_only() -> None:
    (outcome,) = judge_move(POLICY, "production", author="dan", events=[], version=None, publisher=None)
    assert str(outcome) == "gate role failed (dan is not owner, threshold 1)"
    (outcome,) = judge_move(POLICY, "production", author="ana", events=[], version=None, publisher=None)
    assert outcome.passed


@given(st.lists(st.sampled_from(["ana", "ben", "eve", "dan"]), max_size=6), st.integers(1, 2))
def test_approvals_count_people_and_not_events(authors: list[str], needed: int) -> None:
    policy = Policy(roles=POLICY.roles, aliases={"p": AliasRule(approvals={"reviewer": needed})})
    events = [event(number, "approve", 7, author) for number, author in enumerate(authors, 1)]
    (outcome,) = judge_move(policy, "p", author="x", events=events, version=7, publisher="ana")
    assert outcome.value == len({"ben", "eve"} & {*authors})
    assert outcome.passed == (outcome.value >= needed)


def test_the_newest_policy_of_the_log_counts_and_without_one_everything_is_allowed() -> None:
    assert policy_of([]) == Policy()
    assert judge_move(Policy(), "production", author="x", events=[], version=7, publisher="y") == ()
    events = [event(1, "policy", 0, "ana", Policy().document()), event(2, "policy", 0, "ana", POLICY.document())]
    assert policy_of(events) == POLICY
    assert policy_of(events[:1]) == Policy()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"change": ["owner"]}, r"change names the role 'owner', which nobody has\. Roles are: none"),
        ({"roles": {"a": []}, "aliases": {"p": {"move": ["a"]}}}, r"aliases\.p\.move names the role 'a', which nobody"),
        ({"roles": {"a": ["x"]}, "aliases": {"p": {"approvals": {"a": 2}}}}, r"approvals\.a is 2, but only 1 people"),
        ({"roles": {"a": ["x"]}, "aliases": {"p": {"approvals": {"a": 0}}}}, "at least 1"),
        ({"aliases": {"../p": {}}}, "is not a valid alias name"),
        ({"alias": {}}, "Did you mean"),
    ],
)
def test_a_policy_that_cannot_be_met_is_refused(document: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, Exception), match=words):
        load_config(Policy, document)
