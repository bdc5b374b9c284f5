"""`brew360 benchmark run` and `benchmark explain` give a row the same probabilities, each with its own engine."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brew_data.data_folder import DataFolder

from ..tiny_version import write_tiny_version

pytestmark = [pytest.mark.real, pytest.mark.ray, pytest.mark.timeout(500)]


def brew360(*arguments: str, cwd: Path) -> str:
    command = [str(Path(sys.executable).parent / "brew360"), "benchmark", *arguments, "engine.threads=1"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_probabilities_are_those_of_the_benchmark(built_folder: DataFolder, tmp_path: Path) -> None:
    write_tiny_version(built_folder.bundle(), tmp_path / "export", hidden_size=64)
    arguments = [str(tmp_path / "export"), "--data", str(built_folder.folder)]
    brew360("run", *arguments, "--baselines", "none", "--rows", "all", "--report", "run.json", cwd=tmp_path)
    rows = {(row["task"], row["row_id"]): row for row in pq.read_table(tmp_path / "run.parquet").to_pylist()}
    assert len(rows) == 4
    row = rows["buy_again", 5]
    output = brew360("explain", *arguments, "--interaction", "5", "--task", "buy_again", "--json", cwd=tmp_path)
    document = json.loads(output)
    assert document["score"] == pytest.approx(row["score"], abs=1e-5)
    assert list(document["probabilities"].values()) == pytest.approx(row["probabilities"], abs=1e-5)
    assert (document["origin"]["member"], document["outcome"]) == (row["member"], row["outcome"])
    scores = [other["score"] for other in rows.values()]
    assert max(scores) - min(scores) > 1e-3  # so that another row, or another prompt, would not pass
    assert {change["kind"] for change in document["changes"]} == {"profile", "interaction", "entity"}
