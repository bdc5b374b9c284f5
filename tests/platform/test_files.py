"""Durable writes: atomic, exclusive, and no partial file after kill -9."""

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_platform import files


@settings(max_examples=25, deadline=None)
@given(contents=st.lists(st.binary(max_size=2_000), min_size=1, max_size=5))
def test_replace_leaves_the_last_content_and_no_other_file(contents: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.json"
        for content in contents:
            files.replace_atomically(path, content)
            assert path.read_bytes() == content
        assert [entry.name for entry in Path(folder).iterdir()] == ["state.json"]


def test_text_is_written_as_utf8_and_the_mode_is_applied(tmp_path: Path) -> None:
    files.replace_atomically(tmp_path / "keys", "schlüssel\n", mode=0o600)
    assert (tmp_path / "keys").read_bytes() == "schlüssel\n".encode()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600


@pytest.mark.parametrize("function", ["fsync", "fdopen"])
@pytest.mark.parametrize("write", [files.replace_atomically, files.create_exclusively])
def test_failure_before_the_final_name_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, write: Callable[[Path, bytes], None]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "state.json"
    if write is files.replace_atomically:
        path.write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space left"):
        write(path, b"new")
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == before
    if before:
        assert path.read_bytes() == b"old"


def test_failure_in_the_block_of_atomic_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.atomic_file(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_synced_before_the_rename_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls = tmp_path / "state.json", []
    real = os.fsync

    def record(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append(("folder" if is_folder else "file", path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    files.replace_atomically(path, b"x")
    assert calls == [("file", False), ("folder", True)]


def test_existing_file_is_not_created_again(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    files.create_exclusively(path, b"first")
    with pytest.raises(FileExistsError):
        files.create_exclusively(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_exactly_one_of_16_concurrent_creators_wins(tmp_path: Path) -> None:
    barrier = threading.Barrier(16)

    def create(number: int) -> bool:
        barrier.wait()
        try:
            files.create_exclusively(tmp_path / "slot", str(number))
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    assert [number for number in range(16) if won[number]] == [int((tmp_path / "slot").read_text())]
    assert [path.name for path in tmp_path.iterdir()] == ["slot"]


def test_killed_writer_never_leaves_a_half_written_file(tmp_path: Path) -> None:
    path, size = tmp_path / "state", 300_000
    code = (
        "import sys; from pathlib import Path; from brew_platform.files import replace_atomically\n"
        "while True:\n"
        "    for letter in (b'a', b'b'): replace_atomically(Path(sys.argv[1]), letter * int(sys.argv[2]))"
    )
    chance = random.Random(0)
    for _ in range(8):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", code, str(path), str(size)])
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=30)
        assert path.read_bytes() in (b"a" * size, b"b" * size)


def test_folder_is_replaced_and_the_previous_folder_is_deleted(tmp_path: Path) -> None:
    for name in ("export", ".export.writing"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text(name)
    (tmp_path / ".export.0.old").mkdir()
    files.replace_folder(tmp_path / ".export.writing", tmp_path / "export")
    assert (tmp_path / "export" / "sub" / "file").read_text() == ".export.writing"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_folder_appears_only_when_its_block_succeeds(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "export"
    with files.atomic_folder(folder) as temporary:
        (temporary / "file").write_text("first")
        assert not folder.exists()
    (folder.parent / ".export.writing").mkdir()  # of a process that was killed
    (folder.parent / ".export.writing" / "rest").touch()

    def interrupted() -> None:
        with files.atomic_folder(folder) as temporary:
            assert list(temporary.iterdir()) == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in folder.parent.iterdir()] == ["export"]
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_previous_folder_is_restored_if_the_new_one_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("export", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        files.replace_folder(tmp_path / "new", tmp_path / "export")
    assert (tmp_path / "export" / "file").read_text() == "export"
