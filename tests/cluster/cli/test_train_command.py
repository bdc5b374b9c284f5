"""`brew360 train` after a killed driver and an interrupt: the same command continues and completes the run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from transformers import AutoModelForCausalLM

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import train_tokenizer
from brew_train.checkpoints.ledger import audit

pytestmark = [pytest.mark.real, pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(400)]

STEPS = 360  # 60 epochs of 12 bins
RECIPE = {
    "data": "data",
    "run": "run",
    "bins": {"cpt": "${data}/bins"},
    "context_length": 64,
    "train": {
        "model": {"hidden_size": 16, "intermediate_size": 16, "layers": 2, "heads": 2, "kv_heads": 1},
        "checkpoint_every": 10,
        "stages": [{"name": "cpt", "steps": STEPS, "bins_per_step": 2, "warmup_steps": 2}],
    },
}


@pytest.fixture
def folder(tmp_path: Path, write_bins: Callable[..., Path]) -> Path:
    """A working directory with data and a recipe."""
    tokenizer = train_tokenizer(["counting " * 50], vocabulary_size=300)
    prompts = PromptFormat(context_length=512)
    bundle = PromptBundle(suite=load_suite("movielens"), format=prompts, tokenizer=tokenizer)
    bundle.save(tmp_path / "data" / "prompts")
    sizes = {"vocabulary_size": tokenizer.vocabulary_size, "prompt_digest": bundle.digest}
    write_bins(tmp_path / "data" / "bins", **sizes)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "brew360"), "train", "job.yaml"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "HOME": str(folder), "COLUMNS": "200"},
    )  # fmt: skip


def wait_for_step(folder: Path, step: int, train: subprocess.Popen[str]) -> None:
    """Wait until a checkpoint of `step` or a later step exists."""
    deadline = time.monotonic() + 120
    while max([0, *(int(path.parent.name[5:13]) for path in folder.glob("run/checkpoints/*/manifest.json"))]) < step:
        assert train.poll() is None, train.communicate()[0]
        assert time.monotonic() < deadline, f"step {step} was never checkpointed"
        time.sleep(0.05)


def test_a_killed_driver_is_restarted_and_an_interrupted_run_continues(folder: Path) -> None:
    train = start(folder)
    wait_for_step(folder, 20, train)
    (driver,) = [child for child in psutil.Process(train.pid).children() if "--driver" in child.cmdline()]
    driver.kill()
    wait_for_step(folder, 60, train)  # by the next driver
    strangers = psutil.Process(train.pid).children(recursive=True)
    os.killpg(train.pid, signal.SIGINT)
    output, _ = train.communicate(timeout=60)
    assert train.returncode == 130, output
    assert "the training driver was killed by signal 9: starting it again from step " in output
    assert output.count("interrupted") == 1
    assert "Traceback" not in output
    _, left = psutil.wait_procs(strangers, timeout=15)
    assert left == []

    again = start(folder)
    output, _ = again.communicate(timeout=200)
    assert again.returncode == 0, output
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == set(range(1, STEPS + 1))
    losses: dict[int, float] = {}
    assert all(losses.setdefault(row["step"], row["loss"]) == row["loss"] for row in rows)  # repeated steps, bitwise
    assert audit(folder / "run", {"cpt": 12}).bins == {"cpt": [12] * 60}
    AutoModelForCausalLM.from_pretrained(folder / "run/export")
    for name in ("tokenizer.json", "suite.json", "prompt.json"):
        assert (folder / "run/export" / name).read_bytes() == (folder / "data/prompts" / name).read_bytes()
