"""`brew360 benchmark`: invalid input is refused with one sentence before anything starts; `compare` reads rows."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from brew_cluster.cli.main import app
from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo


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


def write_rows(path: Path, model: str, noise: float, *, rows: int = 300) -> Path:
    random = np.random.default_rng(0)
    truth = random.uniform(0.05, 0.95, rows)
    data = {
        "row_id": np.arange(rows),
        "task": ["like"] * rows,
        "surface": ["feed"] * rows,
        "member": [f"m{number % 30}" for number in range(rows)],
        "time": np.arange(rows),
        "label": random.uniform(size=rows) < truth,
        "score": np.clip(truth + noise * random.normal(size=rows), 0.001, 0.999),
        "history": np.zeros(rows, dtype=np.int32),
        "is_trained": [True] * rows,
    }
    ScoredRows.of(pa.table(data), ScoredRowsInfo(model=model, suite="suite", data_digest="d" * 64)).write(path)
    return path


def test_compare_prints_a_table_or_json_and_writes_a_report(tmp_path: Path) -> None:
    good, bad = write_rows(tmp_path / "good.parquet", "good", 0.0), write_rows(tmp_path / "bad.parquet", "bad", 0.5)
    arguments = ["benchmark", "compare", str(good), str(bad), "--replicates", "50"]
    report = tmp_path / "comparison.json"
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--report", str(report)])
    assert done.exit_code == 0, done.output
    assert "like" in done.output
    assert {path.suffix for path in tmp_path.glob("comparison*")} == {".json", ".md", ".html"}
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(done.output)["tasks"]["like"]["figures"]["auc"]["difference"]["low"] > 0


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("none.parquet", "none.parquet does not exist. Pass the scored rows"),
        ("none.json", "none.json does not exist. Pass a report (JSON)"),
        ("alone.json", "alone.parquet does not exist. Copy both files."),
        ("folder", "folder is not a file. Pass the scored rows"),
        ("text.parquet", "text.parquet cannot be read as scored rows"),
    ],
)
def test_compare_refuses_what_is_not_scored_rows(path: str, sentence: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "good.parquet", "good", 0.0)
    (tmp_path / "text.parquet").write_text("no Parquet")
    (tmp_path / "alone.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    done = CliRunner().invoke(app, ["benchmark", "compare", str(tmp_path / "good.parquet"), str(tmp_path / path)])
    assert done.exit_code == 2, done.output
    assert sentence in done.output.replace("\n", "")
