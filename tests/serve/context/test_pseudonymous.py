"""Requests name members by their ids where the store has pseudonyms, and the ids are stored nowhere."""

from pathlib import Path
from typing import Any

import pytest

from brew_data.privacy.config import PrivacyConfig
from brew_data.privacy.pseudonyms import PseudonymConfig, Pseudonyms
from brew_data.privacy.table_privacy import make_private
from brew_data.schema import Tables
from brew_platform.errors import UserError
from brew_serve.context.base import MemberContext, MemberEvent, UnknownId
from brew_serve.context.location import build_context, check_context, open_context
from brew_serve.context.pseudonymous import PseudonymousContext

KEY = "0123456789abcdef"


@pytest.fixture
def pseudonyms(monkeypatch: pytest.MonkeyPatch) -> Pseudonyms:
    monkeypatch.setenv("PSEUDONYM_KEY", KEY)
    return PseudonymConfig(env="PSEUDONYM_KEY").open()


@pytest.fixture
def private(tables: Tables, pseudonyms: Pseudonyms) -> Tables:
    return make_private(tables, PrivacyConfig(pseudonyms=PseudonymConfig(env="PSEUDONYM_KEY")))[0]


def test_a_context_by_pseudonym_answers_as_one_by_id(
    tmp_path: Path, tables: Tables, private: Tables, pseudonyms: Pseudonyms
) -> None:
    build_context(make_private(tables, PrivacyConfig())[0], str(tmp_path / "ids.sqlite"))
    build_context(private, str(tmp_path / "private.sqlite"), key_id=pseudonyms.key_id)
    by_id = open_context(str(tmp_path / "ids.sqlite"))
    by_pseudonym = open_context(str(tmp_path / "private.sqlite"), pseudonyms)
    assert by_pseudonym.member("ada") == by_id.member("ada")
    assert by_pseudonym.snapshot("ada").history == by_id.snapshot("ada").history
    assert by_pseudonym.entities(["e0"]) == by_id.entities(["e0"])
    for unknown in ("nobody", pseudonyms.of("ada")):
        with pytest.raises(UnknownId, match=f"member '{unknown}' is unknown here"):
            by_pseudonym.member(unknown)
        with pytest.raises(UnknownId, match=f"member '{unknown}' is unknown here"):
            by_pseudonym.snapshot(unknown)
    by_pseudonym.check()
    by_pseudonym.close()
    by_id.close()
    assert b"ada" not in (tmp_path / "private.sqlite").read_bytes()


def test_events_are_recorded_by_pseudonym(tmp_path: Path, private: Tables, pseudonyms: Pseudonyms) -> None:
    path = tmp_path / "private.sqlite"
    MemberContext.build(private, path, key_id=pseudonyms.key_id)
    context = PseudonymousContext(MemberContext(path, writable=True), pseudonyms)
    event = MemberEvent(
        event_id="a", member_id="ada", entity_id="e2", surface="jobs", action="skip", timestamp=2 * 10**7
    )
    assert context.record([event]) == 1
    assert context.snapshot("ada").events == ["a"]
    context.close()


@pytest.mark.parametrize(
    ("stored", "used", "message"),
    [
        (None, KEY, "contains members by their ids, but pseudonyms is set"),
        (KEY, None, "contains members by pseudonym, but no key is set.*Set pseudonyms.env or pseudonyms.file"),
        (KEY, KEY + "x", "by pseudonym with the key [0-9a-f]{16}, but the key that is set is [0-9a-f]{16}"),
        (KEY, KEY, ""),
        (None, None, ""),
    ],
)
def test_another_key_is_refused_when_a_service_starts(
    tmp_path: Path, tables: Tables, stored: str | None, used: str | None, message: str
) -> None:
    keys: list[Any] = [None if key is None else Pseudonyms(key.encode()) for key in (stored, used)]
    path = str(tmp_path / "context.sqlite")
    build_context(tables, path, key_id=keys[0] and keys[0].key_id)
    if not message:
        check_context(path, keys[1])
        return
    with pytest.raises(UserError, match=message) as refusal:
        check_context(path, keys[1])
    assert KEY not in str(refusal.value)
