"""What the log decides about a new event: a promotion happens only if everything that is required holds."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from brew_platform.registry.decisions import (
    Decision,
    decide_policy,
    decide_promotion,
    decide_retirement,
    decide_rollback,
    decide_sharing,
)
from brew_platform.registry.events import Event
from brew_platform.registry.gates import Gate
from brew_platform.registry.policy import AliasRule, Policy
from brew_platform.registry.version import Version

POLICY = Policy(
    roles={"owner": ["ana"], "reviewer": ["ben"]},
    aliases={"production": AliasRule(move=["owner"], approvals={"reviewer": 1})},
    change=["owner"],
)
GATE = Gate(figure="like.auc", at_least=0.7)


def version(number: int, auc: float = 0.8) -> Version:
    return Version(
        number=number, files=(), signature={}, lineage={}, metrics={"like": {"auc": auc}}, author="eve", time="",
        write_id="",
    )  # fmt: skip


def event(kind: str, author: str = "ben", number: int = 7, policy: Any = None) -> Event:
    return Event(number=1, kind=kind, version=number, alias=None, author=author, time="", policy=policy)


def promotion(events: list[Event], auc: float = 0.8, **changes: Any) -> Decision:
    values = {
        "model": "m", "alias": "production", "author": "ana", "gates": [GATE], "current": version(6), "replaces": None,
        "force": False, "missing": None,
    } | changes  # fmt: skip
    return decide_promotion(version(7, auc), events, **values)


@given(
    passes=st.booleans(), force=st.booleans(), retired=st.booleans(), missing=st.booleans(), restricted=st.booleans(),
    owner=st.booleans(), approved=st.booleans(), replaces=st.sampled_from([None, 5, 6]),
    current=st.sampled_from([None, 6]),
)  # fmt: skip
def test_a_promotion_happens_only_if_everything_that_is_required_holds(
    passes: bool, force: bool, retired: bool, missing: bool, restricted: bool, owner: bool, approved: bool,
    replaces: int | None, current: int | None,
) -> None:  # fmt: skip
    events = [event("policy", policy=POLICY.document(), number=0)] if restricted else []
    events += [event("approve")] if approved else []
    events += [event("retire")] if retired else []
    decision = promotion(
        events,
        0.8 if passes else 0.6,
        author="ana" if owner else "dan",
        force=force,
        missing="blob x is gone from the store" if missing else None,
        replaces=replaces,
        current=None if current is None else version(current),
    )
    expected = (
        (passes or force)
        and not retired
        and not missing
        and (not restricted or (owner and approved))
        and (replaces is None or replaces == current)
    )
    assert (decision.refusal == "") == expected
    assert (decision.kind, decision.version) == ("promote", 7)
    assert [gate.name for gate in decision.gates] == [
        *(["role", "approvals.reviewer"] if restricted else []),
        "like.auc",
    ]
    if decision.refusal:
        assert decision.refusal.endswith(".")
        assert decision.by_gates == ("gate " in decision.refusal)


def test_a_rollback_needs_no_approval_and_an_ended_canary_only_the_role() -> None:
    events = [event("policy", policy=POLICY.document(), number=0)]
    rollback = {"model": "m", "alias": "production", "missing": None}
    assert decide_rollback(version(6), events, author="ana", **rollback).refusal == ""  # type: ignore[arg-type]
    assert "dan is not owner" in decide_rollback(version(6), events, author="dan", **rollback).refusal  # type: ignore[arg-type]
    sharing = {"model": "m", "alias": "production", "author": "ana", "missing": "blob x is gone from the store"}
    assert decide_sharing("canary", version(7), events, share=0.0, **sharing).refusal == ""  # type: ignore[arg-type]
    refused = decide_sharing("canary", version(7), events, share=0.1, **sharing)  # type: ignore[arg-type]
    assert refused.refusal == "version 7 of m cannot serve: blob x is gone from the store."


def test_a_version_is_retired_once() -> None:
    assert decide_retirement(7, [event("approve")], model="m").refusal == ""
    assert decide_retirement(7, [event("retire")], model="m").refusal == "version 7 of m is retired already."


def test_a_policy_is_replaced_by_the_roles_that_it_names() -> None:
    events = [event("policy", policy=POLICY.document(), number=0)]
    assert decide_policy([], model="m", author="dan").refusal == ""
    assert decide_policy(events, model="m", author="ana").refusal == ""
    assert (
        decide_policy(events, model="m", author="ben").refusal == "the policy of m was not changed: ben is not owner."
    )
