"""64 publishers at once, the fold of a long log, and the time to publish a large file."""

import hashlib
import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.platform.processes import run_all
from bench.platform.stores import BenchStore

from brew_platform.registry.events import Event, aliases
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store

__all__ = ["measure_fold", "measure_publication", "publish_at_once"]

_ABOUT: dict[str, Any] = {"signature": {}, "lineage": {}, "metrics": {}}
_CHUNK = 8 * 1024 * 1024


def publish_at_once(store: BenchStore, folder: Path, *, publishers: int) -> dict[str, Any]:
    """Publish a version from each of many processes that start together.

    Returns:
        `versions`: published by exactly one process each, and verified; `lost`: publications without one.
    """

    def publish(publisher: int) -> int:
        files = folder / f"export-{publisher}"
        files.mkdir(parents=True)
        (files / "config.json").write_text("{}")  # the same of all
        (files / "model.safetensors").write_bytes(random.Random(publisher).randbytes(200_000))
        registry = Registry(open_store(store.url), "at-once")
        return registry.publish(files, **_ABOUT, author=f"p{publisher}").number

    functions: list[Callable[[], int]] = [lambda n=number: publish(n) for number in range(publishers)]
    outcomes, seconds = run_all(functions)
    registry = Registry(open_store(store.url), "at-once")
    faults = {fault.version for fault in registry.verify()}
    right = {
        number
        for publisher, outcome in enumerate(outcomes)
        if (number := outcome.value) is not None
        and number not in faults
        and registry.version(number).author == f"p{publisher}"
    }
    return {
        "publishers": publishers,
        "versions": len(right),
        "lost": publishers - len(right),
        "numbers_are_contiguous": registry.versions() == list(range(1, publishers + 1)),
        "seconds": round(seconds, 2),
        "errors": [outcome.error for outcome in outcomes if outcome.error][:5],
    }


def measure_fold(store: BenchStore, *, events: int, rounds: int = 20) -> dict[str, Any]:
    """Read a log of many events and fold it to aliases.

    Returns:
        `fold_10k_ms`: in a process that has read the log before, as a service does; `snapshot_ms`: in a new process,
        from the newest snapshot; `listed_ms`: in a new process, without a snapshot.
    """
    url, model = store.url, "folded"
    opened = open_store(url)

    def put(number: int) -> None:
        event = Event(
            number=number,
            kind="promote" if number % 3 else "canary",
            version=number % 40 + 1,
            alias="production" if number % 3 else "canary",
            share=None if number % 3 else 0.1,
            author="bench",
            time="2026-01-01T00:00:00+00:00",
            write_id=f"{number:032d}",
        )
        opened.put_if_absent(f"models/{model}/events/{number:020d}.json", json.dumps(event.document()).encode())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(1, events)))

    def fold(registry: Registry) -> float:
        start = time.perf_counter()
        found = aliases(registry.events())
        seconds = time.perf_counter() - start
        if not found:
            raise RuntimeError("the log has no aliases")
        return seconds * 1000

    listed = [fold(Registry(open_store(url), model)) for _ in range(3)]
    writer = Registry(open_store(url), model)
    registry = Registry(open_store(url), model)
    writer._versions.append(lambda number: {"files": [], **_ABOUT, "author": "b", "time": ""}, write_id="b")
    writer.append("tag", 1, author="bench")  # the last event; it also writes the snapshot
    snapshot = [fold(Registry(open_store(url), model)) for _ in range(5)]
    fold(registry)
    warm = [fold(registry) for _ in range(rounds)]
    return {
        "events": len(registry.events()),
        "fold_10k_ms": round(statistics.median(warm), 2),
        "fold_worst_ms": round(max(warm), 2),
        "snapshot_ms": round(statistics.median(snapshot), 1),
        "listed_ms": round(statistics.median(listed), 1),
    }


def measure_publication(store: BenchStore, folder: Path, *, size: int, rounds: int) -> dict[str, Any]:
    """Publish a large file, and copy and hash the same file once by the shortest code, in turn.

    Returns:
        `publish_ratio`: median seconds of a publication ÷ median seconds of the copy; and every round.
    """
    files = folder / "large"
    files.mkdir(parents=True)
    publications: list[float] = []
    copies: list[float] = []
    for number in range(rounds):
        source = files / "model.safetensors"
        _write_random(source, size, seed=number)
        registry = Registry(open_store(store.url), "large")
        calls = [
            (copies, lambda: _copy_and_hash(store, source, folder / "copy")),  # noqa: B023 - called here
            (publications, lambda: registry.publish(files, **_ABOUT, author="bench")),  # noqa: B023 - called here
        ]
        for seconds, call in calls if number % 2 else reversed(calls):
            seconds.append(_seconds(call))
        for sha256 in registry.blobs.stored():
            registry.blobs.delete(sha256)
    shutil.rmtree(files)
    return {
        "publish_ratio": round(statistics.median(publications) / statistics.median(copies), 3),
        "publish_bytes": size,
        "publish_seconds": [round(value, 2) for value in publications],
        "copy_seconds": [round(value, 2) for value in copies],
    }


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _write_random(path: Path, size: int, *, seed: int) -> None:
    generator = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, size, _CHUNK):
            file.write(generator.randbytes(min(_CHUNK, size - start)))
        file.flush()
        os.fsync(file.fileno())


def _copy_and_hash(store: BenchStore, source: Path, target: Path) -> str:
    """Copy a file to the disk or bucket of the store and hash it once: in one pass, or with boto3's upload after it."""
    digest = hashlib.sha256()
    if store.direct is None:
        with source.open("rb") as reader, target.open("wb") as writer:
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
                writer.write(chunk)
            writer.flush()
            os.fsync(writer.fileno())
        target.unlink()
        return digest.hexdigest()
    import boto3

    with source.open("rb") as reader:
        found = hashlib.file_digest(reader, "sha256").hexdigest()
    bucket = store.url.split("/")[2]
    client = boto3.Session().client("s3", region_name="us-east-1")
    client.upload_file(str(source), bucket, "reference")
    client.delete_object(Bucket=bucket, Key="reference")
    return found
