"""Random faults in publish, promote and garbage collection: each is followed by a repetition and a check of everything.

Faults of the store's interface (before, after, a wrong answer, kill -9) happen at a random call of the operation; with
HTTP stores, faults of requests too (409, 500, refused, cut and lost responses); and kill -9 at a random time.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.platform.faulty_store import KINDS, FaultyStore
from bench.platform.processes import Outcome, run_all, run_forked
from bench.platform.stores import BenchStore, HttpFault

from brew_platform.errors import BrewError
from brew_platform.registry.events import collected, in_use, retired
from brew_platform.registry.garbage import collect_garbage
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import ObjectStore, open_store

__all__ = ["inject_faults", "publish_beside_collections"]

OPERATIONS = ("publish", "promote", "collect")
_CALL_SECONDS = 0.004  # about the time of a call, for kills at any time
_PAUSE_SECONDS = 0.15  # between two publications of all processes, so that collections run too
_PER_MODEL = 10  # faults on one model; then a new one, so that its log stays short
# Killed operations leave leases. Their time is shifted, so that the next operation need not wait for an hour.
_FOR_COLLECTION = {"/collections/": timedelta(hours=2)}
_FOR_PUBLICATION = {"/collections/": timedelta(hours=-1)}


class Trial:
    """A model with a few versions, on which operations are repeated after faults.

    Args:
        url: The store.
        model: Name of a new model.
        folder: For the files to publish.
    """

    def __init__(self, url: str, model: str, folder: Path) -> None:
        self.url, self.model, self.folder = url, model, folder
        self.published: dict[str, int] = {}  # version by publication
        self.production: int | None = None
        folder.mkdir(parents=True)
        for name in ("first", "second"):
            self.prepare("publish", name)
            self.published[name] = self.operate(self.open(_FOR_PUBLICATION), "publish", name)

    def open(self, skew: dict[str, timedelta], **fault: Any) -> FaultyStore:
        """Open the store; a client belongs to the process that opens it."""
        return FaultyStore(open_store(self.url), skew=skew, **fault)

    def prepare(self, operation: str, name: str) -> None:
        """Do what is not a part of the operation: write the files, retire a version."""
        if operation == "publish":
            (self.folder / "config.json").write_text("{}")
            (self.folder / "weights.safetensors").write_bytes(random.randbytes(50_000))
        if operation == "collect":
            registry = Registry(open_store(self.url), self.model)
            events = registry.events()
            free = [number for number in registry.versions()[:-1] if number not in retired(events)]
            free = [number for number in free if number not in in_use(events)]
            if free:
                registry.append("retire", free[0], author="bench")

    def operate(self, store: ObjectStore, operation: str, name: str) -> int:
        """Publish, and return the version; promote the newest version; or collect garbage of any age."""
        registry = Registry(store, self.model)
        if operation == "publish":
            about: dict[str, Any] = {"signature": {}, "lineage": {}, "metrics": {}, "author": "bench"}
            return registry.publish(self.folder, publication=name, **about).number
        if operation == "promote":
            number = registry.versions()[-1]
            return registry.promote(number, author="bench", force=True, reason=name).version
        collect_garbage(registry, older_than=timedelta(minutes=1), author="bench")
        return 0

    def check(self) -> list[str]:
        """Return the rules that the registry breaks."""
        registry = Registry(open_store(self.url), self.model)
        events, numbers = registry.events(), registry.versions()
        gone = collected(events)
        ids = Counter(registry.version(number).write_id for number in numbers)
        broken = [f"{fault.version} {fault.name}: {fault.problem}" for fault in registry.verify()]
        if numbers != list(range(1, len(self.published) + 1)):
            broken.append(f"versions {numbers} for {len(self.published)} publications")
        if any(count > 1 for count in ids.values()):
            broken.append("a version was published twice")
        if len({event.write_id for event in events}) != len(events):
            broken.append("an event was written twice")
        if gone.keys() - retired(events) or gone.keys() & in_use(events).keys():
            broken.append("the files of a version in use were removed")
        if self.production is not None and registry.aliases().get("production") != self.production:
            broken.append(f"production is not version {self.production}")
        return broken


def inject_faults(store: BenchStore, folder: Path, *, faults: int, seed: int = 0) -> dict[str, Any]:
    """Inject faults, and count the rules that are broken afterwards.

    Args:
        store: The running store.
        folder: For files.
        faults: How many.
        seed: Of the random choices.

    Returns:
        `faults`, by kind too, and `violations` with examples.
    """
    rng = random.Random(seed)
    kinds = [*KINDS, "kill-anytime", *(HttpFault.kinds if store.proxied else ())]
    calls: dict[str, int] = dict.fromkeys(OPERATIONS, 20)
    counts: Counter[str] = Counter()
    violations: list[str] = []
    trial: Trial | None = None
    attempts = 0
    while counts.total() < faults and attempts < 3 * faults + 100:
        if trial is None or attempts % _PER_MODEL == 0:
            trial = Trial(store.url, f"m{attempts}", folder / f"m{attempts}")
        attempts += 1
        operation, kind, name = rng.choice(OPERATIONS), rng.choice(kinds), f"p{attempts}"
        trial.prepare(operation, name)
        skew = _FOR_COLLECTION if operation == "collect" else _FOR_PUBLICATION
        outcome, happened = _attempt(store, trial, operation, name, kind, rng.randrange(calls[operation]), skew)
        counts[kind] += happened
        if outcome.value is not None:
            calls[operation] = max(calls[operation], outcome.value)
        if outcome.error:
            violations.append(f"{operation}, {kind}: {outcome.error}")
        repeated = run_forked(lambda: trial.operate(trial.open(skew), operation, name))  # noqa: B023 - called here
        if repeated.error or repeated.killed:
            violations.append(f"{operation}, {kind}: the repetition failed: {repeated.error}")
            trial = None
            continue
        if operation == "publish":
            trial.published[name] = repeated.value
        if operation == "promote":
            trial.production = repeated.value
        violations += [f"{operation}, {kind}: {broken}" for broken in trial.check()]
    return {
        "faults": counts.total(),
        "faults_by_kind": dict(sorted(counts.items())),
        "violations": len(violations),
        "examples": violations[:10],
    }


def _attempt(
    store: BenchStore,
    trial: Trial,
    operation: str,
    name: str,
    kind: str,
    at: int,
    skew: dict[str, timedelta],
) -> tuple[Outcome, bool]:
    """Run an operation with a fault at its call or request `at`.

    Returns:
        The outcome, whose value is the number of calls, and whether the fault happened.
    """

    def run(**fault: Any) -> int:
        opened = trial.open(skew, **fault)
        with suppress(BrewError):
            trial.operate(opened, operation, name)
        return len(opened.calls)

    if kind == "kill-anytime":
        outcome = run_forked(run, kill_after=at * _CALL_SECONDS)
        return outcome, outcome.killed
    if kind in HttpFault.kinds:
        store.use_proxy(True)
        store.fault.arm(at, kind)
        outcome = run_forked(run)
        store.use_proxy(False)
        return outcome, store.fault.disarm()
    outcome = run_forked(lambda: run(at=at, kind=kind))
    return outcome, outcome.killed or (outcome.value is not None and outcome.value > at)


def publish_beside_collections(store: BenchStore, folder: Path, *, publishers: int, each: int) -> dict[str, Any]:
    """Publish and retire versions of few different files, while collections of any age run, and check the rest.

    Args:
        store: The running store.
        folder: For files.
        publishers: Processes that publish.
        each: Versions that each publishes.

    Returns:
        `versions`, `collections` that ended, and `violations`.
    """

    def publish(publisher: int) -> int:
        registry, rng = Registry(open_store(store.url), "shared"), random.Random(publisher)
        about: dict[str, Any] = {"signature": {}, "lineage": {}, "metrics": {}, "author": str(publisher)}
        for number in range(each):
            files = folder / f"publisher-{publisher}-{number}"
            files.mkdir(parents=True)
            for name in "ab":
                (files / name).write_text(str(rng.randrange(5)) * 10_000)
            version = registry.publish(files, **about).number
            if rng.random() < 0.7:
                registry.append("retire", version, author="bench")
            time.sleep(rng.uniform(0, 2 * _PAUSE_SECONDS * publishers))
        return each

    def collect() -> int:
        registry, done = Registry(open_store(store.url), "shared"), 0
        end = time.monotonic() + each * _PAUSE_SECONDS * publishers
        while time.monotonic() < end:
            try:
                collect_garbage(registry, older_than=timedelta(), author="bench")
                done += 1
            except BrewError:  # a publication runs
                time.sleep(0.01)
        return done

    functions: list[Callable[[], int]] = [
        *((lambda publisher=publisher: publish(publisher)) for publisher in range(publishers)),
        collect,
        collect,
    ]
    outcomes, seconds = run_all(functions)
    registry = Registry(open_store(store.url), "shared")
    broken = [outcome.error for outcome in outcomes if outcome.error]
    broken += [f"{fault.version} {fault.name}: {fault.problem}" for fault in registry.verify()]
    if len(registry.versions()) != publishers * each:
        broken.append(f"{len(registry.versions())} versions of {publishers * each} publications")
    return {
        "versions": len(registry.versions()),
        "collections": sum(outcome.value or 0 for outcome in outcomes[publishers:]),
        "collected": len(collected(registry.events())),
        "seconds": round(seconds, 1),
        "violations": len(broken),
        "examples": broken[:10],
    }
