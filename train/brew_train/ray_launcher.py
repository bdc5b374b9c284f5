"""Runs training on Ray Train: starts processes, restarts them after a loss, and reports metrics.

Needs Ray.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from brew_platform.errors import BrewError, first_cause
from brew_train.config import ModelShape, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.loop import TrainResult, train
from brew_train.run_context import RunContext
from brew_train.telemetry.prometheus import PrometheusSink
from brew_train.telemetry.recorder import METRICS, Recorder, Tail
from brew_train.validate import require

__all__ = ["run_on_ray"]

POLL_SECONDS = 0.2  # how often the metrics file is looked at; well under a step
HEALTH_SECONDS = "0.5"  # how often Ray Train looks for lost workers; its 2 s would be time lost by every failure
PLACE_SECONDS = "20"  # elastic: how long to wait for room for all workers, a lost node's too, before taking fewer
RESIZE_SECONDS = 10.0  # how often an elastic run looks for nodes that came back; a resize costs a restart


@dataclass(frozen=True, kw_only=True)
class Job:
    """Arguments of each worker; sent by pickle."""

    config: TrainConfig
    bins: Mapping[str, Path]
    evaluation: Mapping[str, Path]
    out: Path
    shape: ModelShape

    def run_context(self, distributed: DistributedContext, **options: Any) -> RunContext:
        """Returns the context of a process; `options` are other fields of it."""
        return RunContext(
            bins=self.bins,
            evaluation=self.evaluation,
            out=self.out,
            shape=self.shape,
            distributed=distributed,
            **options,
        )


def run_on_ray(
    config: TrainConfig,
    *,
    bins: Mapping[str, Path],
    out: Path,
    shape: ModelShape,
    evaluation: Mapping[str, Path] | None = None,
    on_metrics: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> TrainResult:
    """Trains on `config.workers` Ray workers, restarting after a lost worker from the last checkpoint in `out`.

    After the loss of the driver, call it again with the same arguments: the run continues from its checkpoint. Ray
    must be initialised; where its cluster has GPUs, each worker takes one. With `config.min_workers` the run is
    elastic: after a lost node it goes on with what is there, and grows again when nodes come back.

    Args:
        config: the run's settings.
        bins: folder of packed bins for each stage, by its name.
        out: run folder, seen by all nodes under the same path.
        shape: sizes that the data determine.
        evaluation: folder of bins for each stage that evaluates, by its name.
        on_metrics: called in a thread of this process with each step's metrics, as in `out/metrics.jsonl`; a step
            that is repeated after a loss is reported again.

    Raises:
        BrewError: the first cause on any worker, where it is one of ours; bins are checked before anything starts.
        ray.train.TrainingFailedError: workers failed otherwise, more than `config.max_failures` times.
    """
    out = out.resolve()
    if config.model.init_from is not None:
        config = replace(config, model=replace(config.model, init_from=str(Path(config.model.init_from).resolve())))
    job = Job(  # paths are absolute: workers run in a folder of Ray's
        config=config,
        bins={name: folder.resolve() for name, folder in bins.items()},
        evaluation={name: folder.resolve() for name, folder in (evaluation or {}).items()},
        out=out,
        shape=shape,
    )
    require(config, job.run_context(DistributedContext(device=torch.device("cpu"))))
    out.mkdir(parents=True, exist_ok=True)
    news = Recorder(out, attempt="driver")
    news.event("launch")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_SECONDS)
    gpu = ray.cluster_resources().get("GPU", 0) >= 1
    elastic = config.min_workers is not None
    if elastic:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", PLACE_SECONDS)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(config.min_workers, config.workers) if elastic else config.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})},
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        # gloo beside nccl: checkpoints move through the CPU
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        run_config=ray.train.RunConfig(
            # a new name each time: what continues is our own checkpoints, not Ray's record of an earlier attempt
            name=f"attempt-{secrets.token_hex(4)}",
            storage_path=str(out / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # Ray's log files still hold everything
        ),
    )
    with _following(out / METRICS, on_metrics):
        try:
            outcome = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise _cause(error) from error
        except (KeyboardInterrupt, SystemExit):  # the second is how Ray Train ends an interrupted `fit`
            news.event("stopped")
            raise
    if isinstance(outcome, BrewError):
        raise outcome
    assert isinstance(outcome, TrainResult)
    return outcome


def _work(arguments: dict[str, Any]) -> TrainResult | BrewError:
    """One worker. An error of ours is returned, not raised: Ray would only repeat what cannot succeed.

    All workers get the same error (`on_first` and `on_all` of DistributedContext), so no worker deadlocks.
    """
    job: Job = arguments["job"]
    torch.set_num_threads(1)  # each worker owns one core
    context = DistributedContext.current(replicas=job.config.sharding.replicas)
    try:
        sinks = [PrometheusSink(run=job.out.name)] if context.rank == 0 else []
        run = job.run_context(context, sinks=sinks, notice=Notice(), read_bins=False)  # the driver has read the bins
        return train(job.config, run)
    except BrewError as error:
        return error


class Notice:
    """True once for each preemption of this run's nodes that Ray hears of (a draining node)."""

    def __init__(self) -> None:
        self._known: Any = None

    def __call__(self) -> bool:
        info = ray.train.get_preemption_info()
        new = info is not None and info != self._known
        self._known = info
        return new


def _cause(error: Exception) -> BaseException:
    """The first cause of a failed run: Ray keeps the workers' exceptions by rank."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = first_cause(failure)
        if isinstance(cause, BrewError):
            return cause
    return first_cause(getattr(error, "controller_failure", error))


@contextlib.contextmanager
def _following(path: Path, on_metrics: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Calls `on_metrics` for each line added to `path` until the block ends, its last moment included."""
    done = threading.Event()
    tail = Tail(path, from_end=True)

    def follow() -> None:
        last = False
        while True:
            for row in tail.read():
                on_metrics(row)
            if last:
                return
            last = done.wait(POLL_SECONDS)

    thread = threading.Thread(target=follow, name="train-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
