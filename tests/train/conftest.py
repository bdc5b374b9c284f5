"""Small bins, small models, and processes for the training tests."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from brew_train.config import ModelConfig, ModelShape, ShardingConfig, StageConfig, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model
from brew_train.model.sharding import shard

VOCABULARY, CONTEXT = 97, 64  # of write_bins


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def alone() -> DistributedContext:
    return DistributedContext(device=torch.device("cpu"))


@pytest.fixture
def new_model(shape: ModelShape, alone: DistributedContext) -> Callable[..., RankingLM]:
    """A whole model of one process, with fresh weights of a seed."""

    def make(config: ModelConfig, seed: int = 0) -> RankingLM:
        model = build_model(config, shape)
        shard(model, alone, ShardingConfig())
        materialize(model, config, alone, seed=seed)
        return model

    return make


@pytest.fixture
def bins(tmp_path: Path, write_bins: Callable[..., Path]) -> dict[str, Path]:
    return {
        "cpt": write_bins(tmp_path / "bins-cpt"),
        "sft": write_bins(tmp_path / "bins-sft", n_bins=10),
    }


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(hidden_size=16, intermediate_size=16, layers=2, heads=2, kv_heads=1),
        stages=[
            StageConfig(name="cpt", steps=6, bins_per_step=2, warmup_steps=2),
            StageConfig(
                name="sft",
                steps=4,
                bins_per_step=2,
                warmup_steps=2,
                objective={"name": "next_token", "prompt_weight": 0.01},
            ),
        ],
        workers=1,
        checkpoint_every=2,
        keep_checkpoints=3,
    )


@pytest.fixture
def shape() -> ModelShape:
    return ModelShape(vocabulary_size=VOCABULARY, context_length=CONTEXT)


@pytest.fixture
def run_processes(tmp_path: Path) -> Callable[..., Sequence[int]]:
    """Runs `worker_main.py` in several processes joined by gloo, as torchrun would, and returns their exit codes."""

    def run(
        config: TrainConfig,
        bins: dict[str, Path],
        out: Path,
        *,
        processes: int,
        die_at: int | None = None,
        evaluation: dict[str, Path] | None = None,
    ) -> list[int]:
        job = tmp_path / "job.json"
        job.write_text(
            json.dumps(
                {
                    "config": asdict(config),
                    "bins": {name: str(folder) for name, folder in bins.items()},
                    "evaluation": {name: str(folder) for name, folder in (evaluation or {}).items()},
                    "out": str(out),
                    "shape": {"vocabulary_size": VOCABULARY, "context_length": CONTEXT},
                    "die_at": die_at,
                }
            )
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        started = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("worker_main.py")), str(job)],
                env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            )
            for rank in range(processes)
        ]
        try:
            return [process.wait(timeout=240) for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()

    return run
