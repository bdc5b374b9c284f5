"""The registry on every store: a folder, moto and a real Ceph RGW, from several processes and under faulty requests."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from brew_platform.registry.events import collected
from brew_platform.registry.garbage import collect_garbage
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_platform.storage.local import LocalStore

from ...fault_proxy import Fault, fault_proxy

PUBLISHER = """
import sys
from pathlib import Path
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
registry = Registry(open_store(sys.argv[1]))
sys.stdin.read()
for _ in range(3):
    number = registry.publish(Path(sys.argv[2]), signature={}, lineage={}, metrics={}, author=sys.argv[3]).number
    registry.promote(number, author=sys.argv[3], force=True, reason="test")
    print(number)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 1_000)
    return folder


@pytest.fixture
def publish(folder: Path) -> Callable[[Registry, str], int]:
    def call(registry: Registry, content: str) -> int:
        (folder / "config.json").write_text(content)
        return registry.publish(folder, signature={}, lineage={}, metrics={}, author="ana").number

    return call


def test_a_version_is_published_served_retired_and_collected(
    store_url: str, publish: Callable[[Registry, str], int], tmp_path: Path
) -> None:
    registry = Registry(open_store(store_url))
    for content in ("first", "second"):
        number = publish(registry, content)
        registry.promote(number, author="ana", force=True, reason="test")
    assert (registry.fetch(1, tmp_path / "cache") / "config.json").read_text() == "first"
    assert Registry(open_store(store_url)).aliases() == {"production": 2}
    registry.append("retire", 1, author="ana")
    found = collect_garbage(registry, older_than=timedelta(), author="gc")
    assert (found.versions, len(found.blobs), found.size) == ((1,), 1, 5)
    assert registry.verify() == []
    assert (registry.fetch(2, tmp_path / "cache") / "config.json").read_text() == "second"
    other = Registry(LocalStore(tmp_path / "other"))
    assert other.copy_from(registry, 2).number == 1
    assert other.verify() == []


def test_processes_publish_and_promote_at_once(store_url: str, folder: Path) -> None:
    names = ["p0", "p1", "p2", "p3"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, store_url, str(folder), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for process in processes:
        assert process.stdin
        process.stdin.close()
        process.stdin = None
    numbers = [list(map(int, process.communicate(timeout=120)[0].split())) for process in processes]
    registry = Registry(open_store(store_url))
    assert sorted(number for own in numbers for number in own) == registry.versions() == list(range(1, 13))
    assert [event.number for event in registry.events()] == list(range(1, 13))
    for name, own in zip(names, numbers, strict=True):
        assert all(registry.version(number).author == name for number in own)
    assert registry.verify() == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="lose"),
        Fault(kind="refuse"),
        Fault(kind="answer", status=409),
        Fault(kind="answer", status=500, reaches_server=True),
    ],
    ids=["lost", "refused", "409", "500 after the write"],
)
@pytest.mark.parametrize("store_url", ["moto"], indirect=True)
@pytest.mark.parametrize("part", ["/versions/", "/events/", "/holds/", "/blobs/"])
def test_a_damaged_request_changes_nothing(
    store_url: str, publish: Callable[[Registry, str], int], monkeypatch: pytest.MonkeyPatch, part: str, fault: Fault
) -> None:
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        registry = Registry(open_store(store_url))
        proxy.inject("PUT", fault, path=part)
        number = publish(registry, "content")
        registry.promote(number, author="ana", force=True, reason="test")
    monkeypatch.undo()
    registry = Registry(open_store(store_url))
    assert registry.versions() == [1]
    assert [event.kind for event in registry.events()] == ["promote"]
    assert collected(registry.events()) == {}
    assert registry.verify() == []
    assert not registry.store.list("models/brew360/holds/")
