"""README's path from tables to a served model, by its own commands, with a base model and CSV files at a tiny size."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.tables.workload import write_workload

from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.ports import free_port

from ..base_tokenizers import write_base_tokenizer
from ..left_processes import require_none_left
from ..tiny_families import write_tiny

pytestmark = [pytest.mark.real, pytest.mark.ray, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
BUILD = [
    "pairs=0", "tokenizer.from=base", "prompt.context_length=512", "prompt.head_tokens=128",
    "prompt.question_tokens=128", "release.gates=[{figure: buy.logloss, at_most: 30, at_least: 0}]",
]  # fmt: skip
TRAIN = [
    "train.model.init_from=base", "context_length=512", "train.workers=1", "train.checkpoint_every=2",
    "train.stages.0.steps=2", "train.stages.0.evaluate_every=0", "evaluation={}",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working folder with a base model and CSV files; fails if a process started in it is left."""
    write_workload(tmp_path, members=40, entities=60, interactions=900)
    base = tmp_path / "base"
    base.mkdir()
    write_base_tokenizer("gemma3", base)
    write_tiny("gemma3_text", base, vocab_size=Tokenizer.from_model(base).vocabulary_size, max_position_embeddings=512)
    yield tmp_path
    require_none_left(tmp_path)


def brew360(*arguments: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "brew360"), *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400, check=False,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
             "HOME": str(cwd), "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def commands_of_readme() -> list[list[str]]:
    [section] = re.findall(r"^## For ML teams.*?^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    return [shlex.split(line, comments=True)[1:] for line in section.splitlines()]


def test_six_commands_lead_from_csv_files_and_a_base_model_to_a_ranking(folder: Path) -> None:
    build, train, benchmark, publish, promote, serve = commands_of_readme()
    assert build[2] == "synthetic"
    brew360(*build[:2], "recipe.yaml", *build[3:], *BUILD, cwd=folder)
    brew360(*train, *TRAIN, cwd=folder)
    assert "brew360 benchmark" not in brew360(*benchmark, "engine.kind=torch", cwd=folder)
    report = json.loads((folder / "runs/cpt/report.json").read_text())
    assert report["model"]["kind"] == "export"
    assert report["tasks"]["buy"]["rows"] == report["sample"]["rows"] > 50

    sample = ["--rows", "20", "--seed", "1", "--report", "base.json", "engine.kind=torch"]
    brew360("benchmark", "run", "base", "--data", "data/synthetic", *sample, cwd=folder)
    base = json.loads((folder / "base.json").read_text())
    assert (base["model"]["kind"], base["sample"]["rows"], base["sample"]["seed"]) == ("base", 20, 1)
    assert base["prompt_digest"] == report["prompt_digest"]
    assert "is of another model" in brew360(*publish[:3], "--report", "base.json", cwd=folder, code=2)

    assert "brew360 has version 1 now" in brew360(*publish, cwd=folder)
    assert "gate buy.logloss passed" in brew360(*promote, cwd=folder)
    version = json.loads(brew360("registry", "show", "production", "--json", cwd=folder))
    assert version["lineage"]["parent"]["folder"].endswith("base")
    assert version["lineage"]["plan_hashes"].keys() == {"cpt"}
    assert version["signature"]["prompt_digest"] == report["prompt_digest"]

    brew360("context", "build", "--data", "data/synthetic", "--out", "runs/context.sqlite", cwd=folder)
    url = f"http://127.0.0.1:{(port := free_port())}"
    try:
        brew360(*serve, f"port={port}", "context_path=runs/context.sqlite", "engine.kind=torch", cwd=folder)
        request = {"task": "buy", "member_id": "u000001", "candidates": ["i000001", "i000002"]}
        (folder / "request.json").write_text(json.dumps(request))
        ranking = json.loads(brew360("rank", "request.json", "--url", url, "--json", cwd=folder))
        assert {item["id"] for item in ranking["ranking"]} == {"i000001", "i000002"}
        assert all(0 < item["score"] < 1 for item in ranking["ranking"])
    finally:
        brew360("serve", "down", cwd=folder)
