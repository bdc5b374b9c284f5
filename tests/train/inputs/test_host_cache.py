"""The cache downloads a file once for all processes of a host, replaces damaged copies, and stays within its limit."""

import hashlib
import os
import threading
import time
from pathlib import Path

import pyarrow.fs as pa_fs
import pytest

from brew_data.packed_bins.plan import BinsFile
from brew_data.sources.locations import Location
from brew_platform.errors import DataError, StorageError
from brew_train.inputs import host_cache
from brew_train.inputs.host_cache import HostCache


class Store:
    """Files that stand for objects on S3, and the names of those that were downloaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloaded: list[str] = []

    def put(self, name: str, data: bytes) -> tuple[BinsFile, Location]:
        path = self.folder / name
        path.write_bytes(data)
        file = BinsFile(name=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), bins=1)
        return file, Location(f"s3://bucket/{name}", pa_fs.LocalFileSystem(), str(path))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store(tmp_path)
    download = host_cache._download

    def counted(source: Location, path: Path, file: BinsFile) -> None:
        store.downloaded.append(file.name)
        time.sleep(0.01)
        download(source, path, file)

    monkeypatch.setattr(host_cache, "_download", counted)
    return store


def read(cache: HostCache, file: BinsFile, source: Location) -> bytes:
    with cache.open(file, source) as copy:
        return bytes(copy.read())


def test_a_file_is_downloaded_once(store: Store, tmp_path: Path) -> None:
    file, source = store.put("a", b"first")
    for _ in range(2):  # two processes
        cache = HostCache(tmp_path / "cache", limit_bytes=100)
        assert [read(cache, file, source) for _ in range(2)] == [b"first"] * 2
    same, other = store.put("b", b"first")
    assert read(cache, same, other) == b"first"  # equal files have one copy
    assert store.downloaded == ["a"]


def test_processes_that_need_a_file_at_the_same_time_download_it_once(store: Store, tmp_path: Path) -> None:
    file, source = store.put("a", bytes(10_000))
    caches = [HostCache(tmp_path / "cache", limit_bytes=10**6) for _ in range(4)]
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda cache=cache: found.append(read(cache, file, source))) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [bytes(10_000)] * 4
    assert store.downloaded == ["a"]


@pytest.mark.parametrize("damage", [b"forst", b"fir", b""])
def test_a_damaged_copy_is_downloaded_again(
    store: Store, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file, source = store.put("a", b"first")
    read(HostCache(tmp_path / "cache", limit_bytes=100), file, source)
    (tmp_path / "cache" / file.sha256).write_bytes(damage)
    assert read(HostCache(tmp_path / "cache", limit_bytes=100), file, source) == b"first"
    assert store.downloaded == ["a", "a"]
    assert "is damaged; it is downloaded again" in caplog.text


def test_a_source_that_differs_from_the_plan_is_refused(store: Store, tmp_path: Path) -> None:
    file, source = store.put("a", b"first")
    store.put("a", b"other")
    cache = HostCache(tmp_path / "cache", limit_bytes=100)
    with pytest.raises(DataError, match=r"^s3://bucket/a was replaced or damaged: its SHA-256 is .* plan\.json lists"):
        cache.open(file, source)
    assert not [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".lock-")]
    (tmp_path / "a").unlink()
    with pytest.raises(DataError, match=r"^s3://bucket/a cannot be read"):
        cache.open(file, source)


def test_the_least_recently_opened_copies_make_room(store: Store, tmp_path: Path) -> None:
    cache = HostCache(tmp_path / "cache", limit_bytes=30)
    files = [store.put(str(i), bytes([i]) * 10) for i in range(4)]
    for i, (file, source) in enumerate(files[:3]):
        read(cache, file, source)
        os.utime(tmp_path / "cache" / file.sha256, (1_000 + i, 1_000 + i))
    read(cache, *files[0])  # the oldest is opened again
    with cache.open(*files[1]) as copy:
        os.utime(tmp_path / "cache" / files[1][0].sha256, (1_000, 1_000))
        read(cache, *files[3])
        copies = {path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")}
        assert copies == {files[i][0].sha256 for i in (0, 2, 3)}
        assert copy.read() == bytes([1]) * 10  # while it is open
    assert read(cache, *files[1]) == bytes([1]) * 10
    assert store.downloaded == ["0", "1", "2", "3", "1"]


def test_the_incomplete_file_of_a_killed_download_is_removed(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    killed, running = folder / ".a.1.tmp", folder / ".b.2.tmp"
    for path in (killed, running):
        path.write_bytes(b"x")
    os.utime(killed, (1_000, 1_000))
    read(HostCache(folder, limit_bytes=100), *store.put("a", b"first"))
    assert (killed.exists(), running.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageError, match=r"^s3://bucket/a could not be copied to the cache .*choose another"):
        HostCache(tmp_path / "cache", limit_bytes=100).open(*store.put("a", b"first"))
