"""AdamW with a learning-rate schedule: cosine or constant, after a linear warm-up.

It keeps no average: the weights themselves are evaluated and exported.
"""

import math
from typing import Any

import torch

from brew_train.config import StageConfig
from brew_train.optim.base import Optimizer

__all__ = ["Scheduled", "scheduled_rate"]


class Scheduled(Optimizer):
    """AdamW with the learning rate of `scheduled_rate`."""

    states = ("exp_avg", "exp_avg_sq")
    average_weight = None

    def _build(self, groups: list[dict[str, Any]], stage: StageConfig) -> torch.optim.Optimizer:
        self._stage = stage
        self._steps_done = 0
        options: dict[str, Any] = {"lr": stage.learning_rate, "betas": (stage.beta1, stage.beta2)}
        try:
            return torch.optim.AdamW(groups, fused=True, **options)  # one pass over the memory: 5 times faster on CPU
        except RuntimeError:  # the device has no fused kernel
            return torch.optim.AdamW(groups, foreach=True, **options)

    def _init_state(self) -> None:
        for shard in self._shards.values():
            self._adam.state[shard]["step"] = torch.tensor(0.0, device=shard.device)  # the fused kernel reads it there
            for key in self.states:
                self._adam.state[shard][key] = torch.zeros_like(shard)

    @property
    def learning_rate(self) -> float:
        return float(self._adam.param_groups[0]["lr"])

    def step(self) -> None:
        self._steps_done += 1
        for group in self._adam.param_groups:
            group["lr"] = scheduled_rate(self._stage, self._steps_done)
        super().step()

    def scalars(self) -> list[dict[str, Any]]:
        return [{"done": self._steps_done, "lr": group["lr"]} for group in self._adam.param_groups]

    def restore_scalars(self, saved: list[dict[str, Any]]) -> None:
        for group, numbers in zip(self._adam.param_groups, saved, strict=True):
            group["lr"] = numbers["lr"]
        self._steps_done = saved[0]["done"]
        for shard in self._shards.values():
            self._adam.state[shard]["step"].fill_(float(self._steps_done))

    def use_average(self) -> None:
        pass

    def _put_average(self) -> None:
        pass


def scheduled_rate(stage: StageConfig, step: int) -> float:
    """Returns the learning rate of a step under the schedule cosine or constant, after a linear warm-up.

    Both end at `final_learning_rate` times `learning_rate` in the last step. Cosine falls from the end of the warm-up
    on. Constant falls linearly in the last `decay_share` of the steps, because the loss of a constant rate falls
    markedly when it is annealed (Hägele et al. 2024, arXiv:2405.18392); 360Brew §5 compares this schedule with cosine
    and schedule-free.

    Args:
        stage: schedule, learning rates and numbers of steps.
        step: number of the step in its stage, from 1.
    """
    if step <= stage.warmup_steps:
        return stage.learning_rate * step / stage.warmup_steps
    start = stage.warmup_steps
    if stage.schedule == "constant":
        start = max(start, stage.steps - round(stage.decay_share * stage.steps))
    if step <= start:
        return stage.learning_rate
    progress, floor = (step - start) / (stage.steps - start), stage.final_learning_rate
    left = 1 - progress if stage.schedule == "constant" else (1 + math.cos(math.pi * progress)) / 2
    return stage.learning_rate * (floor + (1 - floor) * left)
