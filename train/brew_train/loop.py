"""The training run: stages in order, each step by step, checkpointed on the way and exported at the end.

Owns: the control flow, and what a checkpoint records. Does not own: a stage's parts (brew_train.stage), what a metrics row
says (telemetry.step_metrics), or processes (torchrun or brew_train.ray_launcher start them), and runs without Ray. Everything random
in a step is drawn from (seed, step, rank), so a restart at the same number of workers repeats the lost steps bitwise
and no generator's state need be saved.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from brew_train.checkpoints.checkpointer import Checkpoint, Checkpointer
from brew_train.checkpoints.export import export
from brew_train.checkpoints.ledger import LedgerStep
from brew_train.checkpoints.manifest import CHECKPOINTS
from brew_train.checkpoints.run_lease import RunLease
from brew_train.config import TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.model.init_weights import materialize
from brew_train.model.model import build_model
from brew_train.model.sharding import shard
from brew_train.stage import RunningStage
from brew_train.telemetry.recorder import METRICS, Recorder, Sink
from brew_train.telemetry.step_metrics import StepMetrics
from brew_train.train_state import TrainState
from brew_train.validate import require

__all__ = ["BEST", "EXPORT", "METRICS", "MODEL", "TrainResult", "train"]

logger = logging.getLogger(__name__)
EXPORT, BEST, MODEL = "export", "best", "model"  # inside the run folder
CHECKPOINT_NOW = "checkpoint-now"  # a file of this name in the run folder asks for a checkpoint; it is removed by it


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to; steps that were repeated after a loss count once."""

    export: Path  # Hugging Face folder with the averaged weights
    steps: int  # over all stages
    tokens: int  # real tokens trained on; there is no padding
    tokens_per_second: float  # tokens / seconds inside steps, all workers together
    seconds: float  # of this process from its start to its end, checkpoints and export included


def train(
    config: TrainConfig,
    *,
    bins: Mapping[str, Path],
    out: Path,
    vocabulary_size: int,
    context_length: int,
    context: DistributedContext,
    evaluation: Mapping[str, Path] | None = None,
    sinks: Sequence[Sink] = (),
    notice: Callable[[], bool] = lambda: False,
    read_bins: bool = True,
    on_step: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> TrainResult:
    """Trains all stages, or what is left of them, and exports the averaged weights.

    Args:
        config: the run's settings.
        bins: folder of packed bins for each stage, by its name.
        out: run folder, seen by all workers (ARCHITECTURE.md lists what is in it).
        vocabulary_size: ids that the tokenizer can produce.
        context_length: tokens that the model reads.
        world: the workers that take part; their number may differ from that of an earlier attempt.
        evaluation: folder of bins for each stage that evaluates, by its name.
        sinks: on rank 0, where metrics rows go beside `metrics.jsonl`.
        notice: asked on every worker after each step; true once the worker learns that it will be taken away
            (preemption). The step is then checkpointed at once, and training goes on for as long as it can.
        read_bins: whether every bin is read before the first step; not where whoever starts this has done it.
        on_step: called on rank 0 after each step, with the metrics that are also appended to `metrics.jsonl`.

    Raises:
        UserError: settings or bins that cannot work, or a loss that is no number.
        StorageError: a checkpoint could not be written.
    """
    began = time.perf_counter()
    sharding = replace(config.sharding, replicas=context.replicas)
    config = replace(
        config, workers=context.size, min_workers=None, sharding=sharding
    )  # what is there, not what was asked
    evaluation = evaluation or {}
    sizes = {"vocabulary_size": vocabulary_size, "context_length": context_length}
    context.on_first(lambda: require(config, bins=bins, evaluation=evaluation, out=out, read_bins=read_bins, **sizes))
    context.on_first(partial(out.mkdir, parents=True, exist_ok=True))
    attempt = context.on_first(lambda: secrets.token_hex(4))
    writes = context.rank == 0
    lease = context.on_first(lambda: RunLease(out, attempt))
    with (
        Recorder(out, attempt=attempt, sinks=sinks, writes=writes) as recorder,
        Checkpointer(out / CHECKPOINTS, keep=config.keep_checkpoints, context=context, lease=lease) as checkpointer,
    ):
        recorder.event("attempt", workers=context.size, checked_seconds=time.perf_counter() - began)
        checkpoint = checkpointer.newest()
        model = context.on_all(lambda: build_model(config.model, **sizes))
        context.on_all(lambda: shard(model, context, sharding))
        context.on_all(lambda: materialize(model, config.model, context, seed=config.seed))
        model.train()
        context.on_first(lambda: model.lm.config.save_pretrained(out / MODEL))
        rows = StepMetrics(model, context, steps=sum(stage.steps for stage in config.stages))

        progress = TrainState(**checkpoint.state["progress"]) if checkpoint else TrainState()
        for index in range(progress.stage, len(config.stages)):
            stage = RunningStage(
                config, index, model=model, context=context, bins=bins, evaluation=evaluation, out=out, sizes=sizes,
                resume=(checkpointer, checkpoint) if checkpoint else None,
            )  # fmt: skip
            settings = stage.settings
            if checkpoint:
                checkpointer.keep_step(progress.best.get("step"))
                recorder.event("restored", step=progress.step, checkpoint=checkpoint.folder.name)
                logger.info(
                    "continuing stage %s after step %d from %s", settings.name, progress.step, checkpoint.folder
                )
            else:
                progress.enter(index)
            checkpoint = None
            ledger: list[LedgerStep] = []  # of the steps since the last checkpoint
            recorder.event("ready", stage=settings.name, step=progress.step,
                          checkpoint_blocked_seconds=checkpointer.take_blocked_seconds())  # fmt: skip

            while progress.stage_step < settings.steps:
                step_began = time.perf_counter()
                done, bin_ids = stage.step(progress.step, progress.mean_loss)
                seconds = time.perf_counter() - step_began
                progress.advance(done, seconds)
                ledger.append(LedgerStep(step=progress.step, stage=settings.name, bins=bin_ids, skipped=done.skipped))

                evaluation_began = time.perf_counter()
                evaluated = stage.evaluate() if progress.is_due(settings.evaluate_every, settings) else None
                best = progress.improves(evaluated)

                row = recorder.step(  # before the checkpoint: a step that is never repeated must not lack its row
                    rows.row(
                        stage, done, progress, seconds=seconds, blocked_seconds=checkpointer.take_blocked_seconds(),
                        evaluated=evaluated, evaluation_seconds=time.perf_counter() - evaluation_began,
                    )
                )  # fmt: skip
                if writes:
                    on_step(row)
                if done.skipped:
                    recorder.event("skipped", step=progress.step, bins=done.bad_bins, loss=done.loss)
                    progress.require_patience(settings)

                asked = context.any(notice() or (writes and (out / CHECKPOINT_NOW).exists()))
                if asked or best or progress.is_due(config.checkpoint_every, settings):
                    if best:
                        checkpointer.keep_step(progress.step)
                    checkpointer.begin(
                        stage.optimizer.tensors(),
                        {**stage.state(), "progress": asdict(progress)},
                        step=progress.step,
                        ledger=ledger,
                        then=partial(
                            _on_checkpoint_written, recorder=recorder, began=time.perf_counter(), hf_config=model.lm.config,
                            best=out / BEST / settings.name if best and config.export_best and writes else None,
                        ),
                    )  # fmt: skip
                    ledger = []
                if asked:
                    checkpointer.wait()
                    context.on_first(partial((out / CHECKPOINT_NOW).unlink, missing_ok=True))
                    recorder.event("noticed", step=progress.step)

            last = checkpointer.wait()
            stage.optimizer.use_average()  # what the next stage starts from

        assert last is not None  # every stage ends with a checkpoint
        export(last, model.lm.config, out / EXPORT, context)
        recorder.event("finished", step=progress.step, checkpoint_blocked_seconds=checkpointer.take_blocked_seconds())
    return TrainResult(
        export=out / EXPORT,
        steps=progress.step,
        tokens=progress.tokens,
        tokens_per_second=progress.tokens / progress.step_seconds,
        seconds=time.perf_counter() - began,
    )


def _on_checkpoint_written(
    checkpoint: Checkpoint, *, recorder: Recorder, began: float, hf_config: PretrainedConfig, best: Path | None
) -> None:
    """In the background, once a checkpoint exists: says so, and exports the best (rank 0 alone, while training goes on)."""
    recorder.event("checkpointed", step=checkpoint.step, background_seconds=time.perf_counter() - began)
    if best is not None:
        export(checkpoint, hf_config, best, DistributedContext(device=torch.device("cpu")))
