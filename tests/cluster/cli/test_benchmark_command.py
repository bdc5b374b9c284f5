"""`brew360 benchmark`: invalid input is refused with one sentence before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest


def brew360(*arguments: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "brew360"), "benchmark", "run", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export"], "the benchmark needs data. Pass --data FOLDER"),
        (["export", "--data", "nowhere"], "nowhere is not a folder. Pass the folder that `brew360 data build` wrote"),
        (["export", "--data", "empty"], "empty has no dataset.json"),
        (["export", "--data", "empty", "engine.thread=1"], "Did you mean engine.threads"),
        (["export", "--data", "empty", "rows=0"], "rows is 0"),
    ],
)
def test_invalid_input_is_refused_with_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, output = brew360(*arguments, cwd=tmp_path)
    assert code == 2, output
    assert sentence in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]
