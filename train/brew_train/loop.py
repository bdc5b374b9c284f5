"""The training run: stages in order, each step by step, committed on the way and exported at the end.

Owns: the control flow, the step's metrics, what a commit records. Does not own: processes (torchrun or
brew_train.launch start them), and runs without Ray. Everything random in a step is drawn from (seed, step, rank), so a
restart at the same number of workers repeats the lost steps bitwise and no generator's state need be saved.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brew_platform.errors import UserError
from brew_train.batches import BinOrder, BinOrderState, BinReader
from brew_train.checkpoint import Commits
from brew_train.config import TrainConfig
from brew_train.export import export
from brew_train.model import build_model, shard
from brew_train.optimizer import ScheduleFree
from brew_train.step import take_step
from brew_train.world import World

__all__ = ["EXPORT", "METRICS", "TrainResult", "require_bins", "train"]

logger = logging.getLogger(__name__)
EXPORT, METRICS, CHECKPOINTS = "export", "metrics.jsonl", "checkpoints"  # inside the run folder


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to; steps that were repeated after a loss count once."""

    export: Path  # Hugging Face folder with the averaged weights
    steps: int  # over all stages
    tokens: int  # real tokens trained on; there is no padding
    tokens_per_second: float  # tokens / seconds inside steps, all workers together
    seconds: float  # of this process from its start to its end, checkpoints and export included


@dataclass(kw_only=True)
class Progress:
    """How far the run is; a commit holds it, beside tensors and the optimizer's numbers."""

    stage: int = 0  # index into config.stages
    stage_step: int = 0  # steps done in that stage
    step: int = 0  # steps done over all stages
    tokens: int = 0
    step_seconds: float = 0.0  # spent inside steps

    def advance(self, *, tokens: int, seconds: float) -> None:
        """Counts one step."""
        self.stage_step += 1
        self.step += 1
        self.tokens += tokens
        self.step_seconds += seconds


def train(
    config: TrainConfig,
    *,
    bins: Mapping[str, Path],
    out: Path,
    vocabulary_size: int,
    context_length: int,
    world: World,
    on_step: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> TrainResult:
    """Trains all stages, or what is left of them, and exports the averaged weights.

    Args:
        config: the run's settings.
        bins: folder of packed bins for each stage, by its name.
        out: run folder, seen by all workers: `checkpoints/`, `metrics.jsonl`, `export/`.
        vocabulary_size: ids that the tokenizer can produce.
        context_length: tokens that the model reads.
        world: the workers that take part; their number may differ from that of an earlier attempt.
        on_step: called on rank 0 after each step, with the metrics that are also appended to `metrics.jsonl`.

    Raises:
        UserError: settings or bins that cannot work, or a loss that is no number.
        StorageError: a checkpoint could not be written.
    """
    began = time.perf_counter()
    config = replace(config, workers=world.size)  # may differ from what was asked for; refuses what they cannot share
    require_bins(config, bins)
    out.mkdir(parents=True, exist_ok=True)

    sizes = {"vocabulary_size": vocabulary_size, "context_length": context_length}
    model = world.on_all(lambda: build_model(config.model, seed=config.seed, **sizes))
    model = shard(model, world, reshard_after_forward=config.reshard_after_forward)
    model.train()
    commits = Commits(out / CHECKPOINTS, keep=config.keep_checkpoints, world=world)
    commit = commits.newest()
    progress = Progress(**commit.state["progress"]) if commit else Progress()
    if commit and commit.state["rng"] != config.seed:
        raise UserError(
            f"{out} was trained with seed {commit.state['rng']}, not {config.seed}: the order of the bins would change "
            f"half-way; restore train.seed, or choose a new run folder."
        )
    if progress.stage >= len(config.stages):
        raise UserError(
            f"{out} was trained for more stages than the {len(config.stages)} given now: restore train.stages, or "
            f"choose a new run folder."
        )

    total_steps = sum(stage.steps for stage in config.stages)
    for index in range(progress.stage, len(config.stages)):
        stage = config.stages[index]
        reader = world.on_all(partial(BinReader, bins[stage.name], **sizes))
        order = BinOrder(n_bins=reader.n_bins, plan_hash=reader.plan_hash, seed=config.seed)
        position = order.start()
        optimizer = ScheduleFree(model, stage)
        if commit is not None:
            commits.read(commit, optimizer.tensors())
            optimizer.restore_scalars(commit.state["optimizer"])
            position = BinOrderState(**commit.state["data"])
            logger.info("continuing stage %s after step %d from %s", stage.name, progress.step, commit.folder)
            commit = None
        else:
            progress.stage, progress.stage_step = index, 0

        while progress.stage_step < stage.steps:
            step_began = time.perf_counter()
            bin_ids, position = order.take(position, stage.bins_per_step)
            seed_step(config.seed, progress.step, world.rank)
            try:
                measured = take_step(model, optimizer, stage, reader, bin_ids, world)
            except UserError as error:
                raise UserError(f"stage {stage.name}, step {progress.step + 1}: {error}") from error
            seconds = time.perf_counter() - step_began
            progress.advance(tokens=measured["tokens"], seconds=seconds)
            if world.rank == 0:
                metrics = {
                    "stage": stage.name,
                    "step": progress.step,
                    "steps": total_steps,
                    **measured,
                    "learning_rate": optimizer.learning_rate,
                    "tokens_per_second": measured["tokens"] / seconds,
                    "seconds_left": (total_steps - progress.step) * progress.step_seconds / progress.step,
                }
                append_metrics(out / METRICS, metrics)
                on_step(metrics)
            if progress.stage_step % config.checkpoint_every == 0 or progress.stage_step == stage.steps:
                state = {
                    "progress": asdict(progress),
                    "data": position.as_dict(),
                    "rng": config.seed,
                    "optimizer": optimizer.scalars(),
                }
                commits.write(optimizer.tensors(), state, step=progress.step)

        optimizer.use_average()  # what the next stage starts from, or the export writes

    export(model, out / EXPORT, world)
    return TrainResult(
        export=out / EXPORT,
        steps=progress.step,
        tokens=progress.tokens,
        tokens_per_second=progress.tokens / progress.step_seconds,
        seconds=time.perf_counter() - began,
    )


def require_bins(config: TrainConfig, bins: Mapping[str, Path]) -> None:
    """Raises a UserError where a stage has no folder of bins."""
    missing = [stage.name for stage in config.stages if stage.name not in bins]
    if missing:
        raise UserError(f"no bins are given for stage {', '.join(missing)}: pass a folder for every stage.")


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch for one step of one worker: a pure function of its arguments."""
    (state,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state))


def append_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Adds one JSON line; a step that is repeated after a loss appears again, and its last line counts."""
    with path.open("a") as handle:
        handle.write(json.dumps(metrics) + "\n")
