"""Schedule-free AdamW over sharded parameters, with state that can be committed and restored bitwise.

Owns: the update, the average, and naming the state for a commit. Does not own: writing it (brew_train.checkpoint).

Schedule-free (Defazio et al. 2024, arXiv:2405.15682) keeps three sequences: the fast iterate z, the average x, and y
between them, where gradients are taken. In training the model's weights are y; x = lerp(y, z, 1 - 1/beta1) is what is
evaluated, exported, and started from by the next stage.
"""

from typing import Any

import schedulefree
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from brew_train.config import StageConfig

__all__ = ["ScheduleFree"]

STATE = ("z", "exp_avg_sq")  # tensors per parameter, float32, shaped and sharded like it
SCALARS = ("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode")  # numbers per parameter group that change


class ScheduleFree:
    """A fresh optimizer in training mode that starts at the weights `model` holds.

    The update is elementwise, so it runs on each worker's plain shards: going through DTensor's dispatch for every
    tensor and operation cost a tenth of the time of a small model's step.

    Args:
        model: its parameters may be FSDP2 shards; they are changed in place.
        stage: learning rate, warm-up, betas, decay.
    """

    def __init__(self, model: nn.Module, stage: StageConfig) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._shards = {name: _local(p.detach()) for name, p in self._parameters.items()}
        matrices = [self._shards[name] for name, p in self._parameters.items() if p.ndim > 1]
        gains = [self._shards[name] for name, p in self._parameters.items() if p.ndim <= 1]
        self._adam = schedulefree.AdamWScheduleFree(
            [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": gains, "weight_decay": 0.0}],
            lr=stage.learning_rate,
            betas=(stage.beta1, stage.beta2),
            warmup_steps=stage.warmup_steps,
        )
        self._adam.train()
        for shard in self._shards.values():
            # The library makes these in its first step: a restore before that would find nothing to fill, and drop
            # what the checkpoint holds without a word.
            self._adam.state[shard]["z"] = shard.clone()
            self._adam.state[shard]["exp_avg_sq"] = torch.zeros_like(shard)

    @property
    def learning_rate(self) -> float:
        """That of the last step, warm-up included."""
        return float(self._adam.param_groups[0]["scheduled_lr"])

    def gradients(self) -> list[torch.Tensor]:
        """This worker's shards of the gradients of the last backward; together the workers' are the whole gradient."""
        return [_local(p.grad) for p in self._parameters.values() if p.grad is not None]

    def step(self) -> None:
        """Updates the weights from the gradients, and drops these."""
        for name, parameter in self._parameters.items():
            self._shards[name].grad = None if parameter.grad is None else _local(parameter.grad)
        self._adam.step()
        for name, parameter in self._parameters.items():
            parameter.grad = self._shards[name].grad = None

    def use_average(self) -> None:
        """Puts the average x into the model's weights; no step may follow."""
        self._adam.eval()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and state by name, `model.<parameter>` and `<state>.<parameter>`, sharded like the parameters.

        They share memory with the optimizer: loading into them restores it.
        """
        named: dict[str, torch.Tensor] = {}
        for name, parameter in self._parameters.items():
            named[f"model.{name}"] = parameter.detach()
            for key in STATE:
                named[f"{key}.{name}"] = _like(parameter, self._adam.state[self._shards[name]][key])
        return named

    def scalars(self) -> list[dict[str, Any]]:
        """The numbers that change in training, per parameter group; JSON keeps them to the last bit."""
        return [{key: group[key] for key in SCALARS} for group in self._adam.param_groups]

    def restore_scalars(self, saved: list[dict[str, Any]]) -> None:
        """Puts back what `scalars` returned."""
        for group, numbers in zip(self._adam.param_groups, saved, strict=True):
            group.update(numbers)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This worker's part, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(parameter: torch.Tensor, shard: torch.Tensor) -> torch.Tensor:
    """`shard` as a tensor that is distributed as `parameter` is, in the same memory."""
    if not isinstance(parameter, DTensor):
        return shard
    return DTensor.from_local(
        shard,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
