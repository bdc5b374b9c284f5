"""A whole run in one process: it learns, resumes bitwise, exports the average, and stops when the loss is no number."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from brew_platform.errors import ConfigError, UserError
from brew_train.checkpoint import Commits
from brew_train.config import TrainConfig
from brew_train.loop import TrainResult, train
from brew_train.model import RankingLM, build_model
from brew_train.optimizer import ScheduleFree
from brew_train.world import World


class Interrupted(Exception):
    pass


def losses_of(out: Path) -> dict[int, float]:
    """Loss by step; of a repeated step the last."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def averaged_model(config: TrainConfig, out: Path, sizes: dict[str, int], world: World) -> RankingLM:
    model = build_model(config.model, seed=1, **sizes)
    optimizer = ScheduleFree(model, config.stages[-1])
    commits = Commits(out / "checkpoints", keep=3, world=world)
    commit = commits.newest()
    assert commit is not None
    commits.read(commit, optimizer.tensors())
    optimizer.restore_scalars(commit.state["optimizer"])
    optimizer.use_average()
    return model


@pytest.fixture
def run(config: TrainConfig, bins: dict[str, Path], sizes: dict[str, int], alone: World) -> Any:
    def run(out: Path, stop_at: int | None = None, **changes: Any) -> TrainResult:
        def on_step(metrics: dict[str, Any]) -> None:
            if metrics["step"] == stop_at:
                raise Interrupted

        arguments = {"bins": bins, "world": alone, "on_step": on_step, **sizes, **changes}
        return train(arguments.pop("config", config), out=out, **arguments)

    return run


def test_a_run_learns_and_exports_the_average(
    run: Any, config: TrainConfig, sizes: dict[str, int], alone: World, tmp_path: Path
) -> None:
    longer = replace(config, stages=[replace(config.stages[0], steps=30, learning_rate=0.02), config.stages[1]])
    result = run(tmp_path / "run", config=longer)
    losses = losses_of(tmp_path / "run")
    assert list(losses) == list(range(1, 35))
    assert losses[30] < losses[1] - 0.5
    assert (result.steps, result.export) == (34, tmp_path / "run" / "export")
    assert 0 < result.tokens <= 34 * 2 * sizes["context_length"]
    assert result.tokens_per_second > 0

    ids = torch.arange(20).unsqueeze(0)
    exported = AutoModelForCausalLM.from_pretrained(result.export)
    assert exported.dtype == torch.float32
    averaged = averaged_model(longer, tmp_path / "run", sizes, alone)
    averaged.lm.set_attn_implementation("sdpa")
    torch.testing.assert_close(exported(ids).logits, averaged.lm(ids).logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("stop_at", [3, 6, 9])
def test_an_interrupted_run_continues_bitwise(run: Any, stop_at: int, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", stop_at=stop_at)
    run(tmp_path / "cut")
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    weights = [(tmp_path / name / "export" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_finished_run_only_exports_again(run: Any, tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    shutil.rmtree(first.export)
    before = losses_of(tmp_path / "run")
    second = run(tmp_path / "run")
    assert losses_of(tmp_path / "run") == before
    assert (second.steps, second.tokens) == (first.steps, first.tokens)
    assert (second.export / "model.safetensors").is_file()


def test_sft_starts_from_the_average_of_cpt(
    run: Any, config: TrainConfig, bins: dict[str, Path], sizes: dict[str, int], alone: World, tmp_path: Path
) -> None:
    only_cpt = replace(config, stages=config.stages[:1])
    exported = run(tmp_path / "cpt", config=only_cpt).export
    # without warm-up and step, the first loss of SFT from that export must be that of the whole run's first SFT step
    from_export = replace(
        config, model=replace(config.model, init_from=str(exported)), stages=[config.stages[1]], seed=config.seed
    )
    run(tmp_path / "sft", config=from_export)
    run(tmp_path / "whole")
    assert losses_of(tmp_path / "sft")[1] == pytest.approx(losses_of(tmp_path / "whole")[7], abs=1e-6)


def test_a_loss_that_is_no_number_names_stage_step_and_bins(run: Any, config: TrainConfig, tmp_path: Path) -> None:
    wild = replace(config, stages=[replace(config.stages[0], warmup_steps=0, learning_rate=1e30)])
    with pytest.raises(UserError, match=r"stage cpt, step \d+: the loss became .* in bins \[\d+, \d+\]"):
        run(tmp_path / "run", config=wild)


def test_what_cannot_continue_is_refused(
    run: Any, config: TrainConfig, bins: dict[str, Path], alone: World, tmp_path: Path
) -> None:
    run(tmp_path / "run")
    with pytest.raises(UserError, match="was trained with seed 0, not 5"):
        run(tmp_path / "run", config=replace(config, seed=5))
    with pytest.raises(UserError, match="more stages than the 1 given now"):
        run(tmp_path / "run", config=replace(config, stages=config.stages[:1]))
    with pytest.raises(UserError, match="does not fit this model"):
        run(tmp_path / "run", config=replace(config, model=replace(config.model, hidden_size=32)))
    longer = replace(config, stages=[config.stages[0], replace(config.stages[1], steps=5)])
    with pytest.raises(UserError, match="trained on plan bbbbbbbbbbbb, but the bins given are plan aaaaaaaaaaaa"):
        run(tmp_path / "run", config=longer, bins={"cpt": bins["cpt"], "sft": bins["cpt"]})
    with pytest.raises(UserError, match="no bins are given for stage sft"):
        run(tmp_path / "other", bins={"cpt": bins["cpt"]})
    with pytest.raises(ConfigError, match="3 workers cannot share equally"):
        run(tmp_path / "other", world=replace(alone, size=3))
