"""The optimizers over sharded parameters: schedule-free AdamW, and AdamW with a learning-rate schedule.

Schedule-free (Defazio et al. 2024, arXiv:2405.15682) keeps three sequences: the fast iterate z, the average x, and y
between them, where gradients are taken. In training the model's weights are y; x = lerp(y, z, 1 - 1/beta1) is what is
evaluated, exported, and started from by the next stage. AdamW with a schedule (cosine, constant) has no average: its
weights themselves are. The paper compared the three (360Brew §5).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import schedulefree
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from brew_train.config import StageConfig

__all__ = ["Optimizer", "make_optimizer", "scheduled_rate"]


class Optimizer(ABC):
    """A fresh optimizer that starts at the weights `model` holds.

    Updates are elementwise, so they run on each worker's plain shards: going through DTensor's dispatch for every
    tensor and operation cost a tenth of the time of a small model's step.

    Args:
        model: its parameters may be FSDP2 shards; they are changed in place.
        stage: learning rate, warm-up, betas, decay.
    """

    states: tuple[str, ...]  # names of the tensors kept per parameter, float32, shaped and sharded like it
    average_weight: (
        float | None
    )  # w of the average x = lerp(weights, z, w); None where the weights are what is exported

    def __init__(self, model: nn.Module, stage: StageConfig) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._shards = {name: _local(p.detach()) for name, p in self._parameters.items()}
        matrices = [self._shards[name] for name, p in self._parameters.items() if p.ndim > 1]
        gains = [self._shards[name] for name, p in self._parameters.items() if p.ndim <= 1]
        self._adam = self._make(
            [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": gains, "weight_decay": 0.0}], stage
        )
        self._start_state()

    @abstractmethod
    def _make(self, groups: list[dict[str, Any]], stage: StageConfig) -> torch.optim.Optimizer:
        """The library's optimizer over plain tensors."""

    @abstractmethod
    def _start_state(self) -> None:
        """Makes the state that the library would only make in its first step.

        A restore before that would find nothing to fill, and drop what the checkpoint holds without a word.
        """

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """That of the last step, warm-up included."""

    @abstractmethod
    def scalars(self) -> list[dict[str, Any]]:
        """The numbers that change in training, per parameter group; JSON keeps them to the last bit."""

    @abstractmethod
    def restore_scalars(self, saved: list[dict[str, Any]]) -> None:
        """Puts back what `scalars` returned."""

    @abstractmethod
    def use_average(self) -> None:
        """Puts the average into the model's weights; no step may follow."""

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model holds the average inside the block, and afterwards its training weights again, bitwise.

        Costs a copy of this worker's shards for the time of the block.
        """
        training = {name: shard.clone() for name, shard in self._shards.items()}
        with torch.no_grad():
            self._put_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, shard in self._shards.items():
                    shard.copy_(training[name])

    @abstractmethod
    def _put_average(self) -> None:
        """As `use_average`, but leaves the optimizer ready for steps."""

    def gradients(self) -> list[torch.Tensor]:
        """This worker's shards of the gradients of the last backward; together the workers' are the whole gradient."""
        return [_local(p.grad) for p in self._parameters.values() if p.grad is not None]

    def step(self) -> None:
        """Updates the weights from the gradients, and drops these."""
        for name, parameter in self._parameters.items():
            self._shards[name].grad = None if parameter.grad is None else _local(parameter.grad)
        self._adam.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forgets the gradients of the last backward."""
        for name, parameter in self._parameters.items():
            parameter.grad = self._shards[name].grad = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and state by name, `model.<parameter>` and `<state>.<parameter>`, sharded like the parameters.

        They share memory with the optimizer: loading into them restores it.
        """
        named: dict[str, torch.Tensor] = {}
        for name, parameter in self._parameters.items():
            named[f"model.{name}"] = parameter.detach()
            for key in self.states:
                named[f"{key}.{name}"] = _like(parameter, self._adam.state[self._shards[name]][key])
        return named


class ScheduleFree(Optimizer):
    """Schedule-free AdamW, in training mode."""

    states = ("z", "exp_avg_sq")
    SCALARS = ("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode")

    def _make(self, groups: list[dict[str, Any]], stage: StageConfig) -> torch.optim.Optimizer:
        adam = schedulefree.AdamWScheduleFree(
            groups, lr=stage.learning_rate, betas=(stage.beta1, stage.beta2), warmup_steps=stage.warmup_steps
        )
        adam.train()
        self.average_weight = 1 - 1 / stage.beta1
        return adam

    def _start_state(self) -> None:
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
        self._adam.eval()  # type: ignore[attr-defined]  # schedulefree's own

    def _put_average(self) -> None:
        assert self.average_weight is not None
        for shard in self._shards.values():
            shard.lerp_(self._adam.state[shard]["z"], self.average_weight)


class Scheduled(Optimizer):
    """AdamW whose learning rate follows `scheduled_rate`."""

    states = ("exp_avg", "exp_avg_sq")
    average_weight = None

    def _make(self, groups: list[dict[str, Any]], stage: StageConfig) -> torch.optim.Optimizer:
        self._stage = stage
        self._done = 0  # steps
        return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(stage.beta1, stage.beta2))

    def _start_state(self) -> None:
        for shard in self._shards.values():
            self._adam.state[shard]["step"] = torch.tensor(0.0)
            for key in self.states:
                self._adam.state[shard][key] = torch.zeros_like(shard)

    @property
    def learning_rate(self) -> float:
        return float(self._adam.param_groups[0]["lr"])

    def step(self) -> None:
        self._done += 1
        for group in self._adam.param_groups:
            group["lr"] = scheduled_rate(self._stage, self._done)
        super().step()

    def scalars(self) -> list[dict[str, Any]]:
        return [{"done": self._done, "lr": group["lr"]} for group in self._adam.param_groups]

    def restore_scalars(self, saved: list[dict[str, Any]]) -> None:
        for group, numbers in zip(self._adam.param_groups, saved, strict=True):
            group["lr"] = numbers["lr"]
        self._done = saved[0]["done"]
        for shard in self._shards.values():
            self._adam.state[shard]["step"].fill_(float(self._done))

    def use_average(self) -> None:
        pass

    def _put_average(self) -> None:
        pass


def make_optimizer(model: nn.Module, stage: StageConfig) -> Optimizer:
    """The optimizer that `stage.schedule` names."""
    return (ScheduleFree if stage.schedule == "schedule_free" else Scheduled)(model, stage)


def scheduled_rate(stage: StageConfig, step: int) -> float:
    """The learning rate of step `step` (from 1) under cosine or constant, after the same linear warm-up.

    Cosine falls from `learning_rate` after the warm-up to `final_learning_rate` times it at the last step.
    """
    if step <= stage.warmup_steps:
        return stage.learning_rate * step / stage.warmup_steps
    if stage.schedule == "constant":
        return stage.learning_rate
    done = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    floor = stage.final_learning_rate
    return stage.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)


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
