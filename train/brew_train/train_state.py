"""The counters of a run, which a checkpoint stores, and the decisions that depend on them."""

import math
from dataclasses import dataclass, field
from typing import Any

from brew_platform.errors import UserError
from brew_train.config import StageConfig
from brew_train.step import StepResult

__all__ = ["TrainState"]

MEAN_DECAY = 0.98  # decay of the running mean of losses: about the last 50 steps


@dataclass(kw_only=True)
class TrainState:
    """Counters of a run. A checkpoint stores them besides the tensors and the numbers of the optimizer."""

    stage: int = 0  # index into config.stages
    stage_step: int = 0  # steps done in that stage
    step: int = 0  # steps done over all stages
    tokens: int = 0
    step_seconds: float = 0.0  # total duration of the steps
    mean_loss: float | None = None  # running mean of the stage's losses
    skipped_in_a_row: int = 0
    best: dict[str, Any] = field(default_factory=dict)  # {step, loss, plan_hash} of the stage's best evaluation so far

    def enter(self, stage: int) -> None:
        """Resets the counters of the stage, at the start of the stage with this index."""
        self.stage, self.stage_step, self.mean_loss, self.skipped_in_a_row, self.best = stage, 0, None, 0, {}

    def advance(self, result: StepResult, seconds: float) -> None:
        """Counts one step.

        Args:
            result: result of the step.
            seconds: duration of the step.
        """
        self.stage_step += 1
        self.step += 1
        self.tokens += result.tokens
        self.step_seconds += seconds
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if result.skipped else 0
        if not result.skipped and result.loss is not None:
            mean = result.loss if self.mean_loss is None else self.mean_loss
            self.mean_loss = MEAN_DECAY * mean + (1 - MEAN_DECAY) * result.loss

    def improves(self, evaluated: dict[str, float | None] | None, *, plan_hash: str | None) -> bool:
        """Returns whether an evaluation is the best of the stage so far, and stores it in `best` if it is.

        An evaluation on other bins, before the run was continued, does not count: its loss cannot be compared.

        Args:
            evaluated: result of the evaluation; None without an evaluation.
            plan_hash: of the evaluation bins; None without an evaluation.
        """
        loss = evaluated["loss"] if evaluated else None
        best = self.best.get("loss", math.inf) if self.best.get("plan_hash") == plan_hash else math.inf
        if loss is None or not loss < best:  # false for a NaN
            return False
        self.best = {"step": self.step, "loss": loss, "plan_hash": plan_hash}
        return True

    def is_due(self, interval: int, stage: StageConfig) -> bool:
        """Returns whether an action is due after this step.

        Args:
            interval: steps of the stage between two actions; the end of the stage is always due. 0: never due.
            stage: the current stage.
        """
        return interval > 0 and (self.stage_step % interval == 0 or self.stage_step == stage.steps)

    def require_patience(self, stage: StageConfig) -> None:
        """Raises a UserError after more skipped steps in a row than `stage.max_skipped`."""
        if self.skipped_in_a_row > stage.max_skipped:
            raise UserError(
                f"stage {stage.name}: the last {self.skipped_in_a_row} steps, up to {self.step}, were skipped, more "
                f"than max_skipped={stage.max_skipped}: lower learning_rate, or inspect the bins that events.jsonl in "
                f"the run folder lists."
            )
