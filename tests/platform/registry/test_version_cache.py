"""Versions on the disk of a host: downloaded once, kept while a process holds them, within a limit."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from brew_platform.registry.registry import Registry
from brew_platform.registry.version_cache import VersionCache
from brew_platform.storage.local import LocalStore

HOLD = """
import sys
from pathlib import Path
from brew_platform.registry.registry import Registry
from brew_platform.registry.version_cache import VersionCache
from brew_platform.storage.local import LocalStore
cache = VersionCache(Path(sys.argv[2]), limit_bytes=25)
print(*[cache.fetch(Registry(LocalStore(Path(sys.argv[1]))), int(n)) for n in sys.argv[3:]], flush=True)
sys.stdin.read()
"""


class CountingStore(LocalStore):
    """Counts the downloads."""

    downloads = 0

    def download(self, key: str, path: Path) -> None:
        self.downloads += 1
        super().download(key, path)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


@pytest.fixture
def registry(store: CountingStore, tmp_path: Path) -> Registry:
    """Four versions of 10 bytes."""
    registry = Registry(store)
    for number in range(1, 5):
        folder = tmp_path / f"export-{number}"
        folder.mkdir()
        (folder / "weights.bin").write_bytes(bytes([number]) * 10)
        registry.publish(folder, signature={}, lineage={}, metrics={}, author="ana")
    return registry


def test_a_version_is_downloaded_once_for_all_that_need_it(
    registry: Registry, store: CountingStore, tmp_path: Path
) -> None:
    caches = [VersionCache(tmp_path / "cache", limit_bytes=100) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda cache: cache.fetch(registry, 1), caches))
    assert len(folders) == 1
    assert (folders.pop() / "weights.bin").read_bytes() == b"\1" * 10
    assert store.downloads == 1


def test_versions_that_nobody_holds_make_room(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"

    def held_by_a_process(*numbers: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "store"), str(cache), *map(str, numbers)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert len(process.stdout.readline().split()) == len(numbers)
        return process

    first, second = held_by_a_process(1), held_by_a_process(2)
    try:
        first.kill()
        first.wait()
        os.utime(next(cache.glob(".brew360-1-*.used")), (1_000, 1_000))
        with caplog.at_level(logging.WARNING):
            VersionCache(cache, limit_bytes=25).fetch(registry, 3)
            assert sorted(path.name[:9] for path in cache.glob("brew360-*")) == ["brew360-2", "brew360-3"]
            assert caplog.text == ""
            VersionCache(cache, limit_bytes=25).fetch(registry, 4)  # 2 and 3 are held
        assert sorted(path.name[:9] for path in cache.glob("brew360-*")) == ["brew360-2", "brew360-3", "brew360-4"]
        assert "more than the limit" in caplog.text
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_a_version_that_was_deleted_is_downloaded_again(
    registry: Registry, store: CountingStore, tmp_path: Path
) -> None:
    cache = VersionCache(tmp_path / "cache", limit_bytes=100)
    (cache.fetch(registry, 1) / "weights.bin").unlink()
    assert (cache.fetch(registry, 1) / "weights.bin").read_bytes() == b"\1" * 10
    assert store.downloads == 2
