"""The cache for any file and any way to open it; tests/train/inputs/test_host_cache.py tests the rest of it."""

import hashlib
import shutil
from pathlib import Path

import pytest

from brew_platform.errors import StorageError
from brew_platform.storage.base import Digest
from brew_platform.storage.host_cache import HostCache
from brew_platform.storage.local import LocalStore


def test_files_of_a_store_are_downloaded_once_and_opened_by_the_caller(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put_if_absent("a", b"abc")
    downloads: list[Path] = []

    def download(path: Path) -> Digest:
        downloads.append(path)
        store.download("a", path)
        return Digest.of_file(path)

    for _ in range(2):
        cache = HostCache(tmp_path / "cache", limit_bytes=100)
        for _ in range(2):
            assert cache.open(store.digest("a"), name="a", download=download, opener=Path.read_bytes) == b"abc"
    assert len(downloads) == 1


def test_other_content_than_expected_is_not_kept(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"abc")
    cache = HostCache(tmp_path / "cache", limit_bytes=100)

    def download(path: Path) -> Digest:
        shutil.copyfile(source, path)
        return Digest.of_file(path)

    expected = Digest(size=3, sha256=hashlib.sha256(b"abd").hexdigest())
    with pytest.raises(StorageError, match=r"^a was replaced or damaged: its SHA-256 is ba7816bf8f01, but"):
        cache.open(expected, name="a", download=download, opener=Path.read_bytes)
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".lock")] == []
