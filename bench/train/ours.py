"""Contender: the product's own training run (`brew_train.loop.train`), as its users start it.

All features of a run are enabled: metrics, TensorBoard, ledger, checkpoints. Without torchrun it is one process; under
torchrun the workers shard the model with FSDP2.
"""

from pathlib import Path
from typing import Any

import torch
from bench.train.job import Job, Stopwatch, read_job
from bench.train.workload import SHAPE, Workload, open_workload

from brew_train.config import ModelConfig, StageConfig, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.loop import train
from brew_train.run_context import RunContext

STAGE = "bench"


def config_for(workload: Workload, job: Job, *, workers: int) -> TrainConfig:
    """Return the default settings with the job's batch size, steps and checkpoint interval (default: at the end)."""
    return TrainConfig(
        model=ModelConfig(init_from=str(workload.model), router_aux_loss=0.0),
        stages=[StageConfig(name=STAGE, steps=job.steps, bins_per_step=job.bins_per_step)],
        workers=workers,
        checkpoint_every=job.options.get("checkpoint_every", job.steps),
    )


def main() -> None:
    job = read_job()
    torch.set_num_threads(job.threads)
    workload = open_workload(Path(job.workload))
    watch = Stopwatch()

    def on_step(row: dict[str, Any]) -> None:
        watch.step(row["tokens"], row["loss"])

    with DistributedContext.from_torchrun() as context:
        train(
            config_for(workload, job, workers=context.size),
            RunContext(
                bins={STAGE: workload.bins},
                out=Path(job.out) / "run",
                shape=SHAPE,
                distributed=context,
                on_step=on_step,
            ),
        )
        if context.rank == 0:
            watch.write_outcome(
                job, workers=context.size, optimizer="schedule-free AdamW", sharding="FSDP2" if context.mesh else "-"
            )


if __name__ == "__main__":
    main()
