"""`brew360 data search-mix`: real trials, killed and continued, give weights that the recipe accepts."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from brew_cluster.jobs.dataset_config import load_dataset_config

from ...left_processes import kill_tree

pytestmark = [pytest.mark.real, pytest.mark.ray]

RECIPE = {
    "source": "synthetic",
    "source_config": {"members": 300, "jobs": 60, "posts": 60, "interactions_per_member": 24},
    "split": {"last_days": 30},
    "tokenizer": {"vocabulary_size": 600},
    "prompt": {"context_length": 512},
    "corpora": {"cpt": {"sources": {"chats": {"kind": "interactions"}, "members": {"kind": "profiles"}}}},
}
SETTINGS = [
    "mixes=4", "tokens=8192", "measurements=2", "validation_tokens=4000", "stage.bins_per_step=2",
    "stage.warmup_steps=1",
    "sizes=[{hidden_size: 32, intermediate_size: 32, layers: 1, heads: 2, kv_heads: 1, experts: 2}]",
]  # fmt: skip


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "brew360"), "data", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "HOME": str(folder), "COLUMNS": "200"},
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def test_a_search_that_was_killed_continues_and_finds_weights(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    finish(start(tmp_path, "build", "recipe.yaml", "--out", "data"))
    command = ("search-mix", "data", "cpt", "--out", "mix", *SETTINGS)
    killed, deadline = start(tmp_path, *command), time.monotonic() + 200
    while not (finished := list((tmp_path / "mix" / "trials").glob("*/losses.json"))):
        assert killed.poll() is None, finish(killed)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill_tree(killed)
    measured = {file: json.loads(file.read_text()) for file in finished}

    output = finish(start(tmp_path, *command))
    for file, losses in measured.items():  # measurements are kept
        assert json.loads(file.read_text())[: len(losses)] == losses
    result = json.loads((tmp_path / "mix" / "mix_search.json").read_text())
    assert set(result["weights"]) == {"job_apply", "post_like", "post_open", "profiles"}
    assert [len(trial["losses"]) for trial in result["trials"]] == [1] * 4
    losses = [trial["losses"][0][-1]["job_apply"] for trial in result["trials"]]
    assert all(0.01 < loss < 10 for loss in losses)
    assert len(set(losses)) == 4  # each mix is another corpus
    assert sum(result["share"].values()) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "mix" / "mix_search.svg").read_text().startswith("<svg")
    assert not list((tmp_path / "mix" / "trials").glob("*/run"))
    pasted = output.split("Weights for the recipe:\n")[1].split("figures: ")[0]
    (tmp_path / "better.yaml").write_text(yaml.safe_dump(RECIPE | yaml.safe_load(pasted)))
    corpus = load_dataset_config(str(tmp_path / "better.yaml")).corpora["cpt"]
    assert [corpus.sources[name].weight for name in result["share"]] == pytest.approx(
        list(result["share"].values()), rel=1e-4
    )
