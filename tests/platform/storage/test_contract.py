"""The contract of an ObjectStore, run on a folder, moto and Ceph RGW, and what is particular to a local folder."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from brew_platform.errors import StorageError
from brew_platform.storage import local
from brew_platform.storage.base import Digest, ObjectStore, open_store
from brew_platform.storage.local import LocalStore


@pytest.fixture
def url(store_url: str) -> str:
    return store_url


@pytest.fixture
def store(url: str) -> ObjectStore:
    return open_store(url)


def test_an_object_is_created_once_and_never_changed(store: ObjectStore) -> None:
    assert not store.exists("a/b.json")
    assert store.put_if_absent("a/b.json", b"one")
    assert not store.put_if_absent("a/b.json", b"two")
    assert store.get("a/b.json") == b"one"
    assert store.exists("a/b.json")
    assert not store.exists("a")


def test_a_file_is_uploaded_and_downloaded_whole(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(os.urandom(9_000_001))
    assert store.upload_if_absent("blobs/w", source)
    assert not store.upload_if_absent("blobs/w", source)
    store.download("blobs/w", tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["copy.bin", "weights.bin"]


def test_an_upload_of_other_bytes_than_expected_creates_no_object(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for wrong in (Digest(size=4, sha256=sha256), Digest(size=3, sha256="0" * 64)):
        with pytest.raises(StorageError, match=r"weights\.bin changed while it was uploaded: . bytes with sha256"):
            store.upload_if_absent("w", source, expected=wrong)
    assert store.list() == []
    assert store.upload_if_absent("w", source, expected=Digest(size=3, sha256=sha256))
    assert store.digest("w") == Digest(size=3, sha256=sha256)


def test_empty_objects_are_objects(store: ObjectStore) -> None:
    assert store.put_if_absent("empty", b"")
    assert store.get("empty") == b""


def test_a_blob_is_stored_under_the_digest_of_its_bytes(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(os.urandom(3_000_000))
    digest, created = store.upload_by_digest("blobs/sha256", source)
    assert created
    assert digest == Digest.of_file(source)
    assert store.list() == [f"blobs/sha256/{digest.sha256}"]
    assert store.digest(f"blobs/sha256/{digest.sha256}") == digest
    assert store.upload_by_digest("blobs/sha256", source) == (digest, False)
    with pytest.raises(StorageError, match=r"cannot write .*absent\.bin does not exist"):
        store.upload_by_digest("blobs/sha256", tmp_path / "absent.bin")


def test_sizes_and_times_of_objects(store: ObjectStore) -> None:
    store.put_if_absent("a/b", b"12345")
    assert store.size("a/b") == 5
    assert abs(store.modified("a/b") - datetime.now(UTC)) < timedelta(minutes=1)
    for call in (store.size, store.modified):
        with pytest.raises(StorageError, match="cannot read .no/such. in .*: no such object"):
            call("no/such")


def test_a_deleted_object_is_gone_and_its_key_is_free(store: ObjectStore) -> None:
    for key in ("a/b", "a/c"):
        store.put_if_absent(key, b"x")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("no/such")
    assert store.list() == ["a/c"]
    assert not store.exists("a/b")
    assert store.put_if_absent("a/b", b"y")
    assert store.get("a/b") == b"y"


def test_its_address_and_its_pickle_open_the_same_store(store: ObjectStore) -> None:
    store.put_if_absent("a", b"x")
    assert open_store(store.url).get("a") == b"x"
    assert pickle.loads(pickle.dumps(store)).get("a") == b"x"


def test_listing_is_sorted_and_by_prefix_of_the_key(store: ObjectStore) -> None:
    assert store.list() == []
    assert store.list("nothing/here") == []
    for key in ("v/10", "v/02", "v/sub/1", "w", "v2/1"):
        store.put_if_absent(key, b"x")
    assert store.list("v/") == ["v/02", "v/10", "v/sub/1"]
    assert store.list("v") == ["v/02", "v/10", "v/sub/1", "v2/1"]
    assert store.list("v/0") == ["v/02"]
    assert store.list() == ["v/02", "v/10", "v/sub/1", "v2/1", "w"]


def test_a_missing_object_is_a_clear_error_and_leaves_no_file(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read 'no/such' in .*: no such object\. Check the key and"):
        store.get("no/such")
    with pytest.raises(StorageError, match="no such object"):
        store.download("no/such", tmp_path / "out")
    with pytest.raises(StorageError, match="no such object"):
        store.digest("no/such")
    with pytest.raises(StorageError, match=r"cannot write 'k' .*absent\.bin does not exist\. Check the key and"):
        store.upload_if_absent("k", tmp_path / "absent.bin")
    assert not (tmp_path / "out").exists()
    assert store.list() == []


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a//b", "a/", "../x", "a/../b", "./a", ".tmp/x", "a\0b", "a b"])
def test_a_malformed_key_is_refused_by_every_method(store: ObjectStore, tmp_path: Path, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put_if_absent(key, b""),
        lambda: store.upload_if_absent(key, tmp_path / "x"),
        lambda: store.get(key),
        lambda: store.download(key, tmp_path / "x"),
        lambda: store.exists(key),
        lambda: store.digest(key),
        lambda: store.upload_by_digest(key, tmp_path / "x"),
        lambda: store.size(key),
        lambda: store.modified(key),
        lambda: store.delete(key),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="is not a valid key: its parts, between single slashes, must consist"):
            call()


def test_24_threads_race_and_each_key_has_one_winner(store: ObjectStore) -> None:
    threads, keys = 24, 20 if isinstance(store, LocalStore) else 4
    barrier = threading.Barrier(threads)

    def race(thread: int) -> list[bool]:
        barrier.wait()
        return [store.put_if_absent(f"slot/{key}", f"{thread}".encode()) for key in range(keys)]

    with ThreadPoolExecutor(threads) as pool:
        won = list(pool.map(race, range(threads)))
    for key in range(keys):
        winners = [thread for thread in range(threads) if won[thread][key]]
        assert winners == [int(store.get(f"slot/{key}"))]


def test_processes_race_and_each_key_has_one_winner(store: ObjectStore, url: str) -> None:
    slots = 200 if isinstance(store, LocalStore) else 20
    code = (
        "import sys; from brew_platform.storage.base import open_store\n"
        "store = open_store(sys.argv[1]); sys.stdin.read()\n"
        "print(*[k for k in range(int(sys.argv[3])) if store.put_if_absent(f'slot/{k}', sys.argv[2].encode())])"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, str(i), str(slots)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for i in range(4)
    ]
    won = [list(map(int, out.split())) for out in _go(racers)]
    assert sorted(key for keys in won for key in keys) == list(range(slots))
    for racer, keys in enumerate(won):
        assert all(store.get(f"slot/{key}") == str(racer).encode() for key in keys)


def _go(racers: list[subprocess.Popen[bytes]]) -> list[bytes]:
    for racer in racers:
        assert racer.stdin
        racer.stdin.close()
        racer.stdin = None
    outputs = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * len(racers)
    return outputs


def test_kill_9_in_the_middle_of_an_upload_leaves_no_object(store: ObjectStore, url: str, tmp_path: Path) -> None:
    pipe = tmp_path / "endless"
    os.mkfifo(pipe)
    code = (
        "import sys; from pathlib import Path; from brew_platform.storage.base import open_store\n"
        "open_store(sys.argv[1]).upload_if_absent('big', Path(sys.argv[2]))"
    )
    uploader = subprocess.Popen([sys.executable, "-c", code, url, str(pipe)])
    with pipe.open("wb") as feed:
        feed.write(bytes(20_000_000))
        uploader.send_signal(signal.SIGKILL)
        uploader.wait(timeout=30)
    assert store.list() == []
    assert not store.exists("big")
    assert store.put_if_absent("big", b"the next attempt works")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = LocalStore(tmp_path)
    store.put_if_absent("a/first", b"x")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        store.put_if_absent("a/second", b"x")
    assert str(caught.value) == (
        f"cannot write 'a/second' in {tmp_path}: no space left on the disk. Free some space there, or use a store on "
        f"another disk."
    )
    assert store.list() == ["a/first"]
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_the_files_of_a_killed_process_are_removed_after_a_day(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_if_absent("a", b"x")
    for name, age_hours in (("old", 25), ("young", 1)):
        (tmp_path / ".tmp" / name).write_bytes(b"part")
        os.utime(tmp_path / ".tmp" / name, (time.time() - age_hours * 3600,) * 2)
    store.put_if_absent("b", b"x")
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["young"]
    assert store.list() == ["a", "b"]


def test_a_root_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write 'a' in .*/file: .*\. Check that it is a folder"):
        LocalStore(tmp_path / "file").put_if_absent("a", b"")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gs://bucket", "the scheme gs:// is not supported. Use s3://bucket/prefix, a folder, for example"),
        ("", "the address of the store is empty. Use a folder"),
        ("file://host/folder", "names the host 'host'; a local folder has three slashes: file:///folder."),
    ],
)
def test_an_unsupported_address_is_refused_with_the_remedy(url: str, words: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(url)
    assert words in str(caught.value)


def test_a_file_url_is_percent_decoded() -> None:
    assert repr(open_store("file:///tmp/a%20b")) == "LocalStore('/tmp/a b')"


def test_a_blob_that_changes_while_it_is_copied_has_the_digest_of_what_was_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(b"before")
    store = LocalStore(tmp_path / "store")
    copy = local._copy

    def changed(path: Path, target: Path) -> Digest:
        path.write_bytes(b"after")
        return copy(path, target)

    monkeypatch.setattr(local, "_copy", changed)
    digest, _ = store.upload_by_digest("blobs", source)
    assert store.get(f"blobs/{digest.sha256}") == b"after"
    assert digest == store.digest(f"blobs/{digest.sha256}")
