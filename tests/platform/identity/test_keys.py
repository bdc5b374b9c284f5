"""API keys (creation, hashing, checks, revocation)."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from brew_platform.errors import ConfigError, UserError
from brew_platform.identity.keys import (
    DEFAULT_SCOPES,
    SCOPES,
    KeyFile,
    Team,
    create_key,
    list_keys,
    missing_scope,
    parse_scopes,
    revoke_key,
)


def test_a_key_belongs_to_its_team_and_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "keys.yaml"
    feed = create_key(path, "feed", requests_per_second=2.5, tokens_per_minute=1000)
    second = create_key(path, "feed")
    admin = create_key(path, "ops", scopes=SCOPES)
    keys = KeyFile(path)
    assert keys.team(feed) == keys.team(second) == Team(name="feed", requests_per_second=2.5, tokens_per_minute=1000)
    assert keys.team(admin) == Team(name="ops", scopes=frozenset(SCOPES))
    for key in (feed, second, admin):
        secret = key.split("_", 2)[2]  # may hold underscores itself
        assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_an_invalid_key_has_no_team(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    key = create_key(path, "feed")
    other = create_key(tmp_path / "other.yaml", "feed")
    keys = KeyFile(path)
    changed = key[:-1] + ("A" if key[-1] != "A" else "B")
    mixed = "_".join([*key.split("_", 2)[:2], other.split("_", 2)[2]])
    for wrong in (
        "",
        "b360_",
        other,
        changed,
        mixed,
        key + "x",
        key.upper(),
        "é",
        "b360_00000000_" + "A" * 43,
        "b360_" * 500,
    ):
        assert keys.team(wrong) is None


def test_a_changed_key_file_is_used_at_once_and_a_broken_one_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    key = create_key(path, "feed")
    keys = KeyFile(path)
    added = create_key(path, "jobs")
    assert keys.team(added) == Team(name="jobs")

    path.write_text("teams: [")
    assert keys.team(key) == Team(name="feed")
    assert "the keys stay unchanged" in caplog.text

    path.write_text("teams: {}")
    assert keys.team(key) is None


BROKEN = [
    ("", "is not a key file"),
    ("teams: 5", "is not a key file"),
    ("{teams", "cannot be read as a key file"),
    ("teams: {feed: 5}", "team 'feed' is malformed"),
    ("teams: {5: {}}", "team 5 is malformed"),
    ("teams: {feed: {rate: 5}}", "unknown key 'rate'"),
    ("teams: {feed: {admin: 'no'}}", "`admin` is malformed"),
    ("teams: {feed: {}, feed: {admin: true}}", "the key feed occurs twice"),
    ("teams: {feed: {tokens_per_minute: -1}}", "tokens_per_minute is -1; give an integer, at least 1"),
    ("teams: {feed: {requests_per_second: true}}", "requests_per_second is True; give a finite number, more than 0"),
    ("teams: {feed: {requests_per_second: .inf}}", "requests_per_second is inf; give a finite number, more than 0"),
    ("teams: {feed: {tokens_per_minute: .nan}}", "tokens_per_minute is nan; give an integer, at least 1"),
    ("teams: {feed: {weight: 0}}", r"weight is 0; give a finite number, at least 0\.001 and at most 1,000"),
    ("teams: {feed: {gpu_hours_per_month: -1}}", "gpu_hours_per_month is -1; give a finite number, at least 0"),
    ("teams: {feed: {concurrent_gpus: 1.5}}", r"concurrent_gpus is 1\.5; give an integer, at least 0"),
    ("teams: {feed: {priority: 10}}", "priority is 10; give an integer, at least 0 and at most 9"),
    ("teams: {feed: {scopes: rank}}", "scopes is 'rank'; give a list of any of rank, events, nearline, jobs, admin"),
    ("teams: {feed: {scopes: [rank, root]}}", r"scopes is \['rank', 'root'\]; give a list"),
    ("teams: {feed: {scopes: [[rank]]}}", "team 'feed' is malformed"),
    ("teams: {feed: {scopes: [rank], admin: true}}", "it has both `admin` and `scopes`"),
    ("teams: {feed: {keys: {a: {salt: '', sha256: '', scopes: [x]}}}}", r"scopes is \['x'\]; give a list"),
    ('teams: {"a\\nb": {}}', "its name or `admin` is malformed"),
    ("teams: {feed: {keys: {a: {salt: zz, sha256: ''}}}}", "team 'feed' is malformed"),
]


@pytest.mark.parametrize(("text", "sentence"), BROKEN, ids=[text for text, _ in BROKEN])
def test_a_malformed_file_is_refused_with_the_reason(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        KeyFile(tmp_path / "keys.yaml")


def test_team_names_are_restricted_and_the_key_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot name a team"):
        create_key(tmp_path / "keys.yaml", "a b")
    with pytest.raises(UserError, match="tokens_per_minute is 0; give an integer, at least 1"):
        create_key(tmp_path / "keys.yaml", "feed", tokens_per_minute=0)
    with pytest.raises(UserError, match=r"keys\.yaml does not exist\. Create a key"):
        KeyFile(tmp_path / "keys.yaml")


def test_the_key_file_is_readable_yaml(tmp_path: Path) -> None:
    create_key(tmp_path / "keys.yaml", "feed", requests_per_second=5)
    team = yaml.safe_load((tmp_path / "keys.yaml").read_text())["teams"]["feed"]
    assert team["requests_per_second"] == 5
    assert [list(key) for key in team["keys"].values()] == [["salt", "sha256"]]


def test_keys_are_listed_and_revoked_by_id(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    first, second = create_key(path, "feed", requests_per_second=5), create_key(path, "feed")
    ops = create_key(path, "ops", scopes=SCOPES)
    ids = [key.split("_")[1] for key in (first, second, ops)]
    feed = Team(name="feed", requests_per_second=5)
    assert list_keys(path) == [(ids[0], feed), (ids[1], feed), (ids[2], Team(name="ops", scopes=frozenset(SCOPES)))]
    keys = KeyFile(path)

    assert revoke_key(path, ids[0]) == feed

    assert keys.team(first) is None
    assert keys.team(second) == feed
    assert [id_ for id_, _ in list_keys(path)] == ids[1:]
    with pytest.raises(UserError, match=rf"contains no key '{ids[0]}'; it has {ids[1]}, {ids[2]}"):
        revoke_key(path, ids[0])
    with pytest.raises(UserError, match=r"does not exist\. Create a key"):
        revoke_key(tmp_path / "none.yaml", ids[0])


def test_keys_created_concurrently_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda n: create_key(tmp_path / "keys.yaml", f"team-{n}"), range(24)))
    keys = KeyFile(tmp_path / "keys.yaml")
    assert [getattr(keys.team(key), "name", None) for key in created] == [f"team-{n}" for n in range(24)]
    assert list(tmp_path.iterdir()) == [tmp_path / "keys.yaml"]


def test_a_team_without_scopes_may_rank_send_events_and_read_rankings(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("teams: {feed: {requests_per_second: 5}}")
    key = create_key(tmp_path / "keys.yaml", "feed")
    team = KeyFile(tmp_path / "keys.yaml").team(key)
    assert team == Team(name="feed", requests_per_second=5)
    assert team.scopes == {"rank", "events", "nearline"} == DEFAULT_SCOPES


def test_an_admin_team_of_an_earlier_release_has_all_scopes_until_its_scopes_are_set(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("teams: {ops: {admin: true}, feed: {admin: false}}")
    keys = {name: create_key(path, name) for name in ("ops", "feed")}
    file = KeyFile(path)
    assert {name: file.team(key).scopes for name, key in keys.items()} == {  # type: ignore[union-attr]
        "ops": SCOPES.keys(),
        "feed": DEFAULT_SCOPES,
    }
    create_key(path, "ops", scopes={"admin"})
    assert file.team(keys["ops"]) == Team(name="ops", scopes=frozenset({"admin"}))


def test_a_team_has_quotas_of_jobs(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    create_key(path, "research", scopes={"jobs"}, gpu_hours_per_month=5000.5, concurrent_gpus=0, priority=9, weight=2)
    key = create_key(path, "research", concurrent_gpus=64)
    assert KeyFile(path).team(key) == Team(
        name="research",
        scopes=frozenset({"jobs"}),
        gpu_hours_per_month=5000.5,
        concurrent_gpus=64,
        priority=9,
        weight=2.0,
    )


def test_a_key_can_have_fewer_scopes_than_its_team_and_never_more(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    whole = create_key(path, "feed", scopes={"rank", "events"})
    part = create_key(path, "feed", key_scopes={"events"})
    file = KeyFile(path)
    assert [file.team(key).scopes for key in (whole, part)] == [{"rank", "events"}, {"events"}]  # type: ignore[union-attr]
    assert [team.scopes for _, team in list_keys(path)] == [{"rank", "events"}, {"events"}]
    with pytest.raises(UserError, match="team feed has no scope admin, so that its key cannot have it"):
        create_key(path, "feed", key_scopes={"rank", "admin"})
    assert len(list_keys(path)) == 2
    create_key(path, "feed", scopes={"rank"})
    assert file.team(part).scopes == set()  # type: ignore[union-attr]


def test_a_missing_scope_is_explained() -> None:
    team = Team(name="feed", scopes=frozenset({"events", "rank"}))
    assert missing_scope(team, "rank", "POST /v1/rank") is None
    sentence = missing_scope(team, "jobs", "submitting a job")
    assert sentence is not None
    assert sentence.startswith(
        "submitting a job needs a key with the scope jobs, and this key of team feed has rank, events. Use another key"
    )
    assert "ask the operators" in sentence
    assert "has none" in str(missing_scope(Team(name="feed", scopes=frozenset()), "jobs", "it"))


def test_scopes_are_parsed_from_a_list() -> None:
    assert parse_scopes("rank, events,rank") == {"rank", "events"}
    for text in ("", ",", "rank,root"):
        with pytest.raises(UserError, match="does not list scopes; give any of rank, events, nearline, jobs, admin"):
            parse_scopes(text)
    with pytest.raises(ConfigError, match="scopes contains 'root'"):
        Team(name="feed", scopes=frozenset({"root"}))
