"""The registry: versions are whole or absent, numbers are never shared, and aliases follow the log."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from brew_platform.errors import RegistryError, StorageError, UserError
from brew_platform.registry import snapshot_log
from brew_platform.registry.model_digest import folder_digest
from brew_platform.registry.policy import AliasRule, Policy
from brew_platform.registry.registry import Fault, Gate, GateOutcome, Registry, Version
from brew_platform.storage.base import Digest
from brew_platform.storage.local import LocalStore

GOOD = Gate(figure="jobs.auc", at_least=0.65)
FORCE = {"force": True, "reason": "a test"}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def registry(store: LocalStore) -> Registry:
    return Registry(store, clock=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    return folder


def publish(registry: Registry, folder: Path, **values: Any) -> Version:
    about = {"signature": {"context": 512}, "lineage": {}, "metrics": {"jobs": {"auc": 0.7}}, "author": "ana"} | values
    return registry.publish(folder, **about)


def test_a_version_is_published_and_fetched_back(
    registry: Registry, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    assert registry.versions() == []
    version = publish(registry, folder)
    assert (version.number, version.time, version.author) == (1, "2026-01-02T03:04:05+00:00", "ana")
    assert [file.path for file in version.files] == ["model.safetensors", "tokenizer/tokenizer.json"]
    assert version.size == 25602
    assert registry.version(1) == version
    fetched = registry.fetch(1, tmp_path / "cache")
    assert (fetched / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (fetched / "tokenizer/tokenizer.json").read_text() == "{}"
    assert [path.name for path in (tmp_path / "cache").glob("[!.]*")] == [fetched.name]


def test_the_layout_is_the_documented_one(registry: Registry, store: LocalStore, folder: Path) -> None:
    version = publish(registry, folder)
    registry.promote(1, gates=[GOOD], author="ana")
    blobs = sorted(f"models/brew360/blobs/sha256/{file.sha256}" for file in version.files)
    events = ["models/brew360/events/00000000000000000001.json"]
    assert store.list() == [*blobs, *events, "models/brew360/versions/00000000000000000001.json"]
    assert json.loads(store.get(events[0])) == {
        "kind": "promote",
        "version": 1,
        "alias": "production",
        "author": "ana",
        "time": "2026-01-02T03:04:05+00:00",
        "gates": [
            {"name": "jobs.auc", "value": 0.7, "threshold": 0.65, "passed": True, "rule": "at_least", "reason": ""}
        ],
        "note": "",
        "write_id": registry.events()[0].write_id,
    }


def test_a_data_set_and_a_model_of_one_name_are_kept_apart(registry: Registry, store: LocalStore, folder: Path) -> None:
    datasets = Registry(store, section="datasets")
    version = publish(datasets, folder, skip=["tokenizer"])
    assert [file.path for file in version.files] == ["model.safetensors"]
    assert registry.versions() == []
    assert all(key.startswith("datasets/brew360/") for key in store.list())


def test_a_second_version_shares_unchanged_blobs(registry: Registry, store: LocalStore, folder: Path) -> None:
    publish(registry, folder)
    (folder / "model.safetensors").write_bytes(b"new weights")
    assert publish(registry, folder).number == 2
    assert len(store.list("models/brew360/blobs/")) == 3
    assert Registry(store, "other").versions() == []


def test_a_fetched_folder_is_reused_and_a_changed_one_replaced(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    publish(registry, folder)
    fetched = registry.fetch(1, tmp_path / "cache")
    inode = (fetched / "model.safetensors").stat().st_ino
    assert registry.fetch(1, tmp_path / "cache") == fetched
    assert (fetched / "model.safetensors").stat().st_ino == inode
    (fetched / "model.safetensors").write_bytes(b"cut")
    registry.fetch(1, tmp_path / "cache")
    assert (fetched / "model.safetensors").stat().st_size == 25600


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_fetched_file_that_was_altered_without_changing_its_size_is_replaced(
    registry: Registry, folder: Path, tmp_path: Path, keep_times: bool
) -> None:
    publish(registry, folder)
    weights = registry.fetch(1, tmp_path / "cache") / "model.safetensors"
    right, status = weights.read_bytes(), weights.stat()
    time.sleep(0.02)  # longer than the resolution of a file's times
    weights.write_bytes(right[::-1][:-1] + b"!")
    if keep_times:
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    registry.fetch(1, tmp_path / "cache")
    assert weights.read_bytes() == right


def test_a_fetched_folder_is_hashed_once(
    registry: Registry, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry, folder)
    fetched = registry.fetch(1, tmp_path / "cache")
    fetched.with_name(f".{fetched.name}.verified").unlink()  # of an earlier release, or copied
    registry.fetch(1, tmp_path / "cache")
    monkeypatch.setattr(Digest, "of_file", lambda path: pytest.fail(f"{path} was hashed"))
    assert registry.fetch(1, tmp_path / "cache") == fetched


def test_many_may_fetch_at_once(registry: Registry, folder: Path, tmp_path: Path) -> None:
    publish(registry, folder)
    barrier = threading.Barrier(8)

    def fetch(_: int) -> tuple[Path, int]:
        barrier.wait()
        fetched = registry.fetch(1, tmp_path / "cache")
        return fetched, (fetched / "model.safetensors").stat().st_size

    with ThreadPoolExecutor(8) as pool:
        ((fetched, size),) = set(pool.map(fetch, range(8)))
    assert size == 25600
    assert list((tmp_path / "cache").glob("[!.]*")) == [fetched]
    assert len(list((tmp_path / "cache").glob(".*"))) == 1  # the record of its verification


def test_the_folder_of_a_killed_fetch_is_removed_after_a_day(registry: Registry, folder: Path, tmp_path: Path) -> None:
    fetched = tmp_path / "cache" / f"brew360-1-{publish(registry, folder).write_id[:12]}"
    for name, age_hours in (("old", 25), ("young", 1)):
        left = fetched.with_name(f".{fetched.name}.{name}.part")
        left.mkdir(parents=True)
        os.utime(left, (time.time() - age_hours * 3600,) * 2)
    assert registry.fetch(1, tmp_path / "cache") == fetched
    assert sorted(path.name.split(".")[-2] for path in (tmp_path / "cache").glob(".*.part")) == ["young"]


def test_a_damaged_or_missing_blob_is_named_and_nothing_is_left(
    registry: Registry, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    weights = publish(registry, folder).files[0]
    blob = store.root / f"models/brew360/blobs/sha256/{weights.sha256}"
    content = bytearray(blob.read_bytes())
    content[7] ^= 1
    blob.write_bytes(content)
    with pytest.raises(RegistryError) as caught:
        registry.fetch(1, tmp_path / "cache")
    message = str(caught.value)
    assert f"blob models/brew360/blobs/sha256/{weights.sha256} (model.safetensors) is damaged: it has 25600" in message
    assert "Delete that object from the store and publish the same files again, or serve another version." in message
    blob.unlink()
    with pytest.raises(
        RegistryError, match=r"\(model\.safetensors\) is gone from the store: publish the same files again"
    ):
        registry.fetch(1, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    publish(registry, folder)  # heals the store: version 1 has its blob back
    registry.fetch(1, tmp_path / "cache")


def test_a_manifest_cannot_write_outside_its_folder(
    registry: Registry, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    publish(registry, folder)
    manifest = json.loads(store.get("models/brew360/versions/00000000000000000001.json"))
    manifest["files"][0]["path"] = "../../escaped"
    store.put_if_absent("models/brew360/versions/00000000000000000002.json", json.dumps(manifest).encode())
    with pytest.raises(RegistryError, match=r"names '\.\./\.\./escaped', outside its folder"):
        registry.fetch(2, tmp_path / "cache")


PUBLISHER = """
import sys
from pathlib import Path
from brew_platform.registry.registry import Registry
from brew_platform.storage.local import LocalStore
registry = Registry(LocalStore(Path(sys.argv[1])))
sys.stdin.read()
for _ in range(10):
    print(registry.publish(Path(sys.argv[2]), signature={}, lineage={}, metrics={}, author=sys.argv[3]).number)
"""


def test_publishers_in_two_processes_never_share_a_number_and_none_is_lost(
    registry: Registry, store: LocalStore, folder: Path
) -> None:
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(store.root), str(folder), author],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for author in ("ana", "ben")
    ]
    for publisher in publishers:
        assert publisher.stdin
        publisher.stdin.close()
        publisher.stdin = None
    numbers = {
        author: [int(n) for n in publisher.communicate(timeout=60)[0].split()]
        for author, publisher in zip(("ana", "ben"), publishers, strict=True)
    }
    assert sorted(numbers["ana"] + numbers["ben"]) == registry.versions() == list(range(1, 21))
    assert all(registry.version(number).author == author for author in numbers for number in numbers[author])


class Flaky(LocalStore):
    """Fails, or loses its answer, on keys that contain `part`."""

    def __init__(self, root: Path, part: str, *, written: bool) -> None:
        super().__init__(root)
        self.part = part
        self.written = written

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.part not in key:
            return super().put_if_absent(key, data)
        if not self.written:
            raise StorageError("the store went away")
        super().put_if_absent(key, data)
        return False  # as boto3 does when the answer to a conditional write is lost and it tries again


def test_a_crash_between_blobs_and_manifest_leaves_no_version(
    registry: Registry, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="the store went away"):
        publish(Registry(Flaky(store.root, "/versions/", written=False)), folder)
    assert len(store.list("models/brew360/blobs/")) == 2
    assert registry.versions() == []
    assert publish(registry, folder).number == 1
    registry.fetch(1, tmp_path / "cache")


def test_a_lost_answer_does_not_publish_or_promote_twice(registry: Registry, store: LocalStore, folder: Path) -> None:
    flaky = Registry(Flaky(store.root, ".json", written=True))
    assert publish(flaky, folder).number == 1
    assert flaky.promote(1, gates=[GOOD], author="ana").number == 1
    assert registry.versions() == [1]
    assert len(registry.events()) == 1


def test_promote_and_roll_back(registry: Registry, folder: Path) -> None:
    for _ in range(3):
        publish(registry, folder)
    registry.promote(1, gates=[GOOD], author="ana")
    registry.promote(2, gates=[GOOD], author="ana")
    registry.promote(2, gates=[GOOD], author="ana")
    registry.append("canary", 3, author="ben")
    assert registry.aliases() == {"canary": 3, "production": 2}
    assert [registry.resolve(name) for name in ("production", "canary", "3", 2)] == [2, 3, 3, 2]
    event = registry.rollback("production", author="ben", note="latency")
    assert (event.kind, event.version, event.note) == ("rollback", 1, "latency")
    assert registry.resolve("production") == 1
    with pytest.raises(RegistryError) as caught:
        registry.rollback("production", author="ben")
    assert str(caught.value) == (
        "production cannot be rolled back: it points to version 1 and no earlier one is left. Promote the version that "
        "should serve."
    )
    assert len(registry.events()) == 5


def test_a_failed_gate_blocks_with_its_numbers_and_is_recorded(registry: Registry, folder: Path) -> None:
    publish(registry, folder)
    bad, unmeasured = Gate(figure="jobs.auc", at_least=0.75), Gate(figure="posts.auc", at_least=0.6)
    with pytest.raises(RegistryError) as caught:
        registry.promote(1, gates=[GOOD, bad, unmeasured], author="ana")
    assert str(caught.value) == (
        "version 1 of brew360 was not promoted to production: gate jobs.auc failed (value 0.7, threshold 0.75); gate "
        "posts.auc failed (not measured, threshold 0.6). Event 1 records it. Publish a version that passes, or correct "
        "the gate."
    )
    (event,) = registry.events()
    assert (event.kind, event.version, event.alias) == ("blocked", 1, "production")
    assert [(gate.name, gate.value, gate.passed) for gate in event.gates] == [
        ("jobs.auc", 0.7, True), ("jobs.auc", 0.7, False), ("posts.auc", None, False),
    ]  # fmt: skip
    assert registry.aliases() == {}


def test_the_gates_of_the_publication_are_judged_unless_others_are_named(registry: Registry, folder: Path) -> None:
    published = publish(registry, folder, gates=[Gate(figure="jobs.auc", at_least=0.75, at_most=1.0)])
    assert published.gates == (Gate(figure="jobs.auc", at_least=0.75, at_most=1.0),)
    with pytest.raises(RegistryError, match=r"gate jobs\.auc failed \(value 0\.7, threshold 0\.75\)"):
        registry.promote(1, author="ana")
    assert registry.promote(1, gates=[GOOD], author="ana").kind == "promote"


def test_a_promotion_that_judges_nothing_must_be_forced_with_a_reason_that_the_log_keeps(
    registry: Registry, folder: Path
) -> None:
    publish(registry, folder)
    for gates in (None, []):
        with pytest.raises(UserError, match=r"it has no gates, .*or force the promotion with a reason"):
            registry.promote(1, gates=gates, author="ana")
    for fields in ({"force": True}, {"force": True, "reason": " \n"}):
        with pytest.raises(UserError, match=r"needs a reason, which the log keeps"):
            registry.promote(1, author="ana", **fields)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a reason needs force"):
        registry.promote(1, gates=[GOOD], author="ana", reason="because")
    with pytest.raises(UserError, match="the registry judges them itself"):
        registry.promote(1, gates=[GateOutcome("jobs.auc", 0.7, 0.65, True)], author="ana")  # type: ignore[list-item]
    assert registry.events() == []
    event = registry.promote(1, author="ana", force=True, reason=" the first version ")
    assert (event.kind, event.force_reason, event.gates) == ("promote", "the first version", ())
    assert registry.events() == [event]


def test_a_forced_promotion_records_the_gates_that_failed(registry: Registry, folder: Path) -> None:
    publish(registry, folder)
    event = registry.promote(1, gates=[Gate(figure="jobs.auc", at_least=0.9)], author="ana", **FORCE)  # type: ignore[arg-type]
    assert (event.kind, event.force_reason, event.gates[0].passed) == ("promote", "a test", False)
    assert registry.resolve("production") == 1


@pytest.mark.parametrize(
    ("after", "digest", "kind", "value", "reason"),
    [
        (0.71, "r", "promote", 0.01, ""),
        (0.69, "r", "blocked", -0.01, ""),
        (0.71, "other", "blocked", None, "version 1 was not measured on the same rows"),
        (float("inf"), "r", "blocked", None, ""),
    ],
)
def test_a_change_is_judged_against_the_version_that_is_replaced(
    registry: Registry, store: LocalStore, folder: Path, after: float, digest: str, kind: str, value: Any, reason: str
) -> None:
    gate = Gate(figure="jobs.auc", at_least=0.5, min_change=0.0)
    publish(registry, folder, lineage={"benchmark": {"rows_digest": "r"}})
    assert registry.promote(1, gates=[gate], author="ana").kind == "promote"  # nothing is replaced yet
    metrics = {"jobs": {"auc": after if after < 1 else "inf"}}
    publish(registry, folder, metrics=metrics, lineage={"benchmark": {"rows_digest": digest}})
    with contextlib.suppress(RegistryError):
        registry.promote(2, gates=[gate], author="ana")
    event = registry.events()[-1]
    outcome = event.gates[-1]
    assert (event.kind, outcome.rule, outcome.value, outcome.reason) == (
        kind, "min_change", value if value is None else pytest.approx(value), reason
    )  # fmt: skip


def test_a_comparison_with_a_version_that_was_replaced_meanwhile_blocks_the_promotion(
    registry: Registry, folder: Path
) -> None:
    gate = Gate(figure="jobs.change.auc", at_least=0.0)
    for against in (1, 1, 2):
        publish(registry, folder, metrics={"jobs": {"auc": 0.7, "change": {"auc": 0.01, "against": against}}})
    registry.promote(1, force=True, reason="first", author="ana")
    registry.promote(2, gates=[gate], author="ana")
    registry.rollback(author="ana")
    with pytest.raises(RegistryError, match="compared with version 2, but the alias points to version 1"):
        registry.promote(3, gates=[gate], author="ana")
    assert registry.events()[-1].kind == "blocked"
    registry.promote(2, gates=[gate], author="ana")
    assert registry.promote(3, gates=[gate], author="ana").kind == "promote"


def test_events_and_manifests_of_earlier_releases_are_read(registry: Registry, store: LocalStore, folder: Path) -> None:
    publish(registry, folder)
    manifest = json.loads(store.get("models/brew360/versions/00000000000000000001.json"))
    del manifest["gates"]
    store.put_if_absent("models/brew360/versions/00000000000000000002.json", json.dumps(manifest).encode())
    event = {
        "kind": "promote", "version": 2, "alias": "production", "author": "ana", "time": "2026-01-02T03:04:05+00:00",
        "gates": [{"name": "jobs.auc", "value": 0.6, "threshold": 0.65, "passed": True}], "note": "", "write_id": "x",
    }  # fmt: skip
    store.put_if_absent("models/brew360/events/00000000000000000001.json", json.dumps(event).encode())
    assert registry.version(2).gates == ()
    (read,) = registry.events()
    assert read.gates == (GateOutcome("jobs.auc", 0.6, 0.65, True),)
    assert read.force_reason is None
    assert registry.resolve("production") == 2


def test_a_file_that_changes_while_it_is_published_is_never_stored_under_the_wrong_digest(
    registry: Registry, store: LocalStore, folder: Path
) -> None:
    weights = folder / "model.safetensors"
    right = weights.read_bytes()
    measured = folder_digest(folder)

    class Slow(LocalStore):
        """Another process writes to the weights just before they are copied; size and time stay the same."""

        def upload_by_digest(self, prefix: str, path: Path) -> tuple[Digest, bool]:
            if path == weights:
                status = path.stat()
                path.write_bytes(right[::-1])
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            return super().upload_by_digest(prefix, path)

    with pytest.raises(StorageError, match=r"its files changed after they were measured"):
        publish(Registry(Slow(store.root)), folder, measured_digest=measured)
    assert registry.versions() == []
    weights.write_bytes(right)
    publish(Registry(Slow(store.root)), folder)
    assert registry.verify() == []


def test_a_file_that_disappears_while_it_is_published_makes_no_version(
    registry: Registry, store: LocalStore, folder: Path
) -> None:
    class Slow(LocalStore):
        def upload_by_digest(self, prefix: str, path: Path) -> tuple[Digest, bool]:
            path.unlink()
            return super().upload_by_digest(prefix, path)

    with pytest.raises(StorageError, match=r"model\.safetensors does not exist"):
        publish(Registry(Slow(store.root)), folder)
    assert registry.versions() == []


def test_a_model_that_changed_after_it_was_measured_is_not_published(registry: Registry, folder: Path) -> None:
    measured = folder_digest(folder)
    (folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(StorageError, match="its files changed after they were measured"):
        publish(registry, folder, measured_digest=measured)
    assert registry.versions() == []
    assert publish(registry, folder, measured_digest=folder_digest(folder)).number == 1


def test_verify_names_every_missing_or_damaged_blob(registry: Registry, store: LocalStore, folder: Path) -> None:
    publish(registry, folder)
    (folder / "tokenizer/tokenizer.json").write_text("{ }")
    first = registry.version(1)
    second = publish(registry, folder)
    assert registry.verify() == []
    weights, tokenizer = (store.root / f"models/brew360/blobs/sha256/{file.sha256}" for file in first.files)
    weights.write_bytes(bytes(25600))
    tokenizer.unlink()
    faults = registry.verify()
    assert [(fault.version, fault.name) for fault in faults] == [
        (1, "model.safetensors"), (1, "tokenizer/tokenizer.json"), (2, "model.safetensors"),
    ]  # fmt: skip
    assert "is damaged: it has 25600 bytes with sha256" in faults[0].problem
    assert "is gone from the store" in faults[1].problem
    assert [fault.name for fault in registry.verify([second.number])] == ["model.safetensors"]
    with pytest.raises(RegistryError, match="is damaged"):  # a version with this blob could not be fetched
        publish(registry, folder)
    (store.root / "models/brew360/versions/00000000000000000002.json").write_text("{}")
    assert registry.verify()[-1] == Fault(
        version=2, name="manifest", problem="the manifest of version 2 of brew360 is damaged: 'files'. Restore its "
        "object from a backup of the store, or serve another version.",
    )  # fmt: skip
    with pytest.raises(RegistryError, match="no version 9"):
        registry.verify([9])


def test_a_retired_version_is_passed_over(registry: Registry, folder: Path) -> None:
    for number in (1, 2, 3):
        publish(registry, folder)
        registry.promote(number, gates=[GOOD], author="ana")
    registry.append("retire", 2, author="ana", note="trained on wrong labels")
    with pytest.raises(
        RegistryError, match=r"version 2 of brew360 is retired\. Promote another, or publish it again\."
    ):
        registry.promote(2, gates=[GOOD], author="ana")
    assert registry.rollback(author="ana").version == 1
    with pytest.raises(RegistryError, match=r"version 2 of brew360 is retired already\. Event 7 records it\.$"):
        registry.append("retire", 2, author="ana")
    refused = registry.events()[4], registry.events()[6]
    assert [(event.kind, event.version) for event in refused] == [("blocked", 2), ("blocked", 2)]
    assert refused[0].note == "version 2 of brew360 is retired. Promote another, or publish it again."


def test_no_alias_can_be_moved_to_a_version_without_all_its_files(
    registry: Registry, store: LocalStore, folder: Path
) -> None:
    version = publish(registry, folder)
    publish(registry, folder, metrics={"jobs": {"auc": 0.8}})
    (folder / "model.safetensors").write_bytes(b"new weights")
    publish(registry, folder)
    registry.promote(2, gates=[GOOD], author="ana")
    registry.promote(3, gates=[GOOD], author="ana")
    (store.root / f"models/brew360/blobs/sha256/{version.files[0].sha256}").unlink()
    words = r"version {} of brew360 cannot serve: blob models.* \(model\.safetensors\) is gone from the store\. Event"
    with pytest.raises(RegistryError, match=words.format(1)):
        registry.promote(1, author="ana", **FORCE)  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match=words.format(1)):
        registry.append("canary", 1, author="ana")
    with pytest.raises(RegistryError, match=words.format(2)):
        registry.rollback(author="ana")
    assert registry.aliases() == {"production": 3}
    assert [event.kind for event in registry.events()[2:]] == ["blocked"] * 3


def test_a_second_promotion_is_refused_if_it_replaces_another_version_than_it_names(
    registry: Registry, folder: Path
) -> None:
    for _ in range(3):
        publish(registry, folder)
    registry.promote(1, gates=[GOOD], author="ana")
    assert registry.promote(2, gates=[GOOD], author="ana", replaces=1).kind == "promote"
    with pytest.raises(
        RegistryError,
        match=r"version 3 of brew360 was not promoted: production points to version 2, not to version 1\. Event 3 rec",
    ):
        registry.promote(3, gates=[GOOD], author="ben", replaces=1)
    with pytest.raises(RegistryError, match="staging points to no version, not to version 1"):
        registry.promote(3, gates=[GOOD], author="ben", replaces=1, alias="staging")
    assert registry.aliases() == {"production": 2}


def test_the_policy_is_judged_with_the_gates_and_changed_by_its_role_only(registry: Registry, folder: Path) -> None:
    publish(registry, folder)
    policy = Policy(
        roles={"owner": ["ana"], "reviewer": ["ben"]},
        aliases={
            "production": AliasRule(move=["owner"], approvals={"reviewer": 1}),
            "canary": AliasRule(move=["owner"]),
        },
        change=["owner"],
    )
    registry.set_policy(policy, author="anyone")
    with pytest.raises(RegistryError, match=r"policy of brew360 was not changed: ben is not owner\. Event 2"):
        registry.set_policy(Policy(), author="ben")
    for force in ({}, FORCE):
        with pytest.raises(
            RegistryError,
            match=r"gate approvals\.reviewer failed \(value 0, threshold 1\)\. Event \d rec",
        ):
            registry.promote(1, gates=[GOOD], author="ana", **force)  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match=r"was not made canary: gate role failed \(ben is not owner"):
        registry.append("canary", 1, author="ben")
    registry.append("approve", 1, author="ben")
    event = registry.promote(1, gates=[GOOD], author="ana")
    assert [gate.name for gate in event.gates] == ["role", "approvals.reviewer", "jobs.auc"]
    assert registry.policy() == policy
    assert registry.set_policy(Policy(), author="ana").policy == Policy().document()


def test_a_publication_that_is_repeated_makes_no_second_version(registry: Registry, folder: Path) -> None:
    first = publish(registry, folder, publication="nightly")
    assert publish(registry, folder, publication="nightly") == first
    assert publish(registry, folder, publication="weekly").number == 2
    assert publish(registry, folder).number == 3
    assert publish(registry, folder, publication="nightly") == first
    (folder / "model.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match=r"version 1 of brew360 was published as 'nightly' with other files than those"):
        publish(registry, folder, publication="nightly")


def test_pickles_are_refused_in_models_only(registry: Registry, store: LocalStore, folder: Path) -> None:
    (folder / "model.pt").write_text("x")
    with pytest.raises(UserError, match=r"model\.pt: it is a pickle"):
        publish(registry, folder)
    assert store.list() == []
    assert publish(Registry(store, section="datasets"), folder).number == 1


def test_versions_are_copied_to_another_registry_and_not_twice(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    published = publish(registry, folder, gates=[GOOD], lineage={"commit": "c"})
    publish(registry, folder)
    other = Registry(LocalStore(tmp_path / "other"), "ranker")
    publish(other, folder)
    copy = other.copy_from(registry, 1)
    assert (copy.number, copy.author, copy.time, copy.files) == (2, "ana", published.time, published.files)
    assert copy.lineage == {
        "commit": "c",
        "copied_from": {"registry": registry.store.url, "model": "brew360", "version": 1},
    }
    assert copy.gates == (GOOD,)
    assert other.copy_from(registry, 1) == copy
    assert registry.copy_from(other, 2) == published
    assert other.copy_from(registry, 2).number == 3
    assert other.verify() == []
    assert (other.fetch(2, tmp_path / "cache") / "model.safetensors").read_bytes()[:2] == b"\x00\x01"
    assert other.events() == []


def test_a_damaged_blob_is_not_copied(registry: Registry, store: LocalStore, folder: Path, tmp_path: Path) -> None:
    weights = publish(registry, folder).files[0]
    (store.root / f"models/brew360/blobs/sha256/{weights.sha256}").write_bytes(bytes(25600))
    other = Registry(LocalStore(tmp_path / "other"))
    with pytest.raises(RegistryError, match=r"\(model\.safetensors\) is damaged"):
        other.copy_from(registry, 1)
    assert other.versions() == []
    assert not other.store.list("models/brew360/holds/")


def test_verify_reads_every_event_and_compares_the_newest_snapshot(
    registry: Registry, store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_log, "EVERY", 2)
    publish(registry, folder)
    for _ in range(3):
        registry.append("tag", 1, author="ana")
    assert registry.verify() == []
    event = store.root / "models/brew360/events/00000000000000000001.json"
    right = event.read_text()
    event.write_text(right.replace("ana", "eve"))
    (fault,) = registry.verify()
    assert (fault.version, fault.name) == (None, "snapshot 2")
    event.write_text("{}")
    assert [fault.name for fault in registry.verify()] == ["event 1", "snapshot 2"]


def test_errors_name_the_missing_version_or_alias(registry: Registry, folder: Path) -> None:
    with pytest.raises(RegistryError, match=r"^brew360 has no version 7; none was published yet\. Give the number"):
        registry.version(7)
    publish(registry, folder)
    with pytest.raises(RegistryError, match=r"has no version 7; the newest is 1\."):
        registry.resolve("7")
    with pytest.raises(
        RegistryError, match=r"has no alias 'production'; existing are: none yet\. Promote a version to it"
    ):
        registry.resolve("production")
    for name in ("01", "0", "9" * 5_000, "\u0661"):
        with pytest.raises(RegistryError, match=r"has no alias"):
            registry.resolve(name)
    with pytest.raises(RegistryError, match=r"'\.\./1'; existing are: none yet\. Give an alias that exists"):
        registry.resolve("../1")
    with pytest.raises(
        UserError, match=r"'promote' cannot be appended\. Use canary, shadow, failed, approve, retire or tag"
    ):
        registry.append("promote", 1, author="ana")
    with pytest.raises(UserError, match=r"'7' is not a valid alias name: it is the number of a version"):
        registry.promote(1, alias="7", gates=[GOOD], author="ana")
    with pytest.raises(UserError, match=r"'a/b' is not a valid model name"):
        Registry(registry.store, "a/b")


def test_an_invalid_publication_is_refused_and_makes_no_version(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"cannot publish .*/absent: the folder does not exist\. Pass the folder of an"):
        publish(registry, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"cannot publish .*/empty: it contains no files"):
        publish(registry, tmp_path / "empty")
    with pytest.raises(UserError, match=r"cannot be written as JSON: .*Use only finite numbers \(null for an unknown"):
        publish(registry, folder, metrics={"auc": float("nan")})
    assert registry.versions() == []


def test_a_damaged_manifest_or_event_is_named(registry: Registry, store: LocalStore) -> None:
    store.put_if_absent("models/brew360/versions/00000000000000000001.json", b"not json")
    store.put_if_absent("models/brew360/versions/00000000000000000002.json", b"{}")
    store.put_if_absent("models/brew360/events/00000000000000000001.json", b"{}")
    with pytest.raises(RegistryError, match=r"00000000000000000001\.json is damaged: it is not a JSON object"):
        registry.version(1)
    with pytest.raises(RegistryError, match=r"the manifest of version 2 of brew360 is damaged: 'files'\. Restore"):
        registry.version(2)
    with pytest.raises(RegistryError, match=r"event 1 is damaged: 'kind'\. Restore its object"):
        registry.events()
