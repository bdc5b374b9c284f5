"""The training run: stages in order, a checkpoint at intervals, and an export at the end.

Runs without Ray: torchrun or `brew_train.ray_launcher` start the processes. All random numbers of a step are a function
of (seed, step, rank). On CPUs, steps that are repeated with the same number of workers are therefore bitwise identical.
On GPUs they agree up to rounding, because kernels add in an order that varies.
"""

import logging
import secrets
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from brew_platform.errors import UserError
from brew_train.checkpoints.checkpointer import Checkpoint, Checkpointer
from brew_train.checkpoints.export import export
from brew_train.checkpoints.export_template import ExportTemplate
from brew_train.checkpoints.ledger import LedgerStep
from brew_train.checkpoints.manifest import CHECKPOINTS
from brew_train.checkpoints.run_lease import RunLease
from brew_train.checkpoints.state import CheckpointState
from brew_train.config import TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model
from brew_train.model.sharding import compute_dtype, shard
from brew_train.run_context import RunContext
from brew_train.stage import RunningStage
from brew_train.telemetry.recorder import METRICS, Recorder
from brew_train.telemetry.step_metrics import StepMetrics
from brew_train.train_state import TrainState
from brew_train.validate import require

__all__ = ["BEST", "EXPORT", "METRICS", "MODEL", "TrainResult", "train"]

logger = logging.getLogger(__name__)
EXPORT, BEST, MODEL = "export", "best", "model"  # names in the run folder
CHECKPOINT_NOW = "checkpoint-now"  # a file of this name in the run folder requests a checkpoint, and is then removed


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Run summary; a step that was repeated after a lost worker counts once."""

    export: Path  # Hugging Face folder with the averaged weights
    steps: int  # over all stages
    tokens: int  # tokens trained on; there is no padding
    tokens_per_second: float  # tokens / seconds inside steps, all workers together
    seconds: float  # duration of this attempt, including checkpoints and export


def train(config: TrainConfig, run: RunContext) -> TrainResult:
    """Trains all stages, or those that are left, and exports the averaged weights.

    Args:
        config: settings of the run, the same on all workers.
        run: data, run folder, workers and callbacks.

    Returns:
        The run summary, on every worker.

    Raises:
        UserError: settings, bins or the checkpoint do not fit, or a loss, weights or optimizer state are not finite,
            or a loss explodes.
        DataError: bins are damaged.
        StorageError: a checkpoint could not be written.
    """
    if compute_dtype(config.precision, run.distributed.device) == torch.float32:
        return _train(config, run)
    with run.distributed.sharded() as context:  # FSDP2 computes in bfloat16; it needs a mesh also in a single process
        return _train(config, replace(run, distributed=context))


def _train(config: TrainConfig, run: RunContext) -> TrainResult:
    started = time.perf_counter()
    context = run.distributed
    sharding = replace(config.sharding, replicas=context.replicas)
    config = replace(config, workers=context.size, min_workers=None, sharding=sharding)  # the actual workers
    context.on_first(lambda: require(config, run))
    context.on_first(partial(run.out.mkdir, parents=True, exist_ok=True))
    attempt_id = context.on_first(lambda: secrets.token_hex(4))
    lease = context.on_first(lambda: RunLease(run.out, attempt_id))
    keep = config.keep_checkpoints
    with (
        Recorder(run.out, attempt=attempt_id, sinks=run.sinks, writes=run.is_first) as recorder,
        Checkpointer(run.out / CHECKPOINTS, keep=keep, context=context, lease=lease) as checkpointer,
    ):
        recorder.event("attempt", workers=context.size, checked_seconds=time.perf_counter() - started)
        checkpoint = checkpointer.newest()
        model = _build(config, run, continues=checkpoint is not None)
        state = CheckpointState.of(checkpoint).train_state if checkpoint else TrainState()
        metrics = StepMetrics(model, context, steps=sum(stage.steps for stage in config.stages))
        attempt = _Attempt(
            config=config, run=run, recorder=recorder, checkpointer=checkpointer, metrics=metrics, state=state
        )
        for index in range(state.stage, len(config.stages)):
            resume = (checkpointer, checkpoint) if checkpoint else None
            with closing(RunningStage(config, index, model=model, run=run, resume=resume)) as stage:
                if checkpoint:
                    checkpointer.keep_step(state.best.get("step"))
                    recorder.event("restored", step=state.step, checkpoint=checkpoint.folder.name)
                    logger.info("continuing stage %s after step %d from %s", stage.name, state.step, checkpoint.folder)
                else:
                    state.enter(index)
                last = attempt.train_stage(stage)
            checkpoint = None
        export(last, ExportTemplate.load(run.out / MODEL), run.out / EXPORT, context)
        recorder.event("finished", step=state.step, checkpoint_blocked_seconds=checkpointer.take_blocked_seconds())
    return TrainResult(
        export=run.out / EXPORT,
        steps=state.step,
        tokens=state.tokens,
        tokens_per_second=state.tokens / state.step_seconds,
        seconds=time.perf_counter() - started,
    )


@dataclass(kw_only=True)
class _Attempt:
    """One start of the workers: the steps of a stage, their metrics and their checkpoints."""

    config: TrainConfig
    run: RunContext
    recorder: Recorder
    checkpointer: Checkpointer
    metrics: StepMetrics
    state: TrainState
    ledger: list[LedgerStep] = field(default_factory=list)  # steps since the last checkpoint

    def train_stage(self, stage: RunningStage) -> Checkpoint:
        """Trains the remaining steps, and leaves the averaged weights in the model; returns the last checkpoint."""
        state, context = self.state, self.run.distributed
        self.recorder.event(
            "ready",
            stage=stage.name,
            step=state.step,
            checkpoint_blocked_seconds=self.checkpointer.take_blocked_seconds(),
        )
        request = self.run.out / CHECKPOINT_NOW
        while state.stage_step < stage.settings.steps:
            improved = self._take_step(stage)
            requested = context.any(self.run.notice() or (self.run.is_first and request.exists()))
            if requested or improved or state.is_due(self.config.checkpoint_every, stage.settings):
                self._write_checkpoint(stage, improved=improved)
            if requested:
                self.checkpointer.wait()
                context.on_first(partial(request.unlink, missing_ok=True))
                self.recorder.event("noticed", step=state.step)
        last = self.checkpointer.wait()
        assert last is not None  # every stage ends with a checkpoint
        stage.optimizer.use_average()  # the next stage starts from it
        return last

    def _take_step(self, stage: RunningStage) -> bool:
        """Trains, evaluates and records one step; returns whether its evaluation is the best of the stage."""
        state, settings = self.state, stage.settings
        step_started = time.perf_counter()
        try:
            result, bin_ids = stage.step(state.step, state.mean_loss)
        except UserError as error:
            raise UserError(f"{error} {self._describe_newest_checkpoint()}") from error
        seconds = time.perf_counter() - step_started
        state.advance(result, seconds)
        self.ledger.append(LedgerStep(step=state.step, stage=stage.name, bins=bin_ids, skipped=result.skipped))

        evaluation_started = time.perf_counter()
        evaluated = stage.evaluate() if state.is_due(settings.evaluate_every, settings) else None
        improved = state.improves(evaluated, plan_hash=stage.held_out.plan_hash if stage.held_out else None)
        row = self.recorder.step(  # before the checkpoint, because a step in a checkpoint is not repeated
            self.metrics.row(
                stage,
                result,
                state,
                seconds=seconds,
                blocked_seconds=self.checkpointer.take_blocked_seconds(),
                evaluated=evaluated,
                evaluation_seconds=time.perf_counter() - evaluation_started,
            )
        )
        if self.run.is_first:
            self.run.on_step(row)
        if result.skipped:
            self.recorder.event("skipped", step=state.step, bins=result.bad_bins, loss=result.loss)
            state.require_patience(settings)
        return improved

    def _describe_newest_checkpoint(self) -> str:
        """Waits for the checkpoint in progress, and returns a sentence about the newest complete one."""
        try:
            self.checkpointer.wait()
        except Exception as error:
            logger.warning("the checkpoint in progress was not completed: %s", error)
        newest = self.checkpointer.wait()
        return f"The newest checkpoint is that of step {newest.step}." if newest else "There is no checkpoint yet."

    def _write_checkpoint(self, stage: RunningStage, *, improved: bool) -> None:
        """Starts a checkpoint of this step."""
        if improved:
            self.checkpointer.keep_step(self.state.step)
        exports = improved and self.config.export_best and self.run.is_first
        self.checkpointer.begin(
            stage.optimizer.tensors(),
            stage.state(self.state).as_dict(),
            step=self.state.step,
            ledger=self.ledger,
            then=partial(
                self._on_checkpoint_written,
                started=time.perf_counter(),
                model=stage.model,
                best=self.run.out / BEST / stage.name if exports else None,
            ),
        )
        self.ledger = []

    def _on_checkpoint_written(
        self, checkpoint: Checkpoint, *, started: float, model: RankingLM, best: Path | None
    ) -> None:
        """Runs in the background thread: records the checkpoint, and exports the best weights on rank 0."""
        seconds = time.perf_counter() - started
        self.recorder.event("checkpointed", step=checkpoint.step, background_seconds=seconds)
        if best is not None:
            template = ExportTemplate.load(self.run.out / MODEL)
            export(checkpoint, template, best, DistributedContext(device=torch.device("cpu")))


def _build(config: TrainConfig, run: RunContext, *, continues: bool) -> RankingLM:
    """Returns the sharded model with its initial weights, and writes its config.json to the run folder.

    Raises:
        UserError: the run continues from a checkpoint, which was trained as another model.
    """
    context = run.distributed
    model = context.on_all(lambda: build_model(config.model, run.shape))
    base = None if config.model.init_from is None else Path(config.model.init_from)

    def write_template() -> None:
        template = ExportTemplate.of(
            model.lm.config, base=base, dtype=config.export_dtype, end_token_ids=run.end_token_ids
        )
        if continues and (changes := template.find_changes(run.out / MODEL)):
            name, (earlier, present) = next(iter(changes.items()))
            raise UserError(
                f"{run.out} was trained with {name}={earlier!r}, but train.model or its base now gives {present!r}, so "
                f"that its checkpoint does not fit this model: restore train.model, or choose a new run folder."
            )
        template.write(run.out / MODEL)

    context.on_first(write_template)
    context.on_all(lambda: shard(model, context, config.sharding, precision=config.precision))
    context.on_all(lambda: materialize(model, config.model, context, seed=config.seed))
    model.train()
    return model
