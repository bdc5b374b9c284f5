"""Dry run: memory, traffic and checkpoint size of a training step per GPU, without the GPUs.

It runs the training code (`build_model`, `shard`, the objective, FSDP2, the optimizer) on fake tensors, which have
shapes, dtypes and storage sizes, but no values, in a fake process group, whose collectives return at once. Memory and
traffic are measured. Only the times are computed by formula.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from brew_platform.errors import UserError
from brew_train.config import ModelShape, ShardingConfig, StageConfig, TrainConfig
from brew_train.diagnostics.dry_run_report import DryRun, Gpu
from brew_train.diagnostics.memory_tracker import Footprint, Traffic
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Batch, Bin, collate
from brew_train.model.model import RankingLM, build_model
from brew_train.model.sharding import micro_step, shard
from brew_train.objectives.base import make_objective
from brew_train.optim.base import Optimizer
from brew_train.optim.factory import make_optimizer
from brew_train.telemetry.flops import ModelSize

__all__ = ["DryRun", "Gpu", "dry_run"]


def dry_run(
    config: TrainConfig,
    *,
    gpus: int,
    shape: ModelShape,
    bins_per_gpu: int | None = None,
    document_length: int = 2048,
    gpu: Gpu | None = None,
) -> DryRun:
    """Runs a step of the first stage on fake tensors, as rank 0 of `gpus` processes.

    Args:
        config: settings of the run; `gpus` replaces `workers`.
        gpus: number of processes, each with one GPU.
        shape: vocabulary of the tokenizer, and tokens in a bin.
        bins_per_gpu: bins in one micro-step of one GPU; None: computed from `bins_per_step`.
        document_length: tokens in each document of a bin; longer documents make attention more expensive.
        gpu: the GPU to compare with; None: an H100 with 80 GB.

    Returns:
        Memory, traffic and times of one GPU.

    Raises:
        UserError: the number of GPUs does not fit the settings, this process has a process group already, or a mixture
            of experts is to compute in float32.
    """
    # The number of projected tokens of a pairs objective depends on the data; the decoder's work is the same.
    stage = replace(config.stages[0], objective="next_token")
    if bins_per_gpu is not None:
        stage = replace(stage, bins_per_step=bins_per_gpu * gpus * stage.micro_steps)
    sharding = replace(config.sharding, compile=False)  # fake tensors cannot run compiled code
    # Raises a ConfigError if so many workers cannot share the bins or the replicas.
    replace(config, workers=gpus, min_workers=None, sharding=sharding, stages=[stage])
    if dist.is_initialized():
        raise UserError("a dry run needs its own process, but this process is part of a run: start another process.")
    bins_per_gpu = -(-stage.bins_per_step // (gpus * stage.micro_steps))  # rounded up: the largest share

    batch = collate([_bin(shape.context_length, min(document_length, shape.context_length))] * bins_per_gpu)
    # Gemma makes the scale of its embeddings from a number, which is a tensor that is not fake.
    with _fake_context(gpus, sharding.replicas) as context, FakeTensorMode(allow_non_fake_inputs=True) as fake:
        model = build_model(config.model, shape)
        if config.precision == "float32" and any(parameter.ndim == 3 for parameter in model.parameters()):
            raise UserError(
                "train.precision=float32, but a dry run computes the experts of a mixture in bfloat16 only (PyTorch's "
                "grouped matrix product): set train.precision to bfloat16, or choose a model without experts."
            )
        shard(model, context, sharding, precision=config.precision)
        model.to_empty(device="cpu")
        model.train()
        optimizer = make_optimizer(model, stage)
        fake_tensors: dict[str, Any] = {k: fake.from_tensor(v) for k, v in vars(batch).items() if torch.is_tensor(v)}
        batch = replace(batch, **fake_tensors)

        footprint = Footprint()
        weights = [_local(parameter) for parameter in model.parameters()]
        states = [_local(tensor) for name, tensor in optimizer.tensors().items() if not name.startswith("model.")]
        footprint.hold(weights, "parameters")
        footprint.hold(states, "optimizer")
        before_step = footprint.now()
        with footprint:
            activations, first, last = _micro_steps(model, optimizer, batch, stage, sharding, context, footprint)
            gradients = footprint.now().gradients
            if stage.schedule == "schedule_free":  # PyTorch's AdamW reads a value, which fake tensors lack
                optimizer.step()
        state_bytes = sum(tensor.numel() * tensor.element_size() for tensor in [*weights, *states])
        size = ModelSize.of(model.lm)
    return DryRun(
        gpus=gpus,
        replicas=sharding.replicas,
        tokens=batch.tokens,
        micro_steps=stage.micro_steps,
        size=size,
        parameters=before_step.parameters,
        padding=before_step.parameters - 4 * size.total * sharding.replicas // gpus,
        gradients=gradients,
        optimizer=before_step.optimizer,
        kept=activations,
        peak=footprint.peak(),
        micro_step=first,
        step=first.times(stage.micro_steps - 1) + last,
        checkpoint=state_bytes // sharding.replicas,
        flops=batch.tokens * size.flops_per_token(document_length),
        gpu=(gpu or Gpu()).in_precision(config.precision),
    )


def _micro_steps(
    model: RankingLM,
    optimizer: Optimizer,
    batch: Batch,
    stage: StageConfig,
    sharding: ShardingConfig,
    context: DistributedContext,
    footprint: Footprint,
) -> tuple[int, Traffic, Traffic]:
    """Runs the first and the last micro-step of a step; those between them equal the first.

    Returns:
        Bytes of activations after a forward pass, and the traffic of the two micro-steps.
    """
    activations = 0
    traffic = []
    for last in (True,) if stage.micro_steps == 1 else (False, True):
        before = footprint.traffic
        objective = make_objective(stage.objective).bind(batch.counts(), micro_steps=stage.micro_steps)
        micro_step(model, last=last, sharding=sharding)
        loss, *other_results = model(batch, objective, context)
        activations = footprint.now().activations
        (loss * context.size).backward()
        del loss, other_results
        footprint.hold(optimizer.gradients(), "gradients")
        traffic.append(footprint.traffic - before)
    return activations, traffic[0], traffic[-1]


def _bin(tokens: int, document_length: int) -> Bin:
    """Returns a full bin of equal documents, of which the last may be shorter; every second token is an answer."""
    lengths = [document_length] * (tokens // document_length)
    if tokens % document_length:
        lengths.append(tokens % document_length)
    return Bin(
        input_ids=np.zeros(tokens, np.int32),
        doc_lengths=np.array(lengths, np.int32),
        roles=np.arange(tokens, dtype=np.uint8) % 2,
    )


@contextmanager
def _fake_context(gpus: int, replicas: int) -> Iterator[DistributedContext]:
    """Creates a fake process group of `gpus` ranks, which sends nothing; its context is that of rank 0."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=gpus)
    try:
        mesh = init_device_mesh("cpu", (gpus,), mesh_dim_names=("shard",))
        if replicas > 1:
            mesh = init_device_mesh("cpu", (replicas, gpus // replicas), mesh_dim_names=("replicate", "shard"))
        yield DistributedContext(rank=0, size=gpus, device=torch.device("cuda"), replicas=replicas, mesh=mesh)
    finally:
        dist.destroy_process_group()


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
