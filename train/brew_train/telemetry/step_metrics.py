"""The metrics row of one step. docs/observability.md explains each column."""

import resource
from typing import Any

import torch

from brew_train.distributed.context import DistributedContext
from brew_train.model.model import RankingLM
from brew_train.stage import RunningStage
from brew_train.step import StepResult
from brew_train.telemetry.flops import ModelSize, mfu, peak_flops
from brew_train.train_state import TrainState

__all__ = ["StepMetrics", "memory_bytes"]


class StepMetrics:
    """Makes the rows of one run.

    Args:
        model: whose arithmetic the MFU counts; whole or sharded.
        world: the workers that a step's tokens are divided among.
        steps: of the run, over all stages.
    """

    def __init__(self, model: RankingLM, context: DistributedContext, *, steps: int) -> None:
        self._size = ModelSize.of(model.lm)
        self._peak = peak_flops(torch.cuda.get_device_name()) if context.device.type == "cuda" else None
        self._world, self._steps = context, steps

    def row(
        self,
        stage: RunningStage,
        done: StepResult,
        state: TrainState,
        *,
        seconds: float,
        blocked_seconds: float,
        evaluated: dict[str, float | None] | None,
        evaluation_seconds: float,
    ) -> dict[str, Any]:
        """Of the step that `state` has just been advanced by.

        Args:
            seconds: inside the step.
            blocked_seconds: that training has waited for checkpoints since the row before.
            evaluated: the objective on held-out bins; None where this step does not evaluate.
            evaluation_seconds: that it took.
        """
        speed = done.tokens / seconds
        return {
            "stage": stage.settings.name,
            "step": state.step,
            "steps": self._steps,
            "loss": done.loss,
            **done.measures,
            "grad_norm": done.grad_norm,
            "skipped": done.skipped,
            "learning_rate": stage.optimizer.learning_rate,
            "tokens": done.tokens,
            "tokens_per_second": speed,
            "mfu": mfu(
                tokens_per_second=speed,
                flops_per_token=self._size.flops_per_token(done.document_length),
                peak=self._peak,
                devices=self._world.size,
            ),
            "memory_bytes": memory_bytes(self._world.device),
            "seconds": seconds,
            "data_wait_seconds": done.data_wait_seconds,
            "checkpoint_blocked_seconds": blocked_seconds,
            "evaluation": evaluated,
            "evaluation_seconds": evaluation_seconds if evaluated else 0.0,
            "seconds_left": (self._steps - state.step) * state.step_seconds / state.step,
        }


def memory_bytes(device: torch.device) -> int:
    """The most memory that this process ever held, in bytes: allocated on its GPU, or resident on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts it in KiB
