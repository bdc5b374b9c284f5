"""`brew360 registry`: the effect of each command, and one sentence for each invalid input."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from brew_cluster.cli.main import app
from brew_cluster.jobs.lineage import Lineage
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import train_tokenizer
from brew_platform.registry.gates import Gate
from brew_platform.registry.model_digest import folder_digest
from brew_platform.registry.registry import Registry
from brew_platform.storage.local import LocalStore

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def bundle() -> PromptBundle:
    return PromptBundle(
        suite=load_suite("movielens"),
        format=PromptFormat(context_length=256, head_tokens=64, question_tokens=64),
        tokenizer=train_tokenizer(["a film of 1995, drama and comedy"] * 5, vocabulary_size=300),
    )


@pytest.fixture
def export(tmp_path: Path, bundle: PromptBundle) -> Path:
    """Write the files of an export that publishing reads; the weights are one tensor."""
    folder = tmp_path / "sft" / "export"
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "vocab_size": bundle.tokenizer.vocabulary_size, "max_position_embeddings": 256}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"weights": np.zeros((2, 3), np.float32)}, folder / "model.safetensors")
    bundle.save(folder)
    Lineage(
        parent=None, plan_hashes={"sft": "abc"}, config_digest="c" * 64, commit="d" * 40,
        gates=[Gate(figure="movie_rating.auc", at_least=0.7)],
    ).write(folder)  # fmt: skip
    return folder


@pytest.fixture
def report(export: Path, bundle: PromptBundle, tmp_path: Path) -> Callable[..., Path]:
    def write(auc: float | None = 0.75, **changes: Any) -> Path:
        path = tmp_path / "report.json"
        content = {
            "format_version": 2,
            "model": {"name": str(export), "digest": folder_digest(export)},
            "data": {"source": "movielens"},
            "prompt_digest": bundle.digest,
            "sample": {"rows": 10, "of": 10, "rows_digest": "r"},
            "tasks": {"movie_rating": {"auc": auc, "logloss": 0.5}},
        }
        path.write_text(json.dumps(content | changes))
        return path

    return write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*arguments: str, code: int = 0, url: str | None = None) -> str:
        words = ["registry", *arguments, "--registry", url or str(tmp_path / "registry")]
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return done.stdout if "--json" in arguments else done.output

    return call


def test_a_version_goes_from_its_export_to_production_and_back(
    run: Run, export: Path, report: Callable[..., Path]
) -> None:
    assert "brew360 has version 1 now" in run("publish", str(export), "--report", str(report()), "--author", "ana")
    version = json.loads(run("show", "1", "--json"))
    assert version["metrics"] == {"movie_rating": {"auc": 0.75, "logloss": 0.5}}
    assert version["lineage"]["plan_hashes"] == {"sft": "abc"}
    assert version["lineage"]["benchmark"]["rows_digest"] == "r"
    assert version["gates"] == [{"figure": "movie_rating.auc", "at_least": 0.7, "at_most": None, "min_change": None}]
    assert (version["signature"]["suite"], version["signature"]["tasks"]) == ("movielens", ["movie_rating"])
    assert version["signature"]["prompt_digest"] == json.loads((export / "prompt.json").read_text())["digest"]
    assert "production is version 1 of brew360 now (event 1: gate movie_rating.auc passed" in run("promote", "1")

    save_file({"weights": np.ones((2, 3), np.float32)}, export / "model.safetensors")
    run("publish", str(export), "--report", str(report(0.8)), "--author", "ben")
    run("promote", "2", "--author", "ben")
    table = run("list")
    assert "0.75" in table
    assert "production" in table
    differences = json.loads(run("diff", "1", "production", "--json"))
    assert [file["path"] for file in differences["files"]] == ["model.safetensors"]
    assert differences["metrics"] == [{"name": "movie_rating.auc", "before": 0.75, "after": 0.8}]
    assert "+0.05" in run("diff", "1", "2")
    assert "canary of version 1" in run("canary", "1", "--share", "0.2")
    assert "shadow of version 1" in run("shadow", "1")
    assert "production is version 1 of brew360 again" in run("rollback", "--note", "latency")
    retired = run("retire", "2", "--note", "wrong labels")
    assert "version 2 of brew360 is retired" in retired
    assert "still points to it" not in retired
    assert "version 2 of brew360 is retired" in run("promote", "2", code=1)
    events = json.loads(run("log", "--json"))
    assert [event["kind"] for event in events] == [
        "promote", "promote", "canary", "shadow", "rollback", "retire", "blocked",
    ]  # fmt: skip
    assert events[-1]["note"] == "version 2 of brew360 is retired. Promote another, or publish it again."
    assert (events[1]["author"], events[2]["share"], events[4]["note"]) == ("ben", 0.2, "latency")
    assert "20% of the traffic" in run("log")


def test_retiring_a_version_that_serves_says_so(run: Run, export: Path) -> None:
    run("publish", str(export))
    run("promote", "1", "--force", "--reason", "first")
    assert "production still points to it" in run("retire", "production")


def test_a_promotion_is_judged_and_a_forced_one_keeps_its_reason(
    run: Run, export: Path, report: Callable[..., Path], tmp_path: Path
) -> None:
    run("publish", str(export), "--report", str(report(0.6)))
    assert "gate movie_rating.auc failed (value 0.6, threshold 0.7)" in run("promote", "1", code=1)
    run("publish", str(export), "--report", str(report(None)))
    assert "gate movie_rating.auc failed (not measured, threshold 0.7)" in run("promote", "2", code=1)
    run("publish", str(export))
    assert "gate movie_rating.auc failed (not measured" in run("promote", "3", code=1)
    assert "needs a reason, which the log keeps" in run("promote", "1", "--force", code=2)
    recipe = tmp_path / "release.yaml"
    recipe.write_text("release: {gates: [{figure: movie_rating.auc, at_least: 0.55}]}")
    run("promote", "1", "--recipe", str(recipe))
    run("promote", "3", "--force", "--reason", "a [red]trial[/red]")
    events = json.loads(run("log", "--json"))
    assert [event["kind"] for event in events] == ["blocked", "blocked", "blocked", "promote", "promote"]
    assert events[-1]["force_reason"] == "a [red]trial[/red]"
    assert "forced: a [red]trial[/red]" in run("log")


def test_a_version_without_gates_needs_force(
    run: Run, export: Path, report: Callable[..., Path], tmp_path: Path
) -> None:
    (export / "lineage.json").unlink()
    output = run("publish", str(export), "--report", str(report()))
    assert "It has no gates" in output
    assert output.endswith(f"Next: brew360 registry promote 1 --registry {tmp_path / 'registry'}\n")
    assert "it has no gates, so" in run("promote", "1", code=2)
    assert json.loads(run("show", "1", "--json"))["lineage"].keys() == {"benchmark"}


def test_the_report_of_another_model_is_refused(run: Run, export: Path, report: Callable[..., Path]) -> None:
    path = report()
    save_file({"weights": np.ones((2, 3), np.float32)}, export / "model.safetensors")
    output = run("publish", str(export), "--report", str(path), code=2)
    assert "the report is of another model" in output
    assert f"Run `brew360 benchmark run {export} --data FOLDER --report FILE`" in output
    assert "is of another model" in run("publish", str(export), "--report", str(report(prompt_digest="x")), code=2)
    assert "has no version of brew360" in run("list", code=2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "cannot be read"),
        ("[]", "is not the report of a benchmark"),
        ('{"tasks": {}}', "is not the report of a benchmark"),
        ('{"model": {}, "tasks": {}, "data": {}, "sample": {}, "format_version": 9}', "reads 2 only"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused(
    run: Run, export: Path, tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    assert words in run("publish", str(export), "--report", str(path), code=2)


def test_an_incomplete_export_is_refused_and_makes_no_version(run: Run, export: Path, tmp_path: Path) -> None:
    assert "is not a folder. Pass the folder of an exported model" in run("publish", str(tmp_path / "no"), code=2)
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in run("publish", str(tmp_path / "empty"), code=2)
    weights = (export / "model.safetensors").read_bytes()
    (export / "model.safetensors").write_bytes(weights[:-4])
    assert "was cut short or damaged" in run("publish", str(export), code=2)
    (export / "model.safetensors").write_bytes(weights)
    (export / "lineage.json").write_text("{}")
    assert "lineage.json is damaged" in run("publish", str(export), code=2)
    (export / "lineage.json").unlink()
    (export / "prompt.json").unlink()
    assert "prompt.json does not exist" in run("publish", str(export), code=2)
    assert not (tmp_path / "registry").exists()


def test_gates_are_checked_when_a_version_is_published(run: Run, export: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "release.yaml"
    for text, words in [
        ("release: {gates: [{figure: movie_ratin.auc, at_least: 0.5}]}", "does not have the task 'movie_ratin'"),
        ("release: {gates: [{figure: movie_rating.auc, atleast: 0.5}]}", "Did you mean release.gates[0].at_least?"),
        ("release: {gates: []}", "names no gates"),
        ("train: {}", "names no gates"),
        ("- 1", "holds a list"),
    ]:
        recipe.write_text(text)
        assert words in run("publish", str(export), "--recipe", str(recipe), code=2).replace("contains a", "holds a")
    assert "is neither a YAML file nor a recipe that ships" in run(
        "publish", str(export), "--recipe", "nowhere", code=2
    )
    run("publish", str(export), "--recipe", "demo_movielens")
    assert json.loads(run("show", "1", "--json"))["gates"][0]["figure"] == "movie_rating.gain"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "7"], "brew360 has no version 7; the newest is 1"),
        (["show", "latest"], "brew360 has no alias 'latest'"),
        (["diff", "1", "9"], "has no version 9"),
        (["promote", "9"], "has no version 9"),
        (["rollback"], "production cannot be rolled back"),
        (["verify", "9"], "has no version 9"),
    ],
)
def test_an_unknown_version_is_named(run: Run, export: Path, arguments: list[str], words: str) -> None:
    run("publish", str(export))
    assert words in run(*arguments, code=1)


def test_a_registry_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    for command in (["list"], ["log"], ["show", "1"], ["promote", "1"], ["verify"]):
        assert "has no version of brew360. Check --registry and --model" in run(*command, code=2)
    assert "the scheme gs:// is not supported" in run("list", url="gs://bucket", code=1)
    assert "s3://bucket/a: the address has credentials" in run("list", url="s3://key:secret@bucket/a", code=1)
    (tmp_path / "file").write_text("")
    assert "error: " in run("list", url=str(tmp_path / "file"), code=2)


def test_verify_lists_damaged_files_and_fails(run: Run, export: Path, tmp_path: Path) -> None:
    run("publish", str(export))
    assert "brew360: 1 checked, nothing is missing or damaged" in run("verify")
    assert json.loads(run("verify", "1", "--json")) == []
    blob = (
        tmp_path / "registry/models/brew360/blobs/sha256" / json.loads(run("show", "1", "--json"))["files"][0]["sha256"]
    )
    blob.write_bytes(b"damaged")
    output = run("verify", code=1)
    assert "is damaged: it has 7 bytes" in output
    blob.unlink()
    [fault] = json.loads(run("verify", "--json", code=1))
    assert (fault["version"], fault["name"]) == (1, "config.json")
    assert blob.name in fault["problem"]


def test_names_from_outside_are_printed_literally(run: Run, export: Path, report: Callable[..., Path]) -> None:
    (export / "note [bold].txt").write_text("x")
    run("publish", str(export), "--report", str(report()), "--author", "[red]ana[/red] [/]")
    assert "[red]ana[/red] [/]" in run("list")
    assert "[red]ana[/red] [/]" in run("show", "1")
    assert "note [bold].txt" in run("show", "1")
    run("retire", "1", "--note", "[/] :smile:")
    assert "[/] :smile:" in run("log")
    assert "brew360 has no alias '[/x]'" in run("show", "[/x]", code=1)


def test_approvals_and_the_policy_decide_who_moves_production(run: Run, export: Path, tmp_path: Path) -> None:
    run("publish", str(export), "--author", "ana")
    assert "every alias can be moved by everyone" in run("policy")
    file = tmp_path / "policy.yaml"
    file.write_text(
        "roles: {owner: [ana], reviewer: [ben, ana]}\n"
        "aliases: {production: {move: [owner], approvals: {reviewer: 1}}}\n"
        "change: [owner]\n"
    )
    output = run("policy", str(file), "--author", "ana", "--note", "as agreed")
    assert "the policy of brew360 is replaced (event 1: as agreed)" in output
    assert "1 of reviewer" in output
    forced = ["promote", "1", "--force", "--reason", "x"]
    assert "gate role failed (dan is not owner, threshold 1)" in run(*forced, "--author", "dan", code=1)
    assert "gate approvals.reviewer failed (value 0" in run(*forced, "--author", "ana", code=1)
    assert "It does not count: ana published the version" in run("approve", "1", "--author", "ana")
    assert "It counts for no alias: no rule needs an approval of dan" in run("approve", "1", "--author", "dan")
    assert "It counts for production." in run("approve", "1", "--author", "ben")
    assert "production is version 1 of brew360 now" in run(*forced, "--author", "ana")
    assert "was not changed: ben is not owner" in run("policy", str(file), "--author", "ben", code=1)
    assert json.loads(run("policy", "--json"))["roles"] == {"owner": ["ana"], "reviewer": ["ben", "ana"]}
    file.write_text("roles: {owner: [ana]}\nalias: {}")
    assert "Did you mean aliases?" in run("policy", str(file), code=2)


def test_a_card_is_printed_or_written(run: Run, export: Path, report: Callable[..., Path], tmp_path: Path) -> None:
    run("publish", str(export), "--report", str(report()))
    run("promote", "1")
    card = run("card", "production")
    assert card.startswith("# brew360, version 1\n\nAliases: production.\n")
    assert "| movie\\_rating | 0.75 | 0.5 |\n" in card
    run("card", "1", "--out", str(tmp_path / "cards" / "one.md"))
    assert (tmp_path / "cards" / "one.md").read_text() == card
    assert "brew360-1.md" in run("card", "--out", str(tmp_path / "all"))
    assert (tmp_path / "all" / "brew360-1.md").read_text() == card
    assert "name a version, or the folder for the cards of all versions" in run("card", code=2)


def test_versions_are_copied_and_the_command_can_be_repeated(run: Run, export: Path, tmp_path: Path) -> None:
    for _ in range(2):
        run("publish", str(export))
    other = str(tmp_path / "other")
    assert f"version 2 is version 1 of ranker in {other}" in run("copy", "2", "--to", other, "--to-model", "ranker")
    assert json.loads(run("copy", "--to", other, "--json")) == {"1": 1, "2": 2}
    assert json.loads(run("copy", "--to", other, "--json")) == {"1": 1, "2": 2}
    assert json.loads(run("show", "2", "--json", url=other))["lineage"]["copied_from"]["version"] == 2
    assert "nothing is missing or damaged" in run("verify", url=other)


def test_garbage_of_retired_versions_is_removed(run: Run, export: Path, tmp_path: Path) -> None:
    run("publish", str(export))
    save_file({"weights": np.ones((2, 3), np.float32)}, export / "model.safetensors")
    run("publish", str(export))
    run("retire", "1")
    assert re.search(r"1 +│ retired at", run("gc"))
    assert "the files of version 1 would be removed" in run("gc", "--older-than", "0s", "--dry-run")
    output = run("gc", "--older-than", "0s")
    assert "the files of version 1 are removed" in output
    assert re.search(r"^1 file, \d+ B, removed$", output, re.MULTILINE)
    assert "files removed" in run("list")
    assert json.loads(run("gc", "--older-than", "0s", "--json"))["blobs"] == []
    assert "version 1 was left out: garbage collection has removed its files" in run(
        "copy", "--to", str(tmp_path / "b")
    )
    assert "nothing is missing or damaged" in run("verify")
    assert "is not a duration; give a number with s, m, h, d or w" in run("gc", "--older-than", "soon", code=2)


def test_a_repeated_publication_and_a_second_promotion(run: Run, export: Path, report: Callable[..., Path]) -> None:
    for _ in range(2):
        run("publish", str(export), "--report", str(report()), "--publication", "nightly")
    run("publish", str(export), "--report", str(report()))
    assert [version["number"] for version in json.loads(run("list", "--json"))["versions"]] == [1, 2]
    run("promote", "1")
    assert "production points to version 1, not to version 2" in run("promote", "2", "--replaces", "2", code=1)
    run("promote", "2", "--replaces", "1")


def test_a_check_judges_without_moving_the_alias(
    run: Run, export: Path, report: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "version.json"
    run("publish", str(export), "--report", str(report()), "--out", str(out))
    assert json.loads(out.read_text())["number"] == 1
    run("publish", str(export), "--report", str(report(auc=0.6)))
    assert "version 1 of brew360 can be promoted to production (event 1: gate movie_rating.auc passed" in run(
        "check", "1"
    )
    assert "gate movie_rating.auc failed (value 0.6, threshold 0.7)" in run("check", "2", code=1)
    assert [event["kind"] for event in json.loads(run("log", "--json"))] == ["tag", "blocked"]
    assert json.loads(run("list", "--json"))["aliases"] == {}
    run("promote", "1")
    assert json.loads(run("check", "1", "--alias", "staging", "--json"))["alias"] == "staging"
    assert json.loads(run("list", "--json"))["aliases"] == {"production": 1}


def test_a_pickle_in_an_export_is_refused(run: Run, export: Path) -> None:
    (export / "optimizer.pt").write_bytes(b"x")
    assert "optimizer.pt: it is a pickle, which runs code when it is loaded" in run("publish", str(export), code=2)


def test_the_lineage_names_the_parent_version_and_the_data_set(run: Run, export: Path, tmp_path: Path) -> None:
    run("publish", str(export))
    lineage = Lineage.read(export)
    assert lineage is not None
    parent = {"folder": "cpt/export", "digest": folder_digest(export), "lineage": None}
    replace(lineage, parent=parent).write(export)
    data = tmp_path / "data"
    data.mkdir()
    (data / "bins").write_text("x")
    datasets = Registry(LocalStore(tmp_path / "registry"), section="datasets")
    datasets.publish(data, signature={}, lineage={}, metrics={"bins": {"train": {"plan_hash": "abc"}}}, author="ana")
    run("publish", str(export))
    found = json.loads(run("show", "2", "--json"))["lineage"]
    assert found["parent_version"] == 1
    assert found["datasets"] == {"sft": {"name": "brew360", "version": 1}}
