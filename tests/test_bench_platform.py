"""The benchmark of the platform: every part runs at a tiny size on a folder, and a broken rule is counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench.platform.__main__ import summary
from bench.platform.faults import Trial
from bench.platform.faulty_store import FaultyStore
from bench.platform.processes import run_all, run_forked

from brew_platform.registry.registry import Registry
from brew_platform.storage.local import LocalStore

ROOT = Path(__file__).parents[1]


def test_every_part_runs_on_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "platform.json"
    command = [sys.executable, "-m", "bench.platform", "--quick", "--stores", "folder", "--out", str(out)]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["stores"]["folder"]["examples"] == []
    assert (found["publishers"], found["versions"], found["violations"]) == (8, 8, 0)
    assert found["faults"] == 10
    assert found["fold_10k_ms"] > 0
    assert found["publish_ratio"] > 0
    assert found["render_seconds"] > 0
    assert found["render_command_seconds"] > 0
    assert found["stores"]["folder"]["collections"]["versions"] == 6
    assert list(tmp_path.iterdir()) == [out]


def test_the_summary_has_the_worst_store() -> None:
    stores = {"a": {"versions": 64, "faults": 10, "publish_ratio": 1.1}, "b": {"versions": 63, "faults": 5}}
    assert summary(stores) == {"versions": 63, "faults": 15, "publish_ratio": 1.1}


def test_broken_rules_are_found(tmp_path: Path) -> None:
    trial = Trial(str(tmp_path / "store"), "m", tmp_path / "files")
    assert trial.check() == []
    registry = Registry(LocalStore(tmp_path / "store"), "m")
    (tmp_path / "store/models/m/blobs/sha256" / registry.version(1).files[1].sha256).unlink()
    manifest = tmp_path / "store/models/m/versions/00000000000000000002.json"
    manifest.with_name("00000000000000000003.json").write_text(manifest.read_text())
    trial.production = 1
    found = "; ".join(trial.check())
    for words in (
        "is gone from the store",
        "versions [1, 2, 3] for 2",
        "published twice",
        "production is not version 1",
    ):
        assert words in found


def test_forked_processes_return_raise_and_are_killed() -> None:
    assert run_forked(lambda: 3).value == 3
    assert run_forked(lambda: 1 // 0).error == "ZeroDivisionError: integer division or modulo by zero"
    outcome = run_forked(lambda: __import__("time").sleep(30), kill_after=0.05)
    assert (outcome.killed, outcome.value, outcome.error) == (True, None, "")
    outcomes, seconds = run_all([lambda: 1, lambda: 2])
    assert [outcome.value for outcome in outcomes] == [1, 2]
    assert seconds < 30


@pytest.mark.parametrize("kind", ["kill", "kill-after"])
def test_a_store_that_kills_its_process(tmp_path: Path, kind: str) -> None:
    store = LocalStore(tmp_path)
    outcome = run_forked(lambda: FaultyStore(store, at=0, kind=kind).put_if_absent("a", b"x"))
    assert outcome.killed
    assert store.exists("a") == (kind == "kill-after")
