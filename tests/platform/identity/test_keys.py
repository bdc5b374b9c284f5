"""API keys (creation, hashing, checks, revocation)."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from brew_platform.errors import UserError
from brew_platform.identity.keys import KeyFile, Team, create_key, list_keys, revoke_key


def test_a_key_belongs_to_its_team_and_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "keys.yaml"
    feed = create_key(path, "feed", requests_per_second=2.5, tokens_per_minute=1000)
    second = create_key(path, "feed")
    admin = create_key(path, "ops", admin=True)
    keys = KeyFile(path)
    assert keys.team(feed) == keys.team(second) == Team(name="feed", requests_per_second=2.5, tokens_per_minute=1000)
    assert keys.team(admin) == Team(name="ops", admin=True)
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
    ("teams: {feed: {tokens_per_minute: -1}}", "tokens_per_minute must be a number greater than 0"),
    ("teams: {feed: {requests_per_second: true}}", "requests_per_second must be a number greater than 0"),
    ("teams: {feed: {requests_per_second: .inf}}", "requests_per_second must be a number greater than 0"),
    ("teams: {feed: {tokens_per_minute: .nan}}", "tokens_per_minute must be a number greater than 0"),
    ("teams: {feed: {weight: 0}}", "weight must be a number greater than 0"),
    ("teams: {feed: {weight: 1.0e-9}}", r"weight must be 0\.001 to 1000"),
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
    with pytest.raises(UserError, match="tokens_per_minute must be"):
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
    ops = create_key(path, "ops", admin=True)
    ids = [key.split("_")[1] for key in (first, second, ops)]
    feed = Team(name="feed", requests_per_second=5)
    assert list_keys(path) == [(ids[0], feed), (ids[1], feed), (ids[2], Team(name="ops", admin=True))]
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
