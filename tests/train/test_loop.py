"""Runs in one process: they learn, resume bitwise, export the average, and stop if a loss is not finite."""

import json
import math
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from brew_platform.errors import ConfigError, UserError
from brew_train.checkpoints.checkpointer import Checkpointer
from brew_train.checkpoints.ledger import audit
from brew_train.checkpoints.manifest import list_checkpoints, open_checkpoint, write_manifest
from brew_train.checkpoints.run_lease import RunLease
from brew_train.checkpoints.shards import read_shards
from brew_train.checkpoints.state import CheckpointError, CheckpointState
from brew_train.config import ModelShape, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.evaluation import evaluate
from brew_train.inputs.batches import collate
from brew_train.inputs.bin_reader import BinReader
from brew_train.loop import TrainResult, train
from brew_train.model.model import RankingLM
from brew_train.optim.factory import make_optimizer
from brew_train.run_context import RunContext
from brew_train.train_state import TrainState


class Interrupted(Exception):
    pass


def losses_of(out: Path) -> dict[int, float]:
    """Loss by step; of a repeated step the last."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


@pytest.fixture
def averaged(
    new_model: Callable[..., RankingLM], alone: DistributedContext
) -> Callable[[TrainConfig, Path], RankingLM]:
    """The model of a run's newest checkpoint, with its averaged weights."""

    def averaged(config: TrainConfig, out: Path) -> RankingLM:
        model = new_model(config.model, seed=1)
        optimizer = make_optimizer(model, config.stages[-1])
        checkpointer = Checkpointer(out / "checkpoints", keep=3, context=alone)
        checkpoint = checkpointer.newest()
        assert checkpoint is not None
        checkpointer.read(checkpoint, optimizer.tensors())
        optimizer.restore_scalars(CheckpointState.of(checkpoint).optimizer)
        optimizer.use_average()
        return model

    return averaged


@pytest.fixture
def run(config: TrainConfig, bins: dict[str, Path], shape: ModelShape, alone: DistributedContext) -> Any:
    def run(out: Path, stop_at: int | None = None, **changes: Any) -> TrainResult:
        def on_step(metrics: dict[str, Any]) -> None:
            if metrics["step"] == stop_at:
                raise Interrupted

        settings = changes.pop("config", config)
        options = {"bins": bins, "distributed": alone, "on_step": on_step, **changes}
        return train(settings, RunContext(out=out, shape=shape, **options))

    return run


def test_a_run_learns_and_exports_the_average(
    run: Any, averaged: Any, config: TrainConfig, shape: ModelShape, tmp_path: Path
) -> None:
    longer = replace(config, stages=[replace(config.stages[0], steps=30, learning_rate=0.02), config.stages[1]])
    result = run(tmp_path / "run", config=longer)
    losses = losses_of(tmp_path / "run")
    assert list(losses) == list(range(1, 35))
    assert losses[30] < losses[1] - 0.5
    assert (result.steps, result.export) == (34, tmp_path / "run" / "export")
    assert 0 < result.tokens <= 34 * 2 * shape.context_length
    assert result.tokens_per_second > 0

    ids = torch.arange(20).unsqueeze(0)
    exported = AutoModelForCausalLM.from_pretrained(result.export)
    assert exported.dtype == torch.float32
    model = averaged(longer, tmp_path / "run").lm
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(exported(ids).logits, model(ids).logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("stop_at", [3, 6, 9])
def test_an_interrupted_run_continues_bitwise(run: Any, stop_at: int, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", stop_at=stop_at)
    run(tmp_path / "cut")
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    weights = [(tmp_path / name / "export" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_run_whose_folder_is_lost_continues_from_its_mirror(run: Any, config: TrainConfig, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    mirrored = replace(config, mirror_url=f"file://{tmp_path}/store")
    with pytest.raises(Interrupted):
        run(tmp_path / "lost", stop_at=6, config=mirrored)
    for thread in threading.enumerate():
        if thread.name == "checkpoint-mirror":
            thread.join()
    shutil.rmtree(tmp_path / "lost")
    run(tmp_path / "new", config=mirrored)
    restored = events_of(tmp_path / "new", "restored")[0]["step"]
    assert 0 < restored < 6
    losses = losses_of(tmp_path / "whole")
    assert losses_of(tmp_path / "new") == {step: losses[step] for step in losses if step > restored}
    weights = [(tmp_path / name / "export" / "model.safetensors").read_bytes() for name in ("whole", "new")]
    assert weights[0] == weights[1]
    assert events_of(tmp_path / "new", "mirrored")[-1]["step"] == max(losses)


def test_an_attempt_that_lost_its_lease_writes_no_more_checkpoints(
    run: Any, config: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def overtake(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 3:
            while not any(out.glob("checkpoints/*/manifest.json")):  # the checkpoint of step 2, in the background
                time.sleep(0.01)
            RunLease(out, "later")

    with pytest.raises(UserError, match=r"was taken over by a later attempt \(later\)"):
        run(out, on_step=overtake)
    assert [path.parent.name[:13] for path in out.glob("checkpoints/*/manifest.json")] == ["step-00000002"]
    assert (out / "lease").read_text() == "later"
    assert run(out).steps == 10  # the next attempt takes the lease, and continues


def test_a_finished_run_only_exports_again(run: Any, tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    shutil.rmtree(first.export)
    before = losses_of(tmp_path / "run")
    second = run(tmp_path / "run")
    assert losses_of(tmp_path / "run") == before
    assert (second.steps, second.tokens) == (first.steps, first.tokens)
    assert (second.export / "model.safetensors").is_file()


def test_sft_starts_from_the_average_of_cpt(
    run: Any,
    config: TrainConfig,
    bins: dict[str, Path],
    shape: ModelShape,
    alone: DistributedContext,
    tmp_path: Path,
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


def test_a_loss_that_is_not_finite_names_stage_step_and_bins(run: Any, config: TrainConfig, tmp_path: Path) -> None:
    wild = replace(config, stages=[replace(config.stages[0], warmup_steps=0, learning_rate=1e30)])
    with pytest.raises(UserError, match=r"stage cpt, step 2: the loss became .* in bins \[\d+, \d+\]") as caught:
        run(tmp_path / "run", config=wild)
    assert str(caught.value).endswith("There is no checkpoint yet.")
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []


def test_a_bad_step_after_a_checkpoint_names_the_newest_one(run: Any, config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "run", stop_at=4)
    stage = replace(config.stages[0])
    stage.max_loss_rise = -100.0  # out of the range of a recipe
    with pytest.raises(UserError, match=r"stage cpt, step 3: the loss exploded .* checkpoint is that of step 2\."):
        run(tmp_path / "run", config=replace(config, stages=[stage, config.stages[1]]))
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[0].name.startswith("step-00000002")


def test_weights_that_are_not_finite_are_neither_saved_nor_exported(
    run: Any, config: TrainConfig, tmp_path: Path
) -> None:
    # the first loss is finite, and the update after it is not
    stage = replace(config.stages[0], steps=1, warmup_steps=0, learning_rate=1e38, weight_decay=100.0)
    with pytest.raises(
        UserError, match=r"has values that are not finite, so the checkpoint .* earlier ones were not changed"
    ):
        run(tmp_path / "run", config=replace(config, stages=[stage]))
    assert list((tmp_path / "run" / "checkpoints").glob("*")) == []
    assert not (tmp_path / "run" / "export").exists()


def test_a_run_with_changed_settings_is_refused(
    run: Any, config: TrainConfig, bins: dict[str, Path], shape: ModelShape, alone: DistributedContext, tmp_path: Path
) -> None:
    run(tmp_path / "run")
    with pytest.raises(UserError, match="was trained with seed 0, not 5"):
        run(tmp_path / "run", config=replace(config, seed=5))
    with pytest.raises(UserError, match="is in stage number 2, but train.stages has only 1"):
        run(tmp_path / "run", config=replace(config, stages=config.stages[:1]))
    for name, value in (("hidden_size", 32), ("rope_theta", 2e4), ("experts_per_token", 1)):
        with pytest.raises(UserError, match=r"was trained with \w+=.* does not fit this model: restore train\.model"):
            run(tmp_path / "run", config=replace(config, model=replace(config.model, **{name: value})))
    other_average = [config.stages[0], replace(config.stages[1], beta1=0.5)]
    with pytest.raises(UserError, match="stage sft was trained with another beta1"):
        run(tmp_path / "run", config=replace(config, stages=other_average))
    hashes = [BinReader(bins[name], shape).plan_hash[:12] for name in ("sft", "cpt")]
    with pytest.raises(UserError, match=f"trained on plan {hashes[0]}, but the bins have plan {hashes[1]}"):
        run(tmp_path / "run", bins={"cpt": bins["cpt"], "sft": bins["cpt"]})
    with pytest.raises(UserError, match="stage sft has no bins"):
        run(tmp_path / "other", bins={"cpt": bins["cpt"]})
    with pytest.raises(ConfigError, match="3 workers with 1 micro-steps need at least one bin each"):
        run(tmp_path / "other", distributed=replace(alone, size=3))


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def events_of(out: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_a_bad_step_is_skipped_and_recorded_with_on_bad_step_skip(
    run: Any, config: TrainConfig, tmp_path: Path
) -> None:
    # every loss is more than "a rise of -100 nats" above the mean of those before: all but the first step are bad
    def with_bad_steps(**changes: Any) -> TrainConfig:
        stage = replace(config.stages[0], **changes)
        stage.max_loss_rise = -100.0  # out of the range of a recipe
        return replace(config, stages=[stage])

    result = run(tmp_path / "run", config=with_bad_steps(on_bad_step="skip", max_skipped=50))
    rows = rows_of(tmp_path / "run")
    assert [row["skipped"] for row in rows] == [False] + [True] * 5
    assert rows[1]["loss"] is not None
    skipped = events_of(tmp_path / "run", "skipped")
    assert [event["step"] for event in skipped] == [2, 3, 4, 5, 6]
    assert all(len(event["bins"]) == 2 for event in skipped)
    assert result.steps == 6

    with pytest.raises(UserError, match=r"the last 3 steps, up to 4, were skipped, more than max_skipped=2"):
        run(tmp_path / "patience", config=with_bad_steps(on_bad_step="skip", max_skipped=2))
    with pytest.raises(UserError, match=r"stage cpt, step 2: the loss exploded to .* in bins \[\d+, \d+\]"):
        run(tmp_path / "stop", config=with_bad_steps(on_bad_step="stop"))


def test_evaluation_uses_the_averaged_weights_and_changes_no_step(
    run: Any, averaged: Any, config: TrainConfig, bins: dict[str, Path], shape: ModelShape, alone: DistributedContext,
    write_bins: Callable[..., Path], tmp_path: Path
) -> None:  # fmt: skip
    run(tmp_path / "plain")
    held_out = write_bins(tmp_path / "held-out", n_bins=3)
    stages = [replace(stage, evaluate_every=3) for stage in config.stages]
    evaluating = replace(config, stages=stages)
    run(tmp_path / "run", config=evaluating, evaluation={"cpt": held_out, "sft": held_out})
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "plain")
    evaluated = {row["step"]: row["evaluation"] for row in rows_of(tmp_path / "run") if row["evaluation"]}
    assert list(evaluated) == [3, 6, 9, 10]

    model = averaged(evaluating, tmp_path / "run")
    again = evaluate(model, stages[1], BinReader(held_out, shape), alone)
    assert again == pytest.approx(evaluated[10], abs=1e-6)
    # equation 3 of arXiv:2501.16450: the prompt term is the mean over all targets
    reader = BinReader(held_out, shape)
    prompts, answers, _ = sum(collate([reader[i]]).counts() for i in range(3)).tolist()
    whole = (prompts * again["prompt_loss"] + answers * again["answer_loss"]) / (prompts + answers)
    assert again["loss"] == pytest.approx(0.01 * whole + 0.99 * again["answer_loss"], abs=1e-6)


def test_the_exported_best_weights_are_the_average_at_the_best_step(
    run: Any, config: TrainConfig, new_model: Callable[..., RankingLM], alone: DistributedContext,
    write_bins: Callable[..., Path], tmp_path: Path
) -> None:  # fmt: skip
    held_out = write_bins(tmp_path / "held-out", n_bins=3)
    evaluation = {"cpt": held_out, "sft": held_out}
    evaluating = replace(config, stages=[replace(stage, evaluate_every=3) for stage in config.stages])
    run(tmp_path / "run", config=evaluating, evaluation=evaluation)
    evaluated = {row["step"]: row["evaluation"]["loss"] for row in rows_of(tmp_path / "run") if row["evaluation"]}
    # a second run keeps the checkpoint of every step; the average is computed here: lerp(y, z, 1 - 1 / beta1)
    run(tmp_path / "every", config=replace(config, checkpoint_every=1, keep_checkpoints=20))
    ids = torch.arange(20).unsqueeze(0)

    def logits_of(step: int) -> torch.Tensor:
        model = new_model(config.model, seed=1)
        tensors = {f"{kind}.{name}": p.detach().clone() for kind in ("model", "z", "exp_avg_sq")
                   for name, p in model.named_parameters()}  # fmt: skip
        (folder,) = (tmp_path / "every" / "checkpoints").glob(f"step-{step:08d}-*")
        read_shards(folder, tensors)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"].lerp(tensors[f"z.{name}"], 1 - 1 / config.stages[0].beta1))
        model.lm.set_attn_implementation("sdpa")
        return model.lm(ids).logits

    for stage, steps in (("cpt", (3, 6)), ("sft", (9, 10))):
        best, other = sorted(steps, key=lambda step: evaluated[step])
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "best" / stage)(ids).logits
        torch.testing.assert_close(exported, logits_of(best), atol=1e-6, rtol=1e-6)
        assert not torch.allclose(exported, logits_of(other), atol=1e-5, rtol=1e-5)
    assert any((tmp_path / "run" / "checkpoints").glob(f"step-{best:08d}-*"))


def test_the_best_loss_on_other_evaluation_bins_is_not_compared() -> None:
    state = TrainState(step=3)
    assert state.improves({"loss": 2.0}, plan_hash="a")
    state.step = 4
    assert not state.improves({"loss": 2.5}, plan_hash="a")
    assert not state.improves({"loss": math.nan}, plan_hash="b")
    assert state.best["step"] == 3
    assert state.improves({"loss": 2.5}, plan_hash="b")
    assert state.best == {"step": 4, "loss": 2.5, "plan_hash": "b"}
    assert not state.improves(None, plan_hash=None)


def test_a_checkpoint_of_another_format_version_is_refused(run: Any, tmp_path: Path) -> None:
    run(tmp_path / "run")
    for folder in list_checkpoints(tmp_path / "run" / "checkpoints"):
        checkpoint = open_checkpoint(folder)
        write_manifest(replace(checkpoint, state={**checkpoint.state, "format_version": 3}))
    with pytest.raises(
        CheckpointError, match=r"manifest.json has format version 3, but .* version 2: .* new run folder"
    ):
        run(tmp_path / "run")
    for folder in list_checkpoints(tmp_path / "run" / "checkpoints"):
        write_manifest(replace(open_checkpoint(folder), state={"stage": "sft", "progress": {"step": 10}}))
    with pytest.raises(CheckpointError, match="has format version 1, but this release reads version 2"):
        run(tmp_path / "run")


def test_a_notice_writes_a_checkpoint_at_once_and_training_continues(
    run: Any, config: TrainConfig, tmp_path: Path
) -> None:
    long = replace(config, checkpoint_every=100, stages=[config.stages[0]])
    calls: list[int] = []

    def notice() -> bool:
        calls.append(len(calls) + 1)
        return calls[-1] == 2

    with pytest.raises(Interrupted):
        run(tmp_path / "run", config=long, notice=notice, stop_at=4)
    (tmp_path / "run" / "checkpoint-now").touch()
    with pytest.raises(Interrupted):
        run(tmp_path / "run", config=long, stop_at=5)
    run(tmp_path / "run", config=long)
    # the first run is cut in step 4 after the notice in step 2; the second continues, with a notice in step 3
    assert [event["step"] for event in events_of(tmp_path / "run", "restored")] == [2, 3]
    assert not (tmp_path / "run" / "checkpoint-now").exists()
    whole = losses_of(tmp_path / "run")
    run(tmp_path / "whole", config=long)
    assert whole == losses_of(tmp_path / "whole")


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_preferences_are_learned_and_an_interrupted_run_continues_bitwise(
    objective: str, run: Any, config: TrainConfig, write_bins: Callable[..., Path], tmp_path: Path
) -> None:
    pairs = write_bins(tmp_path / "pairs", n_bins=6, kind="pairs")
    stage = replace(
        config.stages[0],
        name="ift",
        objective={"name": objective, **({"beta": 0.5} if objective == "dpo" else {})},
        steps=24,
        learning_rate=0.02,
        max_loss_rise=50.0,
    )
    preferring = replace(config, stages=[stage])
    run(tmp_path / "whole", config=preferring, bins={"ift": pairs})
    rows = rows_of(tmp_path / "whole")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.7
    if objective == "dpo":
        assert rows[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # the policy still is its reference
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", config=preferring, bins={"ift": pairs}, stop_at=7)
    run(tmp_path / "cut", config=preferring, bins={"ift": pairs})
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")

    with pytest.raises(
        UserError, match=f"has objective={objective}, which reads pairs, but the bins in .* hold documents"
    ):
        run(tmp_path / "other", config=preferring, bins={"ift": write_bins(tmp_path / "documents")})


@pytest.fixture
def dpo(config: TrainConfig) -> TrainConfig:
    """A run of one stage of DPO, with its first checkpoint at the end."""
    stage = replace(config.stages[0], name="ift", objective="dpo", evaluate_every=100, steps=4)
    return replace(config, stages=[stage], checkpoint_every=100)


@pytest.mark.parametrize("change", ["seed", "pairs", "evaluation pairs", "objective"])
def test_dpo_that_starts_again_with_other_weights_or_pairs_computes_its_reference_again(
    change: str, run: Any, dpo: TrainConfig, write_bins: Callable[..., Path], tmp_path: Path
) -> None:
    first, other = (write_bins(tmp_path / f"pairs-{seed}", n_bins=6, kind="pairs", seed=seed) for seed in (1, 2))
    out, reference = tmp_path / "run", tmp_path / "run" / "reference" / "ift.npz"
    with pytest.raises(Interrupted):
        run(out, config=dpo, bins={"ift": first}, evaluation={"ift": first}, stop_at=2)
    assert list((out / "checkpoints").glob("*/manifest.json")) == []
    before = {path.name: path.read_bytes() for path in (reference, reference.with_name("ift-evaluation.npz"))}
    assert losses_of(out)[1] == pytest.approx(math.log(2), abs=1e-5)

    if change == "objective":  # of another package; its pass over the reference may differ
        with np.load(reference) as arrays:
            values = dict(arrays)
        values["identity"] = np.array(str(values["identity"]).replace('"dpo"', '"other"'))
        np.savez(reference, **values | {"log_probabilities": values["log_probabilities"] + 1})
    run(
        out,
        config=replace(dpo, seed=5) if change == "seed" else dpo,
        bins={"ift": other if change == "pairs" else first},
        evaluation={"ift": other if change == "evaluation pairs" else first},
    )
    assert losses_of(out)[1] == pytest.approx(math.log(2), abs=1e-5)
    changed = {name for name, content in before.items() if (reference.with_name(name)).read_bytes() != content}
    expected = {"seed": {"ift.npz", "ift-evaluation.npz"}, "pairs": {"ift.npz"}}
    assert changed == expected.get(change, {"ift-evaluation.npz"} if change == "evaluation pairs" else set())


def test_dpo_that_starts_again_unchanged_keeps_its_reference(
    run: Any, dpo: TrainConfig, write_bins: Callable[..., Path], tmp_path: Path
) -> None:
    pairs = {"ift": write_bins(tmp_path / "pairs", n_bins=6, kind="pairs")}
    reference = tmp_path / "run" / "reference" / "ift.npz"
    with pytest.raises(Interrupted):
        run(tmp_path / "run", config=dpo, bins=pairs, evaluation=pairs, stop_at=2)
    written = reference.stat().st_mtime_ns
    run(tmp_path / "run", config=dpo, bins=pairs, evaluation=pairs)
    assert reference.stat().st_mtime_ns == written


def test_dpo_that_continues_refuses_the_reference_of_another_run(
    run: Any, dpo: TrainConfig, write_bins: Callable[..., Path], tmp_path: Path
) -> None:
    pairs = {"ift": write_bins(tmp_path / "pairs", n_bins=6, kind="pairs")}
    often = replace(dpo, checkpoint_every=1)
    for name, settings in (("run", often), ("other", replace(often, seed=5))):
        with pytest.raises(Interrupted):
            run(tmp_path / name, config=settings, bins=pairs, evaluation=pairs, stop_at=3)
    reference = tmp_path / "run" / "reference" / "ift.npz"
    kept = reference.read_bytes()
    for content, text in (
        ((tmp_path / "other" / "reference" / "ift.npz").read_bytes(), "belong to another run: their weights is"),
        (b"torn", "cannot be read .* and cannot be computed again"),
    ):
        reference.write_bytes(content)
        with pytest.raises(UserError, match=text):
            run(tmp_path / "run", config=often, bins=pairs, evaluation=pairs)
    reference.write_bytes(kept)
    run(tmp_path / "run", config=often, bins=pairs, evaluation=pairs)
    run(tmp_path / "whole", config=often, bins=pairs, evaluation=pairs)
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "whole")


def test_a_single_process_computes_in_bfloat16_and_continues_bitwise(
    run: Any, config: TrainConfig, tmp_path: Path
) -> None:
    half = replace(config, precision="bfloat16")
    run(tmp_path / "exact")
    run(tmp_path / "whole", config=half)
    assert not torch.distributed.is_initialized()
    exact, rounded = losses_of(tmp_path / "exact"), losses_of(tmp_path / "whole")
    assert rounded != exact
    assert rounded == pytest.approx(exact, abs=2e-2)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", config=half, stop_at=5)
    run(tmp_path / "cut", config=half)
    assert losses_of(tmp_path / "cut") == rounded
    exports = [tmp_path / name / "export" / "model.safetensors" for name in ("whole", "cut")]
    assert exports[0].read_bytes() == exports[1].read_bytes()
    assert {tensor.dtype for tensor in load_file(exports[0]).values()} == {torch.float32}  # shards and updates


def test_dpo_in_bfloat16_starts_at_its_reference(
    run: Any, dpo: TrainConfig, write_bins: Callable[..., Path], tmp_path: Path
) -> None:
    pairs = {"ift": write_bins(tmp_path / "pairs", n_bins=6, kind="pairs")}
    run(tmp_path / "run", config=replace(dpo, precision="bfloat16"), bins=pairs, evaluation=pairs)
    assert losses_of(tmp_path / "run")[1] == pytest.approx(math.log(2), abs=2e-3)


def test_micro_steps_change_nothing_but_rounding(run: Any, config: TrainConfig, tmp_path: Path) -> None:
    # the router's loss is of the tokens that are routed together, so it alone depends on the micro-steps
    unrouted = replace(config, model=replace(config.model, router_aux_loss=0.0))
    whole = replace(unrouted, stages=[replace(stage, bins_per_step=4) for stage in config.stages])
    parts = replace(whole, stages=[replace(stage, micro_steps=4) for stage in whole.stages])
    run(tmp_path / "whole", config=whole)
    run(tmp_path / "parts", config=parts)
    assert losses_of(tmp_path / "parts") == pytest.approx(losses_of(tmp_path / "whole"), abs=1e-5)


def test_the_ledger_holds_each_bin_once_an_epoch(run: Any, config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "run", stop_at=5)
    run(tmp_path / "run")
    found = audit(tmp_path / "run", {"cpt": 12, "sft": 10})
    assert found.steps == 10
    assert found.bins == {"cpt": [12], "sft": [8]}
