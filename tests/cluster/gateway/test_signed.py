"""Signed metadata, and the key that signs them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_cluster.gateway.signed import MetadataSigner, read_signing_key
from brew_platform.errors import UserError

SIGNER = MetadataSigner(b"k" * 32)
TEXT = st.text(max_size=20)


@given(st.dictionaries(TEXT.filter(lambda name: name != "signature"), TEXT, max_size=4), TEXT, TEXT)
def test_what_was_signed_is_verified_and_nothing_else(fields: dict[str, str], entrypoint: str, other: str) -> None:
    metadata = SIGNER.sign(fields, entrypoint)
    assert SIGNER.verify({**metadata, "job_name": "x"}, entrypoint) == fields  # Ray adds names of its own
    assert SIGNER.verify(metadata, entrypoint + "x") is None
    assert SIGNER.verify({**metadata, "brew360.new": other}, entrypoint) is None
    assert MetadataSigner(b"j" * 32).verify(metadata, entrypoint) is None
    for name in metadata:
        assert SIGNER.verify({**metadata, name: metadata[name] + "0"}, entrypoint) is None
        assert SIGNER.verify({key: value for key, value in metadata.items() if key != name}, entrypoint) is None


def test_the_key_is_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BREW360_JOBS_SIGNING_KEY", raising=False)
    with pytest.raises(UserError, match="set BREW360_JOBS_SIGNING_KEY, or signing_key_path"):
        read_signing_key(None)
    monkeypatch.setenv("BREW360_JOBS_SIGNING_KEY", "e" * 64 + "\n")
    assert read_signing_key(None) == b"e" * 64
    path = tmp_path / "key"
    with pytest.raises(UserError, match="cannot be read"):
        read_signing_key(str(path))
    path.write_text("f" * 64 + "\n")
    assert read_signing_key(str(path)) == b"f" * 64
    with pytest.raises(UserError, match="has 5 bytes, and 32 are needed"):
        MetadataSigner(b"short")
