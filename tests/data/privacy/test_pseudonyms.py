"""Pseudonyms are stable, differ by key, and never show the key."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.privacy.pseudonyms import PseudonymConfig, Pseudonyms
from brew_platform.errors import ConfigError, UserError

KEY = b"0123456789abcdef"
IDS = st.text(min_size=1, max_size=20).filter(lambda id_: id_.isprintable())


@given(IDS, IDS)
def test_a_pseudonym_depends_on_the_id_and_the_key_only(first: str, second: str) -> None:
    pseudonyms, others = Pseudonyms(KEY), Pseudonyms(KEY + b"x")
    assert pseudonyms.of(first) == Pseudonyms(KEY).of(first)
    assert (pseudonyms.of(first) == pseudonyms.of(second)) == (first == second)
    assert pseudonyms.of(first) != others.of(first)
    assert len(pseudonyms.of(first)) == 32
    assert set(pseudonyms.of(first)) <= set("0123456789abcdef")
    assert pseudonyms.key_id != others.key_id


def test_the_pseudonyms_of_a_data_set_never_change() -> None:
    assert Pseudonyms(KEY).of("m17") == "998514b428b0076a9324162574143c0c"


def test_the_key_is_in_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    monkeypatch.setenv("SOME_KEY", KEY.decode())
    monkeypatch.chdir(tmp_path)
    of_file = PseudonymConfig(file="key").absolute()
    assert of_file.file == str(path)
    opened = [config.open().of("a") for config in (PseudonymConfig(env="SOME_KEY"), of_file)]
    assert opened == [Pseudonyms(KEY).of("a")] * 2


@pytest.mark.parametrize("settings", [{}, {"env": "A", "file": "b"}])
def test_exactly_one_place_has_the_key(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="set exactly one of env and file"):
        PseudonymConfig(**settings)


def test_a_key_that_is_missing_or_short_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORT_KEY", "hunter2hunter2")
    with pytest.raises(UserError, match="SHORT_KEY contains a key of 14 bytes, but needs 16 or more") as refusal:
        PseudonymConfig(env="SHORT_KEY").open()
    assert "hunter2" not in str(refusal.value)
    with pytest.raises(UserError, match="the environment variable NO_SUCH_KEY contains no key.*openssl rand -hex 32"):
        PseudonymConfig(env="NO_SUCH_KEY").open()
    with pytest.raises(UserError, match=r"the file .*missing.* cannot be read"):
        PseudonymConfig(file=str(tmp_path / "missing")).open()


def test_the_key_stays_in_its_process() -> None:
    pseudonyms = Pseudonyms(KEY)
    assert KEY.decode() not in repr(pseudonyms)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(pseudonyms)
