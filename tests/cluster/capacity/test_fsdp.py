"""The formulas of a rank's memory and traffic equal the dry run's bytes, and one GPU's measured memory."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig

from brew_cluster.capacity.decoder import Decoder
from brew_cluster.capacity.fsdp import estimate_run
from brew_cluster.jobs.train import shape_of
from brew_cluster.jobs.train_job import load_job
from brew_platform.errors import ConfigError, UserError
from brew_train.config import ModelConfig, ModelShape, ShardingConfig, StageConfig, TrainConfig
from brew_train.diagnostics.dry_run import dry_run
from brew_train.diagnostics.dry_run_report import DryRun
from brew_train.telemetry.flops import ModelSize

from ...tiny_families import VOCABULARY, write_tiny

SMALL = TrainConfig(
    model=ModelConfig(
        hidden_size=256, intermediate_size=512, layers=4, heads=2, kv_heads=1, experts=8, tie_embeddings=False
    ),
    stages=[StageConfig(bins_per_step=8)],
    workers=8,
)
SHAPE = ModelShape(vocabulary_size=512, context_length=2_048)
SHARDINGS = {
    "gathered": ShardingConfig(),
    "resharded": ShardingConfig(reshard_after_forward=True),
    "checkpointed": ShardingConfig(reshard_after_forward=True, activation_checkpointing=True),
    "replicas": ShardingConfig(replicas=2, reshard_after_forward=True, activation_checkpointing=True),
}


def estimate(config: TrainConfig, shape: ModelShape = SHAPE, *, gpus: int = 8) -> DryRun:
    decoder = Decoder.of(config.model, shape)
    return estimate_run(config, decoder, gpus=gpus, context_length=shape.context_length)


@pytest.mark.parametrize(
    ("name", "micro_steps"), [("gathered", 1), ("resharded", 2), ("checkpointed", 1), ("replicas", 2)]
)
def test_bytes_equal_those_of_the_dry_run(name: str, micro_steps: int) -> None:
    stage = replace(SMALL.stages[0], bins_per_step=8 * micro_steps, micro_steps=micro_steps)
    config = replace(SMALL, sharding=SHARDINGS[name], stages=[stage])
    formula, counted = estimate(config), dry_run(config, gpus=8, shape=SHAPE)
    for field in ("size", "tokens", "parameters", "gradients", "optimizer", "checkpoint", "flops"):
        assert getattr(formula, field) == getattr(counted, field), field
    assert formula.step.all_gather == counted.step.all_gather
    assert formula.step.reduce_scatter == counted.step.reduce_scatter
    assert formula.step.all_reduce == pytest.approx(counted.step.all_reduce, abs=micro_steps * 4 * 8 * 4 * 2)  # router
    assert formula.peak.total == pytest.approx(counted.peak.total, rel=0.05)
    if name != "gathered":  # there the dry run counts gradients that accumulate as activations
        assert formula.peak.gathered == counted.peak.gathered
        assert formula.peak.activations == pytest.approx(counted.peak.activations, rel=0.06)


def test_a_dense_model_equals_the_dry_run(tmp_path: Path) -> None:
    write_tiny("llama", tmp_path)
    config = replace(SMALL, model=ModelConfig(init_from=str(tmp_path)), sharding=SHARDINGS["resharded"])
    shape = ModelShape(vocabulary_size=VOCABULARY, context_length=64)
    formula, counted = estimate(config, shape), dry_run(config, gpus=8, shape=shape)
    assert formula.step.all_gather == pytest.approx(counted.step.all_gather, rel=0.01)
    assert formula.checkpoint == pytest.approx(counted.checkpoint, rel=0.01)


@pytest.mark.parametrize(
    ("gpus", "replicas", "peak", "all_gather", "reduce_scatter", "all_reduce", "checkpoint"),
    [
        (256, 1, 70.0, 554.9, 560.7, 0.0, 6.6),
        (384, 1, 67.8, 556.1, 561.9, 0.0, 4.4),
        (512, 2, 70.0, 554.9, 560.7, 2.2, 3.3),
    ],
)  # fmt: skip
def test_mixtral_8x22b_equals_its_dry_runs(
    gpus: int,
    replicas: int,
    peak: float,
    all_gather: float,
    reduce_scatter: float,
    all_reduce: float,
    checkpoint: float,
) -> None:
    """docs/scale.md, in GB. Mistral AI's announcement of the model has 141B parameters, 39B of them active."""
    job = load_job("mixtral_8x22b", [f"train.sharding.replicas={replicas}"])
    run = estimate(job.train, shape_of(job), gpus=gpus)
    assert run.size.total == pytest.approx(141e9, rel=0.005)
    assert run.size.active == pytest.approx(39e9, rel=0.01)
    assert run.peak.total / 1e9 == pytest.approx(peak, rel=0.01)
    assert run.step.all_gather / 1e9 == pytest.approx(all_gather, rel=0.002)
    assert run.step.reduce_scatter / 1e9 == pytest.approx(reduce_scatter, rel=0.002)
    assert run.step.all_reduce / 1e9 == pytest.approx(all_reduce, abs=0.1)
    assert run.checkpoint / 1e9 == pytest.approx(checkpoint, abs=0.1)
    if gpus == 256:
        assert run.kept / 1e9 == pytest.approx(25.0, rel=0.01)
        assert run.peak.gathered / 1e9 == pytest.approx(10.8, abs=0.1)
        assert run.peak.reduced / 1e9 == pytest.approx(10.4, abs=0.1)
        assert run.peak.activations / 1e9 == pytest.approx(42.1, rel=0.01)
        assert run.send_seconds == pytest.approx(22.3, rel=0.01)
        assert run.compute_seconds == pytest.approx(15.8, rel=0.01)


def test_memory_of_one_gpu_is_as_measured(tmp_path: Path) -> None:
    """docs/results/gpu.md: one H100 held 45.2 GB with the dense model and 44.8 GB with the mixture."""
    LlamaConfig(
        vocab_size=32_768, hidden_size=2_048, intermediate_size=8_192, num_hidden_layers=16, num_attention_heads=16,
        num_key_value_heads=4, max_position_embeddings=16_384,
    ).save_pretrained(tmp_path)  # fmt: skip
    mixture = ModelConfig(
        hidden_size=1_024, intermediate_size=3_584, layers=16, heads=8, kv_heads=2, experts=8, tie_embeddings=False
    )
    shape = ModelShape(vocabulary_size=32_768, context_length=16_384)
    for model, measured in ((ModelConfig(init_from=str(tmp_path)), 45.2), (mixture, 44.8)):
        config = TrainConfig(model=model, workers=1, stages=[StageConfig(bins_per_step=1)])
        run = estimate(config, shape, gpus=1)
        assert run.peak.total / 1e9 == pytest.approx(measured, rel=0.03)
        if model is not mixture:
            assert run.checkpoint / 1e9 == pytest.approx(13.3, rel=0.01)


def test_llama_3_405b_has_its_published_size() -> None:
    """arXiv:2407.21783, table 3."""
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=16_384, intermediate_size=53_248, num_hidden_layers=126,
        num_attention_heads=128, num_key_value_heads=8,
    )  # fmt: skip
    assert ModelSize.of_config(config).total == pytest.approx(405e9, rel=0.005)


def test_impossible_numbers_of_gpus_are_refused() -> None:
    job = load_job("mixtral_8x22b")
    decoder = Decoder.of(job.train.model, shape_of(job))
    with pytest.raises(UserError, match="cannot share experts .* evenly"):
        estimate_run(job.train, decoder, gpus=376, context_length=job.context_length)
    replicas = replace(job.train, sharding=replace(job.train.sharding, replicas=2))
    with pytest.raises(ConfigError, match=r"257 GPUs cannot hold 2 replicas"):
        estimate_run(replicas, decoder, gpus=257, context_length=job.context_length)
