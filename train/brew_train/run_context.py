"""The arguments of a training run besides its settings: data, run folder, workers and callbacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brew_train.config import ModelShape
from brew_train.distributed.context import DistributedContext
from brew_train.telemetry.recorder import Sink

__all__ = ["ModelShape", "RunContext"]


def _no_notice() -> bool:
    return False


def _ignore(row: dict[str, Any]) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Data, run folder, workers and callbacks of a run.

    Args:
        bins: folder of packed bins for each stage, by stage name: a path, or `s3://bucket/folder`.
        out: run folder, visible to all workers; docs/training.md lists its content.
        shape: sizes that the data determine.
        distributed: the workers; their number may differ from that of an earlier attempt.
        evaluation: folder of bins for each stage that evaluates, by stage name.
        sinks: receive the metrics rows on rank 0, besides `metrics.jsonl`.
        notice: called on every worker after each step; returns True once when the worker learns of its preemption. The
            run then writes a checkpoint at once and continues.
        read_bins: whether every bin is read before the first step; False if the caller has done it.
        on_step: called on rank 0 after each step with the row of `metrics.jsonl`.
        end_token_ids: tokens that end an answer; the exports' generation_config.json has them.
    """

    bins: Mapping[str, Path | str]
    out: Path
    shape: ModelShape
    distributed: DistributedContext
    evaluation: Mapping[str, Path | str] = field(default_factory=dict)
    sinks: Sequence[Sink] = ()
    notice: Callable[[], bool] = _no_notice
    read_bins: bool = True
    on_step: Callable[[dict[str, Any]], None] = _ignore
    end_token_ids: Sequence[int] = ()

    @property
    def is_first(self) -> bool:
        """Whether this process is rank 0, which writes the files that all workers share."""
        return self.distributed.rank == 0
