"""A training process for the tests: `python worker_main.py job.json`, with torchrun's environment variables."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from brew_train.config import InputsConfig, ModelConfig, ModelShape, ShardingConfig, StageConfig, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.loop import train
from brew_train.run_context import RunContext


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    fields = job["config"]
    fields["model"] = ModelConfig(**fields["model"])
    fields["sharding"] = ShardingConfig(**fields["sharding"])
    fields["inputs"] = InputsConfig(**fields["inputs"])
    fields["stages"] = [StageConfig(**stage) for stage in fields["stages"]]

    def on_step(metrics: dict[str, Any]) -> None:
        if metrics["step"] == job["die_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    with DistributedContext.from_torchrun(replicas=fields["sharding"].replicas) as context:
        train(
            TrainConfig(**fields),
            RunContext(
                bins={name: Path(folder) for name, folder in job["bins"].items()},
                evaluation={name: Path(folder) for name, folder in job["evaluation"].items()},
                out=Path(job["out"]),
                shape=ModelShape(**job["shape"]),
                distributed=context,
                on_step=on_step,
            ),
        )


if __name__ == "__main__":
    main()
