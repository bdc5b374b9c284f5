"""Pure policies: the replica of a member, and the number of replicas."""

import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_platform.errors import ConfigError
from brew_serve.config import AppConfig
from brew_serve.deployment.autoscaling import OutstandingTokensPolicy, WaitingWork, desired_replicas
from brew_serve.nearline.config import NearlineConfig
from brew_serve.ranking.admission import AdmissionConfig

with warnings.catch_warnings():  # of Ray's own, when it is imported
    warnings.simplefilter("ignore")
    from brew_serve.deployment.replica_routing import order_replicas

MEMBERS = [f"m{i}" for i in range(2_000)]


def first(key: str, replicas: list[str]) -> str:
    return order_replicas(key, dict.fromkeys(replicas, 0))[0]


def test_members_keep_their_replica_when_other_replicas_change() -> None:
    four = {member: first(member, ["a", "b", "c", "d"]) for member in MEMBERS}
    three = {member: first(member, ["d", "b", "a"]) for member in MEMBERS}
    assert all(three[member] == four[member] for member in MEMBERS if four[member] != "c")
    for count in Counter(four.values()).values():
        assert 400 < count < 600


def test_a_busy_replica_is_skipped_and_the_second_choice_is_fixed() -> None:
    order = order_replicas("ada", {"a": 0, "b": 0, "c": 0})
    loads = dict(zip(order, [20, 4, 5], strict=True))
    assert order_replicas("ada", loads) == [order[1], order[2], order[0]]
    loads = dict(zip(order, [3, 0, 0], strict=True))
    assert order_replicas("ada", loads) == order, "a few more requests must not change the replica"
    loads = dict(zip(order, [11, 10, 9], strict=True))
    assert order_replicas("ada", loads) == order


def test_requests_without_a_member_go_to_the_least_loaded_replica() -> None:
    assert order_replicas("", {"a": 3, "b": 1, "c": 2}) == ["b", "c", "a"]
    assert order_replicas("ada", {}) == []


@given(st.text(), st.dictionaries(st.text(), st.integers(0, 1_000), min_size=1))
def test_every_replica_is_offered_once_and_the_first_is_not_overloaded(key: str, loads: dict[str, int]) -> None:
    order = order_replicas(key, loads)
    assert sorted(order) == sorted(loads)
    assert loads[order[0]] <= max(4, 1.25 * (sum(loads.values()) + 1) / len(loads))


def test_load_stays_bounded_with_one_very_active_member() -> None:
    loads = dict.fromkeys("abcd", 0)
    for _ in range(1_000):
        loads[order_replicas("ada", loads)[0]] += 1
    assert max(loads.values()) <= 1.25 * 250 + 5


def test_replicas_follow_the_outstanding_tokens() -> None:
    assert [desired_replicas(tokens, 1_000, 1) for tokens in (0, 1, 1_000, 1_001, 9_500)] == [1, 1, 1, 2, 10]
    fewer = [desired_replicas(tokens, 1_000, 3) for tokens in (3_001, 3_000, 1_900, 1_401, 1_400, 701, 700, 0)]
    assert fewer == [4, 3, 3, 3, 2, 2, 1, 1], "a replica is removed only if the others have spare capacity"
    policy = OutstandingTokensPolicy(target_tokens=1_000)
    reports = {"outstanding_tokens": {"a": 1_500.0, "b": 700.0}, "other": {"a": 9e9}}
    assert policy(SimpleNamespace(aggregated_metrics=reports, target_num_replicas=1)) == (3, {})
    assert policy(SimpleNamespace(aggregated_metrics={}, target_num_replicas=1)) == (1, {})
    assert policy(SimpleNamespace(aggregated_metrics=None, target_num_replicas=1)) == (1, {})


def test_a_replica_reports_the_work_that_waits_for_it_until_no_request_comes() -> None:
    now = [100.0]
    waiting = WaitingWork(lambda: now[0])
    assert waiting.tokens == 0
    waiting.observe(5_000)
    now[0] += 9
    assert waiting.tokens == 5_000
    waiting.observe(0)
    assert waiting.tokens == 0
    waiting.observe(7_000)
    now[0] += 11
    assert waiting.tokens == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"alias": "007"}, "alias is '007'; give the number of a version without leading zeros."),
        ({"min_replicas": 3}, "max_replicas is 1, which is less than min_replicas (3); raise it."),
        (
            {"target_tokens": 5_000, "admission": AdmissionConfig(max_outstanding_tokens=4_000)},
            "target_tokens is 5000, but a replica takes 4000 (admission.max_outstanding_tokens) and refuses the rest",
        ),
        (
            {"gateways": 2, "nearline": NearlineConfig(folder="n", context_path="c")},
            "gateways is 2, but the nearline outbox is a file of one of them; give 1",
        ),
    ],
)
def test_invalid_settings_are_refused(settings: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        AppConfig(registry_url="r", cache_folder="c", **settings)
    assert str(error.value).startswith(sentence)
