"""The interface of the optimizers, and their common work on sharded parameters."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from brew_train.config import StageConfig

__all__ = ["Optimizer"]


class Optimizer(ABC):
    """A new optimizer of the weights that `model` holds.

    Updates are elementwise, so they run on the plain shards of each worker. DTensor's dispatch of every tensor and
    operation takes a tenth of the step time of a small model.

    Args:
        model: its parameters may be FSDP2 shards; they are changed in place.
        stage: learning rate, warm-up, betas and weight decay.
    """

    states: tuple[str, ...]  # names of the tensors per parameter: float32, same shape and sharding as the parameter
    average_weight: float | None  # w of the average x = lerp(weights, z, w); None: the weights themselves are exported

    def __init__(self, model: nn.Module, stage: StageConfig) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
        self._shards = {name: _local(p.detach()) for name, p in self._parameters.items()}
        matrices = [self._shards[name] for name, p in self._parameters.items() if p.ndim > 1]
        gains = [self._shards[name] for name, p in self._parameters.items() if p.ndim <= 1]
        self._adam = self._build(
            [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": gains, "weight_decay": 0.0}], stage
        )
        self._init_state()

    @abstractmethod
    def _build(self, groups: list[dict[str, Any]], stage: StageConfig) -> torch.optim.Optimizer:
        """Returns the library's optimizer of plain tensors."""

    @abstractmethod
    def _init_state(self) -> None:
        """Creates the state that the library creates in its first step.

        A restore before the first step needs it: without these tensors, the checkpoint's values would be dropped
        silently.
        """

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """Learning rate of the last step, including the warm-up."""

    @abstractmethod
    def scalars(self) -> list[dict[str, Any]]:
        """Returns the numbers that change in training, one mapping per parameter group; JSON stores them exactly."""

    @abstractmethod
    def restore_scalars(self, saved: list[dict[str, Any]]) -> None:
        """Restores what `scalars` returned."""

    @abstractmethod
    def use_average(self) -> None:
        """Replaces the weights of the model by their average; no step may follow."""

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replaces the weights of the model by their average inside the block, and restores them bitwise afterwards.

        Needs memory for a copy of this worker's shards.
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
        """Replaces the weights as `use_average` does, but does not change the state of the optimizer."""

    def gradients(self) -> list[torch.Tensor]:
        """Returns this worker's shards of the gradients of the last backward pass."""
        return [_local(p.grad) for p in self._parameters.values() if p.grad is not None]

    def step(self) -> None:
        """Updates the weights from the gradients, and drops the gradients."""
        for name, parameter in self._parameters.items():
            self._shards[name].grad = None if parameter.grad is None else _local(parameter.grad)
        self._adam.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Drops the gradients of the last backward pass."""
        for name, parameter in self._parameters.items():
            parameter.grad = self._shards[name].grad = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns the weights `model.<parameter>` and the state `<state>.<parameter>`, sharded like the parameters.

        Frozen parameters have no state. The tensors share memory with the optimizer, so writing to them restores it.
        """
        named = {f"model.{name}": parameter.detach() for name, parameter in self._frozen.items()}
        for name, parameter in self._parameters.items():
            named[f"model.{name}"] = parameter.detach()
            for key in self.states:
                named[f"{key}.{name}"] = _like(parameter, self._adam.state[self._shards[name]][key])
        return named


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Returns this worker's shard of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(parameter: torch.Tensor, shard: torch.Tensor) -> torch.Tensor:
    """Returns `shard` as a tensor with the placement of `parameter`, in the same memory."""
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
