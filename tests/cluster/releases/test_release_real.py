"""A release from data to promotion with the real commands, and its second run; and one as jobs of a real Ray."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from brew_cluster.releases.config import SECTIONS
from brew_cluster.releases.release import Release
from brew_cluster.releases.run import ReleaseFolder, step_state
from brew_cluster.releases.runner import RayJobsRunner, require_shared_folder
from brew_cluster.releases.steps import read_record
from brew_eval.studies.scored_points import MEAN
from brew_eval.studies.study_table import read_points
from brew_platform.console.plain_console import PlainConsole
from brew_platform.ports import free_port
from brew_platform.registry.registry import Registry
from brew_platform.storage.local import LocalStore

from ...serve.running_ray import RAY

pytestmark = RAY

NAMES = list(SECTIONS)


STUDY = """
question: Does a study read what a release wrote?
sweep:
  recipe: tiny
  settings: {without: [publish, gates, canary, promote]}
  releases: {same: {}}
"""


def run(*arguments: str, cwd: Path, code: int = 0, command: Sequence[str] = ("release", "run", "tiny")) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "brew360"), *command, *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def snapshot(cwd: Path) -> dict[str, tuple[object, dict[str, int]]]:
    """The record of each step of the release, and the times of its files; of training, with the checkpoints."""
    release = ReleaseFolder.load(cwd / "runs/releases/tiny")
    return {
        step.name: (
            read_record(step.record),
            {str(file): file.stat().st_mtime_ns for file in step.folder.rglob("*") if file.is_file()},
        )
        for step in release.steps
    }


@pytest.mark.timeout(1200)
def test_every_step_runs_and_a_changed_serving_parameter_redoes_no_training(tmp_path: Path) -> None:
    run(cwd=tmp_path)
    first = snapshot(tmp_path)
    assert list(first) == NAMES
    assert any("checkpoints" in file for file in first["sft"][1])
    registry = Registry(LocalStore(tmp_path / "runs/registry"))
    assert registry.aliases() == {"production": 1}

    (tmp_path / "study.yaml").write_text(STUDY)
    run("study.yaml", cwd=tmp_path, command=("study", "run"))
    points = read_points(tmp_path / "runs/studies/study/table.csv")
    assert {point.point for point in points} == {"same"}
    assert MEAN in {point.series for point in points}
    assert {name: snapshot(tmp_path)[name] for name in NAMES} == first  # the steps are those of the release

    output = run("benchmark.rows=30", cwd=tmp_path)
    second = snapshot(tmp_path)
    for name in NAMES[:4]:
        assert first[name] == second[name], name
        assert f"{name}: done before" in output
    assert all(first[name] != second[name] for name in NAMES[4:])
    assert registry.aliases() == {"production": 2}

    # A bad release: the version stays published, and the log keeps the refusal.
    output = run("benchmark.rows=30", "gates.0.at_least=0.999", cwd=tmp_path, code=1)
    assert "error: step gates of tiny failed: version 3 of brew360 was not promoted" in output
    event = registry.events()[-1]
    assert (event.kind, event.version, event.alias) == ("blocked", 3, "production")
    assert registry.versions() == [1, 2, 3]
    assert registry.aliases() == {"production": 2}
    assert snapshot(tmp_path)["sft"] == first["sft"]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The address of the dashboard of a Ray on whose path brew360 is `fake_brew360.py`."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a short path, for sockets
    fake = Path(__file__).with_name("fake_brew360.py")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "brew360"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n')
    program.chmod(0o755)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    environment |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls.txt")}
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port=0", "--num-cpus=2",
         "--include-dashboard=true", f"--dashboard-port={port}", "--object-store-memory=100000000",
         "--disable-usage-stats", f"--temp-dir={folder}", f"--ray-client-server-port={free_port()}",
         "--dashboard-agent-listen-port=0", "--node-ip-address=127.0.0.1"],
        env=environment, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        roots = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
        for process in [process for root in roots if root.is_running() for process in (root, *root.children(True))]:
            if process.is_running():
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_steps_run_as_jobs_of_a_ray_cluster(
    head: str, make_release: Callable[..., Release], calls: Callable[[], list[str]], tmp_path: Path
) -> None:
    console = PlainConsole(file=io.StringIO(), width=200)
    runner = RayJobsRunner(head)
    require_shared_folder(runner, tmp_path / "steps")
    release = make_release()
    release.run(runner, console)
    assert calls() == ["data", "cpt", "ift", "sft", "benchmark", "publish", "check", "canary", "promote"]
    assert {step_state(step).state for step in release.steps} == {"done", "skipped"}
    assert "sft begins" in release.steps[3].log.read_text()
    assert json.loads(release.steps[5].output.read_text()) == {"number": 7}
    release.run(runner, console)
    assert calls() == []
