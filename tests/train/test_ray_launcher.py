"""Real Ray Train with two workers: a run survives a killed worker, and user errors are raised unchanged."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from brew_platform.errors import UserError
from brew_train.checkpoints.ledger import audit
from brew_train.config import ModelConfig, ModelShape, TrainConfig
from brew_train.ray_launcher import run_on_ray
from brew_train.telemetry.goodput import goodput
from brew_train.telemetry.recorder import read_run

pytestmark = [
    pytest.mark.real,
    pytest.mark.ray,
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


@pytest.mark.faults
def test_killed_workers_lose_only_time(
    config: TrainConfig,
    bins: dict[str, Path],
    shape: ModelShape,
    tmp_path: Path,
    run_processes: Callable[..., list[int]],
) -> None:
    """The kill test: SIGKILL at two moments, and the run ends bitwise where an uninterrupted one does."""
    long = replace(config, workers=2, checkpoint_every=7, stages=[replace(config.stages[0], steps=120)])
    assert run_processes(long, bins, tmp_path / "whole", processes=2) == [0, 0]
    kill_at = [10, 60]

    def on_metrics(row: dict[str, Any]) -> None:
        if kill_at and row["step"] >= kill_at[0]:
            kill_at.pop(0)
            kill_one_worker()

    result = run_on_ray(long, bins=bins, out=tmp_path / "run", on_metrics=on_metrics, shape=shape)

    rows, events = read_run(tmp_path / "run")
    whole, _ = read_run(tmp_path / "whole")
    expected = {row["step"]: row["loss"] for row in whole}
    assert kill_at == []
    assert sum(event["kind"] == "attempt" for event in events) == 3
    assert all(row["loss"] == expected[row["step"]] for row in rows)  # also replayed steps, bitwise
    assert {row["step"] for row in rows} == set(expected) == set(range(1, 121))
    weights = [(tmp_path / name / "export/model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    assert audit(tmp_path / "run", {"cpt": 12}).bins == {"cpt": [12] * 20}

    assert (result.steps, result.export) == (120, tmp_path / "run" / "export")
    assert result.tokens == sum({row["step"]: row["tokens"] for row in rows}.values())
    spent = goodput(rows, events)
    assert spent.restarts == 2
    assert spent.lost["down"] > 0
    assert spent.productive_seconds + sum(spent.lost.values()) == pytest.approx(spent.held_seconds)
    exported = AutoModelForCausalLM.from_pretrained(result.export)
    assert torch.isfinite(exported(torch.arange(10).unsqueeze(0)).logits).all()


def test_user_errors_of_workers_are_raised_unchanged(
    config: TrainConfig, bins: dict[str, Path], shape: ModelShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # workers run in another folder, so relative paths must be resolved before
    tiny = MixtralConfig(
        vocab_size=shape.vocabulary_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    MixtralForCausalLM(tiny).save_pretrained("start")
    started = replace(config, workers=2, model=ModelConfig(init_from="start"))
    wild = replace(started, stages=[replace(config.stages[0], warmup_steps=0, learning_rate=1e30)])
    with pytest.raises(UserError, match=r"^stage cpt, step \d+: the loss became .* in bins \[\d+, \d+\]"):
        run_on_ray(wild, bins=bins, out=tmp_path / "run", shape=shape)

    (bins["sft"] / "plan.json").unlink()
    with pytest.raises(UserError, match=r"has no plan\.json"):
        run_on_ray(replace(config, workers=2), bins=bins, out=tmp_path / "other", shape=shape)
    assert not (tmp_path / "other").exists()
