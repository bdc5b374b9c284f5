"""A training job is checked before Ray starts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from brew_cluster.jobs.lineage import parent_of
from brew_cluster.jobs.train import TrainJob, load_job, run_job
from brew_data.packed_bins.plan import BinsPlan
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import ConfigError, UserError
from brew_platform.storage.base import Digest
from brew_train.config import ModelConfig, TrainConfig

from ...base_tokenizers import write_base_tokenizer
from ...tiny_families import write_tiny


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has neither model\.safetensors nor"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "weights.gguf"), "is a GGUF"),
        (lambda folder: write_tiny("llama", folder), "has 96 token ids, but the bins were made with"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_ray_starts(
    damage: object, message: str, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog"] * 9, vocabulary_size=300)
    suite = load_suite("movielens")
    PromptBundle(suite=suite, format=PromptFormat(context_length=512), tokenizer=tokenizer).save(tmp_path / "prompts")
    write_tiny("llama", tmp_path / "model", vocab_size=300)
    assert callable(damage)
    damage(tmp_path / "model")
    job = TrainJob(
        run=str(tmp_path / "run"),
        prompts=str(tmp_path / "prompts"),
        context_length=250,
        train=TrainConfig(model=ModelConfig(init_from=str(tmp_path / "model"))),
    )
    with pytest.raises(UserError, match=message):
        run_job(job, PlainConsole())
    assert not ray.is_initialized()
    assert not (tmp_path / "run").exists()


def bundle(folder: Path, tokenizer: Tokenizer, *, context_length: int = 512) -> PromptBundle:
    written = PromptBundle(
        suite=load_suite("movielens"), format=PromptFormat(context_length=context_length), tokenizer=tokenizer
    )
    written.save(folder)
    return written


def write_plan(folder: Path, prompt_digest: str, *, n_tokens: int = 0) -> None:
    """Write the plan of a folder without bins."""
    BinsPlan(
        context_length=250, vocabulary_size=300, prompt_digest=prompt_digest, n_bins=0, n_documents=0,
        n_tokens=n_tokens, fill=0.0,
    ).sealed().write(folder)  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    """A job with a base model, its tokenizer and bins that fit together."""
    base = tmp_path / "base"
    base.mkdir()
    write_base_tokenizer("mixtral", base)
    tokenizer = Tokenizer.from_model(base)
    write_tiny("mixtral", base, vocab_size=tokenizer.n_tokens - 5)  # five control tokens are added
    digest = bundle(tmp_path / "prompts", tokenizer).digest
    for name in ("bins", "evaluation"):
        (tmp_path / name).mkdir()
        write_plan(tmp_path / name, digest)
    return TrainJob(
        run=str(tmp_path / "run"),
        prompts=str(tmp_path / "prompts"),
        bins={"cpt": str(tmp_path / "bins")},
        evaluation={"cpt": str(tmp_path / "evaluation")},
        context_length=250,
        train=TrainConfig(model=ModelConfig(init_from=str(base))),
    )


def test_data_and_model_that_fit_pass_the_checks(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(path: Path) -> None:
        raise InterruptedError

    monkeypatch.setattr("brew_cluster.jobs.train.require_space", reached)
    with pytest.raises(InterruptedError):
        run_job(job, PlainConsole())


def other_bins(name: str) -> Callable[[Path], None]:
    return lambda folder: write_plan(folder / name, "ab" * 32)


def other_budget(folder: Path) -> None:
    bundle(folder / "prompts", PromptBundle.load(folder / "prompts").tokenizer, context_length=600)


def other_base(folder: Path) -> None:
    content = json.loads((folder / "base/tokenizer.json").read_text())
    content["model"]["merges"].reverse()
    (folder / "base/tokenizer.json").write_text(json.dumps(content))


def other_export(folder: Path) -> None:
    """The initial model is an export of other data with another tokenizer."""
    tokenizer = train_tokenizer(["the quick brown fox"] * 9, vocabulary_size=300)
    bundle(folder / "base", tokenizer)


def other_run(folder: Path) -> None:
    """The run was started with data that were built again since."""
    shutil.copytree(folder / "prompts", folder / "run/prompts")
    digest = bundle(folder / "prompts", PromptBundle.load(folder / "prompts").tokenizer, context_length=600).digest
    for name in ("bins", "evaluation"):
        write_plan(folder / name, digest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_bins("bins"),
            r"the bins in .*bins were made with other prompts .* Build all bins and the prompts folder",
        ),
        (other_bins("evaluation"), r"the bins in .*evaluation were made with other prompts"),
        (other_budget, r"the bins in .*bins were made with other prompts"),
        (other_base, r"the model in .*base has another tokenizer than the data.* tokenizer\.from=.*base"),
        (other_export, r"the model in .*base has another tokenizer than the data"),
        (lambda folder: (folder / "base/tokenizer.json").unlink(), r"base has no tokenizer\.json, so its token ids"),
        (other_run, r"the run .*run was started with other prompts than .*prompts has now.* Start a new run"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_prompts_that_differ_are_refused_before_ray_starts(
    job: TrainJob, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        run_job(job, PlainConsole())
    assert not ray.is_initialized()
    assert not (tmp_path / "run/export").exists()


def swap_weights(folder: Path) -> None:
    path = folder / "base/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def swap_bins(folder: Path) -> None:
    write_plan(folder / "bins", BinsPlan.load(folder / "bins").prompt_digest, n_tokens=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_weights, r"run was started from the model with digest \w{12}, but that of train\.model\.init_from is \w"),
        (swap_bins, r"run was trained on other bins in stage cpt than bins\.cpt names now"),
    ],
)
def test_a_run_with_a_checkpoint_continues_with_its_own_base_and_bins_only(
    job: TrainJob, tmp_path: Path, change: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Started(Exception):
        pass

    def start(*_: object) -> None:
        raise Started

    checkpoints: list[object] = []
    monkeypatch.setattr("brew_cluster.jobs.train.require_space", lambda run: None)
    monkeypatch.setattr("brew_cluster.jobs.train._ray", start)
    monkeypatch.setattr("brew_cluster.jobs.train.peek_state", lambda root: checkpoints[0] if checkpoints else None)
    with pytest.raises(Started):
        run_job(job, PlainConsole())
    checkpoints.append(SimpleNamespace(train_state=SimpleNamespace(stage=0)))
    with pytest.raises(Started):
        run_job(job, PlainConsole())
    lineage = (tmp_path / "run/lineage.json").read_bytes()
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        run_job(job, PlainConsole())
    assert (tmp_path / "run/lineage.json").read_bytes() == lineage
    checkpoints.clear()  # before the first checkpoint, a run may start from anything
    with pytest.raises(Started):
        run_job(job, PlainConsole())
    assert (tmp_path / "run/lineage.json").read_bytes() != lineage


def test_a_restart_does_not_read_an_unchanged_base_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny("llama", tmp_path / "base")
    first = parent_of(str(tmp_path / "base"), record=tmp_path / "hashes.json")
    assert first == parent_of(str(tmp_path / "base"))
    monkeypatch.setattr(Digest, "of_file", lambda path: pytest.fail(f"{path} was read"))
    assert parent_of(str(tmp_path / "base"), record=tmp_path / "hashes.json") == first


def test_the_earlier_key_of_the_prompts_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokenizer in .* was renamed: write prompts instead"):
        load_job("cpt", ["tokenizer=x"])


def test_prompts_on_s3_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^prompts is s3://bucket/data/prompts, but .* pass prompts=FOLDER"):
        load_job("cpt", ["data=s3://bucket/data", "run=runs/cpt"])
