"""Running a release: which commands run, what is shown, and how it continues."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brew_cluster.cli.main import app
from brew_cluster.jobs.recipe import find_recipe
from brew_cluster.releases.config import SECTIONS
from brew_cluster.releases.release import Release
from brew_cluster.releases.run import ReleaseFolder, changes, step_state
from brew_cluster.releases.runner import LocalRunner
from brew_cluster.releases.steps import StepFailed
from brew_platform.console.plain_console import PlainConsole
from brew_platform.processes import kill_descendants

NAMES = list(SECTIONS)
Make = Callable[..., Release]
Calls = Callable[[], list[str]]


def states(release: Release) -> dict[str, str]:
    return {step.name: step_state(step).state for step in release.steps}


@pytest.fixture
def console() -> PlainConsole:
    return PlainConsole(file=io.StringIO(), width=200)


def test_a_changed_serving_parameter_redoes_no_training(
    make_release: Make, runner: LocalRunner, calls: Calls, console: PlainConsole
) -> None:
    first = make_release()
    first.run(runner, console)
    assert calls() == ["data", "cpt", "ift", "sft", "benchmark", "publish", "check", "canary", "promote"]
    assert states(first) == {**dict.fromkeys(NAMES, "done"), "canary": "skipped"}
    checkpoints = {step.name: (step.output / "checkpoint").stat().st_mtime_ns for step in first.steps[1:4]}
    first.run(runner, console)
    assert calls() == []
    second = make_release("benchmark.engine.max_model_len=128")
    assert [change.name for change in changes(first.steps, second.steps)] == NAMES[4:]
    second.run(runner, console)
    assert calls() == ["benchmark", "publish", "check", "canary", "promote"]
    assert {step.name: (step.output / "checkpoint").stat().st_mtime_ns for step in second.steps[1:4]} == checkpoints
    make_release().run(runner, console)
    assert calls() == []  # the earlier settings: their steps are still there


def test_a_failed_step_ends_the_release_with_its_sentence(
    make_release: Make, runner: LocalRunner, calls: Calls, console: PlainConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = make_release()
    monkeypatch.setenv("FAIL", "check")
    with pytest.raises(StepFailed, match=r"step gates of tiny failed: the disk is full. Free some space. Its log is"):
        release.run(runner, console)
    assert calls()[-1] == "check"
    found = states(release)
    assert found == {**dict.fromkeys(NAMES[:6], "done"), "gates": "failed", "canary": "waiting", "promote": "waiting"}
    assert step_state(release.steps[6]).reason == "the disk is full. Free some space."
    metrics = (release.folder / "metrics.prom").read_text()
    assert 'brew360_release_step_state{release="tiny",state="failed",step="gates"} 1.0' in metrics
    monkeypatch.delenv("FAIL")
    release.run(runner, console)
    assert calls() == ["check", "canary", "promote"]


def test_releases_share_steps(make_release: Make, runner: LocalRunner, calls: Calls, console: PlainConsole) -> None:
    make_release("name=first").run(runner, console)
    calls()
    make_release("name=second", "sft.train.stages.0.steps=11").run(runner, console)
    assert calls() == ["sft", "benchmark", "publish", "check", "canary", "promote"]


def test_an_output_that_was_removed_is_made_again(
    make_release: Make, runner: LocalRunner, calls: Calls, console: PlainConsole
) -> None:
    release = make_release()
    release.run(runner, console)
    calls()
    (release.steps[4].output).unlink()
    release.run(runner, console)
    assert calls() == ["benchmark"]


def test_a_release_that_is_killed_before_a_record_continues(
    make_release: Make, runner: LocalRunner, calls: Calls, console: PlainConsole
) -> None:
    """The command had ended, and its record does not say so yet."""
    release = make_release()
    release.run(runner, console)
    calls()
    for step in release.steps:
        if step.name in ("data", "benchmark", "publish", "gates", "canary", "promote"):
            step.record.write_text(step.record.read_text().replace("true", "false"))
    release.run(runner, console)
    assert calls() == ["benchmark", "publish", "check", "canary", "promote"]  # these can be repeated; data cannot
    assert states(release)["data"] == "done"


KILLED = """
import sys
from pathlib import Path
from brew_cluster.cli.runner import supervise
from brew_cluster.releases.config import read_release
from brew_cluster.releases.plan import plan_release
from brew_cluster.releases.release import Release
from brew_cluster.releases.runner import LocalRunner
from brew_platform.console.plain_console import PlainConsole
console = PlainConsole()
with supervise(console):
    recipe = read_release("tiny")
    root = Path(sys.argv[1])
    release = Release(recipe=recipe, path="tiny", folder=root / "tiny", steps=plan_release(recipe, root / "steps"))
    release.run(LocalRunner([sys.executable, sys.argv[2]]), console)
"""


@pytest.mark.parametrize("step", ["sft", "publish"])
def test_a_release_that_is_killed_continues(
    step: str, make_release: Make, runner: LocalRunner, calls: Calls, console: PlainConsole, tmp_path: Path
) -> None:
    fake = str(Path(__file__).with_name("fake_brew360.py"))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), fake], env={**os.environ, "HANG": step}, stdout=subprocess.DEVNULL
    )
    release = make_release()
    by_name = {planned.name: planned for planned in release.steps}
    try:
        deadline = time.monotonic() + 60
        while step not in ((tmp_path / "calls.txt").read_text() if (tmp_path / "calls.txt").exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert step_state(by_name[step]).state == "running"
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
        kill_descendants()
    before = calls()
    assert step_state(by_name[step]).state == "interrupted"
    release.run(runner, console)
    after = calls()
    assert after[0] == before[-1] == step
    assert sorted([*before, *after[1:]]) == sorted({"check" if name == "gates" else name for name in NAMES})
    assert states(release)["promote"] == "done"


def test_status_says_what_would_run_and_why(
    make_release: Make, runner: LocalRunner, console: PlainConsole, tmp_path: Path
) -> None:
    recipe = tmp_path / "own.yaml"
    text = find_recipe("release", "tiny").read_text()
    recipe.write_text(text)
    release = make_release(recipe=str(recipe))
    release.run(runner, console)

    def status(*options: str) -> str:
        done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["release", "status", str(release.folder), *options])
        assert done.exit_code == 0, done.output
        return done.output

    assert json.loads(status("--json"))["reruns"] == []
    recipe.write_text(text.replace("rows: 40", "rows: 30"))
    reruns = {change["name"]: change["reason"] for change in json.loads(status("--json"))["reruns"]}
    assert list(reruns) == NAMES[4:]
    assert reruns["benchmark"] == "rows=40 was replaced by rows=30"
    assert reruns["gates"] == "it reads what publish writes"
    assert "canary skipped: no service runs." in status()
    assert "version: 7" in status()
    recipe.write_text("sections: 3")
    assert "The recipe cannot be used any more" in status()


def test_status_of_another_folder_is_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["release", "status", str(tmp_path)])
    assert done.exit_code == 2
    assert "is not the folder of a release" in done.output
    (tmp_path / "release.json").write_text('{"format_version": 9}')
    assert "format_version is 9, not 1" in CliRunner().invoke(app, ["release", "status", str(tmp_path)]).output


def test_the_file_of_a_release_is_read_as_it_was_written(make_release: Make, tmp_path: Path) -> None:
    content = make_release("name=a").content()
    content.save(tmp_path / "a")
    read = ReleaseFolder.load(tmp_path / "a")
    assert [step.document() for step in read.steps] == [step.document() for step in content.steps]
    assert read.settings["benchmark.rows"] == "40"
    assert read.overrides == ["name=a"]
