"""`brew360 data inspect`, `card`, and the commands of published versions; and one sentence for each invalid input."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from brew_cluster.cli.main import app
from brew_data.data_folder import DataFolder

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*arguments: str, code: int = 0) -> str:
        env = {"COLUMNS": "200", "BREW360_REGISTRY": str(tmp_path / "registry")}
        done = CliRunner(env=env).invoke(app, ["data", *arguments])
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return done.stdout if "--json" in arguments else done.output

    return call


@pytest.fixture
def folder(built_folder: DataFolder, tmp_path: Path) -> Path:
    """A copy of the data folder, with a log."""
    copy = tmp_path / "shop"
    shutil.copytree(built_folder.folder, copy)
    (copy / "logs").mkdir()
    (copy / "logs" / "data.log").write_text("of this machine")
    return copy


def test_inspect_shows_documents_and_prompts(run: Run, built_folder: DataFolder) -> None:
    data = str(built_folder.folder)
    assert "document 0 of bin 0 of bins: " in run("inspect", data)
    assert run("inspect", data, "--bin", "0") == run("inspect", data)
    [document] = json.loads(run("inspect", data, "--document", "0", "--json"))
    assert [part["name"] for part in document["parts"]][:3] == ["instruction", "profile", "turn 1"]
    assert document["parts"][0]["tokens"][0] == {"id": 2, "text": "<|system|>", "is_control": True, "has_loss": False}
    output = run("inspect", data, "--member", "ada", "--task", "buy", "--interaction", "4")
    assert "prompt of task buy for interaction 4 of member ada" in output
    assert "training document 1 of 1 of member ada" in run("inspect", data, "--member", "ada")
    changes = ["--policy", "name=similarity", "--policy", "deduplicate=true"]
    output = run("inspect", data, "--member", "ada", "--task", "buy", *changes)
    assert "similarity, choice 1: viewed on shop" in output
    assert "left out: 1 interaction: its entity is shown by another interaction (deduplicate)" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--member", "ada", "--bin", "0"], "--member, --bin and --document exclude each other"),
        (["--task", "buy"], "--task needs --member"),
        (["--member", "ada", "--interaction", "1"], "--interaction and --policy need --task"),
        (["--member", "ada", "--policy", "name=similarity"], "--interaction and --policy need --task"),
        (["--member", "ada", "--task", "buy", "--policy", "nam=x"], "Did you mean policy.name"),
        (["--bin", "7"], "has no bin 7. Give a number from 0 to 0"),
        (["--bins", "pairs"], "has no bins 'pairs'. Give one of: bins"),
        (["--member", "[/]"], "has no member '[/]'"),
    ],
)
def test_what_inspect_cannot_show_is_one_sentence(
    run: Run, built_folder: DataFolder, arguments: list[str], words: str
) -> None:
    output = run("inspect", str(built_folder.folder), *arguments, code=2)
    assert words in output
    assert output.startswith("error: ")


def test_the_card_is_printed(run: Run, folder: Path) -> None:
    output = run("card", str(folder))
    assert "6 interactions from 1970-01-01T00:00:00+00:00 to 1970-01-01T00:00:05+00:00" in output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
    assert ["buy", "shop", "yes", "chronological", "3", "66.7%", "2", "0.0%"] in rows
    assert ["buy_again", "shop", "no", "round_robin", "3", "66.7%", "2", "0.0%"] in rows
    assert ["shop", "viewed", "3"] in rows
    assert json.loads(run("card", str(folder), "--json"))["members_opted_out"] == 1
    (folder / "card.json").unlink()
    assert "card.json cannot be read" in run("card", str(folder), code=2)


def test_a_version_is_published_once_and_fetched_as_it_is(run: Run, folder: Path, tmp_path: Path) -> None:
    version = json.loads(run("publish", str(folder), "--author", "ana", "--json"))
    digest = DataFolder.open(folder).info.digest
    assert (version["number"], version["signature"]["digest"], version["author"]) == (1, digest, "ana")
    assert version["lineage"]["config"]["source"] == "tables"
    assert version["metrics"]["bins"]["bins"]["n_documents"] == 1
    assert "has the content of version 1 of brew360" in run("publish", str(folder))
    fetched = Path(run("fetch", "1", "--into", str(tmp_path / "fetched")).strip())
    assert DataFolder.open(fetched).info.digest == digest
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(fetched) for path in fetched.rglob("*") if path.is_file()} == {
        name for name in names if name.parts[0] != "logs"
    }
    assert (fetched / "bins/plan.json").read_bytes() == (folder / "bins/plan.json").read_bytes()


def test_a_version_names_the_version_that_it_continues(run: Run, folder: Path) -> None:
    run("publish", str(folder), "--author", "[red]ana[/red]")
    info = DataFolder.open(folder).info
    (folder / "tables" / "further.parquet").write_bytes(b"of another day")
    replace(info, appended_to=info.digest).write(folder)
    run("publish", str(folder))
    versions = json.loads(run("list", "--json"))
    assert [version["lineage"]["parent"] for version in versions] == [None, 1]
    assert "[red]ana[/red]" in run("list")
    assert info.digest[:12] in run("show", "2")
    assert "has no version 9; the newest is 2" in run("show", "9", code=1)


def test_damaged_files_are_not_published_and_damaged_blobs_are_listed(run: Run, folder: Path, tmp_path: Path) -> None:
    bins = folder / "bins/bins-000000.parquet"
    content = bins.read_bytes()
    bins.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "was replaced or damaged" in run("publish", str(folder), code=2)
    table = folder / "tables/members.parquet"
    members = table.read_bytes()
    bins.write_bytes(content)
    table.write_bytes(members + b"changed")
    assert "a table or a plan was changed after the build" in run("publish", str(folder), code=2)
    assert "has no version of the data set brew360. Check --registry and --dataset" in run("list", code=2)
    table.write_bytes(members)
    version = json.loads(run("publish", str(folder), "--json"))
    assert "brew360: 1 checked, nothing is missing or damaged" in run("verify")
    blob = tmp_path / "registry/datasets/brew360/blobs/sha256" / version["files"][0]["sha256"]
    blob.write_bytes(b"damaged")
    assert json.loads(run("verify", "1", "--json", code=1))[0]["name"] == version["files"][0]["path"]


def test_data_and_models_of_one_name_are_kept_apart(run: Run, folder: Path, tmp_path: Path) -> None:
    run("publish", str(folder))
    done = CliRunner().invoke(app, ["registry", "list", "--registry", str(tmp_path / "registry")])
    assert done.exit_code == 2
    assert "has no version of brew360" in done.output
