"""The row that is explained: how it is found, what is refused, and that its score is that of a benchmark."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from safetensors.torch import load_file, save_file

from brew_cluster.jobs.benchmark import BenchmarkJob, BenchmarkModel, open_model
from brew_cluster.jobs.benchmark_explain import RowChoice, prepare_explanation
from brew_data.data_folder import DataFolder
from brew_data.pipelines.requests import compile_requests
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.records import Records
from brew_eval.explanation import Explanation
from brew_eval.scored_rows import ScoredRowsInfo
from brew_eval.selection import rows_after_cut
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_serve.batch.dataset_scoring import score_table
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.logprobs import InvalidOutput
from brew_serve.engines.torch import TorchEngine
from brew_serve.ranking.scoring import Scorer
from brew_serve.version import load_version

from ...base_tokenizers import write_base_tokenizer
from ...tiny_families import write_tiny
from ..conftest import SECOND


@pytest.fixture
def model(tiny_export: Path) -> BenchmarkModel:
    return open_model(str(tiny_export), BenchmarkJob())


def job(tmp_path: Path, **fields: Any) -> BenchmarkJob:
    return BenchmarkJob(run=str(tmp_path / "run"), **{"engine": EngineConfig(kind="torch"), **fields})


def explained(job: BenchmarkJob, model: BenchmarkModel, data: DataFolder, **choice: Any) -> Explanation:
    choice = choice or {"member": "ada"}
    return prepare_explanation(job, model, data, RowChoice(**choice)).run(PlainConsole(stderr=True))


def benchmark_scores(data: DataFolder, folder: Path, *, frozen: bool = False) -> list[dict[str, Any]]:
    """Score all rows after the cut as `brew360 benchmark run` does, without Ray."""
    tables, split = data.tables(), data.info.split
    requests = compile_requests(
        Records(tables).members(tables.interactions),
        data.bundle().compiler(),
        after=split.benchmark_after,
        frozen_at=split.train_until if frozen else None,
    )
    scorer = Scorer(TorchEngine(folder), load_version(folder).compiler)
    rows: list[dict[str, Any]] = asyncio.run(score_table(scorer, requests, version=None, in_flight=8)).to_pylist()
    return rows


@pytest.mark.parametrize("protocol", ["streaming", "frozen"])
def test_the_score_is_that_of_a_benchmark(
    protocol: str, tmp_path: Path, model: BenchmarkModel, built_folder: DataFolder
) -> None:
    scores = benchmark_scores(built_folder, model.folder, frozen=protocol == "frozen")
    assert len(scores) == 4
    for row in scores:
        settings = job(tmp_path, tasks=[row["task"]], protocol=protocol)
        found = explained(settings, model, built_folder, interaction=row["interaction_id"])
        assert found.score == row["score"]
        assert found.probabilities == {pair["action"]: pair["probability"] for pair in row["probabilities"]}
        assert (found.origin["interaction"], found.origin["task"]) == (row["interaction_id"], row["task"])
        turns = sum(part.name.startswith("turn") for part in found.prompt)
        if row["task"] == "buy":
            assert turns == (3 if protocol == "frozen" else row["interaction_id"] - 1)


def test_the_newest_row_after_the_cut_is_the_default(
    tmp_path: Path, model: BenchmarkModel, built_folder: DataFolder
) -> None:
    found = explained(job(tmp_path), model, built_folder)
    assert (found.origin["interaction"], found.origin["task"], found.outcome) == (5, "buy", "viewed")
    assert found.warnings == ["Other tasks on this surface: buy_again; --task chooses one."]
    for row, interaction in enumerate((4, 5)):
        assert explained(job(tmp_path), model, built_folder, member="ada", row=row).origin["interaction"] == interaction
    info = ScoredRowsInfo(model="m", suite="shop", data_digest="d")
    rows = rows_after_cut(built_folder.tables(), built_folder.bundle().suite, built_folder.info.split, info)
    assert {found.origin["member"]} == set(rows.column("member"))
    assert "ada" not in json.dumps(found.document())


def test_a_row_that_no_benchmark_scores_is_reported_as_such(
    tmp_path: Path, model: BenchmarkModel, built_folder: DataFolder
) -> None:
    found = explained(job(tmp_path, tasks=["buy"]), model, built_folder, member="ada", interaction=0)
    assert found.warnings[:2] == [
        "The row is in the training period: the model may have been trained on it, and no benchmark scores it.",
        "The prompt shows no history, so that only fields can be removed.",
    ]
    assert {change.kind for change in found.changes} == {"profile", "entity"}
    for name, split, words in [
        ("gap", replace(built_folder.info.split, gap=2 * SECOND), "between training and benchmark"),
        ("end", replace(built_folder.info.split, until=4 * SECOND), "later than the end of the benchmark"),
    ]:
        data = DataFolder(folder=built_folder.folder, info=replace(built_folder.info, split=split))
        assert words in explained(job(tmp_path / name), model, data, interaction=5).warnings[0]


def test_an_action_that_is_not_an_outcome_has_no_label(
    tmp_path: Path, model: BenchmarkModel, built_folder: DataFolder
) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(built_folder.folder, folder)
    path = folder / "tables" / "interactions.parquet"
    rows = built_folder.tables().interactions
    actions = [*rows["action"].to_pylist()[:-1], "returned"]
    pa.parquet.write_table(rows.set_column(rows.column_names.index("action"), "action", pa.array(actions)), path)
    found = explained(job(tmp_path), model, DataFolder.open(folder), interaction=5)
    assert (found.outcome, found.origin["action"]) == (None, "returned")


def test_settings_of_a_benchmark_apply(tmp_path: Path, model: BenchmarkModel, built_folder: DataFolder) -> None:
    plain = explained(job(tmp_path, tasks=["buy"]), model, built_folder)
    policy = HistoryPolicy(surfaces=["shop"], name="round_robin", max_interactions=1)
    found = explained(job(tmp_path, tasks=["buy"], history={"buy": policy}), model, built_folder)
    assert found.origin["history"] == "streaming, round_robin"
    assert [part.name for part in found.prompt] == ["instruction", "profile", "turn 1", "candidate"]
    changed = job(tmp_path, tasks=["buy"], suite_changes=["tasks.buy.instruction=Guess."])
    assert explained(changed, model, built_folder).prompt[0].text == "<|system|>Guess."
    assert plain.prompt[0].text == "<|system|>Predict: bought, viewed only."


def test_a_base_model_is_explained(tmp_path: Path, built_folder: DataFolder) -> None:
    base, folder = tmp_path / "gemma", tmp_path / "shop"
    base.mkdir()
    write_base_tokenizer("gemma3", base)
    bundle = replace(built_folder.bundle(), tokenizer=Tokenizer.from_model(base))
    write_tiny("gemma3_text", base, vocab_size=bundle.tokenizer.vocabulary_size)
    write_base_tokenizer("gemma3", base)
    shutil.copytree(built_folder.folder, folder)
    bundle.save(folder / "prompts")
    replace(built_folder.info, prompt_digest=bundle.digest).write(folder)
    data, model = DataFolder.open(folder), open_model(str(base), BenchmarkJob())
    assert model.kind == "base"
    found = explained(job(tmp_path), model, data, interaction=4)
    [version] = (tmp_path / "run").glob("base-*")
    [row] = [row for row in benchmark_scores(data, version) if (row["interaction_id"], row["task"]) == (4, "buy")]
    assert found.score == row["score"]
    assert "<start_of_turn>" in found.prompt[-1].text


@pytest.mark.parametrize(
    ("tasks", "choice", "words"),
    [
        ([], {}, "there is nothing to explain. Pass --member ID"),
        ([], {"member": "ada", "interaction": 5, "row": 0}, "--interaction and --row exclude each other"),
        ([], {"member": "eve"}, "has no member 'eve'. Give the id of one of its members, such as '"),
        ([], {"member": "ben"}, "member 'ben' has opted out"),
        (["sell"], {"member": "ada"}, "task 'sell' is unknown; this model knows buy, buy_again"),
        ([], {"interaction": 77}, "has no interaction 77. Give a row_id of the scored rows"),
        ([], {"member": "ada", "interaction": 77}, "member 'ada' has no interaction 77. Give one of this member's"),
        (["buy"], {"interaction": 1}, "is on surface 'mail', which buy does not predict. No task predicts it"),
        (
            [],
            {"member": "ada", "row": 2},
            "2 rows after the cut on shop, but --row is 2. Give a number from 0 to 1",
        ),
    ],
)
def test_what_cannot_be_explained_is_named(
    tasks: list[str],
    choice: dict[str, Any],
    words: str,
    tmp_path: Path,
    model: BenchmarkModel,
    built_folder: DataFolder,
) -> None:
    with pytest.raises(UserError) as error:
        prepare_explanation(job(tmp_path, tasks=tasks), model, built_folder, RowChoice(**choice))
    assert words in str(error.value)


def test_a_member_without_rows_after_the_cut_is_named(
    tmp_path: Path, model: BenchmarkModel, built_folder: DataFolder
) -> None:
    split = replace(built_folder.info.split, train_until=5 * SECOND)
    data = DataFolder(folder=built_folder.folder, info=replace(built_folder.info, split=split))
    with pytest.raises(
        UserError, match=r"'ada' has no rows after the cut on shop, .* or an earlier row with --interac"
    ):
        prepare_explanation(job(tmp_path), model, data, RowChoice(member="ada"))


def test_a_frozen_history_would_show_a_row_of_the_training_period(
    tmp_path: Path, model: BenchmarkModel, built_folder: DataFolder
) -> None:
    with pytest.raises(UserError, match="in the training period, so that a frozen history would show the row itself"):
        prepare_explanation(job(tmp_path, protocol="frozen"), model, built_folder, RowChoice(interaction=3))


def test_a_version_with_other_prompts_or_none_is_refused(
    tmp_path: Path, tiny_export: Path, built_folder: DataFolder
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_export, folder)
    bundle = built_folder.bundle()
    replace(bundle, format=replace(bundle.format, head_tokens=40)).save(folder)
    other = open_model(str(folder), BenchmarkJob())
    with pytest.raises(UserError, match="suite, prompt format or tokenizer differ"):
        prepare_explanation(job(tmp_path), other, built_folder, RowChoice(member="ada"))
    (folder / "suite.json").unlink()  # of a version that lost a part of its prompts
    with pytest.raises(UserError, match=r"suite\.json"):
        prepare_explanation(job(tmp_path), other, built_folder, RowChoice(member="ada"))


def test_a_model_that_computes_nan_is_refused(tmp_path: Path, tiny_export: Path, built_folder: DataFolder) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_export, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value * float("nan") for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InvalidOutput, match="the model computed nan where a log-probability is required"):
        explained(job(tmp_path), open_model(str(folder), BenchmarkJob()), built_folder)
