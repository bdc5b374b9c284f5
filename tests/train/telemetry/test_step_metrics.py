"""The derived fields of a metrics row; test_recorder checks that runs write every documented field."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from brew_train.distributed.context import DistributedContext
from brew_train.step import StepResult
from brew_train.telemetry.step_metrics import StepMetrics, memory_bytes
from brew_train.train_state import TrainState


def test_speed_of_the_step_and_remaining_time_of_the_run() -> None:
    lm = MixtralForCausalLM(
        MixtralConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=300,
        )
    )
    rows = StepMetrics(cast(Any, SimpleNamespace(lm=lm)), DistributedContext(device=torch.device("cpu")), steps=10)
    stage = SimpleNamespace(settings=SimpleNamespace(name="cpt"), optimizer=SimpleNamespace(learning_rate=0.1))
    progress = TrainState()
    progress.enter(0)
    for seconds in (1.0, 3.0):  # two seconds a step on average, and eight steps to go
        done = StepResult(
            loss=1.0, measures={"accuracy": 0.5}, grad_norm=1.0, tokens=600, document_length=30.0, data_wait_seconds=0.1
        )
        progress.advance(done, seconds)
    row = rows.row(
        cast(Any, stage), done, progress, seconds=3.0, blocked_seconds=0.2, evaluated=None, evaluation_seconds=9.0
    )
    assert (row["tokens_per_second"], row["seconds_left"]) == (pytest.approx(200.0), pytest.approx(16.0))
    assert (row["step"], row["steps"], row["accuracy"], row["checkpoint_blocked_seconds"]) == (2, 10, 0.5, 0.2)
    assert row["evaluation_seconds"] == 0.0  # nothing was evaluated, at any time
    assert row["mfu"] is None  # a CPU's peak is not known


def test_memory_is_the_peak_of_the_process() -> None:
    before = memory_bytes(torch.device("cpu"))
    assert before > 50 * 2**20  # torch alone takes more
    held = torch.ones(before // 4 + 50 * 2**18)  # more than all that was held so far
    del held
    assert memory_bytes(torch.device("cpu")) - before > 50 * 2**20
