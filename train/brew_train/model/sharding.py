"""Sharding of the model over workers: FSDP2, HSDP, activation checkpointing and compilation."""

import math
import os
import shutil
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from torch.utils.checkpoint import checkpoint

from brew_platform.errors import UserError
from brew_train.config import ShardingConfig
from brew_train.distributed.context import DistributedContext
from brew_train.model.model import RankingLM

__all__ = ["compute_dtype", "micro_step", "placement", "shard"]

LARGE_EXPERT = 2**24  # parameters; each worker would hold 64 MB in float32, and as much for each optimizer state


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns the dtype of forward and backward passes.

    Args:
        precision: `TrainConfig.precision`.
        device: the device of the worker.
    """
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def shard(model: RankingLM, context: DistributedContext, sharding: ShardingConfig, *, precision: str = "auto") -> None:
    """Shards `model` over the workers, in place. Without a mesh the model stays whole, and computes in float32.

    Each decoder layer is one FSDP2 group. Embeddings, last norm and head form the root group, because the loss needs
    the gathered head in the forward pass of the root. Shards are float32, because bfloat16 is too coarse for the
    optimizer's averages. A model that computes in bfloat16 gathers its weights in bfloat16, and reduces gradients in
    float32. With a two-dimensional mesh every replica holds a whole model, sharded over its own workers (HSDP).

    Args:
        model: on any device, including the meta device.
        context: its mesh determines the sharding and the number of replicas.
        sharding: resharding, activation checkpointing and compilation; `replicas` is not used.
        precision: `TrainConfig.precision`.

    Raises:
        UserError: `compile` is set, but there is no C++ compiler; or the number of workers cannot share large experts
            evenly.
    """
    if sharding.compile and context.device.type == "cpu":
        _require_compiler()
    layers = model.lm.get_decoder().layers
    for layer in layers:
        _wrap(layer, sharding, context.device)
    if context.mesh is None:
        return
    # Inputs are not cast: activations have the dtype of the weights already, and the objective's counts stay float64.
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if compute_dtype(precision, context.device) == torch.bfloat16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    parts = context.size // context.replicas
    for module in (*layers, model):
        first_in_backward = module in (layers[-1], model)  # resharded, they would be gathered again immediately
        fully_shard(
            module,
            mesh=context.mesh,
            mp_policy=policy,
            reshard_after_forward=sharding.reshard_after_forward and not first_in_backward,
            shard_placement_fn=lambda parameter: placement(parameter.shape, parts),
        )
    model.register_forward_hook(_forget_gathered)


def placement(shape: torch.Size, parts: int) -> Shard:
    """Returns the dimension along which a parameter is sharded.

    Fused experts have the shape [experts, out, in]. Along dimension 0, every worker beyond the number of experts would
    hold padding of the size of an expert, so they are sharded along `out` or `in`. FSDP2 requires shards of equal sizes
    in these dimensions: gate_up_proj of Mixtral 8x22B, [8, 32768, 6144], is sharded along `out` over 256 workers, and
    along `in` over 384. Small experts are sharded along dimension 0 if neither can be divided evenly.

    Args:
        shape: shape of the whole parameter.
        parts: number of shards.

    Raises:
        UserError: the experts are large, and neither dimension is a multiple of `parts`.
    """
    if len(shape) == 3:
        for dim in (1, 2):
            if shape[dim] % parts == 0:
                return Shard(dim)
        if parts > shape[0] and math.prod(shape[1:]) > LARGE_EXPERT:
            fitting = max(n for n in range(1, parts) if shape[1] % n == 0 or shape[2] % n == 0)
            raise UserError(
                f"{parts} workers (in each replica) cannot share experts of shape {list(shape)} evenly, so each would "
                f"hold a whole expert: use {fitting}, or another number that divides {shape[1]} or {shape[2]}."
            )
    return Shard(0)


def micro_step(model: nn.Module, *, last: bool, sharding: ShardingConfig) -> None:
    """Sets which communication the next forward and backward pass omits, before a micro-step.

    Without `reshard_after_forward`, weights stay gathered until the last backward pass of the step, and whole gradients
    are accumulated in float32 and reduced once. With `reshard_after_forward`, whole weights and whole gradients do not
    fit into memory: each micro-step gathers and reduce-scatters, and only the all-reduce between replicas is deferred
    to the last one.

    Args:
        model: the model after `shard`; has no effect on a model that is not sharded.
        last: whether the update follows this micro-step.
        sharding: the argument of `shard`.
    """
    if not isinstance(model, FSDPModule):
        return
    if sharding.reshard_after_forward:
        model.set_requires_all_reduce(last)
    else:
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last)


def _wrap(layer: nn.Module, sharding: ShardingConfig, device: torch.device) -> None:
    """Adds compilation and activation checkpointing to the forward method of a layer, inside FSDP2's hooks.

    The hooks then run once per pass and are not compiled. Module wrappers are not used, because they rename parameters:
    checkpoints would depend on these settings.
    """
    forward: Any = layer.forward
    if sharding.compile:
        if device.type == "cpu":
            for module in layer.modules():
                if any(parameter.ndim == 3 for parameter in module.parameters(recurse=False)):
                    # inductor has no grouped_mm for CPU, and the replacement in transformers is much slower
                    module.forward = torch.compiler.disable(module.forward)  # type: ignore[no-untyped-call]
        forward = torch.compile(forward, dynamic=True)  # the lengths of rows differ
    if sharding.activation_checkpointing:
        forward = partial(checkpoint, forward, use_reentrant=False)
    layer.forward = forward


def _forget_gathered(model: nn.Module, args: Any, output: Any) -> None:
    """Frees the gathered weights after a forward pass without gradients.

    No backward pass frees them. If the shards change before the next forward pass (evaluation of the averaged weights),
    FSDP2 would use the stale copies.
    """
    if not torch.is_grad_enabled():
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _require_compiler() -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"train.sharding.compile is on, but the C++ compiler {compiler} that torch.compile needs on CPU is not on "
            f"the PATH: install it, set the environment variable CXX to another compiler, or switch compile off."
        )
