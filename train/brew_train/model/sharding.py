"""Sharding of the model over workers: FSDP2, HSDP, activation checkpointing and compilation.

Works on a model on the meta device.
"""

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

__all__ = ["micro_step", "placement", "shard"]

LARGE_EXPERT = 2**24  # parameters; 64 MB of float32 on every worker, and as much for each of the optimizer's averages


def shard(model: RankingLM, context: DistributedContext, sharding: ShardingConfig) -> None:
    """Prepares `model` for training in this context, in place; without a mesh it stays whole.

    FSDP2 makes one group per decoder layer. Embeddings, last norm and head form the root group: the head must exist
    while the root's forward makes the loss. Shards are float32, because the optimizer's averages are useless in
    bfloat16; a GPU computes in bfloat16 and adds gradients up in float32. With a two-dimensional mesh every replica
    holds a whole model, sharded over its own workers (HSDP).

    Args:
        model: on any device, the meta device included.
        world: its device decides the precision, its mesh how parameters are cut.
        sharding: what is traded for memory or speed. How many replicas there are is the mesh's to say.

    Raises:
        UserError: compilation is requested, but there is no compiler; or so many workers cannot share large experts.
    """
    if sharding.compile and context.device.type == "cpu":
        _require_compiler()
    layers = model.lm.get_decoder().layers
    for layer in layers:
        _wrap(layer, sharding, context.device)
    if context.mesh is None:
        return
    # Inputs are not cast: activations have the weights' type already, and a cast would reach the objective's numbers.
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if context.device.type == "cuda":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    parts = context.size // context.replicas
    for module in (*layers, model):
        first_in_backward = module in (layers[-1], model)  # freed after the forward, they would be gathered right again
        fully_shard(
            module,
            mesh=context.mesh,
            mp_policy=policy,
            reshard_after_forward=sharding.reshard_after_forward and not first_in_backward,
            shard_placement_fn=lambda parameter: placement(parameter.shape, parts),
        )
    model.register_forward_hook(_forget_gathered)


def placement(shape: torch.Size, parts: int) -> Shard:
    """The dimension along which a parameter is cut into `parts`.

    Fused experts are [experts, out, in]: over dim 0 every worker beyond the number of experts would hold padding as
    large as an expert, so they are cut along `out` or `in`. FSDP2 wants those to divide evenly: Mixtral 8x22B's
    gate_up_proj [8, 32768, 6144] is cut along `out` over 256 workers, and along `in` over 384. Small experts may be cut
    along dim 0 all the same.

    Raises:
        UserError: the experts are large, and neither dimension divides evenly.
    """
    if len(shape) == 3:
        for dim in (1, 2):
            if shape[dim] % parts == 0:
                return Shard(dim)
        if parts > shape[0] and math.prod(shape[1:]) > LARGE_EXPERT:
            fitting = max(n for n in range(1, parts) if shape[1] % n == 0 or shape[2] % n == 0)
            raise UserError(
                f"{parts} workers (in each replica) cannot share experts of shape {list(shape)} evenly, and each would "
                f"hold a whole expert: take {fitting}, or another number that divides {shape[1]} or {shape[2]}."
            )
    return Shard(0)


def micro_step(model: nn.Module, *, last: bool, sharding: ShardingConfig) -> None:
    """Says what the next forward and backward pass may leave out, because another one follows before the update.

    Where weights stay gathered between forward and backward, they stay so until the step's last backward, and gradients
    are added up whole, in float32, and reduced once. Where the whole model does not fit (`reshard_after_forward`),
    neither would whole gradients: each micro-step gathers and reduce-scatters, and only the all-reduce between
    replicas waits for the last.

    Args:
        model: as `shard` left it; a whole one communicates nothing anyway.
        last: whether the update follows.
    """
    if not isinstance(model, FSDPModule):
        return
    if sharding.reshard_after_forward:
        model.set_requires_all_reduce(last)
    else:
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last)


def _wrap(layer: nn.Module, sharding: ShardingConfig, device: torch.device) -> None:
    """Wraps the layer's forward inside of FSDP2's hooks, which then run once per pass and are not compiled.

    Module wrappers would do the same, but they rename parameters, and a checkpoint must not depend on such settings.
    """
    forward: Any = layer.forward
    if sharding.compile:
        if device.type == "cpu":
            for module in layer.modules():
                if any(parameter.ndim == 3 for parameter in module.parameters(recurse=False)):
                    # inductor has no grouped_mm for CPU, and the way around it that transformers takes is far slower
                    module.forward = torch.compiler.disable(module.forward)  # type: ignore[no-untyped-call]
        forward = torch.compile(forward, dynamic=True)  # each row has another length
    if sharding.activation_checkpointing:
        forward = partial(checkpoint, forward, use_reentrant=False)
    layer.forward = forward


def _forget_gathered(model: nn.Module, args: Any, output: Any) -> None:
    """Frees gathered weights after a pass without gradients.

    No backward pass will do it, and if the shards change before the next forward (an evaluation of averaged weights),
    FSDP2 would go on with the stale copies.
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
            f"the PATH: install it, name another in the environment variable CXX, or switch compile off."
        )
