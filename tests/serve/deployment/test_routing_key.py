"""The arm and the replica of a member: stable while the member acts, of the right share, and independent."""

import json
import warnings
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from brew_serve.client import calls
from brew_serve.http.routing_hints import is_in_share, read_routing_hints
from brew_serve.schemas.rank import RankRequest
from brew_serve.schemas.score import GenerativeScoringRequest, ScoreRequest

with warnings.catch_warnings():  # of Ray's own, when it is imported
    warnings.simplefilter("ignore")
    from brew_serve.deployment.replica_routing import order_replicas

REPLICAS = {"r0": 0, "r1": 0, "r2": 0, "r3": 0}
MEMBERS = 4_000


def key_of(**request: Any) -> str:
    return read_routing_hints(json.dumps({"task": "job_apply", **request}).encode()).key


texts = st.text(min_size=1, max_size=20)
events = st.lists(
    st.fixed_dictionaries({"action": texts, "timestamp": texts, "fields": st.dictionaries(texts, texts, max_size=3)})
)
profiles = st.dictionaries(texts, st.one_of(texts, st.none(), st.integers(), st.booleans()), max_size=4)


@settings(max_examples=100, deadline=None)
@given(profile=profiles, before=events, after=events)
def test_new_events_do_not_change_the_key(profile: dict[str, Any], before: list[Any], after: list[Any]) -> None:
    old, new = ({"profile": profile, "history": history} for history in (before, [*before, *after]))
    assert key_of(member=old) == key_of(member=new)
    assert key_of(member=old, routing_key="m1") == key_of(member=new, routing_key="m1") != ""


def test_the_key_is_by_default_the_members_id() -> None:
    assert key_of(member_id="m1") == key_of(routing_key="m1") == key_of(user="m1", prompt="x")
    assert key_of(member_id="m1") != key_of(member_id="m2")
    assert key_of(member_id="m1", routing_key="household 7") == key_of(member_id="m2", routing_key="household 7")


def test_an_inline_member_without_a_key_is_known_by_the_profile() -> None:
    assert key_of(member={"profile": {"title": "nurse"}}) != key_of(member={"profile": {"title": "chef"}})
    full = {"title": "nurse", "age": 3.0}
    for same in ({"age": 3, "title": " nurse "}, {**full, "location": None}, {**full, "location": " "}):
        assert key_of(member={"profile": same}) == key_of(member={"profile": full})
    assert key_of(member={"profile": {}, "history": [{"action": "apply"}]}) == ""
    assert key_of(member={"history": [{"action": "apply"}]}) == ""


def test_the_turns_of_a_chat_have_one_key() -> None:
    system, user = {"role": "system", "content": "Answer."}, {"role": "user", "content": "Which job fits?"}
    answer, more = {"role": "assistant", "content": "Chef."}, {"role": "user", "content": "Another?"}
    assert key_of(messages=[system, user]) == key_of(messages=[system, user, answer, more])
    assert key_of(messages=[system, user]) != key_of(messages=[system, more])


def test_the_key_does_not_depend_on_the_rest_of_the_request() -> None:
    inline = {"profile": {"title": "nurse", "location": "berlin"}, "history": []}
    turned = {"history": [], "profile": {"location": "berlin", "title": "nurse"}}
    assert key_of(member=inline, top_k=3) == key_of(member=turned)
    assert read_routing_hints(b' {"candidates": ["x"], "member_id": "ada", "member": null}').key == key_of(
        member_id="ada"
    )
    different = [{"member_id": "ada"}, {"member": inline}, {"prompt": "ada"}, {"query": [1]}]
    assert len({key_of(**request) for request in different} - {""}) == 4


def test_a_valid_deadline_is_read_from_the_body() -> None:
    def deadline(value: Any) -> int | None:
        hints = read_routing_hints(json.dumps({"deadline_ms": value, "member_id": "ada"}).encode())
        assert hints.key == key_of(member_id="ada")
        return hints.deadline_ms

    assert deadline(250) == 250
    assert {deadline(value) for value in (0, -1, 0.5, True, "250", None, [250], 600_001, 10**400)} == {None}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"member_id": null}',
        b"{",
        b"[]",
        b"1",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"member": 1}',
        b'{"member": {"profile": [1]}}',
        b'{"member": {"profile": {"a": {}}}}',
        b'{"messages": [1]}',
        b'{"messages": {}}',
        b'{"routing_key": "", "candidates": []}',
    ],
)
def test_a_body_without_an_identity_has_no_key(body: bytes) -> None:
    assert read_routing_hints(body).key == ""


def test_any_other_identity_is_hashed() -> None:
    for value in (1, ["a"], {"a": 1}, "\ud800", "x" * 100_000, float("inf")):
        assert key_of(routing_key=value) != "", "the replica refuses it"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize(
    "member", [lambda n: {"member_id": f"m{n}"}, lambda n: {"member": {"profile": {"title": f"nurse {n}"}}}]
)
def test_a_share_of_the_members_is_in_the_arm(share: float, member: Any) -> None:
    count = sum(is_in_share(key_of(**member(n)), "canary", share) for n in range(MEMBERS))
    deviation = (share * (1 - share) * MEMBERS) ** 0.5
    assert abs(count - share * MEMBERS) < 4 * deviation


def test_members_of_an_arm_are_spread_over_the_replicas_and_the_other_arms() -> None:
    keys = [key_of(member_id=f"m{n}") for n in range(MEMBERS)]
    canary = [key for key in keys if is_in_share(key, "canary", 0.1)]
    replicas = Counter(order_replicas(key, REPLICAS)[0] for key in canary)
    expected = len(canary) / len(REPLICAS)
    assert all(abs(count - expected) < 4 * expected**0.5 for count in replicas.values())
    both = sum(is_in_share(key, "shadow", 0.1) for key in canary)
    assert abs(both - len(canary) / 10) < 4 * (len(canary) / 10) ** 0.5


@settings(max_examples=50, deadline=None)
@given(name=texts, small=st.floats(0, 1), large=st.floats(0, 1))
def test_a_larger_share_includes_a_smaller_one(name: str, small: float, large: float) -> None:
    small, large = sorted((small, large))
    key = key_of(member_id=name)
    assert is_in_share(key, "canary", large) or not is_in_share(key, "canary", small)
    assert is_in_share(key, "canary", 1.0)
    assert not is_in_share(key, "canary", 0.0)
    assert not is_in_share("", "canary", 1.0)


def test_requests_and_the_client_carry_the_key() -> None:
    member = {"profile": {"title": "nurse"}}
    call = calls.rank(task="job_apply", candidates=["a"], member=member, routing_key="m1")
    assert RankRequest.model_validate(call.body).routing_key == "m1"
    assert "routing_key" not in calls.rank(task="job_apply", candidates=["a"], member=member).body
    for model in (ScoreRequest, GenerativeScoringRequest):
        request = {"query": "job", "items": ["nurse"], "label_token_ids": [7], "routing_key": "m1"}
        assert model.model_validate(request).routing_key == "m1"
        with pytest.raises(ValidationError, match="at least 1 character"):
            model.model_validate({**request, "routing_key": ""})
