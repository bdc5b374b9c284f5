"""The dry run equals closed forms and two real processes, and runs at full size."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch.distributed as dist
import yaml

from brew_platform.config import load_config
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import ConfigError, UserError
from brew_train.config import ModelConfig, ModelShape, ShardingConfig, StageConfig, TrainConfig
from brew_train.diagnostics.dry_run import DryRun, dry_run
from brew_train.model.model import build_model

from ...tiny_families import VOCABULARY, make_tiny, write_tiny

SHAPE = ModelShape(vocabulary_size=96, context_length=64)
SMALL = TrainConfig(
    model=ModelConfig(
        hidden_size=32, intermediate_size=64, layers=3, heads=2, kv_heads=1, experts=4, tie_embeddings=False
    ),
    sharding=ShardingConfig(reshard_after_forward=True),
    stages=[StageConfig(bins_per_step=32, micro_steps=2)],
    workers=2,
)
# a layer of SMALL: query, key, value and output, four experts of three matrices, their router, and two norms
LAYER = 32 * (32 + 16 + 16 + 32) + 4 * 3 * 32 * 64 + 4 * 32 + 2 * 32
RECIPE = Path(__file__).parents[3] / "cluster/brew_cluster/recipes/train_mixtral_8x22b.yaml"

WORKER = """
import json, sys
import numpy as np
from brew_train.inputs.batches import Bin
from brew_train.config import ModelConfig, ModelShape
from brew_train.config import ShardingConfig
from brew_train.config import StageConfig
from brew_train.diagnostics.memory_tracker import Footprint
from brew_train.model.model import build_model
from brew_train.optim.factory import make_optimizer
from brew_train.model.sharding import shard
from brew_train.step import take_step
from brew_train.model.init_weights import materialize
from brew_train.distributed.context import DistributedContext

job = json.loads(sys.argv[1])
model_config, sharding = ModelConfig(**job["model"]), ShardingConfig(**job["sharding"])
stage = StageConfig(bins_per_step=2)
lengths = np.array([40, 24], np.int32)
row = Bin(input_ids=np.arange(64, dtype=np.int32), doc_lengths=lengths, roles=np.zeros(64, np.uint8))
with DistributedContext.from_torchrun() as context:
    model = build_model(model_config, ModelShape(**job["shape"]))
    shard(model, context, sharding)
    materialize(model, model_config, context, seed=0)
    optimizer = make_optimizer(model, stage)
    footprint = Footprint()
    footprint.hold([p.to_local() for p in model.parameters()], "parameters")
    held = [t.to_local() for name, t in optimizer.tensors().items() if not name.startswith("model.")]
    footprint.hold(held, "optimizer")
    with footprint:
        take_step(model, optimizer, stage, [row, row], np.arange(2), context, sharding=sharding)
    if context.rank == 0:
        print(json.dumps({"peak": vars(footprint.peak()), "sent": vars(footprint.traffic)}))
"""


def test_bytes_equal_the_closed_forms() -> None:
    config = replace(SMALL, sharding=replace(SMALL.sharding, replicas=2))
    run = dry_run(config, gpus=8, bins_per_gpu=1, shape=SHAPE)
    model = build_model(config.model, shape=SHAPE)
    whole = sum(parameter.numel() for parameter in model.parameters())
    shards = 4
    assert run.size.total == whole
    assert (run.parameters, run.padding) == (whole * 4 // shards, 0)
    assert run.gradients == run.parameters
    assert run.optimizer == 2 * run.parameters
    assert run.checkpoint == 3 * run.parameters // 2  # each replica writes half
    assert run.tokens == 64

    balance = 3 * 4 * 4 * 2 * 7 // 8  # the router's counts, over all workers
    # two layers are gathered again for the backward pass; the last one and the root's are still there
    assert run.micro_step.all_gather == (whole + 2 * LAYER) * 2 * 3 // 4
    assert run.micro_step.reduce_scatter == whole * 4 * 3 // 4
    assert run.micro_step.all_reduce == balance
    assert run.micro_step.calls == 6 + 4 + 1
    assert run.step.all_gather == 2 * run.micro_step.all_gather
    assert run.step.reduce_scatter == 2 * run.micro_step.reduce_scatter
    assert run.step.all_reduce == 2 * balance + run.parameters  # once per step, over two replicas
    assert run.step.calls == 2 * 11 + 4


def test_float32_gathers_twice_the_bytes_and_computes_without_tensor_cores(tmp_path: Path) -> None:
    write_tiny("llama", tmp_path)
    dense = replace(SMALL, model=ModelConfig(init_from=str(tmp_path)))
    sizes = ModelShape(vocabulary_size=VOCABULARY, context_length=64)
    half, single = (dry_run(replace(dense, precision=name), gpus=4, shape=sizes) for name in ("auto", "float32"))
    assert single.step.all_gather == 2 * half.step.all_gather
    assert single.step.reduce_scatter == half.step.reduce_scatter  # gradients are float32 in both
    assert single.peak.gathered > half.peak.gathered
    assert single.kept > 1.3 * half.kept
    assert single.compute_seconds == pytest.approx(half.compute_seconds * 989 / 67)
    with pytest.raises(UserError, match="experts of a mixture in bfloat16 only"):
        dry_run(replace(SMALL, precision="float32"), gpus=4, shape=SHAPE)


def test_checkpointing_and_resharding_save_memory() -> None:
    plain = replace(SMALL, sharding=ShardingConfig(), stages=[StageConfig(bins_per_step=8)])
    kept, resharded, checkpointed = (
        dry_run(replace(plain, sharding=sharding), gpus=4, shape=SHAPE)
        for sharding in (
            ShardingConfig(),
            ShardingConfig(reshard_after_forward=True),
            ShardingConfig(reshard_after_forward=True, activation_checkpointing=True),
        )
    )
    assert kept.step.all_gather < resharded.step.all_gather == checkpointed.step.all_gather
    # the peak is at the head, where all three layers are still gathered, or the last one alone; 2 bytes per weight
    assert kept.peak.gathered - resharded.peak.gathered == 2 * LAYER * 2
    assert resharded.kept > 3 * checkpointed.kept
    assert kept.peak.total > resharded.peak.total > checkpointed.peak.total
    double = dry_run(replace(plain, stages=[StageConfig(bins_per_step=16)]), gpus=4, shape=SHAPE)
    assert double.tokens == 2 * kept.tokens
    assert double.step == kept.step  # communication does not depend on tokens
    assert double.kept == pytest.approx(2 * kept.kept, rel=0.1)
    assert double.flops == 2 * kept.flops


@pytest.mark.parametrize("model_type", ["gemma3_text", "qwen3_moe", "llama"])
def test_a_model_of_another_family_needs_its_config_only(model_type: str, tmp_path: Path) -> None:
    lm = make_tiny(model_type)
    lm.config.save_pretrained(tmp_path)
    config = replace(SMALL, model=ModelConfig(init_from=str(tmp_path)), sharding=ShardingConfig())
    run = dry_run(config, gpus=1, shape=SHAPE)
    assert run.parameters == 4 * lm.num_parameters()
    assert run.optimizer == 2 * run.parameters
    assert run.peak.total > 4 * run.parameters


def test_padding_is_reported() -> None:
    padded = dry_run(SMALL, gpus=9, bins_per_gpu=1, shape=SHAPE)  # neither 4 experts nor 32 nor 64 divide into 9 parts
    assert padded.padding > 0.4 * padded.parameters
    assert any("exceeds an even share" in figure for _, figure in padded.rows())


@pytest.mark.real
def test_two_real_processes_hold_and_send_the_predicted_bytes() -> None:
    config = replace(SMALL, stages=[StageConfig(bins_per_step=2)])
    predicted = dry_run(config, gpus=2, shape=SHAPE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = json.dumps({"model": vars(config.model), "sharding": vars(config.sharding), "shape": asdict(SHAPE)})
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, job],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        first, _ = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    done = json.loads(first)
    assert done["peak"]["parameters"] == predicted.parameters
    assert done["peak"]["optimizer"] == predicted.optimizer
    assert done["sent"]["reduce_scatter"] == predicted.step.reduce_scatter
    assert done["sent"]["all_gather"] == 2 * predicted.step.all_gather  # a CPU gathers float32, a GPU bfloat16
    assert done["sent"]["calls"] == predicted.step.calls + 2  # the step's counts, and its totals


def test_impossible_sizes_are_refused_before_the_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brew_train.diagnostics.dry_run.build_model", lambda *_, **__: pytest.fail("built"))
    replicas = replace(SMALL, sharding=ShardingConfig(replicas=2))
    with pytest.raises(ConfigError, match=r"workers=7 is not a multiple of sharding.replicas=2"):
        dry_run(replicas, gpus=7, bins_per_gpu=1, shape=SHAPE)
    with pytest.raises(ConfigError, match=r"bins_per_step=32, but 64 workers with 2 micro-steps need at least one"):
        dry_run(SMALL, gpus=64, shape=SHAPE)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match="this process is part of a run"):
            dry_run(SMALL, gpus=2, shape=SHAPE)
    finally:
        dist.destroy_process_group()


def table(run: DryRun) -> str:
    console = PlainConsole(width=160, record=True)
    run.render(console)
    return console.export_text()


@pytest.mark.real
def test_mixtral_8x22b_on_256_gpus() -> None:
    job = yaml.safe_load(RECIPE.read_text())
    config = load_config(TrainConfig, job["train"])
    run = dry_run(
        config, gpus=256, shape=ModelShape(vocabulary_size=job["vocabulary_size"], context_length=job["context_length"])
    )
    assert run.size.total == pytest.approx(140.6e9, rel=1e-3)
    assert run.size.active == pytest.approx(39.2e9, rel=1e-2)
    assert run.tokens == 2 * 16_384
    assert run.padding < 0.01 * run.parameters
    assert run.parameters == pytest.approx(4 * run.size.total / 256, rel=1e-3)
    # weights twice in 2 bytes (but what the last layer and the root hold), gradients once in 4: about 1.12 TB
    assert run.step.total == pytest.approx(1.115e12, rel=0.01)
    assert run.fits
    assert 0.3 < run.mfu_ceiling(run.send_seconds) < 0.4
    assert run.send_seconds_by_node == pytest.approx(run.send_seconds / 8, rel=1e-3)
    json.dumps(run.as_dict())
    text = table(run)
    assert "fits 85% of an H100 80 GB" in text
    assert "140.6B parameters, 39.2B active per token" in text
