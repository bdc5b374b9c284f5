"""The counters of a run, which a checkpoint stores, and the decisions that depend on them."""

from dataclasses import dataclass, field
from typing import Any

from brew_platform.errors import UserError
from brew_train.config import StageConfig
from brew_train.step import StepResult

__all__ = ["TrainState"]

MEAN_DECAY = 0.98  # of the running mean of losses: about the last 50 steps


@dataclass(kw_only=True)
class TrainState:
    """How far the run is; a checkpoint holds it, beside tensors and the optimizer's numbers."""

    stage: int = 0  # index into config.stages
    stage_step: int = 0  # steps done in that stage
    step: int = 0  # steps done over all stages
    tokens: int = 0
    step_seconds: float = 0.0  # spent inside steps
    mean_loss: float | None = None  # running mean of the stage's losses
    skipped_in_a_row: int = 0
    best: dict[str, Any] = field(default_factory=dict)  # of the stage: {step, loss} of its best evaluation so far

    def enter(self, stage: int) -> None:
        """Begins a stage."""
        self.stage, self.stage_step, self.mean_loss, self.skipped_in_a_row, self.best = stage, 0, None, 0, {}

    def advance(self, done: StepResult, seconds: float) -> None:
        """Counts one step."""
        self.stage_step += 1
        self.step += 1
        self.tokens += done.tokens
        self.step_seconds += seconds
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if done.skipped else 0
        if not done.skipped and done.loss is not None:
            mean = done.loss if self.mean_loss is None else self.mean_loss
            self.mean_loss = MEAN_DECAY * mean + (1 - MEAN_DECAY) * done.loss

    def improves(self, evaluated: dict[str, float | None] | None) -> bool:
        """Whether an evaluation is the stage's best so far; if so, it is noted as that."""
        loss = evaluated["loss"] if evaluated else None
        if loss is None or not loss < self.best.get("loss", float("inf")):  # so a loss that is not finite is none
            return False
        self.best = {"step": self.step, "loss": loss}
        return True

    def is_due(self, every: int, stage: StageConfig) -> bool:
        """Whether something that happens every `every` steps of a stage, and at its end, happens now; 0 is never."""
        return every > 0 and (self.stage_step % every == 0 or self.stage_step == stage.steps)

    def require_patience(self, stage: StageConfig) -> None:
        """Raises a UserError after more skipped steps in a row than the stage bears."""
        if self.skipped_in_a_row > stage.max_skipped:
            raise UserError(
                f"stage {stage.name}: the last {self.skipped_in_a_row} steps, up to {self.step}, were skipped, more "
                f"than max_skipped={stage.max_skipped}: lower learning_rate, or look at the bins that events.jsonl in "
                f"the run folder names."
            )
