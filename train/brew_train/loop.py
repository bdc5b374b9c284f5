"""The training run: stages in order, each step by step, committed on the way and exported at the end.

Owns: the control flow, and what a commit records. Does not own: a stage's parts (brew_train.stage), what a metrics row
says (metrics.rows), or processes (torchrun or brew_train.ray_launcher start them), and runs without Ray. Everything random
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

from brew_train.checkpoints.checkpointer import Commit, Commits
from brew_train.checkpoints.export import export
from brew_train.checkpoints.ledger import LedgerStep
from brew_train.checkpoints.manifest import CHECKPOINTS
from brew_train.checkpoints.run_lease import Claim
from brew_train.config import TrainConfig
from brew_train.distributed.context import World
from brew_train.model.init_weights import materialize
from brew_train.model.model import build_model
from brew_train.model.sharding import shard
from brew_train.stage import RunningStage
from brew_train.telemetry.recorder import METRICS, Monitor, Sink
from brew_train.telemetry.step_metrics import StepRows
from brew_train.train_state import Progress
from brew_train.validate import require

__all__ = ["BEST", "EXPORT", "METRICS", "MODEL", "TrainResult", "train"]

logger = logging.getLogger(__name__)
EXPORT, BEST, MODEL = "export", "best", "model"  # inside the run folder
COMMIT_NOW = "checkpoint-now"  # a file of this name in the run folder asks for a commit; it is removed by it


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
    world: World,
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
            (preemption). The step is then committed at once, and training goes on for as long as it can.
        read_bins: whether every bin is read before the first step; not where whoever starts this has done it.
        on_step: called on rank 0 after each step, with the metrics that are also appended to `metrics.jsonl`.

    Raises:
        UserError: settings or bins that cannot work, or a loss that is no number.
        StorageError: a checkpoint could not be written.
    """
    began = time.perf_counter()
    sharding = replace(config.sharding, replicas=world.replicas)
    config = replace(
        config, workers=world.size, min_workers=None, sharding=sharding
    )  # what is there, not what was asked
    evaluation = evaluation or {}
    sizes = {"vocabulary_size": vocabulary_size, "context_length": context_length}
    world.on_first(lambda: require(config, bins=bins, evaluation=evaluation, out=out, read_bins=read_bins, **sizes))
    world.on_first(partial(out.mkdir, parents=True, exist_ok=True))
    attempt = world.on_first(lambda: secrets.token_hex(4))
    writes = world.rank == 0
    claim = world.on_first(lambda: Claim(out, attempt))
    with (
        Monitor(out, attempt=attempt, sinks=sinks, writes=writes) as monitor,
        Commits(out / CHECKPOINTS, keep=config.keep_checkpoints, world=world, claim=claim) as commits,
    ):
        monitor.event("attempt", workers=world.size, checked_seconds=time.perf_counter() - began)
        commit = commits.newest()
        model = world.on_all(lambda: build_model(config.model, **sizes))
        world.on_all(lambda: shard(model, world, sharding))
        world.on_all(lambda: materialize(model, config.model, world, seed=config.seed))
        model.train()
        world.on_first(lambda: model.lm.config.save_pretrained(out / MODEL))
        rows = StepRows(model, world, steps=sum(stage.steps for stage in config.stages))

        progress = Progress(**commit.state["progress"]) if commit else Progress()
        for index in range(progress.stage, len(config.stages)):
            stage = RunningStage(
                config, index, model=model, world=world, bins=bins, evaluation=evaluation, out=out, sizes=sizes,
                resume=(commits, commit) if commit else None,
            )  # fmt: skip
            settings = stage.settings
            if commit:
                commits.keep_step(progress.best.get("step"))
                monitor.event("restored", step=progress.step, commit=commit.folder.name)
                logger.info("continuing stage %s after step %d from %s", settings.name, progress.step, commit.folder)
            else:
                progress.enter(index)
            commit = None
            ledger: list[LedgerStep] = []  # of the steps since the last commit
            monitor.event("ready", stage=settings.name, step=progress.step,
                          checkpoint_blocked_seconds=commits.take_blocked_seconds())  # fmt: skip

            while progress.stage_step < settings.steps:
                step_began = time.perf_counter()
                done, bin_ids = stage.step(progress.step, progress.mean_loss)
                seconds = time.perf_counter() - step_began
                progress.advance(done, seconds)
                ledger.append(LedgerStep(step=progress.step, stage=settings.name, bins=bin_ids, skipped=done.skipped))

                evaluation_began = time.perf_counter()
                evaluated = stage.evaluate() if progress.is_due(settings.evaluate_every, settings) else None
                best = progress.improves(evaluated)

                row = monitor.step(  # before the commit: a step that is never repeated must not lack its row
                    rows.row(
                        stage, done, progress, seconds=seconds, blocked_seconds=commits.take_blocked_seconds(),
                        evaluated=evaluated, evaluation_seconds=time.perf_counter() - evaluation_began,
                    )
                )  # fmt: skip
                if writes:
                    on_step(row)
                if done.skipped:
                    monitor.event("skipped", step=progress.step, bins=done.bad_bins, loss=done.loss)
                    progress.require_patience(settings)

                asked = world.any(notice() or (writes and (out / COMMIT_NOW).exists()))
                if asked or best or progress.is_due(config.checkpoint_every, settings):
                    if best:
                        commits.keep_step(progress.step)
                    commits.begin(
                        stage.optimizer.tensors(),
                        {**stage.state(), "progress": asdict(progress)},
                        step=progress.step,
                        ledger=ledger,
                        then=partial(
                            _committed, monitor=monitor, began=time.perf_counter(), hf_config=model.lm.config,
                            best=out / BEST / settings.name if best and config.export_best and writes else None,
                        ),
                    )  # fmt: skip
                    ledger = []
                if asked:
                    commits.wait()
                    world.on_first(partial((out / COMMIT_NOW).unlink, missing_ok=True))
                    monitor.event("noticed", step=progress.step)

            last = commits.wait()
            stage.optimizer.use_average()  # what the next stage starts from

        assert last is not None  # every stage ends with a commit
        export(last, model.lm.config, out / EXPORT, world)
        monitor.event("finished", step=progress.step, checkpoint_blocked_seconds=commits.take_blocked_seconds())
    return TrainResult(
        export=out / EXPORT,
        steps=progress.step,
        tokens=progress.tokens,
        tokens_per_second=progress.tokens / progress.step_seconds,
        seconds=time.perf_counter() - began,
    )


def _committed(
    commit: Commit, *, monitor: Monitor, began: float, hf_config: PretrainedConfig, best: Path | None
) -> None:
    """In the background, once a commit exists: says so, and exports the best (rank 0 alone, while training goes on)."""
    monitor.event("committed", step=commit.step, background_seconds=time.perf_counter() - began)
    if best is not None:
        export(commit, hf_config, best, World(device=torch.device("cpu")))
