"""Measures the throughput of one device: steps and checkpoints of two models of about a billion parameters."""

import gc
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig

from brew_train.checkpoints.checkpointer import Checkpointer
from brew_train.config import ModelConfig, ModelShape, ShardingConfig, StageConfig, TrainConfig
from brew_train.diagnostics.dry_run import dry_run
from brew_train.diagnostics.parity import counting_bin
from brew_train.distributed.context import DistributedContext
from brew_train.model.init_weights import materialize
from brew_train.model.model import build_model
from brew_train.model.sharding import shard
from brew_train.optim.base import Optimizer
from brew_train.optim.factory import make_optimizer
from brew_train.step import take_step
from brew_train.telemetry.flops import ModelSize, mfu, peak_flops

__all__ = ["Candidate", "Speed", "candidates", "measure"]

LONGEST = 8  # a document has at most this fraction (1 / LONGEST) of the tokens of a row


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model to measure."""

    name: str
    model: ModelConfig
    sharding: ShardingConfig
    vocabulary: int  # number of token ids
    context_length: int  # tokens in a row
    rows: int  # rows in a step, one per micro-step

    @property
    def shape(self) -> ModelShape:
        """Vocabulary and context length."""
        return ModelShape(vocabulary_size=self.vocabulary, context_length=self.context_length)

    def predicted_peak(self) -> int:
        """Returns the peak memory in bytes from a dry run; this process must not have a process group."""
        stage = StageConfig(bins_per_step=self.rows, micro_steps=self.rows)
        config = TrainConfig(model=self.model, sharding=self.sharding, stages=[stage], workers=1)
        return dry_run(config, gpus=1, shape=self.shape).peak.total


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of one model on one device, over complete steps from reading the row to the update."""

    name: str
    parameters: int
    active: int  # number of parameters per token
    tokens: int  # tokens per step
    document_length: float  # tokens in a document, mean over tokens
    steps: int  # number of timed steps
    tokens_per_second: float
    mfu: float | None  # None if the peak of the device is unknown
    peak_bytes: int | None  # peak of allocated memory; None on a CPU
    predicted_bytes: int  # peak memory from the dry run
    first_loss: float
    last_loss: float
    checkpoint_bytes: int | None  # size of the second checkpoint; None without checkpoints
    checkpoint_blocked_seconds: float | None  # time that the second checkpoint blocks training
    checkpoint_seconds: float | None  # time until the second checkpoint is complete


def candidates(folder: Path, *, tiny: bool, compile: bool, rows: int) -> list[Candidate]:
    """Returns the models to measure: a dense Llama and a mixture of experts.

    Args:
        folder: the config.json of the dense model is written here, because `ModelConfig` describes only mixtures.
        tiny: return models with thousands of parameters instead of a billion.
        compile: compile the decoder layers.
        rows: rows in a step, one per micro-step; more rows share the cost of an update.
    """
    vocabulary, context_length = (97, 64) if tiny else (32_768, 16_384)
    dense = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32 if tiny else 2048,
        intermediate_size=48 if tiny else 8192,
        num_hidden_layers=2 if tiny else 16,
        num_attention_heads=2 if tiny else 16,
        num_key_value_heads=1 if tiny else 4,
        max_position_embeddings=context_length,
    )
    dense.save_pretrained(folder)
    mixture = ModelConfig(
        hidden_size=32 if tiny else 1024,
        intermediate_size=32 if tiny else 3584,
        layers=2 if tiny else 16,
        heads=2 if tiny else 8,
        kv_heads=1 if tiny else 2,
        experts=8,
        experts_per_token=2,
        initializer_range=0.02,
        tie_embeddings=False,
    )
    models = {"dense": ModelConfig(init_from=str(folder)), "mixture of 8 experts, 2 per token": mixture}
    sharding = ShardingConfig(compile=compile)
    return [
        Candidate(
            name=name, model=model, sharding=sharding, vocabulary=vocabulary, context_length=context_length, rows=rows
        )
        for name, model in models.items()
    ]


def measure(
    candidate: Candidate,
    context: DistributedContext,
    *,
    steps: int,
    warmup: int,
    predicted: int,
    checkpoint: bool = False,
) -> Speed:
    """Trains `candidate` on eight packed rows in turn, and returns its speed.

    Args:
        candidate: the model.
        context: a context of one process.
        steps: number of timed steps.
        warmup: number of steps before the timed steps.
        predicted: result of `candidate.predicted_peak`, bytes.
        checkpoint: whether to write two checkpoints afterwards, in a temporary folder. Each needs three times the bytes
            of the weights.
    """
    cuda = context.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(context.device)
    model = build_model(candidate.model, candidate.shape)
    shard(model, context, candidate.sharding)
    materialize(model, replace(candidate.model, init_from=None), context, seed=0)  # random: the folder has no weights
    model.train()
    stage = StageConfig(
        steps=warmup + steps, bins_per_step=candidate.rows, micro_steps=candidate.rows, warmup_steps=max(1, warmup),
        learning_rate=3e-4,
    )  # fmt: skip
    optimizer = make_optimizer(model, stage)
    longest = candidate.context_length // LONGEST
    rows = [
        counting_bin(candidate.context_length, vocabulary=candidate.vocabulary, seed=seed, longest=longest)
        for seed in range(8)
    ]
    results = []
    started = 0.0
    for step in range(warmup + steps):
        if step == warmup:
            _wait(context.device)
            started = time.perf_counter()
        numbers = (np.arange(candidate.rows) + step * candidate.rows) % len(rows)
        results.append(take_step(model, optimizer, stage, rows, numbers, context, sharding=candidate.sharding))
    _wait(context.device)
    seconds = time.perf_counter() - started

    timed = results[warmup:]
    tokens = sum(result.tokens for result in timed)
    length = sum(result.document_length * result.tokens for result in timed) / tokens
    size = ModelSize.of(model.lm)
    peak = torch.cuda.max_memory_allocated(context.device) if cuda else None
    size_bytes, blocked, until_written = _write_checkpoint(optimizer, context) if checkpoint else (None, None, None)
    speed = Speed(
        name=candidate.name,
        parameters=size.total,
        active=size.active,
        tokens=candidate.context_length * candidate.rows,
        document_length=length,
        steps=steps,
        tokens_per_second=tokens / seconds,
        mfu=mfu(
            tokens_per_second=tokens / seconds,
            flops_per_token=size.flops_per_token(length),
            peak=peak_flops(torch.cuda.get_device_name(context.device)) if cuda else None,
            devices=1,
        ),
        peak_bytes=peak,
        predicted_bytes=predicted,
        first_loss=results[0].loss or float("nan"),
        last_loss=results[-1].loss or float("nan"),
        checkpoint_bytes=size_bytes,
        checkpoint_blocked_seconds=blocked,
        checkpoint_seconds=until_written,
    )
    del model, optimizer
    gc.collect()  # FSDP2's modules and hooks have reference cycles
    if cuda:
        torch.cuda.empty_cache()
    return speed


def _write_checkpoint(optimizer: Optimizer, context: DistributedContext) -> tuple[int, float, float]:
    """Writes two checkpoints; returns bytes, blocked seconds and seconds until completion of the second one."""
    with tempfile.TemporaryDirectory() as folder, Checkpointer(Path(folder), keep=1, context=context) as checkpointer:
        for step in (1, 2):
            _wait(context.device)
            blocked_before, started = checkpointer.blocked_seconds, time.perf_counter()
            checkpointer.begin(optimizer.tensors(), {}, step=step, ledger=())
            blocked = checkpointer.blocked_seconds - blocked_before
            checkpointer.wait()
        seconds = time.perf_counter() - started
        return sum(path.stat().st_size for path in Path(folder).glob("*/*.distcp")), blocked, seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
