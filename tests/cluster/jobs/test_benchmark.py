"""The checks of a benchmark before scoring starts, and the scores that an interrupted one keeps; without Ray."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from brew_cluster.jobs.benchmark import (
    BenchmarkJob,
    _key,
    _require_prompts,
    load_benchmark,
    open_model,
    report_path,
)
from brew_cluster.jobs.benchmark_report import make_document, write_benchmark
from brew_cluster.jobs.benchmark_scores import ScoreParts, missing_rows, score_rows
from brew_cluster.jobs.publish import publish_export
from brew_data.data_folder import DataFolder, DatasetInfo
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_data.split import Split
from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.report.files import read_evaluation
from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo
from brew_platform.errors import ConfigError, RegistryError, UserError
from brew_platform.registry.model_digest import folder_digest
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.batch.dataset_scoring import SCORES
from brew_serve.engines.config import EngineConfig

FORMAT = PromptFormat(context_length=256, head_tokens=64, question_tokens=64)


def make_rows(*ids: int) -> ScoredRows:
    columns = {
        "row_id": ids, "task": ["movie_rating"] * len(ids), "surface": ["ratings"] * len(ids),
        "member": [f"m{id_}" for id_ in ids], "time": ids, "label": [id_ % 2 == 1 for id_ in ids],
        "score": pa.array([0.1 * id_ for id_ in ids]), "history": [0] * len(ids), "is_trained": [True] * len(ids),
    }  # fmt: skip
    return ScoredRows.of(pa.table(columns), ScoredRowsInfo(model="m", suite="movielens", data_digest="d", seed=7))


ROWS = make_rows(3, 5, 8)


def make_bundle(tokenizer: Tokenizer) -> PromptBundle:
    return PromptBundle(suite=load_suite("movielens"), format=FORMAT, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def bundle() -> PromptBundle:
    return make_bundle(train_tokenizer(["a film of 1995, drama and comedy"] * 5, vocabulary_size=300))


@pytest.fixture
def export(tmp_path: Path, bundle: PromptBundle) -> Path:
    folder = tmp_path / "sft" / "export"
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "vocab_size": bundle.tokenizer.vocabulary_size, "max_position_embeddings": 256}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"weights": np.zeros((2, 3), np.float32)}, folder / "model.safetensors")
    bundle.save(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path, bundle: PromptBundle) -> DataFolder:
    folder = tmp_path / "data"
    (folder / "tables").mkdir(parents=True)
    bundle.save(folder / "prompts")
    DatasetInfo(
        source="movielens", split=Split(train_until=5, until=9), has_true_probabilities=False,
        config_digest="c" * 64, prompt_digest=bundle.digest, commit=None,
    ).write(folder)  # fmt: skip
    return DataFolder.open(folder)


def job(tmp_path: Path, **fields: Any) -> BenchmarkJob:
    return BenchmarkJob(registry_url=str(tmp_path / "registry"), cache_folder=str(tmp_path / "cache"), **fields)


def test_a_model_is_a_folder_or_a_version(tmp_path: Path, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_model(str(export), job(tmp_path))
    assert (found.kind, found.version, found.folder) == ("export", None, export)
    registry = Registry(open_store(str(tmp_path / "registry")))
    publish_export(registry, export, author="ana", gates=[])
    registry.promote(1, author="ana", force=True, reason="a test")
    for reference in ("registry:1", "registry:production", "production", "1"):
        version = open_model(reference, job(tmp_path))
        assert (version.name, version.kind, version.version) == ("registry:1", "version", 1)
        assert version.digest == found.digest == folder_digest(version.folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").symlink_to(export)  # a folder comes before a version
    assert open_model("1", job(tmp_path)).kind == "export"
    assert open_model("registry:1", job(tmp_path)).kind == "version"
    assert report_path(job(tmp_path, run="r", data="d/ml"), version) == Path("r/registry-1-ml.json")
    assert report_path(job(tmp_path, run="r", data="d/ml"), found) == Path("r/sft-export-ml.json")


def test_a_folder_without_a_model_is_refused(tmp_path: Path, export: Path) -> None:
    message = r"the folder runs/nowhere does not exist\. Pass the folder of an export or of a base"
    with pytest.raises(UserError, match=message):
        open_model("runs/nowhere", job(tmp_path))
    with pytest.raises(RegistryError, match="no alias 'nothing'"):
        open_model("nothing", job(tmp_path))
    with pytest.raises(RegistryError, match="no version 4"):
        open_model("registry:4", job(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no config\.json"):
        open_model(str(tmp_path / "empty"), job(tmp_path))
    (export / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has neither model\.safetensors nor"):
        open_model(str(export), job(tmp_path))


def test_a_model_with_other_prompts_than_the_data_is_refused(
    tmp_path: Path, export: Path, data: DataFolder, bundle: PromptBundle
) -> None:
    _require_prompts(open_model(str(export), job(tmp_path)), bundle, data)
    replace(bundle, format=replace(FORMAT, head_tokens=32)).save(export)
    with pytest.raises(UserError, match=r"was trained with the prompts .* suite, prompt format or tokenizer differ"):
        _require_prompts(open_model(str(export), job(tmp_path)), bundle, data)
    for name in ("suite.json", "prompt.json"):
        (export / name).unlink()
    base = open_model(str(export), job(tmp_path))
    assert base.kind == "base"
    with pytest.raises(UserError, match="has another tokenizer than the data"):
        _require_prompts(base, bundle, data)


def test_unfinished_scores_are_kept_and_only_the_others_aremissing_rows(tmp_path: Path) -> None:
    parts = ScoreParts(tmp_path / "scores")
    assert parts.read().num_rows == 0
    for id_, seconds in ((5, 2.0), (3, 1.5)):
        row = {"interaction_id": id_, "task": "movie_rating", "score": 0.5, "probabilities": [], "version": None}
        parts.append(pa.Table.from_pylist([row], schema=SCORES), seconds)
    again = ScoreParts(tmp_path / "scores")
    assert again.read()["interaction_id"].to_pylist() == [5, 3]
    assert again.seconds == 3.5
    assert {task: ids.tolist() for task, ids in missing_rows(ROWS, again.read()).items()} == {"movie_rating": [8]}
    again.remove()
    assert not (tmp_path / "scores").exists()


def test_an_interrupted_scoring_is_continued_with_the_missing_rows(
    tmp_path: Path, data: DataFolder, bundle: PromptBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[dict[str, list[int]]] = []

    class Scores:
        """Stands for Ray's dataset: one batch per row, and an interruption after the first, once."""

        def __init__(self, ids: list[int]) -> None:
            self.ids = ids

        def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
            for place, id_ in enumerate(self.ids):
                if place == 1 and len(requested) == 1:
                    raise KeyboardInterrupt
                row = {"interaction_id": id_, "task": "movie_rating", "score": id_ / 10, "probabilities": []}
                yield pa.Table.from_pylist([{**row, "version": None}], schema=SCORES)

    def build(*_: Any, only: dict[str, np.ndarray], frozen_at: int | None) -> list[int]:
        requested.append({task: ids.tolist() for task, ids in only.items()})
        return [id_ for ids in only.values() for id_ in ids.tolist()]

    monkeypatch.setattr("brew_cluster.jobs.benchmark_scores.build_requests", build)
    monkeypatch.setattr("brew_cluster.jobs.benchmark_scores.score_requests", lambda ids, *_, **__: Scores(ids))
    arguments = (data, bundle, ROWS, tmp_path, EngineConfig())
    with pytest.raises(KeyboardInterrupt):
        score_rows(*arguments, parts=ScoreParts(tmp_path / "scores"))
    progress: list[int] = []
    parts = ScoreParts(tmp_path / "scores")
    scored = score_rows(*arguments, parts=parts, on_progress=progress.append)
    assert requested == [{"movie_rating": [3, 5, 8]}, {"movie_rating": [5, 8]}]
    assert scored["interaction_id"].to_pylist() == [3, 5, 8]
    assert scored["score"].to_pylist() == [0.3, 0.5, 0.8]
    assert progress == [2, 3]
    assert parts.read().num_rows == 3


def test_scores_are_continued_for_the_same_model_rows_and_numbers_only(
    tmp_path: Path, export: Path, bundle: PromptBundle
) -> None:
    model = open_model(str(export), job(tmp_path))
    key = _key(job(tmp_path), model, bundle, ROWS)
    assert _key(job(tmp_path, engine=EngineConfig(threads=1)), model, bundle, ROWS) == key
    assert _key(job(tmp_path, engine=EngineConfig(dtype="bfloat16")), model, bundle, ROWS) != key
    assert _key(job(tmp_path), replace(model, digest="x"), bundle, ROWS) != key
    assert _key(job(tmp_path), model, bundle, make_rows(3, 5)) != key
    history = {"movie_rating": HistoryPolicy(surfaces=["ratings"], name="round_robin")}
    assert _key(job(tmp_path, history=history), model, bundle, ROWS) != key


def test_the_report_names_model_data_sample_and_machine(
    tmp_path: Path, export: Path, data: DataFolder, bundle: PromptBundle
) -> None:
    model = open_model(str(export), job(tmp_path))
    evaluated = evaluate(ROWS, config=EvaluationConfig(replicates=2))
    report = make_document(
        evaluated, model=model.document(), data=data, prompt_digest=bundle.digest, everything=make_rows(1, 3, 5, 8),
        rows=ROWS, per_task=3, engine=EngineConfig(), seconds={"score": 1.25}, peak_bytes=10,
    )  # fmt: skip
    write_benchmark(report, evaluated, ROWS, tmp_path / "r" / "report.json")
    assert sorted(path.suffix for path in (tmp_path / "r").iterdir()) == [".html", ".json", ".md", ".parquet"]
    assert read_evaluation(tmp_path / "r" / "report.json") == evaluated
    assert ScoredRows.read(tmp_path / "r" / "report.parquet").digest == ROWS.digest
    assert report["model"] == {"name": str(export), "kind": "export", "version": None, "digest": model.digest}
    assert report["sample"] == {
        "name": "3 of 4 rows after the cut, 3 per task, seed 7", "rows": 3, "of": 4, "per_task": 3, "seed": 7,
        "scores": 3, "history": "streaming", "rows_digest": ROWS.digest,
    }  # fmt: skip
    assert report["data"]["train_until"] == 5
    assert {"cores", "cpu", "memory_gib"} == report["machine"].keys()
    assert report["versions"].keys() >= {"python", "torch", "ray"}
    json.dumps(report, allow_nan=False)
    version = publish_export(
        Registry(open_store(str(tmp_path / "registry"))), export, author="ana", report=report, gates=[]
    )
    assert version.lineage["benchmark"]["sample"]["seed"] == 7
    assert version.metrics["movie_rating"]["auc"] == 0.0
    report["history"] = {"movie_rating": {"name": "round_robin"}}
    with pytest.raises(UserError, match="measured with other history policies for movie_rating"):
        publish_export(Registry(open_store(str(tmp_path / "registry"))), export, author="ana", report=report, gates=[])


def test_settings_come_from_recipe_options_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rows: 5\nengine: {threads: 1}\n")
    loaded = load_benchmark(tmp_path / "a.yaml", {"rows": 7, "seed": None, "data": "1: 2"}, ["seed=3"])
    assert (loaded.rows, loaded.seed, loaded.data, loaded.engine.threads) == (7, 3, "1: 2", 1)
    for override, words in [("row=3", "Did you mean rows"), ("rows=0", "rows is 0"), ("seed=-1", "seed is -1")]:
        with pytest.raises(ConfigError, match=words):
            load_benchmark(None, {}, [override])
