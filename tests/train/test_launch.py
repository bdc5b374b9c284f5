"""Real Ray Train with two workers: it survives a killed worker, and says in one sentence what a user got wrong."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from brew_platform.errors import UserError
from brew_train.config import TrainConfig
from brew_train.launch import run_on_ray

pytestmark = [
    pytest.mark.real,
    # Ray leaves sockets and files of its own processes to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # Ray Data sets its own deprecated options when its context is made, which Ray Train does
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray.data.context"),
]


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100_000_000,
    )
    yield
    ray.shutdown()


def kill_one_worker() -> None:
    """SIGKILLs a training worker of this process's own Ray."""
    for process in psutil.Process().children(recursive=True):
        if "RayTrainWorker" in process.name() or any("RayTrainWorker" in part for part in process.cmdline()):
            process.kill()
            return
    raise AssertionError("no training worker is running")


def test_a_killed_worker_costs_only_the_steps_since_the_last_commit(
    config: TrainConfig, bins: dict[str, Path], sizes: dict[str, int], tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []

    def on_metrics(metrics: dict[str, Any]) -> None:
        seen.append(metrics)
        if metrics["step"] == 4 and len(seen) == 4:
            kill_one_worker()

    # long enough that the kill comes in the middle
    longer = replace(config, workers=2, checkpoint_every=3, stages=[replace(config.stages[0], steps=80)])
    result = run_on_ray(longer, bins=bins, out=tmp_path / "run", on_metrics=on_metrics, **sizes)

    # The kill may come between a commit and the next step, and then nothing is redone.
    steps = [row["step"] for row in seen]
    redone = [(before, after) for before, after in pairwise(steps) if after != before + 1]
    assert len(redone) <= 1, steps
    for before, after in redone:
        assert after % 3 == 1  # right after a commit
        assert before - 3 < after <= before
    losses: dict[int, float] = {}
    for row in seen:
        assert losses.setdefault(row["step"], row["loss"]) == row["loss"]  # what was redone came out the same, bitwise
    assert sorted(losses) == list(range(1, 81))
    assert losses[80] < losses[1] - 0.5

    assert (result.steps, result.export) == (80, tmp_path / "run" / "export")
    assert result.tokens == sum({row["step"]: row["tokens"] for row in seen}.values())
    assert result.tokens_per_second > 0
    exported = AutoModelForCausalLM.from_pretrained(result.export)
    assert torch.isfinite(exported(torch.arange(10).unsqueeze(0)).logits).all()


def test_what_the_user_got_wrong_comes_through_as_it_was_said(
    config: TrainConfig, bins: dict[str, Path], sizes: dict[str, int], tmp_path: Path
) -> None:
    wild = replace(config, workers=2, stages=[replace(config.stages[0], warmup_steps=0, learning_rate=1e30)])
    with pytest.raises(UserError, match=r"^stage cpt, step \d+: the loss became .* in bins \[\d+, \d+\]"):
        run_on_ray(wild, bins=bins, out=tmp_path / "run", **sizes)

    (bins["sft"] / "plan.json").unlink()
    with pytest.raises(UserError, match=r"has no plan\.json"):
        run_on_ray(replace(config, workers=2), bins=bins, out=tmp_path / "other", **sizes)
    assert not (tmp_path / "other").exists()
