"""The command line: help texts, and one sentence with an exit code for invalid input."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def brew360(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the installed command as a person would."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "brew360"), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_help_shows_the_ways_to_run_the_demo(tmp_path: Path) -> None:
    done = brew360("demo", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for option in ["--source", "--path", "--keep", "--port", "--report", "--run-dir", "movielens"]:
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--source", "movielens"], "source movielens needs a path"),
        (["--source", "movielens", "--path", "nowhere"], "nowhere is not a folder. Set --path"),
        (["--path", "somewhere"], "takes no path; leave out --path"),
        (
            ["--source", "mars"],
            "source 'mars' is unknown; installed are amazon_reviews, economic_graph, mind, movielens, synthetic,",
        ),
        (["tokenizer.vocabulary_sise=3"], "tokenizer.vocabulary_size"),
        (["vocabulary_size=3"], "was renamed: write tokenizer.vocabulary_size"),
        (["train.workers=many"], "train.workers"),
    ],
)
def test_invalid_input_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = brew360("demo", *arguments, "--port", "18231", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "runs" / "registry").exists()


def test_a_run_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text("{}")
    done = brew360("demo", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "run holds an earlier run: choose another --run-dir" in done.stdout
    assert (tmp_path / "run" / "report.json").read_text() == "{}"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    done = brew360("cluster", "render", "laptop", "--to", "local", "--out", "taken", cwd=tmp_path)
    assert done.returncode == 1
    assert "taken: File exists. Check the path" in done.stdout.replace("\n", " ")
    assert "log" not in done.stdout
