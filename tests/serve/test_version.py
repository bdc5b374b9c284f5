"""Version folders: written files load unchanged, and incompatible files are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_platform.calibration_map import CALIBRATION_FILE, BetaMap, CalibrationMap
from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError
from brew_serve.config import AppConfig
from brew_serve.engines.config import EngineConfig
from brew_serve.version import LoadedVersion, load_version


@pytest.fixture
def folder(version_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(version_folder, tmp_path / "version"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_written_version_is_loaded(version: LoadedVersion, suite: object) -> None:
    assert version.suite == suite
    assert version.compiler.format == PromptFormat(context_length=384, head_tokens=64, question_tokens=32)
    assert version.engine.max_model_len == 384


def write_map(folder: Path, task: str = "job_apply") -> CalibrationMap:
    tasks = {task: BetaMap(a=1.0, b=1.0, c=0.5)}
    found = CalibrationMap(model="m", tasks=tasks, unfitted={}, fitted_from=0, fitted_until=1, rows_digest="d")
    found.write(folder / CALIBRATION_FILE)
    return found


def test_the_calibration_map_of_a_version_is_loaded_and_checked(folder: Path) -> None:
    assert load_version(folder).calibration is None
    written = write_map(folder)
    assert load_version(folder).calibration == written
    write_map(folder, task="news_read")
    with pytest.raises(
        UserError, match=r"calibration\.json has a map of the task 'news_read', which the version lacks"
    ):
        load_version(folder)
    path = folder / CALIBRATION_FILE
    write_map(folder)
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(UserError, match=r"calibration\.json is not usable: .* was changed.* Publish the version again"):
        load_version(folder)


def test_explicit_settings_are_kept(version_folder: Path) -> None:
    loaded = load_version(version_folder, EngineConfig(max_model_len=300, threads=1))
    assert (loaded.engine.max_model_len, loaded.engine.threads) == (300, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("suite.json", "suite.json does not exist"),
        ("prompt.json", "prompt.json does not exist"),
        ("tokenizer.json", "tokenizer.json does not exist"),
        ("config.json", r"has no config\.json: .*publish an export of training"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=message):
        load_version(folder)


@pytest.mark.parametrize("name", ["suite.json", "prompt.json", "config.json"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text('{"half": ')
    with pytest.raises(UserError, match=f"{name} .*cannot be read"):
        load_version(folder)


def test_an_unknown_key_is_refused(folder: Path) -> None:
    edit(folder / "prompt.json", format={"context_length": 384, "contextlength": 9})
    with pytest.raises(ConfigError, match="contextlength"):
        load_version(folder)


def test_prompts_longer_than_the_models_context_are_refused(folder: Path, version: LoadedVersion) -> None:
    bundle = PromptBundle.of(version.compiler)
    replace(bundle, format=replace(bundle.format, context_length=512)).save(folder)
    with pytest.raises(UserError, match="prompts can have 512 tokens, but the model reads 384"):
        load_version(folder)


@pytest.mark.parametrize("name", ["suite.json", "prompt.json", "tokenizer.json"])
def test_files_that_were_changed_after_training_are_refused(folder: Path, name: str) -> None:
    content = json.loads((folder / name).read_text())
    if name == "suite.json":
        content["tasks"][0]["instruction"] += " Again."
    elif name == "prompt.json":
        content["format"]["question_tokens"] -= 1
    else:
        merges = content["model"]["merges"]
        merges.append(merges.pop(0))
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"was changed or comes from other data\. Copy all of them"):
        load_version(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=100)
    with pytest.raises(UserError, match="the tokenizer has .* ids, but the model has 100"):
        load_version(folder)


@pytest.mark.parametrize("sizes", [{"vocab_size": "many"}, {"vocab_size": None}, {"max_position_embeddings": [1]}])
def test_sizes_that_are_no_numbers_are_refused(folder: Path, sizes: dict[str, object]) -> None:
    edit(folder / "config.json", **sizes)
    with pytest.raises(UserError, match=r"config\.json has no usable sizes .* Publish an export of training"):
        load_version(folder)


def test_engine_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"dtype is 'int4'; give one of float32, bfloat16, float16"):
        EngineConfig(dtype="int4")


POLICY = HistoryPolicy(surfaces=["jobs"], name="similarity", keep={"skip": 0.1})


def test_a_history_policy_of_the_service_replaces_that_of_the_version(
    version_folder: Path, version: LoadedVersion
) -> None:
    settings = {"registry_url": "r", "cache_folder": "c", "history": {"job_apply": vars(POLICY)}}
    config = load_config(AppConfig, settings)
    loaded = load_version(version_folder, config.engine, config.history)
    assert loaded.suite == version.suite
    assert loaded.compiler.policy(loaded.suite.task("job_apply")) == POLICY
    other = loaded.suite.task("post_interest")
    assert loaded.compiler.policy(other) == other.history


@pytest.mark.parametrize(
    ("task", "policy", "message"),
    [
        ("mars", POLICY, "task 'mars' is unknown; this model knows job_apply, post_interest"),
        ("job_apply", HistoryPolicy(surfaces=["mars"]), "task job_apply: surfaces mars are unknown"),
        ("job_apply", HistoryPolicy(surfaces=["jobs"], keep={"eat": 1}), "history.keep names actions eat"),
    ],
)
def test_a_history_policy_that_the_version_cannot_apply_is_refused(
    version_folder: Path, task: str, policy: HistoryPolicy, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_version(version_folder, history={task: policy})
