"""A training job is checked before Ray starts."""

from pathlib import Path

import pytest
import ray
from rich.console import Console

from brew_cluster.jobs.train import TrainJob, run_job
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import train_tokenizer
from brew_platform.errors import UserError
from brew_train.config import ModelConfig, TrainConfig

from ...tiny_families import write_tiny


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has neither model\.safetensors nor"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "weights.gguf"), "is a GGUF"),
        (lambda folder: None, "has 96 token ids, but the bins were made with"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_ray_starts(
    damage: object, message: str, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog"] * 9, vocabulary_size=300)
    suite = load_suite("movielens")
    PromptBundle(suite=suite, format=PromptFormat(context_length=512), tokenizer=tokenizer).save(tmp_path / "prompts")
    write_tiny("llama", tmp_path / "model")
    assert callable(damage)
    damage(tmp_path / "model")
    job = TrainJob(
        run=str(tmp_path / "run"),
        prompts=str(tmp_path / "prompts"),
        context_length=250,
        train=TrainConfig(model=ModelConfig(init_from=str(tmp_path / "model"))),
    )
    with pytest.raises(UserError, match=message):
        run_job(job, Console())
    assert not ray.is_initialized()
    assert not (tmp_path / "run").exists()
