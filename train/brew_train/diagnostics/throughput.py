"""Throughput of one device: timed steps and checkpoints of two models of about a billion parameters."""

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

LONGEST = 8  # a row is this many times as long as its longest document at least


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model to be timed."""

    name: str
    model: ModelConfig
    sharding: ShardingConfig
    vocabulary: int
    context_length: int  # tokens in a row
    rows: int  # of a step, one after the other

    @property
    def shape(self) -> ModelShape:
        return ModelShape(vocabulary_size=self.vocabulary, context_length=self.context_length)

    def predicted_peak(self) -> int:
        """Bytes that the dry run finds; it needs a process without a process group."""
        stage = StageConfig(bins_per_step=self.rows, micro_steps=self.rows)
        config = TrainConfig(model=self.model, sharding=self.sharding, stages=[stage], workers=1)
        return dry_run(config, gpus=1, shape=self.shape).peak.total


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Timed steps of one model on one device, from reading the row to the update."""

    name: str
    parameters: int
    active: int  # parameters per token
    tokens: int  # per step
    document_length: float  # tokens in the document of a token, mean
    steps: int
    tokens_per_second: float
    mfu: float | None  # None where the device's peak is not known
    peak_bytes: int | None  # the allocator's; None on a CPU
    predicted_bytes: int  # the dry run's
    first_loss: float
    last_loss: float
    checkpoint_bytes: int | None  # None where no checkpoint was requested
    checkpoint_blocked_seconds: (
        float | None
    )  # that training would have waited; of the second one, as all later ones are
    checkpoint_seconds: float | None  # until it was on the disk


def candidates(folder: Path, *, tiny: bool, compile: bool, rows: int) -> list[Candidate]:
    """A dense model, which is a Llama and no mixture of one expert, and a mixture of experts.

    Args:
        folder: keeps the dense model's config.json, the one road to a model without experts.
        tiny: thousands of parameters instead of a billion.
        compile: the decoder layers.
        rows: of a step; more of them share the cost of an update.
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
    """Trains `candidate` on packed rows, each of eight in turn.

    Args:
        steps: that are timed, after `warmup` others.
        predicted: what `candidate.predicted_peak` said.
        checkpoint: whether two checkpoints are written afterwards, in the temporary folder. Each needs three times
            the bytes of the weights there.
    """
    cuda = context.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(context.device)
    model = build_model(candidate.model, candidate.shape)
    shard(model, context, candidate.sharding)
    materialize(model, replace(candidate.model, init_from=None), context, seed=0)  # drawn: the folder has no weights
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
    done = []
    began = 0.0
    for step in range(warmup + steps):
        if step == warmup:
            _wait(context.device)
            began = time.perf_counter()
        numbers = (np.arange(candidate.rows) + step * candidate.rows) % len(rows)
        done.append(take_step(model, optimizer, stage, rows, numbers, context, sharding=candidate.sharding))
    _wait(context.device)
    seconds = time.perf_counter() - began

    timed = done[warmup:]
    tokens = sum(result.tokens for result in timed)
    length = sum(result.document_length * result.tokens for result in timed) / tokens
    size = ModelSize.of(model.lm)
    peak = torch.cuda.max_memory_allocated(context.device) if cuda else None
    written, blocked, until_written = _write_checkpoint(optimizer, context) if checkpoint else (None, None, None)
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
        first_loss=done[0].loss or float("nan"),
        last_loss=done[-1].loss or float("nan"),
        checkpoint_bytes=written,
        checkpoint_blocked_seconds=blocked,
        checkpoint_seconds=until_written,
    )
    del model, optimizer
    gc.collect()  # FSDP2's modules and hooks refer to each other
    if cuda:
        torch.cuda.empty_cache()
    return speed


def _write_checkpoint(optimizer: Optimizer, context: DistributedContext) -> tuple[int, float, float]:
    """Bytes of the second of two checkpoints, seconds that it blocks, and seconds until it is on the disk."""
    with tempfile.TemporaryDirectory() as folder, Checkpointer(Path(folder), keep=1, context=context) as checkpointer:
        for step in (1, 2):
            _wait(context.device)
            before, began = checkpointer.blocked_seconds, time.perf_counter()
            checkpointer.begin(optimizer.tensors(), {}, step=step, ledger=())
            blocked = checkpointer.blocked_seconds - before
            checkpointer.wait()
        seconds = time.perf_counter() - began
        return sum(path.stat().st_size for path in Path(folder).glob("*/*.distcp")), blocked, seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
