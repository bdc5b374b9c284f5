"""Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682).

It keeps three sequences: the iterate z, the average x, and y between them, where gradients are computed. During
training the model's weights are y. Evaluation, export and the next stage use x = lerp(y, z, 1 - 1/beta1).
"""

from typing import Any

import schedulefree
import torch

from brew_train.config import StageConfig
from brew_train.optim.base import Optimizer

__all__ = ["ScheduleFree"]


class ScheduleFree(Optimizer):
    """Schedule-free AdamW in training mode, with a linear warm-up."""

    states = ("z", "exp_avg_sq")
    SCALARS = ("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode")

    def _build(self, groups: list[dict[str, Any]], stage: StageConfig) -> torch.optim.Optimizer:
        adam = schedulefree.AdamWScheduleFree(
            groups, lr=stage.learning_rate, betas=(stage.beta1, stage.beta2), warmup_steps=stage.warmup_steps
        )
        adam.train()
        self.average_weight = 1 - 1 / stage.beta1
        return adam

    def _init_state(self) -> None:
        for shard in self._shards.values():
            self._adam.state[shard]["z"] = shard.clone()
            self._adam.state[shard]["exp_avg_sq"] = torch.zeros_like(shard)

    @property
    def learning_rate(self) -> float:
        return float(self._adam.param_groups[0]["scheduled_lr"])

    def scalars(self) -> list[dict[str, Any]]:
        return [{key: group[key] for key in self.SCALARS} for group in self._adam.param_groups]

    def restore_scalars(self, saved: list[dict[str, Any]]) -> None:
        for group, numbers in zip(self._adam.param_groups, saved, strict=True):
            group.update(numbers)

    def use_average(self) -> None:
        self._adam.eval()  # type: ignore[attr-defined]  # a method of schedulefree's class

    def _put_average(self) -> None:
        assert self.average_weight is not None
        for shard in self._shards.values():
            shard.lerp_(self._adam.state[shard]["z"], self.average_weight)
