"""Runs training on Ray Train: starts processes, restarts them after a lost worker, and reports metrics."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from brew_platform.console.logging import open_process_log
from brew_platform.errors import BrewError, first_cause
from brew_platform.polling import polled
from brew_platform.tracing import configure_tracing, current_span, shutdown_tracing, start_span
from brew_train.config import ModelShape, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.bin_folder import absolute
from brew_train.loop import TrainResult, train
from brew_train.run_context import RunContext
from brew_train.telemetry.prometheus import PrometheusSink
from brew_train.telemetry.recorder import METRICS, Recorder, Tail
from brew_train.validate import require

__all__ = ["run_on_ray", "scaling_config"]

POLL_SECONDS = 0.2  # interval of reading the metrics file; less than a step
HEALTH_SECONDS = "0.5"  # interval of Ray Train's health checks; with its default of 2 s, each failure loses more time
PLACE_SECONDS = "20"  # elastic: time to wait for resources for all workers, before a start with fewer
RESIZE_SECONDS = 10.0  # elastic: interval of checks for additional nodes; a resize is a restart


@dataclass(frozen=True, kw_only=True)
class Job:
    """Arguments of a worker; pickled by Ray."""

    config: TrainConfig
    bins: Mapping[str, Path | str]
    evaluation: Mapping[str, Path | str]
    out: Path
    shape: ModelShape
    end_token_ids: tuple[int, ...]
    traceparent: str  # of the driver's span; empty without tracing

    def run_context(self, distributed: DistributedContext, **options: Any) -> RunContext:
        """Returns the run context of a process; `options` are its other fields."""
        return RunContext(
            bins=self.bins,
            evaluation=self.evaluation,
            out=self.out,
            shape=self.shape,
            distributed=distributed,
            end_token_ids=self.end_token_ids,
            **options,
        )


def run_on_ray(
    config: TrainConfig,
    *,
    bins: Mapping[str, Path | str],
    out: Path,
    shape: ModelShape,
    evaluation: Mapping[str, Path | str] | None = None,
    end_token_ids: Sequence[int] = (),
    on_metrics: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> TrainResult:
    """Trains on `config.workers` Ray workers. After a lost worker, it restarts from the newest checkpoint in `out`.

    If the driver is lost, call this function again with the same arguments: the run continues from its checkpoint. Ray
    must be initialised. If its cluster has GPUs, each worker uses one. With `config.min_workers` the run is elastic: it
    continues on fewer workers after a lost node, and grows again when nodes are added.

    Args:
        config: settings of the run.
        bins: folder of packed bins for each stage, by stage name: a path, or `s3://bucket/folder`.
        out: run folder, visible to all nodes under the same path.
        shape: sizes that the data determine.
        evaluation: folder of bins for each stage that evaluates, by stage name.
        end_token_ids: tokens that end an answer, for generation_config.json of the exports.
        on_metrics: called in a thread of this process with each row of `out/metrics.jsonl`; a step that is repeated
            after a lost worker is reported again.

    Returns:
        The run summary.

    Raises:
        BrewError: settings or bins do not fit, or training failed on a worker with an error that a restart cannot fix.
        ray.train.TrainingFailedError: workers failed for another reason, more than `config.max_failures` times.
    """
    out = out.resolve()
    if config.model.init_from is not None:
        config = replace(config, model=replace(config.model, init_from=str(Path(config.model.init_from).resolve())))
    job = Job(  # absolute paths: Ray runs the workers in another folder
        config=config,
        bins={name: absolute(folder) for name, folder in bins.items()},
        evaluation={name: absolute(folder) for name, folder in (evaluation or {}).items()},
        out=out,
        shape=shape,
        end_token_ids=tuple(end_token_ids),
        traceparent=current_span().traceparent,
    )
    require(config, job.run_context(DistributedContext(device=torch.device("cpu"))))
    out.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(out, attempt="driver")
    recorder.event("launch")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_SECONDS)
    gpu = ray.cluster_resources().get("GPU", 0) >= 1
    if config.min_workers is not None:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", PLACE_SECONDS)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        scaling_config=scaling_config(config, gpu=gpu),
        # gloo besides nccl, because checkpoints use collectives on the CPU
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        run_config=ray.train.RunConfig(
            # a new name for each attempt: the run continues from its own checkpoints, not from Ray's state
            name=f"attempt-{secrets.token_hex(4)}",
            storage_path=str(out / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # for the console only
        ),
    )
    with _following(out / METRICS, on_metrics):
        try:
            outcome = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise _cause(error) from error
        except (KeyboardInterrupt, SystemExit):  # Ray Train raises SystemExit from an interrupted `fit`
            recorder.event("stopped")
            raise
    if isinstance(outcome, BrewError):
        raise outcome
    assert isinstance(outcome, TrainResult)
    return outcome


def scaling_config(config: TrainConfig, *, gpu: bool) -> ray.train.ScalingConfig:
    """Returns the workers that Ray Train places as a gang: their number, resources, and the labels of their nodes.

    Args:
        config: settings of the run.
        gpu: each worker takes a GPU.
    """
    return ray.train.ScalingConfig(
        num_workers=config.workers if config.min_workers is None else (config.min_workers, config.workers),
        use_gpu=gpu,
        resources_per_worker={"CPU": config.threads, **({"GPU": 1} if gpu else {})},
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        label_selector=dict(config.node_labels) or None,
    )


def _work(arguments: dict[str, Any]) -> TrainResult | BrewError:
    """Runs one worker. A BrewError is returned instead of raised, because Ray would restart a run that must fail again.

    All workers get the same error (`on_first` and `on_all` of DistributedContext), so no worker deadlocks.
    """
    job: Job = arguments["job"]
    torch.set_num_threads(job.config.threads)  # Ray sets 1
    context = DistributedContext.current(replicas=job.config.sharding.replicas)
    try:
        process = f"worker-{context.rank}"
        configure_tracing(process)
        with (
            open_process_log(job.out / "logs" / f"{process}.log", process=process),
            start_span("train", {"brew360.rank": context.rank}, parent=job.traceparent),
        ):
            sinks = [PrometheusSink(run=job.out.name)] if context.rank == 0 else []
            # the driver has read the bins
            run = job.run_context(context, sinks=sinks, notice=PreemptionNotice(), read_bins=False)
            return train(job.config, run)
    except BrewError as error:
        return error
    finally:
        shutdown_tracing()  # Ray may kill the worker as soon as it has returned


class PreemptionNotice:
    """Returns True once for each preemption of a node of this run that Ray reports (a draining node)."""

    def __init__(self) -> None:
        self._known: Any = None

    def __call__(self) -> bool:
        info = ray.train.get_preemption_info()
        new = info is not None and info != self._known
        self._known = info
        return new


def _cause(error: Exception) -> BaseException:
    """Returns the first cause of a failed run; Ray stores the exceptions of workers by rank."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = first_cause(failure)
        if isinstance(cause, BrewError):
            return cause
    return first_cause(getattr(error, "controller_failure", error))


def _following(path: Path, on_metrics: Callable[[dict[str, Any]], None]) -> AbstractContextManager[None]:
    """Calls `on_metrics` for each line that is appended to `path` until the end of the block."""
    tail = Tail(path, from_end=True)

    def read() -> None:
        for row in tail.read():
            on_metrics(row)

    return polled(read, seconds=POLL_SECONDS, name="train-metrics")
