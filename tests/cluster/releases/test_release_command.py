"""`brew360 release`: the commands as a person runs them; the commands of the steps are stood in for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The default program of a step becomes the stand-in.
PATCHED = """
import sys
from brew_cluster.releases.runner import LocalRunner
LocalRunner.__init__.__defaults__ = ([sys.executable, sys.argv.pop(1)],)
from brew_cluster.cli.main import main
main()
"""


def release(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    fake = str(Path(__file__).with_name("fake_brew360.py"))
    return subprocess.run(
        [sys.executable, "-c", PATCHED, fake, "release", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )  # fmt: skip


@pytest.mark.real
def test_a_release_a_sweep_and_their_table(tmp_path: Path) -> None:
    checked = release("run", "tiny", "--check", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "it has not run yet" in checked.stdout
    assert not (tmp_path / "runs/releases").exists()
    done = release("run", "tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny: all steps have finished; version 7." in done.stdout
    failed = release("sweep", "tiny", cwd=tmp_path, FAIL="benchmark")
    assert failed.returncode == 1
    assert "error: 2 of 2 releases failed: tiny-sweep-1, tiny-sweep-2." in failed.stdout
    done = release("sweep", "tiny", "--at-once", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny-sweep-2: step 1 of 9, data: done before" in done.stdout  # of the release before
    table = release("table", "runs/releases/tiny", "runs/releases/tiny-sweep", "--out", "results", cwd=tmp_path)
    assert table.returncode == 0, table.stdout
    assert len((tmp_path / "results/table.csv").read_text().splitlines()) == 4
    assert 'href="./../runs/releases/tiny-sweep/tiny-sweep-1"' in (tmp_path / "results/table.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["run", "mars"], 2, "mars is neither a YAML file nor a recipe that ships ("),
        (["run", "tiny", "cpt.trian.workers=1"], 2, "section cpt: unknown key trian"),
        (["run", "tiny", "--steps", "s3://bucket/steps"], 2, "steps exchange files through a folder that all nodes"),
        (["run", "tiny", "--address", "http://a:1", "--gateway", "http://b:1"], 2, "exclude each other"),
        (["run", "tiny", "--address", "http://127.0.0.1:9"], 1, "no Ray cluster takes jobs at http://127.0.0.1:9"),
        (["sweep", "mars"], 2, "mars is neither a YAML file nor a recipe that ships ("),
        (["canary", "1", "share=0", "--data", "a"], 2, "share is 0.0; give a finite number, more than 0"),
    ],
)
def test_invalid_input_is_one_sentence(arguments: list[str], code: int, sentence: str, tmp_path: Path) -> None:
    done = release(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
