"""The trials of a mix search: small models that Ray Tune trains on mixes, and their losses on validation sets.

A trial packs the documents of a mix, trains a model on them, and measures it after equal numbers of steps. Its losses
are kept in its folder, so a search that is interrupted continues within a trial.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from ray import tune

from brew_cluster.jobs.mix_search_config import MixSearchConfig
from brew_data.corpora.config import CorpusConfig
from brew_data.pipelines.corpus_bins import CompiledCorpus
from brew_platform.console.progress import PhaseProgress
from brew_platform.errors import BrewError, ConfigError, UserError, first_cause
from brew_platform.files import replace_atomically
from brew_platform.polling import polled
from brew_train.config import ModelConfig, ModelShape, ShardingConfig, StageConfig, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.evaluation import evaluate
from brew_train.inputs.bin_reader import BinReader
from brew_train.loop import train
from brew_train.model.init_weights import materialize
from brew_train.model.model import build_model
from brew_train.model.sharding import compute_dtype, shard
from brew_train.run_context import RunContext

__all__ = ["MixSearch", "run_trials", "tokens_between"]

TRIALS, LOSSES = "trials", "losses.json"
ANSWERS = StageConfig(name="validation", objective={"name": "next_token", "prompt_weight": 0.0})
POLL_SECONDS = 1.0


class MixSearch(NamedTuple):
    """What all trials share."""

    config: MixSearchConfig
    corpus: CorpusConfig
    compiled: CompiledCorpus
    validation: dict[str, Path]  # folder of bins of each validation set
    sources: list[str]
    mixes: list[list[float]]  # shares in the order of the sources
    shape: ModelShape
    out: Path

    def folder(self, mix: int, size: int) -> Path:
        """The folder of a trial."""
        return self.out / TRIALS / f"mix-{mix:04d}-size-{size}"


def run_trials(
    search: MixSearch, points: Sequence[tuple[int, int]], name: str, progress: PhaseProgress
) -> dict[tuple[int, int], list[dict[str, float]]]:
    """Run the trials of mixes and sizes with Ray Tune, or those that are left.

    Returns:
        By mix and size: at each measurement, the loss of each validation set.
    """
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # an interrupt ends the command, which continues next time
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # which prints also when verbose is 0
    cluster, threads = ray.cluster_resources(), search.config.threads
    if threads > cluster["CPU"]:
        raise UserError(f"threads is {threads}, but Ray has {cluster['CPU']:g} CPUs. Lower threads.")
    gpu = cluster.get("GPU", 0) >= 1
    trainable = tune.with_resources(
        tune.with_parameters(_run_trial, search=search),
        {"CPU": threads, **({"GPU": 1} if gpu else {})},
    )
    folder = search.out / name
    if tune.Tuner.can_restore(folder):
        tuner = tune.Tuner.restore(str(folder), trainable, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"point": tune.grid_search([list(point) for point in points])},
            tune_config=tune.TuneConfig(max_concurrent_trials=search.config.concurrent, reuse_actors=True),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(search.out),
                failure_config=tune.FailureConfig(fail_fast=True),
                verbose=0,
            ),
        )
    with _following([search.folder(*point) / LOSSES for point in points], progress):
        results = tuner.fit()
    for error in results.errors:
        cause = first_cause(error)
        raise (
            cause
            if isinstance(cause, BrewError)
            else BrewError(
                f"a trial of the search failed: {cause}. Run the same command again to continue; "
                f"{search.out / 'logs'} has the details."
            )
        ) from error
    return {tuple(result.config["point"]): result.metrics["losses"] for result in results}


def _run_trial(parameters: Mapping[str, Any], *, search: MixSearch) -> None:
    """Train a model on a mix, or what is left of it, and report its losses; Ray Tune calls it in a worker process."""
    config, (mix, size) = search.config, parameters["point"]
    folder = search.folder(mix, size)
    bins, run = folder / "bins", folder / "run"
    losses = _read_losses(folder / LOSSES)
    torch.set_num_threads(config.threads)  # Ray sets 1
    context = DistributedContext.current()
    if len(losses) < config.measurements:
        weighted = {
            name: replace(search.corpus.sources[name], weight=share)
            for name, share in zip(search.sources, search.mixes[mix], strict=True)
        }
        search.compiled.pack_mix(replace(search.corpus, sources=weighted, tokens=config.tokens), bins)
    steps = _steps(config, search.shape)
    for number in range(len(losses), config.measurements):  # a run with more steps continues the one with fewer
        settings = TrainConfig(
            model=config.sizes[size],
            stages=[replace(config.stage, steps=(number + 1) * steps, evaluate_every=0)],
            workers=1,
            threads=config.threads,
            seed=config.seed,
            checkpoint_every=steps,
            keep_checkpoints=1,
        )
        result = train(
            settings, RunContext(bins={config.stage.name: bins}, out=run, shape=search.shape, distributed=context)
        )
        losses.append(_validation_losses(result.export, search, context))
        replace_atomically(folder / LOSSES, json.dumps(losses))
    for path in (bins, run):
        shutil.rmtree(path, ignore_errors=True)
    tune.report({"losses": losses})


def _validation_losses(export: Path, search: MixSearch, context: DistributedContext) -> dict[str, float]:
    """Return the loss of an exported model on the answers of each validation set, in nats per token."""
    config = ModelConfig(init_from=str(export))
    is_sharded = compute_dtype("auto", context.device) != torch.float32  # as in training
    with context.sharded() if is_sharded else nullcontext(context) as workers:
        model = build_model(config, search.shape)
        shard(model, workers, ShardingConfig())
        materialize(model, config, workers, seed=0)
        losses = {
            name: evaluate(model, ANSWERS, BinReader(folder, search.shape), workers)["answer_loss"]
            for name, folder in search.validation.items()
        }
    return {name: float(loss) for name, loss in losses.items() if loss is not None}


def _read_losses(file: Path) -> list[dict[str, float]]:
    return json.loads(file.read_text()) if file.is_file() else []


def _following(files: Sequence[Path], progress: PhaseProgress) -> AbstractContextManager[None]:
    """Show the number of measurements in the files of the trials.

    A callback of Tune would not do: a restored Tuner has a copy of the callbacks of the process that ended.
    """

    def read() -> None:
        progress.update(sum(len(_read_losses(file)) for file in files))

    return polled(read, seconds=POLL_SECONDS, name="mix-search")


def tokens_between(config: MixSearchConfig, shape: ModelShape) -> int:
    """Return the number of tokens that a model is trained on between two measurements.

    Raises:
        ConfigError: They are less than a step.
    """
    return _steps(config, shape) * _tokens_per_step(config, shape)


def _tokens_per_step(config: MixSearchConfig, shape: ModelShape) -> int:
    return config.stage.bins_per_step * shape.context_length


def _steps(config: MixSearchConfig, shape: ModelShape) -> int:
    """Return the number of steps between two measurements."""
    steps = config.tokens // (config.measurements * _tokens_per_step(config, shape))
    if not steps:
        raise ConfigError(
            f"tokens is {config.tokens:,}, but {config.measurements} measurements after a step of "
            f"{_tokens_per_step(config, shape):,} tokens each need more. Raise tokens."
        )
    return steps
