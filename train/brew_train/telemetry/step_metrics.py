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
    """Computes the metrics rows of one run.

    Args:
        model: the model, whole or sharded; its size determines the MFU.
        context: the workers that share the tokens of a step.
        steps: number of steps of the run, over all stages.
    """

    def __init__(self, model: RankingLM, context: DistributedContext, *, steps: int) -> None:
        self._size = ModelSize.of(model.lm)
        self._peak = peak_flops(torch.cuda.get_device_name()) if context.device.type == "cuda" else None
        self._context, self._steps = context, steps

    def row(
        self,
        stage: RunningStage,
        result: StepResult,
        state: TrainState,
        *,
        seconds: float,
        blocked_seconds: float,
        evaluated: dict[str, float | None] | None,
        evaluation_seconds: float,
    ) -> dict[str, Any]:
        """Returns the metrics row of the last step; its fields are described in `recorder.MEASURES`.

        Args:
            stage: the stage that the step belongs to.
            result: result of the step.
            state: counters after the step.
            seconds: duration of the step.
            blocked_seconds: time that training waited for checkpoints since the previous row.
            evaluated: loss and measures on the evaluation bins; None without an evaluation after this step.
            evaluation_seconds: duration of the evaluation.
        """
        speed = result.tokens / seconds
        return {
            "stage": stage.settings.name,
            "step": state.step,
            "steps": self._steps,
            "loss": result.loss,
            **result.measures,
            "grad_norm": result.grad_norm,
            "skipped": result.skipped,
            "learning_rate": stage.optimizer.learning_rate,
            "tokens": result.tokens,
            "tokens_per_second": speed,
            "mfu": mfu(
                tokens_per_second=speed,
                flops_per_token=self._size.flops_per_token(result.document_length),
                peak=self._peak,
                devices=self._context.size,
            ),
            "memory_bytes": memory_bytes(self._context.device),
            "seconds": seconds,
            "data_wait_seconds": result.data_wait_seconds,
            "checkpoint_blocked_seconds": blocked_seconds,
            "evaluation": evaluated,
            "evaluation_seconds": evaluation_seconds if evaluated else 0.0,
            "seconds_left": (self._steps - state.step) * state.step_seconds / state.step,
        }


def memory_bytes(device: torch.device) -> int:
    """Returns the peak memory of this process in bytes: allocated on its GPU, or resident on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux returns KiB
