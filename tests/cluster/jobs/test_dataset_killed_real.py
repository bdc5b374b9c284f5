"""`brew360 data build` is killed with all its processes: the next build continues with its tables and shards."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brew_data.packed_bins.plan import BinsPlan

from ...left_processes import kill_tree
from ...serve.running_ray import RAY

pytestmark = [*RAY, pytest.mark.faults]

SETTINGS = [
    "source_config.members=1000", "source_config.interactions_per_member=80", "tokenizer.vocabulary_size=600",
    "pairs=0",
]  # fmt: skip


def start(out: Path, folder: Path) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).parent / "brew360"), "data", "build", "synthetic", "--out", str(out), *SETTINGS]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "HOME": str(folder), "COLUMNS": "200"},
    )


def build(out: Path, folder: Path) -> BinsPlan:
    process = start(out, folder)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return BinsPlan.load(out / "bins")


def test_a_build_that_was_killed_continues_and_gives_the_same_bins(tmp_path: Path) -> None:
    expected = build(tmp_path / "whole", tmp_path)
    killed = start(tmp_path / "out", tmp_path)
    work = tmp_path / "out.partial" / "bins" / "work"
    deadline = time.monotonic() + 300
    while not (finished := sorted(work.glob("packed-*.json"))):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_tree(killed)
    assert not (tmp_path / "out").exists()
    tables = tmp_path / "out.partial" / "tables" / "entities.arrow"
    before = [path.stat().st_mtime_ns for path in (*finished, tables)]

    continued = start(tmp_path / "out", tmp_path)
    seen: list[list[int]] = []
    while continued.poll() is None:
        if all(path.exists() for path in (*finished, tables)):
            seen.append([path.stat().st_mtime_ns for path in (*finished, tables)])
        time.sleep(0.01)
    output, _ = continued.communicate(timeout=60)
    assert continued.returncode == 0, output
    assert seen
    assert all(times == before for times in seen)
    assert BinsPlan.load(tmp_path / "out" / "bins") == expected
