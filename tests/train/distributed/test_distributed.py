"""Two FSDP2 processes on gloo: same losses as one process, bitwise restart after a kill, and resharding."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from brew_train.checkpoints.manifest import list_checkpoints
from brew_train.config import ModelShape, ShardingConfig, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.loop import train
from brew_train.run_context import RunContext

pytestmark = pytest.mark.real


def rows_of(out: Path) -> dict[int, dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in rows}


def test_two_processes_a_kill_a_damaged_checkpoint_and_a_reshard(
    config: TrainConfig,
    bins: dict[str, Path],
    shape: ModelShape,
    alone: DistributedContext,
    tmp_path: Path,
    run_processes: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    two = replace(config, workers=2)
    measured = ("loss", "prompt_loss", "answer_loss", "grad_norm", "tokens")

    assert run_processes(two, bins, tmp_path / "whole", processes=2) == [0, 0]
    whole = rows_of(tmp_path / "whole")
    assert list(whole) == list(range(1, 11))

    # one process computes the same loss from the same bins
    train(config, RunContext(bins=bins, out=tmp_path / "one", shape=shape, distributed=alone))
    for step, row in rows_of(tmp_path / "one").items():
        assert [row[key] for key in measured] == pytest.approx([whole[step][key] for key in measured], abs=1e-5)

    # killed in step 9, in the second stage; the last checkpoint is that of step 8, or 6 where 8 was being written
    codes = run_processes(two, bins, tmp_path / "cut", processes=2, die_at=9)
    assert codes[0] == -9
    assert codes[1] != 0
    shutil.copytree(tmp_path / "cut", tmp_path / "reshard")
    # the time at which weights are gathered changes no number
    frugal = replace(two, sharding=ShardingConfig(reshard_after_forward=True))
    assert run_processes(frugal, bins, tmp_path / "cut", processes=2) == [0, 0]
    for step, row in rows_of(tmp_path / "cut").items():
        assert [row[key] for key in measured] == [whole[step][key] for key in measured]  # bitwise
    assert (tmp_path / "cut/export/model.safetensors").read_bytes() == (
        tmp_path / "whole/export/model.safetensors"
    ).read_bytes()

    # the newest checkpoint loses a bit of one worker's shard; one process continues from the previous one
    newest, before = list_checkpoints(tmp_path / "reshard/checkpoints")[:2]
    shard = newest / "__1_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with caplog.at_level(logging.INFO, logger="brew_train"):
        train(config, RunContext(bins=bins, out=tmp_path / "reshard", shape=shape, distributed=alone))
    assert "the content of __1_0.distcp has changed" in caplog.text
    assert f"from {before}" in caplog.text
    for step, row in rows_of(tmp_path / "reshard").items():
        assert [row[key] for key in measured] == pytest.approx([whole[step][key] for key in measured], abs=1e-5)
    first, second = (load_file(tmp_path / name / "export/model.safetensors") for name in ("whole", "reshard"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=0)


def test_two_processes_in_bfloat16_train_as_one_does(
    config: TrainConfig,
    bins: dict[str, Path],
    shape: ModelShape,
    alone: DistributedContext,
    tmp_path: Path,
    run_processes: Callable[..., list[int]],
) -> None:
    half = replace(config, workers=2, precision="bfloat16")
    assert run_processes(half, bins, tmp_path / "two", processes=2) == [0, 0]
    single = replace(config, precision="bfloat16")
    train(single, RunContext(bins=bins, out=tmp_path / "one", shape=shape, distributed=alone))
    losses = [[row["loss"] for row in rows_of(tmp_path / name).values()] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-2)
    # a checkpoint of two workers continues on one; its shards are float32
    shutil.rmtree(tmp_path / "two" / "export")
    train(single, RunContext(bins=bins, out=tmp_path / "two", shape=shape, distributed=alone))
    assert {t.dtype for t in load_file(tmp_path / "two/export/model.safetensors").values()} == {torch.float32}
